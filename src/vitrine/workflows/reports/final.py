"""The final result of a report: which run it is, what it was measured on, and what may be said of it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import Any

from vitrine.errors import RunError, UsageError
from vitrine.models.weights import file_sha256
from vitrine.report.comparison import RunRow
from vitrine.report.page.document import Commands, Number, Numbers, Paragraph, Section
from vitrine.results import ClassificationMetrics, Interval
from vitrine.workflows.compared import Comparison
from vitrine.workflows.run_record import RunRecord, same_but_seed
from vitrine.workflows.weights_notes import MEASURED

TEST = "test/metrics.json"
"""Where a report looks for an evaluation on test pictures: ``vitrine evaluate RUN DATA --split test -o RUN/test``."""

_NAMED = 6  # runs that a sentence names


@dataclass(frozen=True)
class Final:
    """The run that a report calls its final result.

    Attributes:
        record, row: the run.
        rivals: the other runs that were measured on the same validation pictures, best first.
        chosen: whether a person named it; else it has the highest validation accuracy.
        test: on test pictures, as evaluated with these weights; None where no such evaluation was recorded.
        test_data: reference of the data that they are of; "" without.
    """

    record: RunRecord
    row: RunRow
    rivals: tuple[RunRow, ...]
    chosen: bool
    test: ClassificationMetrics | None
    test_data: str = ""

    @property
    def name(self) -> str:
        """Of the run."""
        return self.row.name

    @property
    def shown(self) -> tuple[ClassificationMetrics, str]:
        """The measurement that says most, and its split: test pictures, which chose nothing, where there are any."""
        return (self.record.metrics, "validation") if self.test is None else (self.test, "test")


def choose_final(comparison: Comparison, records: Mapping[str, RunRecord], named: str | None = None) -> Final | None:
    """The final result: the run that was named, else the best of the largest group that shares validation pictures.

    Args:
        comparison: of all runs, best first.
        records: by name.
        named: by a person; the last parts of the path are enough.

    Returns:
        None where no run is of a classifier.

    Raises:
        UsageError: no run, or more than one, is called so.
    """
    rows = {row.name: row for row in comparison.rows}
    if not rows:
        if named is not None:
            raise UsageError(f"--final {named}: there is no classifier among the runs.")
        return None
    group = max(comparison.groups.values(), key=len) if named is None else ()
    name = next(name for name in rows if name in group) if named is None else _named(named, rows, records)
    group = next(names for names in comparison.groups.values() if name in names)
    rivals = tuple(rows[each] for each in rows if each in group and each != name)
    record = records[name]
    test, data = read_test(record.folder.path)
    return Final(record, rows[name], rivals, named is not None, test, data)


def _named(named: str, rows: Mapping[str, RunRow], records: Mapping[str, RunRecord]) -> str:
    wanted = Path(named).expanduser()
    places = {name: records[name].folder.path.resolve() for name in rows}
    fitting = [name for name in rows if name == named or places[name] == wanted.resolve()]
    ends = len(wanted.parts)
    fitting = fitting or [name for name in rows if places[name].parts[-ends:] == wanted.parts]
    if len(fitting) != 1:
        raise UsageError(f"--final {named} names {len(fitting) or 'none'} of the runs: {', '.join(rows)}.")
    return fitting[0]


def read_test(run: Path) -> tuple[ClassificationMetrics | None, str]:
    """The classifier's evaluation in RUN/test and the data that it is of; None and "" where there is none, or it is not
    of the run's weights of now.

    Raises:
        RunError: the file is there and cannot be read.
    """
    content = read_test_metrics(run)
    if content is None:
        return None, ""
    try:
        return ClassificationMetrics.from_dict(content), str(content["data"])
    except (KeyError, TypeError) as error:
        raise RunError(f"{run / TEST} is not what vitrine evaluate writes (no {error}). Evaluate anew.") from error


def read_test_metrics(run: Path) -> dict[str, Any] | None:
    """The content of RUN/test/metrics.json; None where it is not there, of another split, or of other weights.

    Raises:
        RunError: the file is there and is not JSON.
    """
    path = run / TEST
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read ({error}). Remove it, or evaluate anew.") from error
    fits = isinstance(content, dict) and content.get("split") == "test"
    return content if fits and content.get(MEASURED) == file_sha256(run / "model.safetensors") else None


def final_section(final: Final, comparison: Comparison, records: Mapping[str, RunRecord]) -> Section:
    """The final result: its numbers first, then what may be said of them."""
    m = final.record.metrics
    numbers = [Number(f"{m.accuracy:.4f}", "validation accuracy", _of(m.accuracy_interval, m.n), final.test is None)]
    if final.test is not None:
        t = final.test
        numbers.insert(0, Number(f"{t.accuracy:.4f}", "test accuracy", _of(t.accuracy_interval, t.n), marked=True))
    shown, split = final.shown
    numbers.append(
        Number(
            f"{shown.calibration_error:.4f}", "calibration error", f"expected, {shown.calibration_bins} bins, {split}"
        )
    )
    sentences = [
        *_choice(final),
        *_test(final),
        *_rivals(final, comparison),
        *_seeds(final, records),
        _error(final),
    ]
    path = str(final.record.folder.path)
    return Section(
        "result",
        "The final result",
        (
            Paragraph(f"The final result is {final.name}.", "lead"),
            Numbers(tuple(numbers)),
            *(Paragraph(sentence) for sentence in sentences),
            Commands((shlex.join(["vitrine", "verify", path]),)),
        ),
    )


def _of(interval: Interval, n: int) -> str:
    return f"95 % interval {interval.low:.4f} to {interval.high:.4f}, n = {n:,}"


def _choice(final: Final) -> list[str]:
    runs, m = len(final.rivals) + 1, final.record.metrics
    where = f"the same {m.n:,} validation pictures"
    if runs == 1:
        return [f"It is the only run that was measured on these {m.n:,} validation pictures."]
    ahead = sum(row.accuracy > final.row.accuracy for row in final.rivals)
    if ahead:
        return [f"It was named by hand: of {runs} runs measured on {where}, {ahead} reached a higher accuracy."]
    tied = [row.name for row in final.rivals if row.accuracy == final.row.accuracy]
    high = f"the highest accuracy of {runs} runs measured on {where}"
    if final.chosen:
        return [f"It was named by hand; it has {high}."]
    lower = all(final.row.loss < row.loss for row in final.rivals if row.name in tied)
    tie = f" {_listed(tied)} reached the same{'; it has the lower loss' if lower else ''}." if tied else ""
    return [
        f"It was chosen for having {high}.{tie} The best of several is flattered by the choice: on new pictures it may "
        "do a little worse than these pictures say."
    ]


def _test(final: Final) -> list[str]:
    if final.test is None:
        return []
    t, m = final.test, final.record.metrics
    ends = t.accuracy_interval
    return [
        f"On {t.n:,} test pictures ({final.test_data}), which chose nothing here, {t.correct:,} labels are right: "
        f"{t.accuracy:.4f}, with a 95 % interval of {ends.low:.4f} to {ends.high:.4f}. Validation said "
        f"{m.accuracy:.4f}."
    ]


def _rivals(final: Final, comparison: Comparison) -> list[str]:
    better: list[str] = []
    worse: list[str] = []
    open_: list[str] = []
    for claim in comparison.claims:
        if final.name not in (claim.first, claim.second):
            continue
        other = claim.second if claim.first == final.name else claim.first
        if claim.verdict == "undecided":
            open_.append(other)
        else:
            (better if (claim.verdict == "supported") == (claim.first == final.name) else worse).append(other)
    if not (better or worse or open_):
        return []
    tests = len(comparison.claims)
    said = [
        *([f"it is better than {_listed(better)}"] if better else []),
        *([f"it is worse than {_listed(worse)}"] if worse else []),
        *([f"it cannot be told from {_listed(open_)}"] if open_ else []),
    ]
    corrected = f", corrected for all {tests} tests of this report" if tests > 1 else ""
    return [f"By exact tests on the same pictures{corrected}, {'; '.join(said)}."]


def _seeds(final: Final, records: Mapping[str, RunRecord]) -> list[str]:
    """The same recipe with other seeds."""
    own = final.record
    others = [each for each in records.values() if each is not own and same_but_seed(own.settings, each.settings)]
    if not others:
        return ["Its recipe was trained with one seed: how far another seed would move this number was not measured."]
    count = f"Its recipe was trained with {len(others) + 1} seeds"
    if any(each.validation != own.validation for each in others):
        return [f"{count}, which also drew different validation pictures: their accuracies are of different things."]
    accuracies = sorted(each.metrics.accuracy for each in (own, *others))
    return [f"{count}; their accuracies lie between {accuracies[0]:.4f} and {accuracies[-1]:.4f}."]


def _error(final: Final) -> str:
    """How far chance alone moves the number; of 0 or all right, the formula says nothing."""
    shown, split = final.shown
    points = 100 * sqrt(shown.accuracy * (1 - shown.accuracy) / shown.n)
    known = f"The standard error of this accuracy is {points:.2f} points (binomial, {shown.n:,} {split} pictures). "
    return (
        f"{known if points else ''}That another training of the same recipe comes within ±0.5 points would be luck; "
        "that another evaluation of these weights does can be checked:"
    )


def _listed(names: Sequence[str]) -> str:
    shown = list(names[:_NAMED])
    if len(names) > _NAMED:
        shown.append(f"{len(names) - _NAMED} more")
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"
