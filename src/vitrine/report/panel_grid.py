"""Where panels of one shape go on a figure, with words above and a colour bar beside them."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from matplotlib.figure import Figure

from vitrine.report.style import (
    DPI,
    GREY,
    MARGIN,
    SMALL,
    TITLE,
    WIDTH,
    extent,
    new_figure,
    shortened,
    write,
)

GAP = 0.12  # inches between panels
BAR = 1.32  # inches that an upright colour bar takes, its numbers and its name included
LINE = 0.165  # inches from one small line of text to the next


def wrapped(words: str, size: float, width: float) -> list[str]:
    """Lines of at most ``width`` inches at a font size in points; a word that is longer is cut."""
    words = " ".join(words.split())
    letters = max(8, int(len(words) * width / max(extent([words], size)[0], 1e-6)))
    while True:
        lines = textwrap.wrap(words, letters)
        if letters <= 8 or extent(lines, size)[0] <= width:
            return lines
        letters -= 1


def titled(words: str, width: float) -> str:
    """A title shortened to a width in inches, supposing broad letters."""
    return shortened(words, max(10, int(width / 0.115)))


@dataclass(frozen=True)
class Grid:
    """Where the parts of a figure of panels are, in inches.

    Attributes:
        figure: with its title, detail and the panels' names written.
        boxes: left, bottom, width and height of each panel.
        bar: foot of the upright colour bar.
        bar_length: its length.
    """

    figure: Figure
    boxes: tuple[tuple[float, float, float, float], ...]
    bar: tuple[float, float]
    bar_length: float


def arranged(
    count: int, aspect: float, most: int, tallest: float, broadest: float = WIDTH
) -> tuple[int, tuple[float, float]]:
    """(columns, (width, height) of a panel): in few rows, unless more rows make the panels clearly larger.

    Args:
        count: panels.
        aspect: their width over their height.
        most: in a row.
        tallest: inches of all rows with the panels' names.
        broadest: inches of one panel.
    """
    best = 0, (0.0, 0.0)
    for rows in range(ceil(count / most), count + 1):
        columns = ceil(count / rows)
        if count < 5 and count % columns:  # few panels leave no gap
            continue
        across = min(broadest, (WIDTH - 2 * MARGIN - BAR) / columns - GAP)
        width = min(across, max(0.1, (tallest + 0.34) / rows - 0.34 - 0.01) * aspect)
        if width > 1.15 * best[1][0]:
            best = columns, (width, width / aspect)
    return best


def grid_width(names: Sequence[str], columns: int, panel: tuple[float, float], least: float = 0.0) -> float:
    """Width of :func:`panel_grid`'s figure."""
    return max(2 * MARGIN + columns * (_cell(names, panel) + GAP) - GAP + BAR, least)


def panel_grid(
    names: Sequence[str],
    columns: int,
    panel: tuple[float, float],
    *,
    title: str,
    detail: str = "",
    below: float = 0.0,
    least: float = 0.0,
) -> Grid:
    """An empty figure for panels in rows, a colour bar to their right, and ``below`` inches for words under them."""
    width = grid_width(names, columns, panel, least)
    lines = [line for part in detail.split("\n") for line in wrapped(part, SMALL, width - 2 * MARGIN)]
    rows, step = ceil(len(names) / columns), _snapped(panel[1]) + 0.34
    top = 0.33 + 0.04 + LINE * len(lines) + 0.32
    length = min(2.4, max(1.2, rows * step - 0.34)) - 0.04
    height = _snapped(top + max(rows * step - 0.34, length + 0.04) + below + MARGIN)
    figure = new_figure(width, height)
    write(figure, MARGIN, height - 0.33, titled(title, width - 2 * MARGIN), fontsize=TITLE, weight="bold")
    for index, line in enumerate(lines):
        write(figure, MARGIN, height - 0.53 - LINE * index, line, fontsize=SMALL, color=GREY)
    boxes = []
    for index, name in enumerate(names):
        left = _snapped(MARGIN + index % columns * (_cell(names, panel) + GAP))
        upper = _snapped(height - top - index // columns * step)
        write(figure, left, upper + 0.07, name, fontsize=SMALL, color=GREY)
        boxes.append((left, upper - _snapped(panel[1]), _snapped(panel[0]), _snapped(panel[1])))
    bar = (MARGIN + columns * (_cell(names, panel) + GAP) + 0.06, height - top - length - 0.04)
    return Grid(figure, tuple(boxes), bar, length)


def _cell(names: Sequence[str], panel: tuple[float, float]) -> float:
    return max(_snapped(panel[0]), extent(names, SMALL)[0])


def _snapped(inches: float) -> float:
    """To whole pixels of the file, so that drawings are not resampled."""
    return max(1, round(inches * DPI)) / DPI
