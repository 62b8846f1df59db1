"""Query tokens that read a picture for a language model: what each of them takes from which place of the photograph.

BLIP-2's Q-Former and Kosmos-2's resampler have a fixed number of learnt queries, which read the patches of the vision
encoder by cross-attention; the language model is given the queries in place of patches. A word's map is then a product
of two factors: its attention to each query, and what that query read.

Letters: B parts of a picture, H heads, N query tokens, P what they read from (patches, and tokens of no place), K cells
of the map's grid.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from vitrine.errors import ModelError
from vitrine.models.vlm.layout import TokenSpread

QueryLayers = int | tuple[int, int] | Literal["mean"]
"""Of the layers in which queries read patches: one, counted from 0 or from the end with -1; the mean of those from a
first to a last one; or the mean of all."""


@dataclass(frozen=True, eq=False)
class QuerySpread:
    """What each query token of one picture read.

    Attributes:
        shares_NK: float32, the share of a query's attention that went to each cell; a row's sum is less than 1 where
            some went to tokens of no place, such as a class token.
    """

    shares_NK: Tensor

    @property
    def cells(self) -> int:
        """Number of cells."""
        return self.shares_NK.shape[1]

    def over_cells(self, attention_N: Tensor) -> Tensor:
        """The product: attention to query tokens (..., N) through them as attention to cells (..., K)."""
        return attention_N @ self.shares_NK.to(attention_N.device)


def query_spread(
    patches: TokenSpread, matrices_by_layer: Mapping[int, Tensor], layers: QueryLayers = "mean"
) -> QuerySpread:
    """What query tokens read of one picture, mean over heads.

    Args:
        patches: where what they read from lies.
        matrices_by_layer: (B, H, N, P) each, every row with the sum 1. Where a picture is read in B parts, each has
            queries of its own, which read that part alone, and the picture's are all of them, part by part.
        layers: which of them.

    Raises:
        ModelError: there is no such layer.
    """
    matrices = [matrix_BHNP.mean(1) for _, matrix_BHNP in sorted(matrices_by_layer.items())]
    device = patches.tokens_M.device  # layers may be on several
    reading_LBNP = torch.stack([matrix_BNP.to(device) for matrix_BNP in matrices])
    return QuerySpread(patches.over_cells(torch.block_diag(*_choose(reading_LBNP, layers))))


def _choose(reading_LBNP: Tensor, layers: QueryLayers) -> Tensor:
    count = len(reading_LBNP)
    if layers == "mean":
        return reading_LBNP.mean(0)
    first, last = (layers, layers) if isinstance(layers, int) else layers
    if not (-count <= first <= last < count and (first >= 0 or isinstance(layers, int))):
        wish = layers if isinstance(layers, int) else f"{first} to {last}"
        raise ModelError(
            f"There is no layer {wish} in which this model's query tokens read the picture: expected 0 to "
            f"{count - 1}, -1 for the last, or mean."
        )
    return reading_LBNP[first % count : last % count + 1].mean(0)
