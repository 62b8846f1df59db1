"""Metrics of a multi-label classifier from its logits: average precision, F1 at a threshold, and their intervals.

Axes: N pictures, C labels, G groups of pictures with equal scores.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from vitrine.errors import DataError
from vitrine.metrics.classification import require_finite, sigmoid
from vitrine.metrics.intervals import MIN_PICTURES, jackknife_interval, wilson
from vitrine.results import DECIMALS, Interval, LabelMetrics, LabelMistake, MultiLabelMetrics, count_of

_HARDEST = 20

Floats: TypeAlias = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class MultiLabelLogits:
    """Logits of named pictures, with the labels that they have.

    Attributes:
        names: N names, as in the data.
        logits_NC: float32, finite; before the sigmoid.
        targets_NC: bool, whether the picture has the label.

    Raises:
        ValueError: shapes do not fit one another.
    """

    names: tuple[str, ...]
    logits_NC: npt.NDArray[np.float32]
    targets_NC: npt.NDArray[np.bool_]

    def __post_init__(self) -> None:
        shape = self.logits_NC.shape
        if len(shape) != 2 or self.targets_NC.shape != shape or len(self.names) != shape[0]:
            raise ValueError(
                f"Expected N names, (N, C) logits and (N, C) targets; got "
                f"{count_of(len(self.names), 'name')}, logits {shape}, "
                f"targets {self.targets_NC.shape}."
            )

    def predictions(self, threshold: float) -> npt.NDArray[np.bool_]:
        """Whether each label's probability is above a threshold, bool (N, C)."""
        above_NC: npt.NDArray[np.bool_] = sigmoid(self.logits_NC) > threshold
        return above_NC


def concatenate_multi_label(parts: Sequence[MultiLabelLogits]) -> MultiLabelLogits:
    """Join logits that were computed in parts, in the order of the parts."""
    return MultiLabelLogits(
        names=tuple(name for part in parts for name in part.names),
        logits_NC=np.concatenate([part.logits_NC for part in parts]),
        targets_NC=np.concatenate([part.targets_NC for part in parts]),
    )


def multi_hot(label_sets: Iterable[Sequence[int]], count: int, labels: int) -> npt.NDArray[np.bool_]:
    """Sets of label indices as bool (N, C), N being ``count`` and C ``labels``."""
    targets_NC = np.zeros((count, labels), dtype=np.bool_)
    for row_C, label_set in zip(targets_NC, label_sets, strict=True):
        row_C[list(label_set)] = True
    return targets_NC


def multi_label_metrics(
    logits: MultiLabelLogits, labels: Sequence[str], *, precision: str, threshold: float, hardest: int = _HARDEST
) -> MultiLabelMetrics:
    """Compute all metrics of an evaluation.

    Average precision is the mean, over the pictures that have the label, of the precision among those that score as
    high or higher: the step-wise area below the curve of precision and recall, as scikit-learn's
    ``average_precision_score`` has it, without interpolation. Means over labels leave out labels that no picture has,
    and those for which F1 is 0 / 0. Intervals leave pictures out one by one
    (:func:`vitrine.metrics.intervals.jackknife_interval`). With few pictures of a label its average precision comes out
    too high, so that the interval of the mean is around the mean less that bias, and may lie below it; it is None where
    a label has fewer than :data:`vitrine.metrics.intervals.MIN_PICTURES` pictures. How often it covers the truth is in
    docs/multilabel.md.

    Args:
        logits: of at least one picture, one of which has a label.
        labels: the C names, all different.
        precision: the arithmetic that the model ran in, ``fp32`` or ``bf16``; stated with the figures.
        threshold: the probability above which a label counts as given.
        hardest: how many of the surest mistakes are listed.

    Raises:
        DataError: there is no picture, or none with a label.
        ModelError: a logit is not finite.
        ValueError: the number of names is not the number of logits, or a name comes twice.
    """
    _check_complete(logits, labels)
    targets_NC, n = logits.targets_NC, len(logits.names)
    given_NC = logits.predictions(threshold)
    right_NC, wrong_NC, missed_NC = given_NC & targets_NC, given_NC & ~targets_NC, ~given_NC & targets_NC
    precisions = _AveragePrecisions.of(logits)
    f1 = _F1Scores.of(right_NC, wrong_NC, missed_NC)
    exact = int((given_NC == targets_NC).all(axis=1).sum())
    logits_NC = logits.logits_NC.astype(np.float64)
    return MultiLabelMetrics(
        n=n,
        precision=precision,
        threshold=threshold,
        mean_average_precision=precisions.mean,
        mean_average_precision_interval=precisions.interval(targets_NC.sum(axis=0)),
        micro_f1=f1.micro,
        micro_f1_interval=jackknife_interval(f1.micro, f1.micro_without_N, 0, 1),
        macro_f1=f1.macro,
        macro_f1_interval=jackknife_interval(f1.macro, f1.macro_without_N, 0, 1),
        accuracy=exact / n,
        accuracy_interval=wilson(exact, n),
        negative_log_likelihood=float((np.logaddexp(0, logits_NC) - targets_NC * logits_NC).mean()),
        without_label=int((~targets_NC.any(axis=1)).sum()),
        classes=tuple(
            LabelMetrics(
                label,
                average_precision=_or_none(precisions.of_label_C[c]),
                precision=_ratio(right_NC[:, c].sum(), given_NC[:, c].sum()),
                recall=_ratio(right_NC[:, c].sum(), targets_NC[:, c].sum()),
                f1=_or_none(f1.of_label_C[c]),
                support=int(targets_NC[:, c].sum()),
                predicted=int(given_NC[:, c].sum()),
            )
            for c, label in enumerate(labels)
        ),
        hardest=_hardest(logits, labels, wrong_NC | missed_NC, hardest),
    )


