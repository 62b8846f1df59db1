"""``vitrine compare``: runs side by side, and what their predictions of the same pictures say of each pair."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from vitrine.compare.claims import (
    CAVEAT,
    NEARNESS,
    QUESTIONS,
    Claim,
    SeedsClaim,
    combine_seeds,
    compare_pairs,
    setting_label,
)
from vitrine.compare.figures import (
    MAX_CURVES,
    accuracy_figure,
    captioners_table,
    curves_figure,
    figure_labels,
    multi_label_table,
    run_outcomes_table,
    run_settings_table,
    runs_table,
)
from vitrine.compare.seeds import ONE_SEED, SeedSpread, spread_over_seeds
from vitrine.display import ResultDisplay, csv_rows
from vitrine.errors import UsageError
from vitrine.io.files import to_json, write_atomically
from vitrine.io.output_lock import writes_folder
from vitrine.metrics.caption_ngrams import NO_SCORERS
from vitrine.plotting.style import save
from vitrine.plotting.tables import Cell, Table, inline, named_table
from vitrine.results import count_of, join_words
from vitrine.runs.find import RunSearch, SkippedFolder, find_runs
from vitrine.runs.index import NEARER, RunSummary, read_summaries
from vitrine.runs.leakage import LEAKAGE
from vitrine.runs.record import (
    CHANGES,
    SHOWN,
    AnyRow,
    CaptionerRow,
    MultiLabelRow,
    RecordReader,
    RunRecord,
    RunRow,
    read_record,
    varying_settings,
)

_MAX_CLAIMS = 20  # sentences on pairs that a person reads


@dataclass(frozen=True)
class Disagreement:
    """A validation picture that two runs give different labels.

    Attributes:
        name: of the picture.
        true: its class.
        first, second: the labels.
    """

    name: str
    true: str
    first: str
    second: str


@dataclass(frozen=True)
class Disagreements:
    """The pictures on which two runs, ``first`` and ``second``, disagree, in the order of the data."""

    first: str
    second: str
    pictures: tuple[Disagreement, ...]

    def table(self) -> Table:
        """The disagreements as a table, a row a picture."""
        rows = tuple((each.name, each.true, each.first, each.second) for each in self.pictures)
        return Table(("picture", "true", self.first, self.second), rows)


@dataclass(frozen=True, repr=False)
class ComparisonResult(ResultDisplay):
    """Finished runs compared: their settings, their results and the paired tests between them.

    Attributes:
        rows: classifiers, best accuracy first.
        captioners: runs that trained captioners, best first.
        multi_label: runs that trained multi-label classifiers, best first.
        claims: of each pair that shares its validation pictures: one on classifiers, two on captioners.
        over_seeds: what several seeds of two settings say together.
        seed_spreads: of each recipe that was trained with several seeds.
        groups: names of classifiers by the validation pictures they share; None of more than one run share none.
        disagreements: the pictures on which two runs disagree; None where they were not asked for.
        skipped_folders: folders that are no finished runs.
        notes: sentences on what cannot be compared, and on what was not drawn.
        varied_settings: names of the settings that differ among the runs.
        paths: of the files that were written.
    """

    rows: tuple[RunRow, ...]
    captioners: tuple[CaptionerRow, ...]
    claims: tuple[Claim, ...]
    over_seeds: tuple[SeedsClaim, ...]
    seed_spreads: tuple[SeedSpread, ...]
    groups: Mapping[str, tuple[str, ...]]
    disagreements: Disagreements | None = None
    skipped_folders: tuple[SkippedFolder, ...] = ()
    notes: tuple[str, ...] = ()
    varied_settings: tuple[str, ...] = ()
    paths: tuple[Path, ...] = ()
    multi_label: tuple[MultiLabelRow, ...] = ()

    def headline(self) -> str:
        """How many runs."""
        return count_of(len(self.rows) + len(self.multi_label) + len(self.captioners), "run")

    def details(self) -> str:
        """The tables and the tests."""
        return self.text()

    def table_rows(self) -> Sequence[Mapping[str, Any]]:
        """A row a run; where disagreements were asked for, a row a picture."""
        return csv_rows(self.csv())

    def text(self) -> str:
        """The comparison as text for a terminal."""
        parts = [run_settings_table(self.rows).text(), run_outcomes_table(self.rows).text()] if self.rows else []
        parts += [table.text() for table in self._tables_apart()]
        parts += ["\n".join(paragraph) for paragraph in self._paragraphs()]
        if self.disagreements is not None:
            parts.append(self.disagreements.table().text())
        if self.paths:
            parts.append("\n".join(["Written:", *(f"  {path}" for path in self.paths)]))
        return "\n\n".join(parts)

    def markdown(self) -> str:
        """The comparison as Markdown, for a README."""
        tables = [*([runs_table(self.rows)] if self.rows else []), *self._tables_apart()]
        parts = [named_table(table) for table in tables]
        parts += ["\n".join(f"- {inline(line)}" for line in paragraph) for paragraph in self._paragraphs()]
        if self.disagreements is not None:
            parts.append(named_table(self.disagreements.table()))
        return "\n\n".join(parts) + "\n"

    def latex(self) -> str:
        """The comparison as LaTeX tables, for a paper; the paired tests are a table too."""
        tables = [*([runs_table(self.rows)] if self.rows else []), *self._tables_apart()]
        tables += [self.tests()] if self.claims else []
        return "\n\n".join(table.latex() for table in tables) + "\n"

    def csv(self) -> bytes:
        """The table of the runs as CSV; where disagreements were asked for, their table."""
        if self.disagreements is not None:
            return self.disagreements.table().csv()
        return (runs_table(self.rows) if self.rows else self._tables_apart()[0]).csv()

    def _tables_apart(self) -> list[Table]:
        """The tables of multi-label classifiers and of captioners, where there are any."""
        multi_label = [multi_label_table(self.multi_label)] if self.multi_label else []
        return [*multi_label, *([captioners_table(self.captioners)] if self.captioners else [])]

    def tests(self) -> Table:
        """The paired tests: a row a pair."""
        columns = ("run", "claim", "other run", "verdict", "for the run", "for the other", "pictures", "p", "p (Holm)")
        return Table(columns, tuple(map(_test_row, self.claims)))

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        content: dict[str, Any] = {
            "runs": [
                {
                    "run": row.name,
                    "settings": dict(row.settings),
                    "accuracy": row.accuracy,
                    "accuracy_interval_95": [row.interval.low, row.interval.high],
                    "n": row.n,
                    "negative_log_likelihood": row.loss,
                    "expected_calibration_error": row.calibration_error,
                    "best_epoch": row.best_epoch,
                    "pictures_per_second": row.pictures_per_second,
                    "peak_memory_mib": row.peak_memory_mib,
                    "seconds": row.seconds,
                    LEAKAGE: None if row.leakage is None else row.leakage.to_dict(),
                }
                for row in self.rows
            ],
            "multi_label": [
                {
                    "run": row.name,
                    "settings": dict(row.settings),
                    "mean_average_precision": row.mean_average_precision,
                    "mean_average_precision_interval_95": row.interval and [row.interval.low, row.interval.high],
                    "macro_f1": row.macro_f1,
                    "micro_f1": row.micro_f1,
                    "exact_match": row.exact,
                    "n": row.n,
                    "negative_log_likelihood": row.loss,
                    "best_epoch": row.best_epoch,
                    LEAKAGE: None if row.leakage is None else row.leakage.to_dict(),
                }
                for row in self.multi_label
            ],
            "captioners": [
                {
                    "run": row.name,
                    "settings": dict(row.settings),
                    "piece_accuracy": row.accuracy,
                    "pieces": row.pieces,
                    "n": row.n,
                    "negative_log_likelihood": row.loss,
                    "exact_captions": row.exact,
                    "exact_interval_95": [row.exact_interval.low, row.exact_interval.high],
                    LEAKAGE: None if row.leakage is None else row.leakage.to_dict(),
                }
                for row in self.captioners
            ],
            "tests": [claim.to_dict() for claim in self.claims],
            "over_seeds": [claim.to_dict() for claim in self.over_seeds],
            "seeds": [spread.to_dict() for spread in self.seed_spreads],
            "validation_sets": [list(names) for names in self.groups.values()],
            "left_out": [vars(each) for each in self.skipped_folders],
            "notes": list(self.notes),
        }
        if self.disagreements is not None:
            content["disagreements"] = [vars(each) for each in self.disagreements.pictures]
        return content

    def _paragraphs(self) -> list[list[str]]:
        """Sentences in groups: the tests, what seeds say together, what was left out."""
        claims = self._shown_claims()
        tests = [claim.sentence for claim in claims]
        if len(claims) < len(self.claims):
            count = sum(claim.verdict != "undecided" for claim in self.claims)
            tests.append(
                f"These are the pairs of the best run; of all {len(self.claims)}, {count} are decided. "
                "All are in tests.csv (with -o) and in --json."
            )
        if self.claims:
            tests.append(CAVEAT)
        if any(claim.question == NEARER for claim in self.claims):
            tests.append(NEARNESS)
        notes = [*self.group_sentences(), *self.notes]
        notes += [f"Left out: {each.name}: {each.reason}." for each in self.skipped_folders]
        over_seeds = [*self.seed_sentences(), *(claim.sentence for claim in self.over_seeds)]
        return [part for part in (self.leakage_sentences(), tests, over_seeds, notes) if part]

    def leakage_sentences(self) -> list[str]:
        """What the best classifier and the best captioner with pictures that also stand in training come to without."""
        best = [next(((row.name, row.leakage) for row in rows if row.leakage), None) for rows in self._tables()]
        return [f"{each[0]}: {sentence}" for each in best if each and each[1] for sentence in each[1].sentences()]

    def _tables(self) -> tuple[Sequence[AnyRow], ...]:
        return self.rows, self.multi_label, self.captioners

    def seed_sentences(self) -> list[str]:
        """Mean and range of each recipe that was trained with several seeds; else that nothing is known of seeds."""
        return [spread.sentence for spread in self.seed_spreads] or [ONE_SEED]

    def _shown_claims(self) -> tuple[Claim, ...]:
        if len(self.claims) <= _MAX_CLAIMS:
            return self.claims
        best = {rows[0].name for rows in self._tables() if rows}
        return tuple(claim for claim in self.claims if best & {claim.first, claim.second})

    def group_sentences(self) -> list[str]:
        """A sentence on the groups of runs that share their validation pictures; none where all of them do."""
        if len(self.groups) < 2:
            return []
        sizes = {row.name: row.n for row in self.rows}
        groups = "; ".join(f"{', '.join(names)} ({sizes[names[0]]:,})" for names in self.groups.values())
        return [
            f"Not all runs were measured on the same validation pictures with the same labels: {groups}. "
            "Runs of different groups are not tested against one another, and their accuracies are of different things."
        ]


def _test_row(claim: Claim) -> tuple[Cell, ...]:
    counts = claim.counts
    numbers = (counts.first, counts.second, counts.n, counts.p, claim.corrected_p)
    return (claim.first, QUESTIONS[claim.question].claim, claim.second, claim.verdict, *numbers)


@writes_folder("compare")
def compare(references: Sequence[str], *, out: Path | None = None, pictures: bool = False) -> ComparisonResult:
    """Compare finished runs.

    Args:
        references: run folders, patterns, and folders that hold runs, such as a sweep's.
        out: a folder for the tables and figures; None writes nothing.
        pictures: also the pictures on which two runs disagree; with ``out``, their maps.

    Raises:
        RunError: no finished run, or one whose files do not fit one another.
        UsageError: ``pictures`` without exactly two runs of classifiers on the same pictures.
    """
    return compare_runs(find_runs(references), out=out, pictures=pictures)


def compare_runs(
    search: RunSearch, read: RecordReader = read_record, *, out: Path | None = None, pictures: bool = False
) -> ComparisonResult:
    """Compare the runs of a search as :func:`compare` does; ``read`` reads those that their folder's index lacks."""
    if pictures:
        read = cache(read)  # the records of the two runs are needed again
    summaries = read_summaries(search.runs, read)
    classifiers, multi_label, captioners = (
        [run for run in summaries if run.kind == kind] for kind in ("classifier", "multi-label", "captioner")
    )
    claims = compare_pairs(summaries)
    rows, varied_settings = _rows(classifiers, SHOWN)
    multi_label_rows, _ = _rows(multi_label, SHOWN)
    caption_rows, _ = _rows(captioners, ())
    order = {row.name: place for place, row in enumerate((*rows, *multi_label_rows, *caption_rows))}
    best_first = sorted(summaries, key=lambda run: order[run.name])[: len(rows)]
    pair = _read_pair(classifiers, read) if pictures else None
    comparison = ComparisonResult(
        rows=tuple(row for row in rows if isinstance(row, RunRow)),
        multi_label=tuple(row for row in multi_label_rows if isinstance(row, MultiLabelRow)),
        captioners=tuple(row for row in caption_rows if isinstance(row, CaptionerRow)),
        claims=claims,
        over_seeds=combine_seeds(summaries, claims),
        seed_spreads=spread_over_seeds(summaries),
        groups=_group_by_validation(best_first),
        disagreements=None if pair is None else _disagreements(*pair),
        skipped_folders=search.skipped_folders,
        notes=_notes(classifiers, multi_label, captioners),
        varied_settings=varied_settings,
    )
    return comparison if out is None else _write_files(comparison, best_first, out, pair)


