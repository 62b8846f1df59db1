"""``vitrine sweep``: trains every run of a sweep, each in a process of its own, and compares them.

A run that fails is recorded and does not stop the others; the same call continues an interrupted sweep.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from vitrine.compare.run import ComparisonResult, compare
from vitrine.config import Recipe
from vitrine.config.recipe_rules import adopt
from vitrine.config.sweep import Sweep, SweepRun, load_sweep
from vitrine.display import ResultDisplay
from vitrine.errors import RunError, UsageError
from vitrine.io.files import to_json, write_atomically
from vitrine.io.output_lock import writes_folder
from vitrine.plotting.tables import Table
from vitrine.results import agree, count_of, duration
from vitrine.runs.find import FAILURE_FILE, read_failure
from vitrine.runs.folder import RunFolder
from vitrine.sweep.worker import Failure, RunProcess, environments, wait_until_free
from vitrine.train.events import Event
from vitrine.version import __version__

State = Literal["finished", "unfinished", "failed", "new"]


@dataclass(frozen=True)
class PlannedRun:
    """A run of a sweep and how far it is.

    Attributes:
        run: what is trained.
        folder: where.
        state: failed runs are tried again.
        epochs: how many are done.
        error: first line of why a failed run failed.
    """

    run: SweepRun
    folder: Path
    state: State
    epochs: int
    error: str = ""

    @property
    def total(self) -> int | None:
        """Epochs in all; None where a rule chooses them when the training starts."""
        return None if "epochs" in self.run.recipe.automatic else self.run.recipe.epochs

    @property
    def left(self) -> int | None:
        """Epochs that are not done; None where that is not known yet."""
        if self.state == "finished" or self.total is None:
            return 0 if self.state == "finished" else None
        return max(0, self.total - self.epochs)


@dataclass(frozen=True)
class Estimate:
    """How long the rest of a sweep takes if every epoch takes as long as one that was measured.

    Attributes:
        seconds: with the jobs that were asked for.
        epoch_seconds: that one epoch took, with its evaluation.
        measured_in: name of the run whose first epoch it was.
        epochs: how many are left, of all runs.
    """

    seconds: float
    epoch_seconds: float
    measured_in: str
    epochs: int


@dataclass(frozen=True, repr=False)
class SweepPlan(ResultDisplay):
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

    def headline(self) -> str:
        """How many runs, and how far they are."""
        return (
            f"{count_of(len(self.runs), 'run')}, {sum(each.state == 'finished' for each in self.runs)} of them finished"
        )

    def details(self) -> str:
        """The plan."""
        return self.text()

    def table_rows(self) -> Sequence[Mapping[str, Any]]:
        """A row a run."""
        return [{"run": each.run.name, "state": each.state, "epochs": each.epochs} for each in self.runs]

    def text(self) -> str:
        """The runs with their states, and how long the rest takes, for a terminal."""
        rows = tuple(
            (each.run.name, each.state, f"{each.epochs} of {each.total or 'some'}", each.error or None)
            for each in self.runs
        )
        table = Table(("run", "state", "epochs", "error"), rows)
        if not any(each.error for each in self.runs):
            table = Table(table.columns[:-1], tuple(row[:-1] for row in rows))
        todo = sum(each.state != "finished" for each in self.runs)
        return (
            f"{table.text()}\n\n{todo} of {count_of(len(self.runs), 'run')} {agree(todo, 'is', 'are')} to be "
            f"trained on {self.data}, into {self.out}.\n" + (self._duration())
        )

    def _duration(self) -> str:
        if self.estimate is None:
            return "How long that takes is not known before the first epoch of a run."
        e = self.estimate
        return (
            f"About {duration(e.seconds)}, if each of the {count_of(e.epochs, 'epoch')} that "
            f"{agree(e.epochs, 'is', 'are')} left takes as long as the first "
            f"of {e.measured_in} ({e.epoch_seconds:.1f} s)."
        )

    def to_dict(self) -> dict[str, object]:
        """JSON-ready."""
        runs = [
            {"run": each.run.name, "state": each.state, "epochs": each.epochs, "of": each.total}
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
    runs = tuple(_plan_run(run, out / run.name, sweep.data) for run in sweep.runs)
    return SweepPlan(sweep.data, out, runs, _estimate(runs, jobs))


def _plan_run(run: SweepRun, path: Path, data: str) -> PlannedRun:
    folder = RunFolder(path)
    if folder.is_started:
        run = replace(run, recipe=adopt(run.recipe, folder.read_recipe()))
        _check_unchanged(folder, run.recipe, data)
    epochs = len(folder.read_history()) if folder.is_started else 0
    if folder.is_started and folder.is_finished:
        return PlannedRun(run, path, "finished", epochs)
    if (path / FAILURE_FILE).is_file():
        return PlannedRun(run, path, "failed", epochs, read_failure(path))
    return PlannedRun(run, path, "unfinished" if folder.is_started else "new", epochs)


def _check_unchanged(folder: RunFolder, recipe: Recipe, data: str) -> None:
    before = folder.read_recipe()
    for field in fields(Recipe):
        then, now = getattr(before, field.name), getattr(recipe, field.name)
        if then != now:
            raise RunError(
                f"{folder.path} was begun with another recipe: {field.name} was {then!r}, now {now!r}.\n"
                "Put the sweep's file back as it was, or choose another -o."
            )
    reference = folder.read_data()["reference"]
    if reference != data:
        raise RunError(
            f"{folder.path} was begun on other data: {reference}, now {data}.\n"
            "Put the sweep's file back as it was, or choose another -o."
        )


def _estimate(runs: tuple[PlannedRun, ...], jobs: int) -> Estimate | None:
    numbers = [each.left for each in runs]
    if None in numbers:
        return None
    left = sum(number or 0 for number in numbers)
    todo = sum(each.state != "finished" for each in runs)
    for each in runs:
        timings = RunFolder(each.folder).read_timings()
        if timings:
            seconds = timings[0]["train_seconds"] + timings[0]["evaluation_seconds"]
            return Estimate(seconds * left / max(1, min(jobs, todo)), seconds, each.run.name, left)
    return None


COMPARISON = "comparison"
"""Folder of the tables and figures, beside the runs."""


@dataclass(frozen=True)
class RunStarted:
    """A run's training starts: the ``number``-th of ``of`` that are to be trained.

    ``is_resumed`` says whether it continues an earlier, stopped training.
    """

    name: str
    number: int
    of: int
    is_resumed: bool


@dataclass(frozen=True)
class RunEvent:
    """An event of one run's training."""

    name: str
    event: Event


