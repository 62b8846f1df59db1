"""A batch of maps, as every method gives them.

Axes: B pictures, K keys (tokens, prefix tokens first), R grid rows, C grid columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from vitrine.errors import ModelError
from vitrine.explain.tokens import TokenLayout

Unit = Literal["mass", "drop"]


@dataclass(frozen=True, eq=False)
class BatchMaps:
    """Maps of a batch of pictures.

    Attributes:
        scores_BRC: float32 on the CPU, one score a patch, as the method's formula gives them.
        prefix_share_B: float32, what the prefix tokens (class, registers) hold of each map's whole mass, 0 to 1; None
            where the method gives them none.
        unit: "mass" (not negative; shown as a multiple of the mean) or "drop" (probability lost, may be negative).
    """

    scores_BRC: torch.Tensor
    prefix_share_B: torch.Tensor | None = None
    unit: Unit = "mass"


def split_prefix(rows_BK: torch.Tensor, layout: TokenLayout, *, has_prefix_mass: bool = True) -> BatchMaps:
    """Cut the prefix tokens off rows over tokens and lay the rest out on the grid.

    Args:
        rows_BK: not negative.
        layout: of the tokens; K is its number of tokens.
        has_prefix_mass: state the prefix tokens' share.

    Raises:
        ModelError: the model attends to another number of tokens, for example because it drops or merges some.
    """
    if rows_BK.shape[1] != layout.tokens:
        raise ModelError(
            f"This model attends to {rows_BK.shape[1]} tokens, not to its {layout.prefix} prefix tokens and "
            f"{layout.rows} x {layout.columns} patches: their attention cannot be laid on the picture."
        )
    patches_BK = rows_BK[:, layout.prefix :]
    share_B = None
    if has_prefix_mass and layout.prefix:
        share_B = (rows_BK[:, : layout.prefix].sum(1) / rows_BK.sum(1).clamp_min(1e-30)).float().cpu()
    scores_BRC = patches_BK.reshape(-1, layout.rows, layout.columns)
    # A copy: a view would keep all rows alive, of a matrix that is many times as large as a map.
    return BatchMaps(scores_BRC.detach().float().cpu().clone(), share_B)
