"""What the captioner keeps between words: keys and values of pictures, and of the words so far.

Letters: B pictures or beams, P different pictures, H heads, K cells of the feature grid, S words so far, E channels of
one head.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Cells:
    """Keys and values of pictures for every decoder layer.

    Beams of one picture share them: rows are P pictures, each ``repeats`` times in a row.

    Attributes:
        keys: a layer each, (P, H, E, K).
        values: a layer each, (P, H, K, E).
        padded_PK: bool, True at padded cells; None where there are none.
        repeats: B / P.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    padded_PK: Tensor | None
    repeats: int = 1

    @property
    def rows(self) -> int:
        """B."""
        return len(self.keys[0]) * self.repeats

    def pick(self, order_B: Tensor) -> Cells:
        """Rows repeated or in another order; what stands beside its like is stored once where that comes out even."""
        # Where the order is: on the CPU, as a rule, so that no accelerator is waited for.
        picture_P, length_P = torch.unique_consecutive(order_B // self.repeats, return_counts=True)
        repeats = math.gcd(*length_P.tolist())
        picture_P = picture_P.repeat_interleave(length_P // repeats)
        if torch.equal(picture_P, torch.arange(len(self.keys[0]), device=picture_P.device)):
            return Cells(self.keys, self.values, self.padded_PK, repeats)
        picture_P = picture_P.to(self.keys[0].device)
        return Cells(
            tuple(keys.index_select(0, picture_P) for keys in self.keys),
            tuple(values.index_select(0, picture_P) for values in self.values),
            None if self.padded_PK is None else self.padded_PK.index_select(0, picture_P),
            repeats,
        )


@dataclass(frozen=True)
class Past:
    """Keys and values of the words so far: a decoder layer each, (B, H, S, E) both."""

    layers: tuple[tuple[Tensor, Tensor], ...]

    @property
    def rows(self) -> int:
        """B."""
        return int(self.layers[0][0].shape[0])

    @property
    def length(self) -> int:
        """S."""
        return int(self.layers[0][0].shape[2])

    def pick(self, order_B: Tensor) -> Past:
        """Rows repeated or in another order."""
        order_B = order_B.to(self.layers[0][0].device)
        return Past(tuple((k.index_select(0, order_B), v.index_select(0, order_B)) for k, v in self.layers))