@dataclass(frozen=True)
class RunEnded:
    """A run's training ended after some seconds; ``failure`` says why, or is None where it finished."""

    name: str
    seconds: float
    failure: Failure | None


SweepEvent = SweepPlan | RunStarted | RunEvent | RunEnded
Report = Callable[[SweepEvent], None]


@dataclass(frozen=True, repr=False)
class SweepResult(ResultDisplay):
    """A sweep that ran.

    Attributes:
        plan: what was to be done.
        trained_runs: names of the runs that finished in this call.
        skipped_runs: names of those that had finished before.
        failures: why runs failed, by name.
        comparison: of all finished runs; None where there is none.
    """

    plan: SweepPlan
    trained_runs: tuple[str, ...]
    skipped_runs: tuple[str, ...]
    failures: dict[str, Failure]
    comparison: ComparisonResult | None

    def headline(self) -> str:
        """How many runs, and how far they are."""
        failures = f", {len(self.failures)} failed" if self.failures else ""
        return f"{count_of(len(self.trained_runs), 'run')} trained, {len(self.skipped_runs)} skipped{failures}"

    def details(self) -> str:
        """The comparison."""
        return self.text()

    def table_rows(self) -> Sequence[Mapping[str, Any]]:
        """A row a run."""
        return () if self.comparison is None else self.comparison.table_rows()

    def text(self) -> str:
        """For a terminal: the comparison, and what was done."""
        counts = (
            f"{count_of(len(self.trained_runs), 'run')} trained, {len(self.skipped_runs)} finished before, "
            f"{len(self.failures)} failed."
        )
        failures = [f"Failed: {name}: {why.error.splitlines()[0]}" for name, why in self.failures.items()]
        comparison = [self.comparison.text(), ""] if self.comparison is not None else []
        return "\n".join([*comparison, counts, *failures])

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "out": str(self.plan.out),
            "trained": list(self.trained_runs),
            "skipped": list(self.skipped_runs),
            "failed": {name: asdict(why) for name, why in self.failures.items()},
            "comparison": None if self.comparison is None else self.comparison.to_dict(),
        }


def plan(file: Path, out: Path, *, jobs: int = 1) -> SweepPlan:
    """What :func:`sweep` would do; nothing is written.

    Raises:
        RecipeError: the file cannot be used.
        RunError: a run in ``out`` was begun with another recipe or on other data.
        UsageError: jobs is not 1 or more.
    """
    if jobs < 1:
        raise UsageError(f"--jobs {jobs} cannot be used: expected 1 or more.")
    return plan_sweep(load_sweep(file), out, jobs)


