"""``vitrine evaluate``: a model measured on a split, and the files that say so."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vitrine.classify.inference import join_logits, predict_samples
from vitrine.classify.model import Classifier, in_precision, is_unfinished, open_classifier
from vitrine.classify.predictions_csv import predictions_csv
from vitrine.data.samples import Dataset, FiniteSplit
from vitrine.data.sources import open_data
from vitrine.errors import DataError
from vitrine.io.files import to_json, write_atomically
from vitrine.metrics.classification import (
    LabelledLogits,
    check_expected_accuracy,
    classification_metrics,
    count_changed_labels,
    is_within_tolerance,
)
from vitrine.plotting.confusion import confusion_csv, save_confusion_figure
from vitrine.plotting.tables import metrics_table
from vitrine.results import (
    ClassificationMetrics,
    Progress,
    Unreadable,
    no_progress,
    unreadable_lines,
    unreadable_to_json,
)
from vitrine.runs.environment import WEIGHTS_SHA256
from vitrine.runs.folder import RunFolder


def choose_split(found: Dataset, wanted: str | None) -> str:
    """The split that is wanted; by default test, else validation, else train.

    Raises:
        DataError: it does not exist, is empty, or is endless.
    """
    finite = [name for name, part in found.splits.items() if not part.endless and len(part)]
    for name in (wanted,) if wanted else ("test", "validation", "train"):
        if name in finite:
            return name
    raise DataError(f"{found.reference} has no {wanted or 'finite'} split; it has: {', '.join(finite) or 'none'}.")


def split_of_run(folder: Path | None) -> tuple[int, float]:
    """Seed and share of the split that a run's training made; 0 and 0.2 of what is no run."""
    if folder is None or not RunFolder(folder).is_started:
        return 0, 0.2
    recipe = RunFolder(folder).read_recipe()
    return recipe.seed, recipe.val_fraction


