"""The figure of one explained picture: photograph, overlay, map alone, prediction, and verdict.

Letters: H, W pixel rows and columns; R, C rows and columns of patches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from vitrine.attribution.placement import Placement
from vitrine.explain.explainer import ExplainedPicture
from vitrine.plotting.colormap import Scale, colour_bar, shared_scale
from vitrine.plotting.overlay import (
    Patch,
    Pixels,
    apply_hatching,
    apply_outline,
    draw_map,
    draw_overlay,
    draw_photo,
    frames,
)
from vitrine.plotting.style import (
    ACCENT,
    EMPTY,
    GREY,
    INK,
    LABEL,
    LINE,
    MARGIN,
    SMALL,
    TITLE,
    WIDTH,
    add_axes,
    add_text,
    arrange_panels,
    figure_style,
    grid_width,
    panel_grid,
    save,
    shorten,
    text_size,
    wrap_text,
)
from vitrine.results import percent

__all__ = ["MapPicture", "Scale", "draw_overlay", "map_figure", "save_map_figure", "shared_scale"]

_ENOUGH = 1800  # pixels of a photograph that a figure can show
_TALLEST = 4.2  # inches of panels and their names, one above the other
WRONG = "#b34700"  # vermilion, dark enough to be read on white
_SIGN = (0.24, 0.13)
_DUSK = "#8a929b"  # a photograph in small: neither bright nor dark
_GAP, _RULER = 0.26, 0.16  # inches beside and below the map alone, whose rows and columns are numbered there
_NARROWEST = 6.0  # so that a verdict has lines to be read


def border_notes(scores_RC: npt.ArrayLike, placement: Placement) -> tuple[str, ...]:
    """A sentence on what of a map lies on the border round the photograph; none where there is no border.

    Args:
        scores_RC: (R, C); negative ones hold no mass.
        placement: of these patches.
    """
    mass_RC, border_RC = np.maximum(np.nan_to_num(scores_RC), 0), 1 - placement.photo_share_RC
    if border_RC.max() < 1e-6 or not mass_RC.any():
        return ()
    share = float((mass_RC * border_RC).sum() / mass_RC.sum())
    return (f"{percent(share)} of the map lies on the border around the photograph and is not drawn.",)


@dataclass(frozen=True, eq=False)
class MapPicture:
    """A photograph with its map, and the words beside it.

    Attributes:
        photo_HWC: uint8 (H, W, 3), upright; or a smaller copy, as :meth:`with_smaller_photo` makes it.
        map_RC: float (R, C): multiples of uniform, or probability lost; NaN has no colour.
        placement: where the patches lie on the photograph.
        name: of the picture, for example its file name.
        predicted: the likeliest label; "" leaves it out.
        probability: of that label, 0 to 1.
        true: the true label, None where it is not known.
        method: how the map was made, for example "attention of [class] to patches, last layer, mean of 12 heads".
        notes: sentences in grey, for example on attention that went to prefix tokens.
        flag: a word or two before the verdict, for example "Depends".
        verdict: whether the answer depends on the patches that the map marks, a sentence or two.
        outlier_patches: (row, column) of each, which are outlined.
        masked_RC: the map with outlier patches masked, shown beside the raw one.
        smooth: draw the overlay smoothly between the middles of patches. The map alone is always patches as they are.
        model: its reference.
        query: the patch that looks, which has a frame; None where it is no patch.
        contour: draw a line over the photograph where the map crosses the value that favours no patch.
    """

    photo_HWC: Pixels
    map_RC: npt.NDArray[np.floating]
    placement: Placement
    name: str = ""
    predicted: str = ""
    probability: float | None = None
    true: str | None = None
    method: str = ""
    notes: tuple[str, ...] = ()
    flag: str = ""
    verdict: str = ""
    outlier_patches: tuple[Patch, ...] = ()
    masked_RC: npt.NDArray[np.floating] | None = None
    smooth: bool = True
    model: str = ""
    query: Patch | None = None
    contour: bool = False

    @classmethod
    def of(
        cls, picture: ExplainedPicture, true: str | None = None, smooth: bool = True, contour: bool = False
    ) -> MapPicture:
        """An explained picture with its photograph, which is decoded for it.

        Args:
            picture: the picture.
            true: its true label, None where it is not known.
            smooth: draw the overlay smoothly between the middles of patches.
            contour: draw a line where the map crosses the value that favours no patch.

        Raises:
            PictureError: the photograph can no longer be read.
        """
        photo_HWC = np.asarray(picture.sample.picture.decode())
        height, width = photo_HWC.shape[:2]
        placement, verdict = picture.placement(width, height), picture.verdict
        wrong = wrong_answer_notes(picture.predicted, true, picture.target)
        return cls(
            photo_HWC=photo_HWC,
            map_RC=picture.display_RC,
            placement=placement,
            name=picture.sample.name,
            predicted=picture.predicted,
            probability=picture.probability,
            true=true,
            method=picture.method,
            notes=(*wrong, *picture.notes, *border_notes(picture.scores_RC, placement)),
            flag="" if verdict is None else verdict.flag.capitalize(),
            verdict="" if verdict is None else verdict.sentence,
            outlier_patches=picture.outlier_patches,
            masked_RC=picture.masked_RC,
            smooth=smooth,
            model=picture.model,
            query=picture.query,
            contour=contour,
        )

    def with_smaller_photo(self, side: int = 640) -> MapPicture:
        """The same with a copy of the photograph of at most ``side`` pixels a side, to hold many at a time."""
        rows, columns = self.photo_HWC.shape[:2]
        if max(rows, columns) <= side:
            return self
        size = (max(1, round(columns * side / max(rows, columns))), max(1, round(rows * side / max(rows, columns))))
        copy = Image.fromarray(self.photo_HWC).resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0)
        return replace(self, photo_HWC=np.asarray(copy))

    @property
    def title(self) -> str:
        """The predicted label, else the picture's name, short enough for a figure."""
        return shorten(self.predicted) if self.predicted else shorten(self.name, 40)

    @property
    def confidence(self) -> str:
        """ "predicted", with the probability where it is known; empty where the title is no prediction."""
        if not self.predicted:
            return ""
        return "predicted" if self.probability is None else f"predicted, {percent(self.probability)}"

    @property
    def headline(self) -> str:
        """Title, probability and whether the answer is right, in one line."""
        return " · ".join(filter(None, (self.title, self.confidence, self.judgement[0])))

    @property
    def origin(self) -> str:
        """Of which file, by which model and method, where the title is not the file itself."""
        name = shorten(self.name, 40) if self.predicted else ""
        model = f"model {shorten(self.model, 44)}" if self.model else ""
        return "\n".join(filter(None, (" · ".join(filter(None, (name, model))), self.method)))

    @property
    def judgement(self) -> tuple[str, str]:
        """Words on whether the prediction is right, and their colour; empty where the true label is not known."""
        if self.true is None:
            return "", INK
        if not self.predicted:
            return f"true label: {shorten(self.true)}", INK
        right = self.predicted == self.true
        return ("✓ right", ACCENT) if right else (f"✗ true label: {shorten(self.true)}", WRONG)


