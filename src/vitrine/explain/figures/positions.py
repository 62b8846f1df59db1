"""The similarity of position embeddings as a figure, with the numbers that say whether position was learned.

Axes: R grid rows, C grid columns. Rows and columns count from 0, as they are labelled.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from vitrine.attribution.position_metrics import NUMBER_NAMES, PositionFindings, PositionNumbers
from vitrine.plotting.style import (
    DPI,
    GREY,
    HAIRLINE,
    INK,
    LABEL,
    MARGIN,
    SHARES,
    SMALL,
    TITLE,
    add_axes,
    add_text,
    contrast_colour,
    figure_style,
    new_figure,
    save,
    shorten,
    snap_to_pixels,
    text_size,
)
from vitrine.results import percent, shown_number

Floats: TypeAlias = npt.NDArray[np.float32]


def _two_armed(name: str, below: Sequence[str], above: Sequence[Any]) -> Colormap:
    """Colours from -1 to just below 0, and from 0 to 1; each arm in equal steps."""
    places = [*np.linspace(0, 0.5, len(below) + 1)[:-1], *np.linspace(0.5, 1, len(above))]
    stops: list[Any] = list(zip(places, [*below, *above], strict=True))
    return LinearSegmentedColormap.from_list(name, stops, N=511).with_extremes(bad=HAIRLINE)


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
    """Draw the maps of all patches into any axes as one image, and return the axes.

    Tile (row, column) is the map of that input patch. Rows and columns count from 0, the first row on top, and are the
    axes' own coordinates: the middle of a tile is at (column, row).

    Args:
        ax: any matplotlib axes; limits, ticks, labels and aspect are set.
        similarity_RCRC: from :func:`vitrine.attribution.position_metrics.cosine_similarity`, or a difference of two.
        colours: of the values from ``-limit`` to ``limit``; NaN is the gaps between tiles.
        limit: the end of the scale, more than 0.
        repeat: width of a cell as a multiple of the gap between tiles; None chooses.
    """
    rows, columns = similarity_RCRC.shape[:2]
    tiles_YX = tile_maps(similarity_RCRC, repeat or repeats(rows, columns, 400))
    high, wide = (len(tiles_YX) + 1) / rows, (tiles_YX.shape[1] + 1) / columns  # of a tile and its gap, in units
    edges = (0.5 / wide - 0.5, columns - 0.5 - 0.5 / wide, rows - 0.5 - 0.5 / high, 0.5 / high - 0.5)
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
        cell: row and column of the reference patch, from 0.
        colours: of the values from ``-limit`` to ``limit``.
        limit: the end of the scale, more than 0.
    """
    rows, columns = similarity_RC.shape
    edges = (-0.5, columns - 0.5, rows - 0.5, -0.5)
    ax.imshow(similarity_RC, cmap=colours, vmin=-limit, vmax=limit, extent=edges, interpolation="nearest")
    ax.vlines(np.arange(0.5, columns - 1), *edges[2:], color="white", linewidth=0.6)
    ax.hlines(np.arange(0.5, rows - 1), *edges[:2], color="white", linewidth=0.6)
    thick = float(np.clip(5 * _inches(ax)[0] / columns, 0.8, 1.8))
    for colour, line in (("white", 2.8 * thick), (INK, thick)):  # the frame is seen on dark cells and on pale ones
        frame = Rectangle((cell[1] - 0.5, cell[0] - 0.5), 1, 1, fill=False, clip_on=False, zorder=3)
        frame.set(edgecolor=colour, linewidth=line, joinstyle="miter")
        ax.add_patch(frame)
    _number(ax, rows, columns, "patch")
    if _inches(ax)[0] / columns > 1.25 * text_size(["−0.00"], SMALL)[0]:
        for (row, column), value in np.ndenumerate(similarity_RC):
            ink = contrast_colour(colours(float(value / limit + 1) / 2))
            words = shown_number(float(value))
            ax.text(column, row, words, ha="center", va="center_baseline", fontsize=SMALL, color=ink)
    return ax


def tile_maps(similarity_RCRC: Floats, repeat: int) -> Floats:
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
    """Name rows and columns, and number them from 0: all of a few, and of many what leaves room."""
    wide, high = _inches(ax)
    room = min(wide / columns, high / rows)
    steps = (1, 2, 5, 10, 20, 50) if max(rows, columns) <= _ALL else (5, 10, 20, 50)
    step = next((step for step in steps if step * room >= 0.2), steps[-1])
    for axis, count in ((ax.xaxis, columns), (ax.yaxis, rows)):
        axis.set_ticks(range(0, count, step))
    ax.set_xlabel(f"{what} column" if wide > _WORDS else "column")
    ax.set_ylabel(f"{what} row" if high > _WORDS else "row")
    ax.tick_params(length=0, pad=4)
    for spine in ax.spines.values():
        spine.set(visible=True, color=HAIRLINE)


