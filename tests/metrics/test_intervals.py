"""95 % intervals: how often they cover the truth, and exact or published ones beside them."""

from __future__ import annotations

from collections.abc import Callable
from math import comb, exp, sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from vitrine.metrics.intervals import (
    MIN_PICTURES,
    _student_quantile,
    clustered_intervals,
    jackknife_interval,
    mean_interval,
    wilson,
)

Draw = Callable[[np.random.Generator, int], np.ndarray]

DISTRIBUTIONS: dict[str, tuple[Draw, float, float, float]] = {
    "normal": (lambda rng, n: rng.normal(size=n), 0.0, -99, 99),
    "lognormal": (lambda rng, n: rng.lognormal(0, 0.5, n), exp(0.125), 0, 1e9),
    "lognormal, heavy": (lambda rng, n: rng.lognormal(0, 1, n), exp(0.5), 0, 1e9),
    "exponential": (lambda rng, n: rng.exponential(size=n), 1.0, 0, 1e9),
    "beta, near 0": (lambda rng, n: rng.beta(0.5, 5, n), 0.5 / 5.5, 0, 1),
    "beta, near 1": (lambda rng, n: rng.beta(5, 1, n), 5 / 6, 0, 1),
    "two peaks": (lambda rng, n: rng.beta(0.5, 0.5, n), 0.5, 0, 1),
    "half are 0": (lambda rng, n: np.where(rng.random(n) < 0.5, 0, rng.random(n)), 0.25, 0, 1),
    "quarters": (lambda rng, n: rng.choice([0, 0.25, 0.5, 0.75, 1], n, p=[0.3, 0.1, 0.1, 0.1, 0.4]), 0.55, 0, 1),
    "differences of hits": (lambda rng, n: rng.choice([1.0, 0, -1], n, p=[0.3, 0.6, 0.1]), 0.2, -1, 1),
    "rare differences": (lambda rng, n: rng.choice([1.0, 0, -1], n, p=[0.1, 0.88, 0.02]), 0.08, -1, 1),
    "hits": (lambda rng, n: (rng.random(n) < 0.6).astype(float), 0.6, 0, 1),
}


DISCRETE = ("differences of hits", "rare differences", "hits")


@pytest.mark.parametrize("n", [6, 10, 20, 60])
@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_intervals_cover_the_truth_as_often_as_they_say(name: str, n: int) -> None:
    """Within 0.02 of 0.95 (and 1.5 standard errors of that many draws), or there is none. Where few different means can
    come out, covering more is as good: no interval of a whole number of hits covers 95 % exactly."""
    draw, truth, low, high = DISTRIBUTIONS[name]
    rng, draws = np.random.default_rng(7), 1500 if n >= MIN_PICTURES else 3
    intervals = [mean_interval(draw(rng, n), low, high) for _ in range(draws)]
    if n < MIN_PICTURES:
        assert intervals == [None] * draws
        return
    covered = np.mean([each is not None and each.low <= truth <= each.high for each in intervals])
    tolerance = 0.02 + 1.5 * sqrt(0.95 * 0.05 / draws)
    assert 0.95 - tolerance <= covered <= (1 if name in DISCRETE else 0.95 + tolerance)


def test_clustered_intervals_cover_the_truth_too() -> None:
    """Twenty pictures of one to five nouns that are alike within a picture."""
    rng = np.random.default_rng(3)
    covered = naive = 0
    for _ in range(1500):
        sizes = rng.integers(1, 6, MIN_PICTURES)
        names = [str(picture) for picture, size in enumerate(sizes) for _ in range(size)]
        level = np.repeat(rng.beta(2, 1, MIN_PICTURES), sizes)
        values = np.clip(level + rng.normal(0, 0.02, len(level)), 0, 1)
        (interval,) = clustered_intervals(values[:, None], names, 0, 1)
        alone = mean_interval(values, 0, 1)
        assert interval is not None and alone is not None
        covered += interval.low <= 2 / 3 <= interval.high
        naive += alone.low <= 2 / 3 <= alone.high
    assert 0.925 <= covered / 1500 <= 0.975
    assert naive / 1500 < 0.85  # as if nouns of one picture were independent


def test_one_noun_a_picture_is_a_mean_of_pictures() -> None:
    values_P = np.random.default_rng(1).random(30)
    (interval,) = clustered_intervals(values_P[:, None], [str(i) for i in range(30)], 0, 1)
    expected = mean_interval(values_P, 0, 1)
    assert interval is not None and expected is not None
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high))
    assert clustered_intervals(values_P[:, None], [str(i % 19) for i in range(30)], 0, 1) == [None]


def test_the_jackknife_of_a_ratio_has_the_width_of_its_published_error() -> None:
    """A ratio of sums, as a corpus BLEU is: the linearised standard error (W. G. Cochran 1977, section 6.3)."""
    rng = np.random.default_rng(5)
    y_P, x_P = rng.uniform(1, 2, (2, 400))
    ratio = y_P.sum() / x_P.sum()
    without_P = (y_P.sum() - y_P) / (x_P.sum() - x_P)
    interval = jackknife_interval(ratio, without_P, 0, 9)
    error = sqrt(np.sum((y_P - ratio * x_P) ** 2) / 399 / 400) / x_P.mean()
    assert interval is not None
    assert interval.high - interval.low == pytest.approx(2 * 1.966 * error, rel=0.02)
    assert jackknife_interval(ratio, without_P[:19], 0, 9) is None


