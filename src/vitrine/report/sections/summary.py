"""The final result of a report: which run it is, what it was measured on, and what may be said of it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import sqrt
from pathlib import Path
from typing import Any

from vitrine.compare.claims import CAVEAT, NEARNESS
from vitrine.compare.figures import (
    accuracy_figure,
    captioners_table,
    curves_figure,
    figure_labels,
    run_outcomes_table,
    runs_table,
)
from vitrine.compare.run import ComparisonResult
from vitrine.errors import RunError, UsageError
from vitrine.metrics.intervals import wilson
from vitrine.models.reference import file_sha256
from vitrine.plotting.confusion import confusion_figure
from vitrine.plotting.tables import Table
from vitrine.report.document import (
    Block,
    Commands,
    Details,
    Finding,
    Findings,
    Listing,
    Number,
    Numbers,
    Paragraph,
    Plot,
    Section,
    Sheet,
)
from vitrine.results import ClassificationMetrics, ClassMetrics, Interval
from vitrine.runs.environment import WEIGHTS_SHA256
from vitrine.runs.index import NEARER, RIGHT
from vitrine.runs.record import RunRecord, RunRow, same_but_seed

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
        return (self.record.classification_metrics, "validation") if self.test is None else (self.test, "test")


def choose_final(
    comparison: ComparisonResult, records: Mapping[str, RunRecord], named: str | None = None
) -> Final | None:
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
    return content if fits and content.get(WEIGHTS_SHA256) == file_sha256(run / "model.safetensors") else None


def final_section(final: Final, comparison: ComparisonResult, records: Mapping[str, RunRecord]) -> Section:
    """The final result: its numbers first, then what may be said of them."""
    m = final.record.classification_metrics
    numbers = [Number(f"{m.accuracy:.4f}", "validation accuracy", _of(m.accuracy_interval, m.n), final.test is None)]
    if final.test is not None:
        t = final.test
        numbers.insert(0, Number(f"{t.accuracy:.4f}", "test accuracy", _of(t.accuracy_interval, t.n), is_main=True))
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


def _rivals(final: Final, comparison: ComparisonResult) -> list[str]:
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


_FEW = 30  # pictures of a class below which its recall says little
_OPEN = 15  # classes that stand in the open
_MISTAKES = 10


def classes_section(final: Final) -> Section:
    """Precision and recall by class, the confusion matrix, and the surest mistakes, on the split that says most."""
    m, split = final.shown
    table = Sheet(_class_table(m), f"{m.n:,} {split} pictures; recall with its 95 % interval (Wilson).")
    blocks: list[Block] = [Paragraph(" ".join(_sentences(m)))]
    blocks.append(table if len(m.classes) <= _OPEN else Details(f"All {len(m.classes)} classes", (table,)))
    alt = f"Confusion matrix of {len(m.classes)} classes. {_commonest(m)}"
    blocks.append(Plot("confusion", confusion_figure(m), alt, "Rows: true classes. Columns: predicted.", lines=False))
    if m.hardest:
        rows = tuple((each.name, each.true, each.predicted, f"{each.probability:.3f}") for each in m.hardest)
        mistakes = Table(("picture", "is", "was called", "probability"), rows[:_MISTAKES])
        blocks.append(Details("The mistakes that it was surest of", (Sheet(mistakes),)))
    return Section("classes", "Class by class", tuple(blocks))


def _sentences(m: ClassificationMetrics) -> list[str]:
    known = [each for each in m.classes if each.support]
    if not known:
        return ["There is no picture of any class."]
    worst = min(known, key=lambda each: (_recall(each), each.label))
    said = [
        f"{worst.label} is found least often: {round(_recall(worst) * worst.support):,} of {worst.support:,} "
        f"({_recall(worst):.3f}).",
        _commonest(m),
    ]
    few = sum(each.support < _FEW for each in known)
    if few:
        said.append(
            f"{few} of {len(known)} classes have fewer than {_FEW} pictures here, so that their recall is vague."
        )
    return said


def _commonest(m: ClassificationMetrics) -> str:
    most = max(
        (cell for cell in m.confusion if cell.true != cell.predicted), key=lambda cell: cell.pictures, default=None
    )
    if most is None:
        return "No picture is mistaken."
    of = sum(cell.pictures for cell in m.confusion if cell.true == most.true)
    true, predicted = m.labels[most.true], m.labels[most.predicted]
    return f"The commonest mistake: {true} taken for {predicted}, {most.pictures:,} of {of:,} pictures."


def _class_table(m: ClassificationMetrics) -> Table:
    rows = []
    for each in sorted(m.classes, key=lambda entry: (_recall(entry), entry.label)):
        found = "–"
        if each.support:
            ends = wilson(round(_recall(each) * each.support), each.support)
            found = f"{_recall(each):.3f} ({ends.low:.3f} to {ends.high:.3f})"
        rows.append((each.label, found, None if each.precision is None else f"{each.precision:.3f}", each.support))
    return Table(("class", "recall", "precision", "pictures"), tuple(rows))


def _recall(entry: ClassMetrics) -> float:
    """A class without pictures comes last."""
    return 2.0 if entry.recall is None else entry.recall


_MOST_CLAIMS = 12
_MOST_FOLDED = 60


def settings_section(comparison: ComparisonResult, final: Final | None) -> Section:
    """All runs as a table and a dot plot, what the paired tests say, and what was left out."""
    blocks: list[Block] = []
    if comparison.rows:
        blocks += _runs(comparison, final)
    if comparison.captioners:
        blocks.append(Sheet(captioners_table(comparison.captioners), "Captioners: their accuracy is of word pieces."))
    blocks += _tests(comparison, final)
    notes = [*comparison.group_sentences(), *comparison.notes]
    notes += [f"Left out: {each.name}: {each.reason}." for each in comparison.skipped]
    if notes:
        blocks.append(Listing(tuple(notes)))
    return Section("settings", "Settings and what came out", tuple(blocks))


def _runs(comparison: ComparisonResult, final: Final | None) -> list[Block]:
    rows, varied = comparison.rows, comparison.varied
    index = next((i for i, row in enumerate(rows) if final is not None and row.name == final.name), None)
    name = None if final is None else final.name
    alt = f"Validation accuracy of {len(rows)} runs with 95 % intervals: " + "; ".join(
        f"{row.name} {row.accuracy:.4f} ({row.interval.low:.4f} to {row.interval.high:.4f})" for row in rows[:12]
    )
    return [
        Paragraph(_tried(rows, varied)),
        Plot("accuracy", accuracy_figure(rows, varied, name), alt, "95 % intervals after Wilson, over the pictures."),
        Sheet(
            replace(run_outcomes_table(rows), final=index), "Sorted by validation accuracy; the final result is marked."
        ),
        Details("Every setting of every run", (Sheet(replace(runs_table(rows), final=index)),)),
    ]


def _tried(rows: tuple[RunRow, ...], varied: tuple[str, ...]) -> str:
    if len(rows) == 1:
        return "There is one run of a classifier."
    if not varied:
        return f"{len(rows)} runs of one setting were made."
    return f"{len(rows)} runs were made; they differ in {', '.join(varied)}."


def _tests(comparison: ComparisonResult, final: Final | None) -> list[Block]:
    """The tests of the final result and of captioners in the open, those of other runs for whoever asks."""
    if not comparison.claims:
        return []
    claims = comparison.claims
    own = [each for each in claims if final is not None and final.name in (each.first, each.second)]
    own += [each for each in claims if each.question != RIGHT]  # of captioners, none of which is the final result
    shown = (own or list(comparison.claims))[:_MOST_CLAIMS]
    blocks: list[Block] = [
        Paragraph(" ".join(CAVEAT.split())),
        Findings(tuple(Finding(claim.verdict, claim.sentence) for claim in shown)),
    ]
    if any(claim.question == NEARER for claim in comparison.claims):
        blocks.insert(1, Paragraph(" ".join(NEARNESS.split())))
    others = tuple(each for each in comparison.claims if not any(each is claim for claim in shown))
    if len(others) > _MOST_FOLDED:
        blocks.append(Details(f"All {len(comparison.claims)} tests", (Sheet(comparison.tests()),)))
    elif others:
        findings = Findings(tuple(Finding(each.verdict, each.sentence) for each in others))
        blocks.append(Details(f"Tests of the other runs ({len(others)} of {len(comparison.claims)})", (findings,)))
    if comparison.over_seeds:
        blocks.append(Paragraph("Over several seeds:"))
        blocks.append(Findings(tuple(Finding(each.verdict, each.sentence) for each in comparison.over_seeds)))
    return blocks


def curves_section(
    comparison: ComparisonResult, records: Mapping[str, RunRecord], final: Final | None
) -> Section | None:
    """Learning curves of the classifiers, and whether each had come to its end; None without classifiers."""
    epochs = {row.name: records[row.name].folder.read_history() for row in comparison.rows}
    rows = [row for row in comparison.rows if epochs[row.name]]
    if not rows:
        return None
    labels = figure_labels(rows, comparison.varied)
    histories = {labels[row.name]: epochs[row.name] for row in rows}
    figure, drawn = curves_figure(histories)
    ends = [f"{name} {rows_[-1]['validation_accuracy']:.4f}" for name, rows_ in list(histories.items())[: len(drawn)]]
    alt = f"Loss and validation accuracy by epoch. Accuracy after the last epoch: {'; '.join(ends)}"
    blocks: list[Block] = [Plot("curves", figure, alt, "A ring marks the epoch whose weights were kept.")]
    if len(drawn) < len(histories):
        blocks.append(Paragraph(f"Drawn are the {len(drawn)} best of {len(histories)} runs.", "note"))
    if final is not None:
        blocks.insert(0, Paragraph(_ended(final, len(epochs[final.name]))))
    return Section("curves", "Learning curves", tuple(blocks))


def _ended(final: Final, epochs: int) -> str:
    best = final.row.best_epoch
    if epochs == 1:
        return f"{final.name} was trained for one epoch."
    if best == epochs:
        return (
            f"The best epoch of {final.name} is its last one, {best} of {epochs}: this run does not say whether a "
            "longer training would do better."
        )
    return f"The weights of {final.name} are those of epoch {best} of {epochs}; later epochs were not better."
