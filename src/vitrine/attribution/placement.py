"""Where a map's patches lie on the photograph: the evaluation transform's resize and crop, inverted.

Coordinates are continuous pixels of the upright photograph: (0, 0) is its upper left corner, and the pixel in row i and
column j covers x from j to j + 1 and y from i to i + 1. Letters: H, W pixel rows and columns; R, C rows and columns of
patches.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]
_Edges = npt.NDArray[np.float64]


class Geometry(Protocol):
    """Where a model's input lies on a photograph."""

    @property
    def width(self) -> int:
        """Of the photograph, pixels."""
        ...

    @property
    def height(self) -> int:
        """Of the photograph, pixels."""
        ...

    @property
    def box(self) -> tuple[float, float, float, float]:
        """The model's input: left, top, right, bottom, in the photograph's pixels; beyond it where it has a border."""
        ...


@dataclass(frozen=True)
class Placement:
    """A grid of patches on a photograph.

    The model sees ``geometry.box`` of the photograph as its input, which ``rows`` × ``columns`` patches divide evenly.
    What lies outside that box the model never saw. Where the input has a border, patches lie outside the photograph.

    Attributes:
        geometry: where the model's input lies on the photograph.
        rows, columns: of the grid, 1 or more each.

    Raises:
        ValueError: there is no patch.
    """

    geometry: Geometry
    rows: int
    columns: int

    def __post_init__(self) -> None:
        if self.rows < 1 or self.columns < 1:
            raise ValueError(f"A grid has 1 row and 1 column at least; got {self.rows} x {self.columns}.")

    @cached_property
    def _across(self) -> _Edges:
        """Left edges of the columns and the last one's right edge, C + 1."""
        left, _, right, _ = self.geometry.box
        return np.linspace(left, right, self.columns + 1)

    @cached_property
    def _down(self) -> _Edges:
        """Upper edges of the rows and the last one's lower edge, R + 1."""
        _, top, _, bottom = self.geometry.box
        return np.linspace(top, bottom, self.rows + 1)

    def patch_box(self, row: int, column: int) -> tuple[float, float, float, float]:
        """Left, top, right, bottom of a patch.

        Raises:
            IndexError: there is no such patch; rows and columns count from 0.
        """
        if not (0 <= row < self.rows and 0 <= column < self.columns):
            raise IndexError(f"Patch ({row}, {column}) is not in a grid of {self.rows} x {self.columns}.")
        across, down = self._across, self._down
        return float(across[column]), float(down[row]), float(across[column + 1]), float(down[row + 1])

    def centre(self, row: int, column: int) -> tuple[float, float]:
        """(x, y) of a patch's middle.

        Raises:
            IndexError: there is no such patch.
        """
        left, top, right, bottom = self.patch_box(row, column)
        return (left + right) / 2, (top + bottom) / 2

    def patch_at(self, x: float, y: float) -> tuple[int, int] | None:
        """(row, column) of the patch that a point of the photograph lies in, None where the model saw nothing.

        A point on an edge belongs to the patch to its right or below, so that no point belongs to two.
        """
        row, column = _interval(self._down, y), _interval(self._across, x)
        is_visible = 0 <= row < self.rows and 0 <= column < self.columns
        return (int(row), int(column)) if is_visible else None

    @property
    def visible_box(self) -> tuple[float, float, float, float]:
        """What the model saw of the photograph: left, top, right, bottom, in its pixels, without a border."""
        left, top, right, bottom = self.geometry.box
        return max(0.0, left), max(0.0, top), min(self.geometry.width, right), min(self.geometry.height, bottom)

    @property
    def visible_share(self) -> float:
        """Share of the photograph's area that the model saw, above 0 and at most 1."""
        left, top, right, bottom = self.visible_box
        return (right - left) * (bottom - top) / (self.geometry.width * self.geometry.height)

    @property
    def photo_share_RC(self) -> Floats:  # noqa: N802  its axes
        """float32 (R, C): how much of each patch shows the photograph, 0 to 1; the rest is border."""
        height, width = self.geometry.height, self.geometry.width
        down_R = np.diff(self._down.clip(0, height)) / np.diff(self._down)
        across_C = np.diff(self._across.clip(0, width)) / np.diff(self._across)
        share_RC: Floats = np.outer(down_R, across_C).astype(np.float32)
        return share_RC

    @property
    def visible_HW(self) -> Bools:  # noqa: N802  its axes
        """bool (H, W): the pixels whose middle the model saw."""
        return self.visible_mask(self.geometry.height, self.geometry.width)

    def visible_mask(self, height: int, width: int) -> Bools:
        """:attr:`visible_HW` of a copy of the photograph with another number of pixels: bool (height, width)."""
        row_H, column_W = self._nearest(height, width)
        visible_HW: Bools = ((row_H >= 0) & (row_H < self.rows))[:, None] & (
            (column_W >= 0) & (column_W < self.columns)
        )
        return visible_HW

    def to_image(self, scores_RC: npt.ArrayLike, smooth: bool, shape: tuple[int, int] | None = None) -> Floats:
        """A map in the photograph's own pixels.

        Args:
            scores_RC: (R, C), one score a patch. One that is NaN stays so and does not touch its neighbours.
            smooth: bilinear between the middles of patches, constant from the outer middles to the edge; otherwise
                every pixel has the score of the patch that its middle lies in.
            shape: (height, width) of a copy of the photograph with another number of pixels, for drawing; None is the
                photograph's own.

        Returns:
            float32 (H, W), NaN where the model saw nothing.

        Raises:
            ValueError: the map has another number of rows or columns.
        """
        scores_RC = np.asarray(scores_RC, dtype=np.float32)
        if scores_RC.shape != (self.rows, self.columns):
            raise ValueError(f"Expected a map of {self.rows} x {self.columns} patches; got {scores_RC.shape}.")
        height, width = shape or (self.geometry.height, self.geometry.width)
        row_H, column_W = self._nearest(height, width)
        seen_H, seen_W = (row_H >= 0) & (row_H < self.rows), (column_W >= 0) & (column_W < self.columns)
        rows, columns = np.ix_(row_H[seen_H], column_W[seen_W])
        patches = scores_RC[rows, columns]
        if smooth:
            patches = np.where(np.isnan(patches), patches, self._bilinear(scores_RC, height, width, seen_H, seen_W))
        spread_HW = np.full((height, width), np.nan, dtype=np.float32)
        spread_HW[np.ix_(seen_H, seen_W)] = patches
        return spread_HW

    def coverage(self, mask_HW: npt.ArrayLike) -> Floats:
        """How much of each patch lies in a mask, by exact area: a pixel that is cut counts with the part inside.

        The mask is integrated from the corner down and across (Crow 1984, summed-area tables) and the integral read
        at the patches' edges, between pixels linearly, which is exact for pixels of one value each.

        Args:
            mask_HW: bool (H, W) in the upright photograph's own pixels.

        Returns:
            float32 (R, C), shares of the patches' areas from 0 to 1.

        Raises:
            ValueError: the mask has another size than the photograph.
        """
        mask_HW = np.asarray(mask_HW, dtype=bool)
        if mask_HW.shape != (self.geometry.height, self.geometry.width):
            expected = f"{self.geometry.height} x {self.geometry.width}"
            raise ValueError(f"Expected a mask of {expected} pixels, as the photograph; got {mask_HW.shape}.")
        down, across = self._down.clip(0, mask_HW.shape[0]), self._across.clip(0, mask_HW.shape[1])
        inside_RW = np.diff(_integral(mask_HW, down), axis=0)
        inside_RC = np.diff(_integral(inside_RW.T, across), axis=0).T
        area_RC = np.diff(self._down)[:, None] * np.diff(self._across)
        return np.clip(inside_RC / area_RC, 0, 1).astype(np.float32)

    def _nearest(self, height: int, width: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
        """Row of patches of each pixel row and column of each pixel column; outside the grid: below 0 or too large."""
        y_H, x_W = self._middles(height, width)
        return _interval(self._down, y_H), _interval(self._across, x_W)

    def _middles(self, height: int, width: int) -> tuple[_Edges, _Edges]:
        """y of each pixel row's middle and x of each pixel column's."""
        y_H = (np.arange(height, dtype=np.float64) + 0.5) * (self.geometry.height / height)
        x_W = (np.arange(width, dtype=np.float64) + 0.5) * (self.geometry.width / width)
        return y_H, x_W

    def _bilinear(self, scores_RC: Floats, height: int, width: int, seen_H: Bools, seen_W: Bools) -> Floats:
        """The seen pixels' scores between the middles of patches, those that are NaN left out of every mean."""
        y_H, x_W = self._middles(height, width)
        known_RC = (~np.isnan(scores_RC)).astype(np.float32)
        total, weight = (
            _between(_between(values_RC, self._down, y_H[seen_H]).T, self._across, x_W[seen_W]).T
            for values_RC in (np.nan_to_num(scores_RC), known_RC)
        )
        return total if known_RC.all() else np.divide(total, weight, where=weight > 0, out=np.zeros_like(total))


def _interval(edges: _Edges, at: npt.ArrayLike) -> npt.NDArray[np.intp]:
    """Which interval between ascending edges each place lies in; -1 before the first."""
    return np.searchsorted(edges, at, side="right") - 1


def _between(values: Floats, edges: _Edges, places: _Edges) -> Floats:
    """Rows of ``values``, one for each interval between edges, interpolated linearly between the intervals' middles."""
    last = len(values) - 1
    at = (places - edges[0]) / (edges[-1] - edges[0]) * len(values) - 0.5
    at = at.clip(0, last)
    lower = np.floor(at).astype(np.intp)
    share = (at - lower).astype(np.float32)[:, None]
    between: Floats = values[lower] * (1 - share) + values[np.minimum(lower + 1, last)] * share
    return between


def _integral(values: Bools | _Edges, places: _Edges) -> _Edges:
    """The integral of rows of pixels from the upper edge to each of some places among them: one row a place."""
    sums = np.cumsum(values, axis=0, dtype=np.int32 if values.dtype == bool else np.float64)
    sums = np.concatenate([np.zeros_like(sums[:1]), sums])
    whole = np.floor(places.clip(0, len(values))).astype(np.intp)
    part = (places - whole)[:, None]
    integral: _Edges = sums[whole] * (1 - part) + sums[np.minimum(whole + 1, len(values))] * part
    return integral
