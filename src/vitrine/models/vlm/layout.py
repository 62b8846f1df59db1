"""Where the image tokens of a prompt lie on the photograph, and their attention brought onto one grid of cells.

Coordinates are continuous pixels of the upright photograph, as in :mod:`vitrine.attribution.placement`. Letters: N
image tokens, K cells of the grid, row by row, M pairs of a token and a cell that overlap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Box = tuple[float, float, float, float]
"""Left, top, right, bottom, in pixels of the photograph; beyond it where a model's input has a border."""

Boxes = npt.NDArray[np.float64]

_LEAST_SHARE = 1e-6  # of a token: what is less is the rounding of an edge


@dataclass(frozen=True, eq=False)
class TokenLayout:
    """What each image token sees of a photograph, and the grid that its maps are drawn on.

    It has what :class:`vitrine.attribution.placement.Geometry` asks for.

    Attributes:
        width, height: of the photograph, pixels.
        box: of the grid.
        rows, columns: of the grid.
        boxes_N4: the box of each image token, in the order of the prompt; NaN for one that stands for no place, such as
            the end of a row.
    """

    width: int
    height: int
    box: Box
    rows: int
    columns: int
    boxes_N4: Boxes

    @property
    def tokens(self) -> int:
        """Number of image tokens."""
        return len(self.boxes_N4)

    @cached_property
    def spread(self) -> TokenSpread:
        """How the attention of each token is shared out among the cells: by area."""
        left, top, right, bottom = self.box
        rows_NR = _overlaps(self.boxes_N4[:, [1, 3]], np.linspace(top, bottom, self.rows + 1))
        columns_NC = _overlaps(self.boxes_N4[:, [0, 2]], np.linspace(left, right, self.columns + 1))
        tokens, cells, shares = [], [], []
        for token, (rows_R, columns_C) in enumerate(zip(rows_NR, columns_NC, strict=True)):
            area_RC = np.outer(rows_R, columns_C)
            total = area_RC.sum()
            cell_K = np.flatnonzero(area_RC > _LEAST_SHARE * total) if total > 0 else np.empty(0, np.intp)
            share_K = area_RC.ravel()[cell_K]
            tokens.append(np.full(len(cell_K), token))
            cells.append(cell_K)
            shares.append(share_K / share_K.sum() if len(share_K) else share_K)
        return TokenSpread(
            torch.from_numpy(np.concatenate(tokens)).long(),
            torch.from_numpy(np.concatenate(cells)).long(),
            torch.from_numpy(np.concatenate(shares)).float(),
            self.rows * self.columns,
        )


@dataclass(frozen=True, eq=False)
class TokenSpread:
    """Shares of image tokens in cells.

    Attributes:
        tokens_M, cells_M: int64, pairs that overlap.
        shares_M: float32, of the token; those of one token sum to 1, but for tokens that stand for no place.
        cells: number of cells.
    """

    tokens_M: Tensor
    cells_M: Tensor
    shares_M: Tensor
    cells: int

    def to(self, device: torch.device) -> TokenSpread:
        """The same on another device."""
        return TokenSpread(self.tokens_M.to(device), self.cells_M.to(device), self.shares_M.to(device), self.cells)

    def over_cells(self, attention_N: Tensor) -> Tensor:
        """Attention to tokens (..., N) as attention to cells (..., K), with the same sum but for tokens of no place."""
        cells_K = attention_N.new_zeros(*attention_N.shape[:-1], self.cells)
        return cells_K.index_add_(-1, self.cells_M, attention_N[..., self.tokens_M] * self.shares_M)


def grid_boxes(box: Box, rows: int, columns: int) -> Boxes:
    """The boxes of a grid's cells, row by row: (rows * columns, 4)."""
    left, top, right, bottom = box
    down, across = np.linspace(top, bottom, rows + 1), np.linspace(left, right, columns + 1)
    return np.array([
        (across[column], down[row], across[column + 1], down[row + 1])
        for row in range(rows)
        for column in range(columns)
    ])  # fmt: skip


def no_place(count: int) -> Boxes:
    """Boxes of tokens that stand for no place."""
    return np.full((count, 4), np.nan)


def one_grid(size: tuple[int, int], box: Box, grid: tuple[int, int], prefix: int = 0) -> TokenLayout:
    """The layout of a picture whose tokens are one grid, row by row, after ``prefix`` tokens of no place.

    Args:
        size: (width, height) of the photograph, pixels.
        box: that the grid divides evenly.
        grid: (rows, columns).
        prefix: tokens before the grid, such as a class token.
    """
    return TokenLayout(*size, box, *grid, np.concatenate([no_place(prefix), grid_boxes(box, *grid)]))


def tile_layout(
    size: tuple[int, int], tiles: tuple[int, int], tile_grid: tuple[int, int], thumbnail: bool
) -> TokenLayout:
    """The layout of a picture that is stretched and cut into tiles: the tiles row by row, each with a grid of tokens,
    then a thumbnail of the whole picture with a grid like a tile's. Maps are drawn on the grid of all tiles together,
    over which a thumbnail's tokens are spread.

    Args:
        size: (width, height) of the photograph, pixels.
        tiles: (rows, columns) of tiles.
        tile_grid: (rows, columns) of a tile's tokens.
        thumbnail: whether there is one.
    """
    whole = (0.0, 0.0, float(size[0]), float(size[1]))
    parts = [grid_boxes(_as_box(tile), *tile_grid) for tile in grid_boxes(whole, *tiles)]
    if thumbnail:
        parts.append(grid_boxes(whole, *tile_grid))
    return TokenLayout(*size, whole, tiles[0] * tile_grid[0], tiles[1] * tile_grid[1], np.concatenate(parts))


def _as_box(box_4: Boxes) -> Box:
    left, top, right, bottom = map(float, box_4)
    return left, top, right, bottom


def _overlaps(spans_N2: Boxes, edges: Sequence[float] | Boxes) -> Boxes:
    """The length of each span in each interval between ascending edges; of a span that is NaN, 0."""
    edges = np.asarray(edges)
    start_N1, stop_N1 = spans_N2[:, :1], spans_N2[:, 1:]
    length = np.minimum(stop_N1, edges[1:]) - np.maximum(start_N1, edges[:-1])
    return np.asarray(np.nan_to_num(np.maximum(length, 0.0)))
