"""Sections that summarise the runs: the final result, its classes, all runs with their settings, learning curves."""

from __future__ import annotations

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
    multi_label_table,
    run_outcomes_table,
    runs_table,
)
from vitrine.compare.run import ComparisonResult
from vitrine.errors import RunError, UsageError
from vitrine.io.files import file_sha256
from vitrine.io.untrusted_files import read_json
from vitrine.metrics.intervals import wilson
from vitrine.plotting.confusion import confusion_figure
from vitrine.plotting.tables import Table
from vitrine.report.document import (
    Block,
    BulletList,
    Commands,
    Details,
    Finding,
    Findings,
    Number,
    Numbers,
    Paragraph,
    Plot,
    Section,
    TableBlock,
)
from vitrine.results import OVER_PICTURES, ClassificationMetrics, ClassMetrics, Interval, agree, count_of, join_words
from vitrine.runs.environment import WEIGHTS_SHA256
from vitrine.runs.index import NEARER, RIGHT
from vitrine.runs.leakage import LEAKAGE, Leakage
from vitrine.runs.record import RunRecord, RunRow, parse_metrics, same_but_seed

LEAK = "leak"
"""Flag of a sentence on pictures that also stand in training."""

TEST = "test/metrics.json"
"""Where a report looks for an evaluation on test pictures: ``vitrine evaluate RUN DATA --split test -o RUN/test``."""

_MAX_NAMES = 6  # runs that a sentence names
_MIN_SUPPORT = 30  # pictures of a class below which its recall says little
_MAX_OPEN_CLASSES = 15  # classes whose table is not folded
_MAX_MISTAKES = 10  # mistakes in a table
_MAX_CLAIMS = 12  # tests that are not folded
_MAX_FOLDED_CLAIMS = 60  # tests as sentences; more become a table


@dataclass(frozen=True)
class FinalResult:
    """The run that a report calls its final result.

    Attributes:
        record: what the run recorded.
        row: the run's row in tables.
        rivals: the other runs that were measured on the same validation pictures, best first.
        is_named_by_person: whether a person chose the run; otherwise it has the highest validation accuracy.
        test: metrics on test pictures with these weights; None if no such evaluation was recorded.
        test_data: reference of the test pictures' data; "" without.
        test_leakage: test pictures that also stand in training; None where that was not recorded.
    """

    record: RunRecord
    row: RunRow
    rivals: tuple[RunRow, ...]
    is_named_by_person: bool
    test: ClassificationMetrics | None
    test_data: str = ""
    test_leakage: Leakage | None = None

    @property
    def name(self) -> str:
        """The run's name."""
        return self.row.name

    @property
    def looked_for(self) -> tuple[Leakage, ...]:
        """What is known of test and validation pictures that also stand in training."""
        return tuple(each for each in (self.test_leakage, self.record.leakage) if each is not None)

    @property
    def leakages(self) -> tuple[Leakage, ...]:
        """The same, where there are such pictures, or pictures that look like it."""
        return tuple(each for each in self.looked_for if each)

    @property
    def best_leakage(self) -> Leakage | None:
        """Of the pictures of :attr:`best_measurement`."""
        return self.record.leakage if self.test is None else self.test_leakage

    @property
    def best_measurement(self) -> tuple[ClassificationMetrics, str]:
        """Metrics and name of the most telling split: test, which chose nothing, if measured; else validation."""
        return (self.record.classification_metrics, "validation") if self.test is None else (self.test, "test")


def choose_final(
    comparison: ComparisonResult, records: Mapping[str, RunRecord], reference: str | None = None
) -> FinalResult | None:
    """Choose the final result: the run that a person named, else the best one of the largest group that shares
    validation pictures.

    Args:
        comparison: of all runs, best first.
        records: of the classifiers, by name.
        reference: name or folder by which a person named the run; the last parts of the path are enough.

    Returns:
        None if no run is of a classifier.

    Raises:
        UsageError: ``reference`` names no run, or more than one.
    """
    rows = {row.name: row for row in comparison.rows}
    if not rows:
        if reference is not None:
            raise UsageError(f"--final {reference}: there is no classifier among the runs.")
        return None
    group = max(comparison.groups.values(), key=len) if reference is None else ()
    name = next(name for name in rows if name in group) if reference is None else _find_run(reference, rows, records)
    group = next(names for names in comparison.groups.values() if name in names)
    rivals = tuple(rows[each] for each in rows if each in group and each != name)
    record = records[name]
    test, data, leakage = read_test_result(record.folder.path)
    return FinalResult(record, rows[name], rivals, reference is not None, test, data, leakage)


