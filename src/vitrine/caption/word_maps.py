"""Whole words from tokens (word pieces), each with its probability and its map.

Letters: T tokens, L decoder layers, H heads, K keys (cells of the padded grid, row by row), R grid rows, C grid
columns.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import torch

from vitrine.caption.decoding import DecodedCaption, MapChoice
from vitrine.caption.tokenizer import Vocabulary
from vitrine.errors import ModelError
from vitrine.results import agree, count_of

Join = Literal["mean", "first", "max"]

# Unicode counts them as punctuation; in captions they are words.
_WORD_SIGNS = "&@"

# Word pieces do not say whether there were spaces round both; in captions, they stand inside words: "t-shirt", "dog's".
_HYPHENS = "-‐‑"
_APOSTROPHES = "'’"

# How byte-level and SentencePiece vocabularies spell the end of a line, which long answers have.
_LINE_ENDS = ("Ċ", "č", "\n", "\r")
_LINE_END_BYTE = "<0x0A>"
_AFTER_APOSTROPHE = ("s", "t", "d", "m", "ll", "re", "ve")


@dataclass(frozen=True, eq=False)
class CaptionWord:
    """One word of a caption.

    Attributes:
        text: as it is written, with the punctuation that belongs to it.
        probability: the product of the model's probabilities of its tokens, each given those before it.
        map_RC: float32 in multiples of uniform: its mean over the picture's own cells is 1.
        tokens: as the vocabulary spells them.
        queries_N: float32, the attention to each query token, where the map is a product with what those read; None of
            other captioners.
    """

    text: str
    probability: float
    map_RC: npt.NDArray[np.float32]
    tokens: tuple[str, ...]
    queries_N: npt.NDArray[np.float32] | None = None


def caption_words(
    caption: DecodedCaption, vocabulary: Vocabulary, join: Join = "mean", maps: MapChoice | None = None
) -> tuple[CaptionWord, ...]:
    """The words of a caption, by these rules:

    - A piece that continues the one before it (``##ing``) belongs to its word.
    - Punctuation belongs to the word before it; opening brackets and quotation marks, and whatever stands at the very
      beginning, to the word after it.
    - The end of a line ends a word.
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
    queries_TN = None if caption.queries_TLHN is None else _one_map_a_token(caption.queries_TLHN, maps)
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
                queries_N=None
                if queries_TN is None
                else _join_maps(queries_TN[map_places].astype(np.float64), log_probabilities, join).astype(np.float32),
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
        is_on_new_line = place > 0 and _ends_line(pieces[place - 1]) and bool(texts[place])
        joins = (
            vocabulary.is_continuation(number)
            or (_is_sign(pieces[place]) and not _opens(texts[place]))
            or _opens(before)
            or _is_sign_of(before, _HYPHENS)
            or (_is_sign_of(before, _APOSTROPHES) and texts[place].lower() in _AFTER_APOSTROPHE)
        )
        follows_signs = len(words) == 1 and all(_is_sign(pieces[at]) for at in words[0])
        if words and (follows_signs or (joins and not is_on_new_line)):
            words[-1].append(place)
        else:
            words.append([place])
    return words


def _without_marks(piece: str) -> str:
    """A piece without the marks of WordPiece, byte-level BPE and SentencePiece, and without ends of lines."""
    if piece == _LINE_END_BYTE:
        return ""
    return piece[2:] if piece.startswith("##") and len(piece) > 2 else piece.lstrip("Ġ▁").rstrip("".join(_LINE_ENDS))


def _ends_line(piece: str) -> bool:
    return piece.endswith(_LINE_ENDS) or piece == _LINE_END_BYTE


def _is_sign(piece: str) -> bool:
    """Whether a piece is punctuation or the end of a line; special pieces such as ``[UNK]`` have letters."""
    text = _without_marks(piece)
    return (bool(text) or _ends_line(piece)) and all(
        unicodedata.category(sign)[0] == "P" and sign not in _WORD_SIGNS for sign in text
    )


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
        raise ValueError(
            f"Expected one map a piece; {count_of(layers, 'layer')} and {count_of(heads, 'head')} "
            f"{agree(heads, 'is', 'are')} left to choose from."
        )
    return np.asarray(maps_TLHK[:, 0, 0])


def _join_maps(
    maps_TRC: npt.NDArray[np.float64], log_probabilities_T: npt.NDArray[np.float64], join: Join
) -> npt.NDArray[np.float64]:
    """One of several, along their first axis."""
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
