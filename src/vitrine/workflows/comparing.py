"""``vitrine compare``: runs side by side, and what their predictions of the same pictures say of each pair."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path

from vitrine.errors import RunError, UsageError
from vitrine.models.captioner.saved import is_captioner_folder
from vitrine.models.run_folder import to_json, write_atomically
from vitrine.report.comparison import CaptionerRow, RunRow, accuracy_figure, curves_figure, figure_labels
from vitrine.report.style import save
from vitrine.results import CaptioningMetrics
from vitrine.workflows.compared import Comparison, Disagreement, Disagreements
from vitrine.workflows.comparison_claims import claims_of, seeds_claims, shown_name
from vitrine.workflows.comparison_maps import save_disagreement_maps
from vitrine.workflows.finding_runs import FoundRuns, find_runs
from vitrine.workflows.run_record import SHOWN, RunRecord, differing, read_record


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
    found = find_runs(references)
    captioned = {name: run for name, run in found.runs.items() if is_captioner_folder(run.path)}
    records = [read_record(name, run) for name, run in found.runs.items() if name not in captioned]
    claims = claims_of(records)
    rows, varied = _rows(records)
    order = {row.name: place for place, row in enumerate(rows)}
    records_by_result = sorted(records, key=lambda record: order[record.name])
    comparison = Comparison(
        rows=rows,
        captioners=_captioners(found, list(captioned)),
        claims=claims,
        over_seeds=seeds_claims(records, claims),
        groups=_groups(records_by_result),
        disagreements=_disagreements(records) if pictures else None,
        left_out=found.left_out,
        notes=_notes(records, captioned),
        varied=varied,
    )
    return comparison if out is None else _written(comparison, records_by_result, out)


def _rows(records: Sequence[RunRecord]) -> tuple[tuple[RunRow, ...], tuple[str, ...]]:
    """The rows, best first (ties by loss), with the settings that are always shown and those that differ."""
    settings = [record.settings for record in records]
    varied = {name for one, other in combinations(settings, 2) for name in differing(one, other)}
    names = [*SHOWN, *(name for each in settings for name in each if name in varied and name not in SHOWN)]
    rows = [
        record.row({shown_name(name): each.get(name) for name in names})
        for record, each in zip(records, settings, strict=True)
    ]
    rows.sort(key=lambda row: (-row.accuracy, row.loss))
    return tuple(rows), tuple(dict.fromkeys(shown_name(name) for name in names if name in varied))


def _captioners(found: FoundRuns, names: Sequence[str]) -> tuple[CaptionerRow, ...]:
    rows = []
    for name in names:
        path = found.runs[name].path / "metrics.json"
        try:
            metrics = CaptioningMetrics.from_dict(json.loads(path.read_text("utf-8")))
        except (OSError, ValueError, KeyError) as error:
            raise RunError(f"{path} is not a captioner's metrics ({error}).") from error
        rows.append(CaptionerRow(name, metrics.accuracy, metrics.pieces, metrics.n, metrics.negative_log_likelihood))
    return tuple(sorted(rows, key=lambda row: -row.accuracy))


def _groups(records: Sequence[RunRecord]) -> dict[str, tuple[str, ...]]:
    groups: dict[str, tuple[str, ...]] = {}
    for record in records:
        groups[record.validation] = (*groups.get(record.validation, ()), record.name)
    return groups


def _notes(records: Sequence[RunRecord], captioned: object) -> tuple[str, ...]:
    notes = []
    precisions = sorted({record.metrics.precision for record in records})
    if len(precisions) > 1:
        notes.append(f"The runs were measured in different precisions: {' and '.join(precisions)}.")
    by_pictures: dict[frozenset[tuple[str, str]], set[str]] = {}
    for record in records:
        by_pictures.setdefault(record.pictures, set()).add(record.validation)
    if any(len(labels) > 1 for labels in by_pictures.values()):
        notes.append("Some runs have the same validation pictures with other labels: they are not tested either.")
    if captioned:
        notes.append("Captioners are listed apart: their accuracy is of word pieces, and no paired test is made.")
    if len(records) > 1:
        notes.append("Peak memory is of the whole process, with all that it trained before.")
    return tuple(notes)


def _disagreements(records: Sequence[RunRecord]) -> Disagreements:
    if len(records) != 2:
        raise UsageError(f"--pictures needs exactly two runs of classifiers; there are {len(records)}.")
    first, second = records
    if first.validation != second.validation:
        raise UsageError(
            f"--pictures needs two runs on the same validation pictures with the same labels; those of {first.name} "
            f"and {second.name} differ."
        )
    both = ((name, answer, second.answers[name]) for name, answer in first.answers.items())
    rows = (Disagreement(name, a.true, a.predicted, b.predicted) for name, a, b in both if a.predicted != b.predicted)
    return Disagreements(first.name, second.name, tuple(rows))


def _written(comparison: Comparison, records: Sequence[RunRecord], out: Path) -> Comparison:
    """Write tables and figures; the files are named in the result."""
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
    if records:
        origin = {"runs": ", ".join(str(record.folder.path) for record in records)}
        save(accuracy_figure(comparison.rows, comparison.varied), out / "accuracy.png", origin)
        labels = figure_labels(comparison.rows, comparison.varied)
        histories = {labels[record.name]: record.folder.history() for record in records}
        curves, drawn = curves_figure(histories)
        save(curves, out / "curves.png", origin)
        written += [out / "accuracy.png", out / "curves.png"]
        if len(drawn) < len(histories):
            notes.append(f"curves.png shows the {len(drawn)} best of {len(histories)} runs: no more can be told apart.")
    if comparison.disagreements is not None and comparison.disagreements.pictures:
        by_name = {record.name: record for record in records}
        pair = (by_name[comparison.disagreements.first], by_name[comparison.disagreements.second])
        sheets, told = save_disagreement_maps(comparison.disagreements, pair, out / "pictures.png")
        written += sheets
        notes += told
    return replace(comparison, written=tuple(written), notes=(*comparison.notes, *notes))
