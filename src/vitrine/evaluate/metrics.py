"""The figures of a classifier, from its outputs. Axes: N pictures, C classes.

Beside the logits themselves nothing is kept of which there is more than of pictures and classes together.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from vitrine.errors import DataError
from vitrine.evaluate.intervals import wilson
from vitrine.evaluate.outputs import Outputs, log_normaliser, require_finite
from vitrine.results import DECIMALS, ClassificationMetrics, ClassMetrics, ConfusionCount, Mistake

CALIBRATION_BINS = 15  # as in Guo et al. (2017)
_HARDEST = 20
_TOP = 5


def classification_metrics(
    outputs: Outputs, labels: Sequence[str], *, precision: str, hardest: int = _HARDEST
) -> ClassificationMetrics:
    """Every figure of an evaluation.

    Args:
        outputs: of at least one picture, all with a known label.
        labels: the C class names, all different.
        precision: the arithmetic that the model ran in, ``fp32`` or ``bf16``; stated with the figures.
        hardest: how many of the surest mistakes are listed.

    Raises:
        DataError: there is no picture, or one without a label.
        ModelError: a logit is not finite.
        ValueError: the number of class names is not the number of outputs, or a name comes twice.
    """
    _check(outputs, labels)
    predicted_N, true_N = outputs.predicted, outputs.labels_N
    n, rows_N = len(true_N), np.arange(len(true_N))
    normaliser_N = log_normaliser(outputs.logits_NC)
    confidence_N = np.exp(outputs.logits_NC[rows_N, predicted_N].astype(np.float64) - normaliser_N)
    right_N = predicted_N == true_N
    correct = int(np.count_nonzero(right_N))
    return ClassificationMetrics(
        n=n,
        precision=precision,
        accuracy=correct / n,
        accuracy_interval=wilson(correct, n),
        top5=_top_accuracy(outputs, _TOP) if len(labels) > _TOP else None,
        negative_log_likelihood=float(np.mean(normaliser_N - outputs.logits_NC[rows_N, true_N].astype(np.float64))),
        calibration_error=expected_calibration_error(confidence_N, right_N),
        calibration_bins=CALIBRATION_BINS,
        classes=_per_class(predicted_N, true_N, labels),
        confusion=_confusion(predicted_N, true_N, len(labels)),
        hardest=_hardest(outputs, labels, predicted_N, confidence_N, hardest),
    )


def expected_calibration_error(
    confidence_N: npt.NDArray[np.float64], right_N: npt.NDArray[np.bool_], bins: int = CALIBRATION_BINS
) -> float:
    """How far confidence and accuracy are apart: the mean over pictures of |accuracy - confidence| of their bin.

    The bins are ((m - 1)/M, m/M], m = 1 to M, of the confidence (the predicted label's probability).

    Source: Guo, Pleiss, Sun, Weinberger (2017), On calibration of modern neural networks, ICML, equations 2 to 5.
    torchmetrics gives a confidence of exactly 1 a bin of its own, which a saturated softmax makes common; so it is
    not used here, and is a cross-check in the tests.

    Args:
        confidence_N: float64, 0 to 1.
        right_N: bool, whether the predicted label is right.
        bins: M.

    Returns:
        0 to 1; 0 is perfectly calibrated.
    """
    edges = np.arange(1, bins) / bins
    bin_N = np.searchsorted(edges, confidence_N, side="left")
    gap = np.bincount(bin_N, weights=right_N - confidence_N, minlength=bins)
    return float(np.abs(gap).sum() / len(confidence_N))


def _check(outputs: Outputs, labels: Sequence[str]) -> None:
    if len(labels) != outputs.logits_NC.shape[1] or len(set(labels)) != len(labels):
        raise ValueError(f"Expected {outputs.logits_NC.shape[1]} different class names; got {len(labels)}: {labels}.")
    if not outputs.names:
        raise DataError("There is no picture to evaluate.")
    unknown = np.flatnonzero(outputs.labels_N < 0)
    if len(unknown):
        raise DataError(
            f"{len(unknown)} pictures have no label, for example {outputs.names[unknown[0]]}. "
            "Evaluation needs labelled pictures; use vitrine predict for others."
        )
    require_finite(outputs.names, outputs.logits_NC)


def _confusion(
    predicted_N: npt.NDArray[np.int64], true_N: npt.NDArray[np.int64], classes: int
) -> tuple[ConfusionCount, ...]:
    """The pairs that occur: each is one number, true class x classes + predicted class, and numbers are counted."""
    pairs, pictures = np.unique(true_N * classes + predicted_N, return_counts=True)
    cells = zip((pairs // classes).tolist(), (pairs % classes).tolist(), pictures.tolist(), strict=True)
    return tuple(ConfusionCount(*cell) for cell in cells)


def _per_class(
    predicted_N: npt.NDArray[np.int64], true_N: npt.NDArray[np.int64], labels: Sequence[str]
) -> tuple[ClassMetrics, ...]:
    right, given, support = (
        np.bincount(each, minlength=len(labels)) for each in (true_N[predicted_N == true_N], predicted_N, true_N)
    )
    return tuple(
        ClassMetrics(
            label,
            precision=int(right[i]) / int(given[i]) if given[i] else None,
            recall=int(right[i]) / int(support[i]) if support[i] else None,
            support=int(support[i]),
        )
        for i, label in enumerate(labels)
    )


def _top_accuracy(outputs: Outputs, top: int) -> float:
    """Share of pictures with fewer than ``top`` classes before the true one; of equal logits the first class leads."""
    logits_NC, true_N1 = outputs.logits_NC, outputs.labels_N[:, None]
    own_N1 = np.take_along_axis(logits_NC, true_N1, axis=1)
    earlier_NC = np.arange(logits_NC.shape[1])[None] < true_N1
    before_N = np.count_nonzero((logits_NC > own_N1) | ((logits_NC == own_N1) & earlier_NC), axis=1)
    return float(np.count_nonzero(before_N < top) / len(before_N))


def _hardest(
    outputs: Outputs,
    labels: Sequence[str],
    predicted_N: npt.NDArray[np.int64],
    confidence_N: npt.NDArray[np.float64],
    count: int,
) -> tuple[Mistake, ...]:
    mistakes = [
        Mistake(
            outputs.names[i],
            labels[outputs.labels_N[i]],
            labels[predicted_N[i]],
            round(float(confidence_N[i]), DECIMALS),  # rounded first: the order is that of the figures as shown
        )
        for i in np.flatnonzero(predicted_N != outputs.labels_N)
    ]
    return tuple(sorted(mistakes, key=lambda mistake: (-mistake.probability, mistake.name))[:count])
