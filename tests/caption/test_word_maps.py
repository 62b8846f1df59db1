"""Words and their maps: which pieces a word has, where it looked, and that no map belongs to its neighbour.

Axes: T pieces, L decoder layers, H heads, K keys, R grid rows, C grid columns.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.stand_in_captioner import TableCaptioner
from tokenizers import Tokenizer, decoders, models

from vitrine.caption.beam_search import beam_search
from vitrine.caption.decoding import DecodedCaption, MapChoice, final_captions, greedy
from vitrine.caption.tokenizer import Vocabulary
from vitrine.caption.word_maps import CaptionWord, caption_words, group_tokens
from vitrine.errors import ModelError

PIECES = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "a", "cat", "##s", "skate", "##board", "##er", "t", "shirt", "s", "on"]
PIECES += [".", ",", "-", "'", "(", ")", '"', "&", "don", "##!"]


def vocabulary_of(pieces: Sequence[str]) -> Vocabulary:
    tokenizer = Tokenizer(models.WordPiece({piece: n for n, piece in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.decoder = decoders.WordPiece(cleanup=True)
    return Vocabulary(tokenizer)


VOCABULARY = vocabulary_of(PIECES)


def caption(
    pieces: Sequence[str],
    maps_TK: np.ndarray | None = None,
    probabilities: Sequence[float] | None = None,
    grid: tuple[int, int] = (1, 2),
    padded: tuple[int, int] | None = None,
) -> DecodedCaption:
    if maps_TK is None:
        maps_TK = np.full((len(pieces), math.prod(grid)), 1 / math.prod(grid))
    return DecodedCaption(
        ids=tuple(PIECES.index(piece) for piece in pieces),
        log_probabilities=tuple(math.log(share) for share in probabilities or [0.5] * len(pieces)),
        end_log_probability=None,
        maps_TLHK=np.asarray(maps_TK, dtype=np.float32)[:, None, None],
        grid=grid,
        padded_grid=padded or grid,
    )


def texts(words: Sequence[CaptionWord]) -> list[str]:
    return [word.text for word in words]


@pytest.mark.parametrize(
    ("pieces", "words"),
    [
        ("a skate ##board ##er .", ["a", "skateboarder."]),
        ("a cat , a cat ##s .", ["a", "cat,", "a", "cats."]),
        ("a t - shirt on a cat", ["a", "t-shirt", "on", "a", "cat"]),
        ("cat ' s shirt", ["cat's", "shirt"]),
        ("don ' t", ["don't"]),
        ("cat ##s ' shirt", ["cats'", "shirt"]),
        ("cat ( a cat ) on", ["cat", "(a", "cat)", "on"]),
        ('" cat " .', ['"cat".']),
        (". , a cat", [".,a", "cat"]),
        ("a & cat", ["a", "&", "cat"]),
        ("a [UNK] cat", ["a", "[UNK]", "cat"]),
        ("[PAD] cat", ["[PAD]", "cat"]),
        ("##s cat", ["s", "cat"]),
        (".", ["."]),
        ("", []),
    ],
)
def test_pieces_join_into_words(pieces: str, words: list[str]) -> None:
    # "##s" at the beginning has nothing to continue, and its text keeps what the decoder gives it.
    found = [word.replace("##", "") for word in texts(caption_words(caption(pieces.split()), VOCABULARY))]
    assert found == words


said = st.lists(st.sampled_from([piece for piece in PIECES if piece not in ("[PAD]", "[CLS]", "[SEP]")]), max_size=12)


@given(said, st.data())
@settings(max_examples=80)
def test_words_lose_nothing(pieces: list[str], data: st.DataObject) -> None:
    probabilities = data.draw(st.lists(st.floats(1e-3, 1), min_size=len(pieces), max_size=len(pieces)))
    whole = caption(pieces, probabilities=probabilities)
    groups = group_tokens(whole.ids, VOCABULARY)
    assert [place for group in groups for place in group] == list(range(len(pieces)))
    words = caption_words(whole, VOCABULARY)
    assert "".join(texts(words)) == VOCABULARY.decode(whole.ids).replace(" ", "")
    assert [piece for word in words for piece in word.tokens] == pieces
    assert math.prod(word.probability for word in words) == pytest.approx(math.prod(probabilities), rel=1e-9)


@given(st.data())
@settings(max_examples=60)
def test_maps_are_cut_to_the_picture_and_relative(data: st.DataObject) -> None:
    rows, columns, more_rows, more_columns = (data.draw(st.integers(low, 3)) for low in (1, 1, 0, 0))
    padded = (rows + more_rows, columns + more_columns)
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    maps_TRC = rng.random((4, *padded)) + 0.01
    for join in ("mean", "first", "max"):
        whole = caption(["skate", "##board", "a", "cat"], maps_TRC.reshape(4, -1), None, (rows, columns), padded)
        for word in caption_words(whole, VOCABULARY, join):
            assert word.map_RC.shape == (rows, columns)
            assert word.map_RC.dtype == np.float32
            assert word.map_RC.mean() == pytest.approx(1, abs=1e-5)
        # What lies on padding changes nothing.
        other = maps_TRC.copy()
        other[:, rows:] = other[:, :, columns:] = 0
        again = caption(["skate", "##board", "a", "cat"], other.reshape(4, -1), None, (rows, columns), padded)
        for one, two in zip(
            caption_words(whole, VOCABULARY, join), caption_words(again, VOCABULARY, join), strict=True
        ):
            np.testing.assert_array_equal(one.map_RC, two.map_RC)


def test_pieces_maps_join_as_stated() -> None:
    maps_TK = np.array([[0.7, 0.1, 0.2], [0.2, 0.5, 0.3], [0.0, 0.0, 1.0], [0.1, 0.8, 0.1]])
    pieces = ["skate", "##board", ".", "a"]
    whole = caption(pieces, maps_TK, [0.8, 0.2, 0.9, 0.5], grid=(1, 3))

    def first_map(join: str) -> np.ndarray:
        word, other = caption_words(whole, VOCABULARY, join)  # type: ignore[arg-type]
        assert (word.text, other.text) == ("skateboard.", "a")
        assert word.probability == pytest.approx(0.8 * 0.2 * 0.9)
        np.testing.assert_allclose(other.map_RC, 3 * maps_TK[3:], rtol=1e-6)
        return word.map_RC[0]

    # The full stop's own map is none of the word's.
    np.testing.assert_allclose(first_map("mean"), 3 * np.array([0.6, 0.18, 0.22]), rtol=1e-6)
    np.testing.assert_allclose(first_map("first"), 3 * maps_TK[0], rtol=1e-6)
    np.testing.assert_allclose(first_map("max"), 3 * np.array([0.7, 0.5, 0.3]) / 1.5, rtol=1e-6)
    (only,) = caption_words(caption(["."], maps_TK[2:3], grid=(1, 3)), VOCABULARY)
    np.testing.assert_allclose(only.map_RC, [[0, 0, 3]])


def test_probabilities_too_small_to_write_down_still_weigh() -> None:
    whole = caption(["skate", "##board"], np.array([[1.0, 0.0], [0.0, 1.0]]))
    tiny = DecodedCaption(
        whole.ids, (-2000.0, -2000.0 + math.log(3)), None, whole.maps_TLHK, whole.grid, whole.padded_grid
    )
    np.testing.assert_allclose(caption_words(tiny, VOCABULARY)[0].map_RC, [[0.5, 1.5]], rtol=1e-6)


def test_layers_and_heads_are_chosen_afterwards_too() -> None:
    captioner = TableCaptioner(size=len(PIECES), end_bonus=-30.0)
    encoder_output = captioner.encode([(2, 3)])
    kept, every = (
        final_captions(greedy(captioner, encoder_output, maps=maps))[0]
        for maps in (MapChoice(), MapChoice("all", "all"))
    )
    chosen = caption_words(every, VOCABULARY, maps=MapChoice(layers=-1, heads="mean"))
    for one, other in zip(caption_words(kept, VOCABULARY), chosen, strict=True):
        np.testing.assert_allclose(one.map_RC, other.map_RC, atol=1e-6)
    other_head = caption_words(every, VOCABULARY, maps=MapChoice(layers=0, heads=1))
    assert any(np.abs(one.map_RC - two.map_RC).max() > 0.1 for one, two in zip(other_head, chosen, strict=True))
    with pytest.raises(ValueError, match="3 layers and 2 heads"):
        caption_words(every, VOCABULARY)
    with pytest.raises(ModelError, match="no head 2"):
        caption_words(every, VOCABULARY, maps=MapChoice(heads=2))


def test_what_is_no_map_is_refused() -> None:
    for row in ([0.0, 0.0, 1.0], [np.nan, 1.0, 0.0], [np.inf, 1.0, 0.0]):
        with pytest.raises(ModelError, match="'cat'"):
            caption_words(caption(["cat"], np.array([row]), grid=(1, 2), padded=(1, 3)), VOCABULARY)
    with pytest.raises(ValueError, match="join"):
        caption_words(caption(["cat"]), VOCABULARY, "sum")  # type: ignore[arg-type]


# --- Alignment. A captioner that looks at a word's own cell when it predicts that word, and nowhere near it else.

WORDS = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", *(f"word{number}" for number in range(8))]


class Pointing(TableCaptioner):
    """Word k has cell k: the row that predicts a word has on each cell the probability of that cell's word."""

    def cross(
        self, picture: int, beginning: tuple[int, ...], grid: tuple[int, int], padded: tuple[int, int]
    ) -> np.ndarray:
        logits = self.logits(picture, beginning)[4:].astype(np.float64)
        own = (np.exp(logits) / np.exp(logits).sum()).reshape(grid)
        cross = np.zeros((3, 2, *padded), np.float32)
        cross[:, :, : grid[0], : grid[1]] = own
        return cross.reshape(3, 2, -1)

    def logits(self, picture: int, beginning: tuple[int, ...]) -> np.ndarray:
        logits = super().logits(picture, beginning)
        logits[:4] = -40  # words only; the end never comes
        return logits


