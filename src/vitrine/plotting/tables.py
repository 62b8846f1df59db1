"""Tables: aligned text for a terminal, Markdown for a README, CSV for a program, LaTeX for a paper."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from vitrine.io.resumable_csv import csv_row
from vitrine.results import (
    OVER_PICTURES,
    ClassificationMetrics,
    Interval,
    MultiLabelMetrics,
    count_of,
    uneven_classes_figures,
)

Cell = str | int | float | None

_NOTHING = "–"
_WORST = 10  # mistakes that the table of an evaluation lists


@dataclass(frozen=True)
class Table:
    """Rows under column names, one of which may be the result that counts.

    Attributes:
        columns: their names.
        rows: a cell for every column; None is shown as a dash. Floats are shown with up to four significant digits, so
            what needs others comes as text.
        final: index of the row that is the final result: ``*`` in text, bold in Markdown and LaTeX, a column in
            CSV.

    Raises:
        ValueError: a row has another number of cells, or ``final`` is no row.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    final: int | None = None

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"Expected {len(self.columns)} cells; got {len(row)}: {row}.")
        if self.final is not None and not 0 <= self.final < len(self.rows):
            raise ValueError(f"The final row must be one of {len(self.rows)}; got {self.final}.")

    def text(self) -> str:
        """Aligned columns, two spaces apart; numbers to the right; the final row begins with ``*``."""
        cell_rows = self.cells()
        columns = range(len(self.columns))
        widths = [max(len(row[i]) for row in (self.columns, *cell_rows)) for i in columns]
        right = [self.right_aligned(i) for i in columns]
        marks = ["", *("*" if i == self.final else "" for i in range(len(cell_rows)))]
        indent = 0 if self.final is None else 2
        lines = []
        for mark, row in zip(marks, (self.columns, *cell_rows), strict=True):
            cells = (row[i].rjust(widths[i]) if right[i] else row[i].ljust(widths[i]) for i in columns)
            lines.append(f"{mark:<{indent}}" + "  ".join(cells))
        lines.insert(1, " " * indent + "  ".join("─" * width for width in widths))
        return "\n".join(line.rstrip() for line in lines)

    def markdown(self) -> str:
        """A pipe table, the final row in bold."""
        cell_rows = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in self.cells()]
        if self.final is not None:
            cell_rows[self.final] = [f"**{cell}**" for cell in cell_rows[self.final]]
        rule = ["---:" if self.right_aligned(i) else "---" for i in range(len(self.columns))]
        columns = [name.replace("|", "\\|").replace("\n", " ") for name in self.columns]
        return "\n".join("| " + " | ".join(row) + " |" for row in (columns, rule, *cell_rows))

    def latex(self) -> str:
        """A tabular of LaTeX with the rules of its package booktabs, the final row in bold."""
        cell_rows = [[_latex(cell) for cell in row] for row in self.cells()]
        if self.final is not None:
            cell_rows[self.final] = [f"\\textbf{{{cell}}}" for cell in cell_rows[self.final]]
        sides = "".join("r" if self.right_aligned(i) else "l" for i in range(len(self.columns)))
        rows = [" & ".join(row) + r" \\" for row in (list(map(_latex, self.columns)), *cell_rows)]
        lines = [rf"\begin{{tabular}}{{{sides}}}", r"\toprule", rows[0], r"\midrule", *rows[1:]]
        return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"])

    def csv(self) -> bytes:
        """A CSV file. Numbers are whole; None is empty; ``final`` is a column with yes and no where there is one."""
        has_final = self.final is not None
        header = [*self.columns, *(["final"] if has_final else [])]
        rows = (
            ["" if cell is None else str(cell) for cell in row]
            + ([("no", "yes")[i == self.final]] if has_final else [])
            for i, row in enumerate(self.rows)
        )
        return csv_row(header) + b"".join(csv_row(row) for row in rows)

    def cells(self) -> list[list[str]]:
        """Every row as it is shown."""
        return [[_show(cell) for cell in row] for row in self.rows]

    def right_aligned(self, column: int) -> bool:
        """Whether a column has nothing but numbers."""
        cells = [row[column] for row in self.rows if row[column] is not None]
        return bool(cells) and all(isinstance(cell, int | float) and not isinstance(cell, bool) for cell in cells)


@dataclass(frozen=True)
class Setting:
    """One training among several: what was set, and what came out.

    Attributes:
        values: what differs between the settings, by name.
        accuracy: 0 to 1.
        interval: its 95 % interval.
        n: pictures that it was measured on.
        final: whether this is the result that counts.
    """

    values: Mapping[str, Cell]
    accuracy: float
    interval: Interval
    n: int
    final: bool = False


