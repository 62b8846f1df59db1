"""Captions drawn at random from what the captioner holds likely.

Axes: B rows, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from vitrine.caption.decoding import (
    LAST_LAYER,
    CaptionerModule,
    Link,
    MapChoice,
    Memory,
    Next,
    Progress,
    best_first,
    one_row_each,
    step_limit,
    without_repeats,
)
from vitrine.errors import ModelError


def sample(
    captioner: CaptionerModule,
    memory: Memory,
    seed: int | Sequence[int],
    *,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    no_repeat_ngram: int = 0,
    max_pieces: int | None = None,
    maps: MapChoice = LAST_LAYER,
) -> Iterator[Progress]:
    """Draw each piece. The log-probabilities of the result are the captioner's own, not those drawn from.

    Args:
        captioner: in evaluation mode.
        memory: the encoded pictures.
        seed: 0 or more. Each picture has its own random numbers: from its own seed, or from one seed and its place in
            the batch.
        temperature: logits are divided by it; above 0. Below 1, likely pieces become likelier still.
        top_k: only so many of the most likely pieces are drawn from; 0 for all (Fan et al. 2018).
        top_p: then, only from the fewest of the most likely ones whose probability comes to this, above 0 to 1
            (nucleus sampling, Holtzman et al. 2020).
        no_repeat_ngram: as in :func:`vitrine.caption.decoding.greedy`.
        max_pieces: likewise.
        maps: likewise.

    Raises:
        ModelError: as :func:`vitrine.caption.decoding.greedy`.
        ValueError: an argument outside its range.
    """
    if not (0 < temperature < math.inf and top_k >= 0 and 0 < top_p <= 1):
        raise ValueError(f"temperature = {temperature}, top_k = {top_k}, top_p = {top_p} is out of range.")
    pictures = len(memory.grids)
    seeds = [[seed, picture] for picture in range(pictures)] if isinstance(seed, int) else [[own] for own in seed]
    if len(seeds) != pictures:
        raise ValueError(f"Expected {pictures} seeds, one a picture; got {len(seeds)}.")
    generators = [np.random.default_rng(own) for own in seeds]

    def choose(following: Next, rows: Sequence[int], captions: Sequence[Link | None]) -> list[int | None]:
        allowed_BV = without_repeats(following.logits_BV, captions, no_repeat_ngram)
        drawn_B = [generators[picture].random() for picture in rows]
        return list(_draw(allowed_BV / temperature, drawn_B, top_k, top_p))

    yield from one_row_each(captioner, memory, choose, steps=step_limit(captioner, max_pieces), maps=maps)


def _draw(logits_BV: torch.Tensor, drawn_B: Sequence[float], top_k: int, top_p: float) -> list[int | None]:
    """The pieces at these shares, 0 to 1, of the probability that is left, most likely pieces first."""
    sorted_BV, ids_BV = logits_BV.double().sort(dim=1, descending=True, stable=True)
    left_BV = sorted_BV.softmax(1)
    if top_k:
        left_BV[:, top_k:] = 0
        left_BV = left_BV / left_BV.sum(1, keepdim=True)
    if top_p < 1:
        before_BV = left_BV.cumsum(1) - left_BV
        left_BV[:, 1:][before_BV[:, 1:] >= top_p] = 0
    reached_BV = left_BV.cumsum(1)
    share_B1 = torch.tensor(drawn_B, dtype=torch.float64, device=reached_BV.device)[:, None] * reached_BV[:, -1:]
    # Where all is forbidden there is no place: none is taken.
    place_B1 = torch.searchsorted(reached_BV, share_B1, right=True).clamp_max(ids_BV.shape[1] - 1)
    chosen_B = ids_BV.gather(1, place_B1)[:, 0].tolist()
    possible_B = sorted_BV[:, 0].isfinite().tolist()
    return [number if possible else None for number, possible in zip(chosen_B, possible_B, strict=True)]


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
    captioner: CaptionerModule,
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
