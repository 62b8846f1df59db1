"""Tables and lines of JSON with captions: a picture a row, or a caption a row.

Rows are read one at a time; a line or cell of unreasonable length is refused.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from vitrine.data.caption_entries import Found, Gathering
from vitrine.data.folders import SPLIT_NAMES
from vitrine.data.listing import listed
from vitrine.data.manifests import PATH_COLUMNS, SPLIT_COLUMNS
from vitrine.errors import DataError

CAPTION_COLUMNS = ("caption", "captions", "text", "sentence", "sentences", "comment", "description")
"""Column names that are understood, in order of preference; case does not matter."""

_LONGEST_LINE = 10_000_000  # characters

_Row = tuple[int, Mapping[str, Any]]  # line in the file, and the cells by column


def read_table(gathering: Gathering, file: Path) -> Found:
    """Read ``.csv`` (comma, semicolon, tab or bar), ``.tsv`` or ``.jsonl``.

    In JSON a caption may be a text, a list of texts, or a list of objects with a "text": written scenes have those.

    Raises:
        DataError: see :func:`vitrine.data.caption_files.read_captions`.
    """
    reader = _json_lines if file.suffix.lower() == ".jsonl" else _delimited
    known: dict[tuple[str, ...], tuple[str, str, str | None]] = {}
    for number, row in _guarded(file, reader):
        where = f"{file}, line {number}"
        keys = tuple(row)
        if keys not in known:
            known[keys] = _columns(keys, where)
        path, caption, split = known[keys]
        gathering.add(row[path], sentences(row[caption], where), split_named(row[split], where) if split else "", where)
    first = next(iter(known), ())
    if {"mask", "objects", "file"} <= set(first):
        return gathering.found("written scenes")
    used = [column for columns in [*known.values()][:1] for column in columns if column]
    rest = [column for column in first if column not in used]
    gathering.notes.append(f"Columns used: {', '.join(used)}" + (f"; not used: {listed(rest)}." if rest else "."))
    return gathering.found(f"captions in {file.suffix.lower()[1:]}")


def has_captions(file: Path) -> bool:
    """Whether the first row of a table names a picture and a caption."""
    reader = _json_lines if file.suffix.lower() == ".jsonl" else _delimited
    try:
        _columns(tuple(next(_guarded(file, reader))[1]), str(file))
    except (DataError, StopIteration):
        return False
    return True


def _columns(keys: tuple[str, ...], where: str) -> tuple[str, str, str | None]:
    """Which columns are path, caption and split."""
    columns = {column.lower(): column for column in reversed(keys)}
    path, caption, split = (
        next((columns[name] for name in usual if name in columns), None)
        for usual in (PATH_COLUMNS, CAPTION_COLUMNS, SPLIT_COLUMNS)
    )
    if path is None or caption is None:
        raise DataError(
            f"{where}: expected columns such as path and caption (and optionally split); "
            f"it has {listed(keys, 12)}.\nUnderstood are {', '.join((*PATH_COLUMNS, *CAPTION_COLUMNS))}."
        )
    return path, caption, split


def _guarded(file: Path, reader: Callable[[Path], Iterator[_Row]]) -> Iterator[_Row]:
    try:
        yield from reader(file)
    except (OSError, ValueError, RecursionError, csv.Error) as error:
        raise DataError(f"{file} cannot be read as captions: {' '.join(str(error).split())[:160]}.") from error


def _delimited(file: Path) -> Iterator[_Row]:
    with file.open(encoding="utf-8-sig", newline="") as stream:
        header = stream.readline(_LONGEST_LINE)
        stream.seek(0)
        reader = csv.reader(stream, delimiter=max(",;\t|", key=header.count), strict=True)
        columns = [cell.strip() for cell in next(reader, [])]
        for cells in reader:
            if len(cells) > len(columns):
                raise ValueError(
                    f"line {reader.line_num} has {len(cells)} cells, the header {len(columns)}: put captions in quotes"
                )
            if cells:
                yield reader.line_num, dict.fromkeys(columns, "") | dict(zip(columns, cells, strict=False))


def _json_lines(file: Path) -> Iterator[_Row]:
    for number, line in lines(file):
        if line.strip():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise ValueError(f"line {number}: {error}") from error
            if not isinstance(row, dict):
                raise ValueError(f"line {number} is not a JSON object")
            yield number, row


def lines(file: Path) -> Iterator[tuple[int, str]]:
    """(number from 1, text) of each line.

    Raises:
        DataError: the file cannot be read as text, or a line is too long.
    """
    try:
        with file.open(encoding="utf-8-sig") as stream:
            number = 0
            while line := stream.readline(_LONGEST_LINE + 1):
                number += 1
                if len(line) > _LONGEST_LINE:
                    raise DataError(f"{file}, line {number} has more than {_LONGEST_LINE:,} characters.")
                yield number, line
    except (OSError, ValueError) as error:
        raise DataError(f"{file} cannot be read as text: {' '.join(str(error).split())[:160]}.") from error


def sentences(value: object, where: str) -> list[object]:
    """Captions as they are written: one text, a list of texts, or of objects with a text."""
    if not isinstance(value, list):
        return [value]
    return [_text_of(each, where) if isinstance(each, dict) else each for each in value]


def _text_of(sentence: dict[str, Any], where: str) -> object:
    for key in ("text", "raw", "caption"):
        if key in sentence:
            found: object = sentence[key]
            return found
    raise DataError(f"{where}: a caption has neither text nor raw; it has {listed(list(sentence), 8)}.")


def split_named(value: object, where: str, known: Mapping[str, str] = SPLIT_NAMES) -> str:
    """The split that a file's word means, "" where there is none.

    Raises:
        DataError: another word, or no word.
    """
    if value is None or value == "":
        return ""
    split = known.get(value.strip().lower()) if isinstance(value, str) else None
    if split is None:
        raise DataError(f"{where}: the split {value!r:.60} is none of {', '.join(known)}.")
    return split
