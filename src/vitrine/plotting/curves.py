"""Learning curves of one run or several: loss and validation accuracy by epoch, from ``history.jsonl``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from vitrine.plotting.style import (
    GREY,
    INK,
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
from vitrine.results import count_of, percent

History = Sequence[Mapping[str, Any]]

_MEAN_AVERAGE_PRECISION = "validation_mean_average_precision"
_HEIGHT = 3.7
_LINE = 0.155  # inches between labels at the ends of lines


@dataclass(frozen=True)
class _Run:
    """One run's lines; ``best`` is an index into them."""

    name: str
    colour: str
    epochs: list[int]
    training: list[float]
    validation: list[float]
    accuracy: list[float]
    best: int
    score: str


def save_learning_curves(runs: Mapping[str, History], path: Path, metadata: Mapping[str, str]) -> None:
    """Write :func:`learning_curves` as PNG or SVG; see :func:`vitrine.plotting.style.save`."""
    save(learning_curves(runs), path, metadata)


def learning_curves(runs: Mapping[str, History]) -> Figure:
    """Loss and validation accuracy by epoch, the best epoch of each run marked with a ring.

    Args:
        runs: rows of ``history.jsonl`` by the run's name, 1 to 7 runs: ``epoch`` (from 1), ``train_loss``,
            ``validation_loss``, ``validation_accuracy`` (0 to 1), ``best`` (the last that is true is the best).
            Where rows have ``validation_mean_average_precision``, that is drawn in place of the accuracy.

    Raises:
        ValueError: there is no run, a run without rows, or more runs than lines can be told apart.
        KeyError: a row lacks an entry.
    """
    if not 1 <= len(runs) <= len(SERIES) or not all(runs.values()):
        raise ValueError(
            f"Learning curves need 1 to {count_of(len(SERIES), 'run')}, each with an epoch at least; got {len(runs)}."
        )
    with figure_style():
        figure = new_figure(WIDTH, _HEIGHT)
        lines = [
            _run(name, colour, rows) for (name, rows), colour in zip(runs.items(), SERIES[: len(runs)], strict=True)
        ]
        losses = _loss_labels(lines)
        finals = [_accuracy_label(run, alone=len(lines) == 1) for run in lines]
        margins = [text_size([label for label, _, _ in labels], SMALL)[0] + 0.14 for labels in (losses, finals)]
        width = (WIDTH - 2 * MARGIN - 2 * 0.5 - sum(margins) - 0.25) / 2
        left = MARGIN + 0.5
        loss = add_axes(figure, left, 0.55, width, _HEIGHT - 1.23)
        accuracy = add_axes(figure, left + width + margins[0] + 0.75, 0.55, width, _HEIGHT - 1.23)
        _draw_losses(loss, lines)
        _draw_accuracies(accuracy, lines)
        several = "" if len(lines) == 1 else "   solid: validation, dotted: training"
        _finish(figure, loss, "Loss", f"lower is better{several}", losses, lines)
        scores = list(dict.fromkeys(f"Validation {run.score}" for run in lines))
        _finish(figure, accuracy, " and ".join(scores), _describe_rings(lines), finals, lines)
        return figure


def _run(name: str, colour: str, rows: History) -> _Run:
    best_epochs = [i for i, row in enumerate(rows) if row["best"]]
    is_multi_label = all(_MEAN_AVERAGE_PRECISION in row for row in rows)
    score = _MEAN_AVERAGE_PRECISION if is_multi_label else "validation_accuracy"
    accuracy = [float(row[score]) for row in rows]
    return _Run(
        name=shorten(name),
        colour=colour,
        epochs=[int(row["epoch"]) for row in rows],
        training=[float(row["train_loss"]) for row in rows],
        validation=[float(row["validation_loss"]) for row in rows],
        accuracy=accuracy,
        best=best_epochs[-1] if best_epochs else int(np.argmax(accuracy)),
        score="mean average precision" if is_multi_label else "accuracy",
    )


def _loss_labels(lines: Sequence[_Run]) -> list[tuple[str, float, str]]:
    """(label, height at the line's end, colour)."""
    if len(lines) > 1:
        return []
    (run,) = lines
    return [("validation", run.validation[-1], run.colour), ("training", run.training[-1], GREY)]


def _accuracy_label(run: _Run, *, alone: bool) -> tuple[str, float, str]:
    """(label, height at the line's end, colour): what a line ends with; of several, whose it is and its best."""
    label = percent(run.accuracy[-1]) if alone else f"{run.name}  best {percent(run.accuracy[run.best])}"
    return label, run.accuracy[-1], run.colour