def shifted(decoded: DecodedCaption, by: int) -> DecodedCaption:
    """The mistake: 1 gives each word the row of the word before it, -1 that of the query that was given the word."""
    return replace(decoded, maps_TLHK=np.roll(decoded.maps_TLHK, by, axis=0))


@pytest.mark.parametrize("beams", [1, 4])
def test_a_word_has_the_map_that_predicted_it(beams: int) -> None:
    captioner = Pointing(size=len(WORDS), max_length=14)
    captions = final_captions(beam_search(captioner, captioner.encode([(2, 4)] * 5 + [(4, 2)]), beams))
    vocabulary = vocabulary_of(WORDS)

    def held(by: int) -> tuple[float, float]:
        """Share of words whose map is highest on their own cell, and of those whose map holds there exactly the
        probability that the word had."""
        hit, equal = [], []
        for decoded in captions:
            for word in caption_words(shifted(decoded, by), vocabulary):
                cell = WORDS.index(word.text) - 4
                hit.append(np.argmax(word.map_RC) == cell)
                equal.append(math.isclose(word.map_RC.ravel()[cell] / 8, word.probability, rel_tol=1e-4))
        return float(np.mean(hit)), float(np.mean(equal))

    pointing, exact = held(0)
    assert exact == 1
    assert pointing >= (1 if beams == 1 else 0.7), "beams may follow a word that was not the most likely one"
    for by in (-1, 1):
        pointing, exact = held(by)
        assert pointing < 0.35, "rows that are off by one must cost the score"
        assert exact < 0.1


