"""95 % intervals of shares and means over pictures, and of figures of a whole set, such as a corpus BLEU.

Axes: P pictures, N values (several of a picture), K columns of values.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from vitrine.results import Interval

MIN_PICTURES = 20
"""Below it a mean has no interval, and nothing is compared. From 20 values on, :func:`mean_interval` covers the truth
93 to 97 % of the time for every distribution in docs/maps.md (normal, lognormal, beta, many ties); with 10 values no
method that was tried does, of a lognormal one 91 % at best."""

METHOD = "Hall's transformed t, Wilson for hits"
"""How the intervals of means over pictures are made, in a few words for tables."""

_Z = NormalDist().inv_cdf(0.975)
_UNSEEN = 0.025  # what has this probability of not being seen in any picture may still be there

Values = npt.NDArray[np.floating]


def mean_interval(values_P: Values, low: float, high: float) -> Interval | None:
    """The 95 % interval of the mean of a value of each picture; None with less than :data:`MIN_PICTURES` pictures.

    - Hits, 0 or 1: :func:`wilson`.
    - Differences of hits, -1, 0 or 1: Wald's interval after one win and one loss were added, divided by n + 2
      (D. G. Bonett, R. M. Price 2012, Adjusted Wald confidence interval for a difference of binomial proportions based
      on paired data, Journal of Educational and Behavioral Statistics 37, 479-488).
    - Equal values: as many other ones as have a probability of 2.5 % of not being seen, at the ends of the range. For
      n hits of n this is the interval of C. J. Clopper and E. S. Pearson (1934), Biometrika 26.
    - Everything else: Student's t interval, with the skew of the values taken out by the cubic transformation of
      P. Hall (1992), On the removal of skewness by transformation, Journal of the Royal Statistical Society B 54.
      Where tails are short (excess kurtosis below 0) it would be too wide, and is narrowed by the next term of the
      coverage error (P. Hall 1988, Theoretical comparison of bootstrap confidence intervals, Annals of Statistics 16);
      where values are skewed it is widened by the square of the skewness over n, because few values show less skew than
      there is. Both are measured: see docs/maps.md.

    Args:
        values_P: finite, from ``low`` to ``high``, of independent pictures.
        low: the lowest value that there can be.
        high: the highest one. The interval stays between the two.

    Raises:
        ValueError: there is no value, one is not finite, or one is out of the range.
    """
    values_P = np.asarray(values_P, dtype=np.float64)
    if values_P.ndim != 1 or not len(values_P) or not np.isfinite(values_P).all():
        raise ValueError(f"Expected finite values (P,); got shape {values_P.shape}.")
    if values_P.min() < low - 1e-9 or values_P.max() > high + 1e-9:
        raise ValueError(f"Values are {low:g} to {high:g}; got {values_P.min():g} to {values_P.max():g}.")
    if len(values_P) < MIN_PICTURES:
        return None
    if (low, high) == (0, 1) and np.isin(values_P, (0, 1)).all():
        return wilson(int(values_P.sum()), len(values_P))
    if (low, high) == (-1, 1) and np.isin(values_P, (-1, 0, 1)).all():
        return _difference_of_hits(values_P)
    return _interval_of_values(values_P, low, high)


def clustered_intervals(values_NK: Values, pictures_N: Sequence[str], low: float, high: float) -> list[Interval | None]:
    """The 95 % interval of the mean of each column, for values that come in groups: several nouns of a picture.

    Values of one picture are not independent of one another, so it is pictures that are left out one by one: see
    :func:`jackknife_interval`.

    Args:
        values_NK: finite, from ``low`` to ``high``.
        pictures_N: name of the picture that each row is of.
        low: the lowest value that there can be.
        high: the highest one.
    """
    names, picture_N = np.unique(np.array(pictures_N), return_inverse=True)
    count_P, sum_PK = np.zeros(len(names)), np.zeros((len(names), values_NK.shape[1]))
    np.add.at(count_P, picture_N, 1)
    np.add.at(sum_PK, picture_N, values_NK)
    if len(names) < MIN_PICTURES:
        return [None] * values_NK.shape[1]
    without_PK = (sum_PK.sum(axis=0) - sum_PK) / (count_P.sum() - count_P)[:, None]
    columns = zip(values_NK.mean(axis=0), without_PK.T, strict=True)
    return [jackknife_interval(float(mean), without_P, low, high) for mean, without_P in columns]


def jackknife_interval(figure: float, without_P: Values, low: float, high: float) -> Interval | None:
    """The 95 % interval of a figure of all pictures, from what it comes to without each of them in turn.

    The P pseudo-values P · figure - (P - 1) · (figure without picture p) are treated as :func:`mean_interval` treats
    values, around the figure.

    Source: J. W. Tukey (1958), Bias and confidence in not-quite large samples, Annals of Mathematical Statistics 29.

    Args:
        figure: of all pictures.
        without_P: the same figure without each picture.
        low: the lowest value that the figure can have.
        high: the highest one.

    Returns:
        None with less than :data:`MIN_PICTURES` pictures.
    """
    pictures = len(without_P)
    if pictures < MIN_PICTURES:
        return None
    pseudo_P = (pictures - 1) * (without_P.mean() - without_P) + figure
    return _interval_of_values(pseudo_P, low, high)


def _interval_of_values(values_P: Values, low: float, high: float) -> Interval:
    mean, n = float(values_P.mean()), len(values_P)
    if np.ptp(values_P) <= 1e-12 * max(1.0, abs(mean)):
        share = 1 - _UNSEEN ** (1 / n)
        return Interval(mean - share * (mean - low), mean + share * (high - mean))
    ends = [mean - end * float(values_P.std(ddof=1)) / sqrt(n) for end in _student_ends(values_P)]
    return Interval(min(max(ends[0], low), mean), max(min(ends[1], high), mean))


def _student_ends(values_P: Values) -> tuple[float, float]:
    """The 97.5 and the 2.5 per cent quantile of (mean - truth) / standard error, for values as skewed as these.

    With g the skewness and a = g / 3√n, Hall's transformation of a Student ratio T is T + a T² + a² T³ / 3 + a / 2; it
    is nearly symmetric, and its inverse of the quantiles ±q is ((1 + 3a (±q - a / 2))^(1/3) - 1) / a.
    """
    n = len(values_P)
    deviation_P = values_P - values_P.mean()
    square = float(np.square(deviation_P).mean())
    skewness = float((deviation_P**3).mean()) / square**1.5 * sqrt(n * (n - 1)) / (n - 2)
    excess = float((deviation_P**4).mean()) / square**2 - 3
    kurtosis = (n - 1) / ((n - 2) * (n - 3)) * ((n + 1) * excess + 6)
    quantile = _student_quantile(n - 1)
    narrower = min(0.0, kurtosis - 1.5 * skewness**2) if kurtosis < 0 else 0.0
    quantile *= max(0.5, 1 + narrower * (2 * quantile**2 + 1) / (6 * n)) * (1 + skewness**2 / n)
    a = skewness / (3 * sqrt(n))
    if abs(a) < 1e-9:
        return quantile, -quantile
    high, low = ((float(np.cbrt(1 + 3 * a * (end - a / 2))) - 1) / a for end in (quantile, -quantile))
    return high, low


def _student_quantile(freedom: int) -> float:
    """The 97.5 per cent quantile of Student's t, within 1e-5 from 19 degrees of freedom on.

    Source: M. Abramowitz, I. A. Stegun (1964), Handbook of mathematical functions, 26.7.5.
    """
    z = _Z
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum((term / float(freedom) ** power for power, term in enumerate(terms, start=1)), 0.0)


def _difference_of_hits(values_P: Values) -> Interval:
    n = len(values_P) + 2
    wins, losses = (int(np.count_nonzero(values_P == sign)) + 1 for sign in (1, -1))
    difference = (wins - losses) / n
    half = _Z * sqrt(((wins + losses) / n - difference**2) / n)
    return Interval(max(-1.0, difference - half), min(1.0, difference + half))


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
