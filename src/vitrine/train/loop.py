"""The training loop: one for every objective. It yields what happened; saving and printing belong to the caller."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
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

from vitrine.config import Recipe
from vitrine.errors import TrainingError
from vitrine.models.precision import autocast, class_token_alone, is_compiled
from vitrine.train.distributed import ProcessGroup
from vitrine.train.losses import Loss, Objective

if TYPE_CHECKING:
    from vitrine.train.fsdp import FSDPModel


class AsyncScalars:
    """Scalars on their way to the CPU: the copy is queued when this is made, and :meth:`read` waits for it alone."""

    def __init__(self, *numbers: Tensor) -> None:
        # From CUDA, such a copy goes into pinned memory and is queued behind the work that makes the number.
        self._here = [number.detach().to("cpu", non_blocking=number.is_cuda) for number in numbers]
        self._arrived = torch.cuda.Event() if numbers[0].is_cuda else None
        if self._arrived is not None:
            self._arrived.record()

    def read(self) -> list[float]:
        """Their values."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return [number.item() for number in self._here]


@dataclass(frozen=True)
class LossValues:
    """What a micro-batch came to, over the parts of all processes.

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
    """One micro-batch, over the parts of all processes, before its loss is read.

    Attributes:
        count: what its loss is the mean of.
        weight: what this process's mean loss is multiplied with before its gradient is taken. Gradients are averaged
            over processes: with ``processes × own count / count`` the average is the gradient of the whole mean,
            however unequal the parts are.
        own: this process's share of ``count``.
        numbers: its mean loss, and how many were the likeliest unless targets were mixed.
        processes: that hold the parts.
    """

    count: int
    weight: float
    own: int
    numbers: AsyncScalars
    processes: ProcessGroup

    def read(self) -> LossValues:
        """Join the parts' losses; all processes have to ask."""
        mean, *correct = self.numbers.read()
        if self.processes.count == 1:
            return LossValues(mean, self.count, int(correct[0]) if correct else None)
        parts = (mean * self.own, sum(correct)) if self.own else (0.0, 0.0)
        loss_sum, right, mixed = self.processes.all_reduce_sum((*parts, not correct))
        return LossValues(loss_sum / self.count, self.count, None if mixed else int(right))


def reduce_loss(processes: ProcessGroup, loss: Loss, is_dummy: bool) -> ReducedLoss:
    """Join what is known of the parts; one that was ``is_dummy``, so that its process can take part, does not count."""
    numbers = AsyncScalars(*(each for each in (loss.mean, loss.correct) if each is not None))
    if processes.count == 1:
        return ReducedLoss(loss.count, 1.0, loss.count, numbers, processes)
    own = 0 if is_dummy else loss.count
    count = int(processes.all_reduce_sum((own,))[0])
    return ReducedLoss(count, processes.count * own / count, own, numbers, processes)


def pipeline_depth(device: torch.device) -> int:
    """How many steps wait to be read while the next one is queued; 0 reads each at once, as where nothing is queued."""
    return 1 if device.type == "cuda" else 0


class PendingStep:
    """One optimizer step. What its micro-batches come to is read in their order, each once.

    Attributes:
        epoch: from 0.
        step: from 1.
        pictures: of all processes.
        learning_rate: that it is taken with.
    """

    def __init__(
        self,
        processes: ProcessGroup,
        counted: Callable[[LossValues], None],
        *,
        epoch: int,
        step: int,
        pictures: int,
        learning_rate: float,
    ) -> None:
        self.epoch, self.step, self.pictures, self.learning_rate = epoch, step, pictures, learning_rate
        self._processes, self._counted = processes, counted
        self._parts: deque[tuple[ReducedLoss, Callable[[], Sequence[str]]]] = deque()
        self._sum, self._count = 0.0, 0

    def add(self, whole: ReducedLoss, names: Callable[[], Sequence[str]], *, at_once: bool) -> None:
        """A micro-batch with the file names of this process's pictures.

        Raises:
            TrainingError: it is read at once, and its loss is not finite.
        """
        if at_once:
            self._parts.append((whole, names))
            self.read()
            return
        known = names()  # a stream has forgotten them by the time that they are wanted
        self._parts.append((whole, lambda: known))

    def read(self) -> float:
        """The mean loss of what was added; all processes have to ask.

        Raises:
            TrainingError: a loss is not finite; the message names its batch.
        """
        while self._parts:
            whole, names = self._parts[0]
            found = whole.read()
            if not math.isfinite(found.mean):
                raise TrainingError(self._not_finite(found.mean, names()))
            self._sum, self._count = self._sum + found.mean * found.count, self._count + found.count
            self._counted(found)
            self._parts.popleft()
        return self._sum / self._count

    def _not_finite(self, value: float, own: Sequence[str]) -> str:
        names = [name for part in self._processes.all_gather(own) for name in part]
        shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
        return (
            f"The loss became {value} in epoch {self.epoch + 1}, step {self.step}. The batch was: {shown}.\n"
            "Lower learning_rate, set clip_norm=1, or use precision=fp32; --resume continues from the last checkpoint."
        )