def _check_complete(logits: MultiLabelLogits, labels: Sequence[str]) -> None:
    if len(labels) != logits.logits_NC.shape[1] or len(set(labels)) != len(labels):
        raise ValueError(f"Expected {logits.logits_NC.shape[1]} different labels; got {len(labels)}: {labels}.")
    if not logits.names:
        raise DataError("There is no picture to evaluate.")
    if not logits.targets_NC.any():
        raise DataError(
            f"None of the {count_of(len(logits.names), 'picture')} has a label, so there is no precision to measure."
        )
    require_finite(logits.names, logits.logits_NC)


@dataclass(frozen=True, eq=False)
class _AveragePrecisions:
    """Average precision of every label, NaN of one that no picture has; and the mean without each picture in turn."""

    of_label_C: Floats
    mean: float
    mean_without_N: Floats

    def interval(self, support_C: npt.NDArray[np.integer]) -> Interval | None:
        """The 95 % interval of the mean, around the jackknife's estimate without bias.

        Source: M. H. Quenouille (1956), Notes on bias in estimation, Biometrika 43.
        """
        if support_C[support_C > 0].min() < MIN_PICTURES:
            return None
        pictures = len(self.mean_without_N)
        without_bias = self.mean + (pictures - 1) * (self.mean - float(self.mean_without_N.mean()))
        return jackknife_interval(min(max(without_bias, 0.0), 1.0), self.mean_without_N, 0, 1)

    @classmethod
    def of(cls, logits: MultiLabelLogits) -> _AveragePrecisions:
        pairs = zip(logits.logits_NC.T, logits.targets_NC.T, strict=True)
        of_label, total_N, count_N = [], np.zeros(len(logits.names)), np.zeros(len(logits.names))
        for scores_N, targets_N in pairs:
            value, without_N = average_precision(scores_N, targets_N)
            of_label.append(value)
            is_known_N = np.isfinite(without_N)
            total_N[is_known_N] += without_N[is_known_N]
            count_N += is_known_N
        mean = float(np.nanmean(of_label))
        mean_without_N = np.divide(total_N, count_N, out=np.full(len(total_N), mean), where=count_N > 0)
        return cls(np.array(of_label), mean, mean_without_N)


