"""The trainer: builds a training, resumes it, saves what the loop yields, and finishes the run folder."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState
from timm.utils import ModelEmaV3
from torch import nn

from vitrine.config import Recipe
from vitrine.config.recipe_rules import Choice
from vitrine.data.batch_plan import batch_count
from vitrine.data.class_names import RUN_FILE, names_csv
from vitrine.io.files import file_sha256, to_json
from vitrine.io.hub_cache import changed_sentence
from vitrine.models.precision import resolve_precision
from vitrine.results import and_n_more
from vitrine.runs.checkpoint import delete_checkpoint, load_checkpoint, save_checkpoint
from vitrine.runs.data import WORKING_FOLDER
from vitrine.runs.environment import WEIGHTS_SHA256, describe_environment, peak_memory_mib, starting_weights_note
from vitrine.runs.folder import RunFolder
from vitrine.runs.model_card import write_model_card
from vitrine.runs.setting_changes import changes_sentence, record_changes
from vitrine.train.automatic import save_choices
from vitrine.train.data import CLASS_NUMBERS, require_same_data
from vitrine.train.distributed import ProcessGroup, partial_state_arguments
from vitrine.train.estimate import Estimate, StepMeter, estimate
from vitrine.train.events import Best, EpochRow, Event, Plan
from vitrine.train.loop import EpochDone, StepDone, TrainingState, fit
from vitrine.train.optimizer import make_schedule
from vitrine.train.settings import LoopSettings, ScheduleSettings, TrainerSettings
from vitrine.train.task import RuntimeConfig, Task

if TYPE_CHECKING:
    from vitrine.train.fsdp import FSDPModel


class Trainer:
    """Trains one run from wherever it is to its end; everything is built when this is made.

    Of several processes that train together, the main one writes the run and reports.

    Args:
        run: the run folder.
        recipe: which the run records; the trainer and the loop read their settings of it.
        make_task: makes the model with its data, once random numbers are seeded.
        report: called with every event.
        processes: that train together.
        choices: what rules chose of the recipe; the run keeps them.
    """

    def __init__(
        self,
        run: RunFolder,
        recipe: Recipe,
        make_task: Callable[[], Task],
        report: Callable[[Event], None],
        processes: ProcessGroup,
        choices: Sequence[Choice] = (),
    ) -> None:
        self.choices = tuple(choices)
        self.run, self.recipe, self.report, self.processes = run, recipe, report, processes
        self.settings, self.loop = TrainerSettings.from_recipe(recipe), LoopSettings.from_recipe(recipe)
        self.accelerator = self._make_accelerator()
        torch.manual_seed(self.settings.seed)
        self.task = make_task()
        device = self.accelerator.device
        precision = resolve_precision(self.settings.precision, device, self.task.width)
        self.runtime = RuntimeConfig(device, precision, processes)
        batches = batch_count(self.task.epoch_pictures, recipe.batch_size)
        self.steps_per_epoch = -(-batches // self.loop.accumulate)  # a last, smaller step counts
        self.training = self._build()
        self.best = Best()
        self._weights_note: str | None = None
        self._notes: list[str] = []

    def _make_accelerator(self) -> Accelerator:
        AcceleratorState._reset_state(reset_partial_state=True)  # a process may train more than once
        # Buffers never change in training; a captioner's image encoder may have parts that its features do not need.
        ddp = DistributedDataParallelKwargs(
            broadcast_buffers=False, find_unused_parameters=self.recipe.caption is not None
        )
        return Accelerator(
            log_with=self.settings.tracker_names or None,
            project_dir=str(self.run.path),
            kwargs_handlers=[ddp],
            **partial_state_arguments(),
        )

    def _build(self) -> TrainingState:
        """The module, wrapped for the processes that train it, with its optimizer, schedule and moving average."""
        settings = self.settings
        torch.manual_seed(settings.seed + 1)  # adapters draw here whatever building the model drew
        module = self.task.trainable().to(self.accelerator.device)
        ema = ModelEmaV3(module, decay=settings.ema, use_warmup=True) if settings.ema else None
        fsdp = self._shard(module) if self.processes.uses_fsdp else None
        optimizer = self.task.optimizer(module)
        if fsdp is None:
            if settings.compile:
                module.compile()
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", ".*broadcast_buffers", FutureWarning)  # older torch has no other name
                module, optimizer = self.accelerator.prepare(module, optimizer)
        return TrainingState(
            module,
            optimizer,
            make_schedule(optimizer, ScheduleSettings.from_recipe(self.recipe), self.steps_per_epoch),
            ema,
            self.accelerator,
            self.runtime.precision,
            processes=self.processes,
            fsdp=fsdp,
        )

    def _shard(self, module: nn.Module) -> FSDPModel:
        from vitrine.train.fsdp import (
            FSDPModel,  # only where it is used: it needs a part of torch that some builds lack
        )

        blocks: Any = module.blocks
        return FSDPModel(module, blocks, self.processes.count)

    def train(self) -> None:
        """Train to the last epoch, from wherever the run is, and finish the run."""
        self._start_or_resume()
        if self.settings.tracker_names:
            self.accelerator.init_trackers("vitrine", config=_as_text(self.recipe))
        objective = self.task.objective(self.runtime.device)
        self.report(self._plan())
        with self.task.batches(self.runtime) as batches:
            self._handle_events(fit(self.training, objective, self.loop, batches, self.task.names))
        if self.processes.is_main:
            self._finalize()

    def measure(self) -> tuple[Plan, Estimate]:
        """Take a few steps in memory, and say what a whole training would take; nothing is written."""
        objective, meter, plan = self.task.objective(self.runtime.device), StepMeter(), self._plan()
        self.report(plan)
        with self.task.batches(self.runtime) as batches:
            for event in fit(self.training, objective, self.loop, batches, self.task.names):
                if not isinstance(event, StepDone):
                    continue
                meter.add(event)
                self.report(event)
                if self.processes.broadcast_from_main(lambda: meter.is_done):
                    break
        return plan, self._estimate(meter)

    def _estimate(self, meter: StepMeter) -> Estimate:
        module, progress = self.accelerator.unwrap_model(self.training.module), self.training.progress
        whole_epochs = self.loop.epochs - progress.epoch
        return estimate(
            self.training,
            meter,
            self.run.path,
            parameters=self.task.frozen_parameters + sum(each.numel() for each in module.parameters()),
            train_pictures=max(0, whole_epochs * self.task.epoch_pictures - progress.batch * self.recipe.batch_size),
            evaluated_pictures=whole_epochs * self.task.validation_pictures,
        )

    def _finalize(self) -> None:
        """Write what a finished run has: metrics.json, which says that it is finished, after everything else."""
        weights_hash = {WEIGHTS_SHA256: file_sha256(self.run.path / "model.safetensors")}
        metrics = self.task.finalize(self.run, self.runtime) | weights_hash
        write_model_card(self.run.path, metrics)
        self.run.write("metrics.json", to_json(metrics))
        delete_checkpoint(self.run.path)
        for tracker in self.accelerator.trackers:  # accelerate's own end would disconnect processes
            tracker.finish()

    def _start_or_resume(self) -> None:
        state = self.processes.broadcast_from_main(self._load_checkpoint)
        if state is not None:
            self.best = Best(**state.pop("best"))
            self.training.load_state_dict(state)
        if not self.processes.is_main:
            return
        if state is None:
            numbers = self.task.data_record.get(CLASS_NUMBERS)
            if numbers:
                self.run.path.mkdir(parents=True, exist_ok=True)
                self.run.write(RUN_FILE, names_csv(numbers))
            save_choices(self.run, self.choices)
            self.run.start(self.recipe, self.task.labels, self.task.data_record, self._environment())
            if paths := self.task.draw_preview(self.run.path / "figures"):
                self._notes.append(f"What the model will be fed: look at {and_n_more([str(path) for path in paths])}.")
        else:
            self.run.truncate_history(self.training.progress.epoch)
            self._record_changes()

    def _record_changes(self) -> None:
        """Write into the run which settings it goes on with that it did not begin with."""
        progress = self.training.progress
        changes = record_changes(self.run, self.recipe, progress.step, progress.epoch)
        if any(each.field == "precision" for each in changes):
            environment = {**self.run.read_environment(), "precision": self.runtime.precision}
            self.run.write("environment.json", to_json(environment))
        if changes:
            self._notes.append(changes_sentence(changes))

    def _load_checkpoint(self) -> dict[str, Any] | None:
        """The checkpoint of a run that was started; None where there is none."""
        run = self.run
        if not run.is_started:
            return None
        require_same_data(run.read_data(), self.task.data_record)
        state = load_checkpoint(run.path)
        environment = run.read_environment()
        self._weights_note = starting_weights_note(environment, self.task.weights, state is not None)
        return state

    def _environment(self) -> dict[str, Any]:
        weights = self.task.weights
        origin = (
            None
            if weights is None
            else {"origin": weights.origin, "path": str(weights.path.absolute()), "sha256": weights.sha256}
        )
        environment = describe_environment(self.runtime.device)
        return environment | {
            "precision": self.runtime.precision,
            "processes": self.processes.count,
            "seed": self.settings.seed,
            "starting_weights": origin,
            WORKING_FOLDER: str(Path.cwd()),
        }

    def _plan(self) -> Plan:
        task, weights = self.task, self.task.weights
        module = self.accelerator.unwrap_model(self.training.module)
        sizes = [(p.numel(), p.requires_grad) for p in module.parameters()]
        origins = ["Random starting weights."]
        if weights is not None:
            origin = "" if weights.origin == str(weights.path) else f" ({weights.origin})"
            origins = [f"Starting weights: {weights.path}{origin}."]
            origins += [each for each in (changed_sentence(weights.path, weights.origin), self._weights_note) if each]
        return Plan(
            train_pictures=task.epoch_pictures,
            validation_pictures=task.validation_pictures,
            classes=len(task.labels),
            quarantine=tuple(f"{row['name']}: {row['reason']}" for row in task.data_record["quarantine"]),
            parameters=task.frozen_parameters + sum(size for size, _ in sizes),
            trainable=sum(size for size, is_trained in sizes if is_trained),
            device=self.runtime.device.type,
            precision=self.runtime.precision,
            steps_per_epoch=self.steps_per_epoch,
            epochs=self.loop.epochs,
            processes=self.processes.count,
            first_step=self.training.progress.step,
            notes=(*origins, *self._notes, *task.notes),
            choices=tuple(choice.sentence() for choice in self.choices),
        )

    def _handle_events(self, events: Iterator[StepDone | EpochDone]) -> None:
        """Save, report and stop early, as the loop's events come."""
        epoch_start = last_save = time.monotonic()
        pictures, meter = 0, StepMeter()
        if self._stops_early():
            return
        for event in events:
            if isinstance(event, StepDone):
                pictures += event.pictures
                self._measure_step(meter, event)
                self.report(event)
                if self._is_checkpoint_due(last_save):
                    self._save_checkpoint()
                    last_save = time.monotonic()
                continue
            epoch_end = time.monotonic()
            row = self._close_epoch(event)
            seconds = {"train_seconds": round(epoch_end - epoch_start, 3), "pictures": pictures}
            seconds |= {"pictures_per_second": round(pictures / max(1e-9, epoch_end - epoch_start), 2)}
            seconds |= {"evaluation_seconds": round(time.monotonic() - epoch_end, 3)}
            if self.processes.is_main:
                timing = {"epoch": row.epoch, **seconds, "peak_memory_mib": round(peak_memory_mib())}
                self.run.append("timings.jsonl", timing)
            self._save_checkpoint()
            self.report(row)
            if self._stops_early():
                return
            epoch_start = last_save = time.monotonic()
            pictures = 0

    def _measure_step(self, meter: StepMeter, event: StepDone) -> None:
        """Report what the training will take, once enough steps are measured."""
        if self.processes.is_main and not meter.is_done:
            meter.add(event)
            if meter.is_done:
                self.report(self._estimate(meter))

    def _stops_early(self) -> bool:
        return 0 < self.settings.early_stopping <= self.best.stale

    def _close_epoch(self, event: EpochDone) -> EpochRow:
        evaluation_module = self.training.evaluation_module
        validation = self.task.validate(evaluation_module, self.runtime)
        is_best = self.best.improves(event.epoch + 1, validation.score, validation.loss)
        if is_best and self.processes.is_main:
            self.task.save(self.run, evaluation_module)
        row = EpochRow(
            event.epoch + 1,
            event.step,
            event.learning_rate,
            event.train_loss,
            event.train_accuracy,
            validation.loss,
            validation.accuracy,
            is_best,
            validation.mean_average_precision,
        )
        if self.processes.is_main:
            self.run.append("history.jsonl", row.to_dict())
        if self.settings.tracker_names:
            values = {name: value for name, value in row.to_dict().items() if isinstance(value, float)}
            self.accelerator.log(values, step=row.step)
        return row

    def _is_checkpoint_due(self, last_save: float) -> bool:
        """Whether the last checkpoint is older than ``checkpoint_minutes``.

        Where saving is a collective, because the model is sharded or losses are still to be read, the main process's
        clock decides for all.
        """
        is_due = time.monotonic() - last_save > 60 * self.settings.checkpoint_minutes
        if self.processes.uses_fsdp or self.training.pending:
            return self.processes.all_reduce_sum((is_due and self.processes.is_main,))[0] > 0
        return is_due

    def _save_checkpoint(self) -> None:
        self.training.flush()
        if self.processes.is_main or self.processes.uses_fsdp:
            state = self.training.state_dict() | {"best": vars(self.best).copy()}
            # One with weights that are not finite could never be continued: the last good one stays.
            if self.processes.is_main and _is_finite(state["module"]):
                save_checkpoint(self.run.path, state)


def _is_finite(weights: dict[str, torch.Tensor]) -> bool:
    return all(bool(torch.isfinite(each).all()) for each in weights.values() if each.is_floating_point())


def _as_text(recipe: Recipe) -> dict[str, Any]:
    return {f.name: str(getattr(recipe, f.name)) for f in fields(Recipe)}
