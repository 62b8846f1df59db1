"""What a training session asks of the thing that is trained: a classifier and a captioner answer differently."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import nn

from vitrine.models.reference import WeightsFile
from vitrine.runs.folder import RunFolder
from vitrine.train.distributed import ProcessGroup
from vitrine.train.loop import MicroBatch
from vitrine.train.losses import Objective

Batches = Callable[[int, int], Iterator[MicroBatch]]


@dataclass(frozen=True)
class ValidationResult:
    """What the validation pictures say of an epoch.

    Attributes:
        loss: natural logarithms, mean over pictures or word pieces.
        accuracy: share of them that were right, 0 to 1.
    """

    loss: float
    accuracy: float


@dataclass(frozen=True)
class RuntimeConfig:
    """Where a training runs, and which processes share the work."""

    device: torch.device
    precision: str
    processes: ProcessGroup = field(default_factory=ProcessGroup)


class Task(Protocol):
    """One training's model and data.

    Attributes:
        data_record: content of data.json.
        labels: class names; none of a captioner.
        notes: sentences on decisions that a person would want to know.
        weights: the file of the starting weights; None for random ones.
        width: of the model's tokens, by which a precision is chosen.
        epoch_pictures: pictures in one pass.
        validation_pictures: pictures that each epoch is measured on.
        frozen_parameters: parameters of the model that are outside of the module that is trained.
    """

    data_record: dict[str, Any]
    labels: tuple[str, ...]
    notes: tuple[str, ...]
    weights: WeightsFile | None
    width: int
    epoch_pictures: int
    validation_pictures: int
    frozen_parameters: int

    def trainable(self) -> nn.Module:
        """The module that is trained, with what is frozen frozen; it draws from torch's global seed."""
        ...

    def optimizer(self, module: nn.Module) -> torch.optim.Optimizer:
        """The optimizer over what is trainable."""
        ...

    def objective(self, device: torch.device) -> Objective:
        """The loss."""
        ...

    def batches(self, runtime: RuntimeConfig) -> AbstractContextManager[Batches]:
        """This process's parts of an epoch's batches (from 0) from a batch number on, while the context is open."""
        ...

    def names(self, epoch: int, batch: Any) -> Sequence[str]:
        """File names of a batch's pictures."""
        ...

    def validate(self, module: nn.Module, runtime: RuntimeConfig) -> ValidationResult:
        """Measure an epoch's weights: every process a part of the pictures, each picture once."""
        ...

    def save(self, run: RunFolder, module: nn.Module) -> None:
        """Write an epoch's weights."""
        ...

    def finalize(self, run: RunFolder, runtime: RuntimeConfig) -> dict[str, Any]:
        """Measure the weights that were written, write the tables, and return the content of metrics.json.

        The first process alone does it.
        """
        ...