@writes_folder("sweep")
def sweep(
    file: Path,
    out: Path,
    *,
    jobs: int = 1,
    report: Report = lambda _: None,
    start: Callable[..., RunProcess] = RunProcess,
) -> SweepResult:
    """Train every run of a sweep that is not finished, each in a process of its own, and compare them.

    The same call continues an interrupted sweep: finished runs are skipped, unfinished and failed ones continued.
    The trainings end with this process, however it ends.

    Args:
        file: the SWEEP.toml; see :func:`vitrine.config.sweep.load_sweep`.
        out: folder of the run folders.
        jobs: processes at a time; with several, each has a GPU of its own where there are as many, and writes what it
            prints to log.txt in its run's folder.
        report: called with every event, from the calling thread.
        start: starts the process of one run.

    Raises:
        RecipeError, RunError, UsageError: see :func:`plan`; nothing was trained.
    """
    schedule = plan(file, out, jobs=jobs)
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / "sweep.toml", load_sweep(file).text)
    report(schedule)
    todo = [each for each in schedule.runs if each.state != "finished"]
    failures = _Pool(schedule, todo, jobs, report, start).run() if todo else {}
    skipped_runs = tuple(each.run.name for each in schedule.runs if each.state == "finished")
    trained_runs = tuple(each.run.name for each in todo if each.run.name not in failures)
    folders = [str(each.folder) for each in schedule.runs if each.run.name in (*skipped_runs, *trained_runs)]
    comparison = compare(folders, out=out / COMPARISON) if folders else None
    return SweepResult(schedule, trained_runs, skipped_runs, failures, comparison)


class _Pool:
    """Threads that each start one process after another; only the calling thread reports."""

    def __init__(
        self, schedule: SweepPlan, todo: list[PlannedRun], jobs: int, report: Report, start: Callable[..., RunProcess]
    ) -> None:
        self.data, self.todo, self.jobs, self.report, self.start = schedule.data, todo, jobs, report, start
        self._waiting = list(enumerate(todo, 1))
        self._events: queue.SimpleQueue[SweepEvent | BaseException | None] = queue.SimpleQueue()
        self._running: set[RunProcess] = set()
        self._lock = threading.Lock()
        self._is_stopped = False

    def run(self) -> dict[str, Failure]:
        """Train all; returns the failures by name."""
        slots = environments(min(self.jobs, len(self.todo)))
        threads = [threading.Thread(target=self._work, args=(slot,), daemon=True) for slot in slots]
        for thread in threads:
            thread.start()
        failures: dict[str, Failure] = {}
        busy = len(threads)
        try:
            while busy:
                event = self._events.get()
                if event is None:  # a thread has no more runs
                    busy -= 1
                elif isinstance(event, BaseException):
                    raise event
                else:
                    if isinstance(event, RunEnded) and event.failure is not None:
                        failures[event.name] = event.failure
                    self.report(event)
        finally:  # after an interruption too, so that no training goes on unseen
            self._stop()
        return failures

    def _stop(self) -> None:
        with self._lock:
            self._is_stopped = True
            running = tuple(self._running)
        for process in running:
            process.stop()

    def _work(self, environment: dict[str, str]) -> None:
        try:
            while True:
                with self._lock:
                    if self._is_stopped or not self._waiting:
                        break
                    number, run = self._waiting.pop(0)
                self._train(number, run, environment)
        except BaseException as error:  # the calling thread raises it
            self._events.put(error)
        self._events.put(None)

    def _train(self, number: int, planned_run: PlannedRun, environment: dict[str, str]) -> None:
        name, folder, start_time = planned_run.run.name, planned_run.folder, time.monotonic()
        self._events.put(RunStarted(name, number, len(self.todo), planned_run.state != "new"))
        if not wait_until_free(folder):
            busy = Failure(f"{folder} is in use by another training.", "RunError")
            self._events.put(RunEnded(name, time.monotonic() - start_time, busy))
            return
        folder.mkdir(exist_ok=True)  # for the log and a failure's record
        (folder / FAILURE_FILE).unlink(missing_ok=True)
        with self._lock:
            if self._is_stopped:
                return
            output = folder / "log.txt" if self.jobs > 1 else None
            process = self.start(planned_run.run, self.data, folder, environment, output)
            self._running.add(process)
        for event in process.events():
            self._events.put(RunEvent(name, event))
        with self._lock:
            self._running.discard(process)
            is_stopped = self._is_stopped
        if process.failure is not None and not is_stopped:
            content = asdict(process.failure) | {"vitrine": __version__}
            write_atomically(folder / FAILURE_FILE, to_json(content))
        self._events.put(RunEnded(name, time.monotonic() - start_time, process.failure))
