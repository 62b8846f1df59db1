"""Attention sinks of an answer: places of the picture that draw attention whatever the word is.

In vision-language models much of the attention to a picture goes to a few image tokens of no meaning, the same ones for
every word (S. Kang, J. Kim, J. Kim, S. J. Hwang 2025, See what you are told: visual attention sink in large multimodal
models, arXiv:2503.03321). Those authors tell them by their hidden states; here they are told by the maps alone.

Axes: T words, R grid rows, C grid columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from vitrine.attribution.outlier_tokens import outlier_tokens
from vitrine.caption.word_maps import CaptionWord

MIN_WORDS = 4
"""Words that an answer has at least before a place is called a sink: fewer may well look at one thing."""

MIN_OF_EVERY_WORD = 2.0
"""Multiples of uniform that a sink has in the map of every word."""


@dataclass(frozen=True, eq=False)
class AttentionSinks:
    """The sinks of one answer.

    Attributes:
        is_sink_RC: bool, the cells.
        share: of the attention on the picture, mean over words, that lies on them, 0 to 1.
    """

    is_sink_RC: npt.NDArray[np.bool_]
    share: float

    @property
    def cells(self) -> list[tuple[int, int]]:
        """(row, column) of each, from 0."""
        return [(int(row), int(column)) for row, column in np.argwhere(self.is_sink_RC)]

    def sentence(self, is_masked: bool) -> str:
        """What is said of them below a figure; empty where there are none."""
        count = len(self.cells)
        if not count:
            return ""
        places = "1 place of the picture draws" if count == 1 else f"{count} places of the picture draw"
        how = "not in the maps" if is_masked else "left out with --mask-sinks"
        return f"{places} attention whatever the word is, {100 * self.share:.0f} % of all on it: {how}."


def find_sinks(words: Sequence[CaptionWord]) -> AttentionSinks:
    """Find the cells whose attention stands out from all others', in the median over words and for every word.

    The median map's outliers are told by the rule of :func:`vitrine.attribution.outlier_tokens.outlier_tokens`. A thing
    that every word is about may be called a sink by this rule: it says that the words do not differ there, not why.

    Args:
        words: of one answer, with maps in multiples of uniform.
    """
    if len(words) < MIN_WORDS:
        shape = words[0].map_RC.shape if words else (0, 0)
        return AttentionSinks(np.zeros(shape, np.bool_), 0.0)
    maps_TRC = np.stack([word.map_RC for word in words]).astype(np.float64)
    is_sink_RC = outlier_tokens(np.median(maps_TRC, 0)) & (maps_TRC.min(0) >= MIN_OF_EVERY_WORD)
    return AttentionSinks(is_sink_RC, float((maps_TRC.mean(0) * is_sink_RC).sum() / maps_TRC.mean(0).sum()))


def mask_sinks(words: Sequence[CaptionWord], sinks: AttentionSinks) -> tuple[CaptionWord, ...]:
    """The words with NaN at the sinks and the rest of each map in multiples of its own mean."""
    if not sinks.cells:
        return tuple(words)
    masked = [np.where(sinks.is_sink_RC, np.nan, word.map_RC) for word in words]
    return tuple(
        replace(word, map_RC=(map_RC / max(float(np.nanmean(map_RC)), 1e-30)).astype(np.float32))
        for word, map_RC in zip(words, masked, strict=True)
    )
