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
    snap_to_pixels,
    text_size,
    wrap_text,
)
from vitrine.results import count_of, percent

A_SHEET = 60
"""Most pictures on a sheet."""

_DRAWINGS = 8  # photographs and overlays in a row
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
    maps_each: int = 1,
) -> list[Path]:
    """Write contact sheets of at most :data:`A_SHEET` pictures each, in the order given, as PNG or SVG.

    Args:
        pictures: one at least; :meth:`MapPicture.with_smaller_photo` keeps many of them small in memory.
        scale: of all of them.
        path: of the first sheet; the second one of ``maps.png`` is ``maps-2.png``.
        metadata: see :func:`vitrine.plotting.style.save`; every sheet has the same.
        title: by default the number of pictures.
        detail: in grey below it, for example the method.
        maps_each: how many of them in turn are maps of one photograph, which is drawn once, before them.

    Returns:
        What was written.

    Raises:
        ValueError: there is no picture, or the path has another ending.
    """
    if not pictures:
        raise ValueError("A contact sheet needs one picture at least.")
    most = A_SHEET // maps_each * maps_each
    sheets = [pictures[start : start + most] for start in range(0, len(pictures), most)]
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
            maps_each=maps_each,
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
    maps_each: int = 1,
    all_maps: Sequence[MapPicture] = (),
) -> Path:
    """Write one of several sheets, where the pictures of the others are not in memory.

    Args:
        sheet: its pictures.
        scale: of all of them.
        path: of the first sheet.
        metadata: see :func:`vitrine.plotting.style.save`.
        place: the sheet's number from 1, and how many there will be; 0 where that is not known.
        title: see :func:`contact_sheet`.
        detail: likewise.
        maps_each: likewise.
        all_maps: likewise.

    Returns:
        What was written.
    """
    number, count = place
    where = "" if count == 1 else f"sheet {number} of {count}" if count else f"sheet {number}"
    detail = " · ".join(filter(None, (detail, where)))
    figure = contact_sheet(sheet, scale, title=title, detail=detail, maps_each=maps_each, all_maps=all_maps)
    target = sheet_path(path, number)
    save(figure, target, metadata)
    return target


def sheet_path(path: Path, number: int) -> Path:
    """The path of a sheet: the first is ``maps.png`` itself, the second ``maps-2.png``."""
    return path if number == 1 else beside(path, f"-{number}{path.suffix}", keep_ending=False)


def contact_sheet(
    pictures: Sequence[MapPicture],
    scale: Scale,
    *,
    title: str,
    detail: str = "",
    maps_each: int = 1,
    all_maps: Sequence[MapPicture] = (),
) -> Figure:
    """One sheet: pictures in rows, each with its label below, and one colour bar for all.

    Args:
        pictures: one at least.
        scale: of all of them.
        title: at the top.
        detail: in grey below it.
        maps_each: how many of them in turn are maps of one photograph, which is drawn once, before them.
        all_maps: pictures of all sheets, whose largest value the colour bar names; by default this one's.
    """
    with figure_style():
        groups = [pictures[start : start + maps_each] for start in range(0, len(pictures), maps_each)]
        cells = _cells(groups)
        marks = describe_marks(
            any(each.placement.visible_share < 1 - 1e-6 for each in pictures),
            any(each.outlier_patches for each in pictures),
            pictures[0].query,
        )
        maps = [each.map_RC for each in all_maps or pictures]
        room = cells.width - 2 * MARGIN - _BAR - _BAR_ENDS - 0.3
        parts = (detail, *scale.warnings, *scale.describe_end(maps), *marks)
        lines = [line for part in parts for line in wrap_text(part, SMALL, room)]
        top = 0.33 + 0.2 + LINE * max(2, len(lines)) + 0.12
        height = snap_to_pixels(top + sum(cells.heights) + MARGIN - 0.1)
        figure = new_figure(cells.width, height)
        add_text(figure, MARGIN, height - 0.33, fit_title(title, room), fontsize=TITLE, weight="bold")
        for index, line in enumerate(lines):
            add_text(figure, MARGIN, height - 0.53 - LINE * index, line, fontsize=SMALL, color=GREY)
        at = (cells.width - MARGIN - _BAR_ENDS - _BAR, height - 0.54)
        colour_bar(figure, scale, maps, at, _BAR, level=True)
        for index, group in enumerate(groups):
            row, column = divmod(index, cells.columns)
            left = snap_to_pixels(MARGIN + column * (cells.across + _BETWEEN))
            foot = snap_to_pixels(height - top - sum(cells.heights[: row + 1]) + cells.label)
            _cell(figure, group, scale, left, foot, cells)
        return figure


