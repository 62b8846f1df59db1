"""How often 95 % intervals cover the truth, by distribution and number of pictures: the section ``intervals``.

Axes: P pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import exp

import numpy as np
import numpy.typing as npt
from harness.error_rates import Aim, RateTable
from verdict_models import Workplace

from vitrine.metrics.intervals import MIN_PICTURES, clustered_intervals, mean_interval
from vitrine.results import Interval

Floats = npt.NDArray[np.float64]
Draw = Callable[[np.random.Generator, int], Floats]

SIZES = (6, 10, 20, 60)
NOMINAL, TOLERANCE = 0.95, 0.02
_ANYTHING = 1e9  # end of a range that has none
_SETS_A_DRAW = 20

CONTINUOUS: dict[str, tuple[Draw, float, float, float]] = {
    "normal": (lambda rng, n: rng.normal(size=n), 0.0, -_ANYTHING, _ANYTHING),
    "lognormal, sigma 0.5": (lambda rng, n: rng.lognormal(0, 0.5, n), exp(0.125), 0, _ANYTHING),
    "lognormal, sigma 1": (lambda rng, n: rng.lognormal(0, 1, n), exp(0.5), 0, _ANYTHING),
    "exponential": (lambda rng, n: rng.exponential(size=n), 1.0, 0, _ANYTHING),
    "beta(0.5, 5)": (lambda rng, n: rng.beta(0.5, 5, n), 0.5 / 5.5, 0, 1),
    "beta(5, 1)": (lambda rng, n: rng.beta(5, 1, n), 5 / 6, 0, 1),
    "beta(0.5, 0.5)": (lambda rng, n: rng.beta(0.5, 0.5, n), 0.5, 0, 1),
    "uniform, half of them 0": (lambda rng, n: np.where(rng.random(n) < 0.5, 0, rng.random(n)), 0.25, 0, 1),
    "0, 1/4, 1/2, 3/4 or 1": (
        lambda rng, n: rng.choice([0, 0.25, 0.5, 0.75, 1], n, p=[0.3, 0.1, 0.1, 0.1, 0.4]), 0.55, 0, 1,
    ),
}  # fmt: skip
"""By name: how values are drawn, their mean, and the range that they can have."""

DISCRETE: dict[str, tuple[Draw, float, float, float]] = {
    "hits, 0.6": (lambda rng, n: (rng.random(n) < 0.6).astype(float), 0.6, 0, 1),
    "hits, 0.9": (lambda rng, n: (rng.random(n) < 0.9).astype(float), 0.9, 0, 1),
    "differences of hits, 0.3 to 0.1": (lambda rng, n: rng.choice([1.0, 0, -1], n, p=[0.3, 0.6, 0.1]), 0.2, -1, 1),
    "differences of hits, 0.10 to 0.02": (
        lambda rng, n: rng.choice([1.0, 0, -1], n, p=[0.1, 0.88, 0.02]), 0.08, -1, 1,
    ),
}  # fmt: skip
"""The same, of values of which few different means can come: no interval covers 95 % of them exactly."""


def measure(workplace: Workplace) -> Iterable[RateTable]:
    """The section's table."""
    draws = _SETS_A_DRAW * workplace.sizes.draws
    rows, worst, least = [], 0.0, 1.0
    for name, (draw, truth, low, high) in {**CONTINUOUS, **DISCRETE}.items():
        cells = []
        for n in SIZES:
            covered = coverage(lambda rng, n=n, d=draw, ends=(low, high): mean_interval(d(rng, n), *ends), truth, draws)  # type: ignore[misc]
            if covered is not None:
                worst = max(worst, abs(covered - NOMINAL)) if name in CONTINUOUS else worst
                least = min(least, covered)
            cells.append("none" if covered is None else f"{covered:.3f}")
        before = [f"{_bootstrap_coverage(draw, truth, n, max(3, draws // 4)):.2f}" for n in SIZES]
        rows.append((name, *cells, ", ".join(before)))
    clustered = [coverage(lambda rng, n=n: _clustered(rng, n), 2 / 3, draws) for n in SIZES]  # type: ignore[misc]
    rows.append(
        ("several nouns a picture", *("none" if each is None else f"{each:.3f}" for each in clustered), "–"),
    )
    yield RateTable(
        "intervals",
        "How often the 95 % interval of a mean covers it, by the number of pictures",
        ("values", *(f"n = {n}" for n in SIZES), f"percentile bootstrap, n = {', '.join(map(str, SIZES))}"),
        tuple(rows),
        aims=(
            Aim("distance from 0.95, continuous values, worst", worst, "at most", TOLERANCE),
            Aim("coverage, all values, least", least, "at least", NOMINAL - TOLERANCE),
        ),
        notes=(
            f"{draws:,} sets each (bootstrap: a quarter of them, 500 resamples). With less than {MIN_PICTURES} "
            "pictures there is no interval, and nothing is compared.",
        ),
    )


def coverage(make: Callable[[np.random.Generator], Interval | None], truth: float, draws: int) -> float | None:
    """Share of intervals that hold the truth; None where there are none."""
    rng = np.random.default_rng(1)
    intervals = [make(rng) for _ in range(draws)]
    if any(interval is None for interval in intervals):
        return None
    return float(np.mean([each is not None and each.low <= truth <= each.high for each in intervals]))


def _bootstrap_coverage(draw: Draw, truth: float, n: int, draws: int) -> float:
    rng, covered = np.random.default_rng(1), 0
    for _ in range(draws):
        values_P = draw(rng, n)
        means = values_P[rng.integers(0, n, (500, n))].mean(axis=1)
        low, high = np.quantile(means, [0.025, 0.975])
        covered += low <= truth <= high
    return covered / draws


def _clustered(rng: np.random.Generator, pictures: int) -> Interval | None:
    """One to five nouns a picture, alike within a picture; their mean is 2/3."""
    sizes = rng.integers(1, 6, pictures)
    names = [str(picture) for picture, size in enumerate(sizes) for _ in range(size)]
    level = np.repeat(rng.beta(2, 1, pictures), sizes)
    values = np.clip(level + rng.normal(0, 0.02, len(level)), 0, 1)
    return clustered_intervals(values[:, None], names, 0, 1)[0]
