"""What verbs show when they are done. What they say while they work is in :mod:`vitrine.messages`.

Everything that the command line prints goes through :func:`say` or :func:`answer`: text that is not ours (names of
files and classes, what libraries say) cannot steer a terminal, and no encoding of the terminal's makes an error of it.
"""

from __future__ import annotations

import io
import json as json_library
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from vitrine import messages
from vitrine.io.files import to_json
from vitrine.messages import printable_output
from vitrine.printable import printable_json
from vitrine.results import and_n_more, count_of

if TYPE_CHECKING:
    from vitrine.bulk.run import BulkResult
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


def bulk_result(value: BulkResult, what: str, as_json: bool) -> None:
    """What a bulk job made: as JSON on stdout where that was wanted, and in a sentence on stderr."""
    if as_json:
        json(value)
    earlier = f", {value.resumed_parts} of them from before" if value.resumed_parts else ""
    parts = count_of(value.parts, "part")
    say(f"{value.rows} {what} in {value.out} ({value.precision}; {parts}{earlier}).")


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