def _inches(ax: Axes) -> tuple[float, float]:
    """Width and height of axes."""
    box = ax.get_window_extent().transformed(ax.get_figure(root=True).dpi_scale_trans.inverted())  # type: ignore[union-attr]
    return box.width, box.height


__all__ = ["change_figure", "draw_positions", "number_rows", "position_figure", "save_position_figure"]

Cell = tuple[int, int]

_SIDE, _PANEL = 6.2, 2.6  # inches of the longer side: alone, and one of three
_GAP, _PANEL_GAP = 3, 1  # pixels between tiles, likewise
_LEFT = MARGIN + 0.5  # of what is drawn: the rows are numbered there
_ABOVE, _BELOW = 0.78, 0.5  # inches that title and column numbers need
_ROW, _LINE = 0.25, 0.19
_BAR = 0.13


def save_position_figure(
    findings: PositionFindings,
    path: Path,
    metadata: Mapping[str, str],
    *,
    title: str,
    cell: Cell | None = None,
    before: PositionFindings | None = None,
) -> None:
    """Write :func:`position_figure`, or with ``before`` :func:`change_figure`, as PNG or SVG.

    See :func:`vitrine.plotting.style.save`.
    """
    if before is None:
        figure = position_figure(findings, title, cell=cell)
    else:
        figure = change_figure(before, findings, title, cell=cell)
    save(figure, path, metadata)


def position_figure(findings: PositionFindings, title: str, *, cell: Cell | None = None, words: bool = True) -> Figure:
    """Similarities from -1 to 1 on a fixed scale, the numbers beside their controls, and what follows from them.

    Args:
        findings: of one model.
        title: above it all.
        cell: row and column of the one patch whose map is drawn; None draws all maps as a grid of tiles.
        words: with the numbers and sentences below; without them where a page says the same beside the figure.

    Raises:
        ValueError: the cell lies outside of the grid.
    """
    _require_cell(findings, cell)
    with figure_style():
        wide, high, repeat = _size(findings, cell, _SIDE, _GAP)
        width = _LEFT + max(wide, 5.6) + 1.1
        texts = [(findings.sentence, INK), *((note, GREY) for note in findings.notes)] if words else []
        lines, rows = _wrap_texts(texts, width), number_rows([findings.numbers], findings) if words else []
        length = min(max(high, 1.4), 2.6)  # of the colour bar
        figure = new_figure(
            width, snap_to_pixels(_ABOVE + max(high + _BELOW, length + 0.3) + _text_height(rows, lines))
        )
        top = snap_to_pixels(figure.get_size_inches()[1] - _ABOVE)
        _heading(figure, title, _detail(findings, cell))
        axes = add_axes(figure, _LEFT, top - high, wide, high)
        _draw(axes, findings.similarity_RCRC, cell, repeat, SIMILARITY, 1.0)
        bar = add_axes(figure, _LEFT + wide + 0.25, top - length, _BAR, length)
        _scale(bar, SIMILARITY, 1.0, "cosine similarity", upright=True)
        if words:
            _texts(figure, ("this model", "untrained", "fixed 2-D sine"), rows, lines)
        return figure


