"""Whether a word looked anywhere in particular: the thresholds from both sides, and the distance as published."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitrine.caption.word_localization import (
    MIN_DISTANCE_TO_OTHERS,
    MIN_DISTANCE_TO_UNIFORM,
    WordCheck,
    check_words,
    jensen_shannon_distance,
)
from vitrine.caption.word_maps import CaptionWord


def word(map_RC: np.ndarray) -> CaptionWord:
    return CaptionWord("word", 0.5, np.asarray(map_RC / map_RC.mean(), np.float32), ("word",))


def place(row: int, column: int, share: float, size: int = 14, radius: float = 1.0) -> np.ndarray:
    """A map with a share of its attention on a small place and the rest spread evenly."""
    rows, columns = np.mgrid[:size, :size]
    blob = np.exp(-((rows - row) ** 2 + (columns - column) ** 2) / (2 * radius**2))
    return share * blob / blob.sum() + (1 - share) / size**2


def test_words_that_look_at_their_own_places_are_particular() -> None:
    words = [word(place(row, column, 0.6)) for row, column in ((2, 2), (2, 11), (11, 2), (11, 11))]
    assert [check.flag for check in check_words(words)] == ["particular"] * 4


def test_a_word_that_looks_everywhere_is_uniform() -> None:
    noise = np.random.default_rng(0).normal(size=(14, 14))
    words = [word(place(3, 3, 0.6)), word(np.ones((14, 14))), word(np.exp(0.2 * noise)), word(place(9, 9, 0.05))]
    checks = check_words(words)
    assert [check.flag for check in checks] == ["particular", "uniform", "uniform", "uniform"]
    assert checks[1].to_uniform == pytest.approx(0, abs=1e-6)
    assert "evenly" in checks[1].sentence


def test_words_that_all_look_at_one_place_are_average() -> None:
    rng = np.random.default_rng(1)
    alike = [word(place(4, 9, 0.6) * np.exp(0.1 * rng.normal(size=(14, 14)))) for _ in range(5)]
    checks = check_words([*alike, word(place(11, 2, 0.6))])
    assert [check.flag for check in checks] == ["average"] * 5 + ["particular"]
    assert not checks[0].is_localized
    assert "other words" in checks[0].sentence


def test_the_mean_leaves_the_word_itself_out() -> None:
    first, second = word(place(2, 2, 0.9)), word(place(11, 11, 0.9))
    checks = check_words([first, second])
    expected = jensen_shannon_distance(first.map_RC, second.map_RC)
    assert [check.to_others for check in checks] == pytest.approx([expected, expected])


def test_an_only_word_has_no_others() -> None:
    (check,) = check_words([word(place(2, 2, 0.6))])
    assert check.to_others is None
    assert check.flag == "particular"
    assert check.to_dict()["to_others"] is None
    assert check_words([]) == ()


@pytest.mark.parametrize("side", [8, 14])
def test_maps_of_noise_look_nowhere_in_particular(side: int) -> None:
    """Cells drawn independently look at nothing, though such maps are 0.28 from uniform."""
    rng = np.random.default_rng(2)
    checks = [check_words([word(rng.random((side, side)) + 1e-9)])[0] for _ in range(400)]
    assert np.mean([check.to_uniform for check in checks]) == pytest.approx(0.28, abs=0.01)
    assert np.mean([check.is_localized for check in checks]) <= 0.05


def test_thresholds_are_where_their_reasons_say() -> None:
    cells, held = 400, 8  # a place of a fiftieth of the cells
    uniform = np.ones(cells)
    found = []
    for share in (0.1, 0.2, 0.3):
        gathered = np.full(cells, (1 - share) / cells)
        gathered[:held] += share / held
        found.append(jensen_shannon_distance(gathered, uniform))
    assert found == pytest.approx([0.17, 0.28, 0.36], abs=0.01)
    assert found[0] < MIN_DISTANCE_TO_OTHERS < found[1] < MIN_DISTANCE_TO_UNIFORM < found[2]
    assert WordCheck(MIN_DISTANCE_TO_UNIFORM, MIN_DISTANCE_TO_OTHERS).is_localized


weights = st.lists(st.integers(0, 9), min_size=6, max_size=6).filter(any)


@given(weights, weights, weights)
def test_distance_is_a_metric_and_lins(one: list[int], other: list[int], third: list[int]) -> None:
    def entropy(shares: Sequence[float]) -> float:
        return -sum(share * math.log2(share) for share in shares if share)

    found = jensen_shannon_distance(one, other)
    p, q = ([weight / sum(weights) for weight in weights] for weights in (one, other))
    middle = [(a + b) / 2 for a, b in zip(p, q, strict=True)]
    # Lin's own form, of entropies; near 0, the square root makes more of what is rounded, so squares are compared.
    assert found**2 == pytest.approx(entropy(middle) - (entropy(p) + entropy(q)) / 2, abs=1e-12)
    assert 0 <= found <= 1
    assert found == jensen_shannon_distance(other, one)
    assert jensen_shannon_distance(one, np.array(one) * 3) == pytest.approx(0, abs=1e-7)
    assert found <= jensen_shannon_distance(one, third) + jensen_shannon_distance(third, other) + 1e-7


def test_distance_refuses_what_is_no_map() -> None:
    for one, other in (([1, -1], [1, 1]), ([0, 0], [1, 1]), ([1, np.nan], [1, 1]), ([1, 1, 1], [1, 1])):
        with pytest.raises(ValueError, match="Expected"):
            jensen_shannon_distance(one, other)
    with pytest.raises(ValueError, match="different grids"):
        check_words([word(np.ones((2, 2))), word(np.ones((2, 3)))])


@pytest.mark.parametrize(
    ("to_uniform", "to_others", "flag"),
    [
        (0.0, None, "uniform"),
        (0.329, 0.9, "uniform"),
        (0.329, 0.1, "uniform"),
        (0.33, 0.249, "average"),
        (0.33, 0.25, "particular"),
        (0.9, 0.0, "average"),
        (0.33, None, "particular"),
    ],
)
def test_the_thresholds_from_both_sides(to_uniform: float, to_others: float | None, flag: str) -> None:
    check = WordCheck(to_uniform, to_others)
    assert (check.flag, check.is_localized) == (flag, flag == "particular")
    assert ("nowhere" in check.sentence) == (flag != "particular")
