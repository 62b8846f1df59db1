"""The training loop, one for every objective: it yields what happened, and the caller saves and prints.

Read it from the top: :func:`fit` goes through epochs, :func:`_train_step` takes one step of the optimizer. On CUDA the
loop runs one step ahead of what it has read: the loss of a step is copied to the CPU in the background, and is read
after the next step was queued, so that the GPU never waits for Python (:func:`pipeline_depth`, :class:`PendingStep`).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from accelerate import Accelerator
from timm.scheduler import CosineLRScheduler
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from vitrine.errors import TrainingError
from vitrine.models.precision import autocast, is_compiled
from vitrine.results import and_n_more, join_words
from vitrine.train.distributed import ProcessGroup
from vitrine.train.losses import Loss, Objective
from vitrine.train.settings import LoopSettings

if TYPE_CHECKING:
    from vitrine.train.fsdp import FSDPModel


class MicroBatch(Protocol):
    """This process's pictures of one batch; with ``accumulate`` above 1 a step has several."""

    def __len__(self) -> int:
        """Pictures."""
        ...

    @property
    def is_dummy(self) -> bool:
        """Whether its pictures only let this process take part in the step: they count nowhere."""
        ...


@dataclass
class TrainerState:
    """Where a training is: everything that a checkpoint holds besides weights and the optimizer.

    Random state is not part of it, since every micro-step is seeded by its number.

    Attributes:
        epoch: epochs finished.
        batch: batches of the next epoch that are done.
        step: optimizer steps taken.
        loss_sum, count, correct: sums over the next epoch so far, over pictures or a captioner's tokens; ``correct`` is
            None once targets were mixed.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    count: int = 0
    correct: int | None = 0

    def add_loss(self, values: LossValues) -> None:
        """Add a micro-batch to the epoch's sums."""
        self.loss_sum += values.mean * values.count
        self.count += values.count
        if values.correct is None or self.correct is None:
            self.correct = None
        else:
            self.correct += values.correct

    def end_epoch(self, learning_rate: float) -> EpochDone:
        """The epoch's means; its sums start again at zero."""
        accuracy = None if self.correct is None else self.correct / self.count
        done = EpochDone(self.epoch, self.step, self.loss_sum / self.count, accuracy, learning_rate)
        self.epoch, self.batch = self.epoch + 1, 0
        self.loss_sum, self.count, self.correct = 0.0, 0, 0
        return done


@dataclass
class TrainingState:
    """Everything that a training changes, in one place so that a checkpoint can hold it all.

    Attributes:
        module: the model, wrapped by accelerate or sharded by FSDP.
        ema: the moving average of its weights, where there is one.
        precision: ``fp32`` or ``bf16``.
        progress: epochs and steps done.
        processes: that train together, each on its part of every batch.
        fsdp: the sharded model; None where every process holds the whole model.
        pending: steps that were taken and whose losses are not yet counted in ``progress``.
        resumed_step: steps that the checkpoint had which it was continued from; None where it was not.
    """

    module: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: CosineLRScheduler
    ema: ModelEmaV3 | None
    accelerator: Accelerator
    precision: str
    progress: TrainerState = field(default_factory=TrainerState)
    processes: ProcessGroup = field(default_factory=ProcessGroup)
    fsdp: FSDPModel | None = None
    pending: deque[PendingStep] = field(default_factory=deque)
    resumed_step: int | None = None

    def flush(self) -> None:
        """Read the losses of all pending steps, so that no weights are saved after a loss that was not finite.

        A collective: all processes have to call it.

        Raises:
            TrainingError: a loss was not finite.
        """
        for step in self.pending:
            step.read()

    @property
    def evaluation_module(self) -> nn.Module:
        """The weights that are evaluated and saved: the moving average where there is one.

        Of a sharded model this is a collective: all processes have to read it.
        """
        if self.fsdp is not None:
            return self.fsdp.unsharded()
        module: nn.Module = self.ema.module if self.ema is not None else self.accelerator.unwrap_model(self.module)
        return module

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed training needs, as tensors and plain values; call :meth:`flush` before.

        A sharded model gives the state that the whole model would have; all processes have to call it.
        """
        fsdp, optimizer = self.fsdp, self.optimizer
        if fsdp is None:
            weights, moments = self.accelerator.unwrap_model(self.module).state_dict(), optimizer.state_dict()
        else:
            weights, moments = fsdp.full_state_dict(), fsdp.full_optimizer_state(optimizer)
        return {
            "module": weights,
            "optimizer": moments,
            "ema": None if self.ema is None else self.ema.state_dict(),
            "progress": vars(self.progress).copy(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put the training back to where :meth:`state_dict` found it."""
        if self.fsdp is None:
            self.accelerator.unwrap_model(self.module).load_state_dict(state["module"])
            settings = [_own_settings(group) for group in self.optimizer.param_groups]
            self.optimizer.load_state_dict(state["optimizer"])
            for group, own_settings in zip(self.optimizer.param_groups, settings, strict=True):
                group |= own_settings
        else:
            self.fsdp.load_full_state_dict(state["module"])
            settings = [_own_settings(group) for group in self.optimizer.param_groups]
            self.fsdp.load_full_optimizer_state(self.optimizer, state["optimizer"])
            for group, own_settings in zip(self.optimizer.param_groups, settings, strict=True):
                group |= own_settings
        if self.ema is not None:
            self.ema.load_state_dict(state["ema"])
        self.progress = TrainerState(**state["progress"])
        self.resumed_step = self.progress.step


