"""What verbs show when they are done. What they say while they work is in :mod:`vitrine.messages`.

Everything that the command line prints goes through :func:`say` or :func:`answer`: text that is not ours (names of
files and classes, what libraries say) cannot steer a terminal, and no encoding of the terminal's makes an error of it.
"""

from __future__ import annotations

import io
import json as json_library
import os
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from vitrine import messages
from vitrine.io.files import to_json
from vitrine.messages import printable_output
from vitrine.printable import printable_json
from vitrine.results import agree, and_n_more, count_of

if TYPE_CHECKING:
    from vitrine.explain.run import ExplainResult
    from vitrine.results import CaptioningMetrics
    from vitrine.train.events import TrainResult


class Result(Protocol):
    """What a verb returns: it can be written as JSON."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready content."""


def say(text: str) -> None:
    """Lines for a person, on stderr, with everything escaped that would act there."""
    messages.say(text)


def answer(text: str, end: str = "\n") -> None:
    """What was asked for, on stdout, with everything escaped that would act there."""
    print(printable_output(text), end=end, flush=True)


def accept_any_text() -> None:
    """From now on a character that the terminal's encoding does not have is replaced, and is no error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


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


@contextmanager
def how_to_continue(flag: str = "", can_continue: Callable[[], bool] = lambda: True) -> Iterator[None]:
    """Within the ``with`` block, an interruption is followed by the command that continues.

    Args:
        flag: what has to be added to the command that was interrupted; nothing where the same command goes on.
        can_continue: whether there is something that it would go on from.
    """
    try:
        yield
    except KeyboardInterrupt:
        if os.environ.get("RANK", "0") == "0" and can_continue():
            words = ["vitrine", *sys.argv[1:]]
            words += [flag] if flag and flag not in words else []
            has_launcher = os.environ.get("WORLD_SIZE", "1") != "1"
            say(
                f"Continue with the same command and {flag}." if has_launcher else f"Continue with: {shlex.join(words)}"
            )
        raise


def _next_steps(run: Path, data: str, verb: str, out: str) -> str:
    """Commands that can be copied as they are, in one line.

    Args:
        run: the new run.
        data: the reference that it was trained on.
        verb: what is done with pictures, where the data are a folder of them.
        out: where that is written.
    """
    commands = [["vitrine", "evaluate", str(run), data]]
    if Path(data).is_dir() and not any(Path(data).glob("*.tar")) and not (Path(data) / "index.json").exists():
        commands.append(["vitrine", verb, str(run), data, "-o", out])
    return f"Next: {'; '.join(map(shlex.join, commands))}"


def training_summary(result: TrainResult, data: str) -> str:
    """The run's result in a few lines: pictures that also stand in training are part of it.

    ``data``: the reference that it was trained on, for the commands that come next.
    """
    from vitrine.results import ONE_TRAINING, CaptioningMetrics, MultiLabelMetrics

    m = result.metrics
    leakage = "".join(f"{sentence}\n" for sentence in (result.leakage.sentences() if result.leakage else ()))
    if isinstance(m, CaptioningMetrics):
        return _captioner_summary(result, m, leakage, data)
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
        f"{_next_steps(result.run, data, 'predict', 'predictions.csv')}"
    )


def _captioner_summary(result: TrainResult, m: CaptioningMetrics, leakage: str, data: str) -> str:
    from vitrine.results import ONE_TRAINING

    exact = m.scores["predicted"]["exact"]["n"]
    return (
        f"Validation: {100 * m.accuracy:.2f} % of {count_of(m.pieces, 'word piece')} are the likeliest after "
        f"those before them; "
        f"{exact} of {count_of(m.n, 'caption')} {agree(exact, 'is', 'are')} word for word a human one "
        f"({m.precision}), epoch {result.best_epoch} of "
        f"{result.epochs}.\n"
        f"{leakage}{ONE_TRAINING}\n"
        f"Run: {result.run}\n"
        f"{_next_steps(result.run, data, 'caption', 'captions')}"
    )


def explained_summary(result: ExplainResult) -> str:
    """What ``vitrine explain`` made, in a few lines."""
    from vitrine.attribution.patch_hiding import count_hiding_tests

    lines = [f"{count_of(len(result.pictures), 'figure')} in {result.out}: {result.method} ({result.precision})."]
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