class MicroBatch(Protocol):
    """This process's pictures of one batch; ``is_dummy`` ones take part in the step and count nowhere."""

    def __len__(self) -> int:
        """Pictures."""
        ...

    @property
    def is_dummy(self) -> bool:
        """See above."""
        ...


@dataclass
class TrainerState:
    """Where a training is. Everything here is in a checkpoint; step seeds make other random state needless.

    Attributes:
        epoch: epochs finished.
        batch: batches of the next epoch that are done.
        step: optimizer steps taken.
        loss_sum, count, correct: sums over the next epoch so far, over pictures or a captioner's word pieces;
            ``correct`` is None once targets were mixed.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    count: int = 0
    correct: int | None = 0


@dataclass
class TrainingState:
    """The moving parts of a training, in one place so that a checkpoint can hold them all.

    ``processes`` train together, each on its part of every batch; of a model that is ``cut``, each holds a part.
    ``pending`` are steps that were taken and whose numbers are still to be counted in ``progress``.
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

    def flush(self) -> None:
        """Read what is pending: weights are not kept before it is known that their losses were finite.

        All processes have to ask.

        Raises:
            TrainingError: one was not.
        """
        for step in self.pending:
            step.read()

    @property
    def evaluation_module(self) -> nn.Module:
        """The weights that are evaluated and saved: the moving average where there is one.

        Of a model that is cut, all processes have to ask.
        """
        if self.fsdp is not None:
            return self.fsdp.unsharded()
        module: nn.Module = self.ema.module if self.ema is not None else self.accelerator.unwrap_model(self.module)
        return module


@dataclass(frozen=True)
class StepDone:
    """One optimizer step over ``pictures``: the mean ``loss``, and the ``learning_rate`` that it was taken with."""

    epoch: int
    step: int
    loss: float
    pictures: int
    learning_rate: float


@dataclass(frozen=True)
class EpochDone:
    """One pass over the training pictures.

    ``train_accuracy`` is the share of labels or word pieces that were the likeliest; None where targets were mixed.
    """

    epoch: int
    step: int
    train_loss: float
    train_accuracy: float | None
    learning_rate: float


def fit(
    training: TrainingState,
    objective: Objective,
    recipe: Recipe,
    epoch_batches: Callable[[int, int], Iterator[MicroBatch]],
    batch_names: Callable[[int, Any], Sequence[str]],
) -> Iterator[StepDone | EpochDone]:
    """Train from ``training.progress`` to the recipe's last epoch, yielding after every step and every epoch.

    On an accelerator a step is told of when the next one is queued, and the last one of an epoch before its epoch.

    Args:
        training: model, optimizer, schedule and position; changed in place.
        objective: the loss.
        recipe: accumulate, clip_norm, epochs, mix_off_epochs and seed are read.
        epoch_batches: the batches of an epoch (from 0) from a batch number on.
        batch_names: file names of an epoch's batch, for the message about a loss that is not finite.

    Raises:
        TrainingError: the loss is not finite; the message names the batch's pictures.
    """
    progress, pending, behind = training.progress, training.pending, pipeline_depth(training.accelerator.device)
    while progress.epoch < recipe.epochs:
        epoch = progress.epoch
        training.module.train()
        mix = epoch < recipe.epochs - recipe.mix_off_epochs
        batches = epoch_batches(epoch, progress.batch)
        while group := tuple(islice(batches, recipe.accumulate)):
            pending.append(_step(training, objective, recipe, group, mix, partial(batch_names, epoch), behind == 0))
            progress.step += 1
            progress.batch += len(group)
            if len(pending) > behind:
                yield _told(pending.popleft())
        while pending:
            yield _told(pending.popleft())
        if not progress.count:
            raise TrainingError("An epoch had no picture to train on. Check the data with: vitrine check DATA")
        done = _finish_epoch(training, learning_rate=training.optimizer.param_groups[-1]["lr"])
        yield done


