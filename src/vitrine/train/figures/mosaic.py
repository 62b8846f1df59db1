"""Many small pictures on one figure: they are put together as pixels, and written as a single image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from vitrine.plotting.style import (
    DPI,
    GREY,
    LINE,
    MARGIN,
    SMALL,
    TITLE,
    WIDTH,
    add_text,
    fit_title,
    new_figure,
    wrap_text,
)

Pixels = npt.NDArray[np.uint8]
"""A picture: uint8, (H, W, 3)."""


class Mosaic:
    """A figure with a title, grey lines below it, and pictures at places in inches from the upper left of its body.

    Args:
        body_height: inches below the title and its lines.
        title: in bold.
        details: in grey below; each begins a line.
    """

    def __init__(self, body_height: float, title: str, details: Sequence[str]) -> None:
        lines = [line for part in details for line in wrap_text(part, SMALL, WIDTH - 2 * MARGIN)]
        self._top = 0.53 + LINE * len(lines) + 0.08
        self.height = round((self._top + body_height + MARGIN) * DPI) / DPI
        self.figure: Figure = new_figure(WIDTH, self.height)
        add_text(
            self.figure, MARGIN, self.height - 0.33, fit_title(title, WIDTH - 2 * MARGIN), fontsize=TITLE, weight="bold"
        )
        for number, line in enumerate(lines):
            add_text(self.figure, MARGIN, self.height - 0.53 - LINE * number, line, fontsize=SMALL, color=GREY)
        self._canvas: Pixels = np.full((round(self.height * DPI), round(WIDTH * DPI), 3), 255, dtype=np.uint8)

    def paste(self, pixels_HWC: Pixels, left: float, top: float, width: float, height: float) -> None:
        """A picture in a box of inches; where it is magnified, its own pixels stay to be seen."""
        rows, columns = self._rows_and_columns(left, top, width, height)
        size = (columns.stop - columns.start, rows.stop - rows.start)
        is_magnified = size[0] > 2 * pixels_HWC.shape[1]
        filter_ = Image.Resampling.NEAREST if is_magnified else Image.Resampling.LANCZOS
        self._canvas[rows, columns] = np.asarray(Image.fromarray(pixels_HWC).resize(size, filter_))

    def fill(self, colour: str, left: float, top: float, width: float, height: float) -> None:
        """A rectangle of one colour."""
        rows, columns = self._rows_and_columns(left, top, width, height)
        self._canvas[rows, columns] = np.round(255 * np.array(to_rgb(colour)))

    def outline(self, colour: str, left: float, top: float, width: float, height: float, line: float = 0.012) -> None:
        """The edge of a rectangle, inside of it."""
        for box in (
            (left, top, width, line),
            (left, top + height - line, width, line),
            (left, top, line, height),
            (left + width - line, top, line, height),
        ):
            self.fill(colour, *box)

    def write(self, words: str, left: float, top: float, **look: Any) -> None:
        """Text whose baseline is at ``top``."""
        add_text(self.figure, left, self.height - self._top - top, words, **({"fontsize": SMALL} | look))

    def finish(self) -> Figure:
        """The figure with everything on it."""
        axes = self.figure.add_axes((0.0, 0.0, 1.0, 1.0), zorder=-1)
        axes.imshow(self._canvas, aspect="auto", interpolation="nearest")
        axes.set_axis_off()
        return self.figure

    def _rows_and_columns(self, left: float, top: float, width: float, height: float) -> tuple[slice, slice]:
        first, start = round((self._top + top) * DPI), round(left * DPI)
        return slice(first, first + max(1, round(height * DPI))), slice(start, start + max(1, round(width * DPI)))


def fit_box(pixels_HWC: Pixels, width: float, height: float) -> tuple[float, float]:
    """Width and height in inches of a picture that keeps its shape inside a box."""
    rows, columns = pixels_HWC.shape[:2]
    scale = min(width / columns, height / rows)
    return max(columns * scale, 0.02), max(rows * scale, 0.02)


def centre_square(pixels_HWC: Pixels) -> Pixels:
    """The largest square in the middle of a picture."""
    rows, columns = pixels_HWC.shape[:2]
    side = min(rows, columns)
    top, left = (rows - side) // 2, (columns - side) // 2
    return pixels_HWC[top : top + side, left : left + side]
