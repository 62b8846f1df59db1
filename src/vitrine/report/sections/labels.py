"""The section on a multi-label model: its figures, every label, and the mistakes that it was surest of."""

from __future__ import annotations

from vitrine.plotting.average_precision import average_precision_figure
from vitrine.plotting.tables import Table, format_share, multi_label_figures
from vitrine.report.document import Block, Commands, Details, Finding, Findings, Paragraph, Plot, Section, TableBlock
from vitrine.results import ONE_TRAINING, MultiLabelMetrics, count_of
from vitrine.runs.record import RunRecord

_MAX_OPEN_LABELS = 15  # labels whose table is not folded
_MAX_MISTAKES = 10


def build_labels_section(record: RunRecord, number: int) -> Section:
    """What a multi-label run came to on its validation pictures.

    Args:
        record: of the run.
        number: of the section among those of its kind, from 1.
    """
    metrics = record.metrics
    assert isinstance(metrics, MultiLabelMetrics)
    figures = Table(("figure", "value"), tuple(multi_label_figures(metrics)))
    blocks: list[Block] = [TableBlock(figures, "On the validation pictures, by which its epoch was chosen.")]
    leakage = record.leakage.sentences() if record.leakage else ()
    blocks += [Findings(tuple(Finding("leak", sentence) for sentence in leakage))] if leakage else []
    blocks.append(Paragraph(f"{ONE_TRAINING} The threshold was not chosen for any purpose.", "note"))
    best = sorted(metrics.classes, key=lambda each: -(each.average_precision or 0.0))
    alt = f"Average precision of {count_of(len(best), 'label')}, best first: " + "; ".join(
        f"{each.label} {each.average_precision or 0:.3f}" for each in best[:12] if each.support
    )
    caption = "Bars: average precision. Lines: a ranking by chance. Dots: F1 at the threshold."
    blocks.append(Plot(f"labels-{number}", average_precision_figure(metrics), alt, caption, lines=False))
    table = TableBlock(_labels_table(metrics))
    blocks.append(table if len(best) <= _MAX_OPEN_LABELS else Details(f"All {count_of(len(best), 'label')}", (table,)))
    if metrics.hardest:
        rows = tuple(
            (each.name, each.label, "missed" if each.is_present else "not there", f"{each.probability:.3f}")
            for each in metrics.hardest[:_MAX_MISTAKES]
        )
        mistakes = Table(("picture", "label", "which was", "probability"), rows)
        blocks.append(Details("The mistakes that it was surest of", (TableBlock(mistakes),)))
    blocks.append(Commands((f"vitrine verify {record.folder.path}",)))
    return Section(f"labels-{number}", f"Label by label: {record.name}", tuple(blocks))


def _labels_table(metrics: MultiLabelMetrics) -> Table:
    rows = tuple(
        (
            each.label,
            format_share(each.average_precision),
            format_share(each.f1),
            format_share(each.recall),
            format_share(each.precision),
            each.support,
            each.predicted,
        )
        for each in metrics.classes
    )
    return Table(("label", "average precision", "F1", "recall", "precision", "pictures", "given to"), rows)
