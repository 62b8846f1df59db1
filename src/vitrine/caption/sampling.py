"""Captions by sampling from the captioner's distribution, and captions that continue a given prefix.

Letters: B rows, V vocabulary.
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
    DecodeStep,
    EncoderOutput,
    MapChoice,
    NextTokenLogits,
    TokenNode,
    ban_repeated_ngrams,
    decode_loop,
    end_ids,
    step_limit,
    top_k_stable,
)
from vitrine.errors import ModelError
from vitrine.results import count_of


def sample(
    captioner: CaptionerModule,
    encoder_output: EncoderOutput,
    seed: int | Sequence[int],
    *,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    no_repeat_ngram: int = 0,
    max_tokens: int | None = None,
    maps: MapChoice = LAST_LAYER,
) -> Iterator[DecodeStep]:
    """Draw each token at random. The log-probabilities of the result are the captioner's own, not those drawn from.

    Args:
        captioner: in evaluation mode.
        encoder_output: the encoded pictures.
        seed: 0 or more. Each picture has its own random numbers: from its own seed, or from one seed and its place in
            the batch.
        temperature: logits are divided by it; above 0. Below 1, likely tokens become likelier still.
        top_k: only so many of the most likely tokens are drawn from; 0 for all (Fan et al. 2018, arXiv:1805.04833).
        top_p: then, only from the fewest of the most likely ones whose probability comes to this, above 0 to 1
            (nucleus sampling, Holtzman et al. 2020, arXiv:1904.09751).
        no_repeat_ngram: as in :func:`vitrine.caption.decoding.greedy`.
        max_tokens: likewise.
        maps: likewise.

    Raises:
        ModelError: as :func:`vitrine.caption.decoding.greedy`.
        ValueError: an argument outside its range.
    """
    if not (0 < temperature < math.inf and top_k >= 0 and 0 < top_p <= 1):
        raise ValueError(f"temperature = {temperature}, top_k = {top_k}, top_p = {top_p} is out of range.")
    pictures = len(encoder_output.grids)
    seeds = [[seed, picture] for picture in range(pictures)] if isinstance(seed, int) else [[each] for each in seed]
    if len(seeds) != pictures:
        raise ValueError(f"Expected {count_of(pictures, 'seed')}, one a picture; got {len(seeds)}.")
    generators = [np.random.default_rng(each) for each in seeds]

    def choose(
        following: NextTokenLogits, rows: Sequence[int], captions: Sequence[TokenNode | None]
    ) -> list[int | None]:
        logits_BV = ban_repeated_ngrams(following.logits_BV, captions, no_repeat_ngram)
        uniform_B = [generators[picture].random() for picture in rows]
        return list(_draw(logits_BV / temperature, uniform_B, top_k, top_p))

    yield from decode_loop(
        captioner, encoder_output, choose, steps=step_limit(captioner, encoder_output, max_tokens), maps=maps
    )


def _draw(logits_BV: torch.Tensor, uniform_B: Sequence[float], top_k: int, top_p: float) -> list[int | None]:
    """The tokens at these quantiles, 0 to 1, of the probability that is left, most likely tokens first."""
    sorted_BV, ids_BV = logits_BV.double().sort(dim=1, descending=True, stable=True)
    left_BV = sorted_BV.softmax(1)
    if top_k:
        left_BV[:, top_k:] = 0
        left_BV = left_BV / left_BV.sum(1, keepdim=True)
    if top_p < 1:
        before_BV = left_BV.cumsum(1) - left_BV
        left_BV[:, 1:][before_BV[:, 1:] >= top_p] = 0
    cumulative_BV = left_BV.cumsum(1)
    uniform_B1 = torch.tensor(uniform_B, dtype=torch.float64, device=cumulative_BV.device)[:, None]
    quantile_B1 = uniform_B1 * cumulative_BV[:, -1:]
    # Where every token is banned there is no place: none is taken.
    place_B1 = torch.searchsorted(cumulative_BV, quantile_B1, right=True).clamp_max(ids_BV.shape[1] - 1)
    drawn_ids = ids_BV.gather(1, place_B1)[:, 0].tolist()
    is_possible = sorted_BV[:, 0].isfinite().tolist()
    return [token_id if possible else None for token_id, possible in zip(drawn_ids, is_possible, strict=True)]


@dataclass(frozen=True)
class Candidate:
    """A token that may come next, and the model's probability of it, 0 to 1."""

    id: int
    probability: float


@dataclass(frozen=True, eq=False)
class PrefixStep:
    """One more token of a caption that continues a prefix.

    Attributes:
        step: the caption so far.
        candidates: what might have come in the newest token's place, itself among them where it is likely enough; the
            likeliest first.
    """

    step: DecodeStep
    candidates: tuple[Candidate, ...]


def continue_prefix(
    captioner: CaptionerModule,
    encoder_output: EncoderOutput,
    prefix: Sequence[int] = (),
    *,
    candidates: int = 6,
    max_tokens: int | None = None,
    maps: MapChoice = LAST_LAYER,
) -> Iterator[PrefixStep]:
    """Take the given tokens first, whatever the captioner would say, and then the most likely token at every step.

    Without a prefix this is :func:`vitrine.caption.decoding.greedy`.

    Args:
        captioner: in evaluation mode.
        encoder_output: one encoded picture.
        prefix: ids, without start and end.
        candidates: how many are listed at each step.
        max_tokens: as in :func:`vitrine.caption.decoding.greedy`; the prefix counts.
        maps: likewise.

    Raises:
        ModelError: the prefix holds an id that is no token of a word, leaves no room for another token, or the reasons
            of :func:`vitrine.caption.decoding.greedy`.
    """
    steps = step_limit(captioner, encoder_output, max_tokens)
    size, special = captioner.vocabulary.size, end_ids(captioner) | {captioner.start, captioner.pad}
    for token_id in prefix:
        if not 0 <= token_id < size or token_id in special:
            raise ModelError(f"A caption cannot be continued from piece {token_id}: it is no piece of a word.")
    if len(prefix) >= steps:
        raise ModelError(
            f"A caption of {count_of(len(prefix), 'piece')} cannot be continued: {steps} is the most there can be."
        )
    newest: tuple[Candidate, ...] = ()

    def choose(
        following: NextTokenLogits, _pictures: Sequence[int], captions: Sequence[TokenNode | None]
    ) -> list[int | None]:
        nonlocal newest
        best = top_k_stable(following.logits_BV, candidates)[0]
        newest = tuple(Candidate(token_id, math.exp(logit - following.log_sum_exp_B[0])) for logit, token_id in best)
        length = captions[0].length if captions[0] else 0
        return [prefix[length] if length < len(prefix) else best[0][1]]

    likeliest_from = len(prefix) + 1
    for step in decode_loop(captioner, encoder_output, choose, steps=steps, maps=maps, likeliest_from=likeliest_from):
        yield PrefixStep(step, newest)