@dataclass(frozen=True)
class Evaluation:
    """What ``vitrine evaluate`` found.

    Attributes:
        model, data, split: what was evaluated.
        metrics: all figures, with n and the precision.
        unreadable: (name, reason) of pictures that count in no figure.
        expected, tolerance: from the caller; None where nothing was expected.
        met: whether the accuracy is within tolerance of what was expected; None where nothing was.
        unfinished: the model is of a run whose training has not ended: its best epoch so far.
        moved: (other precision, pictures whose label differs in it); None where it was not asked for.
        weights_sha256: of the model; None for random ones.
        notes: sentences on the weights.
    """

    model: str
    data: str
    split: str
    metrics: ClassificationMetrics
    unreadable: tuple[Unreadable, ...]
    expected: float | None
    tolerance: float
    met: bool | None
    moved: tuple[str, int] | None
    unfinished: bool = False
    weights_sha256: str | None = None
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; the same evaluation gives the same bytes."""
        content: dict[str, Any] = {
            "model": self.model,
            "data": self.data,
            "split": self.split,
            WEIGHTS_SHA256: self.weights_sha256,
            **self.metrics.to_dict(),
        }
        content["unreadable"] = unreadable_to_json(self.unreadable)
        if self.expected is not None:
            content["expectation"] = {"accuracy": self.expected, "tolerance": self.tolerance, "met": self.met}
        if self.unfinished:
            content["unfinished_run"] = True
        if self.moved is not None:
            content["moved_labels"] = {"against": self.moved[0], "pictures": self.moved[1]}
        return content

    def table(self) -> str:
        """The same for a person."""
        lines = [f"{self.model} on {self.data}, {self.split} split", "", metrics_table(self.metrics)]
        if self.unfinished:
            lines += ["", "The training of this run has not ended: these are the weights of its best epoch so far."]
        lines += unreadable_lines(self.unreadable)
        if self.moved is not None:
            lines += ["", f"{self.moved[1]} of {self.metrics.n} labels differ in {self.moved[0]}."]
        if self.expected is not None:
            verdict = "met" if self.met else "MISSED"
            lines += ["", f"Expected {self.expected:g} within {self.tolerance:g}: {verdict}."]
        return "\n".join(lines)


def evaluate(
    model: str,
    data: str,
    *,
    out: Path | None = None,
    split: str | None = None,
    expect: float | None = None,
    tolerance: float = 0.005,
    batch_size: int = 64,
    precision: str = "auto",
    against: str | None = None,
    seed: int | None = None,
    architecture: str | None = None,
    progress: Progress = no_progress,
) -> Evaluation:
    """Evaluate a model on one split of the data.

    Args:
        model: a model reference with a head of its own.
        data: a data reference; its class names must be among the model's.
        out: where metrics.json, confusion.csv, confusion.png and predictions.csv go; None writes nothing.
        split: which split; by default test, else validation, else train.
        expect: the accuracy that is expected; None expects nothing.
        tolerance: how far from ``expect`` is still right.
        batch_size: pictures at a time; it does not change labels beyond rounding.
        precision: auto, fp32 or bf16.
        against: a second precision whose labels are compared with the first's.
        seed: of the split made where the data have none; by default a run's own, so that its validation pictures
            are the ones it was not trained on, else 0.
        architecture: the timm name of the model where ``model`` is a weights file.
        progress: called with pictures done, of how many.

    Raises:
        DataError, ModelError: the input cannot be used.
    """
    if expect is not None:
        check_expected_accuracy(expect, tolerance)
    opened = open_classifier(model, precision, architecture)
    other = None if against is None else in_precision(opened, against)
    own_seed, fraction = split_of_run(opened.folder)
    found = open_data(data, seed=own_seed if seed is None else seed, val_fraction=fraction)
    name = choose_split(found, split)
    samples = _relabelled(found, name, opened)
    parts = list(predict_samples(opened, samples, batch_size=batch_size, progress=progress))
    outputs = join_logits(parts)
    unreadable = tuple(each for part in parts for each in part.unreadable)
    metrics = classification_metrics(outputs, opened.labels, precision=opened.precision)
    moved = None
    if other is not None:
        again = join_logits(predict_samples(other, samples, batch_size=batch_size, progress=progress))
        moved = (other.precision, count_changed_labels(outputs, again))
    met = None if expect is None else is_within_tolerance(metrics.accuracy, expect, tolerance)
    weights = opened.weights
    told = is_unfinished(opened), weights.sha256 if weights else None, opened.notes
    result = Evaluation(model, data, name, metrics, unreadable, expect, tolerance, met, moved, *told)
    if out is not None:
        _write(out, result, outputs, opened.labels)
    return result


def _relabelled(found: Dataset, split: str, opened: Classifier) -> FiniteSplit:
    """The split's samples with labels as the model numbers them."""
    positions = {label: index for index, label in enumerate(opened.labels)}
    unknown = [label for label in found.labels if label not in positions]
    if unknown:
        shown = ", ".join(repr(label) for label in unknown[:5])
        raise DataError(
            f"{found.reference} has classes that the model does not know: {shown} ({len(unknown)} in all).\n"
            f"The model's classes: {', '.join(opened.labels[:8])}{' ...' if len(opened.labels) > 8 else ''}"
        )
    mapped = [positions[label] for label in found.labels]
    return FiniteSplit([replace(s, label=None if s.label is None else mapped[s.label]) for s in found.splits[split]])


def _write(out: Path, result: Evaluation, outputs: LabelledLogits, labels: tuple[str, ...]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / "metrics.json", to_json(result.to_dict()))
    write_atomically(out / "predictions.csv", predictions_csv(outputs, labels))
    write_atomically(out / "confusion.csv", confusion_csv(result.metrics))
    origin = {"model": result.model, "weights_sha256": result.weights_sha256 or "", "data": result.data}
    save_confusion_figure(result.metrics, out / "confusion.png", origin | {"split": result.split})