def wrong_answer_notes(predicted: str, true: str | None, target: str | None) -> tuple[str, ...]:
    """A sentence that the map explains a wrong answer, where it does: one or none.

    Args:
        predicted: the model's answer.
        true: the true label; None where it is not known.
        target: the class that the map is for; None where the method explains none.
    """
    if true is None or predicted == true:
        return ()
    if target is None or target == predicted:
        return (f"This map explains a wrong answer: {shorten(predicted)}, where the true label is {shorten(true)}.",)
    return (f"The answer {shorten(predicted)} is wrong, and this map is not for it: it is for {shorten(target)}.",)


def save_map_figure(picture: MapPicture, scale: Scale, path: Path, metadata: Mapping[str, str]) -> None:
    """Write :func:`map_figure` as PNG or SVG; see :func:`vitrine.plotting.style.save`."""
    save(map_figure(picture, scale), path, metadata)


def map_figure(picture: MapPicture, scale: Scale) -> Figure:
    """Photograph, overlay, map alone and colour bar; where outliers were masked, that map over the photograph too.

    Args:
        picture: what is shown.
        scale: what the colours mean; the same for all pictures of a call (:func:`shared_scale`), unless stretched
            maps are wanted, and then the figure says so.

    Raises:
        ValueError: photograph, map and placement do not fit one another.
    """
    picture, scale = picture.with_smaller_photo(_ENOUGH), scale.for_map(picture.map_RC)
    names = _names(picture)
    geometry = picture.placement.geometry
    with figure_style():
        columns, panel = arrange_panels(len(names), geometry.width / geometry.height, len(names), _TALLEST, gap=_GAP)
        title = _Title.of(picture)
        least = min(WIDTH, max(_NARROWEST, title.width + 2 * MARGIN))
        words = _Words.of(picture, scale, grid_width(names, columns, panel, least, _GAP) - 2 * MARGIN)
        detail = picture.origin
        below = words.height + _RULER
        grid = panel_grid(names, columns, panel, title=picture.title, detail=detail, below=below, least=least, gap=_GAP)
        figure = grid.figure
        title.write(figure)
        _draw(picture, scale, [add_axes(figure, *box) for box in grid.boxes])
        maps = [picture.map_RC] if picture.masked_RC is None else [picture.map_RC, picture.masked_RC]
        colour_bar(figure, scale, maps, grid.bar, grid.bar_length)
        words.write(figure)
        return figure


def _names(picture: MapPicture) -> list[str]:
    rows, columns = picture.placement.rows, picture.placement.columns
    names = [
        "photograph",
        "overlay, smoothed" if picture.smooth else "overlay",
        f"map alone, {rows} × {columns} patches",
    ]
    return names if picture.masked_RC is None else [*names, "outlier patches masked"]


