"""The interface between the trainer and what is trained: a classifier or a captioner with its data."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from vitrine.models.reference import WeightsFile
from vitrine.runs.folder import RunFolder
from vitrine.train.distributed import ProcessGroup
from vitrine.train.loop import MicroBatch
from vitrine.train.losses import Objective

Batches = Callable[[int, int], Iterator[MicroBatch]]
"""(epoch, first batch) to the batches of an epoch from that one on."""


@dataclass(frozen=True)
class ValidationResult:
    """How an epoch's weights do on the validation pictures.

    Attributes:
        loss: mean negative log-likelihood over pictures or tokens, in nats.
        accuracy: share of them that were predicted right, 0 to 1; of a multi-label model, pictures all of whose labels
            are right.
        mean_average_precision: of a multi-label model, 0 to 1; None of others.
    """

    loss: float
    accuracy: float
    mean_average_precision: float | None = None

    @property
    def score(self) -> float:
        """What epochs are compared by: the mean average precision where there is one, else the accuracy."""
        return self.accuracy if self.mean_average_precision is None else self.mean_average_precision


@dataclass(frozen=True)
class RuntimeConfig:
    """Where and how a training computes: the device, ``fp32`` or ``bf16``, and the processes that share the work."""

    device: torch.device
    precision: str
    processes: ProcessGroup = field(default_factory=ProcessGroup)


class Task(Protocol):
    """The model and the data of one training.

    Attributes:
        data_record: content of data.json.
        labels: class names; empty for a captioner.
        notes: sentences on decisions that a person would want to know.
        weights: the file of the starting weights; None for random ones.
        width: of the model's tokens, by which ``precision = auto`` is decided.
        epoch_pictures: training pictures in one epoch.
        validation_pictures: pictures that each epoch is measured on.
        frozen_parameters: how many parameters the model has outside of the module that :meth:`trainable` returns.
    """

    data_record: dict[str, Any]
    labels: tuple[str, ...]
    notes: tuple[str, ...]
    weights: WeightsFile | None
    width: int
    epoch_pictures: int
    validation_pictures: int
    frozen_parameters: int

    def draw_preview(self, folder: Path) -> tuple[Path, ...]:
        """Draw what the model will be fed, as PNG files in a folder; what was written, possibly nothing."""
        ...

    def trainable(self) -> nn.Module:
        """The module to train, its frozen parameters frozen; may draw from torch's global random state."""
        ...

    def optimizer(self, module: nn.Module) -> torch.optim.Optimizer:
        """The optimizer over the module's trainable parameters."""
        ...

    def objective(self, device: torch.device) -> Objective:
        """The loss to minimise."""
        ...

    def batches(self, runtime: RuntimeConfig) -> AbstractContextManager[Batches]:
        """A function of (epoch, first batch), both from 0, that gives this process's parts of the epoch's batches.

        Background workers live as long as the context.
        """
        ...

    def names(self, epoch: int, batch: Any) -> Sequence[str]:
        """File names of a batch's pictures."""
        ...

    def validate(self, module: nn.Module, runtime: RuntimeConfig) -> ValidationResult:
        """Measure an epoch's weights. A collective: each process measures its part of the validation pictures."""
        ...

    def save(self, run: RunFolder, module: nn.Module) -> None:
        """Write an epoch's weights into the run folder."""
        ...

    def finalize(self, run: RunFolder, runtime: RuntimeConfig) -> dict[str, Any]:
        """Measure the saved weights, write the tables of predictions, and return the content of metrics.json.

        Only the main process calls it.
        """
        ...
