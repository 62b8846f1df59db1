"""A ranking of attribution methods as a table, as CSV and as a figure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vitrine.attribution.ranking import Estimate, Metric, RankedMethod, Ranking
from vitrine.attribution.set_verdict import SetVerdict
from vitrine.plotting.style import (
    ACCENT,
    GREY,
    HAIRLINE,
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
    save,
    shorten,
    text_size,
)
from vitrine.plotting.tables import Cell, Table
from vitrine.results import count_of, round_number, shown_number

STANDINGS = {
    "best": "best",
    "ties": "ties with the best",
    "below": "behind",
    "above": "ahead of the best",
    "unknown": "too few pictures",
}
"""What a table says of each standing; "ahead" can only be said of a control."""

_NAME = 36  # characters of a name in the figure
_TEXT_WIDTH = 120  # characters of a table in a terminal
_ACROSS = 4  # panels beside one another
# Inches: a row, what parts controls from methods, what follows a panel, the means inside its right end, what is above
# and below the rows.
_ROW, _APART, _GAP, _NUMBER, _HEAD, _FOOT = 0.27, 0.28, 0.28, 0.38, 0.58, 0.36


def methods_table(ranking: Ranking, metrics: Sequence[Metric] | None = None, *, standing: bool = True) -> Table:
    """A row a method, best first, then the controls; a column a metric, as mean (95 % interval), with its pictures.

    The best method is marked, but where a control has more.

    Args:
        ranking: what to show.
        metrics: which columns; None shows all, the deciding one first.
        standing: with seconds and memory a picture, and how each method stands to the best.
    """
    columns_shown = ranking.metrics if metrics is None else tuple(metrics)
    columns = ["method", *(_heading(ranking, metric) for metric in columns_shown)]
    rows: list[list[Cell]] = [
        [_name(row), *(_estimate(row.estimates.get(metric.key)) for metric in columns_shown)] for row in ranking.rows
    ]
    if standing:
        columns += ["s/picture", "MB/picture", f"by {ranking.by.label}"]
        for cells, row in zip(rows, ranking.rows, strict=True):
            seconds = None if row.seconds is None else _seconds(row)
            memory = None if row.memory is None else f"{row.memory / 1e6:,.1f}"
            cells += [seconds, memory, STANDINGS[row.standing]]
    return Table(tuple(columns), tuple(map(tuple, rows)), None if ranking.leading_control else 0)


def methods_text(ranking: Ranking) -> str:
    """The table for a terminal, in as many parts as it takes to stay narrow, under a line that says what it is."""
    parts: list[str] = []
    waiting = list(ranking.metrics)
    while waiting:
        first = not parts
        fits = max(
            (count for count in range(1, len(waiting) + 1) if _width(ranking, waiting[:count], first) <= _TEXT_WIDTH),
            default=1,
        )
        parts.append(methods_table(ranking, waiting[:fits], standing=first).text())
        del waiting[:fits]
    return "\n\n".join([_caption(ranking), *parts])


def cascade_table(verdicts: Mapping[str, SetVerdict]) -> Table:
    """A row a method, a column a stage: rank correlation of its maps with those of ever more shuffled copies."""
    stages = max(([stage.name for stage in each.evidence.stages] for each in verdicts.values()), key=len)
    rows: list[tuple[Cell, ...]] = []
    for name, verdict in verdicts.items():
        correlations = {stage.name: shown_number(stage.correlation.mean) for stage in verdict.evidence.stages}
        rows.append((name, *(correlations.get(stage) for stage in stages)))
    return Table(("shuffled, from the head down", *stages), tuple(rows))


def methods_csv(ranking: Ranking) -> bytes:
    """A CSV file: a row a method, with the p of its difference from the best, corrected for all pairs; for every
    metric mean, ends of the interval and number of pictures."""
    columns = ["method", "control", "standing", "p", "seconds_a_picture", "bytes_a_picture"]
    for metric in ranking.metrics:
        columns += [metric.key, f"{metric.key}_low", f"{metric.key}_high", f"{metric.key}_n"]
    rows: list[tuple[Cell, ...]] = []
    for row in ranking.rows:
        cells: list[Cell] = [
            row.name,
            "yes" if row.is_control else "no",
            row.standing,
            round_number(row.p),
            round_number(row.seconds),
            row.memory,
        ]
        for metric in ranking.metrics:
            estimate = row.estimates.get(metric.key)
            if estimate is None:
                cells += [None] * 4
            elif estimate.interval is None:
                cells += [round_number(estimate.mean), None, None, estimate.n]
            else:
                ends = estimate.interval
                cells += [round_number(estimate.mean), round_number(ends.low), round_number(ends.high), estimate.n]
        rows.append(tuple(cells))
    return Table(tuple(columns), tuple(rows)).csv()


def save_methods_figure(ranking: Ranking, path: Path, metadata: Mapping[str, str], title: str = "") -> None:
    """Write :func:`methods_figure` as PNG or SVG; see :func:`vitrine.plotting.style.save`."""
    save(methods_figure(ranking, title), path, metadata)


def methods_figure(ranking: Ranking, title: str = "", metrics: Sequence[Metric] | None = None) -> Figure:
    """A row a method, a panel a metric: the mean as a point with its value beside it, its 95 % interval as a line.

    All panels begin at 0, or below where values do, and end at 1. Controls stand apart, grey and hollow; a dotted line
    carries the best of them up through the methods. The best method and those that tie with it are in colour.

    Args:
        ranking: what to draw.
        title: above it; by default "Methods ranked by", and the metric.
        metrics: which panels; None draws all, the deciding one first.
    """
    panels = ranking.metrics if metrics is None else tuple(metrics)
    with figure_style():
        names = text_size([shorten(row.name, _NAME) for row in ranking.rows], LABEL, weight="bold")[0]
        times = text_size(["s/picture", *(_seconds(row) for row in ranking.rows)], SMALL)[0]
        left, right = MARGIN + names + 0.2, MARGIN + times + 0.1
        labels = max(
            text_size([metric.label for metric in panels], LABEL, weight="bold")[0],
            text_size([_direction(ranking, metric) for metric in panels], SMALL)[0],
        )
        fitting = max(1, min(_ACROSS, int((WIDTH - left - right) / (labels + _GAP))))
        count = math.ceil(len(panels) / fitting)
        across = math.ceil(len(panels) / count)
        width = (WIDTH - left - right) / across - _GAP
        rows = _row_middle(ranking, len(ranking.rows) - 1) + _ROW / 2
        figure = new_figure(WIDTH, 0.62 + count * (_HEAD + rows + _FOOT) + 0.06)
        top = figure.get_size_inches()[1]
        heading = title or f"Methods ranked by {ranking.by.label}"
        add_text(figure, MARGIN, top - 0.33, heading, fontsize=TITLE, weight="bold")
        add_text(figure, MARGIN, top - 0.53, _detail(ranking), fontsize=SMALL, color=GREY)
        for band in range(count):
            ceiling = top - 0.62 - band * (_HEAD + rows + _FOOT) - _HEAD
            _names(figure, ranking, MARGIN + names, ceiling)
            if band == 0:
                _times(figure, ranking, ceiling)
            for index, metric in enumerate(panels[band * across : (band + 1) * across]):
                axes = add_axes(figure, left + index * (width + _GAP), ceiling - rows, width, rows)
                _panel(axes, ranking, metric, width)
        return figure


def _row_middle(ranking: Ranking, index: int) -> float:
    """Inches from the top of the rows; controls stand apart."""
    return (index + 0.5) * _ROW + (_APART if ranking.rows[index].is_control else 0)


def _names(figure: Figure, ranking: Ranking, right: float, ceiling: float) -> None:
    """The methods' names, and a heading over those of the controls."""
    for index, row in enumerate(ranking.rows):
        look = {"color": _colour(row), "weight": "bold" if _is_marked(ranking, row) else "normal", "fontsize": LABEL}
        middle = ceiling - _row_middle(ranking, index)
        add_text(figure, right, middle, shorten(row.name, _NAME), ha="right", va="center_baseline", **look)
    first = next((index for index, row in enumerate(ranking.rows) if row.is_control), None)
    if first is not None:
        above = ceiling - _row_middle(ranking, first) + _ROW / 2 + 0.05
        add_text(figure, right, above, "controls", ha="right", fontsize=SMALL, color=GREY, style="italic")


