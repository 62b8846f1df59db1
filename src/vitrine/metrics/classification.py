"""Metrics of a classifier from its logits: accuracy, calibration, per class; and comparison with an expected accuracy.

Beside the logits themselves, memory grows with pictures plus classes, not with their product.

Axes: N pictures, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vitrine.errors import DataError, ModelError, VitrineError
from vitrine.metrics.intervals import wilson
from vitrine.results import DECIMALS, ClassificationMetrics, ClassMetrics, ConfusionCount, Mistake, agree, count_of

# At most so many rows, and so many numbers, are copied to float64 at a time, however many pictures there are.
_MAX_ROWS, _MAX_NUMBERS = 4096, 1 << 22


@dataclass(frozen=True, eq=False)
class LabelledLogits:
    """Logits of named pictures, with their true classes.

    Attributes:
        names: N names, as in the data.
        logits_NC: float32, finite; before the softmax.
        labels_N: int64, index of the true class; -1 where it is not known.

    Raises:
        ValueError: shapes do not fit one another, or a label is no class.
    """

    names: tuple[str, ...]
    logits_NC: npt.NDArray[np.float32]
    labels_N: npt.NDArray[np.int64]

    def __post_init__(self) -> None:
        shape = self.logits_NC.shape
        if len(shape) != 2 or self.labels_N.shape != shape[:1] or len(self.names) != shape[0]:
            raise ValueError(
                f"Expected N names, (N, C) logits and N labels; got {count_of(len(self.names), 'name')}, "
                f"logits {shape}, "
                f"labels {self.labels_N.shape}."
            )
        if len(self.labels_N) and not -1 <= self.labels_N.min() <= self.labels_N.max() < shape[1]:
            raise ValueError(
                f"Labels must be -1 to {shape[1] - 1}; got {self.labels_N.min()} to {self.labels_N.max()}."
            )

    @property
    def predictions(self) -> npt.NDArray[np.int64]:
        """The likeliest class of each picture, int64 (N,); the first of several that are equal."""
        likeliest_N: npt.NDArray[np.int64] = self.logits_NC.argmax(axis=1).astype(np.int64)
        return likeliest_N


def concatenate_logits(parts: Sequence[LabelledLogits]) -> LabelledLogits:
    """Join logits that were computed in parts, in the order of the parts."""
    return LabelledLogits(
        names=tuple(name for part in parts for name in part.names),
        logits_NC=np.concatenate([part.logits_NC for part in parts]),
        labels_N=np.concatenate([part.labels_N for part in parts]),
    )


def count_changed_labels(first: LabelledLogits, second: LabelledLogits) -> int:
    """Count the pictures that get another label in a second computation (another precision, another batch size).

    Raises:
        ValueError: they are not of the same pictures in the same order.
    """
    if first.names != second.names:
        raise ValueError(
            f"Logits of different pictures cannot be compared: {len(first.names)} and {len(second.names)}."
        )
    return int(np.count_nonzero(first.predictions != second.predictions))


def require_finite(names: Sequence[str], logits_NC: npt.NDArray[np.floating]) -> None:
    """Refuse logits that are not finite: the label would be a guess.

    Raises:
        ModelError: a logit is not finite; the message names the first picture concerned.
    """
    finite_N = np.isfinite(logits_NC).all(axis=1)
    if not finite_N.all():
        wrong = int(np.argmin(finite_N))
        raise ModelError(
            f"The model's output for {names[wrong]} is not finite ({int(np.count_nonzero(~finite_N))} such pictures).\n"
            "Its weights may be damaged; or try --precision fp32."
        )


def logsumexp(logits_NC: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """log(sum(exp(logits))) of each row, float64 (N,): a probability is exp(logit - this)."""
    result_N = np.empty(len(logits_NC), dtype=np.float64)
    step = min(_MAX_ROWS, max(1, _MAX_NUMBERS // max(1, logits_NC.shape[1])))
    for start in range(0, len(logits_NC), step):
        rows = slice(start, start + step)
        part_NC = logits_NC[rows].astype(np.float64)
        top_N1 = part_NC.max(axis=1, keepdims=True)  # subtracted so that exp does not overflow
        result_N[rows] = np.log(np.exp(part_NC - top_N1).sum(axis=1)) + top_N1[:, 0]
    return result_N


def sigmoid(logits: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """1 / (1 + exp(-logits)), float64 of the same shape: the probability of each label by itself."""
    return np.exp(-np.logaddexp(0, -logits.astype(np.float64)))


CALIBRATION_BINS = 15  # as in Guo et al. (2017)
_HARDEST = 20
_TOP = 5


def classification_metrics(
    logits: LabelledLogits, labels: Sequence[str], *, precision: str, hardest: int = _HARDEST
) -> ClassificationMetrics:
    """Compute all metrics of an evaluation.

    Args:
        logits: of at least one picture, all with a known label.
        labels: the C class names, all different.
        precision: the arithmetic that the model ran in, ``fp32`` or ``bf16``; stated with the figures.
        hardest: how many of the most confident mistakes are listed.

    Raises:
        DataError: there is no picture, or one without a label.
        ModelError: a logit is not finite.
        ValueError: the number of class names is not the number of logits, or a name comes twice.
    """
    _check_complete(logits, labels)
    predicted_N, true_N = logits.predictions, logits.labels_N
    n, rows_N = len(true_N), np.arange(len(true_N))
    normaliser_N = logsumexp(logits.logits_NC)
    confidence_N = np.exp(logits.logits_NC[rows_N, predicted_N].astype(np.float64) - normaliser_N)
    right_N = predicted_N == true_N
    correct = int(np.count_nonzero(right_N))
    return ClassificationMetrics(
        n=n,
        precision=precision,
        accuracy=correct / n,
        accuracy_interval=wilson(correct, n),
        top5=_top_accuracy(logits, _TOP) if len(labels) > _TOP else None,
        negative_log_likelihood=float(np.mean(normaliser_N - logits.logits_NC[rows_N, true_N].astype(np.float64))),
        calibration_error=expected_calibration_error(confidence_N, right_N),
        calibration_bins=CALIBRATION_BINS,
        classes=_per_class(predicted_N, true_N, labels),
        confusion=_confusion(predicted_N, true_N, len(labels)),
        hardest=_hardest(logits, labels, predicted_N, confidence_N, hardest),
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


def _check_complete(logits: LabelledLogits, labels: Sequence[str]) -> None:
    if len(labels) != logits.logits_NC.shape[1] or len(set(labels)) != len(labels):
        raise ValueError(f"Expected {logits.logits_NC.shape[1]} different class names; got {len(labels)}: {labels}.")
    if not logits.names:
        raise DataError("There is no picture to evaluate.")
    unknown = np.flatnonzero(logits.labels_N < 0)
    if len(unknown):
        raise DataError(
            f"{count_of(len(unknown), 'picture')} {agree(len(unknown), 'has', 'have')} no label, for example "
            f"{logits.names[unknown[0]]}. "
            "Evaluation needs labelled pictures; use vitrine predict for others."
        )
    require_finite(logits.names, logits.logits_NC)


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
    right, predictions, support = (
        np.bincount(each, minlength=len(labels)) for each in (true_N[predicted_N == true_N], predicted_N, true_N)
    )
    return tuple(
        ClassMetrics(
            label,
            precision=int(right[i]) / int(predictions[i]) if predictions[i] else None,
            recall=int(right[i]) / int(support[i]) if support[i] else None,
            support=int(support[i]),
        )
        for i, label in enumerate(labels)
    )


def _top_accuracy(logits: LabelledLogits, top: int) -> float:
    """Share of pictures with fewer than ``top`` classes before the true one; of equal logits the first class leads."""
    logits_NC, true_N1 = logits.logits_NC, logits.labels_N[:, None]
    own_N1 = np.take_along_axis(logits_NC, true_N1, axis=1)
    earlier_NC = np.arange(logits_NC.shape[1])[None] < true_N1
    before_N = np.count_nonzero((logits_NC > own_N1) | ((logits_NC == own_N1) & earlier_NC), axis=1)
    return float(np.count_nonzero(before_N < top) / len(before_N))


def _hardest(
    logits: LabelledLogits,
    labels: Sequence[str],
    predicted_N: npt.NDArray[np.int64],
    confidence_N: npt.NDArray[np.float64],
    count: int,
) -> tuple[Mistake, ...]:
    mistakes = [
        Mistake(
            logits.names[i],
            labels[logits.labels_N[i]],
            labels[predicted_N[i]],
            round(float(confidence_N[i]), DECIMALS),  # rounded first: the order is that of the figures as shown
        )
        for i in np.flatnonzero(predicted_N != logits.labels_N)
    ]
    return tuple(sorted(mistakes, key=lambda mistake: (-mistake.probability, mistake.name))[:count])


_ROUNDING = 1e-9  # 0.95 - 0.005 is not 0.945 in binary; no accuracy of fewer than 1e9 pictures is this close to another


def check_expected_accuracy(expected: float, tolerance: float) -> None:
    """Refuse an expected accuracy or a tolerance that makes no sense; to be called before the work.

    Raises:
        VitrineError: ``expected`` is not 0 to 1, or ``tolerance`` is not 0 to 1.
    """
    if not 0 <= expected <= 1:
        raise VitrineError(f"The expected accuracy must be between 0 and 1, for example 0.95; got {expected:g}.")
    if not 0 <= tolerance <= 1:
        raise VitrineError(f"The tolerance must be between 0 and 1: 0.005 is half a point; got {tolerance:g}.")


def is_within_tolerance(accuracy: float, expected: float, tolerance: float) -> bool:
    """Whether an accuracy is within ``tolerance`` of the expected one, on either side, ends included.

    Both sides count: a re-run that is better than expected by more than the tolerance is not the same result, and
    usually means other data.

    Args:
        accuracy: that was measured, a share of 1.
        expected: a share of 1.
        tolerance: how far the two may be apart, a share of 1: 0.005 is half a point.

    Raises:
        VitrineError: see :func:`check_expected_accuracy`.
    """
    check_expected_accuracy(expected, tolerance)
    return abs(accuracy - expected) <= tolerance + _ROUNDING