def _own_settings(group: dict[str, Any]) -> dict[str, Any]:
    """What the recipe says of a parameter group, which may differ from what a checkpoint's recipe said."""
    return {name: group[name] for name in ("weight_decay", "lr_scale") if name in group}


@dataclass(frozen=True)
class StepDone:
    """One optimizer step.

    Attributes:
        epoch: from 0.
        step: from 1.
        loss: mean over the step's pictures, or a captioner's tokens.
        pictures: of all processes.
        learning_rate: the largest that a parameter group was updated with.
    """

    epoch: int
    step: int
    loss: float
    pictures: int
    learning_rate: float


@dataclass(frozen=True)
class EpochDone:
    """One pass over the training pictures.

    Attributes:
        epoch: from 0.
        step: optimizer steps taken since the training began.
        train_loss: mean over the epoch.
        train_accuracy: share of labels or tokens that were the likeliest; None where targets were mixed.
        learning_rate: of the last parameter group after the last step.
    """

    epoch: int
    step: int
    train_loss: float
    train_accuracy: float | None
    learning_rate: float


def fit(
    training: TrainingState,
    objective: Objective,
    settings: LoopSettings,
    epoch_batches: Callable[[int, int], Iterator[MicroBatch]],
    batch_names: Callable[[int, Any], Sequence[str]],
) -> Iterator[StepDone | EpochDone]:
    """Train from ``training.progress`` to the last epoch, yielding after every step and every epoch.

    On CUDA a step is yielded after the next one was queued (see :func:`pipeline_depth`). All steps of an epoch are
    yielded before the epoch is.

    Args:
        training: model, optimizer, schedule and position; changed in place.
        objective: the loss.
        settings: how many epochs, and what a step is.
        epoch_batches: the batches of an epoch (from 0), starting at a batch number.
        batch_names: file names of an epoch's batch, for the message about a loss that is not finite.

    Raises:
        TrainingError: the loss is not finite; the message names the batch's pictures.
    """
    progress, pending, depth = training.progress, training.pending, pipeline_depth(training.accelerator.device)
    while progress.epoch < settings.epochs:
        epoch = progress.epoch
        training.module.train()
        mix = epoch < settings.epochs - settings.mix_off_epochs
        batches = epoch_batches(epoch, progress.batch)
        while micro_batches := tuple(islice(batches, settings.accumulate)):
            names = partial(batch_names, epoch)
            pending.append(_train_step(training, objective, settings, micro_batches, mix, names, eager=depth == 0))
            progress.step += 1
            progress.batch += len(micro_batches)
            if len(pending) > depth:
                yield pending.popleft().to_event()
        while pending:
            yield pending.popleft().to_event()
        if not progress.count:
            raise TrainingError("An epoch had no picture to train on. Check the data with: vitrine check DATA")
        yield progress.end_epoch(float(training.optimizer.param_groups[-1]["lr"]))


def _train_step(
    training: TrainingState,
    objective: Objective,
    settings: LoopSettings,
    micro_batches: Sequence[MicroBatch],
    mix: bool,
    names: Callable[[Any], Sequence[str]],
    *,
    eager: bool,
) -> PendingStep:
    """One optimizer step over the summed gradients of micro-batches; ``eager`` reads each loss before going on."""
    accelerator, progress, processes = training.accelerator, training.progress, training.processes
    learning_rate = _set_learning_rate(training, progress.step)
    sizes = processes.all_reduce_sum([0 if batch.is_dummy else len(batch) for batch in micro_batches])
    pictures = sum(sizes)
    step = PendingStep(
        progress,
        processes,
        pictures=int(pictures),
        learning_rate=learning_rate,
        advice=advice_for(settings, training.precision, is_spoilt=progress.step == training.resumed_step),
    )
    for number, batch in enumerate(micro_batches):
        _seed_micro_step(settings.seed, progress.step * settings.accumulate + number, processes.rank)
        with _parameter_exchange(training), _forward_context(training):
            loss = objective(training.module, batch, mix=mix)
        reduced_loss = reduce_loss(processes, loss, batch.is_dummy)
        step.add(reduced_loss, partial(names, batch), eager=eager)
        with _gradient_exchange(training, is_last=number == len(micro_batches) - 1):
            accelerator.backward(loss.mean * (reduced_loss.weight * (sizes[number] / pictures)))
    if settings.clip_norm:
        with _parameter_exchange(training):
            accelerator.clip_grad_norm_(training.module.parameters(), settings.clip_norm)
    training.optimizer.step()
    training.optimizer.zero_grad(set_to_none=True)
    if training.ema is not None:
        training.ema.update(accelerator.unwrap_model(training.module), step=progress.step)
    return step


