"""Intervals for proportions."""

from __future__ import annotations

from math import sqrt
from statistics import NormalDist

from vitrine.results import Interval


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
