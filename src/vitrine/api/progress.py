"""Progress of long work: bars on a terminal and in notebooks, and lines of trainings, unless it shall be quiet."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from vitrine import messages
from vitrine.printable import printable_line
from vitrine.results import agree, count_of

if TYPE_CHECKING:
    from rich.progress import Progress

    from vitrine.bulk.run import BulkResult
    from vitrine.train.events import EpochRow, Event, Plan


def say_notes(sentences: Iterable[str]) -> None:
    """What has to be known of files and decisions."""
    for sentence in sentences:
        messages.say(sentence)


def say_unreadable(some: Sequence[tuple[str, str]], count: int = 0, table: object = None) -> None:
    """The first unreadable pictures with their reasons, and where all are listed if there is a table."""
    for name, reason in some[:10]:
        messages.say(f"not readable: {printable_line(name)}: {printable_line(reason)}")
    if count:
        messages.say(f"{count_of(count, 'picture')} could not be read; all are in {table}.")


def say_unwritten(some: Sequence[tuple[str, str]]) -> None:
    """The first pictures whose figure could not be written with their reasons, and how many there are."""
    for name, reason in some[:10]:
        messages.say(f"no figure: {printable_line(name)}: {printable_line(reason)}")
    if some:
        messages.say(f"{count_of(len(some), 'figure')} could not be written.")


def say_bulk_result(result: BulkResult, what: str) -> None:
    """What a bulk job made, of so many of ``what``, and what it could not read."""
    say_notes(result.notes)
    earlier = f", {result.resumed_parts} of them from before" if result.resumed_parts else ""
    parts = count_of(result.parts, "part")
    messages.say(f"{result.rows} {what} in {result.out} ({result.precision}; {parts}{earlier}).")
    say_unreadable(result.unreadable, result.unreadable_count, result.unreadable_table)


def is_first_process() -> bool:
    """Of several processes that a launcher started, the first one tells."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def _bars() -> Iterator[Progress]:
    """Bars of work, and below them one for each file that is downloaded for it."""
    from rich.markup import escape

    with _progress() as progress:
        tasks: dict[str, Any] = {}

        def report(name: str, done: int, total: int) -> None:
            if name not in tasks:
                tasks[name] = progress.add_task(f"Downloading {escape(printable_line(name))}", total=None, note="MB")
            progress.update(tasks[name], completed=done / 1e6, total=total / 1e6 or None)

        with messages.showing_downloads(report):
            yield progress


def _progress() -> Progress:
    """Bars on a terminal and in a notebook; elsewhere, and where it shall be quiet, none."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    if console.is_jupyter and messages.shows_progress():
        return _notebook_bars(columns)
    is_wanted = console.is_terminal and not console.is_jupyter and messages.shows_progress()
    return Progress(*columns, console=console, transient=True, disable=not is_wanted)


_SECONDS_BETWEEN = 0.3  # two pictures of the bars in a notebook: each is a message to the browser


def _notebook_bars(columns: Sequence[Any]) -> Progress:
    """Bars in a notebook's cell, which are gone when the work is done. They need nothing beside IPython."""
    from IPython.display import HTML, display
    from rich.console import Console
    from rich.progress import Progress

    class NotebookBars(Progress):
        """Bars that are sent to the cell as a whole; where there is no terminal, rich itself draws nothing."""

        def __init__(self) -> None:
            console = Console(file=io.StringIO(), record=True, width=100, force_jupyter=False)
            super().__init__(*columns, console=console, disable=True)
            self._cell, self._since = None, -_SECONDS_BETWEEN

        def start(self) -> None:
            self._cell = display(HTML(""), display_id=True)

        def stop(self) -> None:
            if self._cell is not None:
                self._cell.update(HTML(""))

        def update(self, *args: Any, **fields: Any) -> None:
            super().update(*args, **fields)
            if self._cell is not None and time.monotonic() - self._since >= _SECONDS_BETWEEN:
                self._since = time.monotonic()
                self.console.print(self.get_renderable())
                self._cell.update(HTML(self.console.export_html(inline_styles=True, code_format="<pre>{code}</pre>")))

    return NotebookBars()


@contextmanager
def reading_progress(what: str) -> Iterator[Callable[..., None]]:
    """A bar over ``(done, total)``, and a note of what is being done where one is given; total 0 means not known."""
    with _bars() as progress:
        task = progress.add_task(what, total=None, note="")

        def report(done: int, total: int, note: str = "") -> None:
            progress.update(task, completed=done, total=total or None, note=note)

        yield report


