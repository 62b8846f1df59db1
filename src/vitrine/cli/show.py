"""What verbs show while they work (stderr, only on a terminal) and when they are done.

Everything that the command line prints goes through :func:`say` or :func:`answer`: text that is not ours (names of
files and classes, what libraries say) cannot steer a terminal, and no encoding of the terminal's makes an error of it.
"""

from __future__ import annotations

import io
import json as json_library
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from vitrine.io.files import to_json
from vitrine.printable import printable_json, printable_line, printable_lines
from vitrine.results import and_n_more, count_of

if TYPE_CHECKING:
    from rich.progress import Progress

    from vitrine.bulk.run import BulkResult
    from vitrine.explain.run import ExplainResult
    from vitrine.results import CaptioningMetrics
    from vitrine.train.events import EpochRow, Event, Plan, TrainResult


class Result(Protocol):
    """What a verb returns: it can be written as JSON."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready content."""


def say(text: str) -> None:
    """Lines for a person, on stderr, with everything escaped that would act there."""
    print(printable_output(text), file=sys.stderr, flush=True)


def answer(text: str, end: str = "\n") -> None:
    """What was asked for, on stdout, with everything escaped that would act there."""
    print(printable_output(text), end=end, flush=True)


def accept_any_text() -> None:
    """From now on a character that the terminal's encoding does not have is replaced, and is no error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def printable_output(text: str) -> str:
    """The text as it can be shown. Line breaks that a person's own argument brings into it are no lines of ours."""
    for argument in sys.argv[1:]:
        for words in (argument, str(Path(argument))):
            if (line := printable_line(words)) != words:
                text = text.replace(words, line)
    return printable_lines(text)


def _progress() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


def is_first_process() -> bool:
    """Of several processes that a launcher started, the first one tells."""
    return os.environ.get("RANK", "0") == "0"


def notes(sentences: Iterable[str]) -> None:
    """What has to be known of files and decisions, on stderr."""
    for sentence in sentences:
        say(sentence)


def unreadable(some: Sequence[tuple[str, str]], count: int = 0, table: object = None) -> None:
    """The first unreadable pictures with their reasons, and where all are listed if there is a table, on stderr."""
    for name, reason in some[:10]:
        say(f"not readable: {printable_line(name)}: {printable_line(reason)}")
    if count:
        say(f"{count_of(count, 'picture')} could not be read; all are in {table}.")


def unwritten(some: Sequence[tuple[str, str]]) -> None:
    """The first pictures whose figure could not be written with their reasons, and how many there are, on stderr."""
    for name, reason in some[:10]:
        say(f"no figure: {printable_line(name)}: {printable_line(reason)}")
    if some:
        say(f"{count_of(len(some), 'figure')} could not be written.")


def json(value: Result) -> None:
    """A result as JSON, on stdout."""
    content = value.to_dict()
    text = printable_json(to_json(content))
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:  # a program that reads it gets every character all the same
        text = json_library.dumps(content, indent=2) + "\n"
    sys.stdout.write(text)
    sys.stdout.flush()


def result(value: Result, text: Callable[[], str], as_json: bool) -> None:
    """A result on stdout: as JSON for programs, or as its text for people."""
    if as_json:
        json(value)
    else:
        answer(text())


def bulk_result(value: BulkResult, what: str, as_json: bool) -> None:
    """What a bulk job made: as JSON on stdout where that was wanted, and in a sentence on stderr."""
    notes(value.notes)
    if as_json:
        json(value)
    earlier = f", {value.resumed_parts} of them from before" if value.resumed_parts else ""
    parts = count_of(value.parts, "part")
    say(f"{value.rows} {what} in {value.out} ({value.precision}; {parts}{earlier}).")
    unreadable(value.unreadable, value.unreadable_count, value.unreadable_table)


