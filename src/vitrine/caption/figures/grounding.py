"""The grounding of captions, whether words look at what they name, as a table and as a figure."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vitrine.attribution.grounding import MAPS, METRICS, WORD, ClusteredMean, Grounding
from vitrine.attribution.ranking import Metric
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
from vitrine.results import count_of, shown_number

_BETTER = "word map better by"
_LABEL = 28  # characters of what captions are called, in the figure
# Inches: a row of a group, what stands over a group's rows, what parts groups; the means at the right of each panel and
# the differences beside them; what is above the first group and below the last one's rows.
_ROW, _GROUP, _APART, _NUMBER, _LEAD, _HEAD, _FOOT = 0.27, 0.5, 0.12, 0.4, 1.42, 1.0, 0.22
_BETWEEN = 0.3  # panels


def grounding_table(results: Mapping[str, Grounding]) -> Table:
    """A row for the map of the word and for each control, a column a metric, as mean (95 % interval), and the
    difference from pairs of nouns.

    Args:
        results: by what the captions are: "predicted", "human". With one only, that column is left out.
    """
    columns = ["captions"] if len(results) > 1 else []
    columns.append("map")
    for metric in METRICS:
        columns += [metric.label, _BETTER]
    rows: list[tuple[Cell, ...]] = []
    for label, result in results.items():
        for key, name in MAPS.items():
            cells: list[Cell] = [label, name] if len(results) > 1 else [name]
            for metric in METRICS:
                cells.append(_mean(result.estimates.get(metric.key, {}).get(key)))
                cells.append(_lead(result.leads.get(metric.key, {}).get(key)))
            rows.append(tuple(cells))
    return Table(tuple(columns), tuple(rows))


def grounding_text(results: Mapping[str, Grounding]) -> str:
    """For a terminal: what was counted, a table and the finding, for each kind of captions by itself."""
    parts = [
        f"{f'{label}: ' if len(results) > 1 else ''}{_counts(result)}.\n\n"
        f"{grounding_table({label: result}).text()}\n\n{result.sentence}"
        for label, result in results.items()
    ]
    return "\n\n".join(
        [
            *parts,
            *(
                ["In brackets 95 % intervals over pictures. Nouns: whose region is known."]
                if _has_intervals(results)
                else []
            ),
        ]
    )


def save_grounding_figure(
    results: Mapping[str, Grounding], path: Path, metadata: Mapping[str, str], title: str = ""
) -> None:
    """Write :func:`grounding_figure` as PNG or SVG; see :func:`vitrine.plotting.style.save`."""
    save(grounding_figure(results, title), path, metadata)


def grounding_figure(results: Mapping[str, Grounding], title: str = "") -> Figure:
    """A group for each kind of captions, in it a row for the map of the word and for each control; a panel a metric:
    the mean as a point, its 95 % interval as a line, and the difference to the word map in numbers.

    All panels go from 0 to 1. The word map is in colour; controls are grey and hollow, and a dotted line carries the
    best of them up.

    Args:
        results: by what the captions are: "predicted captions", "human captions"; at least one.
        title: above it; by default a question.
    """
    with figure_style():
        names = text_size(list(MAPS.values()), LABEL, weight="bold")[0]
        left = MARGIN + names + 0.18
        width = (WIDTH - MARGIN - left - (len(METRICS) - 1) * _BETWEEN) / len(METRICS)
        group = _GROUP + len(MAPS) * _ROW + _APART
        figure = new_figure(WIDTH, _HEAD + len(results) * group + _FOOT)
        top = figure.get_size_inches()[1]
        add_text(figure, MARGIN, top - 0.33, title or "Do words look at what they name?", fontsize=TITLE, weight="bold")
        add_text(figure, MARGIN, top - 0.53, _detail(results), fontsize=SMALL, color=GREY)
        for index, metric in enumerate(METRICS):
            _heading(figure, metric, left + index * (width + _BETWEEN), width, top - 0.9)
        for number, (label, result) in enumerate(results.items()):
            ceiling = top - _HEAD - number * group
            add_text(figure, MARGIN, ceiling - 0.17, shorten(label, _LABEL), fontsize=LABEL, weight="bold")
            beside = MARGIN + text_size([shorten(label, _LABEL)], LABEL, weight="bold")[0] + 0.12
            add_text(figure, beside, ceiling - 0.17, _counts(result), fontsize=SMALL, color=GREY)
            add_text(figure, MARGIN, ceiling - 0.36, f"{result.finding}.", fontsize=SMALL, color=INK)
            floor = ceiling - _GROUP - len(MAPS) * _ROW
            _names(figure, MARGIN + names, ceiling - _GROUP)
            for index, metric in enumerate(METRICS):
                at = left + index * (width + _BETWEEN)
                axes = add_axes(figure, at, floor, width - _NUMBER - _LEAD, len(MAPS) * _ROW)
                _panel(axes, result, metric, last=number + 1 == len(results))
                _numbers(figure, result, metric, at + width, ceiling - _GROUP)
        return figure


def _heading(figure: Figure, metric: Metric, left: float, width: float, height: float) -> None:
    add_text(figure, left, height, metric.label, fontsize=LABEL, weight="bold" if metric == METRICS[0] else "normal")
    look = {"ha": "right", "fontsize": SMALL, "color": GREY}
    add_text(figure, left + width - _LEAD, height, "mean", **look)
    add_text(figure, left + width, height, _BETTER, **look)


def _names(figure: Figure, right: float, ceiling: float) -> None:
    for row, (key, name) in enumerate(MAPS.items()):
        look = {"color": _colour(key), "weight": "bold" if key == WORD else "normal", "fontsize": LABEL}
        add_text(figure, right, ceiling - (row + 0.5) * _ROW, name, ha="right", va="center_baseline", **look)


def _panel(axes: Axes, result: Grounding, metric: Metric, *, last: bool) -> None:
    axes.set(xlim=(0, 1), ylim=(len(MAPS), 0), yticks=[])
    ticks = (0.0, 0.5, 1.0)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks] if last else [])
    axes.tick_params(axis="x", length=0)
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.vlines(ticks, 0, len(MAPS), color=HAIRLINE, linewidth=0.6, zorder=0)
    row = result.estimates.get(metric.key)
    if row is None:
        note = axes.text(0.5, len(MAPS) / 2, "not measured", ha="center", va="center", fontsize=SMALL, color=GREY)
        note.set_backgroundcolor("white")
        return
    best = max(mean.mean for key, mean in row.items() if key != WORD)
    axes.plot([best, best], [0, len(MAPS)], ":", color=GREY, linewidth=1, zorder=1)
    for height, key in enumerate(MAPS):
        mean, colour = row[key], _colour(key)
        if mean.interval is not None:
            ends, heavy = [mean.interval.low, mean.interval.high], 2.2 if key == WORD else 1.5
            axes.plot(ends, [height + 0.5] * 2, color=colour, linewidth=heavy, zorder=2, clip_on=False)
        inside, size = (colour, 5.5) if key == WORD else ("white", 4.5)
        at = ([mean.mean], [height + 0.5])
        axes.plot(*at, "o", color=colour, mfc=inside, markersize=size, zorder=3, clip_on=False)


def _numbers(figure: Figure, result: Grounding, metric: Metric, right: float, ceiling: float) -> None:
    for row, key in enumerate(MAPS):
        mean = result.estimates.get(metric.key, {}).get(key)
        lead = _lead(result.leads.get(metric.key, {}).get(key))
        height = ceiling - (row + 0.5) * _ROW
        look = {"ha": "right", "va": "center_baseline", "fontsize": SMALL}
        if mean is not None:
            weight = "bold" if key == WORD else "normal"
            add_text(figure, right - _LEAD, height, f"{mean.mean:.2f}", color=_colour(key), weight=weight, **look)
        if lead is not None:
            add_text(figure, right, height, lead, color=GREY, **look)


def _colour(key: str) -> str:
    return ACCENT if key == WORD else GREY


def _counts(result: Grounding) -> str:
    by = METRICS[0].key
    parts = [f"{count_of(result.pictures, 'picture')}, {count_of(result.nouns, 'noun')}"]
    if result.absent_nouns:
        parts.append(
            f"{result.absent_nouns:,} more {'names' if result.absent_nouns == 1 else 'name'} what is not there"
        )
    without = [
        *([f"{result.tied_nouns(by):,} (all maps alike)"] if result.tied_nouns(by) else []),
        *([f"{result.unpaired_nouns:,} (no neighbour)"] if result.unpaired_nouns else []),
    ]
    if without:
        parts.append(f"left out: {', '.join(without)}")
    return "; ".join(parts)


def _has_intervals(results: Mapping[str, Grounding]) -> bool:
    return any(
        mean.interval for result in results.values() for row in result.estimates.values() for mean in row.values()
    )


def _detail(results: Mapping[str, Grounding]) -> str:
    lines = ["lines and brackets: 95 % intervals over pictures"] if _has_intervals(results) else []
    return "   ".join(["means over nouns whose region is known", *lines, "dotted: the best control"])


def mean_text(mean: ClusteredMean) -> str:
    """A mean with its interval, such as ``0.812 (0.75 to 0.88)``."""
    ends = "" if mean.interval is None else f" ({mean.interval.low:.2f} to {mean.interval.high:.2f})"
    return f"{mean.mean:.3f}{ends}"


def _mean(mean: ClusteredMean | None) -> str | None:
    return None if mean is None else mean_text(mean)


def _lead(difference: ClusteredMean | None) -> str | None:
    """A difference with its sign."""
    if difference is None:
        return None
    mean, interval = shown_number(difference.mean, sign=True), difference.interval
    return mean if interval is None else f"{mean} ({shown_number(interval.low)} to {shown_number(interval.high)})"
