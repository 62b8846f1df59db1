"""``vitrine train``: data, recipe and model joined into a run folder."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from vitrine.data.loading import Batch, PictureLoader, batch_count
from vitrine.data.samples import Sample
from vitrine.data.transforms import TrainTransform
from vitrine.errors import RunError
from vitrine.evaluate.metrics import classification_metrics
from vitrine.evaluate.outputs import Outputs
from vitrine.evaluate.predictions import predictions_csv
from vitrine.models.build import open_run, require_available, width_of
from vitrine.models.precision import resolve_precision
from vitrine.models.run_folder import RunFolder, to_json
from vitrine.models.tuning import select_trainable, without_adapters
from vitrine.recipes import Recipe
from vitrine.results import ClassificationMetrics
from vitrine.torchpair import require_torchvision
from vitrine.train.checkpoint import delete_checkpoint, load_checkpoint, save_checkpoint
from vitrine.train.fit import EpochDone, StepDone, Training, fit, restore, state_of
from vitrine.train.objective import Classification
from vitrine.train.optimizer import make_optimizer, make_schedule
from vitrine.workflows.environment import describe_environment, peak_memory_mib
from vitrine.workflows.inference import collect, eval_batches, run_batches
from vitrine.workflows.recipe_model import build_for, input_of
from vitrine.workflows.training_data import TrainingData, names_of, prepare_data, require_same_data
from vitrine.workflows.training_events import Best, EpochRow, Event, Plan, Reading, TrainResult

require_torchvision()

from timm.utils import ModelEmaV3  # noqa: E402

_KEPT_VALIDATION_BYTES = 1 << 30  # decoded validation pictures are kept between epochs up to here


def train(
    reference: str, recipe: Recipe, out: Path, *, resume: bool = False, report: Callable[[Event], None] = lambda _: None
) -> TrainResult:
    """Train a classifier into a run folder.

    Args:
        reference: the data (see ``vitrine.data.sources.open_data``).
        recipe: every setting.
        out: the run folder; new, or with ``resume`` one that a stopped training left.
        resume: continue to the result that the stopped training would have reached.
        report: called with every event; what it shows is the caller's business.

    Raises:
        DataError, ModelError, RecipeError: the input cannot be used; nothing was written but the folder.
        RunError: the folder holds a run already, is in use, or does not fit the recipe or data.
        TrainingError: the loss was not finite.
    """
    run = RunFolder(out)
    with run.locked():
        _check_folder(run, recipe, resume)
        if not run.finished:
            require_available(recipe.model, recipe.pretrained)  # before pictures are read, which can take long
            data = prepare_data(reference, recipe, lambda done, total: report(Reading(done, total)))
            _Session(run, recipe, data, report).train()
        return _result(run)


def _check_folder(run: RunFolder, recipe: Recipe, resume: bool) -> None:
    if not run.started:
        return
    if not resume:
        raise RunError(f"{run.path} holds a run already. Continue it with --resume, or choose another -o.")
    before = run.recipe()
    changed = [f.name for f in fields(Recipe) if getattr(before, f.name) != getattr(recipe, f.name)]
    if changed:
        pairs = ", ".join(
            f"{name} was {getattr(before, name)!r}, now {getattr(recipe, name)!r}" for name in changed[:3]
        )
        raise RunError(
            f"{run.path} was begun with another recipe: {pairs}.\nResume without changes, or train a new run."
        )


def _result(run: RunFolder) -> TrainResult:
    content = json.loads((run.path / "metrics.json").read_text("utf-8"))
    rows = run.history()
    best = [row["epoch"] for row in rows if row["best"]][-1]
    return TrainResult(run.path, best, len(rows), ClassificationMetrics.from_dict(content))


class _Session:
    """One process's work on a run: everything is built in ``__init__``, ``train`` runs it to its end."""

    def __init__(self, run: RunFolder, recipe: Recipe, data: TrainingData, report: Callable[[Event], None]) -> None:
        self.run, self.recipe, self.data, self.report = run, recipe, data, report
        AcceleratorState._reset_state(reset_partial_state=True)  # a process may train more than once
        trackers = [name.strip() for name in recipe.trackers.split(",") if name.strip()]
        self.accelerator = Accelerator(log_with=trackers or None, project_dir=str(run.path))
        torch.manual_seed(recipe.seed)
        self.built = build_for(recipe, len(data.found.labels))
        self.spec = input_of(self.built, recipe)
        self.precision = resolve_precision(recipe.precision, self.accelerator.device, width_of(self.built.module))
        self.training = self._assemble()
        self.best = Best()
        self._validation: list[Batch] | None = None
        if trackers:
            self.accelerator.init_trackers("vitrine", config=_flat(recipe))

    def _assemble(self) -> Training:
        recipe = self.recipe
        torch.manual_seed(recipe.seed + 1)  # adapters draw here whatever building the model drew
        module = select_trainable(self.built.module, recipe.tune).to(self.accelerator.device)
        ema = ModelEmaV3(module, decay=recipe.ema, use_warmup=True) if recipe.ema else None
        optimizer = make_optimizer(module, recipe)
        if recipe.compile:
            module.compile()
        module, optimizer = self.accelerator.prepare(module, optimizer)
        schedule = make_schedule(optimizer, recipe, self.steps_per_epoch)
        return Training(module, optimizer, schedule, ema, self.accelerator, self.precision)

    @property
    def epoch_pictures(self) -> int:
        """Pictures in one pass."""
        return self.recipe.epoch_size if self.data.train.endless else len(self.data.train)

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in one pass; a last, smaller one counts."""
        return -(-batch_count(self.epoch_pictures, self.recipe.batch_size) // self.recipe.accumulate)

    def train(self) -> None:
        self._start_or_restore()
        recipe, spec = self.recipe, self.spec
        objective = Classification(recipe, len(self.data.found.labels), spec.mean, spec.std, self.accelerator.device)
        self.report(self._plan())
        with PictureLoader(TrainTransform(recipe.transforms, spec.size), recipe.batch_size, recipe.workers) as loader:
            events = fit(self.training, objective, recipe, lambda e, b: self._batches(loader, e, b), self._names)
            self._follow(events)
        self._finish()

    def _batches(self, loader: PictureLoader, epoch: int, start: int) -> Iterator[Batch]:
        return loader.epoch(self._samples(epoch), seed=self.recipe.seed, epoch=epoch, shuffle=True, start_batch=start)

    def _samples(self, epoch: int) -> Any:
        return self.data.train.for_epoch(epoch, self.recipe.epoch_size)

    def _names(self, epoch: int, batch: Batch) -> list[str]:
        return names_of(self._samples(epoch), batch.indices_B.tolist())

    def _start_or_restore(self) -> None:
        run, state = self.run, None
        if run.started:
            require_same_data(json.loads((run.path / "data.json").read_text("utf-8")), self.data.record)
            state = load_checkpoint(run.path)
        if state is None:
            run.start(self.recipe, self.data.found.labels, self.data.record, self._environment())
        else:
            self.best = Best(**state.pop("best"))
            restore(self.training, state)
            run.truncate_history(self.training.progress.epoch)

    def _environment(self) -> dict[str, Any]:
        weights = self.built.weights
        origin = (
            None
            if weights is None
            else {"origin": weights.origin, "path": str(weights.path.absolute()), "sha256": weights.sha256}
        )
        environment = describe_environment(self.accelerator.device)
        return environment | {"precision": self.precision, "seed": self.recipe.seed, "starting_weights": origin}

    def _plan(self) -> Plan:
        module = self.accelerator.unwrap_model(self.training.module)
        sizes = [(p.numel(), p.requires_grad) for p in module.parameters()]
        weights = self.built.weights
        came_from = (
            "Random starting weights." if weights is None else f"Starting weights: {weights.path} ({weights.origin})."
        )
        return Plan(
            train_pictures=self.epoch_pictures,
            validation_pictures=len(self.data.validation),
            classes=len(self.data.found.labels),
            quarantined=tuple(f"{row['name']}: {row['reason']}" for row in self.data.quarantined),
            parameters=sum(size for size, _ in sizes),
            trainable=sum(size for size, trained in sizes if trained),
            device=self.accelerator.device.type,
            precision=self.precision,
            steps_per_epoch=self.steps_per_epoch,
            epochs=self.recipe.epochs,
            first_step=self.training.progress.step,
            notes=(*self.data.found.notes, came_from, *self.built.notes),
        )

    def _follow(self, events: Iterator[StepDone | EpochDone]) -> None:
        """Save, report and stop early, as the loop's events come."""
        began = saved = time.monotonic()
        pictures = 0
        if self._stopped_early():
            return
        for event in events:
            if isinstance(event, StepDone):
                pictures += event.pictures
                self.report(event)
                if time.monotonic() - saved > 60 * self.recipe.checkpoint_minutes:
                    self._save_state()
                    saved = time.monotonic()
                continue
            trained = time.monotonic()
            row = self._close_epoch(event)
            seconds = {"train_seconds": round(trained - began, 3), "pictures": pictures}
            seconds |= {"pictures_per_second": round(pictures / max(1e-9, trained - began), 2)}
            seconds |= {"evaluation_seconds": round(time.monotonic() - trained, 3)}
            self.run.append(
                "timings.jsonl", {"epoch": row.epoch, **seconds, "peak_memory_mib": round(peak_memory_mib())}
            )
            self._save_state()
            self.report(row)
            if self._stopped_early():
                return
            began, saved, pictures = time.monotonic(), time.monotonic(), 0

    def _stopped_early(self) -> bool:
        return 0 < self.recipe.early_stopping <= self.best.stale

    def _close_epoch(self, event: EpochDone) -> EpochRow:
        metrics = self._evaluate(self.training.evaluated)
        loss, accuracy = metrics.negative_log_likelihood, metrics.accuracy
        best = self.best.improves(event.epoch + 1, accuracy, loss)
        if best:
            module = without_adapters(self.training.evaluated)
            self.run.save_model(module, self.data.found.labels, self.spec)
        row = EpochRow(
            event.epoch + 1,
            event.step,
            event.learning_rate,
            event.train_loss,
            event.train_accuracy,
            loss,
            accuracy,
            best,
        )
        self.run.append("history.jsonl", asdict(row))
        if self.recipe.trackers:
            values = {name: value for name, value in asdict(row).items() if isinstance(value, float)}
            self.accelerator.log(values, step=row.step)
        return row

    def _save_state(self) -> None:
        save_checkpoint(self.run.path, state_of(self.training) | {"best": vars(self.best).copy()})

    def _evaluate(self, module: torch.nn.Module) -> ClassificationMetrics:
        return classification_metrics(self._outputs(module), self.data.found.labels, precision=self.precision)

    def _outputs(self, module: torch.nn.Module) -> Outputs:
        samples, device = self.data.validation, self.accelerator.device
        results = run_batches(
            module, self._validation_batches(samples), self.spec, device=device, precision=self.precision
        )
        return collect(samples, results)

    def _validation_batches(self, samples: tuple[Sample, ...]) -> Iterator[Batch]:
        size = max(32, self.recipe.batch_size)
        if len(samples) * 3 * self.spec.size**2 > _KEPT_VALIDATION_BYTES:
            return eval_batches(samples, self.spec, batch_size=size, workers=self.recipe.workers)
        if self._validation is None:
            self._validation = list(eval_batches(samples, self.spec, batch_size=size, workers=self.recipe.workers))
        return iter(self._validation)

    def _finish(self) -> None:
        """Evaluate the best weights as they were written, and close the run; metrics.json comes last."""
        module = open_run(self.run.path).module.to(self.accelerator.device)
        outputs = self._outputs(module)
        metrics = classification_metrics(outputs, self.data.found.labels, precision=self.precision)
        self.run.write("predictions.csv", predictions_csv(outputs, self.data.found.labels))
        delete_checkpoint(self.run.path)
        self.run.write("metrics.json", to_json(metrics.to_dict()))
        if self.recipe.trackers:
            self.accelerator.end_training()


def _flat(recipe: Recipe) -> dict[str, Any]:
    return {f.name: str(getattr(recipe, f.name)) for f in fields(Recipe)}