def _step(
    training: TrainingState,
    objective: Objective,
    recipe: Recipe,
    group: Sequence[MicroBatch],
    mix: bool,
    names: Callable[[Any], Sequence[str]],
    at_once: bool,
) -> PendingStep:
    """One optimizer step over a group of micro-batches; ``at_once`` reads each one's loss before its backward pass."""
    accelerator, progress, processes = training.accelerator, training.progress, training.processes
    learning_rate = _set_learning_rate(training, progress.step)
    sizes = processes.all_reduce_sum([0 if batch.is_dummy else len(batch) for batch in group])
    pictures, count = sum(sizes), partial(_count, progress)
    place = {"epoch": progress.epoch, "step": progress.step + 1, "pictures": int(pictures)}
    step = PendingStep(processes, count, **place, learning_rate=learning_rate)
    for number, batch in enumerate(group):
        _seed(recipe.seed, progress.step * recipe.accumulate + number, processes.rank)
        with _gathering(training), _forward_pass(training):
            loss = objective(training.module, batch, mix=mix)
        whole = reduce_loss(processes, loss, batch.is_dummy)
        step.add(whole, partial(names, batch), at_once=at_once)
        with _exchange(training, last=number == len(group) - 1):
            accelerator.backward(loss.mean * (whole.weight * (sizes[number] / pictures)))
    if recipe.clip_norm:
        with _gathering(training):
            accelerator.clip_grad_norm_(training.module.parameters(), recipe.clip_norm)
    training.optimizer.step()
    training.optimizer.zero_grad(set_to_none=True)
    if training.ema is not None:
        training.ema.update(accelerator.unwrap_model(training.module), step=progress.step)
    return step


def _told(step: PendingStep) -> StepDone:
    return StepDone(step.epoch, step.step, step.read(), step.pictures, step.learning_rate)


@contextmanager
def _forward_pass(training: TrainingState) -> Iterator[None]:
    """Its precision, and its last block for the class token alone; a compiled module is what it was compiled as."""
    module, device = training.module, training.accelerator.device
    with autocast(device, training.precision, compiled=is_compiled(module)), class_token_alone(module):
        yield


def _exchange(training: TrainingState, last: bool) -> AbstractContextManager[object]:
    """Gradients are exchanged once a step, in the backward pass of its last micro-batch."""
    stack = ExitStack()
    stack.enter_context(training.processes.gradient_exchange())
    if not last and training.fsdp is not None:
        stack.enter_context(training.fsdp.no_sync())
    elif not last:
        stack.enter_context(training.accelerator.no_sync(training.module))
    return stack


def _gathering(training: TrainingState) -> AbstractContextManager[object]:
    """Of a model that is cut, other work exchanges its parts too."""
    return nullcontext() if training.fsdp is None else training.processes.gradient_exchange()


def _set_learning_rate(training: TrainingState, step: int) -> float:
    training.schedule.step_update(step + 1)  # the schedule's first value is zero: a step with it would do nothing
    return float(max(group["lr"] for group in training.optimizer.param_groups))


def _seed(seed: int, step: int, rank: int = 0) -> None:
    """Random state of one micro-step from (seed, step) alone: a resumed training draws what the first one drew.

    ProcessGroup mix their parts of a batch alike, and drop units and paths each for itself.
    """
    state = np.random.SeedSequence((seed, step)).generate_state(2)
    own = np.random.SeedSequence((seed, step, rank)).generate_state(1) if rank else state
    torch.manual_seed(int(own[0]))
    np.random.seed(int(state[1]))  # noqa: NPY002  timm's Mixup draws from NumPy's global state


def _count(progress: TrainerState, found: LossValues) -> None:
    progress.loss_sum += found.mean * found.count
    progress.count += found.count
    if found.correct is None or progress.correct is None:
        progress.correct = None
    else:
        progress.correct += found.correct


def _finish_epoch(training: TrainingState, learning_rate: float) -> EpochDone:
    progress = training.progress
    accuracy = None if progress.correct is None else progress.correct / progress.count
    done = EpochDone(progress.epoch, progress.step, progress.loss_sum / progress.count, accuracy, float(learning_rate))
    progress.epoch, progress.batch = progress.epoch + 1, 0
    progress.loss_sum, progress.count, progress.correct = 0.0, 0, 0
    return done


def state_of(training: TrainingState) -> dict[str, Any]:
    """Everything that a resumed training needs, as tensors and plain values; the same for a model that is cut.

    Of a training that is settled.
    """
    cut = training.fsdp
    return {
        "module": training.accelerator.unwrap_model(training.module).state_dict() if cut is None else cut.weights(),
        "optimizer": training.optimizer.state_dict() if cut is None else cut.optimizer_state(training.optimizer),
        "ema": None if training.ema is None else training.ema.state_dict(),
        "progress": vars(training.progress).copy(),
    }


def restore(training: TrainingState, state: dict[str, Any]) -> None:
    """Put a training back to where :func:`state_of` found it."""
    if training.fsdp is None:
        training.accelerator.unwrap_model(training.module).load_state_dict(state["module"])
        training.optimizer.load_state_dict(state["optimizer"])
    else:
        training.fsdp.load_weights(state["module"])
        training.fsdp.load_optimizer_state(training.optimizer, state["optimizer"])
    if training.ema is not None:
        training.ema.load_state_dict(state["ema"])
    training.progress = TrainerState(**state["progress"])
