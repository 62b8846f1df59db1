"""Methods ranked on a set of pictures: means with bootstrap intervals, and which of them cannot be told apart.

Axes: P pictures, L resamples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from vitrine.metrics.intervals import MIN_PICTURES, RESAMPLES, Values, bootstrap_interval, interval_at_bound
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

    Raises:
        ValueError: an unknown metric, infinite values, or arrays of different length.
    """

    name: str
    is_control: bool
    values: Mapping[str, Values]
    seconds: float | None = None

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
class RankedMethod:
    """One row of a ranking.

    Attributes:
        name, is_control, seconds: of the method.
        estimates: by metric key, those that were measured.
        standing: "best"; "ties", not separable from the best; "below" or "above" it, separably (only a control can be
            above); "unknown" with too few pictures.
        lead: by how much the best is better, see :func:`paired_difference`; None for the best itself.
    """

    name: str
    is_control: bool
    seconds: float | None
    estimates: Mapping[str, Estimate]
    standing: Standing
    lead: Estimate | None = None

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
            "seconds_a_picture": round_number(self.seconds),
            "metrics": {key: estimate.to_dict() for key, estimate in self.estimates.items()},
        }


@dataclass(frozen=True)
class Ranking:
    """Methods from best to worst, then controls from best to worst.

    Attributes:
        by: the metric that decides.
        rows: methods, the first of them the best, then controls.
        pictures: how many there were.
        resamples, seed: of the bootstrap.
    """

    by: Metric
    rows: tuple[RankedMethod, ...]
    pictures: int
    resamples: int
    seed: int

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Metrics that some row has, the deciding one first."""
        measured_metrics = [each for each in METRICS if any(each.key in row.estimates for row in self.rows)]
        return (self.by, *(each for each in measured_metrics if each != self.by))

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready and stable: floats are rounded to ``DECIMALS``."""
        return {
            "ranked_by": self.by.key,
            "higher_is_better": self.by.higher_is_better,
            "pictures": self.pictures,
            "bootstrap": {"resamples": self.resamples, "seed": self.seed},
            "methods": [row.to_dict() for row in self.rows],
        }


def rank_methods(
    methods: Sequence[ScoredMethod], *, by: str | None = None, resamples: int = RESAMPLES, seed: int = 0
) -> Ranking:
    """Rank methods by their mean, and say which of them tie.

    The best method is the one with the best mean. Another ties with it where the 95 % bootstrap interval of the mean
    difference between the two, taken picture by picture, holds 0. The pairs matter: pictures differ far more than
    methods do. Each comparison stands for itself; nothing is corrected for their number.

    Args:
        methods: at least one that is no control, scored on the same pictures.
        by: key of the metric that decides. None takes the pointing hit where :data:`MIN_PICTURES` pictures have masks
            (anybody can check it by eye, and the share of the mask says what chance would hit), else insertion less
            deletion. Equal means are ordered by average precision or insertion less deletion, then by name.
        resamples: bootstrap samples.
        seed: of the bootstrap: the same seed gives the same numbers.

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
    rows = tuple(_row(method, best, decider, resamples, seed) for method in methods_by_rank)
    return Ranking(decider, rows, lengths.pop(), resamples, seed)


def estimate(values_P: Values, of: Metric, *, resamples: int = RESAMPLES, seed: int = 0) -> Estimate | None:
    """The mean of the values that are there, with its interval; None where all are NaN.

    The interval is the percentile bootstrap's, or the exact one where every value is the best or the worst there is
    (:func:`~vitrine.metrics.intervals.interval_at_bound`).
    """
    values_P = values_P[~np.isnan(values_P)].astype(np.float64)
    n = len(values_P)
    if not n:
        return None
    mean = float(values_P.mean())
    if n < MIN_PICTURES:
        return Estimate(mean, None, n)
    interval = interval_at_bound(values_P, of.low, n)
    if interval is None:
        interval = bootstrap_interval(values_P, resamples=resamples, seed=seed)
    return Estimate(mean, interval, n)


def paired_difference(
    first: ScoredMethod, second: ScoredMethod, by: Metric, *, resamples: int = RESAMPLES, seed: int = 0
) -> Estimate | None:
    """By how much the first is better than the second, on the pictures that both have; above 0 whatever the direction.

    In the metric's unit, with the bootstrap interval of the mean of differences; None where no picture has both.
    """
    differences_P = (first.values[by.key] - second.values[by.key]) * (1 if by.higher_is_better else -1)
    return estimate(differences_P, Metric(by.key, by.label, low=-1), resamples=resamples, seed=seed)


def _row(method: ScoredMethod, best: ScoredMethod, by: Metric, resamples: int, seed: int) -> RankedMethod:
    values = [(each, method.values[each.key]) for each in METRICS if each.key in method.values]
    pairs = ((each.key, estimate(values_P, each, resamples=resamples, seed=seed)) for each, values_P in values)
    estimates = {key: entry for key, entry in pairs if entry is not None}
    lead = None if method is best else paired_difference(best, method, by, resamples=resamples, seed=seed)
    standing: Standing = "best" if method is best else "unknown"
    if lead is not None and lead.interval is not None:
        standing = "below" if lead.interval.low > 0 else "above" if lead.interval.high < 0 else "ties"
    return RankedMethod(method.name, method.is_control, method.seconds, estimates, standing, lead)


def _default(methods: Sequence[ScoredMethod]) -> str:
    counts = [np.count_nonzero(~np.isnan(method.values.get("pointing", np.empty(0)))) for method in methods]
    return "pointing" if min(counts) >= MIN_PICTURES else "gap"


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
