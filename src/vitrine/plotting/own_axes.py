"""A map on axes that a person has made: overlay, title, and a colour bar with its unit. Letters: R, C rows, columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure

from vitrine.attribution.placement import Placement
from vitrine.plotting.colormap import Scale
from vitrine.plotting.overlay import Pixels, draw_overlay
from vitrine.plotting.style import GREY, SMALL, figure_style, new_figure, shorten

_MOST_COLUMNS = 4
_SIDE = 2.6  # inches of a map on a figure of several


def current_axes() -> Axes:
    """The axes that pyplot draws into, of a person who works with it already."""
    import matplotlib.pyplot as plt  # only here: it chooses a backend

    return plt.gca()


def plot_overlay(
    axes: Axes,
    photo_HWC: Pixels,
    map_RC: npt.ArrayLike,
    placement: Placement,
    scale: Scale,
    *,
    title: str = "",
    has_bar: bool = True,
    **look: Any,
) -> Axes:
    """Draw a map over its photograph into a person's axes, with a title, and beside them a colour bar.

    Args:
        axes: drawn into; the colour bar takes its room from them.
        photo_HWC: the photograph.
        map_RC: in the scale's unit.
        placement: where the patches lie on the photograph.
        scale: what the colours mean; one for several maps makes them comparable.
        title: above the map.
        has_bar: draw the colour bar; of several maps with one scale, one is enough.
        look: smooth, outlines, query or contour of :func:`vitrine.plotting.overlay.draw_overlay`.
    """
    scale = scale.for_map(map_RC)
    if has_bar:
        add_bar(axes, [axes], scale)
    draw_overlay(axes, photo_HWC, map_RC, placement, scale, **look)
    axes.set_title(shorten(title, 60), fontsize=9, loc="left")
    return axes


def add_bar(axes: Axes, beside: Sequence[Axes], scale: Scale) -> None:
    """A colour bar with the scale's unit beside one or several axes of a figure."""
    figure = axes.figure
    bar = figure.colorbar(ScalarMappable(scale.norm, scale.colormap), ax=list(beside), fraction=0.046, pad=0.03)
    bar.set_label(scale.name, fontsize=SMALL, color=GREY)
    bar.ax.tick_params(labelsize=SMALL, labelcolor=GREY, length=0)
    bar.outline.set_visible(False)


def overlays_figure(
    maps: Sequence[tuple[Pixels, npt.ArrayLike, Placement, str]], scale: Scale, columns: int = _MOST_COLUMNS
) -> Figure:
    """Several maps over their photographs on one scale, with one colour bar.

    Args:
        maps: photograph, map, placement and title of each; at least one.
        scale: of all of them. Where every map has its own, each has its own bar.
        columns: at most so many beside one another.
    """
    across = min(columns, len(maps))
    down = -(-len(maps) // across)
    with figure_style():
        figure = new_figure(_SIDE * across + 0.9, _SIDE * down + 0.2)
        figure.set_layout_engine("constrained")
        grid = figure.subplots(down, across, squeeze=False)
        own = scale.kind == "own"
        for axes, (photo_HWC, map_RC, placement, title) in zip(grid.flat, maps, strict=False):
            plot_overlay(axes, photo_HWC, map_RC, placement, scale, title=title, has_bar=own)
        for axes in list(grid.flat)[len(maps) :]:
            axes.set_axis_off()
        if not own:
            add_bar(grid[0, 0], list(grid.flat), scale)
        return figure
