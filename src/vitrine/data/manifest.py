"""Manifests: a table with the path and the label of every picture, and optionally its split."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow
import pyarrow.parquet

from vitrine.data import table_files
from vitrine.data.decode import promised_format
from vitrine.data.image_folder import SPLIT_NAMES, LabelledFile, labelled_data
from vitrine.data.label_columns import LABEL_COLUMNS, Cell, LabelColumns, choose_label_columns
from vitrine.data.picture_finder import PictureFinder
from vitrine.data.samples import Dataset, control_character, printable
from vitrine.data.text_files import EncodingError
from vitrine.errors import DataError, error_summary
from vitrine.io.untrusted_files import is_regular_file
from vitrine.results import agree, and_n_more, count_of

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
    "image_name",
    "imagename",
    "img_name",
    "img_path",
    "image_file",
    "filenames",
    "filepaths",
)
ID_COLUMNS = ("image_id", "img_id", "id")
SPLIT_COLUMNS = ("split", "set", "subset", "partition")
"""Column names that are understood, in order of preference; case does not matter. Ids are the last choice of paths."""

__all__ = [
    "LABEL_COLUMNS",
    "PATH_COLUMNS",
    "SPLIT_COLUMNS",
    "SUFFIXES",
    "has_columns",
    "open_manifest",
    "open_manifests",
]

SUFFIXES = (*table_files.SUFFIXES, ".parquet")

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

    Paths are relative to the manifest's folder, or absolute; where there is no such file, a picture of that name with
    an ending, or in one of the folders beside the manifest, is looked for (:mod:`vitrine.data.picture_finder`). Files
    that are absent stay in the data as pictures that cannot be read, and are named in the notes; only where all of them
    are absent is that an error.

    Args:
        manifest: ``.csv`` (comma, semicolon, tab or bar), ``.tsv``, ``.jsonl``, ``.json`` (a list of objects) or
            ``.parquet``.
        reference: what the person wrote.
        options: column names under "image", "label" and "split", where the usual ones do not fit; for multi-label data
            "separator" and "labels" (see :func:`vitrine.data.label_columns.choose_label_columns`); the "encoding"; and
            under "pictures" the folder that paths begin at, where it is not the manifest's.

    Raises:
        DataError: unreadable, without the columns needed, contradictory, or naming no file that exists.
    """
    return open_manifests({manifest: ""}, manifest.parent, reference, options)


def open_manifests(
    manifests: Mapping[Path, str], base: Path, reference: str, options: Mapping[str, str] | None = None
) -> Dataset:
    """Read several manifests as one, each of the split beside it ("": its rows say), with names from ``base`` on.

    Raises:
        DataError: as :func:`open_manifest`.
    """
    tables = [_Table(path, split, base) for path, split in manifests.items()]
    for table in tables:
        table.read(options or {})
    first = tables[0]
    files = {name: file for table in tables for name, file in table.files.items()}
    without_label = [file for table in tables for file in table.without_label]
    if not files:
        raise DataError(f"{first.path} has no row with a label.")
    labels = first.columns.labels
    is_multi_label = labels.are_several(file.label for file in files.values())
    if is_multi_label:
        for table in tables:
            table.columns.labels.check()
        files = {
            file.name: replace(file, label=labels.split_cell(file.label)) for file in (*without_label, *files.values())
        }
    notes = [note for table in tables for note in table.notes()]
    notes += [labels.note()] if is_multi_label else _aside(len(without_label), "without a label")
    notes += _aside(sum(table.repeated_rows for table in tables), "with the content of a row above")
    notes += _absent(first.path, files.values())
    layout = f"manifest {first.path.suffix[1:]}" + (", multi-label" if is_multi_label else "")
    order = labels.columns if labels.is_flags else None
    return labelled_data(reference, layout, tuple(files.values()), list(dict.fromkeys(notes)), order)


class _Table:
    """The rows of one manifest as they are read: pictures by name, and what was left aside.

    A picture has one row, or several that say the same.
    """

    def __init__(self, path: Path, split: str, base: Path) -> None:
        self.path, self.split, self.base = path, split, base
        self.files: dict[str, LabelledFile] = {}
        self.without_label: list[LabelledFile] = []
        self.repeated_rows = 0

    def read(self, options: Mapping[str, str]) -> None:
        """Read all rows.

        Raises:
            DataError: as :func:`open_manifest`.
        """
        self.all_columns, rows = _read(self.path, options.get("encoding", ""))
        self.columns, rows = _choose(self.path, self.all_columns, rows, options)
        self.finder = PictureFinder(self.path.parent / options.get("pictures", ""), self.path)
        first_row: dict[str, int] = {}
        for number, row in rows:
            file = self._file(number, row)
            if not file.label:
                self.without_label.append(file)
            elif file.name not in self.files:
                self.files[file.name] = file
                first_row[file.name] = number
            elif (file.label, file.split) == (self.files[file.name].label, self.files[file.name].split):
                self.repeated_rows += 1
            else:
                raise DataError(
                    f"{self.path}: rows {first_row[file.name]} and {number} name the same picture, {file.name}, with "
                    "different labels or splits. Keep one of them."
                )

    def notes(self) -> list[str]:
        """Which columns are used, and where pictures were that the table does not say."""
        return [_column_note(self.all_columns, self.columns), *([self.finder.note()] if self.finder.places else [])]

    def _file(self, number: int, row: Mapping[str, Cell]) -> LabelledFile:
        where = f"{self.path}, row {number}"
        path_text = _text_cell(row, self.columns.path)
        if not path_text or "\0" in path_text:
            raise DataError(f"{where}: the column {self.columns.path} holds no usable path.")
        split = _text_cell(row, self.columns.split) if self.columns.split else ""
        if split and split.lower() not in SPLIT_NAMES:
            raise DataError(f"{where}: the split {split!r} is none of {', '.join(SPLIT_NAMES)}.")
        split = SPLIT_NAMES.get(split.lower(), self.split)
        path = _locate(path_text, self.finder, where, split)
        label = self.columns.labels.read(row, number)
        for each in (label,) if isinstance(label, str) else label:
            if control := control_character(each):
                raise DataError(
                    f"{where}: the class {each!r:.80} holds {control}: class names are one a line. Rename it."
                )
        return LabelledFile(printable(Path(os.path.relpath(path, self.base)).as_posix()), path, label, split)


