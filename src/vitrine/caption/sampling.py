"""Captions drawn at random from what the captioner holds likely.

Axes: B rows, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from vitrine.caption.captioner import Captioner, Memory
from vitrine.caption.decoded import LAST_LAYER, Link, MapChoice, Progress
from vitrine.caption.rows import Next, one_row_each, step_limit, without_repeats


def sample(
    captioner: Captioner,
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