def _times(figure: Figure, ranking: Ranking, ceiling: float) -> None:
    look = {"ha": "right", "fontsize": SMALL, "color": GREY}
    add_text(figure, WIDTH - MARGIN, ceiling + 0.12, "s/picture", **look)
    for index, row in enumerate(ranking.rows):
        middle = ceiling - _row_middle(ranking, index)
        add_text(figure, WIDTH - MARGIN, middle, _seconds(row), va="center_baseline", **look)


def _panel(axes: Axes, ranking: Ranking, metric: Metric, width: float) -> None:
    rows = _row_middle(ranking, len(ranking.rows) - 1) + _ROW / 2
    estimates = {
        index: row.estimates[metric.key] for index, row in enumerate(ranking.rows) if metric.key in row.estimates
    }
    low = min([0.0, *(entry.interval.low if entry.interval else entry.mean for entry in estimates.values())])
    low = math.floor(low * 20) / 20
    end = 1 + (1 - low) * _NUMBER / (width - _NUMBER)  # the axis stops at 1; numbers stand to the right of it
    axes.set(xlim=(low, end), ylim=(rows, 0), yticks=[])
    ticks = [tick for tick in (-1.0, -0.5, 0.0, 0.5, 1.0) if tick >= low]
    axes.set_xticks(ticks, [f"{tick:g}".replace("-", "\u2212") for tick in ticks])
    axes.tick_params(axis="x", length=0)
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.vlines(ticks, 0, rows, color=HAIRLINE, linewidth=0.6, zorder=0)
    controls = [entry.mean for index, entry in estimates.items() if ranking.rows[index].is_control]
    if controls:
        best = max(controls) if metric.higher_is_better else min(controls)
        axes.plot([best, best], [0, rows], ":", color=GREY, linewidth=1, zorder=1)
    for index, entry in estimates.items():
        _point(axes, ranking.rows[index], entry, _row_middle(ranking, index), end)
    weight = "bold" if metric == ranking.by else "normal"
    axes.annotate(metric.label, (low, 0), (0, 21), textcoords="offset points", fontsize=LABEL, weight=weight)
    axes.annotate(
        _direction(ranking, metric), (low, 0), (0, 8.6), textcoords="offset points", fontsize=SMALL, color=GREY
    )


