"""Captions of pictures as word pieces: all of them, or as many as a recipe says, drawn anew in every epoch."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from vitrine.caption.vocabulary import Vocabulary
from vitrine.train.captioning import CaptionBatch
from vitrine.workflows.forced_captions import caption_batch, encoded_caption

_KEPT = 100_000  # captions whose pieces are kept: a stream has more captions than memory


class DrawnCaptions:
    """Joins pictures, or their features, with captions of theirs.

    Args:
        vocabulary: the word pieces.
        longest: pieces of a caption at most, start and end included; one that is too long loses its last pieces.
        a_picture: captions that are drawn of a picture that has more.
        seed: of the drawing.
    """

    def __init__(self, vocabulary: Vocabulary, longest: int, a_picture: int, seed: int) -> None:
        self._pad, self._a_picture, self._seed = vocabulary.pad, a_picture, seed
        self._encoded = lru_cache(_KEPT)(lambda text: encoded_caption(vocabulary, text, longest))

    def batch(
        self, seen: Any, indices: Sequence[int], captions: Sequence[Sequence[str]], epoch: int | None
    ) -> CaptionBatch:
        """Pictures with captions of theirs.

        Args:
            seen: what a captioner sees of each picture.
            indices: positions of the pictures, with which and ``epoch`` their captions are drawn.
            captions: of each picture, one at least.
            epoch: for which captions are drawn; None takes all.
        """
        chosen = [self.chosen(each, index, epoch) for each, index in zip(captions, indices, strict=True)]
        return caption_batch(seen, [[self._encoded(text) for text in texts] for texts in chosen], indices, self._pad)

    def chosen(self, captions: Sequence[str], index: int, epoch: int | None) -> Sequence[str]:
        """The captions of one picture that an epoch learns."""
        if epoch is None or len(captions) <= self._a_picture:
            return captions
        rng = np.random.default_rng(np.random.SeedSequence((self._seed, epoch, index, 1)))
        return [captions[i] for i in rng.permutation(len(captions))[: self._a_picture]]