def change_figure(before: PositionFindings, after: PositionFindings, title: str, *, cell: Cell | None = None) -> Figure:
    """Two models on one scale, and the difference of their similarities on its own, symmetric one.

    Raises:
        ValueError: the grids differ, or the cell lies outside of them.
    """
    if before.similarity_RCRC.shape != after.similarity_RCRC.shape:
        raise ValueError(
            f"Only equal grids can be compared: {before.rows} x {before.columns} and {after.rows} x {after.columns}."
        )
    _require_cell(after, cell)
    change_RCRC = after.similarity_RCRC - before.similarity_RCRC
    limit = _nice(float(np.abs(change_RCRC).max()))
    panels: Sequence[tuple[str, Floats, Colormap, float]] = (
        ("before", before.similarity_RCRC, SIMILARITY, 1.0),
        ("after", after.similarity_RCRC, SIMILARITY, 1.0),
        ("after − before", change_RCRC, CHANGE, limit),
    )
    with figure_style():
        wide, high, repeat = _size(after, cell, _PANEL, _PANEL_GAP)
        step = snap_to_pixels(max(wide, 2.2) + 0.36)
        width = _LEFT + 3 * step + MARGIN - 0.2
        lines = _wrap_texts(_change_words(before, after), width)
        rows = number_rows([before.numbers, after.numbers], after)
        figure = new_figure(width, snap_to_pixels(_ABOVE + 0.25 + high + _BELOW + 0.78 + _text_height(rows, lines)))
        bottom = snap_to_pixels(figure.get_size_inches()[1] - _ABOVE - 0.25 - high)
        _heading(figure, title, _detail(after, cell))
        for index, (name, values_RCRC, colours, end) in enumerate(panels):
            left = _LEFT + index * step
            axes = add_axes(figure, left, bottom, wide, high)
            _draw(axes, values_RCRC, cell, repeat, colours, end)
            add_text(figure, left, bottom + high + 0.09, name, fontsize=LABEL, weight="bold")
            if index:
                axes.set(ylabel="", yticklabels=[])
        under, broad = bottom - _BELOW - 0.22, step - 0.36
        _scale(add_axes(figure, _LEFT, under, step + broad, _BAR), SIMILARITY, 1.0, "cosine similarity", upright=False)
        bar = add_axes(figure, _LEFT + 2 * step, under, broad, _BAR)
        _scale(bar, CHANGE, limit, "change of similarity", upright=False)
        _texts(figure, ("before", "after", "untrained", "fixed 2-D sine"), rows, lines)
        return figure


def number_rows(models: Sequence[PositionNumbers], findings: PositionFindings) -> list[tuple[str, list[str]]]:
    """(name, cells) of each number: of the models, of untrained embeddings, of the fixed sine embedding."""
    every = [*models, findings.controls.untrained_mean, findings.controls.sine]
    return [
        (
            NUMBER_NAMES["neighbour_share"],
            [percent(numbers.neighbour_share) for numbers in every],
        ),
        (
            NUMBER_NAMES["distance_correlation"],
            [_correlation(numbers.distance_correlation) for numbers in every],
        ),
        (
            NUMBER_NAMES["additive_share"],
            ["–" if numbers.additive_share is None else percent(numbers.additive_share) for numbers in every],
        ),
    ]


def _correlation(value: float | None) -> str:
    return "–" if value is None else shown_number(value)


def _require_cell(findings: PositionFindings, cell: Cell | None) -> None:
    if cell is not None and not (0 <= cell[0] < findings.rows and 0 <= cell[1] < findings.columns):
        raise ValueError(f"There is no patch {cell} in a grid of {findings.rows} x {findings.columns}.")


def _size(findings: PositionFindings, cell: Cell | None, side: float, gap: int) -> tuple[float, float, int]:
    """Width and height of what is drawn, in inches; and a cell's width as a multiple of the gap between tiles."""
    rows, columns = findings.rows, findings.columns
    repeat = repeats(rows, columns, side * DPI / gap)
    if cell is None:
        wide, high = grid_pixels(rows, columns, repeat, round(side * DPI))
        return wide / DPI, high / DPI, repeat
    one = min(side / max(rows, columns), 0.8)
    return snap_to_pixels(columns * one), snap_to_pixels(rows * one), repeat


def _detail(findings: PositionFindings, cell: Cell | None) -> str:
    size = f"{findings.rows} × {findings.columns} patches, {findings.channels} channels"
    if cell is None:
        return f"{size}   each tile: one patch's similarity with all patches, each at its place in the grid"
    return f"{size}   similarity of the patch in row {cell[0]}, column {cell[1]} (framed) with all patches"


def _heading(figure: Figure, title: str, detail: str) -> None:
    height = figure.get_size_inches()[1]
    room = (figure.get_size_inches()[0] - 2 * MARGIN) / text_size([title], TITLE, weight="bold")[0]
    line = shorten(title, max(10, int(len(title) * min(1.0, 0.95 * room)))) if room < 1 else title
    add_text(figure, MARGIN, height - 0.33, line, fontsize=TITLE, weight="bold")
    add_text(figure, MARGIN, height - 0.53, detail, fontsize=SMALL, color=GREY)


def _draw(axes: Axes, values_RCRC: Floats, cell: Cell | None, repeat: int, colours: Colormap, limit: float) -> None:
    if cell is None:
        draw_positions(axes, values_RCRC, colours=colours, limit=limit, repeat=repeat)
    else:
        draw_cell(axes, values_RCRC[cell], cell, colours=colours, limit=limit)