@contextmanager
def named_progress() -> Iterator[Callable[[str, int, int], None]]:
    """A bar for each kind of work, over ``(what, done, total)``."""
    with _bars() as progress:
        tasks: dict[str, Any] = {}

        def report(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = progress.add_task(what, total=None, note="")
            progress.update(tasks[what], completed=done, total=total or None)

        yield report


@contextmanager
def training_progress() -> Iterator[Callable[[Event], None]]:
    """A bar over optimizer steps with pictures/s, and one line an epoch."""
    with _bars() as progress:
        yield _TrainingLines(progress)


class _TrainingLines:
    """Shows a training's events. A line is printed for the plan and for every epoch, terminal or not."""

    def __init__(self, progress: Progress, indent: str = "") -> None:
        self.progress, self.indent = progress, indent
        self.task: Any = None
        self.plan: Plan | None = None
        self.pictures, self.since = 0, time.monotonic()

    def __call__(self, event: Event) -> None:
        from vitrine.train.estimate import Estimate
        from vitrine.train.events import EpochRow, Note, Plan, ProgressUpdate
        from vitrine.train.loop import StepDone

        match event:
            case ProgressUpdate():
                self._bar(event.what, event.done, event.total)
            case Plan():
                self._begin(event)
            case StepDone():
                self.pictures += event.pictures
                rate = self.pictures / max(1e-9, time.monotonic() - self.since)
                self._bar(f"Epoch {event.epoch + 1}", event.step, None, f"loss {event.loss:.3f}  {rate:.0f} pictures/s")
            case Note():
                self._line(event.text)
            case Estimate():
                for sentence in event.sentences():
                    self._line(sentence)
            case EpochRow():
                self._epoch(event)

    def _bar(self, what: str, done: int, total: int | None, note: str = "") -> None:
        if self.task is None:
            self.task = self.progress.add_task(what, total=total, note=note)
        if total:
            self.progress.update(self.task, total=total)
        self.progress.update(self.task, description=printable_line(what), completed=done, note=note)

    def _begin(self, plan: Plan) -> None:
        self.plan = plan
        if self.task is not None:
            self.progress.remove_task(self.task)
            self.task = None
        self._bar("Training", plan.first_step, plan.steps_per_epoch * plan.epochs)
        self.pictures, self.since = 0, time.monotonic()
        share = "" if plan.trainable == plan.parameters else f", {plan.trainable:,} of them trained"
        together = (
            ""
            if plan.processes == 1
            else f" in {count_of(plan.processes, 'process', 'processes')}, which share each batch"
        )
        classes = f"{count_of(plan.classes, 'class', 'classes')}; " if plan.classes else ""
        self._line(
            f"{plan.train_pictures:,} training and "
            f"{count_of(plan.validation_pictures, 'validation picture')}; {classes}"
            f"{plan.parameters:,} parameters{share}; {plan.device}{together}, {plan.precision}."
        )
        for note in plan.notes:
            self._line(note)
        if plan.choices:
            self._line("Chosen by rule (choices.json in the run; --set key=value wins):")
        for choice in plan.choices:
            self._line(f"  {choice}")
        for entry in plan.quarantine[:5]:
            self._line(f"set aside: {entry}")
        if plan.quarantine:
            self._line(
                f"{count_of(len(plan.quarantine), 'unreadable picture')} "
                f"{agree(len(plan.quarantine), 'is', 'are')} set aside and listed in data.json."
            )
        if plan.first_step:
            self._line(f"Continuing after step {plan.first_step:,}.")

    def _epoch(self, row: Any) -> None:
        assert self.plan is not None
        width = len(str(self.plan.epochs))
        accuracy = "" if row.train_accuracy is None else f" ({100 * row.train_accuracy:.1f} %)"
        self._line(
            f"epoch {row.epoch:{width}}/{self.plan.epochs}  train loss {row.train_loss:.4f}{accuracy}  "
            f"validation loss {row.validation_loss:.4f}  {_validation_score(row)}"
            f"{'  best' if row.best else ''}"
        )
        self.pictures, self.since = 0, time.monotonic()

    def _line(self, text: str) -> None:
        if self.progress.disable:
            messages.say(f"{self.indent}{text}")
        else:
            line = messages.printable_output(f"{self.indent}{text}")
            self.progress.console.print(line, highlight=False, markup=False, soft_wrap=True)


def _validation_score(row: EpochRow) -> str:
    if row.validation_mean_average_precision is None:
        return f"accuracy {100 * row.validation_accuracy:.2f} %"
    return f"mean average precision {100 * row.validation_mean_average_precision:.2f} %"


@contextmanager
def demo_progress() -> Iterator[Callable[[str | Event], None]]:
    """The demo's steps as lines, its trainings as bars."""
    with _bars() as progress:
        lines = _TrainingLines(progress, indent="    ")

        def report(event: str | Event) -> None:
            if isinstance(event, str):
                if lines.task is not None:
                    progress.remove_task(lines.task)
                    lines.task = None
                lines.indent = ""
                lines._line(event)
                lines.indent = "    "
            else:
                lines(event)

        yield report


def sweep_lines(report: Callable[[Any], None], *, alone: bool) -> Callable[[Any], None]:
    """A sweep's events as lines; of trainings at the same time only their beginnings and ends."""
    from vitrine.results import duration
    from vitrine.sweep.run import RunEnded, RunEvent, RunStarted, SweepPlan

    def lines(event: Any) -> None:
        match event:
            case SweepPlan():
                report(event.text())
            case RunStarted():
                report(f"[{event.number}/{event.of}] {'Continuing' if event.is_resumed else 'Training'} {event.name}")
            case RunEvent() if alone:
                report(event.event)
            case RunEnded():
                outcome = "finished" if event.failure is None else f"FAILED: {event.failure.error.splitlines()[0]}"
                report(f"{event.name}: {outcome} ({duration(event.seconds)})")

    return lines