def _set_learning_rate(training: TrainingState, step: int) -> float:
    training.schedule.step_update(step + 1)  # the schedule's first value is zero: a step with it would do nothing
    return float(max(group["lr"] for group in training.optimizer.param_groups))


def _seed_micro_step(seed: int, micro_step: int, rank: int = 0) -> None:
    """Seed torch and NumPy from (seed, micro_step) alone: a resumed training draws what the first one drew.

    NumPy's state, which mixup draws from, is the same in all processes; torch's, which dropout and drop path draw from,
    is each process's own.
    """
    state = np.random.SeedSequence((seed, micro_step)).generate_state(2)
    rank_state = np.random.SeedSequence((seed, micro_step, rank)).generate_state(1) if rank else state
    torch.manual_seed(int(rank_state[0]))
    np.random.seed(int(state[1]))  # noqa: NPY002  timm's Mixup draws from NumPy's global state


def _forward_context(training: TrainingState) -> AbstractContextManager[None]:
    """The training's precision for a forward pass of which only logits are read."""
    device, module = training.accelerator.device, training.module
    return autocast(device, training.precision, compiled=is_compiled(module), logits_of=module)


def _gradient_exchange(training: TrainingState, *, is_last: bool) -> AbstractContextManager[object]:
    """Around a backward pass: gradients are reduced over processes in that of a step's last micro-batch only."""
    stack = ExitStack()
    stack.enter_context(training.processes.gradient_exchange())
    if not is_last and training.fsdp is not None:
        stack.enter_context(training.fsdp.no_sync())
    elif not is_last:
        stack.enter_context(training.accelerator.no_sync(training.module))
    return stack


def _parameter_exchange(training: TrainingState) -> AbstractContextManager[object]:
    """Around a forward pass or clipping, in which the processes of a sharded model exchange parameters and norms."""
    return nullcontext() if training.fsdp is None else training.processes.gradient_exchange()


def advice_for(settings: LoopSettings, precision: str, *, is_spoilt: bool = False) -> str:
    """What may help where a loss is not finite: nothing that is set already, and as options that go on from there.

    ``is_spoilt``: it is the very first loss after a checkpoint, whose weights therefore give it with any settings.
    """
    if is_spoilt:
        other = "" if precision == "fp32" else "Try --resume --set precision=fp32; else "
        begin = f"train a new run with a learning_rate below {settings.learning_rate:g}."
        return (
            "It is the first loss after the checkpoint, whose weights are already spoilt: no rate helps. "
            f"{other}{begin if other else begin.capitalize()}"
        )
    options = [f"learning_rate={settings.learning_rate / 10:g}"]
    options += [] if settings.clip_norm else ["clip_norm=1"]
    options += [] if precision == "fp32" else ["precision=fp32"]
    parts = [f"Lower learning_rate (it is {settings.learning_rate:g})"]
    parts += [] if settings.clip_norm else ["clip gradients"]
    parts += [] if precision == "fp32" else ["use fp32"]
    return f"{join_words(parts, 'or')}, and continue from the last checkpoint: --resume --set {' or '.join(options)}"


def pipeline_depth(device: torch.device) -> int:
    """How many steps may be queued before the oldest one's loss is read: 1 on CUDA, elsewhere 0.

    Work on CUDA is queued, and reading a loss waits for the queue; elsewhere there is nothing to wait for.
    """
    return 1 if device.type == "cuda" else 0


