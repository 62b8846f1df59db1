"""Manifests: a table with the path and the label of every picture, and optionally its split."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow
import pyarrow.parquet

from vitrine.data.image_folder import SPLIT_NAMES, LabelledFile, labelled_data
from vitrine.data.label_columns import LABEL_COLUMNS, Cell, LabelColumns, choose_label_columns
from vitrine.data.samples import Dataset, printable
from vitrine.errors import DataError, error_summary
from vitrine.results import and_n_more

PATH_COLUMNS = (
    "path",
    "filename",
    "file_name",
    "file",
    "filepath",
    "file_path",
    "image_path",
    "image",
    "img",
    "picture",
)
SPLIT_COLUMNS = ("split", "set", "subset", "partition")
"""Column names that are understood, in order of preference; case does not matter."""

__all__ = ["LABEL_COLUMNS", "PATH_COLUMNS", "SPLIT_COLUMNS", "SUFFIXES", "has_columns", "open_manifest"]

SUFFIXES = (".csv", ".tsv", ".parquet", ".jsonl")

_Row = tuple[int, Mapping[str, Cell]]  # number in the file, counted from 1 with the header, and the cells by column


@dataclass(frozen=True)
class _Columns:
    path: str
    labels: LabelColumns
    split: str | None

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for name in (self.path, *self.labels.columns, self.split) if name)


def open_manifest(manifest: Path, reference: str, options: Mapping[str, str] | None = None) -> Dataset:
    """Read a manifest.

    Paths are relative to the manifest's folder, or absolute. Files that are absent stay in the data as pictures that
    cannot be read, and are named in the notes; only where all of them are absent is that an error.

    Args:
        manifest: ``.csv`` (comma, semicolon or tab), ``.tsv``, ``.jsonl`` or ``.parquet``.
        reference: what the person wrote.
        options: column names under "image", "label" and "split", where the usual ones do not fit; for multi-label data
            "separator" and "labels" (see :func:`vitrine.data.label_columns.choose_label_columns`).

    Raises:
        DataError: unreadable, without the columns needed, contradictory, or naming no file that exists.
    """
    columns, rows = _read(manifest)
    used, rows = _choose(manifest, columns, rows, options or {})
    files: dict[str, LabelledFile] = {}
    first_row: dict[str, int] = {}
    without_label: list[LabelledFile] = []
    repeated_rows = 0
    for number, row in rows:
        file = _file(manifest, number, row, used)
        if not file.label:
            without_label.append(file)
        elif file.name not in files:
            files[file.name] = file
            first_row[file.name] = number
        elif (file.label, file.split) == (files[file.name].label, files[file.name].split):
            repeated_rows += 1
        else:
            raise DataError(
                f"{manifest}: rows {first_row[file.name]} and {number} name the same picture, {file.name}, with "
                "different labels or splits. Keep one of them."
            )
    if not files:
        raise DataError(f"{manifest} has no row with a label.")
    is_multi_label = used.labels.are_several(file.label for file in files.values())
    if is_multi_label:
        files = _with_several_labels(used.labels, files, without_label)
    notes = [_column_note(columns, used)]
    notes += [used.labels.note()] if is_multi_label else _aside(len(without_label), "without a label")
    notes += [*_aside(repeated_rows, "repeat a row above them and"), *_absent(manifest, files.values())]
    layout = f"manifest {manifest.suffix[1:]}" + (", multi-label" if is_multi_label else "")
    order = used.labels.columns if used.labels.is_flags else None
    return labelled_data(reference, layout, tuple(files.values()), notes, order)


def _aside(rows: int, why: str) -> list[str]:
    return [f"{rows:,} rows {why} were left aside."] if rows else []


def _with_several_labels(
    labels: LabelColumns, files: Mapping[str, LabelledFile], without_label: Iterable[LabelledFile]
) -> dict[str, LabelledFile]:
    """The pictures of multi-label data, each with its labels; one without any counts as well."""
    labels.check()
    return {file.name: replace(file, label=labels.split_cell(file.label)) for file in (*without_label, *files.values())}


def has_columns(manifest: Path) -> bool:
    """Whether a table can be read and names pictures and labels: a metadata file beside pictures often does not."""
    try:
        _choose(manifest, *_read(manifest), {})
    except DataError:
        return False
    return True


def _read(manifest: Path) -> tuple[tuple[str, ...], Iterable[_Row]]:
    readers = {".parquet": _read_parquet, ".jsonl": _read_jsonl}
    try:
        return readers.get(manifest.suffix.lower(), _read_delimited)(manifest)
    except (OSError, ValueError, csv.Error, pyarrow.ArrowException) as error:
        raise DataError(f"{manifest} cannot be read as a table: {error_summary(error)}.") from error


def _read_delimited(manifest: Path) -> tuple[tuple[str, ...], list[_Row]]:
    with manifest.open(encoding="utf-8-sig", newline="") as file:
        header = file.readline()
        file.seek(0)
        delimiter = max(",;\t", key=header.count)
        reader = csv.reader(file, delimiter=delimiter, strict=True)
        columns = tuple(cell.strip() for cell in next(reader, []))
        rows: list[_Row] = []
        for cells in reader:
            if len(cells) > len(columns):
                raise ValueError(f"line {reader.line_num} has {len(cells)} cells, the header {len(columns)}")
            if cells:
                rows.append((reader.line_num, dict(zip(columns, cells, strict=False))))
    return columns, rows


def _read_jsonl(manifest: Path) -> tuple[tuple[str, ...], list[_Row]]:
    rows: list[_Row] = []
    for number, line in enumerate(manifest.read_text(encoding="utf-8").splitlines(), start=1):
        if line.strip():
            cells = json.loads(line)
            if not isinstance(cells, dict):
                raise ValueError(f"line {number} is not a JSON object")
            rows.append((number, {str(key): _cell(value) for key, value in cells.items()}))
    return tuple(dict.fromkeys(key for _, cells in rows for key in cells)), rows


def _read_parquet(manifest: Path) -> tuple[tuple[str, ...], Iterator[_Row]]:
    file = pyarrow.parquet.ParquetFile(manifest)
    columns = tuple(file.schema_arrow.names)
    plain = [f.name for f in file.schema_arrow if _is_plain(f.type)]

    def rows() -> Iterator[_Row]:
        number = 0
        for batch in file.iter_batches(columns=plain):
            for cells in batch.to_pylist():
                number += 1
                yield number, {key: _cell(value) for key, value in cells.items()}

    return columns, rows()


def _is_plain(kind: pyarrow.DataType) -> bool:
    """Whether the values of a column are texts or numbers, or lists of them."""
    if pyarrow.types.is_list(kind) or pyarrow.types.is_large_list(kind):
        kind = kind.value_type
    return not pyarrow.types.is_nested(kind) and kind != pyarrow.binary()


def _cell(value: object) -> Cell:
    """A cell as text, or a list of texts as a tuple."""
    return tuple(map(_text, value)) if isinstance(value, list) else _text(value)


def _text(value: object) -> str:
    """A value as text. Whole numbers lose the ".0" that a column with gaps gives them."""
    if value is None or value != value:
        return ""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _choose(
    manifest: Path, columns: tuple[str, ...], rows: Iterable[_Row], options: Mapping[str, str]
) -> tuple[_Columns, Iterable[_Row]]:
    """The columns that are used, and the rows, which have to be looked at where no column is called like a label."""
    by_lower = {column.lower(): column for column in reversed(columns)}

    def find(option: str, usual: tuple[str, ...]) -> str | None:
        if option in options:
            if options[option] not in columns:
                raise DataError(f"{manifest} has no column {options[option]!r}; it has {and_n_more(columns, 12)}.")
            return options[option]
        return next((by_lower[name] for name in usual if name in by_lower), None)

    path, split = find("image", PATH_COLUMNS), find("split", SPLIT_COLUMNS)
    labels = choose_label_columns(manifest, columns, None, options, (path, split))
    if labels is None and path is not None:  # perhaps a column a label
        rows = tuple(rows)
        labels = choose_label_columns(manifest, columns, [row for _, row in rows], options, (path, split))
    if path is None or labels is None:
        raise DataError(
            f"{manifest} needs the columns path and label (and optionally split); it has {and_n_more(columns, 12)}.\n"
            f"Rename them, or name them: '{manifest.name}?image=COLUMN&label=COLUMN'; columns of 0 and 1: ?labels=A,B."
        )
    return _Columns(path, labels, split), rows


def _file(manifest: Path, number: int, row: Mapping[str, Cell], columns: _Columns) -> LabelledFile:
    path_text = _text_cell(row, columns.path)
    if not path_text or "\0" in path_text:
        raise DataError(f"{manifest}, row {number}: the column {columns.path} holds no usable path.")
    path = manifest.parent / path_text
    if "\\" in path_text and not path.exists():  # written on Windows
        path = manifest.parent / path_text.replace("\\", "/")
    split = _text_cell(row, columns.split) if columns.split else ""
    if split and split.lower() not in SPLIT_NAMES:
        raise DataError(f"{manifest}, row {number}: the split {split!r} is none of {', '.join(SPLIT_NAMES)}.")
    name = Path(os.path.relpath(path, manifest.parent)).as_posix()
    return LabelledFile(printable(name), path, columns.labels.read(row, number), SPLIT_NAMES.get(split.lower(), ""))


def _text_cell(row: Mapping[str, Cell], column: str) -> str:
    """A cell's text; nothing where it holds a list."""
    cell = row.get(column, "")
    return cell.strip() if isinstance(cell, str) else ""


def _column_note(columns: tuple[str, ...], used_columns: _Columns) -> str:
    rest = [name for name in columns if name not in used_columns.names]
    used = and_n_more(used_columns.names, 8)
    return f"Columns used: {used}" + (f"; not used: {and_n_more(rest)}." if rest else ".")


def _absent(manifest: Path, files: Iterable[LabelledFile]) -> list[str]:
    names = [(file.name, file.path) for file in files]
    absent = [(name, path) for name, path in names if not path.is_file()]
    if len(absent) == len(names):
        raise DataError(
            f"{manifest}: none of its {len(names):,} pictures exists; the first was looked for at {absent[0][1]}.\n"
            "Paths are relative to the manifest's folder."
        )
    if not absent:
        return []
    return [f"{len(absent):,} of {len(names):,} files do not exist: {and_n_more([name for name, _ in absent], 3)}."]