def _find_run(reference: str, rows: Mapping[str, RunRow], records: Mapping[str, RunRecord]) -> str:
    path = Path(reference).expanduser()
    folders = {name: records[name].folder.path.resolve() for name in rows}
    matches = [name for name in rows if name == reference or folders[name] == path.resolve()]
    part_count = len(path.parts)
    matches = matches or [name for name in rows if folders[name].parts[-part_count:] == path.parts]
    if len(matches) != 1:
        raise UsageError(f"--final {reference} names {len(matches) or 'none'} of the runs: {', '.join(rows)}.")
    return matches[0]


def read_test_result(run: Path) -> tuple[ClassificationMetrics | None, str, Leakage | None]:
    """A classifier's metrics in RUN/test, the reference of their data, and the pictures that also stand in training.

    Returns:
        None, "" and None if there are none, or they were measured with other weights than the run has now. The last is
        also None where the evaluation did not look for such pictures.

    Raises:
        RunError: the file exists and cannot be read.
    """
    content = read_test_metrics(run)
    if content is None:
        return None, "", None
    metrics = parse_metrics(content, run / TEST, is_captioner=False)
    try:
        leakage = content.get(LEAKAGE)
        recorded_leakage = None if leakage is None else Leakage.from_dict(leakage)
        if not isinstance(metrics, ClassificationMetrics):
            raise TypeError("metrics of one label")
        return metrics, str(content["data"]), recorded_leakage
    except (KeyError, TypeError) as error:
        raise RunError(f"{run / TEST} is not what vitrine evaluate writes (no {error}). Evaluate anew.") from error


def read_test_metrics(run: Path) -> dict[str, Any] | None:
    """The content of RUN/test/metrics.json; None if it is missing, of another split, or of other weights.

    Raises:
        RunError: the file exists and is not JSON.
    """
    path = run / TEST
    if not path.is_file():
        return None
    try:
        content = read_json(path, dict[str, Any])
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read ({error}). Remove it, or evaluate anew.") from error
    return (
        content
        if content.get("split") == "test" and content.get(WEIGHTS_SHA256) == file_sha256(run / "model.safetensors")
        else None
    )


def build_result_section(final: FinalResult, comparison: ComparisonResult, records: Mapping[str, RunRecord]) -> Section:
    """The final result: its numbers, and sentences on what they mean."""
    m = final.record.classification_metrics
    numbers = [
        Number(f"{m.accuracy:.4f}", "validation accuracy", _interval_text(m.accuracy_interval, m.n), final.test is None)
    ]
    if final.test is not None:
        t = final.test
        numbers.insert(
            0, Number(f"{t.accuracy:.4f}", "test accuracy", _interval_text(t.accuracy_interval, t.n), is_main=True)
        )
    best, split = final.best_measurement
    numbers += _leakage_numbers(final)
    detail = f"expected, {count_of(best.calibration_bins, 'bin')}, {split}"
    numbers.append(Number(f"{best.calibration_error:.4f}", "calibration error", detail))
    sentences = [
        *_explain_choice(final),
        *_describe_test(final),
        *[sentence for each in final.looked_for if not each for sentence in each.verdict()],
        *_compare_with_rivals(final, comparison),
        *_describe_seeds(final, records),
        _describe_error(final),
    ]
    leaks = [Finding(LEAK, sentence) for each in final.leakages for sentence in each.sentences()]
    path = str(final.record.folder.path)
    return Section(
        "result",
        "The final result",
        (
            Paragraph(f"The final result is {final.name}.", "lead"),
            Numbers(tuple(numbers)),
            *([Findings(tuple(leaks))] if leaks else []),
            *(Paragraph(sentence) for sentence in sentences),
            Commands((shlex.join(["vitrine", "verify", path]),)),
        ),
    )


def _interval_text(interval: Interval, n: int) -> str:
    return f"{OVER_PICTURES} {interval.low:.4f} to {interval.high:.4f}, n = {n:,}"


def _leakage_numbers(final: FinalResult) -> list[Number]:
    """The accuracies without pictures that also stand in training, and without near copies, beside those with them."""
    numbers = []
    for each in final.leakages:
        rest = each.without_any
        what = " and ".join([*(["in training too"] if each.exact else []), *(["near copies"] if each.near else [])])
        if rest.n:
            name = f"{each.split} accuracy without the {each.exact + each.near:,} {what}"
            numbers.append(Number(f"{rest.value:.4f}", name, _interval_text(rest.interval, rest.n)))
    return numbers


