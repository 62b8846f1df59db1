"""Runs side by side, their settings and results, as tables and figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from vitrine.plotting.curves import History, learning_curves
from vitrine.plotting.style import (
    ACCENT,
    GREY,
    HAIRLINE,
    INK,
    LABEL,
    MARGIN,
    SERIES,
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
from vitrine.plotting.tables import Cell, Setting, Table, settings_table
from vitrine.results import OVER_PICTURES
from vitrine.runs.record import AnyRow, CaptionerRow, MultiLabelRow, RunRow

_ROW = 0.3  # inches
_GAP = 0.3  # between columns
_PLOT = 2.6  # the drawn column is at least this wide


def save_settings_figure(settings: Sequence[Setting], path: Path, metadata: Mapping[str, str], title: str = "") -> None:
    """Write :func:`settings_figure` as PNG or SVG; see :func:`vitrine.plotting.style.save`."""
    save(settings_figure(settings, title), path, metadata)


def settings_figure(settings: Sequence[Setting], title: str = "") -> Figure:
    """One row a setting: its values, its accuracy, and that with its 95 % interval as a point on a common scale.

    The final result is in colour and bold.

    Args:
        settings: at least one; see :func:`vitrine.plotting.tables.settings_table`.
        title: above the rows; by default ``Accuracy by setting``.

    Raises:
        ValueError: there is no setting, or they do not fit one table.
    """
    if not settings:
        raise ValueError("A figure of settings needs one at least.")
    table = settings_table(settings)
    cells = [[shorten(cell) for cell in row[:-2]] for row in table.cells()]
    names = [shorten(name) for name in table.columns[:-2]]
    with figure_style():
        widths = [
            max(text_size([name], SMALL)[0], text_size([row[i] for row in cells], LABEL, weight="bold")[0])
            for i, name in enumerate(names)
        ]
        height = 0.75 + _ROW * (len(settings) + 1) + 0.5
        width = max(WIDTH, 2 * MARGIN + sum(widths) + _GAP * len(widths) + _PLOT)
        figure = new_figure(width, height)
        add_text(figure, MARGIN, height - 0.33, title or "Accuracy by setting", fontsize=TITLE, weight="bold")
        add_text(figure, MARGIN, height - 0.53, _caption(settings), fontsize=SMALL, color=GREY)
        left = MARGIN
        for i, name in enumerate(names):
            right = table.right_aligned(i) or i == len(names) - 1
            _write_column(figure, left + (widths[i] if right else 0), name, [row[i] for row in cells], settings, right)
            left += widths[i] + _GAP
        axes = add_axes(figure, left, 0.5, width - MARGIN - 0.12 - left, _ROW * len(settings))
        _draw_intervals(axes, settings)
        return figure


def _caption(settings: Sequence[Setting]) -> str:
    counts = sorted({setting.n for setting in settings})
    final = "   in colour: the final result" if any(setting.final for setting in settings) else ""
    return f"lines: 95 % intervals over pictures   n = {' or '.join(f'{n:,}' for n in counts)}{final}"


def _write_column(
    figure: Figure, across: float, name: str, cells: Sequence[str], settings: Sequence[Setting], right: bool
) -> None:
    top = figure.get_size_inches()[1] - 0.75
    side = "right" if right else "left"
    add_text(figure, across, top - _ROW * 0.62, name, ha=side, fontsize=SMALL, color=GREY)
    for row, (cell, setting) in enumerate(zip(cells, settings, strict=True)):
        look = {"weight": "bold", "color": ACCENT} if setting.final else {"color": INK}
        add_text(figure, across, top - _ROW * (row + 1.5), cell, ha=side, va="center_baseline", fontsize=LABEL, **look)


def _draw_intervals(axes: Axes, settings: Sequence[Setting]) -> None:
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


MAX_CURVES = len(SERIES)
"""Learning curves that a figure can tell apart."""


def run_settings_table(rows: Sequence[RunRow]) -> Table:
    """The settings: a row a run."""
    names = tuple(rows[0].settings) if rows else ()
    return Table(("run", *names), tuple((row.name, *row.settings.values()) for row in rows))


def run_outcomes_table(rows: Sequence[RunRow]) -> Table:
    """The results: a row a run."""
    names = tuple(rows[0].outcome()) if rows else ()
    more_names, more_cells = leakage_columns(rows)
    cells = tuple((row.name, *row.outcome().values(), *more) for row, more in zip(rows, more_cells, strict=True))
    return Table(("run", *names, *more_names), cells)


def leakage_columns(rows: Sequence[AnyRow]) -> tuple[tuple[str, ...], list[tuple[Cell, ...]]]:
    """Names and cells of the columns on pictures that also stand in training; no columns where there is none."""
    if not any(row.leakage for row in rows):
        return (), [() for _ in rows]
    cells: list[tuple[Cell, ...]] = []
    for row in rows:
        leakage = row.leakage
        if leakage is None:
            cells.append((None, None, None))
        else:
            rest = leakage.without_any
            cells.append((leakage.exact, leakage.near, f"{rest.value:.4f} (n = {rest.n:,})" if rest.n else None))
    return ("in training too", "near copies", "without these"), cells


def runs_table(rows: Sequence[RunRow]) -> Table:
    """Settings and results in one table: a row a run."""
    settings, outcomes = run_settings_table(rows), run_outcomes_table(rows)
    both = tuple((*one, *other[1:]) for one, other in zip(settings.rows, outcomes.rows, strict=True))
    return Table((*settings.columns, *outcomes.columns[1:]), both)


def captioners_table(rows: Sequence[CaptionerRow]) -> Table:
    """Settings and results of captioners: a row a run."""
    names = tuple(rows[0].settings) if rows else ()
    columns = ("piece accuracy", "pieces", "loss", "exact captions", OVER_PICTURES, "pictures")
    more_names, more_cells = leakage_columns(rows)
    cells = tuple(
        (
            row.name,
            *row.settings.values(),
            f"{row.accuracy:.4f}",
            row.pieces,
            f"{row.loss:.4f}",
            f"{row.exact / row.n:.4f}",
            f"{row.exact_interval.low:.4f} to {row.exact_interval.high:.4f}",
            row.n,
            *more,
        )
        for row, more in zip(rows, more_cells, strict=True)
    )
    return Table(("captioner", *names, *columns, *more_names), cells)


def multi_label_table(rows: Sequence[MultiLabelRow]) -> Table:
    """Settings and results of multi-label classifiers: a row a run."""
    names = tuple(rows[0].settings) if rows else ()
    columns = ("mean average precision", OVER_PICTURES, "macro F1", "micro F1", "exact match", "loss", "best epoch")
    more_names, more_cells = leakage_columns(rows)
    cells = tuple(
        (
            row.name,
            *row.settings.values(),
            f"{row.mean_average_precision:.4f}",
            None if row.interval is None else f"{row.interval.low:.4f} to {row.interval.high:.4f}",
            f"{row.macro_f1:.4f}",
            f"{row.micro_f1:.4f}",
            f"{row.exact:.4f}",
            f"{row.loss:.4f}",
            row.best_epoch,
            row.n,
            *more,
        )
        for row, more in zip(rows, more_cells, strict=True)
    )
    return Table(("multi-label run", *names, *columns, "pictures", *more_names), cells)


def figure_labels(rows: Sequence[RunRow], varied_settings: Sequence[str]) -> dict[str, str]:
    """What figures call runs, by name: the name, or where names are too long for a figure, the settings that vary."""
    names = {row.name: row.name for row in rows}
    if all(shorten(name) == name for name in names):
        return names
    table = Table(tuple(varied_settings), tuple(tuple(row.settings[name] for name in varied_settings) for row in rows))
    for label in (lambda name, cell: f"{name} {cell}", lambda _, cell: cell):
        labels = [", ".join(map(label, varied_settings, cells)) for cells in table.cells()]
        if len({shorten(label) for label in labels}) == len(rows):
            return dict(zip(names, labels, strict=True))
    return names


def accuracy_figure(rows: Sequence[RunRow], varied_settings: Sequence[str], final: str | None = None) -> Figure:
    """A dot with its 95 % interval for every run, in the order given, beside the settings in ``varied_settings``.

    Names that are too long for a figure are left out where the settings tell the runs apart.

    Args:
        rows: the runs.
        varied_settings: names of the settings that are shown.
        final: the name of the run that is the final result, which is in colour.
    """
    values = [{name: row.settings[name] for name in varied_settings} for row in rows]
    are_distinct = len({tuple(each.items()) for each in values}) == len(rows) and len(rows) > 1
    with_names = not are_distinct or all(shorten(row.name) == row.name for row in rows)
    settings = [
        Setting(({"run": row.name} if with_names else {}) | each, row.accuracy, row.interval, row.n, row.name == final)
        for row, each in zip(rows, values, strict=True)
    ]
    return settings_figure(settings, title="Validation accuracy by run")


def curves_figure(histories: Mapping[str, History]) -> tuple[Figure, tuple[str, ...]]:
    """Learning curves of the first runs, as many as can be told apart, and the names of those drawn."""
    first = dict(list(histories.items())[:MAX_CURVES])
    return learning_curves(first), tuple(first)
