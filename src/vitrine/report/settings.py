"""The settings that were tried, as a figure: a table whose last column is drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from vitrine.report.style import (
    ACCENT,
    GREY,
    HAIRLINE,
    INK,
    LABEL,
    MARGIN,
    SMALL,
    TITLE,
    WIDTH,
    extent,
    new_figure,
    percent_tick,
    place,
    save,
    shortened,
    styled,
    write,
)
from vitrine.report.tables import Setting, settings_table

_ROW = 0.3  # inches
_GAP = 0.3  # between columns
_PLOT = 2.6  # the drawn column is at least this wide


def save_settings_figure(settings: Sequence[Setting], path: Path, metadata: Mapping[str, str], title: str = "") -> None:
    """Write :func:`settings_figure` as PNG or SVG; see :func:`vitrine.report.style.save`."""
    save(settings_figure(settings, title), path, metadata)


def settings_figure(settings: Sequence[Setting], title: str = "") -> Figure:
    """One row a setting: its values, its accuracy, and that with its 95 % interval as a point on a common scale.

    The final result is in colour and bold.

    Args:
        settings: at least one; see :func:`vitrine.report.tables.settings_table`.
        title: above the rows; by default ``Accuracy by setting``.

    Raises:
        ValueError: there is no setting, or they do not fit one table.
    """
    if not settings:
        raise ValueError("A figure of settings needs one at least.")
    table = settings_table(settings)
    shown = [[shortened(cell) for cell in row[:-2]] for row in table.cells()]
    names = [shortened(name) for name in table.columns[:-2]]
    with styled():
        widths = [
            max(extent([name], SMALL)[0], extent([row[i] for row in shown], LABEL, weight="bold")[0])
            for i, name in enumerate(names)
        ]
        height = 0.75 + _ROW * (len(settings) + 1) + 0.5
        width = max(WIDTH, 2 * MARGIN + sum(widths) + _GAP * len(widths) + _PLOT)
        figure = new_figure(width, height)
        write(figure, MARGIN, height - 0.33, title or "Accuracy by setting", fontsize=TITLE, weight="bold")
        write(figure, MARGIN, height - 0.53, _detail(settings), fontsize=SMALL, color=GREY)
        left = MARGIN
        for i, name in enumerate(names):
            right = table.right_aligned(i) or i == len(names) - 1
            _column(figure, left + (widths[i] if right else 0), name, [row[i] for row in shown], settings, right)
            left += widths[i] + _GAP
        axes = place(figure, left, 0.5, width - MARGIN - 0.12 - left, _ROW * len(settings))
        _points(axes, settings)
        return figure


def _detail(settings: Sequence[Setting]) -> str:
    counts = sorted({setting.n for setting in settings})
    final = "   in colour: the final result" if any(setting.final for setting in settings) else ""
    return f"lines: 95 % intervals   n = {' or '.join(f'{n:,}' for n in counts)}{final}"


def _column(
    figure: Figure, across: float, name: str, cells: Sequence[str], settings: Sequence[Setting], right: bool
) -> None:
    top = figure.get_size_inches()[1] - 0.75
    side = "right" if right else "left"
    write(figure, across, top - _ROW * 0.62, name, ha=side, fontsize=SMALL, color=GREY)
    for row, (cell, setting) in enumerate(zip(cells, settings, strict=True)):
        look = {"weight": "bold", "color": ACCENT} if setting.final else {"color": INK}
        write(figure, across, top - _ROW * (row + 1.5), cell, ha=side, va="center_baseline", fontsize=LABEL, **look)


def _points(axes: Axes, settings: Sequence[Setting]) -> None:
    for row, setting in enumerate(settings):
        colour, heavy = (ACCENT, 2.2) if setting.final else (GREY, 1.4)
        axes.plot([setting.interval.low, setting.interval.high], [row, row], color=colour, linewidth=heavy)
        axes.plot([setting.accuracy], [row], "o", color=colour, markersize=7 if setting.final else 5.5)
    low = min(setting.interval.low for setting in settings)
    high = max(setting.interval.high for setting in settings)
    room = max(0.004, 0.04 * (high - low))
    axes.set(xlim=(max(-0.004, low - room), min(1.004, high + room)), ylim=(len(settings) - 0.5, -0.5), yticks=[])
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(percent_tick))
    axes.grid(axis="x")
    axes.tick_params(axis="x", length=0)
    axes.spines["left"].set_visible(False)
    axes.spines["bottom"].set_color(HAIRLINE)
