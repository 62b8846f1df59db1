"""What a sweep has to do: its runs, how far each is, and about how long the rest takes."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from vitrine.errors import RunError
from vitrine.models.run_folder import RunFolder
from vitrine.recipes import Recipe
from vitrine.recipes.sweep import Sweep, SweepRun
from vitrine.report.tables import Table
from vitrine.workflows.finding_runs import FAILED, failure
from vitrine.workflows.run_record import read_timings

State = Literal["finished", "unfinished", "failed", "new"]


@dataclass(frozen=True)
class PlannedRun:
    """A run of a sweep and how far it is.

    Attributes:
        run: what is trained.
        folder: where.
        state: failed runs are tried again.
        epochs: that are done.
        error: of a failed run, its first line.
    """

    run: SweepRun
    folder: Path
    state: State
    epochs: int
    error: str = ""

    @property
    def left(self) -> int:
        """Epochs that are not done."""
        return 0 if self.state == "finished" else max(0, self.run.recipe.epochs - self.epochs)


@dataclass(frozen=True)
class Estimate:
    """How long the rest of a sweep takes if every epoch takes as long as one that was measured.

    Attributes:
        seconds: with the jobs that were asked for.
        epoch_seconds: of the epoch, with its evaluation.
        measured_in: the run whose first epoch it was.
        epochs: that are left, of all runs.
    """

    seconds: float
    epoch_seconds: float
    measured_in: str
    epochs: int


@dataclass(frozen=True)
class SweepPlan:
    """A sweep before it runs.

    Attributes:
        data: reference of the data.
        out: folder of the runs.
        runs: in the order of the file.
        estimate: None where no epoch of any run has been measured yet.
    """

    data: str
    out: Path
    runs: tuple[PlannedRun, ...]
    estimate: Estimate | None

    def text(self) -> str:
        """The runs, and how long they take."""
        rows = tuple(
            (each.run.name, each.state, f"{each.epochs} of {each.run.recipe.epochs}", each.error or None)
            for each in self.runs
        )
        shown = Table(("run", "state", "epochs", "error"), rows)
        if not any(each.error for each in self.runs):
            shown = Table(shown.columns[:-1], tuple(row[:-1] for row in rows))
        todo = sum(each.state != "finished" for each in self.runs)
        return (
            f"{shown.text()}\n\n{todo} of {len(self.runs)} runs are to be trained on {self.data}, into {self.out}.\n"
            + (self._duration())
        )

    def _duration(self) -> str:
        if self.estimate is None:
            return "How long that takes is not known before the first epoch of a run."
        e = self.estimate
        return (
            f"About {duration(e.seconds)}, if each of the {e.epochs} epochs that are left takes as long as the first "
            f"of {e.measured_in} ({e.epoch_seconds:.1f} s)."
        )

    def to_dict(self) -> dict[str, object]:
        """JSON-ready."""
        runs = [
            {"run": each.run.name, "state": each.state, "epochs": each.epochs, "of": each.run.recipe.epochs}
            | ({"error": each.error} if each.error else {})
            for each in self.runs
        ]
        estimate = None if self.estimate is None else vars(self.estimate)
        return {"data": self.data, "out": str(self.out), "runs": runs, "estimate": estimate}


def plan_sweep(sweep: Sweep, out: Path, jobs: int = 1) -> SweepPlan:
    """See how far the runs in a folder are.

    Raises:
        RunError: a run was begun with another recipe or on other data.
    """
    runs = tuple(_planned(run, out / run.name, sweep.data) for run in sweep.runs)
    return SweepPlan(sweep.data, out, runs, _estimate(runs, jobs))


def _planned(run: SweepRun, path: Path, data: str) -> PlannedRun:
    folder = RunFolder(path)
    if folder.started:
        _require_same(folder, run.recipe, data)
    epochs = len(folder.history()) if folder.started else 0
    if folder.started and folder.finished:
        return PlannedRun(run, path, "finished", epochs)
    if (path / FAILED).is_file():
        return PlannedRun(run, path, "failed", epochs, failure(path))
    return PlannedRun(run, path, "unfinished" if folder.started else "new", epochs)


def _require_same(folder: RunFolder, recipe: Recipe, data: str) -> None:
    before = folder.recipe()
    for field in fields(Recipe):
        then, now = getattr(before, field.name), getattr(recipe, field.name)
        if then != now:
            raise RunError(
                f"{folder.path} was begun with another recipe: {field.name} was {then!r}, now {now!r}.\n"
                "Put the sweep's file back as it was, or choose another -o."
            )
    reference = json.loads((folder.path / "data.json").read_text("utf-8"))["reference"]
    if reference != data:
        raise RunError(
            f"{folder.path} was begun on other data: {reference}, now {data}.\n"
            "Put the sweep's file back as it was, or choose another -o."
        )


def _estimate(runs: tuple[PlannedRun, ...], jobs: int) -> Estimate | None:
    left = sum(each.left for each in runs)
    todo = sum(each.state != "finished" for each in runs)
    for each in runs:
        timings = read_timings(each.folder)
        if timings:
            seconds = timings[0]["train_seconds"] + timings[0]["evaluation_seconds"]
            return Estimate(seconds * left / max(1, min(jobs, todo)), seconds, each.run.name, left)
    return None


def duration(seconds: float) -> str:
    """``40 s``, ``12 min``, ``3.5 h``, ``2.1 days``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5_400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 129_600 else f"{seconds / 86_400:.1f} days"
