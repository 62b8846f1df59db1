"""Paired tests against slow, obvious and published versions of the same."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from itertools import combinations, product
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import permutation_test

from vitrine.metrics.paired_tests import (
    PairedCounts,
    count_every_pair,
    count_pairs,
    count_right,
    count_signs,
    holm,
    mcnemar_exact,
    sign_flip_p,
)

ALL_SIGNS = {n: list(product((-1, 1), repeat=n)) for n in range(1, 10)}


def by_fractions(first: int, second: int) -> Fraction:
    """The two-sided binomial test as R and scipy define it: all divisions that are no likelier than the one seen."""
    n = first + second
    probability = Fraction(comb(n, first), 2**n)
    return sum(
        (each for each in (Fraction(comb(n, k), 2**n) for k in range(n + 1)) if each <= probability), Fraction(0)
    )


def test_every_small_table() -> None:
    for first, second in product(range(18), repeat=2):
        assert mcnemar_exact(first, second) == float(by_fractions(first, second)), (first, second)


def test_tosses_counted_one_by_one() -> None:
    """All 2^8 outcomes of eight coins, of which at least as uneven as 1 to 7: 18."""
    uneven = sum(abs(2 * sum(coins) - 8) >= 6 for coins in product((0, 1), repeat=8))
    assert uneven == 18
    assert mcnemar_exact(1, 7) == mcnemar_exact(7, 1) == uneven / 2**8


def test_published_example() -> None:
    """Agresti, Categorical Data Analysis, on approval of a prime minister: 86 and 150 changed sides; z² = 17.36.

    A z of 4.17 has a two-sided p of 3.1e-5; the exact one is a little larger.
    """
    assert mcnemar_exact(86, 150) == pytest.approx(float(by_fractions(86, 150)), rel=1e-14)
    assert mcnemar_exact(86, 150) == pytest.approx(3.7e-5, rel=0.02)


def test_edges() -> None:
    assert mcnemar_exact(0, 0) == 1.0
    assert mcnemar_exact(5, 5) == 1.0
    assert mcnemar_exact(0, 6) == 2 / 2**6
    assert mcnemar_exact(0, 5_000) == 0.0 or mcnemar_exact(0, 5_000) < 1e-300
    assert 0.0 < mcnemar_exact(20_000, 20_500) < 0.02
    with pytest.raises(ValueError, match="not negative"):
        mcnemar_exact(-1, 3)


def columns(pairs: Sequence[tuple[float, float]]) -> np.ndarray:
    return np.array(pairs, float).reshape(-1, 2).T


@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=40))
def test_counts_are_those_of_a_loop(pairs: list[tuple[bool, bool]]) -> None:
    first = {f"{i}.png": a for i, (a, _) in enumerate(pairs)}
    second = {f"{i}.png": b for i, (_, b) in reversed(list(enumerate(pairs)))}  # another order, the same pictures
    counts = count_pairs(first, second)
    assert counts == count_right(*columns(pairs))
    assert counts == PairedCounts(
        pairs.count((True, True)), pairs.count((True, False)), pairs.count((False, True)), pairs.count((False, False))
    )
    assert counts.n == len(pairs) and counts.discordant == sum(a != b for a, b in pairs)
    assert counts.p == mcnemar_exact(counts.second, counts.first)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=40))
def test_signs_are_those_of_a_loop(pairs: list[tuple[int, int]]) -> None:
    counts = count_signs(*columns([(a / 4, b / 4) for a, b in pairs]))
    assert (counts.first, counts.second) == (sum(a > b for a, b in pairs), sum(a < b for a, b in pairs))
    assert counts.ties == sum(a == b for a, b in pairs) and counts.n == len(pairs)
    assert counts.p == float(by_fractions(counts.first, counts.second))
    right = [(a > 2, b > 2) for a, b in pairs]
    assert count_signs(*columns(right)).p == count_right(*columns(right)).p, "McNemar's is its case"


@pytest.mark.parametrize("as_signs", [False, True])
def test_every_pair_is_counted_as_one_alone(as_signs: bool) -> None:
    rng = np.random.default_rng(3)
    values_RN = rng.integers(0, 5, (6, 30)) / 4 if as_signs else rng.integers(0, 2, (6, 30)).astype(float)
    count = count_signs if as_signs else count_right
    counted = {(a, b): counts for a, b, counts in count_every_pair(values_RN, as_signs=as_signs)}
    assert counted == {(a, b): count(values_RN[a], values_RN[b]) for a, b in combinations(range(6), 2)}
    for (a, b), counts in counted.items():
        assert counts.swap() == count(values_RN[b], values_RN[a])
    assert not list(count_every_pair(values_RN[:1])) and not list(count_every_pair(values_RN[:0]))


@given(st.lists(st.sampled_from([-1.0, -0.75, -0.25, 0.0, 0.25, 0.5, 1.0]), min_size=1, max_size=9))
def test_sign_flips_are_those_of_all_choices_of_signs(differences: list[float]) -> None:
    sums = [abs(sum(s * d for s, d in zip(signs, differences, strict=True))) for signs in ALL_SIGNS[len(differences)]]
    exact = sum(each >= abs(sum(differences)) - 1e-9 for each in sums) / len(sums)
    assert sign_flip_p(np.array(differences)) == pytest.approx(exact, abs=0.02)


def test_sign_flips_of_hits_are_mcnemars_test() -> None:
    hits = [1.0] * 9 + [-1.0] * 2 + [0.0] * 30
    assert sign_flip_p(np.array(hits)) == mcnemar_exact(9, 2)
    assert sign_flip_p(np.array(hits) / 2) == pytest.approx(mcnemar_exact(9, 2), abs=0.01)
    assert sign_flip_p(np.zeros(8)) == 1
    with pytest.raises(ValueError, match="finite differences"):
        sign_flip_p(np.array([np.nan]))


def test_sign_flips_agree_with_scipy() -> None:
    differences_P = np.random.default_rng(4).normal(0.15, 0.4, 40)
    theirs = permutation_test((differences_P,), np.mean, permutation_type="samples", n_resamples=9999, rng=1).pvalue
    assert sign_flip_p(differences_P) == pytest.approx(theirs, rel=0.25)


def test_other_pictures_are_refused() -> None:
    with pytest.raises(ValueError, match="2 are in one of the two only"):
        count_pairs({"a": True, "b": True}, {"a": True, "c": True})
    for count in (count_right, count_signs):
        with pytest.raises(ValueError, match="same pictures; there are 2 and 1"):
            count(np.ones(2), np.ones(1))


def test_holm_on_a_published_example() -> None:
    """The example of Wikipedia's article on the method: of 0.01, 0.04, 0.03, 0.005, at 0.05 the 4th and 1st go."""
    adjusted_p = holm([0.01, 0.04, 0.03, 0.005])
    assert adjusted_p == pytest.approx((0.03, 0.06, 0.06, 0.02))
    assert [p <= 0.05 for p in adjusted_p] == [True, False, False, True]


def test_holm_by_hand() -> None:
    """Eight times 0.001, seven times 0.008, six times 0.039; after that no product is larger."""
    p = [0.039, 0.001, 0.008, 0.041, 0.042, 0.060, 0.074, 0.205]
    assert holm(p) == pytest.approx((0.234, 0.008, 0.056, 0.234, 0.234, 0.234, 0.234, 0.234))


@given(st.lists(st.floats(0, 1), max_size=12), st.floats(0.001, 0.2))
def test_holm_rejects_what_the_step_down_procedure_rejects(p_values: list[float], level: float) -> None:
    """The procedure as Holm wrote it: compare the k-th smallest of m with level / (m - k), stop at the first above."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    rejections = set()
    for k, index in enumerate(order):
        if (len(p_values) - k) * p_values[index] > level:
            break
        rejections.add(index)
    assert {i for i, p in enumerate(holm(p_values)) if p <= level} == rejections
    assert holm([]) == ()


def test_holm_refuses_what_is_no_p() -> None:
    with pytest.raises(ValueError, match="0 to 1"):
        holm([0.5, 1.2])
