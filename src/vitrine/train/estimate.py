"""What a training will take: pictures a second from its first steps, time to its end, memory and disk."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from vitrine.results import duration
from vitrine.runs.environment import device_memory_bytes, peak_memory_mib
from vitrine.train.loop import StepDone, TrainingState

_WARM_UP = 2  # steps that are not measured: in them loaders start and kernels are chosen
_ENOUGH_STEPS, _ENOUGH_SECONDS = 8, 10.0
_EVALUATION_SHARE = 1 / 3  # of a training picture's time: a forward pass, where training has two more in its backward


class StepMeter:
    """Measures how long steps take: the time between one and the next of the same epoch.

    Args:
        clock: seconds from any beginning.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.steps, self.pictures, self.seconds = 0, 0, 0.0
        self._clock = clock
        self._step_count = 0
        self._previous: tuple[int, float] = (-1, clock())
        self._first = (0, 1.0)

    def add(self, event: StepDone) -> None:
        """A step has ended now."""
        now, previous = self._clock(), self._previous
        self._step_count, self._previous = self._step_count + 1, (event.epoch, now)
        if self._step_count > _WARM_UP and previous[0] == event.epoch:
            self.steps, self.pictures = self.steps + 1, self.pictures + event.pictures
            self.seconds += now - previous[1]
        elif not self.steps:  # all there is, where no other follows
            self._first = (event.pictures, now - previous[1])

    @property
    def is_done(self) -> bool:
        """Whether enough steps are measured; of slow ones two are."""
        return self.steps >= _ENOUGH_STEPS or (self.steps >= 2 and self.seconds >= _ENOUGH_SECONDS)

    @property
    def pictures_per_second(self) -> float:
        """Of the measured steps; where there is none, of the last before them."""
        pictures, seconds = (self.pictures, self.seconds) if self.steps else self._first
        return pictures / max(seconds, 1e-9)


@dataclass(frozen=True)
class Estimate:
    """What a training will take, from its first steps.

    Attributes:
        pictures_per_second: of training.
        measured_steps: from which it is.
        seconds: from now to the end: the training pictures that are left, and the validation pictures of every epoch at
            three times that rate.
        memory_bytes: of the device that were taken so far: allocated on a GPU, else resident in this process.
        memory_total_bytes: of the device.
        disk_bytes: of the run folder when it is largest: weights, and the checkpoint twice, as the new one is written
            beside the old.
        weights_bytes: of the finished run's weights.
        disk_free_bytes: where the run is written.
    """

    pictures_per_second: float
    measured_steps: int
    seconds: float
    memory_bytes: int
    memory_total_bytes: int
    disk_bytes: int
    weights_bytes: int
    disk_free_bytes: int

    @property
    def fits_on_disk(self) -> bool:
        """Whether there is room for the run folder at its largest."""
        return self.disk_bytes <= self.disk_free_bytes

    def sentences(self) -> tuple[str, ...]:
        """For a person."""
        sentences = (
            f"Plan: {self.pictures_per_second:,.3g} pictures a second ({self.measured_steps} steps measured), about "
            f"{duration(self.seconds)} to the end.",
            f"Memory: {_size(self.memory_bytes)} of {_size(self.memory_total_bytes)} so far. Disk: up to "
            f"{_size(self.disk_bytes)} while it trains, {_size(self.weights_bytes)} of weights at the end; "
            f"{_size(self.disk_free_bytes)} are free.",
        )
        return sentences if self.fits_on_disk else (*sentences, "The disk has not enough room for this run: make some.")

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def estimate(
    training: TrainingState,
    meter: StepMeter,
    run: Path,
    *,
    parameters: int,
    train_pictures: int,
    evaluated_pictures: int,
) -> Estimate:
    """What the rest of a training will take.

    Args:
        training: after some steps, so that its optimizer's state is there.
        meter: that measured them.
        run: the run folder, which need not exist.
        parameters: of the whole model, frozen ones included.
        train_pictures: that are left to train on.
        evaluated_pictures: that are left to evaluate, over all epochs.
    """
    rate = meter.pictures_per_second
    weights = 4 * parameters  # float32
    return Estimate(
        pictures_per_second=rate,
        measured_steps=meter.steps,
        seconds=(train_pictures + _EVALUATION_SHARE * evaluated_pictures) / rate,
        memory_bytes=_memory_bytes(training.accelerator.device),
        memory_total_bytes=device_memory_bytes(training.accelerator.device),
        disk_bytes=weights + 2 * _checkpoint_bytes(training),
        weights_bytes=weights,
        disk_free_bytes=shutil.disk_usage(_existing_folder(run.absolute())).free,
    )


def _checkpoint_bytes(training: TrainingState) -> int:
    """Of everything that a checkpoint holds: weights, their moving average, and the optimizer's moments."""
    module = training.accelerator.unwrap_model(training.module)
    tensors = [*module.state_dict().values()]
    tensors += [] if training.ema is None else [*training.ema.state_dict().values()]
    for moments in training.optimizer.state.values():
        tensors += [each for each in moments.values() if isinstance(each, torch.Tensor)]
    return sum(each.numel() * each.element_size() for each in tensors)


def _memory_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.max_memory_reserved(device))
    return round(peak_memory_mib() * (1 << 20))


def _existing_folder(path: Path) -> Path:
    return next(each for each in (path, *path.parents) if each.is_dir())


def _size(size: float) -> str:
    """``850 MB``, ``1.2 GB``: decimal, as disks are sold."""
    return f"{size / 1e6:.3g} MB" if size < 1e9 else f"{size / 1e9:,.3g} GB"
