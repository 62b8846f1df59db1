"""Captions from an encoded batch: the most likely piece at every step, or given captions, followed piece by piece.

Every way of decoding is a generator that yields after each piece, so that they can be shown as they come;
:func:`vitrine.caption.decoding.captions_of` runs one to its end. All pictures go in one batch, and a picture whose
caption is finished leaves it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vitrine.caption.tokenizer import Vocabulary
from vitrine.errors import ModelError
from vitrine.models.captioner.model import Memory, Step

__all__ = ["CaptionerModule", "Memory", "Step"]


class CaptionerModule(Protocol):
    """Pictures are encoded once; each step decodes the newest position of every row.

    Attributes:
        start, end, pad: word-piece ids.
        longest: positions at most, the start included.
        vocabulary: the word pieces.
    """

    start: int
    end: int
    pad: int
    longest: int
    vocabulary: Vocabulary

    def encode(self, pixels: Sequence[Tensor]) -> Memory:
        """Encode normalised float32 pictures, (3, h, w) each; where sizes differ, features are padded at the right and
        at the bottom, and masked."""
        ...

    def step(self, ids_B: Tensor, memory: Memory, state: Any | None) -> Step:
        """Decode one position.

        Args:
            ids_B: int64, the newest word of every row and nothing else; ``start`` at first.
            memory: of as many rows.
            state: of the step before; None at the start.

        Returns:
            the logits of the *next* word, and the cross-attention of the query that predicts it.
        """
        ...

    def reorder(self, state: Any, order_B: Tensor) -> Any:
        """The state with its rows picked, int64 (B,): beams that were repeated, dropped or moved."""
        ...


@dataclass(frozen=True)
class MapChoice:
    """What is kept of the cross-attention while decoding; reduced axes keep the length 1.

    All of it is layers × heads times as much: 48 times for six layers of eight heads.

    Attributes:
        layers: a layer from 0, or from the end with -1; or their mean; or all.
        heads: a head from 0; or their mean or maximum; or all.
    """

    layers: int | Literal["mean", "all"] = -1
    heads: int | Literal["mean", "max", "all"] = "mean"

    def of(self, cross_LBHK: torch.Tensor) -> torch.Tensor:
        """The choice of these rows, heads first reduced: float32 (B, L, H, K) on the CPU.

        Raises:
            ModelError: there is no such layer or head.
        """
        layers, _, heads, _ = cross_LBHK.shape
        if isinstance(self.layers, int):
            if not -layers <= self.layers < layers:
                raise ModelError(f"There is no decoder layer {self.layers}: expected {-layers} to {layers - 1}.")
            cross_LBHK = cross_LBHK[[self.layers]]
        if isinstance(self.heads, int):
            if not 0 <= self.heads < heads:
                raise ModelError(f"There is no head {self.heads}: expected 0 to {heads - 1}.")
            cross_LBHK = cross_LBHK[:, :, [self.heads]]
        elif self.heads == "max":
            cross_LBHK = cross_LBHK.amax(2, keepdim=True)
        elif self.heads == "mean":
            cross_LBHK = cross_LBHK.mean(2, keepdim=True)
        if self.layers == "mean":
            cross_LBHK = cross_LBHK.mean(0, keepdim=True)
        # A copy even where there is nothing to convert: a captioner may use its memory again in the next step.
        return cross_LBHK.transpose(0, 1).detach().to("cpu", torch.float32, copy=True)


LAST_LAYER = MapChoice()
"""The last decoder layer, mean over its heads."""


@dataclass(frozen=True, eq=False)
class DecodedCaption:
    """One picture's caption.

    Attributes:
        ids: of its pieces, without start and end.
        log_probabilities: natural logarithm of what the model itself gave each piece after those before it, whatever
            was done to choose it (temperature, forbidden repetitions).
        end_log_probability: the same for the end; None where the caption was cut for its length.
        maps_TLHK: float32, the cross-attention row that *predicted* each piece: of the query one position before it.
            L and H as :class:`MapChoice` has left them. Over the keys of the padded grid.
        grid: (rows, columns) of the picture's own part, at top and left of the padded grid.
        padded: (rows, columns) of the padded grid.
    """

    ids: tuple[int, ...]
    log_probabilities: tuple[float, ...]
    end_log_probability: float | None
    maps_TLHK: npt.NDArray[np.float32]
    grid: tuple[int, int]
    padded: tuple[int, int]

    @property
    def finished(self) -> bool:
        """Whether it ended by itself, rather than being cut for its length."""
        return self.end_log_probability is not None

    @property
    def log_probability(self) -> float:
        """Of the whole caption; its end is part of it where it has one."""
        return sum(self.log_probabilities) + (self.end_log_probability or 0.0)

    def score(self, length_normalisation: float = 1.0) -> float:
        """What beam search ranks by: the log-probability divided by the number of pieces, the end included, to the
        power of ``length_normalisation``; 0 does not normalise, 1 gives the mean over pieces."""
        return normalised(self.log_probability, len(self.ids) + self.finished, length_normalisation)


def normalised(log_probability: float, pieces: int, exponent: float) -> float:
    """A caption's score; see :meth:`DecodedCaption.score`."""
    return float(log_probability / max(pieces, 1) ** exponent)


