"""A captioner that is a table: every beginning of a caption has its own logits and its own attention.

What comes next depends on the picture and on all pieces so far, so that a batch whose rows, encoder output or state are
mixed up gives other numbers, not the same ones by luck; and whatever it says can be looked up without decoding:
``logits`` and ``cross``.

Axes: B rows, T pieces, L decoder layers, H heads, K keys, V vocabulary.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from vitrine.caption.tokenizer import Vocabulary

LAYERS, HEADS = 3, 2


@dataclass(frozen=True)
class TableEncoderOutput:
    """``features`` are the numbers of the pictures."""

    features: tuple[int, ...]
    grids: tuple[tuple[int, int], ...]
    padded_grid: tuple[int, int]

    def select_rows(self, order: Sequence[int]) -> TableEncoderOutput:
        order = [int(row) for row in order]
        return TableEncoderOutput(
            tuple(self.features[row] for row in order), tuple(self.grids[row] for row in order), self.padded_grid
        )


@dataclass(frozen=True)
class TableStep:
    logits_BV: torch.Tensor
    cross_LBHK: torch.Tensor
    state: Any


@dataclass
class TableCaptioner:
    """Made from a few numbers; nothing in it is random.

    Attributes:
        size: of the vocabulary, of ids 0 (pad), 1 (start), 2 (end) and words.
        max_length: positions.
        end_bonus: added to the end's logit.
        levels: logits are rounded to this many steps a unit; 0 leaves them as they are. With 1 there are many ties.
        rows: how many rows each step was asked for.
    """

    size: int = 7
    max_length: int = 9
    end_bonus: float = 0.0
    levels: int = 0
    vocabulary: Vocabulary | None = None
    start: int = 1
    end: int = 2
    pad: int = 0
    rows: list[int] = field(default_factory=list)

    def encode(self, grids: Sequence[tuple[int, int]], first: int = 0) -> TableEncoderOutput:
        """Pictures with these grids, numbered from ``first``."""
        padded = (max(rows for rows, _ in grids), max(columns for _, columns in grids)) if grids else (1, 1)
        return TableEncoderOutput(tuple(range(first, first + len(grids))), tuple(grids), padded)

    def step(self, ids_B: torch.Tensor, encoder_output: TableEncoderOutput, state: Any | None) -> TableStep:
        assert not torch.is_grad_enabled()
        assert len(ids_B) == len(encoder_output.features), "one id a row"
        begun = [*([()] * len(ids_B) if state is None else state)]
        assert len(begun) == len(ids_B), "one state a row"
        begun = [(*before, int(newest)) for before, newest in zip(begun, ids_B, strict=True)]
        assert all(beginning[0] == self.start and len(beginning) <= self.max_length for beginning in begun)
        self.rows.append(len(ids_B))
        pairs = list(zip(encoder_output.features, begun, strict=True))
        cross = [
            self.cross(picture, beginning, grid, encoder_output.padded_grid)
            for (picture, beginning), grid in zip(pairs, encoder_output.grids, strict=True)
        ]
        return TableStep(
            torch.from_numpy(np.stack([self.logits(*pair) for pair in pairs])),
            torch.from_numpy(np.stack(cross, axis=1)),
            begun,
        )

    def reorder(self, state: Any, order_B: torch.Tensor) -> Any:
        return [state[int(row)] for row in order_B]

    def logits(self, picture: int, beginning: tuple[int, ...]) -> np.ndarray:
        """After this beginning, the start included: float32 (V,)."""
        logits = _normal(self.size, "logits", picture, beginning) * 2
        logits[self.end] += self.end_bonus
        if self.levels:
            logits = np.round(logits * self.levels) / self.levels
        return logits.astype(np.float32)

    def cross(
        self, picture: int, beginning: tuple[int, ...], grid: tuple[int, int], padded: tuple[int, int]
    ) -> np.ndarray:
        """Of the query at the beginning's last piece: float32 (L, H, K), nothing of it on padding."""
        own = np.exp(_normal((LAYERS, HEADS, *grid), "cross", picture, beginning))
        own /= own.sum((2, 3), keepdims=True)
        cross = np.zeros((LAYERS, HEADS, *padded))
        cross[:, :, : grid[0], : grid[1]] = own
        return cross.reshape(LAYERS, HEADS, -1).astype(np.float32)

    def log_probabilities(self, picture: int, pieces: Sequence[int]) -> list[float]:
        """Of each of these pieces, which may end with the end, after those before it."""
        found = []
        for place, piece in enumerate(pieces):
            logits = self.logits(picture, (self.start, *pieces[:place])).astype(np.float64)
            found.append(float(logits[piece] - np.log(np.exp(logits).sum())))
        return found


def _normal(shape: int | tuple[int, ...], *what: object) -> np.ndarray:
    seed = int.from_bytes(hashlib.sha256(repr(what).encode()).digest()[:8], "little")
    return np.random.default_rng(seed).standard_normal(shape)
