"""What a decoder needs of a captioner, whichever architecture it is.

Letters: B pictures or beams, V vocabulary, L decoder layers, H heads, K keys (cells of the feature grid, row by row).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor

from vitrine.caption.vocabulary import Vocabulary
from vitrine.models.captioner.interface import Memory, Step

__all__ = ["Captioner", "Memory", "Step"]


class Captioner(Protocol):
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