def _point(axes: Axes, row: RankedMethod, entry: Estimate, height: float, end: float) -> None:
    colour, heavy = _colour(row), 2.2 if row.standing == "best" else 1.5
    if entry.interval is not None:
        axes.plot([entry.interval.low, entry.interval.high], [height, height], color=colour, linewidth=heavy, zorder=2)
    inside = "white" if row.is_control else colour
    size = 5.5 if row.standing == "best" else 4.5
    axes.plot([entry.mean], [height], "o", color=colour, mfc=inside, markersize=size, zorder=3, clip_on=False)
    weight = "bold" if row.standing == "best" else "normal"
    number = shown_number(entry.mean)
    axes.text(end, height, number, ha="right", va="center_baseline", fontsize=SMALL, color=colour, weight=weight)


def _colour(row: RankedMethod) -> str:
    return GREY if row.is_control else ACCENT if row.ties_with_best else INK


def _seconds(row: RankedMethod) -> str:
    if row.seconds is None:
        return "–"
    return "< 0.001" if row.seconds < 0.001 else f"{row.seconds:.3f}" if row.seconds < 1 else f"{row.seconds:.1f}"


def _is_marked(ranking: Ranking, row: RankedMethod) -> bool:
    """Whether a row is the best of all, and not of the methods alone."""
    return row.standing == "best" and ranking.leading_control is None


def _caption(ranking: Ranking) -> str:
    fewest, most = ranking.pictures_of(ranking.by)
    on = count_of(most, "picture") if fewest == most else f"{fewest:,} to {count_of(most, 'picture')}"
    if most < ranking.pictures:
        on += f" of {ranking.pictures:,}"
    how = "in brackets 95 % intervals over pictures" if _has_intervals(ranking) else "too few for intervals"
    ahead = ranking.leading_control
    warning = "" if ahead is None else f"\nNo method is marked as the best: the control {ahead.name} has more."
    return f"Ranked by {ranking.by.label} on {on}; {how}; n: pictures of a column.{warning}"


def _detail(ranking: Ranking) -> str:
    standings = {row.standing for row in ranking.rows if not row.is_control}
    best = "the best method" + (" and those that tie with it" if "ties" in standings else "")
    parts = [
        f"{count_of(ranking.pictures, 'picture')}; n: those of a panel",
        *(["lines: 95 % intervals"] if _has_intervals(ranking) else []),
        f"in colour: {best}" + (" (too few pictures to tell more apart)" if "unknown" in standings else ""),
        *(["dotted: the best control"] if any(row.is_control for row in ranking.rows) else []),
    ]
    return "   ".join(parts)


def _direction(ranking: Ranking, metric: Metric) -> str:
    better = "higher is better" if metric.higher_is_better else "lower is better"
    return f"{better}, {_pictures(ranking, metric)}"


def _heading(ranking: Ranking, metric: Metric) -> str:
    return f"{metric.label}, {_pictures(ranking, metric)}"


def _pictures(ranking: Ranking, metric: Metric) -> str:
    """On how many pictures a metric was measured, whatever the other metrics were measured on."""
    fewest, most = ranking.pictures_of(metric)
    return f"n = {most:,}" if fewest == most else f"n = {fewest:,} to {most:,}"


def _has_intervals(ranking: Ranking) -> bool:
    return any(entry.interval for row in ranking.rows for entry in row.estimates.values())


def _name(row: RankedMethod) -> str:
    return f"{row.name} (control)" if row.is_control else row.name


def _estimate(estimate: Estimate | None) -> str | None:
    if estimate is None:
        return None
    mean, interval = shown_number(estimate.mean, 3), estimate.interval
    return mean if interval is None else f"{mean} ({shown_number(interval.low)} to {shown_number(interval.high)})"


def _width(ranking: Ranking, metrics: Sequence[Metric], standing: bool) -> int:
    return max(map(len, methods_table(ranking, metrics, standing=standing).text().splitlines()))
