"""Sinks put into maps by hand are told from what words look at, said, and left out."""

from __future__ import annotations

import numpy as np
import pytest

from vitrine.caption.attention_sinks import find_sinks, mask_sinks
from vitrine.caption.word_maps import CaptionWord


def words_with(sinks: tuple[tuple[int, int], ...], count: int = 6, seed: int = 0) -> tuple[CaptionWord, ...]:
    """Words that each look at a place of their own, on a grid of 12 x 10, and at the sinks."""
    rng = np.random.default_rng(seed)
    words = []
    for number in range(count):
        map_RC = rng.uniform(0.5, 1.5, (12, 10))
        map_RC[2 * (number % 6), 4] += 40
        for row, column in sinks:
            map_RC[row, column] += 30 + 10 * rng.random()
        words.append(CaptionWord(f"w{number}", 0.5, (map_RC / map_RC.mean()).astype(np.float32), (f"w{number}",)))
    return tuple(words)


@pytest.mark.parametrize("sinks", [(), ((0, 0),), ((11, 9), (3, 0), (7, 7))])
def test_sinks_are_found_and_nothing_else(sinks: tuple[tuple[int, int], ...]) -> None:
    words = words_with(sinks)
    found = find_sinks(words)
    assert found.cells == sorted(sinks)
    mass = sum(word.map_RC[at] for word in words for at in sinks) / sum(word.map_RC.sum() for word in words)
    assert found.share == pytest.approx(mass, abs=1e-6)
    assert bool(found.sentence(False)) == bool(sinks)


def test_few_words_may_look_at_one_thing() -> None:
    assert not find_sinks(words_with(((0, 0),), count=3)).cells
    assert not find_sinks(()).cells


def test_a_place_that_one_word_leaves_out_is_no_sink() -> None:
    words = words_with(((0, 0),))
    words[2].map_RC[0, 0] = 0.1
    assert not find_sinks(words).cells


def test_masked_maps_have_no_value_there_and_a_mean_of_one() -> None:
    words = words_with(((0, 0), (5, 5)))
    for word, before in zip(mask_sinks(words, find_sinks(words)), words, strict=True):
        assert np.isnan(word.map_RC).sum() == 2 and np.isnan(word.map_RC[0, 0])
        assert np.nanmean(word.map_RC) == pytest.approx(1, abs=1e-5)
        rest = ~np.isnan(word.map_RC)
        ratio = word.map_RC[rest] / before.map_RC[rest]
        np.testing.assert_allclose(ratio, ratio[0], rtol=1e-4)
    assert mask_sinks(words_with(()), find_sinks(words_with(()))) is not None


def test_the_sentence_says_how_many_and_how_much() -> None:
    found = find_sinks(words_with(((0, 0), (5, 5))))
    share = f"{100 * found.share:.0f} %"
    said = f"2 places of the picture draw attention whatever the word is, {share} of all on it"
    assert found.sentence(False) == f"{said}: left out with --mask-sinks."
    assert found.sentence(True) == f"{said}: not in the maps."
