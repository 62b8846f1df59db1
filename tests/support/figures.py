"""What figures of the tests are made of and measured with."""

from __future__ import annotations

from typing import Any
from unittest import mock

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox
from PIL import Image

from support.paths import TESTS
from vitrine.attribution.placement import Placement
from vitrine.data.transforms import CropGeometry
from vitrine.plotting.style import figure_style


def boxes_of(figure: Figure) -> list[tuple[Text, Bbox]]:
    """Every text that is drawn, with the box that it covers in pixels."""
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    texts: list[Text] = []
    original = Text.draw

    def record_text(text: Text, renderer: Any) -> None:
        texts.append(text)
        original(text, renderer)

    with mock.patch.object(
        Text, "draw", record_text
    ):  # an axis has labels for ticks out of sight, which it never draws
        figure.draw(renderer)
    return [
        (text, text.get_window_extent(renderer)) for text in texts if text.get_visible() and text.get_text().strip()
    ]


def require_tidy(figure: Figure) -> None:
    """All text is inside the canvas, and no two upright texts cover one another."""
    with figure_style():
        boxes = boxes_of(figure)
    width, height = figure.canvas.get_width_height()
    for text, box in boxes:
        inside = box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height
        assert inside, f"{text.get_text()!r} at {box} is outside {width} x {height}"
    upright = [(text, box) for text, box in boxes if text.get_rotation() % 90 == 0]
    for i, (text, box) in enumerate(upright):
        for other, its in upright[:i]:
            across = min(box.x1, its.x1) - max(box.x0, its.x0)
            up = min(box.y1, its.y1) - max(box.y0, its.y0)
            assert across <= 1 or up <= 1, f"{text.get_text()!r} covers {other.get_text()!r}"


def lightness(colour: tuple[float, ...]) -> float:
    """CIE L* of an sRGB colour, 0 to 100."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour[:3]]
    luminance = float(np.dot([0.2126, 0.7152, 0.0722], linear))
    return 116 * luminance ** (1 / 3) - 16 if luminance > 0.008856 else 903.3 * luminance


GOLDEN = TESTS / "golden"


def photo(width: int, height: int) -> np.ndarray:
    """A smooth picture with a bright disc, uint8 (H, W, 3)."""
    y_H1, x_W = np.arange(height)[:, None] / height, np.arange(width) / width
    disc_HW = (x_W - 0.5) ** 2 * (width / height) ** 2 + (y_H1 - 0.45) ** 2 < 0.06
    planes = (90 + 100 * x_W + 0 * y_H1, 150 - 70 * y_H1 + 0 * x_W, 60 + 60 * (x_W + y_H1))
    return np.where(disc_HW[..., None], (235, 225, 190), np.stack(planes, axis=-1)).astype(np.uint8)


def place_grid(width: int, height: int, rows: int, columns: int, crop: float = 0.9) -> Placement:
    """The middle of a picture, ``crop`` of its short side."""
    short = min(width, height)
    side = round(short * crop)
    return Placement(
        CropGeometry(width, height, width, height, (width - side) // 2, (height - side) // 2, side, side), rows, columns
    )


def blob(rows: int, columns: int, down: float = 0.4, across: float = 0.5, broad: float = 0.17) -> np.ndarray:
    """A map of mean 1."""
    r_R1, c_C = (np.arange(rows)[:, None] + 0.5) / rows, (np.arange(columns) + 0.5) / columns
    scores_RC = 0.2 + np.exp(-((r_R1 - down) ** 2 + (c_C - across) ** 2) / 2 / broad**2)
    return (scores_RC / scores_RC.mean()).astype(np.float32)


def words_of(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def axes_pixels(axes: Axes) -> np.ndarray:
    """What an image shows: colours from 0 to 1, or its values."""
    pixels = np.asarray(axes.images[0].get_array())
    return pixels / 255 if pixels.dtype == np.uint8 else pixels


def half_size(figure: Figure) -> np.ndarray:
    """What is drawn, at half the size of the file: uint8 (H, W, 3)."""
    canvas = figure.canvas
    assert isinstance(canvas, FigureCanvasAgg)
    with figure_style():
        canvas.draw()
    whole = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    return np.asarray(whole.reduce(2))


def differs(drawing: np.ndarray, golden: np.ndarray) -> str:
    """How two pictures differ, or nothing. Letters may differ a little with the version of FreeType."""
    if drawing.shape != golden.shape:
        return f"its size is {drawing.shape}, not {golden.shape}"
    apart_HW = np.abs(drawing.astype(int) - golden).max(axis=2)
    mean, share = float(apart_HW.mean()), float((apart_HW > 40).mean())
    return f"mean difference {mean:.2f}, {share:.2%} of the pixels by more than 40" if mean > 1 or share > 0.005 else ""
