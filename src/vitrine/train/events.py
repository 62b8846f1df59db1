"""What a training tells while it runs, and what it comes to: frozen objects for a face to show."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vitrine.results import CaptioningMetrics, ClassificationMetrics
from vitrine.train.loop import StepDone


@dataclass(frozen=True)
class Plan:
    """What is about to be trained, for a face to show."""

    train_pictures: int
    validation_pictures: int
    classes: int
    quarantined: tuple[str, ...]
    parameters: int
    trainable: int
    device: str
    precision: str
    steps_per_epoch: int
    epochs: int
    first_step: int
    notes: tuple[str, ...]
    processes: int = 1


@dataclass(frozen=True)
class EpochRow:
    """One line of history.jsonl.

    Losses are natural logarithms; accuracies 0 to 1, of a captioner over word pieces; epochs count from 1.
    """

    epoch: int
    step: int
    learning_rate: float
    train_loss: float
    train_accuracy: float | None
    validation_loss: float
    validation_accuracy: float
    best: bool


@dataclass(frozen=True)
class ProgressUpdate:
    """Pictures read so far, of how many, and what for."""

    done: int
    total: int
    what: str = "Reading pictures"


@dataclass(frozen=True)
class Note:
    """Something that a person would want to know of while a training runs."""

    text: str


Event = Plan | ProgressUpdate | StepDone | EpochRow | Note


@dataclass(frozen=True)
class TrainResult:
    """A finished run: its folder, the best epoch, and that epoch's metrics on the validation split."""

    run: Path
    best_epoch: int
    epochs: int
    metrics: ClassificationMetrics | CaptioningMetrics

    @property
    def classified(self) -> ClassificationMetrics:
        """The metrics of a run that trained a classifier.

        Raises:
            TypeError: it trained a captioner.
        """
        if isinstance(self.metrics, CaptioningMetrics):
            raise TypeError(f"{self.run} trained a captioner.")
        return self.metrics


@dataclass
class Best:
    """The best epoch so far: by accuracy, ties by loss."""

    epoch: int = 0
    accuracy: float = -1.0
    loss: float = float("inf")
    stale: int = 0

    def improves(self, epoch: int, accuracy: float, loss: float) -> bool:
        if (accuracy, -loss) <= (self.accuracy, -self.loss):
            self.stale += 1
            return False
        self.epoch, self.accuracy, self.loss, self.stale = epoch, accuracy, loss, 0
        return True
