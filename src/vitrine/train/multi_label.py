"""Training a multi-label classifier: as a classifier is trained, but every label is learnt and measured by itself."""

from __future__ import annotations

from typing import Any

import torch

from vitrine.classify.inference import BatchLogits, join_multi_label_logits
from vitrine.classify.predictions_csv import DEFAULT_THRESHOLD, predictions_csv
from vitrine.metrics.multi_label import MultiLabelLogits, concatenate_multi_label, multi_label_metrics
from vitrine.models.checkpoints.transformers_config import MULTI_LABEL_TYPE
from vitrine.runs.folder import RunFolder
from vitrine.train.class_balance import balanced_positive_weights
from vitrine.train.classifier import ClassifierTask
from vitrine.train.losses import MultiLabelClassification, Objective
from vitrine.train.task import ValidationResult


class MultiLabelTask(ClassifierTask):
    """A vision transformer with an output for every label; see :class:`vitrine.train.task.Task`.

    Epochs are compared by the mean average precision.
    """

    problem_type = MULTI_LABEL_TYPE

    def objective(self, device: torch.device) -> Objective:
        """Binary cross-entropy of the labels."""
        weights_C = None
        if self.settings.loss.class_weights == "balanced":
            weights_C = balanced_positive_weights(self._count_labels(), len(self.data.train))
        labels, mean, std = len(self.labels), self.spec.mean, self.spec.std
        return MultiLabelClassification(self.settings.loss, labels, mean, std, device, weights_C)

    def _join(self, parts: list[BatchLogits]) -> MultiLabelLogits:
        return join_multi_label_logits(parts, len(self.labels))

    def _measure(self, parts: list[Any], precision: str) -> ValidationResult:
        metrics = multi_label_metrics(
            concatenate_multi_label(parts), self.labels, precision=precision, threshold=DEFAULT_THRESHOLD
        )
        return ValidationResult(metrics.negative_log_likelihood, metrics.accuracy, metrics.mean_average_precision)

    def _write_predictions(self, run: RunFolder, logits: MultiLabelLogits, precision: str) -> dict[str, Any]:
        table = predictions_csv(logits, self.labels, probabilities=True, threshold=DEFAULT_THRESHOLD)
        run.write("predictions.csv", table)
        return multi_label_metrics(logits, self.labels, precision=precision, threshold=DEFAULT_THRESHOLD).to_dict()