@contextmanager
def reading_progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar over ``(done, total)``; total 0 means not known."""
    with _progress() as progress:
        task = progress.add_task(what, total=None, note="")
        yield lambda done, total: progress.update(task, completed=done, total=total or None)


@contextmanager
def named_progress() -> Iterator[Callable[[str, int, int], None]]:
    """A bar for each kind of work, over ``(what, done, total)``."""
    with _progress() as progress:
        tasks: dict[str, Any] = {}

        def report(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = progress.add_task(what, total=None, note="")
            progress.update(tasks[what], completed=done, total=total or None)

        yield report


@contextmanager
def training_progress() -> Iterator[Callable[[Event], None]]:
    """A bar over optimizer steps with pictures/s, and one line an epoch."""
    with _progress() as progress:
        yield _TrainingLines(progress)


class _TrainingLines:
    """Shows a training's events. A line is printed for the plan and for every epoch, terminal or not."""

    def __init__(self, progress: Progress, indent: str = "") -> None:
        self.progress, self.indent = progress, indent
        self.task: Any = None
        self.plan: Plan | None = None
        self.pictures, self.since = 0, time.monotonic()

    def __call__(self, event: Event) -> None:
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
        together = "" if plan.processes == 1 else f" in {plan.processes} processes, which share each batch"
        classes = f"{plan.classes} classes; " if plan.classes else ""
        self._line(
            f"{plan.train_pictures:,} training and {plan.validation_pictures:,} validation pictures; {classes}"
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
            self._line(f"{len(plan.quarantine)} unreadable pictures are set aside and listed in data.json.")
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
            say(f"{self.indent}{text}")
        else:
            self.progress.console.print(
                printable_output(f"{self.indent}{text}"), highlight=False, markup=False, soft_wrap=True
            )


def _validation_score(row: EpochRow) -> str:
    if row.validation_mean_average_precision is None:
        return f"accuracy {100 * row.validation_accuracy:.2f} %"
    return f"mean average precision {100 * row.validation_mean_average_precision:.2f} %"


def training_summary(result: TrainResult) -> str:
    """The run's result in a few lines: pictures that also stand in training are part of it."""
    from vitrine.results import ONE_TRAINING, CaptioningMetrics, MultiLabelMetrics

    m = result.metrics
    leakage = "".join(f"{sentence}\n" for sentence in (result.leakage.sentences() if result.leakage else ()))
    if isinstance(m, CaptioningMetrics):
        return _captioner_summary(result, m, leakage)
    if isinstance(m, MultiLabelMetrics):
        ends, score = m.mean_average_precision_interval, f"mean average precision {m.mean_average_precision:.4f}"
    else:
        ends, score = m.accuracy_interval, f"accuracy {m.accuracy:.4f}"
    interval = "" if ends is None else f"95 % interval over pictures {ends.low:.4f} to {ends.high:.4f}, "
    return (
        f"Validation {score} ({interval}n = {m.n}, {m.precision}), "
        f"epoch {result.best_epoch} of {result.epochs}.\n"
        f"{leakage}{ONE_TRAINING}\n"
        f"Run: {result.run}\n"
        f"Next: vitrine evaluate {result.run} DATA; vitrine predict {result.run} IMAGES -o predictions.csv"
    )


def _captioner_summary(result: TrainResult, m: CaptioningMetrics, leakage: str) -> str:
    from vitrine.results import ONE_TRAINING

    exact = m.scores["predicted"]["exact"]["n"]
    return (
        f"Validation: {100 * m.accuracy:.2f} % of {m.pieces:,} word pieces are the likeliest after those before them; "
        f"{exact} of {m.n:,} captions are word for word a human one ({m.precision}), epoch {result.best_epoch} of "
        f"{result.epochs}.\n"
        f"{leakage}{ONE_TRAINING}\n"
        f"Run: {result.run}\n"
        f"Next: vitrine evaluate {result.run} DATA; vitrine caption {result.run} IMAGES -o captions"
    )


@contextmanager
def demo_progress() -> Iterator[Callable[[str | Event], None]]:
    """The demo's steps as lines, its trainings as bars."""
    with _progress() as progress:
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


def explained_summary(result: ExplainResult) -> str:
    """What ``vitrine explain`` made, in a few lines."""
    from vitrine.attribution.patch_hiding import count_hiding_tests

    count = len(result.pictures)
    lines = [f"{count} figure{'s' * (count != 1)} in {result.out}: {result.method} ({result.precision})."]
    lines += [f"Contact sheet: {path}" for path in result.sheets]
    lines.append(f"Table: {result.table}")
    verdicts = [picture.verdict for picture in result.pictures if picture.verdict is not None]
    if verdicts:
        lines.append(count_hiding_tests([verdict.flag for verdict in verdicts]))
    if wrong := [picture.name for picture in result.pictures if picture.is_wrong]:
        lines.append(f"Wrong answers, whose maps explain wrong answers: {len(wrong)} ({and_n_more(wrong)}).")
    if result.unreadable:
        lines.append(f"{count_of(len(result.unreadable), 'picture')} could not be read.")
    return "\n".join(lines)