def _describe_rings(lines: Sequence[_Run]) -> str:
    if len(lines) > 1:
        return "ring: best epoch"
    (run,) = lines
    return f"ring: best epoch, {run.epochs[run.best]}, with {percent(run.accuracy[run.best])}"


def _draw_losses(axes: Axes, lines: Sequence[_Run]) -> None:
    for run in lines:
        colour = GREY if len(lines) == 1 else run.colour
        axes.plot(run.epochs, run.training, color=colour, linewidth=1.2, linestyle=(0, (1, 1.6)), **_dot(run))
        axes.plot(run.epochs, run.validation, color=run.colour, **_dot(run))
    # Zero is a loss's floor: in sight unless the curves are far above it.
    low, high = axes.get_ylim()
    single = all(len(run.epochs) == 1 for run in lines)
    axes.set_ylim(0 if single or low < 0.5 * high else low, high)


def _draw_accuracies(axes: Axes, lines: Sequence[_Run]) -> None:
    for run in lines:
        axes.plot(run.epochs, run.accuracy, color=run.colour, **_dot(run))
        point = ([run.epochs[run.best]], [run.accuracy[run.best]])
        look: dict[str, Any] = {
            "markersize": 6.5,
            "markerfacecolor": "white",
            "markeredgecolor": run.colour,
            "markeredgewidth": 1.8,
        }
        axes.plot(*point, "o", clip_on=False, zorder=5, **look)
    values = [value for run in lines for value in run.accuracy]
    room = max(0.02, 0.08 * (max(values) - min(values)))
    axes.set_ylim(max(0.0, min(values) - room), min(1.0 + room / 4, max(values) + room))
    axes.yaxis.set_major_formatter(FuncFormatter(percent_tick))


def _dot(run: _Run) -> dict[str, Any]:
    """A line of one epoch has no length, so it is a dot."""
    return {"marker": "o", "markersize": 4, "clip_on": False} if len(run.epochs) == 1 else {}


def _finish(
    figure: Figure,
    axes: Axes,
    title: str,
    detail: str,
    labels: Sequence[tuple[str, float, str]],
    lines: Sequence[_Run],
) -> None:
    last = max(run.epochs[-1] for run in lines)
    first = min(run.epochs[0] for run in lines)
    span = max(1, last - first)
    axes.set_xlim(first - 0.02 * span, last + 0.02 * span)
    if last == first:
        axes.set_xticks([first])
    else:
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=2))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.grid(axis="y")
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("epoch", loc="right", labelpad=2, fontsize=SMALL)
    box = axes.get_position()
    left, top = box.x0 * WIDTH, box.y1 * _HEIGHT
    add_text(figure, left - 0.5, top + 0.37, title, fontsize=TITLE, weight="bold", color=INK)
    add_text(figure, left - 0.5, top + 0.18, detail, fontsize=SMALL, color=GREY)
    _label_ends(figure, axes, labels)


def _label_ends(figure: Figure, axes: Axes, labels: Sequence[tuple[str, float, str]]) -> None:
    """Labels to the right of the axes at the heights of their lines' ends, moved apart where they would touch."""
    box = axes.get_position()
    low, high = axes.get_ylim()
    bottom, height = box.y0 * _HEIGHT, box.height * _HEIGHT
    order = sorted(range(len(labels)), key=lambda i: labels[i][1])
    heights = [bottom + (labels[i][1] - low) / (high - low) * height for i in order]
    for i, up in zip(order, space_apart(heights, _LINE), strict=True):
        label, _, colour = labels[i]
        add_text(figure, box.x1 * WIDTH + 0.1, up, label, fontsize=SMALL, color=colour, va="center")


def space_apart(targets: Sequence[float], gap: float) -> list[float]:
    """Places at least ``gap`` apart that are as near as possible to ascending targets, by least squares.

    Neighbours that are too near become a group around the mean of what they wanted, and groups merge until none touch:
    the least squares solution (pool adjacent violators, Ayer et al. 1955).
    """
    groups: list[tuple[float, int]] = []  # (sum of wanted places less their offsets in the group, members)
    for index, place_ in enumerate(targets):
        groups.append((place_ - index * gap, 1))
        while len(groups) > 1 and groups[-2][0] / groups[-2][1] > groups[-1][0] / groups[-1][1]:
            (total, members), (more, others) = groups[-2:]
            groups[-2:] = [(total + more, members + others)]
    places = [total / members for total, members in groups for _ in range(members)]
    return [base + index * gap for index, base in enumerate(places)]