def test_symmetric_values_have_students_interval() -> None:
    """Mirrored values without short tails have no skew to take out: what scipy gives."""
    half_P = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.9, 1.4, 4.0, 5.0])
    values_P = np.concatenate([half_P, -half_P])
    interval = mean_interval(values_P, -99, 99)
    expected = stats.t.interval(0.95, len(values_P) - 1, scale=stats.sem(values_P))
    assert interval is not None
    assert (interval.low, interval.high) == pytest.approx(expected, abs=1e-4)


def test_a_skewed_mean_has_the_longer_arm_where_the_tail_is() -> None:
    values_P = np.random.default_rng(2).exponential(size=40)
    interval, mirrored = mean_interval(values_P, 0, 99), mean_interval(-values_P, -99, 0)
    assert interval is not None and mirrored is not None
    assert interval.high - values_P.mean() > 1.3 * (values_P.mean() - interval.low)
    assert (-mirrored.high, -mirrored.low) == pytest.approx((interval.low, interval.high))


@given(st.integers(19, 2000))
def test_the_quantile_of_student_is_scipys(freedom: int) -> None:
    assert _student_quantile(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), abs=1e-5)


def test_hits_have_wilsons_interval_and_all_of_them_one_with_a_width() -> None:
    hits_P = np.array([1.0] * 15 + [0] * 10)
    assert mean_interval(hits_P, 0, 1) == wilson(15, 25)
    assert mean_interval(np.ones(20), 0, 1) == wilson(20, 20)


def test_differences_of_hits_are_bonetts_and_prices() -> None:
    """40 wins, 25 losses, 135 ties: (41 - 26) / 202 ± z · sqrt((67 / 202 - d²) / 202), by hand."""
    values_P = np.array([1.0] * 40 + [-1] * 25 + [0] * 135)
    interval = mean_interval(values_P, -1, 1)
    assert interval is not None
    assert (interval.low, interval.high) == pytest.approx((-0.00450, 0.15302), abs=1e-5)
    wins_only = mean_interval(np.array([1.0] * 3 + [0] * 27), -1, 1)
    assert wins_only is not None
    assert wins_only.low < 0 < wins_only.high  # three wins of no loss on thirty pictures say nothing


@pytest.mark.parametrize(("value", "low", "high"), [(0.0, -1, 1), (1.0, -1, 1), (0.4, 0, 1), (-1.0, -1, 1)])
def test_equal_values_still_have_a_width(value: float, low: float, high: float) -> None:
    values_P = np.full(25, value)
    interval = mean_interval(values_P, low, high)
    assert interval is not None
    assert low <= interval.low <= value <= interval.high <= high
    assert interval.high - interval.low > 0.1 * (high - low) / 2


def test_equal_hits_over_another_range_are_clopper_and_pearsons() -> None:
    """Of 20 of 20, from published tables: 0.8316 to 1; twice as wide over a range of 2."""
    interval = jackknife_interval(1.0, np.ones(20), 0, 1)
    assert interval is not None
    assert (interval.low, interval.high) == pytest.approx((0.8316, 1), abs=5e-5)
    wide = jackknife_interval(-1.0, -np.ones(20), -1, 1)
    assert wide is not None
    assert (wide.low, wide.high) == pytest.approx((-1, -1 + 2 * 0.1684), abs=1e-4)


@given(st.lists(st.floats(0, 1), min_size=20, max_size=60))
def test_an_interval_holds_its_mean_and_stays_in_the_range(values: list[float]) -> None:
    values_P = np.array(values)
    interval = mean_interval(values_P, 0, 1)
    assert interval is not None
    assert 0 <= interval.low <= values_P.mean() + 1e-12
    assert values_P.mean() - 1e-12 <= interval.high <= 1


def test_values_must_be_finite_in_a_row_and_in_range() -> None:
    for unusable in (np.empty(0), np.array([np.nan]), np.ones((2, 2))):
        with pytest.raises(ValueError, match="finite values"):
            mean_interval(unusable, 0, 1)
    with pytest.raises(ValueError, match="Values are 0 to 1"):
        mean_interval(np.full(30, 1.5), 0, 1)


def test_wilson_covers_shares_on_average() -> None:
    """Exactly, over shares from 0.05 to 0.95 at n = 20: the binomial probability of every count."""
    coverage = []
    for share in np.linspace(0.05, 0.95, 91):
        inside = [k for k in range(21) if wilson(k, 20).low <= share <= wilson(k, 20).high]
        coverage.append(sum(comb(20, k) * share**k * (1 - share) ** (20 - k) for k in inside))
    assert np.mean(coverage) == pytest.approx(0.95, abs=0.01)
