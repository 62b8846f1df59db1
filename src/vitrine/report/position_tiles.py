"""Similarities of position embeddings on axes: a grid of tiles, each of them one patch's map, or one map alone.

Axes: R grid rows, C grid columns, Y and X the units of one image of all tiles: cells, and gaps between tiles. A
similarity_RCRC has the reference cell first: ``similarity_RCRC[r, c]`` is the map of the cell in row r and column c.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, LinearSegmentedColormap
from matplotlib.patches import Rectangle

from vitrine.report.style import HAIRLINE, INK, SHARES, SMALL, extent
from vitrine.results import shown_number

Floats: TypeAlias = npt.NDArray[np.float32]


def _two_armed(name: str, below: Sequence[str], above: Sequence[Any]) -> Colormap:
    """Colours from -1 to just below 0, and from 0 to 1; each arm in equal steps."""
    places = [*np.linspace(0, 0.5, len(below) + 1)[:-1], *np.linspace(0.5, 1, len(above))]
    listed: list[Any] = list(zip(places, [*below, *above], strict=True))
    return LinearSegmentedColormap.from_list(name, listed, N=511).with_extremes(bad=HAIRLINE)


# White at zero, and each arm darkens evenly (a test looks). The arm below zero ends half way down, so that in grey
# print whatever is dark is surely alike (or has become so).
SIMILARITY = _two_armed(
    "vitrine.similarity",
    ("#de600a", "#ea8138", "#f2a269", "#f6c29b", "#fbe0cb"),
    [SHARES(share) for share in np.linspace(0, 1, 33)],
)
CHANGE = _two_armed(
    "vitrine.change",
    ("#b668c5", "#c786d2", "#d7a4df", "#e6c1eb", "#f4e0f6"),
    ("#ffffff", "#c1e3c9", "#89c598", "#54a66d", "#1d8648", "#00662a", "#004610"),
)

_WORDS = 1.2  # inches that an axis's whole name needs
_ALL = 16  # rows or columns up to which each is numbered


def draw_positions(
    ax: Axes, similarity_RCRC: Floats, *, colours: Colormap = SIMILARITY, limit: float = 1.0, repeat: int | None = None
) -> Axes:
    """Draw all maps into somebody's axes, as one image, and give the axes back.

    Tile (row, column) is the map of that input patch. Rows and columns count from 1, the first row on top, and are the
    axes' own coordinates: the middle of a tile is at (column, row).

    Args:
        ax: any matplotlib axes; limits, ticks, labels and aspect are set.
        similarity_RCRC: from :func:`vitrine.explain.position_numbers.cosine_similarity`, or a difference of two.
        colours: of the values from ``-limit`` to ``limit``; NaN is the gaps between tiles.
        limit: the end of the scale, more than 0.
        repeat: width of a cell as a multiple of the gap between tiles; None chooses.
    """
    rows, columns = similarity_RCRC.shape[:2]
    tiles_YX = tiled(similarity_RCRC, repeat or repeats(rows, columns, 400))
    high, wide = (len(tiles_YX) + 1) / rows, (tiles_YX.shape[1] + 1) / columns  # of a tile and its gap, in units
    edges = (0.5 + 0.5 / wide, columns + 0.5 - 0.5 / wide, rows + 0.5 - 0.5 / high, 0.5 + 0.5 / high)
    box = ax.get_window_extent()
    # Where a unit has a pixel or more it keeps its colour; matplotlib would blur what it enlarges by less than three.
    sharp = box.width > 0.99 * tiles_YX.shape[1] and box.height > 0.99 * len(tiles_YX)
    look: dict[str, Any] = {"aspect": high / wide, "interpolation": "nearest" if sharp else "auto"}
    ax.imshow(tiles_YX, cmap=colours, vmin=-limit, vmax=limit, extent=edges, **look)
    _number(ax, rows, columns, "input patch")
    return ax


def draw_cell(
    ax: Axes, similarity_RC: Floats, cell: tuple[int, int], *, colours: Colormap = SIMILARITY, limit: float = 1.0
) -> Axes:
    """Draw the map of one patch, framed at its place, with the values where there is room for them.

    Args:
        ax: any matplotlib axes; limits, ticks, labels and aspect are set.
        similarity_RC: the map.
        cell: row and column of the reference patch, from 1.
        colours: of the values from ``-limit`` to ``limit``.
        limit: the end of the scale, more than 0.
    """
    rows, columns = similarity_RC.shape
    edges = (0.5, columns + 0.5, rows + 0.5, 0.5)
    ax.imshow(similarity_RC, cmap=colours, vmin=-limit, vmax=limit, extent=edges, interpolation="nearest")
    ax.vlines(np.arange(1.5, columns), *edges[2:], color="white", linewidth=0.6)
    ax.hlines(np.arange(1.5, rows), *edges[:2], color="white", linewidth=0.6)
    thick = float(np.clip(5 * _inches(ax)[0] / columns, 0.8, 1.8))
    for colour, line in (("white", 2.8 * thick), (INK, thick)):  # the frame is seen on dark cells and on pale ones
        frame = Rectangle((cell[1] - 0.5, cell[0] - 0.5), 1, 1, fill=False, clip_on=False, zorder=3)
        frame.set(edgecolor=colour, linewidth=line, joinstyle="miter")
        ax.add_patch(frame)
    _number(ax, rows, columns, "patch")
    if _inches(ax)[0] / columns > 1.25 * extent(["−0.00"], SMALL)[0]:
        for (row, column), value in np.ndenumerate(similarity_RC):
            ink = _readable_on(colours(float(value / limit + 1) / 2))
            words = shown_number(float(value))
            ax.text(column + 1, row + 1, words, ha="center", va="center_baseline", fontsize=SMALL, color=ink)
    return ax


def tiled(similarity_RCRC: Floats, repeat: int) -> Floats:
    """All maps as one image (Y, X): every cell ``repeat`` units wide and high, NaN a unit wide between tiles."""
    rows, columns = similarity_RCRC.shape[:2]
    tiles = np.full((rows, rows * repeat + 1, columns, columns * repeat + 1), np.nan, np.float32)
    maps = similarity_RCRC.transpose(0, 2, 1, 3)
    tiles[:, :-1, :, :-1] = maps.repeat(repeat, axis=1).repeat(repeat, axis=3)
    return tiles.reshape(rows * (rows * repeat + 1), -1)[:-1, :-1]


def repeats(rows: int, columns: int, units: float) -> int:
    """Units in a cell, where the longer side of a grid of tiles is to have about this many, a gap being one."""
    most = max(rows, columns)
    return max(1, int((units / most - 1) / most))


def grid_pixels(rows: int, columns: int, repeat: int, pixels: int) -> tuple[int, int]:
    """(width, height) of a grid of tiles: about ``pixels`` on the longer side, every unit as many whole pixels as fit.

    Where there are far more units than pixels, several share one.
    """
    wide, high = (side * (side * repeat + 1) - 1 for side in (columns, rows))
    most = max(wide, high)
    scale = pixels // most or (1 if most <= 1.2 * pixels else pixels / most)
    return max(1, round(wide * scale)), max(1, round(high * scale))


def _number(ax: Axes, rows: int, columns: int, what: str) -> None:
    """Name rows and columns, and number them from 1: all of a few, and of many what leaves room."""
    wide, high = _inches(ax)
    room = min(wide / columns, high / rows)
    steps = (1, 2, 5, 10, 20, 50) if max(rows, columns) <= _ALL else (5, 10, 20, 50)
    step = next((step for step in steps if step * room >= 0.2), steps[-1])
    for axis, count in ((ax.xaxis, columns), (ax.yaxis, rows)):
        axis.set_ticks([*range(1, count + 1, step)] if step < 3 else [1, *range(step, count + 1, step)])
    ax.set_xlabel(f"{what} column" if wide > _WORDS else "column")
    ax.set_ylabel(f"{what} row" if high > _WORDS else "row")
    ax.tick_params(length=0, pad=4)
    for spine in ax.spines.values():
        spine.set(visible=True, color=HAIRLINE)


def _inches(ax: Axes) -> tuple[float, float]:
    """Width and height of axes."""
    box = ax.get_window_extent().transformed(ax.get_figure(root=True).dpi_scale_trans.inverted())  # type: ignore[union-attr]
    return box.width, box.height


def _readable_on(colour: tuple[float, float, float, float]) -> str:
    """White or black: what has more contrast on a colour (WCAG 2.2: relative luminance)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour[:3]]
    return "white" if 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] < 0.179 else "black"