def _draw(picture: MapPicture, scale: Scale, axes: Sequence[Axes]) -> None:
    photo_HWC, placement = picture.photo_HWC, picture.placement
    marks: dict[str, Any] = {"outlines": picture.outlier_patches, "query": picture.query}
    look: dict[str, Any] = {"smooth": picture.smooth, "contour": picture.contour, **marks}
    draw_photo(axes[0], photo_HWC, placement, query=picture.query)
    draw_overlay(axes[1], photo_HWC, picture.map_RC, placement, scale, **look)
    draw_map(axes[2], picture.map_RC, placement, scale, **marks)
    if picture.masked_RC is not None:
        draw_overlay(axes[3], photo_HWC, picture.masked_RC, placement, scale, **look)


@dataclass(frozen=True)
class _Title:
    """What follows the bold label in its line: (inches from the margin, words, colour)."""

    parts: tuple[tuple[float, str, str], ...]
    width: float

    @classmethod
    def of(cls, picture: MapPicture) -> _Title:
        parts, left = [], text_size([picture.title], TITLE, weight="bold")[0]
        for words, colour in ((picture.confidence, GREY), picture.judgement):
            if words:
                parts.append((left + 0.16, words, colour))
                left += 0.16 + text_size([words], LABEL)[0]
        return cls(tuple(parts), left)

    def write(self, figure: Figure) -> None:
        for left, words, colour in self.parts:
            up = figure.get_size_inches()[1] - 0.33
            add_text(figure, MARGIN + left, up, words, fontsize=LABEL, color=colour)


@dataclass(frozen=True)
class _Words:
    """What stands under the panels: keys, grey notes, and the verdict beside its flag."""

    keys: tuple[tuple[str, str], ...]  # words, and the sign: hatching, an outline, a frame or a line
    notes: tuple[str, ...]
    flag: str
    indent: float  # of the verdict, inches
    verdict: tuple[str, ...]

    @classmethod
    def of(cls, picture: MapPicture, scale: Scale, width: float) -> _Words:
        has_unseen, has_outliers = picture.placement.visible_share < 1 - 1e-6, bool(picture.outlier_patches)
        keys = [("not seen by the model", "hatching")] * has_unseen + [("outlier patch", "outline")] * has_outliers
        if picture.query is not None:
            keys.append((f"the patch that looks: row {picture.query[0]}, column {picture.query[1]}", "frame"))
        if picture.contour:
            keys.append(
                ("no effect" if scale.kind == "lost" else "uniform: the share of each if all were alike", "line")
            )
        end = scale.describe_end([picture.map_RC])
        notes = [line for note in (*scale.warnings, *end, *picture.notes) for line in wrap_text(note, SMALL, width)]
        indent = text_size([picture.flag], LABEL, weight="bold")[0] + 0.12 if picture.flag else 0.0
        return cls(
            tuple(keys), tuple(notes), picture.flag, indent, tuple(wrap_text(picture.verdict, LABEL, width - indent))
        )

    @property
    def height(self) -> float:
        verdict = 0.06 + 0.185 * max(len(self.verdict), bool(self.flag)) if self.flag or self.verdict else 0.0
        small = LINE * (bool(self.keys) + len(self.notes))
        return small + verdict + (0.1 if small or verdict else 0.0)

    def write(self, figure: Figure) -> None:
        up, left = MARGIN + self.height - 0.1 - LINE, MARGIN
        for words, sign in self.keys:
            _sign(figure, left, up, sign)
            add_text(figure, left + _SIGN[0] + 0.08, up + 0.01, words, fontsize=SMALL, color=GREY)
            left += _SIGN[0] + 0.08 + text_size([words], SMALL)[0] + 0.3
        up -= LINE if self.keys else 0
        for note in self.notes:
            add_text(figure, MARGIN, up, note, fontsize=SMALL, color=GREY)
            up -= LINE
        up -= 0.06
        add_text(figure, MARGIN, up, self.flag, fontsize=LABEL, weight="bold")
        for line in self.verdict:
            add_text(figure, MARGIN + self.indent, up, line, fontsize=LABEL)
            up -= 0.185


def _sign(figure: Figure, left: float, up: float, sign: str) -> None:
    """The look of a marked patch, of a line, or of what was not seen, in small."""
    width, height = figure.get_size_inches()

    def box(x: float, y: float, across: float, high: float, colour: str = "none") -> Rectangle:
        size = (across / width, high / height)
        return Rectangle((x / width, y / height), *size, transform=figure.transFigure, facecolor=colour, linewidth=0)

    across, high = _SIGN
    figure.add_artist(box(left, up, across, high, EMPTY if sign == "hatching" else _DUSK))
    small = box(left + (across - 0.07) / 2, up + (high - 0.07) / 2, 0.07, 0.07)
    if sign == "hatching":
        figure.add_artist(apply_hatching(box(left, up, across, high)))
    elif sign == "line":
        figure.add_artist(box(left, up + (high - 0.05) / 2, across, 0.05, INK))
        figure.add_artist(box(left, up + (high - 0.02) / 2, across, 0.02, "white"))
    elif sign == "outline":
        figure.add_artist(apply_outline(small))
    else:
        place = ((left + (across - 0.1) / 2) / width, (up + (high - 0.1) / 2) / height, 0.1 / width, 0.1 / height)
        for frame in frames(*place, transform=figure.transFigure):
            figure.add_artist(frame)