def _rows(runs: Sequence[RunSummary], always: Collection[str]) -> tuple[tuple[AnyRow, ...], tuple[str, ...]]:
    """The rows, best first (ties by loss), with settings: those always shown and those that differ; and the latter."""
    differing = varying_settings([run.settings for run in runs])
    names = list(dict.fromkeys((*always, *(name for run in runs for name in run.settings if name in differing))))
    rows = [
        replace(run.row, name=run.name, settings={setting_label(name): run.settings.get(name) for name in names})
        for run in runs
    ]
    rows.sort(key=lambda row: (-row.score, row.loss))
    return tuple(rows), tuple(setting_label(name) for name in names if name in differing)


def _group_by_validation(runs: Sequence[RunSummary]) -> dict[str, tuple[str, ...]]:
    groups: dict[str, tuple[str, ...]] = {}
    for run in runs:
        groups[run.validation] = (*groups.get(run.validation, ()), run.name)
    return groups


def _notes(
    classifiers: Sequence[RunSummary], multi_label: Sequence[RunSummary], captioners: Sequence[RunSummary]
) -> tuple[str, ...]:
    runs, notes = (*classifiers, *multi_label, *captioners), []
    if multi_label and len(multi_label) < len(runs):
        notes.append("Multi-label runs are listed apart: their figures are of several labels a picture.")
    changes = {run.name: run.settings[CHANGES] for run in runs if run.settings.get(CHANGES)}
    notes += [f"Settings of {name} were changed while it trained: {change}." for name, change in changes.items()]
    precisions = sorted({run.precision for run in runs})
    if len(precisions) > 1:
        notes.append(f"The runs were measured in different precisions: {join_words(precisions)}.")
    by_pictures: dict[str, set[str]] = {}
    for run in classifiers:
        by_pictures.setdefault(run.pictures, set()).add(run.validation)
    if any(len(labels) > 1 for labels in by_pictures.values()):
        notes.append("Some runs have the same validation pictures with other labels: they are not tested either.")
    if captioners and classifiers:
        notes.append("Captioners are listed apart: their accuracy is of word pieces.")
    apart = [", ".join(names) for names in _group_by_validation(captioners).values()]
    if len(apart) > 1:
        notes.append(
            f"Not all captioners were measured on the same validation pictures with the same captions: "
            f"{'; '.join(apart)}. Those of different groups are not tested against one another."
        )
    if len(captioners) > 1 and any(NEARER not in run.outcomes for run in captioners):
        notes.append(f"Nearness to human captions was not tested. {NO_SCORERS}")
    if len(classifiers) > 1:
        notes.append("Peak memory is of the whole process, with all that it trained before.")
    return tuple(notes)


