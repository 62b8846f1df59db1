"""The classes of a training's data: how many pictures each has, and what some of them look like."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from matplotlib.figure import Figure

from vitrine.plotting.style import ACCENT, EMPTY, GREY, HAIRLINE, MARGIN, SMALL, WIDTH, figure_style, text_size
from vitrine.results import count_of
from vitrine.train.figures.batch import fit_words
from vitrine.train.figures.mosaic import Mosaic, Pixels, centre_square

MOST_CLASSES = 48
"""Classes on the figure: of more, those with the most and with the fewest training pictures."""

EXAMPLES = 3
"""Pictures of each class."""

_THUMBNAIL, _ROW = 0.46, 0.54
_BETWEEN = 0.3  # inches between two columns of classes


@dataclass(frozen=True)
class ClassRow:
    """One class: its name, its pictures in training and in validation, and a few of the former."""

    label: str
    train: int
    validation: int
    examples: tuple[Pixels, ...]


def choose_classes(counts: Sequence[int]) -> list[int]:
    """Which classes are drawn, those with the most pictures first; of many, the first and the last of that order."""
    order = sorted(range(len(counts)), key=lambda number: (-counts[number], number))
    half = MOST_CLASSES // 2
    return order if len(order) <= MOST_CLASSES else [*order[:half], *order[-half:]]


def classes_figure(rows: Sequence[ClassRow], classes: int, *, noun: str = "classes", first: int = 0) -> Figure:
    """A row a class: name, examples, a bar of its training pictures, and both numbers: ``795 + 81``.

    Args:
        rows: the classes that are drawn, those with the most pictures first.
        classes: how many there are.
        noun: what they are called.
        first: of data without an end, how many pictures were counted; 0 of other data.
    """
    columns = 1 if len(rows) <= 8 else 2
    width = (WIDTH - 2 * MARGIN + _BETWEEN) / columns - _BETWEEN
    most, fewest = max(each.train for each in rows), min(each.train for each in rows)
    details = [
        f"Of each {EXAMPLES} training pictures (their middle), a bar of how many there are, and their number + that of "
        "the validation pictures.",
        f"The largest has {count_of(most, 'training picture')}, the smallest {fewest:,}"
        + (f": {most / fewest:.3g} times fewer." if 0 < fewest < most else "."),
    ]
    if first:
        details.append(f"The data have no end: counted are the first {count_of(first, 'training picture')}.")
    if len(rows) < classes:
        half = len(rows) // 2
        details.append(f"Of {classes:,} {noun} these are the {half} with the most and the {half} with the fewest.")
    with figure_style():
        down = ceil(len(rows) / columns)
        mosaic = Mosaic(down * _ROW, f"The data: {classes:,} {noun}", details)
        for number, row in enumerate(rows):
            column, line = divmod(number, down)
            _row(mosaic, row, MARGIN + column * (width + _BETWEEN), line * _ROW, width, most)
        return mosaic.finish()


def _row(mosaic: Mosaic, row: ClassRow, left: float, top: float, width: float, most: int) -> None:
    counts = f"{row.train:,} + {row.validation:,}"
    name = 0.26 * width
    mosaic.write(fit_words(row.label, name - 0.08), left, top + _THUMBNAIL / 2 + 0.04)
    at = left + name
    for number in range(EXAMPLES):
        place = (at + number * (_THUMBNAIL + 0.04), top, _THUMBNAIL, _THUMBNAIL)
        if number < len(row.examples):
            mosaic.paste(centre_square(row.examples[number]), *place)
        else:
            mosaic.fill(EMPTY, *place)
    at += EXAMPLES * (_THUMBNAIL + 0.04) + 0.08
    room = left + width - at - max(text_size([counts], SMALL)[0], 0.62) - 0.08
    length = room * row.train / max(1, most)
    mosaic.fill(HAIRLINE, at, top + _THUMBNAIL / 2 - 0.07, room, 0.14)
    if row.train:
        mosaic.fill(ACCENT, at, top + _THUMBNAIL / 2 - 0.07, max(length, 0.02), 0.14)
    mosaic.write(counts, at + room + 0.08, top + _THUMBNAIL / 2 + 0.04, color=GREY)