def _aside(rows: int, why: str) -> list[str]:
    return [f"{count_of(rows, 'row')} {why} {agree(rows, 'was', 'were')} left aside."] if rows else []


def has_columns(manifest: Path) -> bool:
    """Whether a table names pictures and labels: a metadata file beside pictures often does not.

    One in another encoding may: its columns are looked at, and what reads its rows says what is wrong.
    """
    try:
        return _are_named(manifest)
    except EncodingError:
        return _are_named(manifest, "latin-1")


def _are_named(manifest: Path, encoding: str = "") -> bool:
    try:
        _choose(manifest, *_read(manifest, encoding), {})
    except EncodingError:
        raise
    except DataError:
        return False
    return True


def _read(manifest: Path, encoding: str = "") -> tuple[tuple[str, ...], Iterable[_Row]]:
    try:
        if manifest.suffix.lower() == ".parquet":
            return _read_parquet(manifest)
        if manifest.suffix.lower() in (".jsonl", ".json"):
            rows = [
                (number, {str(key): _cell(value) for key, value in cells.items()})
                for number, cells in table_files.read_rows(manifest, encoding)
            ]
            return tuple(dict.fromkeys(key for _, cells in rows for key in cells)), rows
        with table_files.open_delimited(manifest, encoding) as (columns, delimited_rows):
            return columns, list(delimited_rows)
    except (OSError, ValueError, csv.Error, pyarrow.ArrowException) as error:
        raise DataError(f"{manifest} cannot be read as a table: {error_summary(error)}.") from error


def _read_parquet(manifest: Path) -> tuple[tuple[str, ...], Iterator[_Row]]:
    file = pyarrow.parquet.ParquetFile(manifest)
    columns = tuple(file.schema_arrow.names)
    plain = [f.name for f in file.schema_arrow if _is_plain(f.type)]

    def rows() -> Iterator[_Row]:
        number = 0
        try:
            for batch in file.iter_batches(columns=plain):
                for cells in batch.to_pylist():
                    number += 1
                    yield number, {key: _cell(value) for key, value in cells.items()}
        except (OSError, ValueError, pyarrow.ArrowException) as error:  # its pages are read as they are needed
            raise DataError(f"{manifest} cannot be read after row {number:,}: {error_summary(error)}.") from error

    return columns, rows()


def _is_plain(kind: pyarrow.DataType) -> bool:
    """Whether the values of a column are texts or numbers, or lists of them."""
    if pyarrow.types.is_list(kind) or pyarrow.types.is_large_list(kind):
        kind = kind.value_type
    return not pyarrow.types.is_nested(kind) and kind != pyarrow.binary()


def _cell(value: object) -> Cell:
    """A cell as text, or a list of texts as a tuple; an object of one list (``{"choices": [...]}``) is that list."""
    if isinstance(value, dict) and len(value) == 1:
        value = next(iter(value.values()))
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

    path, split = find("image", (*PATH_COLUMNS, *ID_COLUMNS)), find("split", SPLIT_COLUMNS)
    labels = choose_label_columns(manifest, columns, None, options, (path, split))
    if labels is None and path is not None:  # perhaps a column a label
        rows = tuple(rows)
        labels = choose_label_columns(manifest, columns, [row for _, row in rows], options, (path, split))
    if path is None or labels is None:
        raise DataError(
            f"{manifest} needs the columns path and label (and optionally split); it has {and_n_more(columns, 12)}.\n"
            f"{_headless_hint(columns)}Rename them, or name them: '{manifest.name}?image=COLUMN&label=COLUMN'; columns "
            "of 0 and 1: ?labels=A,B."
        )
    return _Columns(path, labels, split), rows


def _locate(path_text: str, finder: PictureFinder, where: str, split: str) -> Path:
    """The file that a cell means; where it is none that exists, the path as it is written."""
    path = finder.root / path_text
    if "\\" in path_text and not is_regular_file(path):  # written on Windows
        path_text = path_text.replace("\\", "/")
        path = finder.root / path_text
    if is_regular_file(path):
        return path
    place = finder.find(path_text, where, split)
    return path if place is None else finder.root / place


def _headless_hint(columns: Sequence[str]) -> str:
    is_row = any(promised_format(column) for column in columns)
    return "Its first line looks like a row: put a header above it, such as path,label. " if is_row else ""


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
    absent = [(name, path) for name, path in names if not is_regular_file(path)]
    if len(absent) == len(names):
        raise DataError(
            f"{manifest}: none of its {count_of(len(names), 'picture')} exists; the first was looked for at "
            f"{absent[0][1]}.\n"
            "Paths are relative to the manifest's folder, with their ending or without, or to a folder in it; "
            f"'{manifest.name}?pictures=FOLDER' names another."
        )
    if not absent:
        return []
    return [
        f"{len(absent):,} of {count_of(len(names), 'file')} {agree(len(absent), 'does', 'do')} not exist: "
        f"{and_n_more([name for name, _ in absent], 3)}."
    ]
