"""``vitrine evaluate``: a model measured on a split, and the files that say so."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vitrine.classify.inference import input_normalisation, predict_samples
from vitrine.classify.labels import classes_called
from vitrine.classify.measurement import Measurement, measure
from vitrine.classify.model import UNFINISHED, Classifier, in_precision, is_unfinished, open_classifier
from vitrine.classify.predictions_csv import choose_threshold
from vitrine.data.class_names import rename_classes
from vitrine.data.labelled_inputs import LabelledInput
from vitrine.data.samples import Dataset, FiniteSplit, Sample
from vitrine.data.sources import open_data
from vitrine.data.training_copies import TrainingCopy
from vitrine.display import ResultDisplay
from vitrine.errors import DataError
from vitrine.io.files import to_json, write_atomically
from vitrine.io.output_lock import writes_folder
from vitrine.metrics.classification import check_expected_accuracy, is_within_tolerance
from vitrine.plotting.tables import metrics_table, multi_label_metrics_table
from vitrine.results import (
    ONE_TRAINING,
    ClassificationMetrics,
    MultiLabelMetrics,
    Progress,
    Unreadable,
    no_progress,
    unreadable_lines,
    unreadable_to_json,
)
from vitrine.runs.environment import WEIGHTS_SHA256
from vitrine.runs.folder import RunFolder
from vitrine.runs.leakage import LEAKAGE, TRAINING_COPIES, Leakage
from vitrine.runs.training_pictures import TrainingCopies, copies_of_run

_SHOWN_COPIES = 5  # of training pictures; metrics.json has all


@dataclass(frozen=True)
class SplitSettings:
    """How a validation split is made where the data have none.

    Attributes:
        seed: of the draw.
        val_fraction: share of the training pictures, 0 to 1.
    """

    seed: int = 0
    val_fraction: float = 0.2


def split_settings(folder: Path | None, seed: int | None = None) -> SplitSettings:
    """What a run's training used, so that its validation pictures are the ones it was not trained on.

    Args:
        folder: of the model; the defaults are taken where it is no run.
        seed: replaces the run's; None keeps it.
    """
    settings = SplitSettings()
    if folder is not None and RunFolder(folder).is_started:
        recipe = RunFolder(folder).read_recipe()
        settings = SplitSettings(recipe.seed, recipe.val_fraction)
    return settings if seed is None else replace(settings, seed=seed)


def choose_split(data: Dataset, split: str | None) -> str:
    """The name of the split to evaluate on: ``split``, or by default test, else validation, else train.

    Raises:
        DataError: it does not exist, is empty, or is endless.
    """
    finite = [name for name, part in data.splits.items() if not part.endless and len(part)]
    for name in (split,) if split else ("test", "validation", "train"):
        if name in finite:
            return name
    raise DataError(f"{data.reference} has no {split or 'finite'} split; it has: {', '.join(finite) or 'none'}.")


@dataclass(frozen=True, kw_only=True, repr=False)
class EvaluationResult(ResultDisplay, ABC):
    """What ``vitrine evaluate`` found, of a classifier or of a captioner.

    Attributes:
        model, data, split: what was evaluated.
        unreadable: (name, reason) of pictures that count in no figure.
        weights_sha256: of the model; None for random ones.
        notes: sentences on files and decisions.
        leakage: pictures that also stand in the training of the model's run, and the result without them; None where
            that is not known: the model is no run, or its training pictures were evaluated.
        copies: these pictures.
    """

    model: str
    data: str
    split: str
    unreadable: tuple[Unreadable, ...]
    weights_sha256: str | None
    notes: tuple[str, ...]
    leakage: Leakage | None = None
    copies: tuple[TrainingCopy, ...] = ()

    def headline(self) -> str:
        """What was measured on what."""
        return f"{self.model} on {self.data}, {self.split} split"

    def details(self) -> str:
        """The table."""
        return self.table()

    @property
    def missed_expectation(self) -> bool:
        """Whether a score was expected that was not reached."""
        return False

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; the same evaluation gives the same bytes."""
        return {
            "model": self.model,
            "data": self.data,
            "split": self.split,
            WEIGHTS_SHA256: self.weights_sha256,
            **self._scores(),
            LEAKAGE: None if self.leakage is None else self.leakage.to_dict(),
            TRAINING_COPIES: [each.to_dict() for each in self.copies],
            "unreadable": unreadable_to_json(self.unreadable),
        }

    def leakage_lines(self) -> list[str]:
        """Below a table: what the result is without pictures that also stand in training; no line where none does."""
        if not self.leakage:
            return []
        examples = [f"  {each.name}: {each.description}" for each in self.copies[:_SHOWN_COPIES]]
        rest = len(self.copies) - len(examples)
        return ["", *self.leakage.sentences(), *examples, *([f"  and {rest:,} more"] if rest else [])]

    @abstractmethod
    def _scores(self) -> Mapping[str, Any]:
        """The figures, JSON-ready."""

    @abstractmethod
    def table(self) -> str:
        """The same for a person."""

    def write_metrics(self, out: Path) -> dict[str, str]:
        """Write ``metrics.json`` into a folder, which is made where it is missing.

        Returns:
            The metadata of the figures beside it.
        """
        out.mkdir(parents=True, exist_ok=True)
        write_atomically(out / "metrics.json", to_json(self.to_dict()))
        weights_sha256 = self.weights_sha256 or ""
        return {"model": self.model, "weights_sha256": weights_sha256, "data": self.data, "split": self.split}