def _explain_choice(final: FinalResult) -> list[str]:
    runs, m = len(final.rivals) + 1, final.record.metrics
    where = f"the same {count_of(m.n, 'validation picture')}"
    if runs == 1:
        return [f"It is the only run that was measured on these {count_of(m.n, 'validation picture')}."]
    ahead = sum(row.accuracy > final.row.accuracy for row in final.rivals)
    if ahead:
        return [
            f"It was named by hand: of {count_of(runs, 'run')} measured on {where}, {ahead} reached a higher accuracy."
        ]
    tied = [row.name for row in final.rivals if row.accuracy == final.row.accuracy]
    high = f"the highest accuracy of {count_of(runs, 'run')} measured on {where}"
    if final.is_named_by_person:
        return [f"It was named by hand; it has {high}."]
    lower = all(final.row.loss < row.loss for row in final.rivals if row.name in tied)
    tie = f" {_list_names(tied)} reached the same{'; it has the lower loss' if lower else ''}." if tied else ""
    return [
        f"It was chosen for having {high}.{tie} The best of several is flattered by the choice: on new pictures it may "
        "do a little worse than these pictures say."
    ]


def _describe_test(final: FinalResult) -> list[str]:
    if final.test is None:
        return []
    t, m = final.test, final.record.metrics
    ends = t.accuracy_interval
    return [
        f"On {count_of(t.n, 'test picture')} ({final.test_data}), which chose nothing here, "
        f"{count_of(t.correct, 'label')} {agree(t.correct, 'is', 'are')} right: "
        f"{t.accuracy:.4f}, with a {OVER_PICTURES} of {ends.low:.4f} to {ends.high:.4f}. Validation said "
        f"{m.accuracy:.4f}."
    ]


def _compare_with_rivals(final: FinalResult, comparison: ComparisonResult) -> list[str]:
    better: list[str] = []
    worse: list[str] = []
    undecided: list[str] = []
    for claim in comparison.claims:
        if final.name not in (claim.first, claim.second):
            continue
        other = claim.second if claim.first == final.name else claim.first
        if claim.verdict == "undecided":
            undecided.append(other)
        else:
            (better if (claim.verdict == "supported") == (claim.first == final.name) else worse).append(other)
    if not (better or worse or undecided):
        return []
    tests = max(claim.tests for claim in comparison.claims)
    findings = [
        *([f"it is better than {_list_names(better)}"] if better else []),
        *([f"it is worse than {_list_names(worse)}"] if worse else []),
        *([f"it cannot be told from {_list_names(undecided)}"] if undecided else []),
    ]
    correction = f", corrected for {count_of(tests, 'test')}" if tests > 1 else ""
    return [f"By exact tests on the same pictures{correction}, {'; '.join(findings)}."]


def _describe_seeds(final: FinalResult, records: Mapping[str, RunRecord]) -> list[str]:
    """How far the accuracy of the same recipe moves with other seeds."""
    record = final.record
    others = [each for each in records.values() if each is not record and same_but_seed(record.settings, each.settings)]
    if not others:
        return [
            "The interval is over pictures. Its recipe was trained with one seed: another moves this number too, and "
            "how far was not measured."
        ]
    count = f"Its recipe was trained with {count_of(len(others) + 1, 'seed')}"
    if any(each.validation != record.validation for each in others):
        return [f"{count}, which also drew different validation pictures: their accuracies are of different things."]
    accuracies = sorted(each.metrics.accuracy for each in (record, *others))
    mean = sum(accuracies) / len(accuracies)
    return [f"{count}: mean accuracy {mean:.4f}, range {accuracies[0]:.4f} to {accuracies[-1]:.4f}."]


def _describe_error(final: FinalResult) -> str:
    """The standard error of the accuracy; the formula says nothing of accuracies 0 and 1."""
    metrics, split = final.best_measurement
    points = 100 * sqrt(metrics.accuracy * (1 - metrics.accuracy) / metrics.n)
    pictures = f"{metrics.n:,} {split} pictures"
    standard_error = f"The standard error of this accuracy is {points:.2f} points (binomial, {pictures}). "
    return (
        f"{standard_error if points else ''}That another training of the same recipe comes within ±0.5 points would "
        "be luck; that another evaluation of these weights does can be checked:"
    )


def _list_names(names: Sequence[str]) -> str:
    more = [f"{len(names) - _MAX_NAMES} more"] if len(names) > _MAX_NAMES else []
    return join_words([*names[:_MAX_NAMES], *more])


