"""Manifests: a table with the path and the label of every picture, and optionally its split."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow
import pyarrow.parquet

from vitrine.data.image_folder import SPLIT_NAMES, LabelledFile, labelled_data
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
LABEL_COLUMNS = ("label", "class", "class_name", "category", "target", "labels")
SPLIT_COLUMNS = ("split", "set", "subset", "partition")
"""Column names that are understood, in order of preference; case does not matter."""

SUFFIXES = (".csv", ".tsv", ".parquet", ".jsonl")

_Row = tuple[int, Mapping[str, str]]  # number in the file, counted from 1 with the header, and the cells by column


@dataclass(frozen=True)
class _Columns:
    path: str
    label: str
    split: str | None


def open_manifest(manifest: Path, reference: str, options: Mapping[str, str] | None = None) -> Dataset:
    """Read a manifest.

    Paths are relative to the manifest's folder, or absolute. Files that are absent stay in the data as pictures that
    cannot be read, and are named in the notes; only where all of them are absent is that an error.

    Args:
        manifest: ``.csv`` (comma, semicolon or tab), ``.tsv``, ``.jsonl`` or ``.parquet``.
        reference: what the person wrote.
        options: column names under "image", "label" and "split", where the usual ones do not fit.

    Raises:
        DataError: unreadable, without the columns needed, contradictory, or naming no file that exists.
    """
    columns, rows = _read(manifest)
    used = _choose(manifest, columns, options or {})
    files: dict[str, LabelledFile] = {}
    first_row: dict[str, int] = {}
    unlabelled_rows = repeated_rows = 0
    for number, row in rows:
        file = _file(manifest, number, row, used)
        if not file.label:
            unlabelled_rows += 1
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
    notes = [_column_note(columns, used)]
    if unlabelled_rows:
        notes.append(f"{unlabelled_rows:,} rows without a label were left aside.")
    if repeated_rows:
        notes.append(f"{repeated_rows:,} rows repeat a row above them and were left aside.")
    notes.extend(_absent(manifest, files.values()))
    return labelled_data(reference, f"manifest {manifest.suffix[1:]}", tuple(files.values()), notes)


def has_columns(manifest: Path) -> bool:
    """Whether a table can be read and names pictures and labels: a metadata file beside pictures often does not."""
    try:
        _choose(manifest, _read(manifest)[0], {})
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
            rows.append((number, {str(key): _text(value) for key, value in cells.items()}))
    return tuple(dict.fromkeys(key for _, cells in rows for key in cells)), rows


def _read_parquet(manifest: Path) -> tuple[tuple[str, ...], Iterator[_Row]]:
    file = pyarrow.parquet.ParquetFile(manifest)
    columns = tuple(file.schema_arrow.names)
    plain = [f.name for f in file.schema_arrow if not pyarrow.types.is_nested(f.type) and f.type != pyarrow.binary()]

    def rows() -> Iterator[_Row]:
        number = 0
        for batch in file.iter_batches(columns=plain):
            for cells in batch.to_pylist():
                number += 1
                yield number, {key: _text(value) for key, value in cells.items()}

    return columns, rows()


def _text(value: object) -> str:
    """A cell as text. Whole numbers lose the ".0" that a column with gaps gives them."""
    if value is None or value != value:
        return ""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _choose(manifest: Path, columns: tuple[str, ...], options: Mapping[str, str]) -> _Columns:
    by_lower = {column.lower(): column for column in reversed(columns)}

    def find(option: str, usual: tuple[str, ...]) -> str | None:
        if option in options:
            if options[option] not in columns:
                raise DataError(f"{manifest} has no column {options[option]!r}; it has {and_n_more(columns, 12)}.")
            return options[option]
        return next((by_lower[name] for name in usual if name in by_lower), None)

    path, label = find("image", PATH_COLUMNS), find("label", LABEL_COLUMNS)
    if path is None or label is None:
        raise DataError(
            f"{manifest} needs the columns path and label (and optionally split); it has {and_n_more(columns, 12)}.\n"
            f"Rename them, or name them: '{manifest.name}?image=COLUMN&label=COLUMN'."
        )
    return _Columns(path, label, find("split", SPLIT_COLUMNS))


def _file(manifest: Path, number: int, row: Mapping[str, str], columns: _Columns) -> LabelledFile:
    path_text = row.get(columns.path, "").strip()
    if not path_text or "\0" in path_text:
        raise DataError(f"{manifest}, row {number}: the column {columns.path} holds no usable path.")
    path = manifest.parent / path_text
    if "\\" in path_text and not path.exists():  # written on Windows
        path = manifest.parent / path_text.replace("\\", "/")
    split = row.get(columns.split, "").strip() if columns.split else ""
    if split and split.lower() not in SPLIT_NAMES:
        raise DataError(f"{manifest}, row {number}: the split {split!r} is none of {', '.join(SPLIT_NAMES)}.")
    name = Path(os.path.relpath(path, manifest.parent)).as_posix()
    return LabelledFile(printable(name), path, row.get(columns.label, "").strip(), SPLIT_NAMES.get(split.lower(), ""))


def _column_note(columns: tuple[str, ...], used_columns: _Columns) -> str:
    used = [name for name in (used_columns.path, used_columns.label, used_columns.split) if name]
    rest = [name for name in columns if name not in used]
    return f"Columns used: {', '.join(used)}" + (f"; not used: {and_n_more(rest)}." if rest else ".")


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
