"""Decoding captions, on a captioner whose every number can be looked up.

Axes: T pieces, L decoder layers, H heads, K keys.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.stand_in_captioner import HEADS, LAYERS, TableCaptioner, TableEncoderOutput

from vitrine.caption.beam_search import beam_search
from vitrine.caption.decoding import DecodedCaption, MapChoice, final_captions, greedy, teacher_forced, top_k_stable
from vitrine.caption.sampling import sample
from vitrine.errors import ModelError

GRIDS = ((2, 3), (3, 1), (1, 4), (3, 3))
ALL = MapChoice(layers="all", heads="all")

captioners = st.builds(
    TableCaptioner,
    size=st.integers(4, 9),
    max_length=st.integers(2, 10),
    end_bonus=st.sampled_from([-30.0, 0.0, 2.0, 30.0]),
    levels=st.sampled_from([0, 1]),
)


def pieces(captioner: TableCaptioner, caption: DecodedCaption) -> list[int]:
    return [*caption.ids, *([captioner.end] if caption.has_end else [])]


def looked_up(captioner: TableCaptioner, caption: DecodedCaption, picture: int) -> np.ndarray:
    """(T, L, H, K): for each piece, the row of the query one before it."""
    return np.stack(
        [
            captioner.cross(picture, (captioner.start, *caption.ids[:place]), caption.grid, caption.padded_grid)
            for place in range(len(caption.ids))
        ]
    )


def check(captioner: TableCaptioner, encoder_output: TableEncoderOutput, captions: Sequence[DecodedCaption]) -> None:
    """All that must hold of a caption however it was chosen; maps were all kept."""
    assert len(captions) == len(encoder_output.grids)
    for place, caption in enumerate(captions):
        picture = encoder_output.features[place]
        expected = captioner.log_probabilities(picture, pieces(captioner, caption))
        np.testing.assert_allclose(caption.log_probabilities, expected[: len(caption.ids)], atol=1e-5)
        assert caption.log_probability == pytest.approx(sum(expected), abs=1e-5)
        assert captioner.end not in caption.ids
        assert caption.has_end or len(caption.ids) == captioner.max_length - 1
        assert caption.grid == encoder_output.grids[place]
        assert caption.padded_grid == encoder_output.padded_grid
        assert caption.maps_TLHK.dtype == np.float32
        if caption.ids:
            np.testing.assert_array_equal(caption.maps_TLHK, looked_up(captioner, caption, picture))
        else:
            assert caption.maps_TLHK.shape == (0, LAYERS, HEADS, math.prod(encoder_output.padded_grid))


@given(captioners)
@settings(max_examples=25)
def test_greedy_takes_the_most_likely_piece(captioner: TableCaptioner) -> None:
    encoder_output = captioner.encode(GRIDS)
    captions = final_captions(greedy(captioner, encoder_output, maps=ALL))
    check(captioner, encoder_output, captions)
    for picture, caption in enumerate(captions):
        said = [captioner.start]
        while len(said) < captioner.max_length and said[-1] != captioner.end:
            said.append(int(np.argmax(captioner.logits(picture, tuple(said)))))
        assert pieces(captioner, caption) == said[1:]


@given(captioners, st.integers(0, 3))
@settings(max_examples=25)
def test_one_beam_is_greedy(captioner: TableCaptioner, ngram: int) -> None:
    encoder_output = captioner.encode(GRIDS)
    one = final_captions(beam_search(captioner, encoder_output, 1, no_repeat_ngram=ngram))
    other = final_captions(greedy(captioner, encoder_output, no_repeat_ngram=ngram))
    for beam, single in zip(one, other, strict=True):
        assert beam.ids == single.ids
        assert beam.log_probabilities == single.log_probabilities
        assert beam.end_log_probability == single.end_log_probability
        np.testing.assert_array_equal(beam.maps_TLHK, single.maps_TLHK)


@given(captioners, st.integers(2, 6), st.sampled_from([0.0, 0.7, 1.0]), st.integers(0, 3))
@settings(max_examples=40)
def test_beam_scores_are_what_teacher_forcing_gives(
    captioner: TableCaptioner, beams: int, exponent: float, ngram: int
) -> None:
    encoder_output = captioner.encode(GRIDS)
    found = beam_search(
        captioner, encoder_output, beams, length_normalisation=exponent, no_repeat_ngram=ngram, maps=ALL
    )
    captions = final_captions(found)
    check(captioner, encoder_output, captions)
    with_end = [caption.has_end for caption in captions]
    again = final_captions(
        teacher_forced(captioner, encoder_output, [caption.ids for caption in captions], with_end=with_end, maps=ALL)
    )
    for one, other in zip(captions, again, strict=True):
        assert one.score(exponent) == pytest.approx(other.score(exponent), abs=1e-5)
        np.testing.assert_array_equal(one.maps_TLHK, other.maps_TLHK)


def slow_beam_search(captioner: TableCaptioner, picture: int, beams: int, exponent: float) -> list[int]:
    """The documented rules, written down without batches, states or shared beginnings."""

    def total(said: tuple[int, ...]) -> float:
        return sum(captioner.log_probabilities(picture, said))

    def score(said: tuple[int, ...]) -> float:
        return total(said) / len(said) ** exponent

    live: list[tuple[int, ...]] = [()]
    complete: list[tuple[int, ...]] = []
    for _ in range(captioner.max_length - 1):
        longer = [(*said, piece) for said in live for piece in range(captioner.size)]
        ranked = sorted(longer, key=total, reverse=True)
        complete += [said for said in ranked[:beams] if said[-1] == captioner.end]
        complete = sorted(complete, key=score, reverse=True)[:beams]
        live = [said for said in ranked if said[-1] != captioner.end][:beams]
        if len(complete) == beams and score(complete[-1]) >= max(map(score, live)):
            break
    return list(max(complete or live, key=score))


@pytest.mark.parametrize("exponent", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("beams", [2, 3, 5])
@pytest.mark.parametrize(("size", "longest", "end_bonus"), [(8, 7, 0.5), (5, 9, 0.0)])
def test_beam_search_equals_a_slow_one(size: int, longest: int, end_bonus: float, beams: int, exponent: float) -> None:
    captioner = TableCaptioner(size=size, max_length=longest, end_bonus=end_bonus)
    encoder_output = captioner.encode(GRIDS * 3)
    captions = final_captions(beam_search(captioner, encoder_output, beams, length_normalisation=exponent))
    found = [pieces(captioner, caption) for caption in captions]
    assert found == [slow_beam_search(captioner, picture, beams, exponent) for picture in range(len(found))]
    single = [pieces(captioner, caption) for caption in final_captions(greedy(captioner, encoder_output))]
    assert found != single, "these pictures should tell beam search from greedy decoding"


@pytest.mark.parametrize("exponent", [0.0, 1.0])
def test_with_beams_enough_the_best_of_all_captions_is_found(exponent: float) -> None:
    captioner = TableCaptioner(size=5, max_length=5, end_bonus=-1.0)
    words = [piece for piece in range(captioner.size) if piece != captioner.end]
    every = [
        [*said, captioner.end]
        for length in range(captioner.max_length - 1)
        for said in itertools.product(words, repeat=length)
    ]
    encoder_output = captioner.encode(GRIDS)
    for picture, caption in enumerate(
        final_captions(beam_search(captioner, encoder_output, 500, length_normalisation=exponent))
    ):
        scores = [sum(captioner.log_probabilities(picture, said)) / len(said) ** exponent for said in every]
        best = int(np.argmax(scores))
        assert pieces(captioner, caption) == every[best]
        assert caption.score(exponent) == pytest.approx(scores[best], abs=1e-6)


WAYS = {
    "greedy": lambda captioner, encoder_output, pictures: greedy(captioner, encoder_output, maps=ALL),
    "beams": lambda captioner, encoder_output, pictures: beam_search(captioner, encoder_output, 4, maps=ALL),
    "sample": lambda captioner, encoder_output, pictures: sample(
        captioner, encoder_output, [7 + one for one in pictures], maps=ALL
    ),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("levels", [0, 1])
def test_a_picture_has_the_same_caption_alone_and_in_a_batch(way: str, levels: int) -> None:
    captioner = TableCaptioner(max_length=12, end_bonus=1.0, levels=levels)
    together = final_captions(WAYS[way](captioner, captioner.encode(GRIDS), range(4)))
    check(captioner, captioner.encode(GRIDS), together)
    assert len({len(caption.ids) for caption in together}) > 1, "the captions should end at different steps"
    for picture, grid in enumerate(GRIDS):
        encoder_output = TableEncoderOutput((picture,), (grid,), (3, 4))
        (alone,) = final_captions(WAYS[way](captioner, encoder_output, [picture]))
        assert alone.ids == together[picture].ids
        np.testing.assert_array_equal(alone.maps_TLHK, together[picture].maps_TLHK)


def test_finished_pictures_no_longer_cost() -> None:
    captioner = TableCaptioner(max_length=12, end_bonus=1.0)
    captions = final_captions(greedy(captioner, captioner.encode(GRIDS)))
    steps = [len(pieces(captioner, caption)) for caption in captions]
    assert captioner.rows == [sum(length > step for length in steps) for step in range(max(steps))]

    captioner.rows.clear()
    list(beam_search(captioner, captioner.encode(GRIDS), 3))
    assert captioner.rows[0] == len(GRIDS), "the first step is the same for all beams"
    assert max(captioner.rows) <= 3 * len(GRIDS)
    assert captioner.rows[-1] < max(captioner.rows)


@pytest.mark.parametrize("way", WAYS)
def test_progress_comes_piece_by_piece(way: str) -> None:
    captioner = TableCaptioner(max_length=12, end_bonus=1.0)
    encoder_output = captioner.encode(GRIDS)
    steps = list(WAYS[way](captioner, encoder_output, range(4)))
    assert [progress.step for progress in steps] == list(range(1, len(steps) + 1))
    assert not any(steps[-1].is_running)
    # Looked at only now: what a step showed is not changed by later ones.
    for progress in steps:
        for picture, caption in enumerate(progress.captions):
            assert len(pieces(captioner, caption)) <= progress.step
            if caption.ids:
                np.testing.assert_array_equal(caption.maps_TLHK, looked_up(captioner, caption, picture))
            if not progress.is_running[picture]:
                assert caption.ids == steps[-1].captions[picture].ids
            elif way != "beams":
                assert len(caption.ids) == progress.step
    if way != "beams":
        assert [len(caption.ids) for caption in steps[0].captions] == [1 - c.has_end for c in steps[0].captions]


def test_gradients_are_the_callers_own_between_steps() -> None:
    captioner = TableCaptioner()
    for _ in greedy(captioner, captioner.encode(GRIDS)):
        assert torch.is_grad_enabled()


@pytest.mark.parametrize("way", WAYS)
def test_no_pictures_have_no_captions(way: str) -> None:
    captioner = TableCaptioner()
    assert final_captions(WAYS[way](captioner, captioner.encode([]), [])) == ()


@given(st.integers(1, 3), st.integers(1, 4))
@settings(max_examples=15)
def test_no_run_of_pieces_comes_twice(ngram: int, beams: int) -> None:
    captioner = TableCaptioner(size=5, max_length=16, end_bonus=-30.0)
    encoder_output = captioner.encode(GRIDS)
    for way in (
        beam_search(captioner, encoder_output, beams, no_repeat_ngram=ngram),
        greedy(captioner, encoder_output, no_repeat_ngram=ngram),
        sample(captioner, encoder_output, 0, no_repeat_ngram=ngram),
    ):
        for caption in final_captions(way):
            runs = [caption.ids[at : at + ngram] for at in range(len(caption.ids) - ngram + 1)]
            assert len(set(runs)) == len(runs)
            assert len(caption.ids) >= 4, "only the end is left when all is forbidden"
    repeats = final_captions(greedy(TableCaptioner(size=4, max_length=16, end_bonus=-30.0), encoder_output))
    assert any(len(set(caption.ids)) < len(caption.ids) for caption in repeats)


def test_a_caption_that_cannot_go_on_is_cut() -> None:
    class Endless(TableCaptioner):
        def logits(self, picture: int, beginning: tuple[int, ...]) -> np.ndarray:
            logits = super().logits(picture, beginning)
            logits[self.end] = -np.inf
            return logits

    captioner = Endless(size=5, max_length=9)
    encoder_output = captioner.encode(GRIDS)
    for way in (
        greedy(captioner, encoder_output, no_repeat_ngram=1),
        beam_search(captioner, encoder_output, 3, no_repeat_ngram=1),
        sample(captioner, encoder_output, 2, no_repeat_ngram=1),
    ):
        for caption in final_captions(way):
            assert sorted(caption.ids) == [0, 1, 3, 4]
            assert not caption.has_end


def test_maps_stay_where_a_captioner_uses_its_tensors_again() -> None:
    class Thrifty(TableCaptioner):
        buffer: torch.Tensor | None = None

        def step(self, *given):
            step = super().step(*given)
            self.buffer = step.cross_LBHK if self.buffer is None else self.buffer.copy_(step.cross_LBHK)
            return replace(step, cross_LBHK=self.buffer)

    captioner = Thrifty(end_bonus=-30.0)
    encoder_output = captioner.encode(GRIDS)
    check(captioner, encoder_output, final_captions(greedy(captioner, encoder_output, maps=ALL)))


def test_captions_are_cut_where_asked() -> None:
    captioner = TableCaptioner(max_length=12, end_bonus=-30.0)
    encoder_output = captioner.encode(GRIDS)
    for way in (
        greedy(captioner, encoder_output, max_tokens=3),
        beam_search(captioner, encoder_output, 2, max_tokens=3),
        sample(captioner, encoder_output, 1, max_tokens=3),
    ):
        for caption in final_captions(way):
            assert len(caption.ids) == 3
            assert not caption.has_end
            assert caption.end_log_probability is None
    for pieces_asked in (0, 12):
        with pytest.raises(ModelError, match="1 to 11 word pieces"):
            next(greedy(captioner, encoder_output, max_tokens=pieces_asked))


def test_a_cut_caption_is_given_only_if_none_ended() -> None:
    found = set()
    for longest in range(3, 9):
        captioner = TableCaptioner(max_length=longest, end_bonus=-2.0)
        captions = final_captions(beam_search(captioner, captioner.encode(GRIDS), 4, length_normalisation=1.0))
        for picture, caption in enumerate(captions):
            ends = slow_beam_search(captioner, picture, 4, 1.0)[-1] == captioner.end
            assert caption.has_end == ends
            found.add(ends)
    assert found == {True, False}


def test_sampling_follows_its_seed() -> None:
    captioner = TableCaptioner(max_length=12)
    encoder_output = captioner.encode(GRIDS)
    first = [caption.ids for caption in final_captions(sample(captioner, encoder_output, 3))]
    assert first == [caption.ids for caption in final_captions(sample(captioner, encoder_output, 3))]
    assert first != [caption.ids for caption in final_captions(sample(captioner, encoder_output, 4))]


def test_sampling_from_one_piece_is_greedy() -> None:
    captioner = TableCaptioner(max_length=12, levels=1)
    encoder_output = captioner.encode(GRIDS)
    single = [caption.ids for caption in final_captions(greedy(captioner, encoder_output))]
    for restriction in ({"top_k": 1}, {"top_p": 1e-6}, {"temperature": 1e-3, "top_k": 1}):
        assert single == [
            caption.ids for caption in final_captions(sample(captioner, encoder_output, 5, **restriction))
        ]


@pytest.mark.parametrize(
    "restriction",
    [{}, {"temperature": 0.5}, {"top_k": 3}, {"top_p": 0.6}, {"temperature": 2.0, "top_k": 4, "top_p": 0.7}],
)
def test_sampled_pieces_are_as_frequent_as_they_should_be(restriction: dict[str, float]) -> None:
    captioner = TableCaptioner(size=8)
    draws = 4000
    encoder_output = TableEncoderOutput((0,) * draws, ((1, 1),) * draws, (1, 1))
    captions = final_captions(sample(captioner, encoder_output, 11, max_tokens=1, **restriction))
    drawn = np.bincount([pieces(captioner, caption)[0] for caption in captions], minlength=8) / draws

    # The distribution, one piece at a time.
    logits = captioner.logits(0, (captioner.start,)).astype(np.float64) / restriction.get("temperature", 1.0)
    ranked = sorted(range(8), key=lambda piece: -logits[piece])[: int(restriction.get("top_k", 0)) or None]
    weight = {piece: math.exp(logits[piece]) for piece in ranked}
    kept, reached = [], 0.0
    for piece in ranked:
        kept.append(piece)
        reached += weight[piece] / sum(weight.values())
        if reached >= restriction.get("top_p", 1.0):
            break
    expected = np.array([weight[piece] if piece in kept else 0.0 for piece in range(8)])
    expected /= expected.sum()
    assert (drawn[expected == 0] == 0).all()
    np.testing.assert_allclose(drawn, expected, atol=5 * math.sqrt(0.25 / draws))


@pytest.mark.parametrize(
    "wrong", [{"temperature": 0.0}, {"temperature": math.inf}, {"top_k": -1}, {"top_p": 0.0}, {"top_p": 1.1}]
)
def test_sampling_refuses_what_it_cannot_do(wrong: dict[str, float]) -> None:
    captioner = TableCaptioner()
    with pytest.raises(ValueError, match="out of range"):
        next(sample(captioner, captioner.encode(GRIDS), 0, **wrong))


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (MapChoice(), lambda maps: maps[:, -1:].mean(2, keepdims=True)),
        (MapChoice(layers=0, heads="max"), lambda maps: maps[:, :1].max(2, keepdims=True)),
        (MapChoice(layers=-2, heads=1), lambda maps: maps[:, 1:2, 1:2]),
        (MapChoice(layers="mean", heads="mean"), lambda maps: maps.mean((1, 2), keepdims=True)),
        (MapChoice(layers="mean", heads="max"), lambda maps: maps.max(2, keepdims=True).mean(1, keepdims=True)),
        (MapChoice(layers="all", heads="mean"), lambda maps: maps.mean(2, keepdims=True)),
        (MapChoice(layers=1, heads="all"), lambda maps: maps[:, 1:2]),
    ],
)
def test_maps_are_kept_as_asked(choice: MapChoice, expected) -> None:
    captioner = TableCaptioner(end_bonus=-30.0)
    encoder_output = captioner.encode(GRIDS)
    for some, every in zip(
        final_captions(beam_search(captioner, encoder_output, 3, maps=choice)),
        final_captions(beam_search(captioner, encoder_output, 3, maps=ALL)),
        strict=True,
    ):
        np.testing.assert_allclose(some.maps_TLHK, expected(every.maps_TLHK), atol=1e-7)


@pytest.mark.parametrize("choice", [MapChoice(layers=3), MapChoice(layers=-4), MapChoice(heads=2), MapChoice(heads=-3)])
def test_layers_and_heads_that_are_not_there_are_refused(choice: MapChoice) -> None:
    captioner = TableCaptioner()
    with pytest.raises(ModelError, match="There is no"):
        next(greedy(captioner, captioner.encode(GRIDS), maps=choice))


def test_forced_captions_are_refused_where_they_cannot_be_followed() -> None:
    captioner = TableCaptioner(max_length=5)
    encoder_output = captioner.encode(GRIDS[:1])
    (longest,) = final_captions(teacher_forced(captioner, encoder_output, [[3, 4, 5]]))
    assert longest.ids == (3, 4, 5)
    assert longest.has_end
    assert final_captions(teacher_forced(captioner, encoder_output, [[]]))[0].ids == ()
    with pytest.raises(ModelError, match="5 word pieces"):
        next(teacher_forced(captioner, encoder_output, [[3, 4, 5, 6]]))
    for captions, with_end in (([[3], [4]], True), ([[captioner.end]], True), ([[]], False), ([[3, 2, 4]], False)):
        with pytest.raises(ValueError, match=r"caption"):
            next(teacher_forced(captioner, encoder_output, captions, with_end=with_end))


def test_forced_captions_may_have_different_lengths() -> None:
    captioner = TableCaptioner()
    encoder_output = captioner.encode(GRIDS[:3])
    given = ([3], [5, 4, 3, 6], [4, 4])
    captions = final_captions(teacher_forced(captioner, encoder_output, given, with_end=[False, True, True], maps=ALL))
    assert [caption.ids for caption in captions] == [(3,), (5, 4, 3, 6), (4, 4)]
    assert [caption.has_end for caption in captions] == [False, True, True]
    for picture, caption in enumerate(captions):
        expected = captioner.log_probabilities(picture, pieces(captioner, caption))
        assert caption.log_probability == pytest.approx(sum(expected), abs=1e-5)
        np.testing.assert_array_equal(caption.maps_TLHK, looked_up(captioner, caption, picture))


def test_damaged_weights_are_named() -> None:
    class Damaged(TableCaptioner):
        def logits(self, picture: int, beginning: tuple[int, ...]) -> np.ndarray:
            logits = super().logits(picture, beginning)
            logits[4] = np.nan
            return logits

    with pytest.raises(ModelError, match="damaged"):
        next(greedy(Damaged(), Damaged().encode(GRIDS)))


@given(
    st.lists(st.lists(st.sampled_from([-math.inf, 0.0, 1.0, 1.5]), min_size=6, max_size=6), min_size=1, max_size=3),
    st.integers(1, 8),
)
def test_best_first_takes_the_lowest_id_of_equals(rows: list[list[float]], count: int) -> None:
    expected = [
        [(row[at], at) for at in np.argsort(-np.array(row), kind="stable")[:count] if row[at] > -math.inf]
        for row in rows
    ]
    assert top_k_stable(torch.tensor(rows), count) == expected
