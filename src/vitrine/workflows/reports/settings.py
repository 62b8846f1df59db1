"""Sections on what was tried: the table of settings with its tests, and the learning curves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from vitrine.report.comparison import (
    RunRow,
    accuracy_figure,
    captioners_table,
    curves_figure,
    figure_labels,
    outcomes_of_runs,
    runs_table,
)
from vitrine.report.page.document import Block, Finding, Findings, Folded, Listing, Paragraph, Plot, Section, Sheet
from vitrine.workflows.compared import Comparison
from vitrine.workflows.comparison_claims import CAVEAT, NEARNESS
from vitrine.workflows.reports.final import Final
from vitrine.workflows.run_record import RunRecord
from vitrine.workflows.run_summary import NEARER, RIGHT

_MOST_CLAIMS = 12
_MOST_FOLDED = 60


def settings_section(comparison: Comparison, final: Final | None) -> Section:
    """All runs as a table and a dot plot, what the paired tests say, and what was left out."""
    blocks: list[Block] = []
    if comparison.rows:
        blocks += _runs(comparison, final)
    if comparison.captioners:
        blocks.append(Sheet(captioners_table(comparison.captioners), "Captioners: their accuracy is of word pieces."))
    blocks += _tests(comparison, final)
    notes = [*comparison.group_sentences(), *comparison.notes]
    notes += [f"Left out: {each.name}: {each.reason}." for each in comparison.left_out]
    if notes:
        blocks.append(Listing(tuple(notes)))
    return Section("settings", "Settings and what came out", tuple(blocks))


def _runs(comparison: Comparison, final: Final | None) -> list[Block]:
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
            replace(outcomes_of_runs(rows), final=index), "Sorted by validation accuracy; the final result is marked."
        ),
        Folded("Every setting of every run", (Sheet(replace(runs_table(rows), final=index)),)),
    ]


def _tried(rows: tuple[RunRow, ...], varied: tuple[str, ...]) -> str:
    if len(rows) == 1:
        return "There is one run of a classifier."
    if not varied:
        return f"{len(rows)} runs of one setting were made."
    return f"{len(rows)} runs were made; they differ in {', '.join(varied)}."


def _tests(comparison: Comparison, final: Final | None) -> list[Block]:
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
        blocks.append(Folded(f"All {len(comparison.claims)} tests", (Sheet(comparison.tests()),)))
    elif others:
        findings = Findings(tuple(Finding(each.verdict, each.sentence) for each in others))
        blocks.append(Folded(f"Tests of the other runs ({len(others)} of {len(comparison.claims)})", (findings,)))
    if comparison.over_seeds:
        blocks.append(Paragraph("Over several seeds:"))
        blocks.append(Findings(tuple(Finding(each.verdict, each.sentence) for each in comparison.over_seeds)))
    return blocks


def curves_section(comparison: Comparison, records: Mapping[str, RunRecord], final: Final | None) -> Section | None:
    """Learning curves of the classifiers, and whether each had come to its end; None without classifiers."""
    epochs = {row.name: records[row.name].folder.history() for row in comparison.rows}
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
