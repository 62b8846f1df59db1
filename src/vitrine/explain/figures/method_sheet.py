"""A sheet of methods: pictures are rows, methods are columns, and all maps have one scale."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from vitrine.explain.figures.contact_sheet import LabelLine, answer_lines, write_lines
from vitrine.explain.figures.map import MapPicture
from vitrine.plotting.colormap import Scale, colour_bar
from vitrine.plotting.heads import describe_marks
from vitrine.plotting.overlay import draw_overlay, draw_photo
from vitrine.plotting.style import (
    GREY,
    INK,
    LINE,
    MARGIN,
    SMALL,
    TITLE,
    WIDTH,
    add_axes,
    add_text,
    figure_style,
    fit_title,
    new_figure,
    shorten,
    snap_to_pixels,
    text_size,
    wrap_text,
)

PICTURES_A_SHEET = 12
"""Rows of a sheet."""

_NARROWEST, _BROADEST, _BETWEEN = 0.86, 1.6, 0.07  # inches of a column, and between two
_PHOTO = 1.3  # times as broad: its label is longer
_TALLEST = 1.3  # times as high as broad: taller pictures become narrower
_BAR, _BAR_ENDS = 1.5, 0.85  # length of a colour bar, and what a number beside its arrow takes
_TOP, _BARS = 0.53, 0.62  # to the first line of words, and what colour bars take with their numbers
_SIGNED = "multiple of mean size"

Floats = npt.NDArray[np.floating]


@dataclass(frozen=True)
class SheetColumn:
    """A method of a sheet.

    Attributes:
        name: as it was asked for.
        is_signed: whether its scores may be negative.
    """

    name: str
    is_signed: bool


def method_sheet(
    rows: Sequence[Sequence[MapPicture]], columns: Sequence[SheetColumn], high: float, *, title: str, detail: str = ""
) -> Figure:
    """Photographs with their maps by several methods, a row a photograph and a column a method.

    Every map is in multiples of the mean size of its own scores (:func:`vitrine.attribution.maps.mean_size_multiples`),
    and the colours of all end at one multiple, so that what is strong in one map is as strong in its neighbour.

    Args:
        rows: of each photograph a map a column, in the columns' order; one row at least. A map's ``flag`` stands under
            it.
        columns: the methods.
        high: where the colours end, in multiples.
        title: at the top.
        detail: in grey below it.
    """
    with figure_style():
        sizes = _Sizes.of(rows, columns)
        scales = [Scale("lost", high, _SIGNED) if each.is_signed else Scale("uniform", high) for each in columns]
        lines = _words(rows, columns, scales, detail, sizes.width - 2 * MARGIN)
        names = [_wrap_name(each.name, sizes.across) for each in columns]
        upper = _TOP + LINE * len(lines) + _BARS + LINE * max(map(len, names))  # of the first row, from the top
        height = snap_to_pixels(upper + sum(sizes.heights) + MARGIN)
        figure = new_figure(sizes.width, height)
        add_text(
            figure, MARGIN, height - 0.33, fit_title(title, sizes.width - 2 * MARGIN), fontsize=TITLE, weight="bold"
        )
        for index, line in enumerate(lines):
            add_text(figure, MARGIN, height - _TOP - LINE * index, line, fontsize=SMALL, color=GREY)
        _draw_bars(figure, rows, scales, height - _TOP - LINE * len(lines) - 0.3)
        upper = height - upper
        _write_names(figure, names, upper, sizes)
        for row, tall in zip(rows, sizes.heights, strict=True):
            _draw_row(figure, row, scales, upper, sizes)
            upper -= tall
        return figure


@dataclass(frozen=True)
class _Sizes:
    """Inches: of a method's column, of the photographs', of every row with its labels, and of the whole."""

    across: float
    photo: float
    heights: tuple[float, ...]
    width: float

    @classmethod
    def of(cls, rows: Sequence[Sequence[MapPicture]], columns: Sequence[SheetColumn]) -> _Sizes:
        room = WIDTH - 2 * MARGIN - _BETWEEN * len(columns)
        across = snap_to_pixels(min(_BROADEST, max(_NARROWEST, room / (len(columns) + _PHOTO))))
        photo = snap_to_pixels(_PHOTO * across)
        width = max(WIDTH, 2 * MARGIN + photo + len(columns) * (across + _BETWEEN))
        labels = [LINE * max(1, len(_label(row))) + 0.16 for row in rows]
        drawings = [_drawing_size(row[0], across)[1] for row in rows]
        heights = tuple(snap_to_pixels(sum(both)) for both in zip(drawings, labels, strict=True))
        return cls(across, photo, heights, snap_to_pixels(width))

    def left(self, column: int) -> float:
        return snap_to_pixels(MARGIN + self.photo + _BETWEEN + column * (self.across + _BETWEEN))


def _drawing_size(picture: MapPicture, box: float) -> tuple[float, float]:
    """Width and height of a drawing, whole pixels."""
    aspect = picture.placement.geometry.width / picture.placement.geometry.height
    width = min(box, box * _TALLEST * aspect)
    return snap_to_pixels(width), snap_to_pixels(width / aspect)


def _words(
    rows: Sequence[Sequence[MapPicture]],
    columns: Sequence[SheetColumn],
    scales: Sequence[Scale],
    detail: str,
    room: float,
) -> list[str]:
    """What a sheet says of all its maps, in lines."""
    meaning = ["Each map is in multiples of the mean size of its own scores; 1 is uniform where none is negative."]
    if any(column.is_signed for column in columns):
        meaning.append(
            "Where scores have signs, purple is above 0, gold below, and under a map stands what 1 is: "
            "a part of a probability (p) or of a logit."
        )
    ends = Scale("lost", scales[0].high).describe_end([each.map_RC for row in rows for each in row])  # of all together
    marks = describe_marks(any(row[0].placement.visible_share < 1 - 1e-6 for row in rows), False)
    parts = (detail, " ".join(meaning), " ".join(ends), *marks)
    return [line for part in parts if part for line in wrap_text(part, SMALL, room)]


def _write_names(figure: Figure, names: Sequence[Sequence[str]], upper: float, sizes: _Sizes) -> None:
    """The methods' names over their columns; all end on one line."""
    for column, words in enumerate(names):
        for index, word in enumerate(reversed(words)):
            add_text(figure, sizes.left(column), upper + 0.06 + LINE * index, word, fontsize=SMALL, color=INK)