def settings_table(settings: Sequence[Setting]) -> Table:
    """The settings and their accuracies, in the order given.

    Raises:
        ValueError: they do not all have the same values by name, or more than one is final.
    """
    names = tuple(settings[0].values) if settings else ()
    if any(tuple(setting.values) != names for setting in settings):
        raise ValueError(f"Every setting must have the values {names}, in this order.")
    finals = [i for i, setting in enumerate(settings) if setting.final]
    if len(finals) > 1:
        raise ValueError(f"One setting can be the final result; {len(finals)} are.")
    rows = [
        (*setting.values.values(), f"{setting.accuracy:.4f}", _interval(setting.interval), setting.n)
        for setting in settings
    ]
    return Table((*names, "accuracy", OVER_PICTURES, "n"), tuple(rows), finals[0] if finals else None)


def metrics_table(metrics: ClassificationMetrics) -> str:
    """An evaluation for a terminal: the figures, the classes, and the mistakes that the model was surest of."""
    figures: list[tuple[str, str]] = [
        ("accuracy", f"{metrics.accuracy:.4f}  ({OVER_PICTURES} {_interval(metrics.accuracy_interval)})"),
        ("pictures", f"{metrics.n:,}"),
        *uneven_classes_figures(metrics),
        *([] if metrics.top5 is None else [("top-5 accuracy", f"{metrics.top5:.4f}")]),
        ("negative log-likelihood", f"{metrics.negative_log_likelihood:.4f}"),
        (
            "expected calibration error",
            f"{metrics.calibration_error:.4f}  ({count_of(metrics.calibration_bins, 'bin')})",
        ),
        ("computed in", metrics.precision),
    ]
    width = max(len(name) for name, _ in figures)
    classes = Table(
        ("class", "precision", "recall", "pictures"),
        tuple(
            (entry.label, format_share(entry.precision), format_share(entry.recall), entry.support)
            for entry in metrics.classes
        ),
    )
    parts = ["\n".join(f"{name:<{width}}  {value}" for name, value in figures), classes.text()]
    if metrics.hardest:
        mistakes = metrics.hardest[:_WORST]
        hardest = Table(
            ("surest mistakes", "is", "was called", "probability"),
            tuple((entry.name, entry.true, entry.predicted, f"{entry.probability:.3f}") for entry in mistakes),
        )
        parts.append(hardest.text())
    return "\n\n".join(parts)


def multi_label_metrics_table(metrics: MultiLabelMetrics) -> str:
    """An evaluation of a multi-label model for a terminal: the figures, the labels, and the surest mistakes."""
    figures = multi_label_figures(metrics)
    width = max(len(name) for name, _ in figures)
    labels = Table(
        ("label", "average precision", "F1", "precision", "recall", "pictures", "given to"),
        tuple(
            (
                each.label,
                *map(format_share, (each.average_precision, each.f1, each.precision, each.recall)),
                each.support,
                each.predicted,
            )
            for each in metrics.classes
        ),
    )
    parts = ["\n".join(f"{name:<{width}}  {value}" for name, value in figures), labels.text()]
    if metrics.hardest:
        rows = tuple(
            (each.name, each.label, "missed" if each.is_present else "not there", f"{each.probability:.3f}")
            for each in metrics.hardest[:_WORST]
        )
        parts.append(Table(("surest mistakes", "label", "which was", "probability"), rows).text())
    return "\n\n".join(parts)


def multi_label_figures(metrics: MultiLabelMetrics) -> list[tuple[str, str]]:
    """(name, value) of a multi-label evaluation's figures, as tables show them."""
    others = (
        f", without {len(metrics.labels_without_pictures)} that no picture has"
        if metrics.labels_without_pictures
        else ""
    )
    without = f", {metrics.without_label:,} of them without any label" if metrics.without_label else ""
    at = f"at {metrics.threshold:g}"
    return [
        (
            "mean average precision",
            _with_interval(metrics.mean_average_precision, metrics.mean_average_precision_interval),
        ),
        ("labels", f"{len(metrics.classes) - len(metrics.labels_without_pictures):,}{others}"),
        ("pictures", f"{metrics.n:,}{without}"),
        (f"macro F1 {at}", _with_interval(metrics.macro_f1, metrics.macro_f1_interval)),
        (f"micro F1 {at}", _with_interval(metrics.micro_f1, metrics.micro_f1_interval)),
        (f"all labels right {at}", _with_interval(metrics.accuracy, metrics.accuracy_interval)),
        ("binary cross-entropy", f"{metrics.negative_log_likelihood:.4f}"),
        ("computed in", metrics.precision),
    ]


