"""Runs side by side: what was set and what came out, as tables and figures; and what the tests say of each pair."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from vitrine.report.curves import History, learning_curves
from vitrine.report.settings import settings_figure
from vitrine.report.style import SERIES, shortened
from vitrine.report.tables import Cell, Setting, Table
from vitrine.results import Interval

MOST_CURVES = len(SERIES)
"""Learning curves that a figure can tell apart."""


@dataclass(frozen=True)
class RunRow:
    """A classifier's run as a row.

    Attributes:
        name: what tables and figures call it.
        settings: what was set, by name; the same names in every row.
        accuracy, interval: on its validation pictures, 0 to 1, with the 95 % interval (Wilson).
        n: validation pictures.
        loss: negative log-likelihood, mean over the pictures, in nats.
        calibration_error: expected calibration error, 0 to 1.
        best_epoch: whose weights these are, from 1.
        pictures_per_second: of training, over all epochs; None where no times were kept.
        peak_memory_mib: the largest resident memory of the process; None likewise.
        seconds: of training and measuring its epochs; None likewise.
    """

    name: str
    settings: Mapping[str, Cell]
    accuracy: float
    interval: Interval
    n: int
    loss: float
    calibration_error: float
    best_epoch: int
    pictures_per_second: float | None
    peak_memory_mib: float | None
    seconds: float | None

    def outcome(self) -> dict[str, Cell]:
        """What came out, by column."""
        return {
            "accuracy": f"{self.accuracy:.4f}",
            "95 % interval": f"{self.interval.low:.4f} to {self.interval.high:.4f}",
            "n": self.n,
            "loss": f"{self.loss:.4f}",
            "calibration error": f"{self.calibration_error:.4f}",
            "best epoch": self.best_epoch,
            "pictures/s": _whole(self.pictures_per_second),
            "peak MiB": _whole(self.peak_memory_mib),
            "seconds": _whole(self.seconds),
        }


@dataclass(frozen=True)
class CaptionerRow:
    """A captioner's run as a row: its accuracy is of word pieces, so it is not among the classifiers.

    Attributes:
        name: what tables call it.
        accuracy: share of word pieces that were the likeliest after those before them, 0 to 1.
        pieces: how many there were.
        n: validation pictures.
        loss: mean over the pieces, in nats.
        exact, exact_interval: pictures whose caption is word for word one of their own, and the 95 % interval of their
            share (Wilson).
        settings: what was set, by name; the same names in every row.
    """

    name: str
    accuracy: float
    pieces: int
    n: int
    loss: float
    exact: int
    exact_interval: Interval
    settings: Mapping[str, Cell]


def settings_of_runs(rows: Sequence[RunRow]) -> Table:
    """What was set: a row a run."""
    names = tuple(rows[0].settings) if rows else ()
    return Table(("run", *names), tuple((row.name, *row.settings.values()) for row in rows))


def outcomes_of_runs(rows: Sequence[RunRow]) -> Table:
    """What came out: a row a run."""
    names = tuple(rows[0].outcome()) if rows else ()
    return Table(("run", *names), tuple((row.name, *row.outcome().values()) for row in rows))


def runs_table(rows: Sequence[RunRow]) -> Table:
    """Both in one table, for files."""
    what, came = settings_of_runs(rows), outcomes_of_runs(rows)
    joined = tuple((*one, *other[1:]) for one, other in zip(what.rows, came.rows, strict=True))
    return Table((*what.columns, *came.columns[1:]), joined)


def captioners_table(rows: Sequence[CaptionerRow]) -> Table:
    """Captioners, what was set and what came out: a row a run."""
    names = tuple(rows[0].settings) if rows else ()
    columns = ("piece accuracy", "pieces", "loss", "exact captions", "95 % interval", "pictures")
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
        )
        for row in rows
    )
    return Table(("captioner", *names, *columns), cells)


def figure_labels(rows: Sequence[RunRow], varied: Sequence[str]) -> dict[str, str]:
    """What figures call runs, by name: the name, or where names are too long for a figure, the settings that vary."""
    names = {row.name: row.name for row in rows}
    if all(shortened(name) == name for name in names):
        return names
    for shown in (lambda name, cell: f"{name} {cell}", lambda _, cell: cell):
        table = Table(tuple(varied), tuple(tuple(row.settings[name] for name in varied) for row in rows)).cells()
        labels = [", ".join(map(shown, varied, cells)) for cells in table]
        if len({shortened(label) for label in labels}) == len(rows):
            return dict(zip(names, labels, strict=True))
    return names


def accuracy_figure(rows: Sequence[RunRow], varied: Sequence[str], final: str | None = None) -> Figure:
    """A dot with its 95 % interval for every run, best first, beside the settings in ``varied``.

    Names that are too long for a figure are left out where the settings tell the runs apart.

    Args:
        rows: the runs.
        varied: which settings.
        final: the name of the run that is the final result, which is in colour.
    """
    values = [{name: row.settings[name] for name in varied} for row in rows]
    told = len({tuple(each.items()) for each in values}) == len(rows) and len(rows) > 1
    named = not told or all(shortened(row.name) == row.name for row in rows)
    settings = [
        Setting(({"run": row.name} if named else {}) | each, row.accuracy, row.interval, row.n, row.name == final)
        for row, each in zip(rows, values, strict=True)
    ]
    return settings_figure(settings, title="Validation accuracy by run")


def curves_figure(histories: Mapping[str, History]) -> tuple[Figure, tuple[str, ...]]:
    """Learning curves of the first runs, as many as can be told apart, and the names of those drawn."""
    drawn = dict(list(histories.items())[:MOST_CURVES])
    return learning_curves(drawn), tuple(drawn)


def _whole(value: float | None) -> int | None:
    return None if value is None else round(value)
