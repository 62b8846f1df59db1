"""What a classifier came to on pictures with one label each or with several: metrics, and the files that say so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from vitrine.classify.inference import BatchLogits, join_logits, join_multi_label_logits
from vitrine.classify.model import Classifier
from vitrine.classify.predictions_csv import predictions_csv
from vitrine.io.files import write_atomically
from vitrine.metrics.classification import LabelledLogits, classification_metrics, count_changed_labels
from vitrine.metrics.multi_label import MultiLabelLogits, multi_label_metrics
from vitrine.plotting.average_precision import label_metrics_csv, save_average_precision_figure
from vitrine.plotting.confusion import confusion_csv, save_confusion_figure
from vitrine.results import ClassificationMetrics, MultiLabelMetrics
from vitrine.runs.leakage import ACCURACY, EXACT_LABELS


class Measurement(Protocol):
    """Metrics of a classifier with the logits behind them.

    Attributes:
        metrics: of all pictures that could be read.
        score_name: what an expectation is of: the accuracy, or the mean average precision.
        leakage_measure: what is counted of pictures that also stand in training.
    """

    score_name: str
    leakage_measure: str

    @property
    def metrics(self) -> ClassificationMetrics | MultiLabelMetrics:
        """The figures."""
        ...

    @property
    def score(self) -> float:
        """The figure called ``score_name``, 0 to 1."""
        ...

    def right_by_name(self) -> dict[str, bool]:
        """Whether what the model says of each picture is right, by its name."""
        ...

    def count_changes(self, parts: Sequence[BatchLogits]) -> int:
        """The pictures of which another computation, given by its logits, says something else."""
        ...

    def write(self, out: Path, metadata: Mapping[str, str]) -> None:
        """Write predictions, tables and the figure into a folder, which exists."""
        ...


def measure(parts: Sequence[BatchLogits], classifier: Classifier, threshold: float | None) -> Measurement:
    """Measure a classifier by its logits of labelled pictures.

    Args:
        parts: of all pictures.
        classifier: whose they are.
        threshold: of a multi-label model, the probability above which a label is given; None of others.

    Raises:
        DataError: not one picture could be read, or one has no label.
        ModelError: a logit is not finite.
    """
    if threshold is None:
        return _OneLabel(join_logits(parts), classifier.labels, classifier.precision)
    logits = join_multi_label_logits(parts, len(classifier.labels))
    return _SeveralLabels(logits, classifier.labels, classifier.precision, threshold)


class _OneLabel:
    """Of pictures with one label each."""

    score_name, leakage_measure = "accuracy", ACCURACY

    def __init__(self, logits: LabelledLogits, labels: tuple[str, ...], precision: str) -> None:
        self._logits, self._labels = logits, labels
        self.metrics = classification_metrics(logits, labels, precision=precision)

    @property
    def score(self) -> float:
        return self.metrics.accuracy

    def right_by_name(self) -> dict[str, bool]:
        is_right_N = self._logits.predictions == self._logits.labels_N
        return dict(zip(self._logits.names, is_right_N.tolist(), strict=True))

    def count_changes(self, parts: Sequence[BatchLogits]) -> int:
        return count_changed_labels(self._logits, join_logits(parts))

    def write(self, out: Path, metadata: Mapping[str, str]) -> None:
        write_atomically(out / "predictions.csv", predictions_csv(self._logits, self._labels))
        write_atomically(out / "confusion.csv", confusion_csv(self.metrics))
        save_confusion_figure(self.metrics, out / "confusion.png", metadata)


class _SeveralLabels:
    """Of pictures with any number of labels."""

    score_name, leakage_measure = "mean average precision", EXACT_LABELS

    def __init__(self, logits: MultiLabelLogits, labels: tuple[str, ...], precision: str, threshold: float) -> None:
        self._logits, self._labels, self._threshold = logits, labels, threshold
        self.metrics = multi_label_metrics(logits, labels, precision=precision, threshold=threshold)

    @property
    def score(self) -> float:
        return self.metrics.mean_average_precision

    def right_by_name(self) -> dict[str, bool]:
        is_right_N = (self._logits.predictions(self._threshold) == self._logits.targets_NC).all(axis=1)
        return dict(zip(self._logits.names, is_right_N.tolist(), strict=True))

    def count_changes(self, parts: Sequence[BatchLogits]) -> int:
        other = join_multi_label_logits(parts, len(self._labels))
        differs_NC = self._logits.predictions(self._threshold) != other.predictions(self._threshold)
        return int(np.count_nonzero(differs_NC.any(axis=1)))

    def write(self, out: Path, metadata: Mapping[str, str]) -> None:
        table = predictions_csv(self._logits, self._labels, probabilities=True, threshold=self._threshold)
        write_atomically(out / "predictions.csv", table)
        write_atomically(out / "labels.csv", label_metrics_csv(self.metrics))
        save_average_precision_figure(self.metrics, out / "labels.png", metadata)
