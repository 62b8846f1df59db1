"""A part's rows as Parquet."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import pyarrow
import pyarrow.parquet

_ROWS_AT_ONCE = 65_536


def write_parquet(rows: Path, out: Path) -> Path:
    """Turn a part's CSV into Parquet, in constant memory.

    Columns called ``probability`` or ``*_probability`` are float64, others text. Bytes of names that are not UTF-8
    become ``\\xNN``.

    Args:
        rows: the CSV, with its header.
        out: the file to write.

    Returns:
        ``out``.
    """
    with rows.open(encoding="utf-8", errors="backslashreplace", newline="") as stream:
        lines = csv.reader(stream)
        header = next(lines)
        kinds = [pyarrow.float64() if _is_number(name) else pyarrow.string() for name in header]
        schema = pyarrow.schema(list(zip(header, kinds, strict=True)))
        with pyarrow.parquet.ParquetWriter(out, schema) as writer:
            for some in _chunks(lines):
                columns = zip(*some, strict=True)
                arrays = [
                    pyarrow.array([float(cell) for cell in cells] if _is_number(name) else list(cells), kind)
                    for name, kind, cells in zip(header, kinds, columns, strict=True)
                ]
                writer.write_table(pyarrow.table(arrays, schema=schema))
    return out


def _is_number(column: str) -> bool:
    return column == "probability" or column.endswith("_probability")


def _chunks(lines: Iterator[list[str]]) -> Iterator[list[list[str]]]:
    some: list[list[str]] = []
    for line in lines:
        some.append(line)
        if len(some) == _ROWS_AT_ONCE:
            yield some
            some = []
    if some:
        yield some
