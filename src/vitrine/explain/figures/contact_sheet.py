"""Contact sheets: many pictures with their maps on one figure, or on several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from vitrine.explain.figures.map import WRONG, MapPicture
from vitrine.io.file_names import beside
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
    save,
    shorten,
    text_size,
    wrap_text,
)
from vitrine.results import count_of, percent

A_SHEET = 60
"""Most pictures on a sheet."""

_ALONE, _PAIRS = 6, 4  # cells in a row: overlays, and photographs with their overlays
_BETWEEN, _WITHIN = 0.2, 0.04  # inches between cells, and between photograph and overlay
_BAR, _BAR_ENDS = 1.8, 0.85  # length of the colour bar, and what a number beside its arrow takes
_TALLEST = 1.05  # times as high as broad: taller pictures become narrower


def save_contact_sheets(
    pictures: Sequence[MapPicture],
    scale: Scale,
    path: Path,
    metadata: Mapping[str, str],
    *,
    title: str = "",
    detail: str = "",
    pairs: bool = True,
) -> list[Path]:
    """Write contact sheets of at most :data:`A_SHEET` pictures each, in the order given, as PNG or SVG.

    Args:
        pictures: one at least; :meth:`MapPicture.with_smaller_photo` keeps many of them small in memory.
        scale: of all of them.
        path: of the first sheet; the second one of ``maps.png`` is ``maps-2.png``.
        metadata: see :func:`vitrine.plotting.style.save`; every sheet has the same.
        title: by default the number of pictures.
        detail: in grey below it, for example the method.
        pairs: photograph and overlay side by side; otherwise overlays alone.

    Returns:
        What was written.

    Raises:
        ValueError: there is no picture, or the path has another ending.
    """
    if not pictures:
        raise ValueError("A contact sheet needs one picture at least.")
    sheets = [pictures[start : start + A_SHEET] for start in range(0, len(pictures), A_SHEET)]
    title = title or count_of(len(pictures), "picture")
    return [
        save_contact_sheet(
            sheet,
            scale,
            path,
            metadata,
            place=(number, len(sheets)),
            title=title,
            detail=detail,
            pairs=pairs,
            all_maps=pictures,
        )
        for number, sheet in enumerate(sheets, start=1)
    ]


def save_contact_sheet(
    sheet: Sequence[MapPicture],
    scale: Scale,
    path: Path,
    metadata: Mapping[str, str],
    *,
    place: tuple[int, int],
    title: str,
    detail: str = "",
    pairs: bool = True,
    all_maps: Sequence[MapPicture] = (),
) -> Path:
    """Write one of several sheets, where the pictures of the others are not in memory.

    Args:
        sheet: its pictures.
        scale: of all of them.
        path: of the first sheet.
        metadata: see :func:`vitrine.plotting.style.save`.
        place: the sheet's number from 1, and how many there will be.
        title: see :func:`contact_sheet`.
        detail: likewise.
        pairs: likewise.
        all_maps: likewise.

    Returns:
        What was written.
    """
    number, count = place
    where = f"sheet {number} of {count}" if count > 1 else ""
    detail = " · ".join(filter(None, (detail, where)))
    figure = contact_sheet(sheet, scale, title=title, detail=detail, pairs=pairs, all_maps=all_maps)
    target = path if number == 1 else sheet_path(path, number)
    save(figure, target, metadata)
    return target


def sheet_path(path: Path, number: int) -> Path:
    """The path of a further sheet: ``maps-2.png`` of ``maps.png``."""
    return beside(path, f"-{number}{path.suffix}", keep_ending=False)


def contact_sheet(
    pictures: Sequence[MapPicture],
    scale: Scale,
    *,
    title: str,
    detail: str = "",
    pairs: bool = True,
    all_maps: Sequence[MapPicture] = (),
) -> Figure:
    """One sheet: pictures in rows, each with its label below, and one colour bar for all.

    Args:
        pictures: one at least.
        scale: of all of them.
        title: at the top.
        detail: in grey below it.
        pairs: photograph and overlay side by side; otherwise overlays alone.
        all_maps: pictures of all sheets, whose largest value the colour bar names; by default this one's.
    """
    with figure_style():
        cells = _cells(pictures, pairs)
        marks = describe_marks(
            any(each.placement.visible_share < 1 - 1e-6 for each in pictures),
            any(each.outlier_patches for each in pictures),
        )
        room = cells.width - 2 * MARGIN - _BAR - _BAR_ENDS - 0.3
        lines = [line for part in (detail, *scale.warnings, *marks) for line in wrap_text(part, SMALL, room)]
        top = 0.33 + 0.2 + LINE * max(2, len(lines)) + 0.12
        height = top + sum(cells.heights) + MARGIN - 0.1
        figure = new_figure(cells.width, height)
        add_text(figure, MARGIN, height - 0.33, fit_title(title, room), fontsize=TITLE, weight="bold")
        for index, line in enumerate(lines):
            add_text(figure, MARGIN, height - 0.53 - LINE * index, line, fontsize=SMALL, color=GREY)
        at = (cells.width - MARGIN - _BAR_ENDS - _BAR, height - 0.54)
        colour_bar(figure, scale, [each.map_RC for each in all_maps or pictures], at, _BAR, level=True)
        for index, picture in enumerate(pictures):
            row, column = divmod(index, cells.columns)
            left = MARGIN + column * (cells.across + _BETWEEN)
            foot = height - top - sum(cells.heights[: row + 1]) + _LABEL
            _cell(figure, picture, scale, left, foot, cells, pairs)
        return figure


_LABEL = 2 * LINE + 0.2  # under a picture: two lines and air


@dataclass(frozen=True)
class _Cells:
    """Sizes in inches: of a cell, of the box that each drawing has to fit in, of every row with its labels."""

    columns: int
    across: float
    box: float
    heights: tuple[float, ...]
    width: float


def _cells(pictures: Sequence[MapPicture], pairs: bool) -> _Cells:
    most = _PAIRS if pairs else _ALONE
    columns = min(most, len(pictures)) if len(pictures) > 3 else max(2, len(pictures))
    across = (WIDTH - 2 * MARGIN + _BETWEEN) / columns - _BETWEEN
    box = (across - _WITHIN) / 2 if pairs else across
    heights = [
        max(_drawing_size(each, box)[1] for each in pictures[start : start + columns]) + _LABEL
        for start in range(0, len(pictures), columns)
    ]
    return _Cells(columns, across, box, tuple(heights), WIDTH)


def _drawing_size(picture: MapPicture, box: float) -> tuple[float, float]:
    """Width and height of a drawing."""
    geometry = picture.placement.geometry
    aspect = geometry.width / geometry.height
    width = min(box, box * _TALLEST * aspect)
    return width, width / aspect


def _cell(
    figure: Figure, picture: MapPicture, scale: Scale, left: float, foot: float, cells: _Cells, pairs: bool
) -> None:
    width, height = _drawing_size(picture, cells.box)
    if pairs:
        draw_photo(add_axes(figure, left, foot, width, height), picture.photo_HWC, picture.placement)
    at = left + (width + _WITHIN if pairs else 0)
    draw_overlay(
        add_axes(figure, at, foot, width, height),
        picture.photo_HWC,
        picture.map_RC,
        picture.placement,
        scale,
        smooth=picture.smooth,
        outlines=picture.outlier_patches,
    )
    _labels(figure, picture, left, foot, cells.across)


def _labels(figure: Figure, picture: MapPicture, left: float, foot: float, room: float) -> None:
    """The predicted label with its probability, and below it what it should have been, or else the picture's name."""
    has_true_label, wrong = picture.true is not None, picture.predicted and picture.predicted != picture.true
    chance = "" if picture.probability is None else f"  {percent(picture.probability)}"
    after = chance + ("" if wrong or not has_true_label else "  ✓") if picture.predicted else ""
    add_text(figure, left, foot - LINE, _cut("", picture.predicted or picture.name, after, room), fontsize=SMALL)
    if has_true_label and (wrong or not picture.predicted):
        words, colour = _cut("✗ true: " if wrong else "true: ", str(picture.true), "", room), WRONG if wrong else INK
    else:
        words, colour = _cut("", picture.name if picture.predicted else "", "", room), GREY
    add_text(figure, left, foot - 2 * LINE, words, fontsize=SMALL, color=colour)


def _cut(before: str, label: str, after: str, width: float) -> str:
    """Words in a line, the label among them shortened until they fit a width in inches."""
    most = len(label)
    while True:
        words = f"{before}{shorten(label, most)}{after}"
        across = text_size([words], SMALL)[0]
        if across <= width or most <= 3:
            return words
        most = max(3, min(most - 1, most - int((across - width) / 0.08)))
