"""The first batch of a training as the model is fed it: after every random change, with labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from matplotlib.figure import Figure

from vitrine.plotting.style import GREY, LINE, MARGIN, SMALL, WIDTH, figure_style, shorten, text_size
from vitrine.results import count_of
from vitrine.train.figures.mosaic import Mosaic, Pixels, fit_box

_COLUMNS, _GAP = 8, 0.1
_MOST = 32


@dataclass(frozen=True)
class LabelledPixels:
    """A picture as a model is fed it, before it is normalised, and what it is labelled."""

    pixels_HWC: Pixels
    label: str


def batch_figure(pictures: Sequence[LabelledPixels], details: Sequence[str]) -> Figure:
    """Up to 32 pictures of a batch in rows of eight, each with its label below it.

    Args:
        pictures: of the batch.
        details: sentences on what was done to them.
    """
    shown_pictures = pictures[:_MOST]
    columns = min(_COLUMNS, max(4, ceil(len(shown_pictures) / 2)))
    across = min(1.6, (WIDTH - 2 * MARGIN + _GAP) / columns - _GAP)
    rows, columns_px = shown_pictures[0].pixels_HWC.shape[:2]
    cell = across * rows / columns_px
    step = cell + LINE + 0.1
    count = (
        count_of(len(shown_pictures), "picture")
        if len(shown_pictures) == len(pictures)
        else f"{len(shown_pictures)} of {count_of(len(pictures), 'picture')}"
    )
    with figure_style():
        mosaic = Mosaic(
            ceil(len(shown_pictures) / columns) * step - 0.06,
            f"What the model is fed: {count} of the first batch",
            details,
        )
        for number, each in enumerate(shown_pictures):
            row, column = divmod(number, columns)
            left, top = MARGIN + column * (across + _GAP), row * step
            width, height = fit_box(each.pixels_HWC, across, cell)
            mosaic.paste(each.pixels_HWC, left, top, width, height)
            mosaic.write(fit_words(each.label, across), left, top + cell + LINE - 0.02, color=GREY)
        return mosaic.finish()


def fit_words(words: str, width: float) -> str:
    """A label cut in its middle so that it fits a width in inches."""
    line = " ".join(words.split())
    for letters in range(len(line), 3, -1):
        if text_size([shorten(line, letters)], SMALL)[0] <= width:
            return shorten(line, letters)
    return line[:3]