# --- Words that looked nowhere in particular.


BYTES = ["</s>", "A", "Ġdog", ".", "Ċ", "The", "Ġcat", "'s", "-", "Ġtail", ".ĊĊ", "Ends", "Ġhere"]


@pytest.mark.parametrize(
    ("pieces", "words"),
    [
        ("A Ġdog . Ċ The Ġcat", ["A", "dog.", "The", "cat"]),
        ("A Ġdog .ĊĊ Ends Ġhere", ["A", "dog.", "Ends", "here"]),
        ("A Ġdog Ċ Ċ - Ġtail", ["A", "dog", "-tail"]),
        ("Ċ The Ġcat 's Ġtail", ["The", "cat's", "tail"]),
        ("The Ġcat Ċ", ["The", "cat"]),
    ],
)
def test_the_end_of_a_line_ends_a_word_and_is_no_word(pieces: str, words: list[str]) -> None:
    tokenizer = Tokenizer(models.BPE(vocab={piece: n for n, piece in enumerate(BYTES)}, merges=[]))
    tokenizer.decoder = decoders.ByteLevel()
    vocabulary = Vocabulary(tokenizer, start="</s>", end="</s>", pad="</s>")
    ids = tuple(BYTES.index(piece) for piece in pieces.split())
    maps_TLHK = np.random.default_rng(0).uniform(0.1, 1, (len(ids), 1, 1, 2)).astype(np.float32)
    found = caption_words(
        DecodedCaption(ids, (math.log(0.5),) * len(ids), None, maps_TLHK, (1, 2), (1, 2)), vocabulary, "first"
    )
    assert texts(found) == words
    for word, places in zip(found, group_tokens(ids, vocabulary), strict=True):
        first = next(at for at in places if BYTES[ids[at]].strip("Ċ.-'Ġ"))
        expected_K = maps_TLHK[first, 0, 0] / maps_TLHK[first, 0, 0].mean()
        np.testing.assert_allclose(word.map_RC[0], expected_K, rtol=1e-5)
