"""``vitrine compare``: runs side by side, and what their predictions of the same pictures say of each pair."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

from vitrine.errors import UsageError
from vitrine.evaluate.caption_ngrams import NO_SCORERS
from vitrine.models.run_folder import to_json, write_atomically
from vitrine.report.comparison import (
    MOST_CURVES,
    CaptionerRow,
    RunRow,
    accuracy_figure,
    curves_figure,
    figure_labels,
)
from vitrine.report.style import save
from vitrine.workflows.compared import Comparison, Disagreement, Disagreements
from vitrine.workflows.comparison_claims import claims_of, seeds_claims, shown_name
from vitrine.workflows.comparison_maps import save_disagreement_maps
from vitrine.workflows.finding_runs import FoundRuns, find_runs
from vitrine.workflows.finished_run import ReadRun, read_finished_run
from vitrine.workflows.run_index import read_summaries
from vitrine.workflows.run_record import SHOWN, RunRecord, varying
from vitrine.workflows.run_summary import NEARER, RunSummary


def compare(references: Sequence[str], *, out: Path | None = None, pictures: bool = False) -> Comparison:
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
    found: FoundRuns, read: ReadRun = read_finished_run, *, out: Path | None = None, pictures: bool = False
) -> Comparison:
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
    comparison = Comparison(
        rows=tuple(row for row in rows if isinstance(row, RunRow)),
        captioners=tuple(row for row in caption_rows if isinstance(row, CaptionerRow)),
        claims=claims,
        over_seeds=seeds_claims(summaries, claims),
        groups=_groups(ranked[: len(rows)]),
        disagreements=None if pair is None else _disagreements(*pair),
        left_out=found.left_out,
        notes=_notes(classifiers, captioners),
        varied=varied,
    )
    return comparison if out is None else _written(comparison, ranked[: len(rows)], out, pair)


def _rows(
    runs: Sequence[RunSummary], always: Collection[str]
) -> tuple[tuple[RunRow | CaptionerRow, ...], tuple[str, ...]]:
    """The rows, best first (ties by loss), with settings: those always shown and those that differ; and the latter."""
    varied = varying([run.settings for run in runs])
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


def _pair(runs: Sequence[RunSummary], read: ReadRun) -> tuple[RunRecord, RunRecord]:
    if len(runs) != 2:
        raise UsageError(f"--pictures needs exactly two runs of classifiers; there are {len(runs)}.")
    first, second = (read(run.name, run.folder) for run in runs)
    assert isinstance(first, RunRecord)
    assert isinstance(second, RunRecord)
    if first.validation != second.validation:
        raise UsageError(
            f"--pictures needs two runs on the same validation pictures with the same labels; those of {first.name} "
            f"and {second.name} differ."
        )
    return first, second


def _disagreements(first: RunRecord, second: RunRecord) -> Disagreements:
    both = ((name, answer, second.answers[name]) for name, answer in first.answers.items())
    rows = (Disagreement(name, a.true, a.predicted, b.predicted) for name, a, b in both if a.predicted != b.predicted)
    return Disagreements(first.name, second.name, tuple(rows))


def _written(
    comparison: Comparison, runs: Sequence[RunSummary], out: Path, pair: tuple[RunRecord, RunRecord] | None
) -> Comparison:
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
        histories = {labels[run.name]: run.folder.history() for run in runs[:MOST_CURVES]}
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
