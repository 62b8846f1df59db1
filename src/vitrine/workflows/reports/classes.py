"""The section on classes: how each does, and which is taken for which."""

from __future__ import annotations

from vitrine.evaluate.intervals import wilson
from vitrine.report.confusion import confusion_figure
from vitrine.report.page.document import Block, Folded, Paragraph, Plot, Section, Sheet
from vitrine.report.tables import Table
from vitrine.results import ClassificationMetrics, ClassMetrics
from vitrine.workflows.reports.final import Final

_FEW = 30  # pictures of a class below which its recall says little
_OPEN = 15  # classes that stand in the open
_MISTAKES = 10


def classes_section(final: Final) -> Section:
    """Precision and recall by class, the confusion matrix, and the surest mistakes, on the split that says most."""
    m, split = final.shown
    table = Sheet(_class_table(m), f"{m.n:,} {split} pictures; recall with its 95 % interval (Wilson).")
    blocks: list[Block] = [Paragraph(" ".join(_sentences(m)))]
    blocks.append(table if len(m.classes) <= _OPEN else Folded(f"All {len(m.classes)} classes", (table,)))
    alt = f"Confusion matrix of {len(m.classes)} classes. {_commonest(m)}"
    blocks.append(Plot("confusion", confusion_figure(m), alt, "Rows: true classes. Columns: predicted.", lines=False))
    if m.hardest:
        rows = tuple((each.name, each.true, each.predicted, f"{each.probability:.3f}") for each in m.hardest)
        mistakes = Table(("picture", "is", "was called", "probability"), rows[:_MISTAKES])
        blocks.append(Folded("The mistakes that it was surest of", (Sheet(mistakes),)))
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