def average_precision(scores_N: npt.NDArray[np.floating], targets_N: npt.NDArray[np.bool_]) -> tuple[float, Floats]:
    """Average precision of one label, and what it is without each picture in turn.

    Args:
        scores_N: the higher, the likelier.
        targets_N: bool, whether the picture has the label.

    Returns:
        The average precision, 0 to 1, and float64 (N,); NaN where no picture has the label.
    """
    n, positives = len(scores_N), int(targets_N.sum())
    without_N = np.full(n, np.nan)
    if not positives:
        return np.nan, without_N
    order_N = np.argsort(-scores_N, kind="stable")
    sorted_N, hits_N = scores_N[order_N], targets_N[order_N]
    ends_G = np.flatnonzero(np.append(sorted_N[1:] != sorted_N[:-1], True))  # the last picture of each group
    group_N = np.searchsorted(ends_G, np.arange(n))
    size_G, right_G = ends_G + 1, np.cumsum(hits_N)[ends_G]
    new_G = np.diff(right_G, prepend=0)
    rest_G = np.maximum(size_G - 1, 1)  # a first picture alone has nothing left, and nothing right either
    same_G = np.cumsum(new_G * right_G / size_G)
    before_G = np.append(0, same_G[:-1])  # of the groups above, which a picture below them does not change
    without_negative_G = before_G + _from_here_on(new_G * right_G / rest_G)
    without_positive_G = before_G + _from_here_on(new_G * (right_G - 1) / rest_G) - (right_G - 1) / rest_G
    without_N[order_N[~hits_N]] = without_negative_G[group_N[~hits_N]] / positives
    if positives > 1:
        without_N[order_N[hits_N]] = without_positive_G[group_N[hits_N]] / (positives - 1)
    return float(same_G[-1] / positives), without_N


def _from_here_on(values_G: Floats) -> Floats:
    """The sum of each value and all after it."""
    sums_G: Floats = np.cumsum(values_G[::-1])[::-1]
    return sums_G


@dataclass(frozen=True, eq=False)
class _F1Scores:
    """F1 = 2 TP / (2 TP + FP + FN) of every label (NaN of 0 / 0), of all together, their mean, and those without each
    picture in turn."""

    of_label_C: Floats
    micro: float
    macro: float
    micro_without_N: Floats
    macro_without_N: Floats

    @classmethod
    def of(
        cls, right_NC: npt.NDArray[np.bool_], wrong_NC: npt.NDArray[np.bool_], missed_NC: npt.NDArray[np.bool_]
    ) -> _F1Scores:
        halves_NC = (2 * right_NC, 2 * right_NC + wrong_NC + missed_NC)  # above and below the line of the fraction
        above_C, below_C = (each_NC.sum(axis=0) for each_NC in halves_NC)
        above_N, below_N = (each_NC.sum(axis=1) for each_NC in halves_NC)
        of_label_C = _divide(above_C, below_C)
        total_N, count_N = np.zeros(len(right_NC)), np.zeros(len(right_NC))
        for c in range(len(above_C)):
            score_N = _divide(above_C[c] - halves_NC[0][:, c], below_C[c] - halves_NC[1][:, c])
            total_N += np.nan_to_num(score_N)
            count_N += np.isfinite(score_N)
        micro, macro = float(above_C.sum() / below_C.sum()), float(np.nanmean(of_label_C))
        micro_without_N = _divide(above_C.sum() - above_N, below_C.sum() - below_N)
        return cls(
            of_label_C,
            micro,
            macro,
            np.where(np.isfinite(micro_without_N), micro_without_N, micro),
            np.divide(total_N, count_N, out=np.full(len(total_N), macro), where=count_N > 0),
        )


def _divide(above: npt.NDArray[np.integer], below: npt.NDArray[np.integer]) -> Floats:
    """A quotient, NaN where it is 0 / 0."""
    quotient: Floats = np.divide(above, below, out=np.full(np.shape(above), np.nan), where=below > 0)
    return quotient


def _ratio(above: int, below: int) -> float | None:
    return float(above / below) if below else None


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _hardest(
    logits: MultiLabelLogits, labels: Sequence[str], is_wrong_NC: npt.NDArray[np.bool_], count: int
) -> tuple[LabelMistake, ...]:
    """The labels that were surest wrong: given and not there, or there and not given."""
    mistakes = []
    for c, label in enumerate(labels):
        rows_M = np.flatnonzero(is_wrong_NC[:, c])
        probability_M = sigmoid(logits.logits_NC[rows_M, c])
        surest_M = np.argsort(-np.abs(probability_M - 0.5), kind="stable")[:count]
        mistakes += [
            LabelMistake(
                logits.names[rows_M[m]],
                label,
                bool(logits.targets_NC[rows_M[m], c]),
                round(float(probability_M[m]), DECIMALS),  # rounded first: the order is that of the figures as shown
            )
            for m in surest_M
        ]
    order = sorted(mistakes, key=lambda each: (-round(abs(each.probability - 0.5), DECIMALS), each.name, each.label))
    return tuple(order[:count])
