"""Methods ranked on a set of pictures: means with intervals, and which of them cannot be told apart.

Axes: P pictures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from vitrine.metrics.intervals import METHOD, MIN_PICTURES, Values, mean_interval
from vitrine.metrics.paired_tests import LEVEL, sign_flip_p
from vitrine.results import Interval, round_number

Standing = Literal["best", "ties", "below", "above", "unknown"]


@dataclass(frozen=True)
class Metric:
    """One number a picture, from ``low`` to 1, by its name for programs (``key``) and for people (``label``)."""

    key: str
    label: str
    higher_is_better: bool = True
    low: float = 0.0


METRICS = (
    Metric("pointing", "pointing hit"),
    Metric("inside", "share inside"),
    Metric("average_precision", "average precision"),
    Metric("iou_best", "best IoU"),
    Metric("iou_mean", "IoU at mean"),
    Metric("gap", "insertion − deletion", low=-1.0),
    Metric("insertion", "insertion area"),
    Metric("deletion", "deletion area", higher_is_better=False),
    Metric("deletion_blur", "deletion under blur", higher_is_better=False),
    Metric("deletion_others", "deletion under others", higher_is_better=False),
)
"""All metrics, in the order in which they are shown. The first five need masks."""


def metric(key: str) -> Metric:
    """The metric of a key.

    Raises:
        ValueError: there is none.
    """
    by_key = {each.key: each for each in METRICS}
    if key not in by_key:
        raise ValueError(f"No metric is called {key!r}; there are {', '.join(by_key)}.")
    return by_key[key]


@dataclass(frozen=True, eq=False)
class ScoredMethod:
    """The scores of a method, or of a control that knows nothing of the model, on every picture.

    Attributes:
        name: as it is shown; unique.
        is_control: whether it is a control.
        values: by metric key, float (P,), the same pictures in the same order for all methods; NaN where a picture has
            no such number, for example without a mask.
        seconds: a picture; None where it was not timed.
        memory: bytes of tensors at a time for one picture; None where it was not measured.

    Raises:
        ValueError: an unknown metric, infinite values, or arrays of different length.
    """

    name: str
    is_control: bool
    values: Mapping[str, Values]
    seconds: float | None = None
    memory: int | None = None

    def __post_init__(self) -> None:
        shapes = {metric(key).key: np.shape(values_P) for key, values_P in self.values.items()}
        if len(set(shapes.values())) > 1 or any(len(shape) != 1 for shape in shapes.values()):
            raise ValueError(f"{self.name}: expected one value a picture for every metric; got shapes {shapes}.")
        if any(np.isinf(values_P).any() for values_P in self.values.values()):
            raise ValueError(f"{self.name}: a value is infinite.")


@dataclass(frozen=True)
class Estimate:
    """The mean over the ``n`` pictures that have the number; its 95 % interval from :data:`MIN_PICTURES` on."""

    mean: float
    interval: Interval | None
    n: int

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, rounded to ``DECIMALS``."""
        return {"mean": round_number(self.mean), "interval_95": _ends(self.interval), "n": self.n}


@dataclass(frozen=True)
class PairedDifference:
    """By how much one is better than another on the same pictures.

    Attributes:
        difference: the mean difference; above 0 where the first is better, whatever the metric's direction.
        wins, losses: pictures on which the first is better, and worse.
        p: of an exact paired test, two-sided, not corrected for other comparisons: see
            :func:`~vitrine.metrics.paired_tests.sign_flip_p`.
    """

    difference: Estimate
    wins: int
    losses: int
    p: float

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, rounded to ``DECIMALS``."""
        return {**self.difference.to_dict(), "wins": self.wins, "losses": self.losses, "p": round_number(self.p)}


@dataclass(frozen=True)
class RankedMethod:
    """One row of a ranking.

    Attributes:
        name, is_control, seconds, memory: of the method.
        estimates: by metric key, those that were measured.
        standing: "best"; "ties", not separable from the best; "below" or "above" it, separably (only a control can be
            above); "unknown" with too few pictures.
        lead: by how much the best is better; None for the best itself.
        p: of the lead, corrected for every pair of methods, and of a method and a control, that it could have been.
    """

    name: str
    is_control: bool
    seconds: float | None
    estimates: Mapping[str, Estimate]
    standing: Standing
    lead: PairedDifference | None = None
    p: float | None = None
    memory: int | None = None

    @property
    def ties_with_best(self) -> bool | None:
        """Whether it is the best or cannot be told from it; None with too few pictures to say."""
        return None if self.standing == "unknown" else self.standing in ("best", "ties")

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, rounded to ``DECIMALS``."""
        return {
            "name": self.name,
            "control": self.is_control,
            "standing": self.standing,
            "lead_of_best": None if self.lead is None else self.lead.to_dict(),
            "p_of_lead": round_number(self.p),
            "seconds_a_picture": round_number(self.seconds),
            "bytes_a_picture": self.memory,
            "metrics": {key: estimate.to_dict() for key, estimate in self.estimates.items()},
        }


