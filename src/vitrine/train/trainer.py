"""One process's work on a run, whatever is trained: assemble, restore, follow the loop, save, close."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState
from timm.utils import ModelEmaV3
from torch import nn

from vitrine.config import Recipe
from vitrine.data.loader import batch_count
from vitrine.io.files import to_json
from vitrine.io.hub_cache import changed_sentence
from vitrine.models.precision import resolve_precision
from vitrine.models.reference import file_sha256
from vitrine.runs.checkpoint import delete_checkpoint, load_checkpoint, save_checkpoint
from vitrine.runs.data import WORKING_FOLDER
from vitrine.runs.environment import WEIGHTS_SHA256, describe_environment, peak_memory_mib, starting_weights_note
from vitrine.runs.folder import RunFolder
from vitrine.runs.model_card import write_model_card
from vitrine.train.data import require_same_data
from vitrine.train.distributed import ProcessGroup, partial_state_arguments
from vitrine.train.events import Best, EpochRow, Event, Plan
from vitrine.train.loop import EpochDone, StepDone, TrainingState, fit, restore, state_of
from vitrine.train.optimizer import make_schedule
from vitrine.train.task import RuntimeConfig, Task


class Trainer:
    """Everything is built in ``__init__``; ``train`` runs it to its end.

    Of several processes that train together, the first one writes the run, and reports.
    """

    def __init__(
        self,
        run: RunFolder,
        recipe: Recipe,
        make_task: Callable[[], Task],
        report: Callable[[Event], None],
        processes: ProcessGroup,
    ) -> None:
        self.run, self.recipe, self.report, self.processes = run, recipe, report, processes
        AcceleratorState._reset_state(reset_partial_state=True)  # a process may train more than once
        trackers = [name.strip() for name in recipe.trackers.split(",") if name.strip()]
        # Buffers never change in training; a captioner's image encoder may have parts that its features do not need.
        parallel = DistributedDataParallelKwargs(
            broadcast_buffers=False, find_unused_parameters=recipe.caption is not None
        )
        self.accelerator = Accelerator(
            log_with=trackers or None,
            project_dir=str(run.path),
            kwargs_handlers=[parallel],
            **partial_state_arguments(),
        )
        torch.manual_seed(recipe.seed)
        self.task = make_task()
        device = self.accelerator.device
        self.runtime = RuntimeConfig(device, resolve_precision(recipe.precision, device, self.task.width), processes)
        self.training = self._assemble()
        self.best = Best()
        self.changed: str | None = None
        if trackers:
            self.accelerator.init_trackers("vitrine", config=_flat(recipe))

    def _assemble(self) -> TrainingState:
        recipe = self.recipe
        torch.manual_seed(recipe.seed + 1)  # adapters draw here whatever building the model drew
        module = self.task.trainable().to(self.accelerator.device)
        ema = ModelEmaV3(module, decay=recipe.ema, use_warmup=True) if recipe.ema else None
        if self.processes.uses_fsdp:
            return self._cut(module)
        optimizer = self.task.optimizer(module)
        if recipe.compile:
            module.compile()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*broadcast_buffers", FutureWarning)  # older torch has no other name
            module, optimizer = self.accelerator.prepare(module, optimizer)
        schedule = make_schedule(optimizer, recipe, self.steps_per_epoch)
        return TrainingState(
            module,
            optimizer,
            schedule,
            ema,
            self.accelerator,
            self.runtime.precision,
            processes=self.processes,
        )

    def _cut(self, module: nn.Module) -> TrainingState:
        """Divided among the processes; blocks are gathered one after the other."""
        from vitrine.train.fsdp import FSDPModel

        blocks: Any = module.blocks
        fsdp = FSDPModel(module, blocks, self.processes.count)
        optimizer = self.task.optimizer(module)
        schedule = make_schedule(optimizer, self.recipe, self.steps_per_epoch)
        precision = self.runtime.precision
        return TrainingState(
            module, optimizer, schedule, None, self.accelerator, precision, processes=self.processes, fsdp=fsdp
        )

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in one pass; a last, smaller one counts."""
        return -(-batch_count(self.task.epoch_pictures, self.recipe.batch_size) // self.recipe.accumulate)

    def train(self) -> None:
        """Train to the recipe's last epoch, from wherever the run is, and close the run."""
        self._start_or_restore()
        objective = self.task.objective(self.runtime.device)
        self.report(self._plan())
        with self.task.batches(self.runtime) as batches:
            self._follow(fit(self.training, objective, self.recipe, batches, self.task.names))
        if self.processes.is_main:
            self._finalize()

    def _finalize(self) -> None:
        metrics = self.task.finalize(self.run, self.runtime)
        delete_checkpoint(self.run.path)
        measured = {WEIGHTS_SHA256: file_sha256(self.run.path / "model.safetensors")}
        self.run.write("metrics.json", to_json(metrics | measured))
        write_model_card(self.run.path)
        for tracker in self.accelerator.trackers:  # accelerate's own end would disconnect processes
            tracker.finish()

    def _start_or_restore(self) -> None:
        state = self.processes.broadcast_from_main(self._state)
        if state is not None:
            self.best = Best(**state.pop("best"))
            restore(self.training, state)
        if not self.processes.is_main:
            return
        if state is None:
            self.run.start(self.recipe, self.task.labels, self.task.data_record, self._environment())
        else:
            self.run.truncate_history(self.training.progress.epoch)

    def _state(self) -> dict[str, Any] | None:
        """The checkpoint of a run that was started, if it came to one."""
        run = self.run
        if not run.is_started:
            return None
        require_same_data(json.loads((run.path / "data.json").read_text("utf-8")), self.task.data_record)
        state = load_checkpoint(run.path)
        environment = json.loads((run.path / "environment.json").read_text("utf-8"))
        self.changed = starting_weights_note(environment, self.task.weights, state is not None)
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
            "seed": self.recipe.seed,
            "starting_weights": origin,
            WORKING_FOLDER: str(Path.cwd()),
        }

    def _plan(self) -> Plan:
        task, weights = self.task, self.task.weights
        module = self.accelerator.unwrap_model(self.training.module)
        sizes = [(p.numel(), p.requires_grad) for p in module.parameters()]
        came_from = ["Random starting weights."]
        if weights is not None:
            origin = "" if weights.origin == str(weights.path) else f" ({weights.origin})"
            came_from = [f"Starting weights: {weights.path}{origin}."]
            came_from += [each for each in (changed_sentence(weights.path, weights.origin), self.changed) if each]
        return Plan(
            train_pictures=task.epoch_pictures,
            validation_pictures=task.validation_pictures,
            classes=len(task.labels),
            quarantined=tuple(f"{row['name']}: {row['reason']}" for row in task.data_record["quarantine"]),
            parameters=task.frozen_parameters + sum(size for size, _ in sizes),
            trainable=sum(size for size, trained in sizes if trained),
            device=self.runtime.device.type,
            precision=self.runtime.precision,
            steps_per_epoch=self.steps_per_epoch,
            epochs=self.recipe.epochs,
            processes=self.processes.count,
            first_step=self.training.progress.step,
            notes=(*came_from, *task.notes),
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
                if self._is_due(saved):
                    self._save_state()
                    saved = time.monotonic()
                continue
            trained = time.monotonic()
            row = self._close_epoch(event)
            seconds = {"train_seconds": round(trained - began, 3), "pictures": pictures}
            seconds |= {"pictures_per_second": round(pictures / max(1e-9, trained - began), 2)}
            seconds |= {"evaluation_seconds": round(time.monotonic() - trained, 3)}
            if self.processes.is_main:
                timing = {"epoch": row.epoch, **seconds, "peak_memory_mib": round(peak_memory_mib())}
                self.run.append("timings.jsonl", timing)
            self._save_state()
            self.report(row)
            if self._stopped_early():
                return
            began, saved, pictures = time.monotonic(), time.monotonic(), 0

    def _stopped_early(self) -> bool:
        return 0 < self.recipe.early_stopping <= self.best.stale

    def _close_epoch(self, event: EpochDone) -> EpochRow:
        evaluation_module = self.training.evaluation_module
        found = self.task.validate(evaluation_module, self.runtime)
        best = self.best.improves(event.epoch + 1, found.accuracy, found.loss)
        if best and self.processes.is_main:
            self.task.save(self.run, evaluation_module)
        row = EpochRow(
            event.epoch + 1,
            event.step,
            event.learning_rate,
            event.train_loss,
            event.train_accuracy,
            found.loss,
            found.accuracy,
            best,
        )
        if self.processes.is_main:
            self.run.append("history.jsonl", asdict(row))
        if self.recipe.trackers:
            values = {name: value for name, value in asdict(row).items() if isinstance(value, float)}
            self.accelerator.log(values, step=row.step)
        return row

    def _is_due(self, saved: float) -> bool:
        """Whether the last checkpoint is old enough.

        Where all processes take part in one, the first one's clock decides: a model that is cut is put together, and
        losses that were not read are joined.
        """
        due = time.monotonic() - saved > 60 * self.recipe.checkpoint_minutes
        if self.processes.uses_fsdp or self.training.pending:
            return self.processes.all_reduce_sum((due and self.processes.is_main,))[0] > 0
        return due

    def _save_state(self) -> None:
        self.training.flush()
        if self.processes.is_main or self.processes.uses_fsdp:
            state = state_of(self.training) | {"best": vars(self.best).copy()}
            if self.processes.is_main:
                save_checkpoint(self.run.path, state)


def _flat(recipe: Recipe) -> dict[str, Any]:
    return {f.name: str(getattr(recipe, f.name)) for f in fields(Recipe)}
