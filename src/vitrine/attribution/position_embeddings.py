"""The absolute position embeddings of a vision transformer's patches, as a table on the patch grid.

Axes: N tokens (prefix tokens first), D channels, R grid rows, C grid columns.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from vitrine.attribution.position_metrics import cosine_similarity, sine_embedding
from vitrine.errors import ModelError

__all__ = ["PositionTable", "cosine_similarity", "position_embeddings"]

_SAME = 1e-3  # weights kept in half precision are this near to the formula that they were computed with
_RELATIVE = ("RelPosBias", "RelPosMlp", "RelativePositionBias")  # timm's modules of a relative position bias
_RELATIVE_TABLES = ("relative_position_bias_table", "rel_pos_h", "pos_proj.weight")  # and such tables inside attention


@dataclass(frozen=True, eq=False)
class PositionTable:
    """The position embeddings of a model's patches, on the patch grid.

    Attributes:
        embeddings_RCD: float32, finite, one vector a patch, without those of prefix tokens.
        prefix_tokens: vectors that were left out because they belong to class, distillation or register tokens.
        is_fixed_sine: the vectors are the fixed 2-D sine embedding, which a formula gives; no training made them.
        notes: sentences on what else has to be known to read them.
    """

    embeddings_RCD: npt.NDArray[np.float32]
    prefix_tokens: int
    is_fixed_sine: bool
    notes: tuple[str, ...] = ()

    @property
    def rows(self) -> int:
        """Rows of the patch grid."""
        return int(self.embeddings_RCD.shape[0])

    @property
    def columns(self) -> int:
        """Columns of the patch grid."""
        return int(self.embeddings_RCD.shape[1])

    @property
    def channels(self) -> int:
        """Width of an embedding."""
        return int(self.embeddings_RCD.shape[2])


def position_embeddings(module: nn.Module) -> PositionTable:
    """The position embeddings of a timm vision transformer's patches.

    The model says how many vectors belong to prefix tokens: the table is as long as the grid where they have none
    (timm's ``no_embed_class``, CaiT) and longer by ``num_prefix_tokens`` where each has one.

    Raises:
        ModelError: the model has no such table (the message names what it has in its place), the table does not fit
            the grid, holds numbers that are not finite, or there is one patch only.
    """
    owner: Any = getattr(module, "embeds", module)  # NaFlexViT keeps its embeddings in a module of their own
    table = getattr(owner, "pos_embed", None)
    if not isinstance(table, torch.Tensor):
        raise ModelError(_no_table(module))
    rows, columns = _grid(module, owner, table)
    prefix = 0 if table.ndim == 4 else table.shape[1] - rows * columns
    flat_ND = table.detach().to("cpu", torch.float32).reshape(-1, table.shape[-1])
    embeddings_RCD = flat_ND[prefix:].reshape(rows, columns, -1).numpy().copy()
    if not np.isfinite(embeddings_RCD).all():
        raise ModelError(f"The position embeddings of this {type(module).__name__} are not all finite numbers.")
    if rows * columns < 2:
        raise ModelError(f"This {type(module).__name__} sees one patch only: there are no positions to compare.")
    is_fixed_sine = _is_sine(embeddings_RCD)
    notes = _notes(module, owner, table, embeddings_RCD, is_fixed_sine)
    return PositionTable(embeddings_RCD, prefix, is_fixed_sine, tuple(notes))


def _grid(module: nn.Module, owner: Any, table: torch.Tensor) -> tuple[int, int]:
    """Rows and columns of a table, which has to have a vector for every patch, and for every prefix token or none."""
    if table.ndim == 4 and table.shape[0] == 1 and tuple(table.shape[1:3]) == _stated_grid(module, owner):
        return int(table.shape[1]), int(table.shape[2])
    grid = _stated_grid(module, owner)
    if table.ndim == 3 and table.shape[0] == 1 and grid is not None:
        prefix = int(getattr(module, "num_prefix_tokens", 0))
        if table.shape[1] - grid[0] * grid[1] in (0, prefix):
            return grid
    expected = "" if grid is None else f" for a grid of {grid[0]} x {grid[1]} patches"
    raise ModelError(
        f"The position embeddings of this {type(module).__name__} have the shape {tuple(table.shape)}{expected}: "
        "that is not one vector a patch.\nExpected a plain vision transformer, for example vit_base_patch16_224."
    )


def _stated_grid(module: nn.Module, owner: Any) -> tuple[int, int] | None:
    """The grid of the table: its own, where inputs of any size are resampled from it, else that of the patches."""
    table_grid = getattr(owner, "pos_embed_grid_size", None)
    if table_grid is not None:
        return (
            (int(table_grid), int(table_grid))
            if isinstance(table_grid, int)
            else (int(table_grid[0]), int(table_grid[1]))
        )
    grid = getattr(getattr(module, "patch_embed", None), "grid_size", None)
    return None if grid is None else (int(grid[0]), int(grid[1]))


def _notes(
    module: nn.Module, owner: Any, parameter: torch.Tensor, embeddings_RCD: npt.NDArray[np.float32], is_fixed_sine: bool
) -> Iterator[str]:
    if is_fixed_sine:
        yield "The position embeddings are the fixed 2-D sine embedding: a formula gave them, not training."
    elif not (isinstance(parameter, nn.Parameter) and parameter.requires_grad):
        yield "The position embeddings are a fixed table that training does not change."
    zero = int((~embeddings_RCD.any(axis=2)).sum())
    if zero:
        yield f"{zero} of {embeddings_RCD[..., 0].size} embeddings are zero; their similarity is shown as 0."
    patches = getattr(getattr(module, "patch_embed", None), "grid_size", None)
    table = embeddings_RCD.shape[:2]
    if getattr(owner, "pos_embed_grid_size", None) is not None and patches is not None and tuple(patches) != table:
        yield f"The table of {table[0]} x {table[1]} is shown as stored; the model resamples it to each input's grid."
    others = _other_encodings(module)
    if others:
        yield f"The model also has {' and '.join(others)}, which the position embeddings do not show."


def _is_sine(embeddings_RCD: npt.NDArray[np.float32]) -> bool:
    """Whether a table is the fixed 2-D sine embedding, with the rows or the columns in its first half."""
    rows, columns, channels = embeddings_RCD.shape
    if channels % 4:
        return False
    columns_first_RCD = sine_embedding(rows, columns, channels)
    rows_first_RCD = np.roll(columns_first_RCD, channels // 2, axis=2)
    return any(float(np.abs(embeddings_RCD - table).max()) < _SAME for table in (columns_first_RCD, rows_first_RCD))


def _other_encodings(module: nn.Module) -> list[str]:
    """What else tells a model where its patches are, by the names that timm gives to modules and parameters."""
    classes = sorted({type(part).__name__ for part in module.modules()})
    rotary = [name for name in classes if "Rotary" in name]
    encodings = [f"rotary position embeddings ({', '.join(rotary)})"] if rotary else []
    tables = any(name.endswith(_RELATIVE_TABLES) for name, _ in module.named_parameters())
    if tables or any(name in _RELATIVE for name in classes):
        encodings.append("a relative position bias in its attention")
    if "PositionalEncodingFourier" in classes:
        encodings.append("Fourier features that it computes from a patch's place")
    return encodings


def _no_table(module: nn.Module) -> str:
    name = type(module).__name__
    kinds = ("pos_embed", "position_embedding")
    tables = [f"{key} {tuple(value.shape)}" for key, value in module.named_parameters() if any(k in key for k in kinds)]
    encodings = _other_encodings(module)
    if tables:
        encodings.append(f"position parameters of another form ({', '.join(tables[:3])})")
    instead = (
        f"it has {' and '.join(encodings)}" if encodings else "it has no position embeddings of any kind that is known"
    )
    return (
        f"This {name} has no table of absolute position embeddings, one vector a patch: {instead}.\n"
        "Expected a model with such a table, for example vit_base_patch16_224 or vitrine/scenes-tiny."
    )