@dataclass(frozen=True)
class Ranking:
    """Methods from best to worst, then controls from best to worst.

    Attributes:
        by: the metric that decides.
        rows: methods, the first of them the best, then controls.
        pictures: how many there were; a metric may be of fewer, see :meth:`pictures_of`.
    """

    by: Metric
    rows: tuple[RankedMethod, ...]
    pictures: int

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Metrics that some row has, the deciding one first."""
        measured_metrics = [each for each in METRICS if any(each.key in row.estimates for row in self.rows)]
        return (self.by, *(each for each in measured_metrics if each != self.by))

    @property
    def leading_control(self) -> RankedMethod | None:
        """The best control, where it does better than the best method; else None."""
        best = self.rows[0].estimates.get(self.by.key)
        control = next((row for row in self.rows if row.is_control and self.by.key in row.estimates), None)
        if best is None or control is None:
            return None
        lead = control.estimates[self.by.key].mean - best.mean
        return control if (lead if self.by.higher_is_better else -lead) > 0 else None

    def best(self, count: int) -> Ranking:
        """The first so many methods, and all controls."""
        methods = [row for row in self.rows if not row.is_control][:count]
        return replace(self, rows=(*methods, *(row for row in self.rows if row.is_control)))

    def pictures_of(self, each: Metric) -> tuple[int, int]:
        """The fewest and the most pictures that a row has this metric of; one number wherever rows agree."""
        counts = [row.estimates[each.key].n for row in self.rows if each.key in row.estimates]
        return min(counts, default=0), max(counts, default=0)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready and stable: floats are rounded to ``DECIMALS``."""
        return {
            "ranked_by": self.by.key,
            "higher_is_better": self.by.higher_is_better,
            "pictures": self.pictures,
            "intervals": {"unit": "picture", "method": METHOD},
            "methods": [row.to_dict() for row in self.rows],
        }


