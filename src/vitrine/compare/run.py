"""``vitrine compare``: runs side by side, and what their predictions of the same pictures say of each pair."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from vitrine.attribution.methods import Method
from vitrine.classify.model import open_classifier
from vitrine.compare.claims import CAVEAT, NEARNESS, QUESTIONS, Claim, SeedsClaim, claims_of, seeds_claims, shown_name
from vitrine.compare.figures import (
    MOST_CURVES,
    accuracy_figure,
    captioners_table,
    curves_figure,
    figure_labels,
    run_outcomes_table,
    run_settings_table,
    runs_table,
)
from vitrine.data.samples import Sample
from vitrine.errors import DataError, UsageError
from vitrine.explain.explainer import Explainer
from vitrine.explain.figures.contact_sheet import save_contact_sheets
from vitrine.explain.figures.map import MapPicture
from vitrine.io.files import to_json, write_atomically
from vitrine.metrics.caption_ngrams import NO_SCORERS
from vitrine.plotting.colormap import Scale, shared_scale
from vitrine.plotting.style import save
from vitrine.plotting.tables import Cell, Table, inline, named_table
from vitrine.runs.data import find_validation_samples
from vitrine.runs.find import RunSearch, SkippedFolder, find_runs
from vitrine.runs.index import NEARER, RunSummary, read_summaries
from vitrine.runs.record import SHOWN, CaptionerRow, RecordReader, RunRecord, RunRow, read_record, varying_settings

_MAX_CLAIMS = 20  # sentences on pairs that a person reads


@dataclass(frozen=True)
class Disagreement:
    """A validation picture that two runs call by different names."""

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
        """A row a picture."""
        rows = tuple((each.name, each.true, each.first, each.second) for each in self.pictures)
        return Table(("picture", "true", self.first, self.second), rows)


@dataclass(frozen=True)
class ComparisonResult:
    """Runs side by side.

    Attributes:
        rows: classifiers, best accuracy first.
        captioners: runs that trained captioners, best first.
        claims: of each pair that shares its validation pictures: one on classifiers, two on captioners.
        over_seeds: what several seeds of two settings say together.
        groups: names of classifiers by the validation pictures they share; None of more than one run share none.
        disagreements: where they were asked for, the pictures on which two runs disagree.
        skipped: folders that are no finished runs.
        notes: sentences on what was decided on the way.
        varied: settings that differ among the runs.
        written: files.
    """

    rows: tuple[RunRow, ...]
    captioners: tuple[CaptionerRow, ...]
    claims: tuple[Claim, ...]
    over_seeds: tuple[SeedsClaim, ...]
    groups: Mapping[str, tuple[str, ...]]
    disagreements: Disagreements | None = None
    skipped: tuple[SkippedFolder, ...] = ()
    notes: tuple[str, ...] = ()
    varied: tuple[str, ...] = ()
    written: tuple[Path, ...] = ()

    def text(self) -> str:
        """For a terminal."""
        parts = [run_settings_table(self.rows).text(), run_outcomes_table(self.rows).text()] if self.rows else []
        if self.captioners:
            parts.append(captioners_table(self.captioners).text())
        parts += ["\n".join(paragraph) for paragraph in self._paragraphs()]
        if self.disagreements is not None:
            parts.append(self.disagreements.table().text())
        if self.written:
            parts.append("\n".join(["Written:", *(f"  {path}" for path in self.written)]))
        return "\n\n".join(parts)

    def markdown(self) -> str:
        """For a README."""
        tables = [runs_table(self.rows)] if self.rows else []
        tables += [captioners_table(self.captioners)] if self.captioners else []
        parts = [named_table(table) for table in tables]
        parts += ["\n".join(f"- {inline(line)}" for line in paragraph) for paragraph in self._paragraphs()]
        if self.disagreements is not None:
            parts.append(named_table(self.disagreements.table()))
        return "\n\n".join(parts) + "\n"

    def latex(self) -> str:
        """The tables for a paper; what the tests say is a table there."""
        tables = [runs_table(self.rows)] if self.rows else []
        tables += [captioners_table(self.captioners)] if self.captioners else []
        tables += [self.tests()] if self.claims else []
        return "\n\n".join(table.latex() for table in tables) + "\n"

    def csv(self) -> bytes:
        """The runs for a program; where disagreements were asked for, those."""
        if self.disagreements is not None:
            return self.disagreements.table().csv()
        return (runs_table(self.rows) if self.rows else captioners_table(self.captioners)).csv()

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
                }
                for row in self.rows
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
                }
                for row in self.captioners
            ],
            "tests": [claim.to_dict() for claim in self.claims],
            "over_seeds": [claim.to_dict() for claim in self.over_seeds],
            "validation_sets": [list(names) for names in self.groups.values()],
            "left_out": [vars(each) for each in self.skipped],
            "notes": list(self.notes),
        }
        if self.disagreements is not None:
            content["disagreements"] = [vars(each) for each in self.disagreements.pictures]
        return content

    def _paragraphs(self) -> list[list[str]]:
        """Sentences in groups: the tests, what seeds say together, what was left out."""
        shown = self._shown_claims()
        tests = [claim.sentence for claim in shown]
        if len(shown) < len(self.claims):
            decided = sum(claim.verdict != "undecided" for claim in self.claims)
            tests.append(
                f"These are the pairs of the best run; of all {len(self.claims)}, {decided} are decided. "
                "All are in tests.csv (with -o) and in --json."
            )
        if self.claims:
            tests.append(CAVEAT)
        if any(claim.question == NEARER for claim in self.claims):
            tests.append(NEARNESS)
        notes = [*self.group_sentences(), *self.notes]
        notes += [f"Left out: {each.name}: {each.reason}." for each in self.skipped]
        return [part for part in (tests, [claim.sentence for claim in self.over_seeds], notes) if part]

    def _shown_claims(self) -> tuple[Claim, ...]:
        if len(self.claims) <= _MAX_CLAIMS:
            return self.claims
        best = {rows[0].name for rows in (self.rows, self.captioners) if rows}
        return tuple(claim for claim in self.claims if best & {claim.first, claim.second})

    def group_sentences(self) -> list[str]:
        """What is said where not all runs share their validation pictures; else nothing."""
        if len(self.groups) < 2:
            return []
        sizes = {row.name: row.n for row in self.rows}
        told = "; ".join(f"{', '.join(names)} ({sizes[names[0]]:,})" for names in self.groups.values())
        return [
            f"Not all runs were measured on the same validation pictures with the same labels: {told}. "
            "Runs of different groups are not tested against one another, and their accuracies are of different things."
        ]


def _test_row(claim: Claim) -> tuple[Cell, ...]:
    counts, asked = claim.counts, QUESTIONS[claim.question].claim
    decided = (counts.first, counts.second, counts.n, counts.p, claim.corrected)
    return (claim.first, asked, claim.second, claim.verdict, *decided)


_MAX_PICTURES = 60  # pictures whose maps are drawn


def save_disagreement_maps(
    found: Disagreements, pair: tuple[RunRecord, RunRecord], path: Path
) -> tuple[list[Path], list[str]]:
    """Draw the attention maps of both runs for each picture, side by side, on contact sheets with one scale.

    Returns:
        What was written, and sentences on what was left out.

    Raises:
        ModelError: a run's weights cannot be used.
    """
    wanted = [each.name for each in found.pictures]
    try:
        samples = tuple(find_validation_samples(pair[0], wanted[:_MAX_PICTURES]).values())
    except DataError as error:
        return [], [f"No maps were drawn, as the pictures cannot be opened: {str(error).splitlines()[0]}"]
    notes = []
    if len(wanted) > _MAX_PICTURES:
        notes.append(f"pictures.png shows the first {_MAX_PICTURES} of {len(wanted)} pictures; pictures.csv names all.")
    if len(samples) < min(_MAX_PICTURES, len(wanted)):
        notes.append(f"{min(_MAX_PICTURES, len(wanted)) - len(samples)} pictures are no longer there and have no maps.")
    if not samples:
        return [], notes
    share = f"{len(samples)}" if len(samples) == len(wanted) else f"{len(samples)} of {len(wanted)}"
    first, second = (list(_maps(record, samples)) for record in pair)
    drawn = [each for both in zip(first, second, strict=True) for each in both]
    scale = Scale("uniform", shared_scale([each.map_RC for each in drawn]))
    sheets = save_contact_sheets(
        drawn,
        scale,
        path,
        {"runs": f"{pair[0].folder.path}, {pair[1].folder.path}"},
        title=f"{share} pictures on which two runs disagree",
        detail=f"of each pair left: {found.first}, right: {found.second}; {drawn[0].method}",
        pairs=False,
    )
    return sheets, notes


def _maps(record: RunRecord, samples: tuple[Sample, ...]) -> Iterator[MapPicture]:
    opened = open_classifier(str(record.folder.path), record.metrics.precision)
    explainer = Explainer(opened, Method())
    for batch in explainer.run(samples, batch_size=16):
        for explained in batch.pictures:
            picture = MapPicture.of(explained, record.true_labels[explained.sample.name])
            yield replace(picture, notes=()).with_smaller_photo(320)


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
    found: RunSearch, read: RecordReader = read_record, *, out: Path | None = None, pictures: bool = False
) -> ComparisonResult:
    """:func:`compare` of runs that were found before; ``read`` reads those that are not known already."""
    if pictures:
        read = cache(read)  # two runs, whose records are needed again
    summaries = read_summaries(found.runs, read)
    classifiers, captioners = ([run for run in summaries if run.kind == kind] for kind in ("classifier", "captioner"))
    claims = claims_of(summaries)
    rows, varied = _rows(classifiers, SHOWN)
    caption_rows, _ = _rows(captioners, ())
    order = {row.name: place for place, row in enumerate((*rows, *caption_rows))}
    ranked = sorted(summaries, key=lambda run: order[run.name])
    pair = _pair(classifiers, read) if pictures else None
    comparison = ComparisonResult(
        rows=tuple(row for row in rows if isinstance(row, RunRow)),
        captioners=tuple(row for row in caption_rows if isinstance(row, CaptionerRow)),
        claims=claims,
        over_seeds=seeds_claims(summaries, claims),
        groups=_groups(ranked[: len(rows)]),
        disagreements=None if pair is None else _disagreements(*pair),
        skipped=found.skipped,
        notes=_notes(classifiers, captioners),
        varied=varied,
    )
    return comparison if out is None else _written(comparison, ranked[: len(rows)], out, pair)


def _rows(
    runs: Sequence[RunSummary], always: Collection[str]
) -> tuple[tuple[RunRow | CaptionerRow, ...], tuple[str, ...]]:
    """The rows, best first (ties by loss), with settings: those always shown and those that differ; and the latter."""
    varied = varying_settings([run.settings for run in runs])
    names = [*always, *(name for run in runs for name in run.settings if name in varied and name not in always)]
    names = list(dict.fromkeys(names))
    rows = [
        replace(run.row, name=run.name, settings={shown_name(name): run.settings.get(name) for name in names})
        for run in runs
    ]
    rows.sort(key=lambda row: (-row.accuracy, row.loss))
    return tuple(rows), tuple(shown_name(name) for name in names if name in varied)


def _groups(runs: Sequence[RunSummary]) -> dict[str, tuple[str, ...]]:
    groups: dict[str, tuple[str, ...]] = {}
    for run in runs:
        groups[run.validation] = (*groups.get(run.validation, ()), run.name)
    return groups


def _notes(classifiers: Sequence[RunSummary], captioners: Sequence[RunSummary]) -> tuple[str, ...]:
    runs, notes = (*classifiers, *captioners), []
    precisions = sorted({run.precision for run in runs})
    if len(precisions) > 1:
        notes.append(f"The runs were measured in different precisions: {' and '.join(precisions)}.")
    by_pictures: dict[str, set[str]] = {}
    for run in classifiers:
        by_pictures.setdefault(run.pictures, set()).add(run.validation)
    if any(len(labels) > 1 for labels in by_pictures.values()):
        notes.append("Some runs have the same validation pictures with other labels: they are not tested either.")
    if captioners and classifiers:
        notes.append("Captioners are listed apart: their accuracy is of word pieces.")
    apart = [", ".join(names) for names in _groups(captioners).values()]
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


def _pair(runs: Sequence[RunSummary], read: RecordReader) -> tuple[RunRecord, RunRecord]:
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


def _written(
    comparison: ComparisonResult, runs: Sequence[RunSummary], out: Path, pair: tuple[RunRecord, RunRecord] | None
) -> ComparisonResult:
    """Write tables and figures of the classifiers, best first; the files are named in the result."""
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
    written = [out / name for name in tables]
    notes: list[str] = []
    if runs:
        origin = {"runs": ", ".join(str(run.folder.path) for run in runs)}
        save(accuracy_figure(comparison.rows, comparison.varied), out / "accuracy.png", origin)
        labels = figure_labels(comparison.rows, comparison.varied)
        histories = {labels[run.name]: run.folder.read_history() for run in runs[:MOST_CURVES]}
        curves, drawn = curves_figure(histories)
        save(curves, out / "curves.png", origin)
        written += [out / "accuracy.png", out / "curves.png"]
        if len(drawn) < len(runs):
            notes.append(f"curves.png shows the {len(drawn)} best of {len(runs)} runs: no more can be told apart.")
    if pair is not None and comparison.disagreements is not None and comparison.disagreements.pictures:
        sheets, told = save_disagreement_maps(comparison.disagreements, pair, out / "pictures.png")
        written += sheets
        notes += told
    return replace(comparison, written=tuple(written), notes=(*comparison.notes, *notes))
