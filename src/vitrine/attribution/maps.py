"""Maps of a batch of pictures, as every method gives them, and how tokens lie on the patch grid.

Axes: B pictures, K keys (tokens, prefix tokens first), R grid rows, C grid columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from vitrine.errors import ModelError
from vitrine.results import count_of, join_words


@dataclass(frozen=True)
class TokenLayout:
    """The order of a vision transformer's tokens, for one input size.

    Attributes:
        rows, columns: of the patch grid.
        prefix: tokens before the patches: class, distillation and register tokens.
        has_class: the first of them is a class token.
        has_distillation: the second of them is a distillation token.
        blocks: number of transformer blocks.
    """

    rows: int
    columns: int
    prefix: int
    has_class: bool
    has_distillation: bool
    blocks: int

    @property
    def patches(self) -> int:
        """Number of patches."""
        return self.rows * self.columns

    @property
    def tokens(self) -> int:
        """Number of tokens inside the blocks."""
        return self.prefix + self.patches

    @property
    def prefix_words(self) -> str:
        """The tokens beside those of the patches by their names, as a sentence has them; "" where there are none."""
        registers = self.prefix - self.has_class - self.has_distillation
        names = ["the class token"] * self.has_class + ["the distillation token"] * self.has_distillation
        return join_words(names + [count_of(registers, "register token")] * (registers > 0))

    def token_index(self, row: int, column: int) -> int:
        """Index of a patch's token; rows and columns count from 0, or from the end with -1.

        Raises:
            ModelError: the patch lies outside of the grid.
        """
        row, column = patch_on_grid((row, column), self.rows, self.columns)
        return self.prefix + row * self.columns + column


def patch_on_grid(patch: tuple[int, int], rows: int, columns: int) -> tuple[int, int]:
    """(row, column) from 0 of a patch whose row and column may count from the end, as -1 for the last.

    Raises:
        ModelError: the patch lies outside of the grid.
    """
    if not (-rows <= patch[0] < rows and -columns <= patch[1] < columns):
        raise ModelError(
            f"There is no patch in row {patch[0]}, column {patch[1]}: "
            f"the grid has rows 0 to {rows - 1} and columns 0 to {columns - 1}; -1 is the last."
        )
    return patch[0] % rows, patch[1] % columns


def token_layout(module: nn.Module, height: int | None = None, width: int | None = None) -> TokenLayout:
    """The tokens of a timm vision transformer.

    Args:
        module: a timm model with a patch embedding followed by blocks.
        height: of the input in pixels; None takes the size that the model was built for.
        width: likewise.

    Raises:
        ModelError: it is no vision transformer with one sequence of patch tokens.
    """
    embed: Any = getattr(module, "patch_embed", None)
    blocks: Any = getattr(module, "blocks", None)
    if embed is None or blocks is None or not hasattr(embed, "dynamic_feat_size"):
        raise ModelError(
            f"A {type(module).__name__} has no attention of all patches to all patches to show.\n"
            "Expected a plain vision transformer, for example vit_base_patch16_224."
        )
    if height is None or width is None:
        if embed.grid_size is None:
            raise ModelError(f"This {type(module).__name__} was built for no particular input size: give one.")
        rows, columns = embed.grid_size
    else:
        rows, columns = embed.dynamic_feat_size((height, width))
    return TokenLayout(
        rows=int(rows),
        columns=int(columns),
        prefix=int(getattr(module, "num_prefix_tokens", 0)),
        has_class=getattr(module, "cls_token", None) is not None,
        has_distillation=getattr(module, "dist_token", None) is not None,
        blocks=len(blocks),
    )


Floats = npt.NDArray[np.float32]
Unit = Literal["mass", "drop", "gain", "logit", "score"]

SIGNED_UNITS: Mapping[str, str] = {
    "drop": "probability lost",
    "gain": "probability gained",
    "logit": "logit gained",
    "score": "score",
}
"""Units of maps that may be negative, and what figures call them."""


@dataclass(frozen=True, eq=False)
class BatchMaps:
    """Maps of a batch of pictures.

    Attributes:
        scores_BRC: float32 on the CPU, one score a patch, as the method's formula gives them.
        prefix_share_B: float32, what the prefix tokens (class, registers) hold of each map's whole mass, 0 to 1; None
            where the method gives them none.
        unit: "mass" (not negative; shown as a multiple of the mean), or one that may be negative and is shown as it
            is: "drop" (probability lost), "gain" (probability gained), "logit" (added to a logit), "score" (whatever a
            person's own function gives).
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
            f"This model attends to {rows_BK.shape[1]} tokens, not to its {layout.prefix} beside the patches and "
            f"{layout.rows} x {layout.columns} patches: their attention cannot be laid on the picture."
        )
    patches_BK = rows_BK[:, layout.prefix :]
    share_B = None
    if has_prefix_mass and layout.prefix:
        share_B = (rows_BK[:, : layout.prefix].sum(1) / rows_BK.sum(1).clamp_min(1e-30)).float().cpu()
    scores_BRC = patches_BK.reshape(-1, layout.rows, layout.columns)
    # A copy: a view would keep all rows alive, of a matrix that is many times as large as a map.
    return BatchMaps(scores_BRC.detach().float().cpu().clone(), share_B)


def display_scores(scores_RC: Floats, unit: Unit) -> Floats:
    """One map as figures show it: float32 (R, C), multiples of its mean, or signed scores as they are.

    A map without mass becomes zeros.
    """
    if unit in SIGNED_UNITS:
        return scores_RC
    mean = float(scores_RC.mean())
    return scores_RC / mean if mean > 0 else np.zeros_like(scores_RC)


_LEAST_SIZES: Mapping[Unit, float] = {
    "drop": 0.01,
    "gain": 0.01,
    "logit": 0.01,
}  # so that next to nothing looks like it


def mean_size_multiples(scores_RC: Floats, unit: Unit) -> tuple[Floats, float]:
    """One map in multiples of the mean size of its scores, mean |s|, and that size, so that methods can stand together.

    Of scores that cannot be negative these are multiples of uniform, as :func:`display_scores` has them. The mean size
    of signed scores in probabilities or logits counts as 0.01 where it is less: a map of next to nothing stays one.

    Returns:
        float32 (R, C), zeros where no score has a size; and what 1 is, in the method's unit.
    """
    one = max(float(np.abs(scores_RC).mean(dtype=np.float64)), _LEAST_SIZES.get(unit, 0.0))
    multiples_RC: Floats = (scores_RC / one if one > 0 else np.zeros_like(scores_RC)).astype(np.float32)
    return multiples_RC, one
