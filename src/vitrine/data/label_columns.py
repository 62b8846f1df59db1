"""What a table says of a picture's labels: one class, several in a cell, or a column of 0 and 1 for every label."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vitrine.errors import DataError
from vitrine.results import and_n_more

LABEL_COLUMNS = ("label", "class", "class_name", "category", "target", "labels")
"""Column names that are understood, in order of preference; case does not matter."""

SEPARATOR = "|"
"""Between labels of a cell: what is looked for where nobody says what separates them."""

Cell = str | tuple[str, ...]
"""A cell as text; a list, as JSON and parquet have them, as a tuple."""

_FLAGS = {"1": 1, "1.0": 1, "true": 1, "0": 0, "0.0": 0, "false": 0, "-1": -1, "-1.0": -1}
_NAMED_SEPARATORS = {"space": " ", "tab": "\t", "comma": ","}


@dataclass
class LabelColumns:
    """The columns of a table that say which labels a picture has, and how they are read.

    Attributes:
        table: the file that errors name.
        columns: one that names the class or the labels; or, with ``is_flags``, one for every label.
        is_flags: the columns hold 1 where the label is there, and 0 or, throughout a table, -1 where it is not.
        separator: between the labels of a cell; "" where a cell is one class; None where it is not known.
    """

    table: Path
    columns: tuple[str, ...]
    is_flags: bool = False
    separator: str | None = None
    _seen_flags: set[int] = field(default_factory=set)

    def read(self, row: Mapping[str, Cell], number: int) -> Cell:
        """What a row says: the text of its cell, or a tuple of labels, which may be empty.

        Raises:
            DataError: a column of 0 and 1 holds something else; the message names the row.
        """
        if self.is_flags:
            return tuple(column for column in self.columns if self._flag(row, column, number) == 1)
        cell = row.get(self.columns[0], "")
        return _distinct(cell) if isinstance(cell, tuple) else cell.strip()

    def _flag(self, row: Mapping[str, Cell], column: str, number: int) -> int:
        cell = row.get(column, "")
        flag = None if isinstance(cell, tuple) else _FLAGS.get(cell.strip().lower())
        if flag is None:
            raise DataError(
                f"{self.table}, row {number}: the column {column} is read as a label, and holds {cell!r}: expected 1 "
                f"where a picture has the label, and 0 where not.\nChoose others: '{self.table.name}?labels=A,B,C'."
            )
        self._seen_flags.add(flag)
        return flag

    def check(self) -> None:
        """Refuse -1 beside 0 and 1, after all rows were read: it may mean "not there", or "not known".

        Raises:
            DataError: the columns hold all three.
        """
        if {-1, 0} <= self._seen_flags:
            raise DataError(
                f"{self.table} has -1 beside 0 in its columns of labels: it may mean that a label is not there, or "
                "that nobody knows.\nReplace it by 0 or 1, or leave those rows out."
            )

    def split_cell(self, cell: Cell) -> tuple[str, ...]:
        """The labels of a cell of multi-label data, each once, in the order of the cell."""
        if isinstance(cell, tuple):
            return cell
        return _distinct(cell.split(self.separator or SEPARATOR) if self.separator != "" else [cell])

    def are_several(self, cells: Iterable[Cell]) -> bool:
        """Whether the cells of all rows are labels, several or none to a picture, rather than one class each."""
        if self.separator is not None and not self.is_flags:
            return self.separator != "" or any(isinstance(cell, tuple) for cell in cells)
        return self.is_flags or any(isinstance(cell, tuple) or SEPARATOR in cell for cell in cells)

    def note(self) -> str:
        """How labels were read, in a sentence, for multi-label data."""
        if self.is_flags:
            return f"Multi-label: a column for every label, 1 where it is there ({and_n_more(self.columns, 8)})."
        if self.separator is None:
            return (
                f"Multi-label: the column {self.columns[0]} holds lists, or labels with {SEPARATOR} between them "
                f"('{self.table.name}?separator=' reads one class in each cell)."
            )
        return f"Multi-label: the column {self.columns[0]} holds labels with {self.separator!r} between them."


def _distinct(parts: Iterable[str]) -> tuple[str, ...]:
    """The labels that are not blank, each once."""
    return tuple(dict.fromkeys(label for part in parts if (label := part.strip())))


def choose_label_columns(
    table: Path,
    columns: Sequence[str],
    rows: Sequence[Mapping[str, Cell]] | None,
    options: Mapping[str, str],
    others: Sequence[str | None],
) -> LabelColumns | None:
    """The columns that say which labels pictures have.

    Args:
        table: the file.
        columns: of the table.
        rows: all of them, in which columns of 0 and 1 are looked for where no column is called like labels; None
            looks for none.
        options: of the reference: ``label`` names the column, ``separator`` what is between the labels of a cell;
            ``labels`` names the columns of 0 and 1, with commas, or ``*`` for all.
        others: columns that are used for something else.

    Returns:
        None where no column says it.

    Raises:
        DataError: options that contradict one another, or a column that the table does not have.
    """
    if "labels" in options:
        if "label" in options or "separator" in options:
            raise DataError(
                f"{table}: labels= names columns of 0 and 1, label= and separator= one column. Give either."
            )
        rest = tuple(column for column in columns if column not in others)
        names = rest if options["labels"] == "*" else tuple(name.strip() for name in options["labels"].split(","))
        return LabelColumns(table, _require_columns(table, columns, names), is_flags=True)
    separator = options.get("separator")
    if separator is not None:
        separator = _NAMED_SEPARATORS.get(separator, separator)
    by_lower = {column.lower(): column for column in reversed(columns)}
    label = options.get("label") or next((by_lower[name] for name in LABEL_COLUMNS if name in by_lower), None)
    if label is not None:
        return LabelColumns(table, _require_columns(table, columns, (label,)), separator=separator)
    flags = _flag_columns(columns, rows or (), others)
    return LabelColumns(table, flags, is_flags=True) if len(flags) > 1 and separator is None else None


def _require_columns(table: Path, columns: Sequence[str], names: tuple[str, ...]) -> tuple[str, ...]:
    missing = [name for name in names if name not in columns]
    if missing or len(set(names)) < len(names):
        what = f"no column {missing[0]!r}" if missing else "one column named twice"
        raise DataError(f"{table} has {what}; it has {and_n_more(columns, 12)}.")
    return names


def _flag_columns(
    columns: Sequence[str], rows: Sequence[Mapping[str, Cell]], others: Sequence[str | None]
) -> tuple[str, ...]:
    """The columns that hold nothing but 0 and 1 (or -1 and 1)."""
    if not rows:
        return ()
    return tuple(
        column
        for column in columns
        if column not in others
        and all(isinstance(cell := row.get(column, ""), str) and cell.strip().lower() in _FLAGS for row in rows)
    )