def _scale(axes: Axes, colours: Colormap, limit: float, label: str, *, upright: bool) -> None:
    """A colour bar from ``-limit`` to ``limit``."""
    ramp = np.linspace(-limit, limit, 511)
    ticks = [-limit, -limit / 2, 0.0, limit / 2, limit]
    names = [f"{tick:z.3g}".replace("-", "−") for tick in ticks]
    if upright:
        axes.imshow(ramp[::-1, None], cmap=colours, aspect="auto", extent=(0, 1, -limit, limit))
        axes.set(xticks=[], yticks=ticks, yticklabels=names)
        axes.yaxis.tick_right()
        axes.set_ylabel(label, rotation=270, fontsize=SMALL, va="bottom", labelpad=8)
        axes.yaxis.set_label_position("right")
    else:
        axes.imshow(ramp[None], cmap=colours, aspect="auto", extent=(-limit, limit, 0, 1))
        axes.set(yticks=[], xticks=ticks, xticklabels=names)
        axes.set_xlabel(label, fontsize=SMALL, labelpad=2)
    axes.tick_params(length=0, pad=4)
    for spine in axes.spines.values():
        spine.set(visible=True, color=HAIRLINE)


def _nice(most: float) -> float:
    """The end of a symmetric scale: a round number that is not much larger than the largest change; 0.01 at least."""
    power = 10.0 ** np.floor(np.log10(max(most, 0.01)))
    return float(next(step * power for step in (1, 1.2, 1.6, 2, 3, 4, 6, 8, 10) if step * power >= most))


def _change_words(before: PositionFindings, after: PositionFindings) -> list[tuple[str, str]]:
    """(words, colour) below the figure of two models."""
    cells = after.rows * after.columns
    change_NN = np.abs(after.similarity_RCRC - before.similarity_RCRC).reshape(cells, cells)
    mean = float(change_NN.sum()) / (cells * (cells - 1))  # a cell's similarity with itself is no news
    notes = [f"Before: {note}" for note in before.notes] + [f"After: {note}" for note in after.notes]
    return [
        (
            f"The similarities of different patches changed by {mean:.2g} on average, {change_NN.max():.2g} at most.",
            INK,
        ),
        (f"After: {after.sentence[0].lower()}{after.sentence[1:]}", INK),
        *((note, GREY) for note in notes),
    ]


def _wrap_texts(texts: Sequence[tuple[str, str]], width: float) -> list[tuple[str, str]]:
    """(line, colour) of (words, colour), as wide as the figure."""
    lines = []
    for words, colour in texts:
        most = int(len(words) * (width - 2 * MARGIN) / text_size([words], LABEL)[0] * 0.95)
        whole = words.replace(" %", "\N{NO-BREAK SPACE}%")
        lines += [(line.replace("\N{NO-BREAK SPACE}", " "), colour) for line in textwrap.wrap(whole, most)]
    return lines


def _text_height(rows: Sequence[object], lines: Sequence[object]) -> float:
    if not rows and not lines:
        return MARGIN
    return _ROW * (len(rows) + 1) + 0.22 + _LINE * len(lines) + MARGIN


def _texts(
    figure: Figure,
    columns: Sequence[str],
    rows: Sequence[tuple[str, list[str]]],
    lines: Sequence[tuple[str, str]],
) -> None:
    """The numbers as a table, then the sentence and the notes, at the foot of the figure."""
    right, top = figure.get_size_inches()[0] - MARGIN, _text_height(rows, lines)
    step = text_size(columns, SMALL)[0] + 0.25
    places = [right - step * (len(columns) - 1 - index) for index in range(len(columns))]
    for across, name in zip(places, columns, strict=True):
        add_text(figure, across, top - 0.62 * _ROW, name, ha="right", fontsize=SMALL, color=GREY)
    for index, (name, cells) in enumerate(rows, start=1):
        up = top - (index + 0.62) * _ROW
        add_text(figure, MARGIN, up, name, fontsize=LABEL)
        for across, cell, column in zip(places, cells, columns, strict=True):
            is_control = column in ("untrained", "fixed 2-D sine")
            add_text(figure, across, up, cell, ha="right", fontsize=LABEL, color=GREY if is_control else INK)
    for index, (line, colour) in enumerate(lines):
        up = top - _ROW * (len(rows) + 1) - 0.22 - _LINE * (index + 0.6)
        add_text(figure, MARGIN, up, line, fontsize=LABEL, color=colour)
