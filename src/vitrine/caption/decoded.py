"""Captions as decoding gives them, piece by piece, each with the attention that it was predicted from.

Axes: B pictures or beams, T pieces, L decoder layers, H heads, K keys (cells of the padded feature grid, row by row).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from vitrine.errors import ModelError


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
