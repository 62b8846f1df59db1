"""Events that a training reports while it runs, and its result; whoever calls it shows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vitrine.display import ResultDisplay
from vitrine.results import CaptioningMetrics, ClassificationMetrics, MultiLabelMetrics
from vitrine.runs.folder import RunFolder
from vitrine.runs.leakage import LEAKAGE, Leakage
from vitrine.train.estimate import Estimate
from vitrine.train.loop import StepDone


@dataclass(frozen=True)
class Plan:
    """What is about to be trained.

    Attributes:
        train_pictures: in one epoch.
        validation_pictures: that each epoch is measured on.
        classes: 0 for a captioner.
        quarantined: name and reason of each picture that cannot be read.
        parameters: of the whole model.
        trainable: how many of these are trained.
        device: torch's name of its kind, such as cpu.
        precision: fp32 or bf16.
        steps_per_epoch: optimizer steps.
        epochs: in all.
        first_step: optimizer steps that an earlier, stopped training took.
        notes: sentences on decisions that a person would want to know.
        processes: that train together.
        choices: sentences on recipe fields that rules chose.
    """

    train_pictures: int
    validation_pictures: int
    classes: int
    quarantine: tuple[str, ...]
    parameters: int
    trainable: int
    device: str
    precision: str
    steps_per_epoch: int
    epochs: int
    first_step: int
    notes: tuple[str, ...]
    processes: int = 1
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class EpochRow:
    """One line of history.jsonl.

    Losses are in nats, accuracies from 0 to 1, both over pictures or a captioner's tokens; epochs count from 1. Of a
    multi-label model, ``best`` is by the mean average precision, which other rows do not have.
    """

    epoch: int
    step: int
    learning_rate: float
    train_loss: float
    train_accuracy: float | None
    validation_loss: float
    validation_accuracy: float
    best: bool
    validation_mean_average_precision: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """The row as the file has it."""
        row = asdict(self)
        if self.validation_mean_average_precision is None:
            del row["validation_mean_average_precision"]
        return row


@dataclass(frozen=True)
class ProgressUpdate:
    """``done`` of ``total`` pictures went through some work that takes long; ``what`` says which."""

    done: int
    total: int
    what: str = "Reading pictures"


@dataclass(frozen=True)
class Note:
    """A sentence that a person would want to read while a training runs."""

    text: str


Event = Plan | ProgressUpdate | StepDone | EpochRow | Note | Estimate


@dataclass(frozen=True, repr=False)
class TrainResult(ResultDisplay):
    """A finished run. It can be given wherever its folder can: ``vitrine.load(result)``, ``evaluate(result, data)``.

    Attributes:
        run: its folder.
        best_epoch: whose weights were kept, from 1.
        epochs: how many were trained.
        metrics: of the best epoch's weights on the validation pictures.
        leakage: validation pictures that also stand in training, and the result without them; None where that cannot be
            known.
    """

    run: Path
    best_epoch: int
    epochs: int
    metrics: ClassificationMetrics | MultiLabelMetrics | CaptioningMetrics
    leakage: Leakage | None = None

    def __fspath__(self) -> str:
        return str(self.run)

    def headline(self) -> str:
        """The result on the validation pictures, and the run."""
        m = self.metrics
        if isinstance(m, MultiLabelMetrics):
            score = f"mean average precision {m.mean_average_precision:.4f}"
        else:
            name = "accuracy" if isinstance(m, ClassificationMetrics) else "share of right word pieces"
            score = f"{name} {m.accuracy:.4f}"
        return f"{self.run}: {score} (n = {m.n}), epoch {self.best_epoch} of {self.epochs}"

    def details(self) -> str:
        """What is known of pictures that also stand in training."""
        return "\n".join(self.leakage.sentences()) if self.leakage else ""

    def table_rows(self) -> Sequence[Mapping[str, Any]]:
        """A row an epoch, as history.jsonl has them."""
        return [dict(row) for row in RunFolder(self.run).read_history()]

    def to_dict(self) -> dict[str, Any]:
        """The metrics and the leakage, JSON-ready."""
        leakage = None if self.leakage is None else self.leakage.to_dict()
        return self.metrics.to_dict() | {LEAKAGE: leakage}


@dataclass(frozen=True)
class TrainingPlan:
    """What ``vitrine train --dry-run`` found out; nothing was written.

    Attributes:
        run: the folder that would be written.
        plan: what would be trained.
        estimate: what it would take, from a few steps that were taken in memory.
        settings: the resolved recipe, by field.
    """

    run: Path
    plan: Plan
    estimate: Estimate
    settings: dict[str, Any]

    def text(self) -> str:
        """For a person; the plan itself was reported before."""
        return "\n".join([*self.estimate.sentences(), f"Run: {self.run}, of which nothing was written (--dry-run)."])

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        plan = asdict(self.plan)
        return {"run": str(self.run), "plan": plan, "estimate": self.estimate.to_dict(), "recipe": self.settings}


@dataclass
class Best:
    """The best epoch so far, by accuracy and then by loss; ``stale`` counts the epochs since.

    Of a multi-label model, the mean average precision stands for the accuracy.
    """

    epoch: int = 0
    accuracy: float = -1.0
    loss: float = float("inf")
    stale: int = 0

    def improves(self, epoch: int, accuracy: float, loss: float) -> bool:
        """Whether an epoch is better than all before it, which it then replaces."""
        if (accuracy, -loss) <= (self.accuracy, -self.loss):
            self.stale += 1
            return False
        self.epoch, self.accuracy, self.loss, self.stale = epoch, accuracy, loss, 0
        return True