def rank_methods(methods: Sequence[ScoredMethod], *, by: str | None = None) -> Ranking:
    """Rank methods by their mean, and say which of them tie.

    The best method is the one with the best mean. Another is below it where an exact paired test tells the two apart,
    picture by picture (pictures differ far more than methods do), at :data:`~vitrine.metrics.paired_tests.LEVEL` after
    correction for the number of pairs; else they tie. All pairs count (Bonferroni), not only those with the best: which
    method is compared was chosen by the same pictures. Of ten methods of one hit rate, the best would else be said to
    lead another in 12 of 100 sets of pictures.

    Args:
        methods: at least one that is no control, scored on the same pictures.
        by: key of the metric that decides. None takes the pointing hit where :data:`MIN_PICTURES` pictures have masks
            (anybody can check it by eye, and the share of the mask says what chance would hit), else insertion less
            deletion. Equal means are ordered by average precision or insertion less deletion, then by name.

    Raises:
        ValueError: no method, two of one name, different numbers of pictures, or one without the deciding metric.
    """
    lengths = {len(values_P) for method in methods for values_P in method.values.values()}
    if all(method.is_control for method in methods) or len({method.name for method in methods}) < len(methods):
        raise ValueError("A ranking needs at least one method that is no control, and names that differ.")
    if len(lengths) != 1:
        raise ValueError(f"All methods must be scored on the same pictures; got {sorted(lengths)} pictures.")
    decider = metric(by or _default(methods))
    lacking = [method.name for method in methods if not _has(method, decider.key)]
    if lacking:
        raise ValueError(f"Cannot rank by {decider.label}: {lacking[0]} has no value for it on any picture.")
    methods_by_rank = sorted(methods, key=lambda method: _sort_key(method, decider))
    best = methods_by_rank[0]
    leads = [paired_difference(best, method, decider) for method in methods_by_rank[1:]]
    candidates = sum(not method.is_control for method in methods)
    pairs = candidates * (candidates - 1) // 2 + candidates * (len(methods) - candidates)
    rows = [RankedMethod(best.name, best.is_control, best.seconds, _estimates(best), "best", memory=best.memory)]
    for method, lead in zip(methods_by_rank[1:], leads, strict=True):
        p = min(1.0, lead.p * pairs) if lead is not None and lead.difference.n >= MIN_PICTURES else None
        estimates = _estimates(method)
        rows.append(
            RankedMethod(
                method.name, method.is_control, method.seconds, estimates, _standing(lead, p), lead, p, method.memory
            )
        )
    return Ranking(decider, tuple(rows), lengths.pop())


def estimate(values_P: Values, of: Metric) -> Estimate | None:
    """The mean of the values that are there, with its interval; None where all are NaN."""
    return _estimate(values_P[~np.isnan(values_P)].astype(np.float64), of.low, 1.0)


def paired_difference(first: ScoredMethod, second: ScoredMethod, by: Metric) -> PairedDifference | None:
    """By how much the first is better than the second, on the pictures that both have; None where there is none."""
    differences_P = (first.values[by.key] - second.values[by.key]) * (1 if by.higher_is_better else -1)
    differences_P = differences_P[~np.isnan(differences_P)].astype(np.float64)
    mean = _estimate(differences_P, by.low - 1, 1 - by.low)
    if mean is None:
        return None
    wins, losses = int(np.count_nonzero(differences_P > 0)), int(np.count_nonzero(differences_P < 0))
    return PairedDifference(mean, wins, losses, sign_flip_p(differences_P))


def _estimate(values_P: Values, low: float, high: float) -> Estimate | None:
    if not len(values_P):
        return None
    return Estimate(float(values_P.mean()), mean_interval(values_P, low, high), len(values_P))


def _estimates(method: ScoredMethod) -> dict[str, Estimate]:
    values = [(each, method.values[each.key]) for each in METRICS if each.key in method.values]
    means = ((each.key, estimate(values_P, each)) for each, values_P in values)
    return {key: mean for key, mean in means if mean is not None}


def _standing(lead: PairedDifference | None, p: float | None) -> Standing:
    if lead is None or p is None:
        return "unknown"
    if p > LEVEL:
        return "ties"
    return "below" if lead.difference.mean > 0 else "above"


def _default(methods: Sequence[ScoredMethod]) -> str:
    hits = [int(np.count_nonzero(~np.isnan(method.values.get("pointing", np.empty(0))))) for method in methods]
    has_gap = all(_has(method, "gap") for method in methods)
    return "pointing" if min(hits) >= MIN_PICTURES or (min(hits) and not has_gap) else "gap"


def _has(method: ScoredMethod, key: str) -> bool:
    return key in method.values and not np.isnan(method.values[key]).all()


def _sort_key(method: ScoredMethod, by: Metric) -> tuple[Any, ...]:
    """Methods before controls, then the better mean, then what is written in :func:`rank_methods`."""
    second = "average_precision" if _has(method, "average_precision") else "gap"
    means = [
        np.nanmean(method.values[key]) * (-1 if metric(key).higher_is_better else 1) if _has(method, key) else 0.0
        for key in (by.key, second)
    ]
    return (method.is_control, *means, method.name)


def _ends(interval: Interval | None) -> list[float | None] | None:
    return None if interval is None else [round_number(interval.low), round_number(interval.high)]
