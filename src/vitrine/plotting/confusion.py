"""The confusion matrix, as a figure and as CSV. Axes: T true class (rows), P predicted class (columns).

Counts come as the pairs that occur. Up to ``WHOLE`` classes they are shown as a matrix, which grows with the square of
the classes; beyond, the CSV lists the pairs, and a cell of the figure stands for several classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vitrine.io.resumable_csv import csv_row
from vitrine.plotting.style import (
    EMPTY,
    GREY,
    HAIRLINE,
    LABEL,
    MARGIN,
    SHARES,
    SMALL,
    TITLE,
    WIDTH,
    add_axes,
    add_text,
    contrast_colour,
    figure_style,
    new_figure,
    save,
    shorten,
    text_size,
)
from vitrine.results import OVER_PICTURES, ClassificationMetrics, percent

WHOLE = 1000  # classes up to which every pair of them has a number or a cell
_COUNTED = 15  # classes up to which every cell says its count
_MISTAKES_COUNTED = 40  # and up to which those off the diagonal do: one mistake among 40 pictures is hardly a tint
_NAMED = 80  # classes up to which rows and columns have names
_POINTS = 72.0  # in an inch


def confusion_csv(metrics: ClassificationMetrics) -> bytes:
    r"""The matrix as a CSV file: first row ``true\predicted`` and the class names, then a row of counts a class.

    Above ``WHOLE`` classes it has the columns ``true,predicted,pictures`` and a row for every pair that occurs.
    """
    labels = metrics.labels
    if len(labels) > WHOLE:
        pairs = (csv_row([labels[each.true], labels[each.predicted], str(each.pictures)]) for each in metrics.confusion)
        return csv_row(["true", "predicted", "pictures"]) + b"".join(pairs)
    rows = zip(labels, confusion_matrix(metrics).tolist(), strict=True)
    return csv_row([r"true\predicted", *labels]) + b"".join(csv_row([label, *map(str, row)]) for label, row in rows)


def confusion_matrix(metrics: ClassificationMetrics, together: int = 1) -> npt.NDArray[np.int64]:
    """Pictures by true and predicted class, int64 (T, P); or by groups of so many neighbouring classes ``together``."""
    sides = -(-len(metrics.classes) // together)
    counts_TP = np.zeros((sides, sides), dtype=np.int64)
    for each in metrics.confusion:
        counts_TP[each.true // together, each.predicted // together] += each.pictures
    return counts_TP


def save_confusion_figure(metrics: ClassificationMetrics, path: Path, metadata: Mapping[str, str]) -> None:
    """Write :func:`confusion_figure` as PNG or SVG; see :func:`vitrine.plotting.style.save`."""
    save(confusion_figure(metrics), path, metadata)


def confusion_figure(metrics: ClassificationMetrics) -> Figure:
    """True classes down, predicted classes across, in class order; colour is the share of the true class, 0 to 100 %.

    The colour scale is fixed, so figures can be compared. Cells have counts with up to 15 classes, zeros left blank; a
    class without pictures has a grey row. Up to 40 classes only mistakes have counts; above 80 there are no names.
    Above ``WHOLE``, a row and a column stand for several neighbouring classes, and the figure says for how many.
    """
    with figure_style():
        plan = _plan(metrics)
        figure = new_figure(plan.width, plan.height)
        _heading(figure, metrics, plan)
        axes = add_axes(figure, plan.left, plan.bottom, plan.side, plan.side)
        _cells(axes, metrics, plan)
        _names(axes, plan)
        _scale(figure, plan)
        return figure


@dataclass(frozen=True)
class _Plan:
    """Where things are, in inches; ``names`` is empty where classes are not named, ``font`` is in points.

    ``together`` is how many classes a row and a column stand for.
    """

    names: tuple[str, ...]
    font: float
    cell: float
    side: float
    left: float
    bottom: float
    width: float
    height: float
    turn: int  # degrees that column names are turned by
    together: int


def _plan(metrics: ClassificationMetrics) -> _Plan:
    classes = len(metrics.classes)
    plan = _plan_of(metrics, float(np.clip(0.62 * classes, 2.4, 6.6 if classes <= _NAMED else 6.0)))
    for _ in range(2):  # a smaller matrix has smaller names, so one step may go too far
        if plan.width > WIDTH:
            plan = _plan_of(metrics, max(4.0, plan.side - (plan.width - WIDTH)))
    return plan


def _plan_of(metrics: ClassificationMetrics, side: float) -> _Plan:
    classes = len(metrics.classes)
    cell = side / classes
    font = float(np.clip(cell * _POINTS * 0.66, 4.5, LABEL))
    names = tuple(shorten(label) for label in metrics.labels) if classes <= _NAMED else ()
    across, line = text_size(names, font)
    if 0.75 * cell < across <= cell:  # short names, such as numbers, stay level with air between them
        font *= 0.75 * cell / across
        across, line = text_size(names, font)
    # Level names have to fit their column with some air; turned ones have to fit beside one another.
    turn = 0 if across <= cell * 0.9 else 45 if cell * np.sin(np.pi / 4) * _POINTS >= font * 1.15 else 90
    below = {0: line, 45: (across + line) * np.sin(np.pi / 4), 90: across}[turn]
    left = MARGIN + 0.3 + across + 0.08
    bottom = MARGIN + 0.3 + float(below) + 0.08
    width = max(left + side + 0.25 + 0.13 + 0.75 + MARGIN, _heading_width(metrics) + 2 * MARGIN)
    return _Plan(names, font, cell, side, left, bottom, width, bottom + side + 0.78, turn, -(-classes // WHOLE))


def _title(metrics: ClassificationMetrics) -> tuple[str, str]:
    interval = metrics.accuracy_interval
    return (
        f"Accuracy {percent(metrics.accuracy)}",
        f"{OVER_PICTURES} {percent(interval.low)} to {percent(interval.high)}   n = {metrics.n:,}   "
        f"{metrics.precision}",
    )


def _heading_width(metrics: ClassificationMetrics) -> float:
    return max(text_size([_title(metrics)[0]], TITLE, weight="bold")[0], text_size([_title(metrics)[1]], SMALL)[0])


def _heading(figure: Figure, metrics: ClassificationMetrics, plan: _Plan) -> None:
    title, detail = _title(metrics)
    add_text(figure, MARGIN, plan.height - 0.33, title, fontsize=TITLE, weight="bold")
    add_text(figure, MARGIN, plan.height - 0.53, detail, fontsize=SMALL, color=GREY)


def _cells(axes: Axes, metrics: ClassificationMetrics, plan: _Plan) -> None:
    counts_TP = confusion_matrix(metrics, plan.together)
    support_T1 = counts_TP.sum(axis=1, keepdims=True)
    shares_TP = np.ma.masked_array(
        counts_TP / np.maximum(support_T1, 1), mask=np.broadcast_to(support_T1 == 0, counts_TP.shape)
    )
    classes = len(counts_TP)
    line = 0.6 if classes <= 20 else 0.3 if classes <= _NAMED else 0
    axes.set_facecolor(EMPTY)
    mesh = axes.pcolormesh(
        shares_TP, cmap=SHARES, vmin=0, vmax=1, edgecolors=HAIRLINE if line else "none", linewidth=line
    )
    mesh.set_rasterized(plan.together > 1)  # an SVG would hold a path for every cell
    axes.set(xlim=(0, classes), ylim=(classes, 0), xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set(visible=True, color=HAIRLINE)
    if classes <= _MISTAKES_COUNTED:
        counted_TP = (counts_TP > 0) & ((classes <= _COUNTED) | ~np.eye(classes, dtype=bool))
        _counts(axes, counts_TP, shares_TP, counted_TP, plan)


def _counts(
    axes: Axes,
    counts_TP: npt.NDArray[np.int64],
    shares_TP: npt.NDArray[np.float64],
    counted_TP: npt.NDArray[np.bool_],
    plan: _Plan,
) -> None:
    """Counts in one size, in which the longest fits its cell."""
    longest = max((f"{count:,}" for count in counts_TP[counted_TP]), key=len, default="0")
    fitting = LABEL * 0.84 * plan.cell / text_size([longest], LABEL)[0]
    size = min(LABEL, fitting, plan.cell * _POINTS * 0.6)
    for row, column in zip(*np.nonzero(counted_TP), strict=True):
        axes.text(
            column + 0.5,
            row + 0.52,
            f"{counts_TP[row, column]:,}",
            ha="center",
            va="center",
            fontsize=size,
            color=contrast_colour(SHARES(float(shares_TP[row, column]))),
        )


def _names(axes: Axes, plan: _Plan) -> None:
    gap = 0.06 / plan.cell  # in cells
    for index, name in enumerate(plan.names):
        axes.text(-gap, index + 0.5, name, ha="right", va="center", fontsize=plan.font)
        across = {0: "center", 45: "right", 90: "center"}[plan.turn]
        below = axes.text(index + 0.5, len(plan.names) + gap, name, ha=across, va="top", fontsize=plan.font)
        below.set(rotation=plan.turn, rotation_mode="anchor" if plan.turn == 45 else "default")
        if plan.turn == 45:
            below.set_x(index + 0.5 + plan.font / _POINTS / plan.cell * 0.35)
    figure = axes.figure
    assert isinstance(figure, Figure)
    middle = plan.bottom + plan.side / 2
    add_text(figure, MARGIN + 0.1, middle, "true", rotation=90, color=GREY, fontsize=LABEL, ha="center", va="center")
    add_text(figure, plan.left + plan.side / 2, MARGIN, "predicted", color=GREY, fontsize=LABEL, ha="center")
    if not plan.names:
        words = "Classes in class order; names and counts are in confusion.csv."
        if plan.together > 1:
            words = (
                f"Classes in class order, {plan.together} to a row and column; names and counts are in confusion.csv."
            )
        add_text(figure, plan.left, plan.bottom - 0.17, words, color=GREY, fontsize=SMALL)


def _scale(figure: Figure, plan: _Plan) -> None:
    height = min(plan.side, 2.4)
    top = plan.bottom + plan.side
    axes = add_axes(figure, plan.left + plan.side + 0.25, top - height, 0.13, height)
    axes.imshow(np.linspace(1, 0, 256)[:, None], cmap=SHARES, vmin=0, vmax=1, aspect="auto", extent=(0, 1, 0, 1))
    axes.set(xticks=[], yticks=[0, 0.25, 0.5, 0.75, 1], yticklabels=["0 %", "25 %", "50 %", "75 %", "100 %"])
    axes.yaxis.tick_right()
    axes.tick_params(length=0, pad=4)
    for spine in axes.spines.values():
        spine.set(visible=True, color=HAIRLINE)
    middle = top - height / 2
    left = plan.left + plan.side + 0.25 + 0.13 + 0.58
    add_text(
        figure,
        left,
        middle,
        "share of the true class",
        rotation=270,
        color=GREY,
        fontsize=SMALL,
        ha="left",
        va="center",
    )
