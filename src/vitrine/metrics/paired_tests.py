"""Two models or maps compared on the same pictures: exact tests of pairs, and Holm's correction for several tests.

Axes: N or P pictures, R models, Q of them, L random choices of signs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

LEVEL = 0.05
"""The level of significance: two models are said to differ where the corrected p is not above it."""


@dataclass(frozen=True)
class PairedCounts:
    """How many pictures both of two classifiers, one of them or neither got right.

    Attributes:
        both: both right.
        first: only the first right (McNemar's b).
        second: only the second right (McNemar's c).
        neither: both wrong.
    """

    both: int
    first: int
    second: int
    neither: int

    @property
    def n(self) -> int:
        """All pictures."""
        return self.both + self.first + self.second + self.neither

    @property
    def discordant(self) -> int:
        """Pictures that decide: those that exactly one got right."""
        return self.first + self.second

    def swap(self) -> PairedCounts:
        """The second one named first."""
        return PairedCounts(self.both, self.second, self.first, self.neither)

    @property
    def p(self) -> float:
        """Of McNemar's exact test, 0 to 1; see :func:`mcnemar_exact`."""
        return mcnemar_exact(self.first, self.second)


@dataclass(frozen=True)
class SignCounts:
    """On how many pictures each of two models has the higher score.

    Attributes:
        first: on which the first does better.
        second: on which the second does.
        ties: on which both do equally well; they decide nothing.
    """

    first: int
    second: int
    ties: int

    @property
    def n(self) -> int:
        """All pictures."""
        return self.first + self.second + self.ties

    @property
    def discordant(self) -> int:
        """Pictures that decide."""
        return self.first + self.second

    def swap(self) -> SignCounts:
        """The second one named first."""
        return SignCounts(self.second, self.first, self.ties)

    @property
    def p(self) -> float:
        """Of the exact sign test, 0 to 1, computed as McNemar's is: see :func:`mcnemar_exact`."""
        return mcnemar_exact(self.first, self.second)


def count_pairs(first: Mapping[str, bool], second: Mapping[str, bool]) -> PairedCounts:
    """Count pictures by who got them right.

    Args:
        first: whether the first classifier was right, by the picture's name.
        second: likewise, with the same names.

    Raises:
        ValueError: the names are not the same.
    """
    if first.keys() != second.keys():
        different = len(first.keys() ^ second.keys())
        raise ValueError(f"A paired test needs the same pictures; {different} are in one of the two only.")
    return count_right(*(np.array([bool(each[name]) for name in first], float) for each in (first, second)))


def count_right(first_N: Floats, second_N: Floats) -> PairedCounts:
    """Count pictures by who got them right; the same pictures in the same order.

    Args:
        first_N: 1 where the first is right, 0 where it is wrong.
        second_N: likewise.

    Raises:
        ValueError: there is another number of pictures in one of them.
    """
    signs = count_signs(first_N, second_N)
    both = int(np.count_nonzero(first_N * second_N))
    return PairedCounts(both, signs.first, signs.second, signs.ties - both)


def count_signs(first_N: Floats, second_N: Floats) -> SignCounts:
    """Count pictures by which of two models does better on them (higher); the same pictures in the same order.

    Raises:
        ValueError: there is another number of pictures in one of them.
    """
    if len(first_N) != len(second_N):
        raise ValueError(f"A paired test needs the same pictures; there are {len(first_N)} and {len(second_N)}.")
    first, second = (int(np.count_nonzero(ahead)) for ahead in (first_N > second_N, first_N < second_N))
    return SignCounts(first, second, len(first_N) - first - second)


def count_every_pair(
    values_RN: Floats, *, as_signs: bool = False
) -> Iterator[tuple[int, int, PairedCounts | SignCounts]]:
    """Count every pair of models, as :func:`count_right` does, or with ``as_signs`` as :func:`count_signs`.

    Args:
        values_RN: a row a model; the same pictures in the same order.
        as_signs: whether values are scores, not 1 for right and 0 for wrong.

    Yields:
        The two models' rows, the first below the second, and their counts.
    """
    for a, first_N in enumerate(values_RN[:-1]):
        others_QN = values_RN[a + 1 :]
        ahead_Q, behind_Q, both_Q = (
            np.count_nonzero(which_QN, axis=1).tolist()
            for which_QN in (others_QN < first_N, others_QN > first_N, others_QN * first_N)
        )
        for b, (first, second, both) in enumerate(zip(ahead_Q, behind_Q, both_Q, strict=True), a + 1):
            ties = len(first_N) - first - second
            yield a, b, SignCounts(first, second, ties) if as_signs else PairedCounts(both, first, second, ties - both)


@lru_cache(maxsize=10_000)  # many pairs of many runs have the same counts
def mcnemar_exact(first: int, second: int) -> float:
    """Two-sided exact p of McNemar's test: whether two classifiers are equally often the only one that is right.

    Were they equally good, each discordant picture would be a toss of a fair coin: p is the probability of a division
    of ``first + second`` tosses that is at least as uneven as this one, 2 · P(X <= min(first, second)) with X binomial
    (first + second, 1/2), at most 1. It is computed in whole numbers. Pictures on which both are right or both wrong
    say nothing.

    Source: Q. McNemar (1947), Note on the sampling error of the difference between correlated proportions or
    percentages, Psychometrika 12, 153-157; the exact form, the sign test of F. Mosteller (1952), Some statistical
    problems in measuring the subjective response to drugs, Biometrics 8, 220-226. What it is for: T. G. Dietterich
    (1998), Approximate statistical tests for comparing supervised classification learning algorithms, Neural
    Computation 10, 1895-1923.

    Args:
        first: pictures that only the first classifier got right.
        second: pictures that only the second got right.

    Raises:
        ValueError: a count is negative.
    """
    if first < 0 or second < 0:
        raise ValueError(f"Counts of pictures are not negative; got {first} and {second}.")
    n = first + second
    ways = total = 1  # n over 0
    for k in range(min(first, second)):
        ways = ways * (n - k) // (k + 1)
        total += ways
    return min(1.0, 2 * total / (1 << n))


_FLIPS = 9_999
"""Random choices of signs: p is known to within a tenth of itself where it is near 0.05, and is 0.0001 at least."""


def sign_flip_p(differences_P: npt.NDArray[np.floating], seed: int = 0) -> float:
    """Two-sided p of paired differences: how often a sum as large arises where their signs are tossed with a coin.

    Under the hypothesis that both are alike, each picture's difference may as well have the other sign. Where all
    differences are -1, 0 or 1, as those of hits are, this is McNemar's exact test and computed as such; for others
    9,999 random choices of signs are drawn, and the observed one is counted with them.

    Source: R. A. Fisher (1935), The design of experiments, section 21; drawn at random as in B. Phipson, G. K. Smyth
    (2010), Permutation p-values should never be zero, Statistical Applications in Genetics and Molecular Biology 9.

    Args:
        differences_P: finite, one a picture.
        seed: of the random choices.

    Raises:
        ValueError: a difference is not finite.
    """
    differences_P = np.asarray(differences_P, dtype=np.float64)
    if differences_P.ndim != 1 or not np.isfinite(differences_P).all():
        raise ValueError(f"Expected finite differences (P,); got shape {differences_P.shape}.")
    if np.isin(differences_P, (-1, 0, 1)).all():
        return mcnemar_exact(*(int(np.count_nonzero(differences_P == sign)) for sign in (1, -1)))
    differences_P = differences_P[differences_P != 0]  # nothing changes with their sign
    plus_LP = np.random.default_rng(seed).integers(0, 2, (_FLIPS, len(differences_P)), dtype=np.int8)
    sums_L = np.abs(2 * (plus_LP.astype(np.float64) @ differences_P) - differences_P.sum())
    own_sum = abs(differences_P.sum()) - 1e-9 * np.abs(differences_P).sum()  # equal sums may differ by rounding
    return float((1 + np.count_nonzero(sums_L >= own_sum)) / (_FLIPS + 1))


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Correct p values for several tests, by Holm's step-down procedure; the order is kept.

    The smallest of m is multiplied by m, the next one by m - 1, and so on; none becomes smaller than one before it, or
    above 1. Calling those up to 0.05 differences, the probability of one false call or more among all is at most 0.05,
    however the tests depend on one another.

    Source: S. Holm (1979), A simple sequentially rejective multiple test procedure, Scandinavian Journal of Statistics
    6, 65-70; as adjusted p values: S. P. Wright (1992), Biometrics 48, 1005-1013.

    Raises:
        ValueError: a value is not 0 to 1.
    """
    if not all(0 <= p <= 1 for p in p_values):
        raise ValueError(f"P values are 0 to 1; got {list(p_values)}.")
    adjusted_p = [0.0] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted_p[index] = highest
    return tuple(adjusted_p)
