"""What every way of decoding does with the rows of its batch: step, keep some, choose among the next pieces.

Axes: B rows (pictures or beams), V vocabulary, L decoder layers, H heads, K keys.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from vitrine.caption.captioner import Captioner, Memory
from vitrine.caption.decoded import Link, MapChoice, Progress
from vitrine.errors import ModelError


@dataclass(frozen=True, eq=False)
class Next:
    """What may follow in each row.

    Attributes:
        logits_BV: float32.
        log_total_B: logarithm of the sum of their exponentials, so that a logit less this is a log-probability.
        maps_BLHK: the attention that the next piece is predicted from, as it was chosen.
    """

    logits_BV: torch.Tensor
    log_total_B: list[float]
    maps_BLHK: torch.Tensor

    def link(self, row: int, before: Link | None, piece: tuple[float, int], end: int) -> Link:
        """The caption ``before``, which this row stands for, with this piece (its logit and id) added."""
        logit, number = piece
        return Link.after(before, number, number == end, logit - self.log_total_B[row], self.maps_BLHK[row])

    def logits_of(self, ids: Sequence[int | None]) -> list[float]:
        """The logit of one id in each row; of no id, anything."""
        ids_B1 = torch.tensor([number or 0 for number in ids], device=self.logits_BV.device)[:, None]
        return list(self.logits_BV.gather(1, ids_B1)[:, 0].tolist())


class Rows:
    """The rows that are being decoded, in one batch.

    Attributes:
        pictures: of each row, the number of its picture.
    """

    def __init__(self, captioner: Captioner, memory: Memory, maps: MapChoice) -> None:
        """One row for each picture of ``memory``."""
        self._captioner, self._memory, self._maps = captioner, memory, maps
        self._state: Any = None
        self.pictures = list(range(len(memory.grids)))

    def step(self, ids: Sequence[int]) -> Next:
        """Add one piece to each row.

        Raises:
            ModelError: the captioner's numbers are not finite.
        """
        with torch.no_grad():
            step = self._captioner.step(torch.tensor(ids, dtype=torch.long), self._memory, self._state)
            self._state = step.state
            logits_BV = step.logits_BV.detach().float()
            log_total_B = _log_total(logits_BV)
            maps_BLHK = self._maps.of(step.cross_LBHK)
        if not all(map(math.isfinite, log_total_B)):
            raise ModelError("The captioner gives words probabilities that are not numbers: its weights are damaged.")
        return Next(logits_BV, log_total_B, maps_BLHK)

    def keep(self, order: Sequence[int]) -> None:
        """Go on with these rows in this order; a row may be taken several times, and what is left out costs nothing
        from here on. Rows of one picture have the same memory, which is left alone when they only change places."""
        if list(order) == list(range(len(self.pictures))):
            return
        pictures = [self.pictures[row] for row in order]
        if pictures and pictures != self.pictures:
            self._memory = self._memory.pick(list(order))
        if pictures:
            with torch.no_grad():
                self._state = self._captioner.reorder(self._state, torch.tensor(order, dtype=torch.long))
        self.pictures = pictures


Choose = Callable[[Next, Sequence[int], Sequence[Link | None]], Sequence[int | None]]
"""From what may follow, the picture of each row and its caption so far, to the next id of each row; None stops it."""


def one_row_each(
    captioner: Captioner, memory: Memory, choose: Choose, *, steps: int, maps: MapChoice
) -> Iterator[Progress]:
    """Decode with one row a picture, ``choose`` saying what comes next, until all have ended or for this many steps."""
    rows = Rows(captioner, memory, maps)
    captions: list[Link | None] = [None] * len(memory.grids)
    ids = [captioner.start] * len(memory.grids)
    for step in range(1, steps + 1):
        if not rows.pictures:
            return
        following = rows.step(ids)
        chosen = choose(following, rows.pictures, [captions[picture] for picture in rows.pictures])
        logits = following.logits_of(chosen)
        going_on, ids = [], []
        for row, (picture, number) in enumerate(zip(rows.pictures, chosen, strict=True)):
            if number is None:
                continue
            captions[picture] = following.link(row, captions[picture], (logits[row], number), captioner.end)
            if number != captioner.end and step < steps:
                going_on.append(row)
                ids.append(number)
        rows.keep(going_on)
        running = tuple(picture in rows.pictures for picture in range(len(captions)))
        leading = tuple(link for link in captions if link is not None)
        yield Progress(step, running, leading, memory.grids, memory.padded)


def best_first(logits_BV: torch.Tensor, count: int) -> list[list[tuple[float, int]]]:
    """Of each row, its ``count`` highest logits and their ids, the highest first; of equals, the lowest id.

    ``topk`` leaves open which of equals it takes. A logit of minus infinity is no choice: there may be fewer.
    """
    count = min(count, logits_BV.shape[1])
    values_BN, ids_BN = logits_BV.topk(count)
    crowded_B = ((logits_BV >= values_BN[:, -1:]).sum(1) > count).tolist()
    best = []
    for row, (values, ids) in enumerate(zip(values_BN.tolist(), ids_BN.tolist(), strict=True)):
        if crowded_B[row]:
            ids = (logits_BV[row] >= values[-1]).nonzero()[:, 0].tolist()
            values = logits_BV[row, ids].tolist()
        pairs = sorted(zip(values, ids, strict=True), key=lambda pair: (-pair[0], pair[1]))
        best.append([pair for pair in pairs[:count] if pair[0] > -math.inf])
    return best


def without_repeats(logits_BV: torch.Tensor, captions: Sequence[Link | None], ngram: int) -> torch.Tensor:
    """The logits, minus infinity for each piece that would complete a run of ``ngram`` pieces that the caption already
    has; 0 forbids nothing. (Paulus et al. 2018.)"""
    forbidden = [_completing(caption, ngram) for caption in captions] if ngram else []
    if not any(forbidden):
        return logits_BV
    logits_BV = logits_BV.clone()
    for row, ids in enumerate(forbidden):
        logits_BV[row, sorted(ids)] = -math.inf
    return logits_BV


def _log_total(logits_BV: torch.Tensor) -> list[float]:
    """Log-sum-exp, added up in double precision: a caption's log-probability adds dozens of them."""
    highest_B1 = logits_BV.amax(1, keepdim=True)
    totals_B = (logits_BV - highest_B1).exp().sum(1, dtype=torch.float64)
    return list((highest_B1[:, 0].double() + totals_B.log()).tolist())


def _completing(caption: Link | None, ngram: int) -> set[int]:
    ids = [link.id for link in caption.said()] if caption else []
    if len(ids) < ngram:
        return set()
    newest = ids[len(ids) - ngram + 1 :]
    return {ids[at + ngram - 1] for at in range(len(ids) - ngram + 1) if ids[at : at + ngram - 1] == newest}


def step_limit(captioner: Captioner, pieces: int | None) -> int:
    """Steps to take for captions of at most ``pieces`` pieces, the end included; None: as long as the captioner can.

    Raises:
        ModelError: the captioner has not so many positions.
    """
    most: int = captioner.longest - 1
    if pieces is None:
        return most
    if not 1 <= pieces <= most:
        raise ModelError(f"This captioner's captions have 1 to {most} word pieces; {pieces} cannot be asked of it.")
    return pieces
