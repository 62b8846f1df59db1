"""The heads of a layer side by side, and its whole attention matrices.

Letters: H heads (in ``maps_HRC`` and ``matrices_HNN``), or pixel rows, W pixel columns; R, C rows and columns of
patches; N tokens, prefix tokens first.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vitrine.attribution.placement import Placement
from vitrine.plotting.colormap import Scale, colour_bar, shared_scale
from vitrine.plotting.overlay import Patch, Pixels, draw_overlay
from vitrine.plotting.style import (
    INK,
    LETTER,
    MARGIN,
    WIDTH,
    Grid,
    add_axes,
    arrange_panels,
    figure_style,
    panel_grid,
)
from vitrine.results import count_of

Floats = npt.NDArray[np.float32]

_IN_A_ROW = 6  # heads


def heads_figure(
    photo_HWC: Pixels,
    maps_HRC: npt.ArrayLike,
    placement: Placement,
    scale: Scale,
    *,
    title: str,
    detail: str = "",
    heads: Sequence[int] = (),
    smooth: bool = True,
    outlines: Sequence[Patch] = (),
    query: Patch | None = None,
    contour: bool = False,
) -> Figure:
    """A panel a head, at most six in a row: its map over the photograph, all on one scale.

    Args:
        photo_HWC: uint8 (H, W, 3), upright; or a smaller copy of the photograph.
        maps_HRC: (H, R, C), a map a head, in the scale's unit.
        placement: where the patches lie.
        scale: what the colours mean, one for all heads.
        title: above the panels, for example the predicted label.
        detail: in grey below it, for example the method.
        heads: their numbers, counted from 0; all by default.
        smooth: between the middles of patches, or patches as they are.
        outlines: patches (row, column) to outline.
        query: the patch that looks, which has a frame.
        contour: draw a line where a map crosses the value that favours no patch.

    Raises:
        ValueError: there is no map, or numbers and maps differ in count.
    """
    maps_HRC = np.asarray(maps_HRC, dtype=np.float32)
    names = _head_names(len(maps_HRC), heads)
    aspect = placement.geometry.width / placement.geometry.height
    marks = describe_marks(placement.visible_share < 1 - 1e-6, bool(outlines), query)
    warnings = (*scale.warnings, *scale.describe_end(list(maps_HRC)), *marks)
    with figure_style():
        grid = _panels_of_heads(names, aspect, _IN_A_ROW, title, "\n".join([detail, *warnings]))
        for map_RC, box in zip(maps_HRC, grid.boxes, strict=True):
            draw_overlay(
                add_axes(grid.figure, *box),
                photo_HWC,
                map_RC,
                placement,
                scale,
                smooth=smooth,
                outlines=outlines,
                query=query,
                contour=contour,
            )
        colour_bar(grid.figure, scale, list(maps_HRC), grid.bar, grid.bar_length)
        return grid.figure


def matrices_figure(
    matrices_HNN: npt.ArrayLike, prefix: int, *, title: str, detail: str = "", heads: Sequence[int] = ()
) -> Figure:
    """Whole attention matrices of a layer, head by head, as multiples of uniform on a logarithmic scale from 0.1.

    Queries are rows and keys are columns. White lines part prefix tokens from patches; where there are many patches,
    prefix rows and columns are drawn broader than others, and the figure says how much.

    Args:
        matrices_HNN: (H, N, N), every row sums to 1.
        prefix: how many of the N tokens, the first ones, are no patches.
        title: above the panels.
        detail: in grey below it.
        heads: their numbers, counted from 0; all by default.

    Raises:
        ValueError: matrices that are not square, no patch, or numbers and matrices that differ in count.
    """
    matrices_HNN = np.asarray(matrices_HNN, dtype=np.float32)
    names = _head_names(len(matrices_HNN), heads)
    tokens = matrices_HNN.shape[-1]
    if matrices_HNN.ndim != 3 or matrices_HNN.shape[1] != tokens or not 0 <= prefix < tokens:
        raise ValueError(
            f"Expected (H, N, N) with {count_of(prefix, 'prefix token')} and patches; got {matrices_HNN.shape}."
        )
    relative_HNN = matrices_HNN * tokens
    scale = Scale("log", shared_scale([relative_HNN], minimum=10))
    broad = max(1, round(0.03 * tokens / prefix)) if prefix else 1
    words = "Rows are queries, columns keys, patches row by row."
    if prefix:
        width_words = f", drawn {broad} times as broad," if broad > 1 else ""
        words += (
            f" Dark lines part {count_of(prefix, 'prefix token')}{width_words} from "
            f"{count_of(tokens - prefix, 'patch', 'patches')}."
        )
    with figure_style():
        grid = _panels_of_heads(names, 1.0, 4, title, f"{detail}\n{words}")
        for relative_NN, box in zip(relative_HNN, grid.boxes, strict=True):
            _matrix(add_axes(grid.figure, *box), relative_NN, prefix, broad, scale)
        colour_bar(grid.figure, scale, [relative_HNN], grid.bar, grid.bar_length)
        return grid.figure


def _matrix(axes: Axes, relative_NN: Floats, prefix: int, broad: int, scale: Scale) -> None:
    counts = np.where(np.arange(len(relative_NN)) < prefix, broad, 1)
    pixels = relative_NN.repeat(counts, axis=0).repeat(counts, axis=1)
    axes.imshow(pixels, cmap=scale.colormap, norm=scale.norm, extent=(0, len(pixels), len(pixels), 0))
    axes.set(xticks=[], yticks=[])
    if prefix:
        axes.axvline(prefix * broad, color=INK, linewidth=0.8)
        axes.axhline(prefix * broad, color=INK, linewidth=0.8)


def describe_marks(has_unseen: bool, has_outlines: bool, query: Patch | None = None) -> list[str]:
    """What hatching and outlines say, where a figure has no room for a key."""
    words = ["hatched: not seen by the model"] * has_unseen + ["outlined: outlier patches"] * has_outlines
    words += [] if query is None else [f"framed: the patch that looks, row {query[0]}, column {query[1]}"]
    return ["; ".join(words).capitalize() + "."] if words else []


def _head_names(count: int, heads: Sequence[int]) -> list[str]:
    if not count or (heads and len(heads) != count):
        raise ValueError(
            f"Expected a number for each of the {count_of(count, 'head')}, and one head at least; got {list(heads)}."
        )
    return [f"head {head}" for head in heads or range(count)]


def _panels_of_heads(names: Sequence[str], aspect: float, most: int, title: str, detail: str) -> Grid:
    columns, panel = arrange_panels(len(names), aspect, most, max_height=6.2, max_panel_width=2.6)
    least = min(WIDTH, LETTER * (len(title) + 1) + 2 * MARGIN)  # so that the title is whole
    return panel_grid(names, columns, panel, title=title, detail=detail, least=least)