@dataclass(frozen=True, eq=False)
class Link:
    """The newest piece of a caption and, through ``before``, the others: hypotheses share what they have in common, and
    nothing of what came before moves when beams are reordered.

    Attributes:
        before: None for a first piece.
        id: of the piece, or of the end.
        ends: it is the end.
        log_probability: of this piece.
        map_LHK: of the query that predicted it.
        total: log-probability of the caption up to here.
        pieces: of the caption up to here, the end included.
    """

    before: Link | None
    id: int
    ends: bool
    log_probability: float
    map_LHK: torch.Tensor
    total: float
    pieces: int

    @classmethod
    def after(cls, before: Link | None, number: int, ends: bool, log_probability: float, map_LHK: torch.Tensor) -> Link:
        """The caption ``before`` with one piece more, of this id."""
        total, pieces = (before.total, before.pieces) if before else (0.0, 0)
        return cls(before, number, ends, log_probability, map_LHK, total + log_probability, pieces + 1)

    def caption(self, grid: tuple[int, int], padded: tuple[int, int]) -> DecodedCaption:
        """The caption that this piece is the last one of."""
        said = self.said()
        maps = [link.map_LHK.numpy() for link in said]
        return DecodedCaption(
            ids=tuple(link.id for link in said),
            log_probabilities=tuple(link.log_probability for link in said),
            end_log_probability=self.log_probability if self.ends else None,
            maps_TLHK=np.stack(maps) if maps else np.zeros((0, *self.map_LHK.shape), np.float32),
            grid=grid,
            padded=padded,
        )

    def said(self) -> list[Link]:
        """The pieces in reading order, without the end."""
        links: list[Link] = []
        link = self.before if self.ends else self
        while link is not None:
            links.append(link)
            link = link.before
        return links[::-1]


@dataclass(frozen=True, eq=False)
class Progress:
    """One more piece for every picture that is still being captioned.

    Attributes:
        step: pieces so far of the captions that go on, 1 at first.
        running: of each picture, whether its caption may still change.
        leading: of each picture, the last piece of the caption that leads at present.
        grids, padded: of the pictures, as in :class:`DecodedCaption`.
        ranked: of each picture, the last pieces of all captions that are followed, the best first; empty where there
            is only the leading one.
    """

    step: int
    running: tuple[bool, ...]
    leading: tuple[Link, ...]
    grids: tuple[tuple[int, int], ...]
    padded: tuple[int, int]
    ranked: tuple[tuple[Link, ...], ...] = ()

    @property
    def captions(self) -> tuple[DecodedCaption, ...]:
        """Each picture's caption so far, with its maps: after the last step, the result. Made when it is asked for."""
        return tuple(link.caption(grid, self.padded) for link, grid in zip(self.leading, self.grids, strict=True))


def captions_of(decoding: Iterable[Progress]) -> tuple[DecodedCaption, ...]:
    """Decode to the end; the captions in the order of the pictures."""
    last = None
    for last in decoding:  # noqa: B007  the last one is wanted
        pass
    return last.captions if last else ()


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

    def __init__(self, captioner: CaptionerModule, memory: Memory, maps: MapChoice) -> None:
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
    captioner: CaptionerModule, memory: Memory, choose: Choose, *, steps: int, maps: MapChoice
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


def step_limit(captioner: CaptionerModule, pieces: int | None) -> int:
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


def greedy(
    captioner: CaptionerModule,
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
    captioner: CaptionerModule,
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