class PendingStep:
    """An optimizer step that was taken, with the losses of its micro-batches, which may still have to be read.

    Args:
        progress: where the training is before the step; the losses are added to it as they are read.
        processes: that train together.
        pictures: of the step, over all processes.
        learning_rate: that the step is taken with.
        advice: what to do where a loss is not finite.
    """

    def __init__(
        self, progress: TrainerState, processes: ProcessGroup, *, pictures: int, learning_rate: float, advice: str
    ) -> None:
        self.epoch, self.step, self.advice = progress.epoch, progress.step + 1, advice
        self.pictures, self.learning_rate = pictures, learning_rate
        self._progress, self._processes = progress, processes
        self._unread_losses: deque[tuple[ReducedLoss, Callable[[], Sequence[str]]]] = deque()
        self._loss_sum, self._count = 0.0, 0

    def add(self, loss: ReducedLoss, names: Callable[[], Sequence[str]], *, eager: bool) -> None:
        """Add a micro-batch with the file names of this process's pictures; ``eager`` reads its loss now.

        Raises:
            TrainingError: it is read now, and its loss is not finite.
        """
        if eager:
            self._unread_losses.append((loss, names))
            self.read()
            return
        current = names()  # now, because a stream forgets the names of earlier batches
        self._unread_losses.append((loss, lambda: current))

    def read(self) -> float:
        """The mean loss of the step so far. A collective: all processes have to call it.

        Raises:
            TrainingError: a loss is not finite; the message names its batch.
        """
        while self._unread_losses:
            loss, names = self._unread_losses[0]
            values = loss.read()
            if not math.isfinite(values.mean):
                raise TrainingError(self._not_finite(values.mean, names()))
            self._loss_sum, self._count = self._loss_sum + values.mean * values.count, self._count + values.count
            self._progress.add_loss(values)
            self._unread_losses.popleft()
        return self._loss_sum / self._count

    def to_event(self) -> StepDone:
        """What the loop yields, once the losses were read."""
        return StepDone(self.epoch, self.step, self.read(), self.pictures, self.learning_rate)

    def _not_finite(self, value: float, own_names: Sequence[str]) -> str:
        names = [name for part in self._processes.all_gather(own_names) for name in part]
        text = and_n_more(names, 8)
        return (
            f"The loss became {value} in epoch {self.epoch + 1}, step {self.step}. The batch was: {text}.\n"
            f"{self.advice}"
        )


@dataclass(frozen=True)
class LossValues:
    """The loss of one micro-batch over all processes, as numbers.

    Attributes:
        mean: the loss.
        count: what it is the mean of.
        correct: how many of these were the likeliest; None where targets were mixed.
    """

    mean: float
    count: int
    correct: int | None


@dataclass(frozen=True)
class ReducedLoss:
    """The loss of one micro-batch, whose weight among all processes is known and whose value is not read yet.

    Attributes:
        count: pictures or tokens of all processes, which the loss is the mean of.
        weight: factor of this process's mean loss before its backward pass. Gradients are averaged over processes, so
            with ``processes × own_count / count`` their average is the gradient of the mean over all pictures, however
            unequal the processes' parts are.
        own_count: this process's part of ``count``.
        scalars: its mean loss, and how many were the likeliest unless targets were mixed.
        processes: that hold the parts.
    """

    count: int
    weight: float
    own_count: int
    scalars: AsyncScalars
    processes: ProcessGroup

    def read(self) -> LossValues:
        """The mean over all processes. A collective: all of them have to call it."""
        mean, *correct = self.scalars.read()
        if self.processes.count == 1:
            return LossValues(mean, self.count, int(correct[0]) if correct else None)
        own_sums = (mean * self.own_count, sum(correct)) if self.own_count else (0.0, 0.0)
        loss_sum, correct_sum, mixed_parts = self.processes.all_reduce_sum((*own_sums, not correct))
        return LossValues(loss_sum / self.count, self.count, None if mixed_parts else int(correct_sum))


def reduce_loss(processes: ProcessGroup, loss: Loss, is_dummy: bool) -> ReducedLoss:
    """Weigh this process's loss of a micro-batch among all processes; a dummy part weighs nothing."""
    scalars = AsyncScalars(*(each for each in (loss.mean, loss.correct) if each is not None))
    if processes.count == 1:
        return ReducedLoss(loss.count, 1.0, loss.count, scalars, processes)
    own_count = 0 if is_dummy else loss.count
    count = int(processes.all_reduce_sum((own_count,))[0])
    return ReducedLoss(count, processes.count * own_count / count, own_count, scalars, processes)


class AsyncScalars:
    """Scalar tensors on their way to the CPU: making this queues the copies, :meth:`read` waits for them alone."""

    def __init__(self, *scalars: Tensor) -> None:
        # From CUDA, such a copy goes into pinned memory and is queued behind the work that makes the number.
        self._on_cpu = [scalar.detach().to("cpu", non_blocking=scalar.is_cuda) for scalar in scalars]
        self._arrival = torch.cuda.Event() if scalars[0].is_cuda else None
        if self._arrival is not None:
            self._arrival.record()

    def read(self) -> list[float]:
        """Their values."""
        if self._arrival is not None:
            self._arrival.synchronize()
        return [scalar.item() for scalar in self._on_cpu]