def _read_pair(runs: Sequence[RunSummary], read: RecordReader) -> tuple[RunRecord, RunRecord]:
    if len(runs) != 2:
        raise UsageError(f"--pictures needs exactly two runs of classifiers; there are {len(runs)}.")
    first, second = (read(run.name, run.folder) for run in runs)
    if first.validation != second.validation:
        raise UsageError(
            f"--pictures needs two runs on the same validation pictures with the same labels; those of {first.name} "
            f"and {second.name} differ."
        )
    return first, second


def _disagreements(first: RunRecord, second: RunRecord) -> Disagreements:
    labels = ((name, one.text, second.predictions[name].text) for name, one in first.predictions.items())
    rows = (Disagreement(name, first.true_labels[name], one, other) for name, one, other in labels if one != other)
    return Disagreements(first.name, second.name, tuple(rows))


def _write_files(
    comparison: ComparisonResult, runs: Sequence[RunSummary], out: Path, pair: tuple[RunRecord, RunRecord] | None
) -> ComparisonResult:
    """Write the tables, and the figures of the classifiers, which are given best first; the result has their paths."""
    out.mkdir(parents=True, exist_ok=True)
    tables: dict[str, bytes | str] = {
        "comparison.csv": replace(comparison, disagreements=None).csv(),
        "comparison.md": comparison.markdown(),
        "comparison.tex": comparison.latex(),
        "comparison.json": to_json(comparison.to_dict()),
    }
    if comparison.claims:
        tables["tests.csv"] = comparison.tests().csv()
    if comparison.disagreements is not None:
        tables["pictures.csv"] = comparison.disagreements.table().csv()
    for name, content in tables.items():
        write_atomically(out / name, content)
    paths = [out / name for name in tables]
    notes: list[str] = []
    if runs:
        origin = {"runs": ", ".join(str(run.folder.path) for run in runs)}
        save(accuracy_figure(comparison.rows, comparison.varied_settings), out / "accuracy.png", origin)
        labels = figure_labels(comparison.rows, comparison.varied_settings)
        histories = {labels[run.name]: run.folder.read_history() for run in runs[:MAX_CURVES]}
        curves, names = curves_figure(histories)
        save(curves, out / "curves.png", origin)
        paths += [out / "accuracy.png", out / "curves.png"]
        if len(names) < len(runs):
            notes.append(
                f"curves.png shows the {len(names)} best of {count_of(len(runs), 'run')}: no more can be told apart."
            )
    if pair is not None and comparison.disagreements is not None and comparison.disagreements.pictures:
        from vitrine.compare.disagreement_maps import save_disagreement_maps  # with torch, which no table needs

        pictures = [each.name for each in comparison.disagreements.pictures]
        sheets, map_notes = save_disagreement_maps(pictures, pair, out / "pictures.png")
        paths += sheets
        notes += map_notes
    return replace(comparison, paths=tuple(paths), notes=(*comparison.notes, *notes))