def build_classes_section(final: FinalResult) -> Section:
    """Precision and recall by class, the confusion matrix, and the surest mistakes, on the most telling split."""
    m, split = final.best_measurement
    table = TableBlock(_class_table(m), f"{m.n:,} {split} pictures; recall with its {OVER_PICTURES} (Wilson).")
    blocks: list[Block] = [Paragraph(" ".join(_describe_classes(m)))]
    blocks.append(
        table
        if len(m.classes) <= _MAX_OPEN_CLASSES
        else Details(f"All {count_of(len(m.classes), 'class', 'classes')}", (table,))
    )
    alt = f"Confusion matrix of {count_of(len(m.classes), 'class', 'classes')}. {_commonest_mistake(m)}"
    blocks.append(Plot("confusion", confusion_figure(m), alt, "Rows: true classes. Columns: predicted.", lines=False))
    if m.hardest:
        rows = tuple((each.name, each.true, each.predicted, f"{each.probability:.3f}") for each in m.hardest)
        mistakes = Table(("picture", "is", "was called", "probability"), rows[:_MAX_MISTAKES])
        blocks.append(Details("The mistakes that it was surest of", (TableBlock(mistakes),)))
    return Section("classes", "Class by class", tuple(blocks))


def _describe_classes(m: ClassificationMetrics) -> list[str]:
    with_pictures = [each for each in m.classes if each.support]
    if not with_pictures:
        return ["There is no picture of any class."]
    worst = min(with_pictures, key=lambda each: (_recall(each), each.label))
    sentences = [
        f"{worst.label} is found least often: {round(_recall(worst) * worst.support):,} of {worst.support:,} "
        f"({_recall(worst):.3f}).",
        _commonest_mistake(m),
    ]
    if m.balanced_accuracy is not None and m.macro_f1 is not None and m.majority is not None:
        label, share = m.majority
        sentences.append(
            f"Balanced accuracy (mean recall) is {m.balanced_accuracy:.4f}, macro F1 {m.macro_f1:.4f}; always guessing "
            f"the most frequent class, {label}, would be right for {share:.4f}."
        )
    few = sum(each.support < _MIN_SUPPORT for each in with_pictures)
    if few:
        sentences.append(
            f"{few} of {count_of(len(with_pictures), 'class', 'classes')} {agree(few, 'has', 'have')} fewer "
            f"than {count_of(_MIN_SUPPORT, 'picture')} here, so that their recall "
            "is vague."
        )
    return sentences


def _commonest_mistake(m: ClassificationMetrics) -> str:
    most = max(
        (cell for cell in m.confusion if cell.true != cell.predicted), key=lambda cell: cell.pictures, default=None
    )
    if most is None:
        return "No picture is mistaken."
    of = sum(cell.pictures for cell in m.confusion if cell.true == most.true)
    true, predicted = m.labels[most.true], m.labels[most.predicted]
    return f"The commonest mistake: {true} taken for {predicted}, {most.pictures:,} of {count_of(of, 'picture')}."


def _class_table(m: ClassificationMetrics) -> Table:
    rows = []
    for each in sorted(m.classes, key=lambda entry: (_recall(entry), entry.label)):
        recall = "–"
        if each.support:
            ends = wilson(round(_recall(each) * each.support), each.support)
            recall = f"{_recall(each):.3f} ({ends.low:.3f} to {ends.high:.3f})"
        rows.append((each.label, recall, None if each.precision is None else f"{each.precision:.3f}", each.support))
    return Table(("class", "recall", "precision", "pictures"), tuple(rows))


def _recall(entry: ClassMetrics) -> float:
    """Recall to sort by: a class without pictures comes last."""
    return 2.0 if entry.recall is None else entry.recall


def build_settings_section(comparison: ComparisonResult, final: FinalResult | None) -> Section:
    """All runs as a table and a dot plot, what the paired tests say, and which runs were left out."""
    blocks: list[Block] = []
    if comparison.rows:
        blocks += _run_blocks(comparison, final)
    if comparison.multi_label:
        blocks.append(TableBlock(multi_label_table(comparison.multi_label), "Multi-label runs, best first."))
    if comparison.captioners:
        blocks.append(
            TableBlock(captioners_table(comparison.captioners), "Captioners: their accuracy is of word pieces.")
        )
    leaks = comparison.leakage_sentences()
    blocks += [Findings(tuple(Finding(LEAK, sentence) for sentence in leaks))] if leaks else []
    blocks += _test_blocks(comparison, final)
    notes = [*comparison.seed_sentences(), *comparison.group_sentences(), *comparison.notes]
    notes += [f"Left out: {each.name}: {each.reason}." for each in comparison.skipped_folders]
    if notes:
        blocks.append(BulletList(tuple(notes)))
    return Section("settings", "Settings and what came out", tuple(blocks))


