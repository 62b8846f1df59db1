"""What every captioner hands to a decoder: an encoded batch of pictures, and what one more word gives.

Letters: B pictures or beams, L decoder layers, H heads, K keys (cells of the feature grid, row by row), V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Memory:
    """An encoded batch of pictures: made once, decoded from many times.

    Attributes:
        features: the captioner's own; opaque to decoders.
        grids: (rows, columns) of each picture's own features, without padding.
        padded: (rows, columns) of the padded batch; K = rows * columns.
    """

    features: Any
    grids: tuple[tuple[int, int], ...]
    padded: tuple[int, int]

    def pick(self, order: Sequence[int] | Tensor) -> Memory:
        """A batch of these pictures, repeated or in another order: one row for every beam, for example.

        ``features`` may be a tensor, or tuples, lists and mappings of tensors, whose first axis is then indexed, or
        anything with a method ``pick(order_B)`` of its own.

        Args:
            order: indices of the pictures, int64 where it is a tensor.

        Raises:
            IndexError: there is no such picture.
        """
        rows = [int(i) for i in order]
        if not all(0 <= i < len(self.grids) for i in rows):
            raise IndexError(f"Pictures count from 0 to {len(self.grids) - 1}; got {rows}.")
        picked = _picked(self.features, torch.tensor(rows, dtype=torch.long))
        return Memory(picked, tuple(self.grids[i] for i in rows), self.padded)


@dataclass(frozen=True)
class Step:
    """What one more word gives.

    Attributes:
        logits_BV: float32, for the next word.
        cross_LBHK: float32 cross-attention of the query at this position, which is the one that predicts the next
            word: each row sums to 1 and is 0 at padded cells.
        state: cached keys and values; goes into the next step. A step changes no state that it was given.
    """

    logits_BV: Tensor
    cross_LBHK: Tensor
    state: Any


def _picked(features: Any, order_B: Tensor) -> Any:
    if hasattr(features, "pick"):
        return features.pick(order_B)
    if isinstance(features, Tensor):
        return features.index_select(0, order_B.to(features.device))
    if isinstance(features, Mapping):
        return {name: _picked(value, order_B) for name, value in features.items()}
    if isinstance(features, tuple | list):
        return type(features)(_picked(value, order_B) for value in features)
    if features is None:
        return None
    raise TypeError(f"Features of type {type(features).__name__} have no batch axis; give them a method pick(order_B).")