def _maps_by_scale(rows: Sequence[Sequence[MapPicture]], scales: Sequence[Scale]) -> list[tuple[Scale, list[Floats]]]:
    """Each scale once, with the maps that are drawn with it."""
    return [
        (scale, [row[column].map_RC for row in rows for column, own in enumerate(scales) if own == scale])
        for scale in dict.fromkeys(scales)
    ]


def _draw_bars(figure: Figure, rows: Sequence[Sequence[MapPicture]], scales: Sequence[Scale], foot: float) -> None:
    """A level colour bar a scale, beside one another."""
    left = MARGIN
    for scale, maps in _maps_by_scale(rows, scales):
        left += _BAR_ENDS if scale.kind == "lost" else 0.0  # what a number beside its lower arrow takes
        colour_bar(figure, scale, maps, (left, foot), _BAR, level=True)
        left += _BAR + _BAR_ENDS + 0.2


def _label(row: Sequence[MapPicture]) -> list[LabelLine]:
    """What stands under the photograph: the answer, the truth where it is another, and the file."""
    return answer_lines(replace(row[0], flag=""), is_alone=True)


def _draw_row(figure: Figure, row: Sequence[MapPicture], scales: Sequence[Scale], upper: float, sizes: _Sizes) -> None:
    """A photograph with its label, and its maps, each with its own words under it."""
    first, (width, height) = row[0], _drawing_size(row[0], sizes.across)
    foot = snap_to_pixels(upper - height)
    draw_photo(add_axes(figure, MARGIN, foot, width, height), first.photo_HWC, first.placement)
    write_lines(figure, _label(row), MARGIN, foot, sizes.photo)
    for column, (picture, scale) in enumerate(zip(row, scales, strict=True)):
        left = sizes.left(column)
        axes = add_axes(figure, left, foot, width, height)
        draw_overlay(
            axes,
            picture.photo_HWC,
            picture.map_RC,
            picture.placement,
            scale,
            smooth=picture.smooth,
            contour=picture.contour,
        )
        write_lines(figure, [("", picture.flag, "", GREY)], left, foot, sizes.across)


def _wrap_name(name: str, room: float) -> list[str]:
    """A method's name in lines that fit a column: broken after its hyphens, colons and dots, and before capitals."""
    parts = [word for part in re.split(r"(?<=[-:._])", name) for word in re.split(r"(?<=[a-z0-9])(?=[A-Z])", part)]
    lines = [""]
    for part in filter(None, parts):
        if lines[-1] and text_size([lines[-1] + part], SMALL)[0] > room:
            lines.append("")
        lines[-1] += part
    letters = max(4, int(room / 0.07))
    return [line if text_size([line], SMALL)[0] <= room else shorten(line, letters) for line in lines]