@dataclass(frozen=True)
class _Cells:
    """Sizes in inches: of a cell, of the box that each drawing has to fit in, of every row with its labels."""

    columns: int
    across: float
    box: float
    label: float
    heights: tuple[float, ...]
    width: float


def _cells(groups: Sequence[Sequence[MapPicture]]) -> _Cells:
    drawings = 1 + max(map(len, groups))
    most = max(1, _DRAWINGS // drawings)
    columns = min(most, len(groups)) if len(groups) > 3 else min(most, max(2, len(groups)))
    across = (WIDTH - 2 * MARGIN + _BETWEEN) / columns - _BETWEEN
    box = min(1.9, (across - _WITHIN * (drawings - 1)) / drawings)
    label = 0.2 + LINE * max(len(answer_lines(each, len(group) == 1)) for group in groups for each in group)
    heights = [
        max(_drawing_size(each, box)[1] for group in groups[start : start + columns] for each in group) + label
        for start in range(0, len(groups), columns)
    ]
    return _Cells(columns, across, box, label, tuple(heights), WIDTH)


def _drawing_size(picture: MapPicture, box: float) -> tuple[float, float]:
    """Width and height of a drawing, whole pixels."""
    geometry = picture.placement.geometry
    aspect = geometry.width / geometry.height
    width = min(box, box * _TALLEST * aspect)
    return snap_to_pixels(width), snap_to_pixels(width / aspect)


def _cell(figure: Figure, group: Sequence[MapPicture], scale: Scale, left: float, foot: float, cells: _Cells) -> None:
    """The photograph, then its maps; one map's label lies under both, and of several each has its own."""
    width, height = _drawing_size(group[0], cells.box)
    draw_photo(add_axes(figure, left, foot, width, height), group[0].photo_HWC, group[0].placement)
    for index, picture in enumerate(group):
        at = snap_to_pixels(left + ((width if len(group) == 1 else cells.box) + _WITHIN) * (index + 1))
        draw_overlay(
            add_axes(figure, at, foot, width, height),
            picture.photo_HWC,
            picture.map_RC,
            picture.placement,
            scale,
            smooth=picture.smooth,
            outlines=picture.outlier_patches,
            query=picture.query,
            contour=picture.contour,
        )
        if len(group) > 1:
            write_lines(figure, answer_lines(picture, is_alone=False), at, foot, cells.box)
    if len(group) == 1:
        write_lines(figure, answer_lines(group[0], is_alone=True), left, foot, max(cells.across, 2 * width))
    else:
        true = group[0].true
        names = [("", group[0].name, "", GREY), *([] if true is None else [("true: ", true, "", INK)])]
        write_lines(figure, names, left, foot, cells.box)


LabelLine = tuple[str, str, str, str]
"""Words before a label, the label, words after it, and their colour."""


def answer_lines(picture: MapPicture, is_alone: bool) -> list[LabelLine]:
    """What stands under a map: the answer, the truth where it is another, the file, and the verdict.

    ``is_alone``: no map of the same photograph stands beside it, whose label says the truth and the file already.
    """
    true, wrong = picture.true, bool(picture.predicted) and picture.true not in (None, picture.predicted)
    chance = "" if picture.probability is None else f"  {percent(picture.probability)}"
    mark = "" if true is None else "  ✗" if wrong else "  ✓"
    lines: list[LabelLine] = [("", picture.predicted, chance + mark, INK)] if picture.predicted else []
    if is_alone and true is not None and (wrong or not picture.predicted):
        lines.append(("true: ", true, "", WRONG if wrong else INK))
    if is_alone:
        lines.append(("", picture.name, "", GREY))
    return [*lines, *([("", picture.flag, "", INK)] if picture.flag else [])]


def write_lines(figure: Figure, lines: Sequence[LabelLine], left: float, foot: float, room: float) -> None:
    """Lines in small under a place in inches; labels are shortened until each line fits ``room``."""
    for number, (before, label, after, colour) in enumerate(lines, start=1):
        add_text(figure, left, foot - number * LINE, _cut(before, label, after, room), fontsize=SMALL, color=colour)


def _cut(before: str, label: str, after: str, width: float) -> str:
    """Words in a line, the label among them shortened until they fit a width in inches."""
    most = len(label)
    while True:
        words = f"{before}{shorten(label, most)}{after}"
        across = text_size([words], SMALL)[0]
        if across <= width or most <= 3:
            return words
        most = max(3, min(most - 1, most - int((across - width) / 0.08)))
