"""What the tokens of a vision transformer are: asked of the model, never assumed.

Axes: R grid rows, C grid columns, N tokens (prefix tokens first, then the patches row by row).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from vitrine.errors import ModelError

Readout = Literal["class", "mean", "pool"]


@dataclass(frozen=True)
class TokenLayout:
    """How the tokens lie, for one input size.

    Attributes:
        rows, columns: of the patch grid.
        prefix: tokens before the patches: class, distillation and register tokens.
        has_class: the first of them is a class token.
        readout: what the head reads: the class token, a mean (or maximum) over patches, or an attention pool.
        blocks: number of transformer blocks.
    """

    rows: int
    columns: int
    prefix: int
    has_class: bool
    readout: Readout
    blocks: int

    @property
    def patches(self) -> int:
        """Number of patches."""
        return self.rows * self.columns

    @property
    def tokens(self) -> int:
        """Number of tokens inside the blocks."""
        return self.prefix + self.patches

    def token_of(self, row: int, column: int) -> int:
        """Index of a patch's token; rows and columns count from 0.

        Raises:
            ModelError: the patch lies outside of the grid.
        """
        if not (0 <= row < self.rows and 0 <= column < self.columns):
            raise ModelError(
                f"There is no patch in row {row + 1}, column {column + 1}: "
                f"the grid has {self.rows} rows and {self.columns} columns, counted from 1."
            )
        return self.prefix + row * self.columns + column


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
        readout=_readout(module),
        blocks=len(blocks),
    )


def _readout(module: nn.Module) -> Readout:
    if getattr(module, "attn_pool", None) is not None:
        return "pool"
    return "class" if getattr(module, "global_pool", "token") == "token" else "mean"
