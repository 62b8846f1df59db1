"""A caption that goes on from given pieces, with the pieces that were nearly said at every step.

Axes: V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from vitrine.caption.captioner import Captioner, Memory
from vitrine.caption.decoded import LAST_LAYER, Link, MapChoice, Progress
from vitrine.caption.rows import Next, best_first, one_row_each, step_limit
from vitrine.errors import ModelError


@dataclass(frozen=True)
class Candidate:
    """A piece that may come next, and the model's probability of it, 0 to 1."""

    id: int
    probability: float


@dataclass(frozen=True, eq=False)
class Continued:
    """One more piece.

    Attributes:
        progress: the caption so far.
        candidates: what might have come in the newest piece's place, itself among them where it is likely enough; the
            likeliest first.
    """

    progress: Progress
    candidates: tuple[Candidate, ...]


def continued(
    captioner: Captioner,
    memory: Memory,
    beginning: Sequence[int] = (),
    *,
    candidates: int = 6,
    max_pieces: int | None = None,
    maps: MapChoice = LAST_LAYER,
) -> Iterator[Continued]:
    """Say the given pieces first, whatever the captioner would say, and then the most likely piece each time.

    Without a beginning this is :func:`vitrine.caption.decoding.greedy`.

    Args:
        captioner: in evaluation mode.
        memory: one encoded picture.
        beginning: ids, without start and end.
        candidates: how many are told at each step.
        max_pieces: as in :func:`vitrine.caption.decoding.greedy`; the beginning counts.
        maps: likewise.

    Raises:
        ModelError: the beginning holds what is no word piece, leaves no room for another piece, or the reasons of
            :func:`vitrine.caption.decoding.greedy`.
    """
    steps = step_limit(captioner, max_pieces)
    size, frame = captioner.vocabulary.size, (captioner.start, captioner.end, captioner.pad)
    for number in beginning:
        if not 0 <= number < size or number in frame:
            raise ModelError(f"A caption cannot be continued from piece {number}: it is no piece of a word.")
    if len(beginning) >= steps:
        raise ModelError(f"A caption of {len(beginning)} pieces cannot be continued: {steps} is the most there can be.")
    told: list[tuple[Candidate, ...]] = []

    def choose(following: Next, _pictures: Sequence[int], captions: Sequence[Link | None]) -> list[int | None]:
        best = best_first(following.logits_BV, candidates)[0]
        told.append(tuple(Candidate(number, math.exp(logit - following.log_total_B[0])) for logit, number in best))
        at = captions[0].pieces if captions[0] else 0
        return [beginning[at] if at < len(beginning) else best[0][1]]

    for progress in one_row_each(captioner, memory, choose, steps=steps, maps=maps):
        yield Continued(progress, told[-1])
