"""Whole words from tokens (word pieces), each with its probability and its map, and whether the map is localized.

Letters: T tokens, L decoder layers, H heads, K keys (cells of the padded grid, row by row), R grid rows, C grid
columns.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch

from vitrine.caption.decoding import DecodedCaption, MapChoice
from vitrine.caption.tokenizer import Vocabulary
from vitrine.errors import ModelError
from vitrine.results import DECIMALS

Join = Literal["mean", "first", "max"]

# Unicode counts them as punctuation; in captions they are words.
_WORD_SIGNS = "&@"

# Word pieces do not say whether there were spaces round both; in captions, they stand inside words: "t-shirt", "dog's".
_HYPHENS = "-‐‑"
_APOSTROPHES = "'’"
_AFTER_APOSTROPHE = ("s", "t", "d", "m", "ll", "re", "ve")


@dataclass(frozen=True, eq=False)
class CaptionWord:
    """One word of a caption.

    Attributes:
        text: as it is written, with the punctuation that belongs to it.
        probability: the product of the model's probabilities of its tokens, each given those before it.
        map_RC: float32 in multiples of uniform: its mean over the picture's own cells is 1.
        tokens: as the vocabulary spells them.
    """

    text: str
    probability: float
    map_RC: npt.NDArray[np.float32]
    tokens: tuple[str, ...]


def caption_words(
    caption: DecodedCaption, vocabulary: Vocabulary, join: Join = "mean", maps: MapChoice | None = None
) -> tuple[CaptionWord, ...]:
    """The words of a caption, by these rules:

    - A piece that continues the one before it (``##ing``) belongs to its word.
    - Punctuation belongs to the word before it; opening brackets and quotation marks, and whatever stands at the very
      beginning, to the word after it.
    - What follows a hyphen belongs to its word ("t-shirt"); so does an English ending after an apostrophe ("dog's").
    - A word's map is made of the maps of its pieces that are not punctuation: a full stop is predicted from somewhere
      else than the noun that it is written to. Only a word of nothing but punctuation has the maps of that.
    - The maps of its pieces become one by ``join``. Then padding is cut off and the rest divided by its mean.

    Args:
        caption: with its maps.
        vocabulary: that its ids are from.
        join: ``mean`` weighted by the probability of each piece; ``first``, the first piece's; or ``max``, the highest
            value in each cell.
        maps: what of the kept layers and heads to use, counted among those that were kept; None where one was kept.

    Raises:
        ModelError: an id is not in the vocabulary, there is no such layer or head, or a map that has no attention on
            the picture or is not finite.
        ValueError: an unknown ``join``, or layers and heads are left to choose from.
    """
    if join not in get_args(Join):
        raise ValueError(f"join = {join!r} is none of {', '.join(get_args(Join))}.")
    maps_TK = _one_map_a_token(caption.maps_TLHK, maps)
    words = []
    for places in group_tokens(caption.ids, vocabulary):
        pieces = [vocabulary.token(caption.ids[place]) for place in places]
        map_places = [place for place, piece in zip(places, pieces, strict=True) if not _is_sign(piece)] or places
        log_probabilities = np.array([caption.log_probabilities[place] for place in map_places])
        # Cut first: what lies on padding is no part of the map.
        maps_TRC = maps_TK[map_places].reshape(-1, *caption.padded_grid)[:, : caption.grid[0], : caption.grid[1]]
        words.append(
            CaptionWord(
                # A padding token that was predicted has no text: it is shown as the vocabulary spells it.
                text=_text([caption.ids[place] for place in places], vocabulary) or "".join(pieces),
                probability=math.exp(sum(caption.log_probabilities[place] for place in places)),
                map_RC=_to_multiples_of_uniform(
                    _join_maps(maps_TRC.astype(np.float64), log_probabilities, join), pieces
                ),
                tokens=tuple(pieces),
            )
        )
    return tuple(words)


def group_tokens(ids: Sequence[int], vocabulary: Vocabulary) -> list[list[int]]:
    """The places in the caption of the tokens of each word, by the rules of :func:`caption_words`.

    Every token is in one word, in order.
    """
    words: list[list[int]] = []
    pieces = [vocabulary.token(number) for number in ids]
    texts = [_without_marks(piece) for piece in pieces]
    for place, number in enumerate(ids):
        before = texts[place - 1] if place else ""
        joins = (
            vocabulary.is_continuation(number)
            or (_is_sign(pieces[place]) and not _opens(texts[place]))
            or _opens(before)
            or _is_sign_of(before, _HYPHENS)
            or (_is_sign_of(before, _APOSTROPHES) and texts[place].lower() in _AFTER_APOSTROPHE)
            or (len(words) == 1 and all(_is_sign(pieces[at]) for at in words[0]))
        )
        if words and joins:
            words[-1].append(place)
        else:
            words.append([place])
    return words


def _without_marks(piece: str) -> str:
    """A piece without the marks of WordPiece, byte-level BPE and SentencePiece."""
    return piece[2:] if piece.startswith("##") and len(piece) > 2 else piece.lstrip("Ġ▁")


def _is_sign(piece: str) -> bool:
    """Whether a piece is punctuation and nothing else; special pieces such as ``[UNK]`` have letters."""
    text = _without_marks(piece)
    return bool(text) and all(unicodedata.category(sign)[0] == "P" and sign not in _WORD_SIGNS for sign in text)


def _opens(text: str) -> bool:
    return bool(text) and all(unicodedata.category(sign) in ("Ps", "Pi") for sign in text)


def _is_sign_of(text: str, signs: str) -> bool:
    return bool(text) and all(letter in signs for letter in text)


def _text(ids: Sequence[int], vocabulary: Vocabulary) -> str:
    """A word has no spaces; the vocabulary's own text puts them round hyphens and quotation marks."""
    return "".join(vocabulary.decode(ids).split())


def _one_map_a_token(maps_TLHK: npt.NDArray[np.float32], choice: MapChoice | None) -> npt.NDArray[np.float32]:
    if choice is not None:
        maps_LTHK = torch.from_numpy(maps_TLHK).transpose(0, 1)
        maps_TLHK = choice.of(maps_LTHK).numpy()
    if maps_TLHK.shape[1:3] != (1, 1):
        layers, heads = maps_TLHK.shape[1:3]
        raise ValueError(f"Expected one map a piece; {layers} layers and {heads} heads are left to choose from.")
    return np.asarray(maps_TLHK[:, 0, 0])


def _join_maps(
    maps_TRC: npt.NDArray[np.float64], log_probabilities_T: npt.NDArray[np.float64], join: Join
) -> npt.NDArray[np.float64]:
    if join == "first":
        return np.asarray(maps_TRC[0])
    if join == "max":
        return np.asarray(maps_TRC.max(axis=0))
    weights_T = np.exp(log_probabilities_T - log_probabilities_T.max())
    return np.asarray(np.tensordot(weights_T / weights_T.sum(), maps_TRC, axes=1))


def _to_multiples_of_uniform(map_RC: npt.NDArray[np.float64], pieces: Sequence[str]) -> npt.NDArray[np.float32]:
    mean = map_RC.mean()
    if not np.isfinite(mean) or mean <= 0:
        raise ModelError(f"The word {''.join(pieces)!r} has no attention on its picture that could be shown.")
    return np.asarray(map_RC / mean, dtype=np.float32)


MIN_DISTANCE_TO_UNIFORM = 0.25
"""Below this :func:`jensen_shannon_distance` to a uniform map, a word's attention is the same everywhere. A map that is
uniform but for a share of its attention on one place, a fiftieth of the cells, is at 0.17 with a tenth of it there and
at 0.28 with a fifth. A captioner of the published shapes with weights from a seed, which cannot have learnt to look
anywhere, has 0.13 to 0.27 in its last layer: together with the next threshold, this one tells 39 of 40 of its words
apart from words that are localized."""

MIN_DISTANCE_TO_OTHERS = 0.25
"""Below this distance to the mean map of the caption's other words, a word attends where all of them attend. The same
number for the same reason: words of that captioner with weights from a seed are 0.10 to 0.26 from one another's mean,
and a word with a fifth of its attention on a small place of its own is 0.28 from it."""

Flag = Literal["particular", "average", "uniform"]


@dataclass(frozen=True)
class WordCheck:
    """Whether a word's map is localized: how far it is from a uniform map and from those of the other words.

    Distances are 0 (equal) to 1 (nothing in common).

    Attributes:
        to_uniform: distance to a map that is the same everywhere.
        to_others: distance to the mean of the caption's other maps, each counting alike; None for an only word.
    """

    to_uniform: float
    to_others: float | None

    @property
    def flag(self) -> Flag:
        """``uniform`` or ``average`` where the map is too near to one of them (to both: ``uniform``), else
        ``particular``."""
        if self.to_uniform < MIN_DISTANCE_TO_UNIFORM:
            return "uniform"
        return "average" if self.to_others is not None and self.to_others < MIN_DISTANCE_TO_OTHERS else "particular"

    @property
    def is_localized(self) -> bool:
        """Whether the map differs from both; one that is not localized says nothing about this word."""
        return self.flag == "particular"

    @property
    def sentence(self) -> str:
        """The finding for a person."""
        if self.flag == "uniform":
            return f"It looked nowhere in particular: its map is spread evenly (distance {self.to_uniform:.2f})."
        if self.flag == "average":
            return (
                "It looked nowhere in particular: its map is that of the caption's other words "
                f"(distance {self.to_others:.2f})."
            )
        others = "" if self.to_others is None else f" and {self.to_others:.2f} to the other words' mean"
        return f"It looked somewhere in particular: distance {self.to_uniform:.2f} to an even map{others}."

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: flag, sentence, and the distances rounded to ``DECIMALS``."""
        return {
            "flag": self.flag,
            "sentence": self.sentence,
            "to_uniform": round(self.to_uniform, DECIMALS),
            "to_others": None if self.to_others is None else round(self.to_others, DECIMALS),
        }


def check_words(words: Sequence[CaptionWord]) -> tuple[WordCheck, ...]:
    """Check each word of one caption against uniform and against the mean of the others, itself left out: with it, a
    word would be nearer to the mean in a short caption than in a long one.

    Raises:
        ValueError: the maps have different grids, or one is negative, zero or not finite.
    """
    if len({word.map_RC.shape for word in words}) > 1:
        raise ValueError("Expected words of one caption; their maps have different grids.")
    if not words:
        return ()
    maps_TK = np.stack([_distribution(word.map_RC) for word in words])
    total_K, uniform_K = maps_TK.sum(axis=0), np.ones(maps_TK.shape[1])
    return tuple(
        WordCheck(
            jensen_shannon_distance(map_K, uniform_K),
            jensen_shannon_distance(map_K, others_K) if len(words) > 1 else None,
        )
        # A difference of sums may fall below zero by rounding.
        for map_K, others_K in zip(maps_TK, np.maximum(total_K - maps_TK, 0), strict=True)
    )


def jensen_shannon_distance(one: npt.ArrayLike, other: npt.ArrayLike) -> float:
    """Jensen-Shannon distance of two maps, 0 to 1: the square root of their Jensen-Shannon divergence in bits (Lin
    1991; it is a metric: Endres & Schindelin 2003).

    Attention gathered on a small place counts for more than the same share spread as noise over the grid, which is as
    the eye sees it on a scale of multiples of uniform.

    Args:
        one: not negative, with a positive sum; it is divided by it.
        other: likewise, of the same shape.

    Raises:
        ValueError: different shapes, or scores that are negative, not finite or all zero.
    """
    if np.shape(one) != np.shape(other):
        raise ValueError(f"Expected two maps of one shape; got {np.shape(one)} and {np.shape(other)}.")
    one_K, other_K = _distribution(one), _distribution(other)
    middle_K = (one_K + other_K) / 2
    bits = (_divergence(one_K, middle_K) + _divergence(other_K, middle_K)) / 2
    return math.sqrt(min(max(bits, 0.0), 1.0))


def _divergence(one_K: npt.NDArray[np.float64], other_K: npt.NDArray[np.float64]) -> float:
    """Kullback-Leibler divergence in bits; 0 times its logarithm is 0."""
    there = one_K > 0
    return float((one_K[there] * np.log2(one_K[there] / other_K[there])).sum())


def _distribution(scores: npt.ArrayLike) -> npt.NDArray[np.float64]:
    scores_K = np.asarray(scores, dtype=np.float64).ravel()
    total = scores_K.sum()
    if not np.isfinite(scores_K).all() or (scores_K < 0).any() or not total > 0:
        raise ValueError("Expected a map of finite scores, none of them negative and not all zero.")
    return np.asarray(scores_K / total)