def _run_blocks(comparison: ComparisonResult, final: FinalResult | None) -> list[Block]:
    rows, varying = comparison.rows, comparison.varied_settings
    index = next((i for i, row in enumerate(rows) if final is not None and row.name == final.name), None)
    name = None if final is None else final.name
    alt = f"Validation accuracy of {count_of(len(rows), 'run')} with 95 % intervals: " + "; ".join(
        f"{row.name} {row.accuracy:.4f} ({row.interval.low:.4f} to {row.interval.high:.4f})" for row in rows[:12]
    )
    return [
        Paragraph(_describe_runs(rows, varying)),
        Plot("accuracy", accuracy_figure(rows, varying, name), alt, "95 % intervals after Wilson, over the pictures."),
        TableBlock(
            replace(run_outcomes_table(rows), final=index), "Sorted by validation accuracy; the final result is marked."
        ),
        Details("Every setting of every run", (TableBlock(replace(runs_table(rows), final=index)),)),
    ]


def _describe_runs(rows: tuple[RunRow, ...], varying: tuple[str, ...]) -> str:
    if len(rows) == 1:
        return "There is one run of a classifier."
    if not varying:
        return f"{count_of(len(rows), 'run')} of one setting {agree(len(rows), 'was', 'were')} made."
    return f"{count_of(len(rows), 'run')} {agree(len(rows), 'was', 'were')} made; they differ in {', '.join(varying)}."


def _test_blocks(comparison: ComparisonResult, final: FinalResult | None) -> list[Block]:
    """Paired tests: those of the final result and of captioners first, those of other runs folded."""
    if not comparison.claims:
        return []
    claims = comparison.claims
    main = [each for each in claims if final is not None and final.name in (each.first, each.second)]
    main += [each for each in claims if each.question != RIGHT]  # of captioners, none of which is the final result
    shown_claims = (main or list(comparison.claims))[:_MAX_CLAIMS]
    blocks: list[Block] = [
        Paragraph(" ".join(CAVEAT.split())),
        Findings(tuple(Finding(claim.verdict, claim.sentence) for claim in shown_claims)),
    ]
    if any(claim.question == NEARER for claim in comparison.claims):
        blocks.insert(1, Paragraph(" ".join(NEARNESS.split())))
    others = tuple(each for each in comparison.claims if not any(each is claim for claim in shown_claims))
    if len(others) > _MAX_FOLDED_CLAIMS:
        blocks.append(Details(f"All {count_of(len(comparison.claims), 'test')}", (TableBlock(comparison.tests()),)))
    elif others:
        findings = Findings(tuple(Finding(each.verdict, each.sentence) for each in others))
        blocks.append(Details(f"Tests of the other runs ({len(others)} of {len(comparison.claims)})", (findings,)))
    if comparison.over_seeds:
        blocks.append(Paragraph("Over several seeds:"))
        blocks.append(Findings(tuple(Finding(each.verdict, each.sentence) for each in comparison.over_seeds)))
    return blocks


def build_curves_section(
    comparison: ComparisonResult, records: Mapping[str, RunRecord], final: FinalResult | None
) -> Section | None:
    """Learning curves of the classifiers, and whether the final result had stopped improving; None without any."""
    epochs = {row.name: records[row.name].folder.read_history() for row in comparison.rows}
    rows = [row for row in comparison.rows if epochs[row.name]]
    if not rows:
        return None
    labels = figure_labels(rows, comparison.varied_settings)
    histories = {labels[row.name]: epochs[row.name] for row in rows}
    figure, run_names = curves_figure(histories)
    ends = [
        f"{name} {rows_[-1]['validation_accuracy']:.4f}" for name, rows_ in list(histories.items())[: len(run_names)]
    ]
    alt = f"Loss and validation accuracy by epoch. Accuracy after the last epoch: {'; '.join(ends)}"
    blocks: list[Block] = [Plot("curves", figure, alt, "A ring marks the epoch whose weights were kept.")]
    if len(run_names) < len(histories):
        blocks.append(Paragraph(f"Drawn are the {len(run_names)} best of {count_of(len(histories), 'run')}.", "note"))
    if final is not None:
        blocks.insert(0, Paragraph(_describe_end(final, len(epochs[final.name]))))
    return Section("curves", "Learning curves", tuple(blocks))


def _describe_end(final: FinalResult, epochs: int) -> str:
    best = final.row.best_epoch
    if epochs == 1:
        return f"{final.name} was trained for one epoch."
    if best == epochs:
        return (
            f"The best epoch of {final.name} is its last one, {best} of {epochs}: this run does not say whether a "
            "longer training would do better."
        )
    return f"The weights of {final.name} are those of epoch {best} of {epochs}; later epochs were not better."
