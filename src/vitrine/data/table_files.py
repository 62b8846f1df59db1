"""Tables in text files: separated by commas, semicolons, tabs or bars; lines of JSON; a JSON list; FiftyOne's labels.

Every row comes with the number of its line, so that a message can name it.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TextIO

from vitrine.data.text_files import MAX_LINE_LENGTH, open_text, read_lines, read_text
from vitrine.errors import DataError

DELIMITERS = ",;\t|"
SUFFIXES = (".csv", ".tsv", ".jsonl", ".json")
"""Endings of files that :func:`read_rows` reads; any other is read as delimited text."""

Row = tuple[int, Mapping[str, Any]]
"""Line in the file, counted from 1 with the header (of a JSON list, the entry's number), and the cells by column."""


def read_rows(file: Path, encoding: str = "") -> Iterator[Row]:
    """Yield the rows of a table, line by line but for a JSON list. Cells of delimited text are text, absent ones empty.

    Raises:
        DataError: the encoding is another one, or a line is too long; see :mod:`vitrine.data.text_files`.
        ValueError, csv.Error, OSError, RecursionError: the file cannot be read as a table.
    """
    suffix = file.suffix.lower()
    if suffix == ".jsonl":
        yield from _read_json_lines(file, encoding)
    elif suffix == ".json":
        yield from _read_json_list(file, encoding)
    else:
        with open_delimited(file, encoding) as (_, rows):
            yield from rows


@contextmanager
def open_delimited(file: Path, encoding: str = "") -> Iterator[tuple[tuple[str, ...], Iterator[Row]]]:
    """Open delimited text: its columns, and its rows as they are read.

    The delimiter is the one that the header has most of, or the one that a first line ``sep=;`` of Excel names. Cells
    between bars are taken as they are, quotation marks and all, which is how such files are written.

    Raises:
        As :func:`read_rows`, while the rows are read too.
    """
    with open_text(file, encoding, newline="") as stream:
        header = stream.readline(MAX_LINE_LENGTH)
        skipped_lines = int(header.lower().startswith("sep=") and len(header.strip()) <= len("sep=;"))
        if skipped_lines:
            delimiter = header.rstrip("\r\n")[len("sep=") :] or "\t"
        else:
            delimiter = max(DELIMITERS, key=header.count)
            _rewind(stream)
        quoting: Literal[0, 3] = csv.QUOTE_NONE if delimiter == "|" else csv.QUOTE_MINIMAL
        reader = csv.reader(stream, delimiter=delimiter, quoting=quoting, strict=True)
        columns = tuple(cell.strip() for cell in next(reader, []))
        yield columns, _iterate(reader, columns, skipped_lines, is_plain=delimiter == "|")


def _rewind(stream: TextIO) -> None:
    stream.seek(0)
    if stream.read(1) != "\ufeff":
        stream.seek(0)


def _iterate(reader: Any, columns: tuple[str, ...], skipped_lines: int, *, is_plain: bool) -> Iterator[Row]:
    before = reader.line_num
    for cells in reader:
        number, before = before + 1 + skipped_lines, reader.line_num  # a cell in quotes may go over several lines
        if is_plain and len(cells) > len(columns):
            cells[len(columns) - 1 :] = ["|".join(cells[len(columns) - 1 :])]
        if len(cells) > len(columns):
            raise ValueError(
                f"line {number} has {len(cells)} cells, the header {len(columns)}: put texts with a delimiter in quotes"
            )
        if cells:
            yield number, dict.fromkeys(columns, "") | dict(zip(columns, cells, strict=False))


def _read_json_lines(file: Path, encoding: str) -> Iterator[Row]:
    for number, line in read_lines(file, encoding):
        if line.strip():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise ValueError(f"line {number}: {error}") from error
            if not isinstance(row, dict):
                raise ValueError(f"line {number} is not a JSON object")
            yield number, row


def _read_json_list(file: Path, encoding: str) -> Iterator[Row]:
    entries = json.loads(read_text(file, encoding))
    if isinstance(entries, dict) and isinstance(entries.get("labels"), dict):
        entries = list(_fiftyone_rows(entries["labels"], entries.get("classes")))
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise DataError(f"{file} is no table: expected a JSON list of objects, one a picture.")
    yield from enumerate(entries, start=1)


def _fiftyone_rows(labels: Mapping[str, Any], classes: object) -> Iterator[dict[str, Any]]:
    """Rows of FiftyOne's ``{"classes": [...], "labels": {id: class, its number or a list}}``."""
    names = classes if isinstance(classes, list) else []

    def name(label: Any) -> Any:
        is_number = isinstance(label, int) and not isinstance(label, bool)
        return names[label] if is_number and 0 <= label < len(names) else label

    for number, label in labels.items():
        yield {"path": number, "label": list(map(name, label)) if isinstance(label, list) else name(label)}
