"""Bootstrap intervals against exact ones and against plain loops."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from vitrine.metrics import intervals
from vitrine.metrics.intervals import bootstrap_interval, clustered_bootstrap


def test_the_bootstrap_interval_is_that_of_all_resamples() -> None:
    """Six values have 6^6 resamples: all of them, against a seeded draw of many."""
    values_P = np.array([0.1, 0.9, 0.4, 0.35, 0.8, 0.05])
    means = [np.mean(resample) for resample in itertools.product(values_P, repeat=6)]
    exact = np.quantile(means, [0.025, 0.975])
    interval = bootstrap_interval(values_P, resamples=40_000)
    assert (interval.low, interval.high) == pytest.approx(exact, abs=0.008)


def test_the_bootstrap_interval_is_the_normal_one_for_many_pictures() -> None:
    values_P = np.random.default_rng(3).normal(0.4, 0.2, 2500)
    half = 1.96 * values_P.std() / 50
    interval = bootstrap_interval(values_P)
    assert (interval.low, interval.high) == pytest.approx(
        (values_P.mean() - half, values_P.mean() + half), abs=0.1 * half
    )


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(5)
    intervals = [bootstrap_interval(rng.random(40), resamples=500, seed=seed) for seed in range(400)]
    covered = np.mean([interval.low <= 0.5 <= interval.high for interval in intervals])
    assert 0.90 <= covered <= 0.98  # a percentile bootstrap of 40 values covers a little under 95 %


def test_resamples_are_drawn_in_blocks_without_changing(monkeypatch: pytest.MonkeyPatch) -> None:
    values_P = np.random.default_rng(1).random(37)
    whole = bootstrap_interval(values_P, seed=4)
    monkeypatch.setattr(intervals, "_MAX_INDICES", 100)
    assert bootstrap_interval(values_P, seed=4) == whole
    assert bootstrap_interval(values_P, seed=5) != whole


def test_values_must_be_finite_and_in_a_row() -> None:
    for unusable in (np.empty(0), np.array([np.nan]), np.ones((2, 2))):
        with pytest.raises(ValueError, match="finite values"):
            bootstrap_interval(unusable)


def test_the_clustered_interval_is_that_of_a_loop_that_draws_pictures() -> None:
    rng = np.random.default_rng(3)
    names = [f"{picture}.png" for picture in range(25) for _ in range(int(rng.integers(1, 6)))]
    level = {name: rng.normal(0.5, 0.2) for name in set(names)}
    values = [float(np.clip(level[name] + rng.normal(0, 0.05), 0.01, 0.99)) for name in names]
    (interval,) = clustered_bootstrap(np.array(values)[:, None], names, resamples=4000)

    by_picture = {name: [v for n, v in zip(names, values, strict=True) if n == name] for name in set(names)}
    means = []
    pictures = sorted(by_picture)
    for _ in range(4000):
        resample: list[float] = []
        for _ in pictures:
            resample += by_picture[pictures[int(rng.integers(len(pictures)))]]
        means.append(sum(resample) / len(resample))
    means.sort()
    low, high = means[100], means[3899]
    width = high - low
    assert interval.low == pytest.approx(low, abs=0.08 * width)
    assert interval.high == pytest.approx(high, abs=0.08 * width)

    # Values of one picture are alike here: were they drawn one by one, the interval would be far too narrow.
    alone = [str(number) for number in range(len(values))]
    (naive,) = clustered_bootstrap(np.array(values)[:, None], alone, resamples=4000)
    assert naive.high - naive.low < 0.75 * width

    with pytest.raises(ValueError, match="1 resample at least"):
        clustered_bootstrap(np.ones((3, 1)), ["a", "b", "b"], resamples=0)