@dataclass(frozen=True)
class Expectation:
    """A score that was expected.

    Attributes:
        value: 0 to 1.
        tolerance: how far from it is still right.
        is_met: whether the score that was measured is.
        measure: what it is of: accuracy, or mean average precision.
    """

    value: float
    tolerance: float
    is_met: bool
    measure: str = "accuracy"

    @classmethod
    def of(cls, measurement: Measurement, expected_score: float, tolerance: float) -> Expectation:
        """Hold what was measured against what was expected."""
        is_met = is_within_tolerance(measurement.score, expected_score, tolerance)
        return cls(expected_score, tolerance, is_met, measurement.score_name)


@dataclass(frozen=True)
class LabelChanges:
    """Labels that differ in another precision.

    Attributes:
        precision: the other one.
        pictures: how many have another label in it.
    """

    precision: str
    pictures: int


@dataclass(frozen=True, kw_only=True, repr=False)
class ClassifierEvaluation(EvaluationResult):
    """What ``vitrine evaluate`` found of a classifier.

    Attributes:
        metrics: all figures, with n and the precision.
        expectation: None where nothing was expected.
        label_changes: None where no other precision was asked for.
        is_unfinished: the model is of a run whose training has not ended: its best epoch so far.
    """

    metrics: ClassificationMetrics | MultiLabelMetrics
    expectation: Expectation | None = None
    label_changes: LabelChanges | None = None
    is_unfinished: bool = False

    @property
    def missed_expectation(self) -> bool:
        """Whether an accuracy was expected that is further away than the tolerance."""
        return self.expectation is not None and not self.expectation.is_met

    def headline(self) -> str:
        """The score that counts, and of what."""
        metrics = self.metrics
        if isinstance(metrics, MultiLabelMetrics):
            score = f"mean average precision {metrics.mean_average_precision:.4f}"
        else:
            score = f"accuracy {metrics.accuracy:.4f}"
        return f"{score} (n = {metrics.n}, {metrics.precision}): {super().headline()}"

    def table_rows(self) -> Sequence[Mapping[str, Any]]:
        """A row a class."""
        return [vars(each) for each in self.metrics.classes]

    def _scores(self) -> Mapping[str, Any]:
        return self.metrics.to_dict()

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; the same evaluation gives the same bytes."""
        content = super().to_dict()
        if self.expectation is not None:
            expectation = self.expectation
            content["expectation"] = {
                expectation.measure.replace(" ", "_"): expectation.value,
                "tolerance": expectation.tolerance,
                "met": expectation.is_met,
            }
        if self.is_unfinished:
            content["unfinished_run"] = True
        if self.label_changes is not None:
            changes = self.label_changes
            content["moved_labels"] = {"against": changes.precision, "pictures": changes.pictures}
        return content

    def table(self) -> str:
        """The same for a person."""
        metrics = self.metrics
        table = multi_label_metrics_table(metrics) if isinstance(metrics, MultiLabelMetrics) else metrics_table(metrics)
        lines = [f"{self.model} on {self.data}, {self.split} split", "", table]
        if self.is_unfinished:
            lines += ["", UNFINISHED]
        lines += self.leakage_lines()
        lines += ["", ONE_TRAINING]
        lines += unreadable_lines(self.unreadable)
        if self.label_changes is not None:
            changes = self.label_changes
            what = "pictures have other labels" if isinstance(metrics, MultiLabelMetrics) else "labels differ"
            lines += ["", f"{changes.pictures} of {self.metrics.n} {what} in {changes.precision}."]
        if self.expectation is not None:
            expectation = self.expectation
            verdict = "met" if expectation.is_met else "MISSED"
            what = "" if expectation.measure == "accuracy" else f"{expectation.measure} "
            lines += ["", f"Expected {what}{expectation.value:g} within {expectation.tolerance:g}: {verdict}."]
        return "\n".join(lines)


@writes_folder("evaluate")
def evaluate(
    model: str | Classifier,
    data: str | LabelledInput,
    *,
    out: Path | None = None,
    split: str | None = None,
    expect: float | None = None,
    tolerance: float = 0.005,
    batch_size: int = 64,
    precision: str = "auto",
    against: str | None = None,
    threshold: float | None = None,
    seed: int | None = None,
    architecture: str | None = None,
    names: Path | None = None,
    progress: Progress = no_progress,
) -> ClassifierEvaluation:
    """Evaluate a model on one split of the data.

    Args:
        model: a model reference with a head of its own.
        data: a data reference, or pictures in memory with their labels; class names must be among the model's.
        out: where metrics.json, confusion.csv, confusion.png and predictions.csv go; of a multi-label model labels.csv
            and labels.png in place of the confusion. None writes nothing.
        split: which split; by default test, else validation, else train.
        expect: the accuracy that is expected, of a multi-label model the mean average precision; None expects nothing.
        tolerance: how far from ``expect`` is still right.
        batch_size: pictures at a time; it does not change labels beyond rounding.
        precision: auto, fp32 or bf16.
        against: a second precision whose labels are compared with the first's.
        threshold: of a multi-label model, the probability above which a label is given, for F1; None is 0.5.
        seed: of the split made where the data have none; by default a run's own, so that its validation pictures
            are the ones it was not trained on, else 0.
        architecture: the timm name of the model where ``model`` is a weights file.
        names: a file with names for classes that are bare numbers, in the model and, where they are there, in the data.
        progress: called with pictures done, of how many.

    Raises:
        DataError, ModelError: the input cannot be used.
        UsageError: a threshold that is no probability, or for a model that gives every picture one label.
    """
    if expect is not None:
        check_expected_accuracy(expect, tolerance)
    classifier = open_classifier(model, precision, architecture, names=names)
    chosen_threshold = choose_threshold(threshold, is_multi_label=classifier.is_multi_label)
    other = None if against is None else in_precision(classifier, against)
    dataset = open_labelled(data, classifier, seed)
    if chosen_threshold is None:
        dataset.require_one_label("this model gives")
    name = choose_split(dataset, split)
    samples = _with_model_labels(dataset, name, classifier)
    parts = list(predict_samples(classifier, samples, batch_size=batch_size, progress=progress))
    copies = None if name == "train" else copies_of_run(classifier.folder, samples, progress)
    measurement = measure(parts, classifier, chosen_threshold)
    changes = None
    if other is not None:
        other_parts = list(predict_samples(other, samples, batch_size=batch_size, progress=progress))
        changes = LabelChanges(other.precision, measurement.count_changes(other_parts))
    result = ClassifierEvaluation(
        model=classifier.reference,
        data=dataset.reference,
        split=name,
        metrics=measurement.metrics,
        unreadable=tuple(each for part in parts for each in part.unreadable),
        expectation=None if expect is None else Expectation.of(measurement, expect, tolerance),
        label_changes=changes,
        is_unfinished=is_unfinished(classifier),
        weights_sha256=classifier.weights.sha256 if classifier.weights else None,
        notes=classifier.notes,
        leakage=None if copies is None else _leakage(copies, measurement, name),
        copies=() if copies is None else copies.copies,
    )
    if out is not None:
        measurement.write(out, result.write_metrics(out))
    return result


def open_labelled(data: str | LabelledInput, classifier: Classifier, seed: int | None) -> Dataset:
    """Labelled data for a model: split as its run split them, with its names for classes that are bare numbers.

    Raises:
        DataError: they cannot be used.
    """
    if isinstance(data, LabelledInput):
        return data.dataset(classifier.labels, input_normalisation(classifier.spec))
    settings = split_settings(classifier.folder, seed)
    dataset = open_data(data, seed=settings.seed, val_fraction=settings.val_fraction)
    return rename_classes(dataset, classifier.numbers)


def _leakage(copies: TrainingCopies, measurement: Measurement, split: str) -> Leakage:
    """What the model comes to without pictures that also stand in its training."""
    return copies.leakage(measurement.right_by_name(), split=split, measure=measurement.leakage_measure)


def _with_model_labels(data: Dataset, split: str, classifier: Classifier) -> FiniteSplit:
    """The split's samples with labels as the model numbers them."""
    positions = {label: index for index, label in enumerate(classifier.labels)}
    unknown = [label for label in data.labels if label not in positions]
    for label in unknown:
        if same := classes_called(classifier.labels, label):
            raise DataError(
                f"{data.reference} has a class {label!r}, and the model has {len(same)} of that name: "
                f"{', '.join(same)}.\nRename the data's class to the one that is meant."
            )
    if unknown:
        examples = ", ".join(repr(label) for label in unknown[:5])
        raise DataError(
            f"{data.reference} has classes that the model does not know: {examples} ({len(unknown)} in all).\n"
            f"The model's classes: {', '.join(classifier.labels[:8])}{' ...' if len(classifier.labels) > 8 else ''}"
        )
    indices = [positions[label] for label in data.labels]
    return FiniteSplit([_renumber(sample, indices) for sample in data.splits[split]])


def _renumber(sample: Sample, indices: Sequence[int]) -> Sample:
    """The sample with its labels as another list numbers them."""
    if sample.labels is not None:
        return replace(sample, labels=tuple(sorted(indices[label] for label in sample.labels)))
    return replace(sample, label=None if sample.label is None else indices[sample.label])
