"""Captions from an encoded batch: the most likely piece at every step, or given captions, followed piece by piece.

Every way of decoding is a generator that yields after each piece, so that they can be shown as they come;
:func:`vitrine.caption.decoded.captions_of` runs one to its end. All pictures go in one batch, and a picture whose
caption is finished leaves it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from vitrine.caption.captioner import Captioner, Memory
from vitrine.caption.decoded import LAST_LAYER, Link, MapChoice, Progress
from vitrine.caption.rows import Next, best_first, one_row_each, step_limit, without_repeats
from vitrine.errors import ModelError


def greedy(
    captioner: Captioner,
    memory: Memory,
    *,
    no_repeat_ngram: int = 0,
    max_pieces: int | None = None,
    maps: MapChoice = LAST_LAYER,
) -> Iterator[Progress]:
    """Take the most likely piece each time; of equally likely ones, the one of the lowest id.

    Args:
        captioner: in evaluation mode.
        memory: the encoded pictures.
        no_repeat_ngram: no run of so many pieces comes twice; 0 allows all.
        max_pieces: a caption is cut after so many, the end included; None: as many as the captioner can.
        maps: what is kept of the attention.

    Raises:
        ModelError: more pieces than the captioner has positions, no such layer or head, or logits that are not numbers.
    """

    def choose(following: Next, _pictures: Sequence[int], captions: Sequence[Link | None]) -> list[int | None]:
        allowed_BV = without_repeats(following.logits_BV, captions, no_repeat_ngram)
        return [best[0][1] if best else None for best in best_first(allowed_BV, 1)]

    yield from one_row_each(captioner, memory, choose, steps=step_limit(captioner, max_pieces), maps=maps)


def forced(
    captioner: Captioner,
    memory: Memory,
    captions: Sequence[Sequence[int]],
    *,
    ended: bool | Sequence[bool] = True,
    maps: MapChoice = LAST_LAYER,
) -> Iterator[Progress]:
    """Follow given captions (teacher forcing): their log-probabilities and maps, whatever the captioner would say.

    Args:
        captioner: in evaluation mode.
        memory: the encoded pictures.
        captions: one a picture, ids without start and end.
        ended: whether the end is predicted after the last piece, as its probability is part of a whole caption's; one
            answer for all or one a picture.
        maps: what is kept of the attention.

    Raises:
        ModelError: a caption is longer than the captioner's positions.
        ValueError: another number of captions than pictures, or one that is empty and has no end, or holds one.
    """
    if len(captions) != len(memory.grids):
        raise ValueError(f"Expected {len(memory.grids)} captions, one a picture; got {len(captions)}.")
    ends = [ended] * len(captions) if isinstance(ended, bool) else list(ended)
    if any(captioner.end in ids for ids in captions):
        raise ValueError("The end is not among the pieces of a caption to follow.")
    wanted = [[*ids, *([captioner.end] if end else [])] for ids, end in zip(captions, ends, strict=True)]
    if not all(wanted):
        raise ValueError("A caption to follow has a piece, or at least an end.")
    steps = max(map(len, wanted), default=0)
    if steps > captioner.longest - 1:
        raise ModelError(
            f"A caption of {steps} word pieces, its end included, is too long: this captioner has positions for "
            f"{captioner.longest - 1}."
        )

    def choose(_following: Next, pictures: Sequence[int], so_far: Sequence[Link | None]) -> list[int | None]:
        at = [caption.pieces if caption else 0 for caption in so_far]
        return [
            wanted[picture][piece] if piece < len(wanted[picture]) else None
            for picture, piece in zip(pictures, at, strict=True)
        ]

    yield from one_row_each(captioner, memory, choose, steps=steps, maps=maps)
