"""95 % intervals: Wilson's of a proportion, and the percentile bootstrap of whatever is computed over pictures.

Axes: P pictures, N values (several of a picture), K columns of values, L resamples, R resamples drawn at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import sqrt
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from vitrine.results import Interval

RESAMPLES = 2000
"""Bootstrap samples: enough that an interval's ends move by less than a tenth of its width from seed to seed."""

MIN_PICTURES = 6
"""Below it no interval and no comparison: five pictures that all agree may be chance (sign test, 2 / 2^5 = 0.06)."""

_MAX_INDICES = 4_000_000  # that are in memory at a time

Values = npt.NDArray[np.floating]


def bootstrap_interval(values_P: Values, *, resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """The 95 % percentile bootstrap interval of the mean of a value of each picture.

    Arrays of one length draw the same pictures for one seed.

    Args:
        values_P: finite, at least one.
        resamples: bootstrap samples, at least 1.
        seed: of the draws.

    Raises:
        ValueError: there is no value, or one is not finite, or there are no resamples.
    """
    if values_P.ndim != 1 or not len(values_P) or not np.isfinite(values_P).all() or resamples < 1:
        raise ValueError(f"Expected finite values (P,) and resamples above 0; got {values_P.shape}, {resamples}.")
    means = [values_P[drawn_RP].mean(axis=1) for drawn_RP in bootstrap_draws(len(values_P), resamples, seed)]
    return percentile_interval(np.concatenate(means))


def bootstrap_draws(pictures: int, resamples: int, seed: int) -> Iterator[npt.NDArray[np.int64]]:
    """Pictures drawn with replacement: indices int64 (R, P), in blocks that together have L = ``resamples`` rows."""
    rng, rows = np.random.default_rng(seed), max(1, _MAX_INDICES // pictures)
    for first in range(0, resamples, rows):
        yield rng.integers(0, pictures, (min(rows, resamples - first), pictures))


def clustered_bootstrap(
    values_NK: Values, pictures_N: Sequence[str], *, resamples: int = RESAMPLES, seed: int = 0
) -> list[Interval]:
    """The 95 % percentile bootstrap interval of the mean of each column, for values that come in groups.

    Values of one picture are not independent of one another, so whole pictures are drawn with replacement, with all
    their values.

    Source: A. C. Davison, D. V. Hinkley (1997), Bootstrap methods and their application, section 3.8 (cluster
    bootstrap, percentile interval).

    Args:
        values_NK: finite.
        pictures_N: name of the picture that each row is of.
        resamples: bootstrap samples, at least 1.
        seed: of the draws.

    Raises:
        ValueError: there are no resamples.
    """
    if resamples < 1:
        raise ValueError(f"A bootstrap needs 1 resample at least; got {resamples}.")
    names, picture_N = np.unique(np.array(pictures_N), return_inverse=True)
    count_P, sum_PK = np.zeros(len(names)), np.zeros((len(names), values_NK.shape[1]))
    np.add.at(count_P, picture_N, 1)
    np.add.at(sum_PK, picture_N, values_NK)
    rng, rows = np.random.default_rng(seed), max(1, _MAX_INDICES // len(names))
    means_LK = []
    for first in range(0, resamples, rows):
        size = min(rows, resamples - first)
        times_RP = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=size)
        means_LK.append((times_RP @ sum_PK) / (times_RP @ count_P)[:, None])
    return [percentile_interval(mean_L) for mean_L in np.concatenate(means_LK).T]


def interval_at_bound(values: Values, low: float, n: int) -> Interval | None:
    """The interval of a mean whose values are all the best, 1, or all the worst, ``low``; None for other values.

    The bootstrap of equal values has no width, n successes of n have: from 0.025^(1/n) to 1, or mirrored.

    Source: C. J. Clopper, E. S. Pearson (1934), The use of confidence or fiducial limits illustrated in the case of
    the binomial, Biometrika 26.

    Args:
        values: at least one.
        low: the lowest value that there can be; the highest is 1.
        n: independent observations behind the values.
    """
    width = (1 - low) * (1 - 0.025 ** (1 / n))
    if (values == 1).all():
        return Interval(1 - width, 1.0)
    return Interval(low, low + width) if (values == low).all() else None


def percentile_interval(resampled_L: Values) -> Interval:
    """The 95 % percentile bootstrap interval: from the 2.5 to the 97.5 per cent quantile of the resampled figures.

    Source: B. Efron (1979), Bootstrap methods: another look at the jackknife, Annals of Statistics 7.
    """
    low, high = np.quantile(resampled_L, [0.025, 0.975])
    return Interval(float(low), float(high))


def wilson(successes: int, n: int, confidence: float = 0.95) -> Interval:
    """The score interval of a proportion: every p that a two-sided score test does not reject.

    With z the normal quantile and p = successes / n, its centre is (p + z²/2n) / (1 + z²/n) and its half width is
    z / (1 + z²/n) · sqrt(p (1 - p)/n + z²/4n²). It stays inside 0 to 1, and has a width at p = 0 and p = 1.

    Source: E. B. Wilson (1927), Probable inference, the law of succession, and statistical inference, JASA 22, 209-212;
    recommended by L. D. Brown, T. T. Cai, A. DasGupta (2001), Interval estimation for a binomial proportion,
    Statistical Science 16, 101-133. No continuity correction.

    Args:
        successes: 0 to n.
        n: at least 1.
        confidence: between 0 and 1.

    Raises:
        ValueError: an argument is outside its range.
    """
    if not 0 <= successes <= n or n < 1:
        raise ValueError(f"A proportion needs 0 <= successes <= n and n >= 1; got {successes} of {n}.")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, for example 0.95; got {confidence}.")
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share, shrink = successes / n, 1 + z * z / n
    centre = (share + z * z / (2 * n)) / shrink
    half = z / shrink * sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    # The ends at no success and at no failure are 0 and 1 exactly; floating point would miss them by 1e-17.
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == n else min(1.0, centre + half)
    return Interval(low, high)