def _with_interval(value: float, interval: Interval | None) -> str:
    ends = "no interval: too few pictures" if interval is None else f"{OVER_PICTURES} {_interval(interval)}"
    return f"{value:.4f}  ({ends})"


def _show(cell: Cell) -> str:
    if cell is None:
        return _NOTHING
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    return f"{cell:.4g}" if isinstance(cell, float) else f"{cell:,}" if isinstance(cell, int) else cell


_LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        **{character: f"\\{character}" for character in "&%$#_{}"},
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "\n": " ",
        "–": "--",
    }
)


@lru_cache(maxsize=10_000)  # tables of tests name the same runs again and again
def _latex(text: str) -> str:
    escaped_text = text.translate(_LATEX)
    return (
        f"{{[}}{escaped_text[1:]}" if escaped_text.startswith("[") else escaped_text
    )  # after a line's end it would be an option's


def _interval(interval: Interval) -> str:
    return f"{interval.low:.4f} to {interval.high:.4f}"


_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~$&])")
_PATH = re.compile(r"(?<![\w/.})\]*>\\])(?!//)(?:~|\.{1,2})?(?:/[^\s/:*?\"<>|'`,;()]+)+/?")
_WRITTEN_AS_PATH = re.compile(r"(?:[a-z-]+:)?(?:/|~|\.\.?/|[A-Za-z]:\\)")


def tidy(text: str) -> str:
    """Text on one line, without characters that cannot be printed."""
    return " ".join("".join(c for c in text if c.isprintable() or c.isspace()).split())


def inline(text: str) -> str:
    """Text escaped for a line of Markdown or a cell of a table, so that it shows as it is."""
    return _SPECIAL.sub(r"\\\1", tidy(text))


def code(text: str) -> str:
    """Text as code inside a line: between as many backticks as it takes."""
    line = tidy(text)
    longest = max((len(run) for run in re.findall(r"`+", line)), default=0)
    fence, space = "`" * (longest + 1), " " if "`" in line else ""
    return f"{fence}{space}{line}{space}{fence}"


def public_name(reference: str, places: Sequence[str] = ()) -> str:
    """A reference to data, a model or a file: the last name of a path, any other as it is."""
    if _WRITTEN_AS_PATH.match(reference) or any(place and place in reference for place in places):
        place, mark, options = reference.partition("?")
        return re.split(r"[/\\]", place.rstrip("/\\"))[-1] + mark + options
    return reference


def without_paths(text: str, places: Sequence[str] = ()) -> str:
    """Sentences in which every path of a machine has become its last name.

    Args:
        text: a sentence, possibly with paths.
        places: folders and files that are known to be on this machine; their names may have spaces.
    """
    for place in sorted({place for place in places if len(place) > 1}, key=len, reverse=True):
        text = text.replace(place, f"/{public_name(place)}")
    return _PATH.sub(lambda match: public_name(match[0].rstrip("/")) or match[0], text)


def table(columns: Sequence[str], rows: Sequence[tuple[Cell, ...]]) -> str:
    """A Markdown table whose cells are escaped, so that names show as they are."""
    cell_rows = tuple(tuple(_cell(cell) for cell in row) for row in rows)
    right = [bool(rows) and all(isinstance(row[i], int) for row in rows) for i in range(len(columns))]
    rule = ["---:" if each else "---" for each in right]
    return "\n".join(f"| {' | '.join(row)} |" for row in (tuple(columns), tuple(rule), *cell_rows))


def named_table(content: Table) -> str:
    """A :class:`Table` as Markdown whose columns and cells are escaped, so that names show as they are."""

    def plain(cell: Cell) -> Cell:
        return inline(cell).replace("\\|", "|") if isinstance(cell, str) else cell  # the table escapes its own bars

    columns = tuple(str(plain(name)) for name in content.columns)
    return replace(content, columns=columns, rows=tuple(tuple(map(plain, row)) for row in content.rows)).markdown()


def _cell(cell: Cell) -> str:
    return "–" if cell is None else f"{cell:,}" if isinstance(cell, int) else inline(str(cell))


def format_share(value: float | None) -> str | None:
    """A share of 1 with three decimals: ``0.938``; None where there is none."""
    return None if value is None else f"{value:.3f}"


def details_block(title: str, text: str) -> str:
    """A block of HTML for Markdown that shows its text when its title is clicked."""
    return f"<details>\n<summary>{title}</summary>\n\n{text}\n\n</details>"
