"""Two classifiers on the same pictures: an exact test of the pictures on which one of them is right and one wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

LEVEL = 0.05
"""A difference is called one where its corrected p is not above this."""


@dataclass(frozen=True)
class PairedCounts:
    """Pictures by which of two classifiers got them right.

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

    @property
    def p(self) -> float:
        """See :func:`mcnemar_exact`."""
        return mcnemar_exact(self.first, self.second)


def paired_counts(first: Mapping[str, bool], second: Mapping[str, bool]) -> PairedCounts:
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
    counts = {(a, b): 0 for a in (True, False) for b in (True, False)}
    for name, right in first.items():
        counts[bool(right), bool(second[name])] += 1
    return PairedCounts(counts[True, True], counts[True, False], counts[False, True], counts[False, False])


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


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """P values corrected for there being several tests, in the order given.

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
    corrected = [0.0] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = highest
    return tuple(corrected)
