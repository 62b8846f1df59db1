"""Average precision of every label of a multi-label model: bars, best first, as a figure, and the figures as CSV."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from vitrine.io.resumable_csv import csv_row
from vitrine.plotting.style import (
    ACCENT,
    EMPTY,
    GREY,
    INK,
    LABEL,
    MARGIN,
    SMALL,
    TITLE,
    WIDTH,
    add_axes,
    add_text,
    figure_style,
    new_figure,
    percent_tick,
    save,
    shorten,
    text_size,
)
from vitrine.results import OVER_PICTURES, LabelMetrics, MultiLabelMetrics, count_of, percent

_MOST = 60  # labels that are drawn; of more, the best and the worst halves of so many
_ROW = 0.24  # inches a label
_HEAD, _FOOT = 0.98, 0.42  # inches above and below the bars
_BAR = 0.62  # of a row


def label_metrics_csv(metrics: MultiLabelMetrics) -> bytes:
    """Every label's figures as a CSV file, in class order; what does not exist is empty."""
    columns = ("label", "average_precision", "f1", "precision", "recall", "pictures", "given_to")
    rows = (
        csv_row(
            [
                each.label,
                *("" if value is None else f"{value:.6f}" for value in _shares(each)),
                str(each.support),
                str(each.predicted),
            ]
        )
        for each in metrics.classes
    )
    return csv_row(columns) + b"".join(rows)


def _shares(entry: LabelMetrics) -> tuple[float | None, ...]:
    return entry.average_precision, entry.f1, entry.precision, entry.recall


def save_average_precision_figure(metrics: MultiLabelMetrics, path: Path, metadata: Mapping[str, str]) -> None:
    """Write :func:`average_precision_figure` as PNG or SVG; see :func:`vitrine.plotting.style.save`."""
    save(average_precision_figure(metrics), path, metadata)


def average_precision_figure(metrics: MultiLabelMetrics) -> Figure:
    """A bar for every label that a picture has, best first: its average precision, from 0 to 100 %.

    A line across each bar is what a ranking by chance comes to: the share of pictures that have the label. A dot is F1
    at the threshold. The scale is fixed, so figures can be compared. Of more than 60 labels the 30 best and the 30
    worst are drawn.
    """
    by_rank = sorted(
        (each for each in metrics.classes if each.average_precision is not None),
        key=lambda each: (-(each.average_precision or 0), each.label),
    )
    entries = by_rank if len(by_rank) <= _MOST else [*by_rank[: _MOST // 2], *by_rank[-_MOST // 2 :]]
    with figure_style():
        names = [shorten(each.label) for each in entries]
        values = [percent(each.average_precision or 0) for each in entries]
        counts = [f"{each.support:,}" for each in entries]
        left = MARGIN + text_size(names, LABEL)[0] + 0.12
        beside = text_size([*counts, "pictures"], SMALL)[0] + 0.14
        right = beside + text_size([*values, "AP"], SMALL)[0] + 0.14 + MARGIN
        height = _HEAD + _ROW * len(entries) + _FOOT
        figure = new_figure(WIDTH, height)
        _heading(figure, metrics, len(by_rank), len(entries))
        axes = add_axes(figure, left, _FOOT, WIDTH - left - right, _ROW * len(entries))
        _bars(axes, entries, metrics.n)
        for row, (name, value, count) in enumerate(zip(names, values, counts, strict=True)):
            middle = _FOOT + _ROW * (len(entries) - row - 0.5)
            look: dict[str, Any] = {"ha": "right", "va": "center_baseline"}
            add_text(figure, left - 0.1, middle, name, fontsize=LABEL, color=INK, **look)
            add_text(figure, WIDTH - MARGIN - beside, middle, value, fontsize=SMALL, color=GREY, **look)
            add_text(figure, WIDTH - MARGIN, middle, count, fontsize=SMALL, color=GREY, **look)
        for place, word in ((WIDTH - MARGIN - beside, "AP"), (WIDTH - MARGIN, "pictures")):
            add_text(figure, place, height - _HEAD + 0.07, word, ha="right", fontsize=SMALL, color=GREY)
        return figure


def _heading(figure: Figure, metrics: MultiLabelMetrics, labels: int, entries: int) -> None:
    height = figure.get_size_inches()[1]
    interval = metrics.mean_average_precision_interval
    ends = "" if interval is None else f"{OVER_PICTURES} {percent(interval.low)} to {percent(interval.high)}   "
    some = f", the {entries // 2} best and the {entries // 2} worst drawn" if entries < labels else ""
    others = (
        f", {len(metrics.labels_without_pictures):,} more that no picture has"
        if metrics.labels_without_pictures
        else ""
    )
    title = f"Mean average precision {percent(metrics.mean_average_precision)}"
    detail = f"{ends}n = {metrics.n:,}   {count_of(labels, 'label')}{some}{others}   {metrics.precision}"
    key = f"bar: average precision   line: by chance   dot: F1 at a probability of {metrics.threshold:g}"
    add_text(figure, MARGIN, height - 0.33, title, fontsize=TITLE, weight="bold")
    add_text(figure, MARGIN, height - 0.53, detail, fontsize=SMALL, color=GREY)
    add_text(figure, MARGIN, height - 0.69, key, fontsize=SMALL, color=GREY)


def _bars(axes: Axes, entries: Sequence[LabelMetrics], pictures: int) -> None:
    rows = range(len(entries))
    axes.barh(rows, [1.0] * len(entries), height=_BAR, color=EMPTY)
    axes.barh(rows, [each.average_precision or 0 for each in entries], height=_BAR, color=ACCENT, alpha=0.75)
    for row, each in enumerate(entries):
        chance = each.support / pictures
        axes.plot([chance, chance], [row - _BAR / 2, row + _BAR / 2], color=INK, linewidth=1.4)
        if each.f1 is not None:
            axes.plot(
                each.f1, row, "o", markersize=4.2, clip_on=False, color="white", markeredgecolor=INK, markeredgewidth=1
            )
    axes.set(xlim=(0, 1), ylim=(len(entries) - 0.5, -0.5), yticks=[], xticks=[0, 0.25, 0.5, 0.75, 1])
    axes.xaxis.set_major_formatter(FuncFormatter(percent_tick))
    axes.tick_params(axis="x", length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
