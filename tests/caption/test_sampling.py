"""Captions that go on from given pieces, on a captioner whose every number can be looked up."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.stand_in_captioner import TableCaptioner

from vitrine.caption.beam_search import beam_search
from vitrine.caption.decoding import final_captions, greedy, teacher_forced
from vitrine.caption.sampling import continue_prefix
from vitrine.errors import ModelError


def captioner(**changes: object) -> TableCaptioner:
    model = TableCaptioner(**{"size": 8, "max_length": 9, **changes})  # type: ignore[arg-type]
    model.vocabulary = SimpleNamespace(size=model.size)  # type: ignore[assignment]
    return model


@given(number=st.integers(0, 200), bonus=st.sampled_from([-3.0, 0.0, 2.0]), levels=st.sampled_from([0, 1]))
def test_without_a_beginning_it_is_greedy(number: int, bonus: float, levels: int) -> None:
    model = captioner(end_bonus=bonus, levels=levels)
    encoder_output = model.encode([(2, 3)], first=number)
    *_, last = continue_prefix(model, encoder_output)
    one, other = last.step.captions[0], final_captions(greedy(model, encoder_output))[0]
    assert (one.ids, one.log_probability, one.has_end) == (other.ids, other.log_probability, other.has_end)
    np.testing.assert_array_equal(one.maps_TLHK, other.maps_TLHK)


@given(number=st.integers(0, 200), beginning=st.lists(st.integers(3, 7), min_size=1, max_size=6))
def test_it_says_the_beginning_and_then_the_likeliest(number: int, beginning: list[int]) -> None:
    model = captioner()
    encoder_output = model.encode([(2, 3)], first=number)
    steps = list(continue_prefix(model, encoder_output, beginning, candidates=4))
    caption = steps[-1].step.captions[0]
    assert list(caption.ids[: len(beginning)]) == beginning
    whole = final_captions(teacher_forced(model, encoder_output, [caption.ids], with_end=caption.has_end))[0]
    assert caption.log_probability == pytest.approx(whole.log_probability)
    said_ids = [*caption.ids, *([model.end] if caption.has_end else [])]
    assert len(steps) == len(said_ids)
    for place, step in enumerate(steps):
        logits = model.logits(number, (model.start, *said_ids[:place])).astype(np.float64)
        chances = np.exp(logits) / np.exp(logits).sum()
        likeliest = np.argsort(-logits, kind="stable")[:4]
        assert [each.id for each in step.candidates] == likeliest.tolist()
        assert [each.probability for each in step.candidates] == pytest.approx(chances[likeliest].tolist(), rel=1e-5)
        if place >= len(beginning):
            assert said_ids[place] == likeliest[0]


@pytest.mark.parametrize("beginning", [[99], [-1], [0], [1], [2], [3, 2], [3] * 8])
def test_it_refuses_what_no_caption_begins_with(beginning: list[int]) -> None:
    model = captioner()
    with pytest.raises(ModelError, match="cannot be continued"):
        list(continue_prefix(model, model.encode([(1, 1)]), beginning))


@given(number=st.integers(0, 100), beams=st.integers(1, 4))
def test_beam_search_ranks_what_it_followed(number: int, beams: int) -> None:
    model = captioner(max_length=7)
    encoder_output = model.encode([(2, 2)], first=number)
    *_, last = beam_search(model, encoder_output, beams)
    captions = [node.to_caption((2, 2), (2, 2)) for node in last.hypotheses[0]]
    assert captions[0].ids == last.captions[0].ids
    assert 1 <= len(captions) <= beams
    scores = [each.score() for each in captions]
    assert scores == sorted(scores, reverse=True)
    assert len({(each.ids, each.has_end) for each in captions}) == len(captions)
    for each in captions:
        pieces = [*each.ids, *([model.end] if each.has_end else [])]
        assert each.log_probability == pytest.approx(math.fsum(model.log_probabilities(number, pieces)), abs=1e-4)
