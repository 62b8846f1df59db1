r"""CSV as bytes, one record at a time, so that a file cut off anywhere can be read up to its last whole record.

Records end in ``\n``. Names are written as the file system has them: bytes that are no UTF-8 (Linux allows them in
names) go through unchanged, by Python's ``surrogateescape``.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from vitrine.errors import DataError


def record(fields: Sequence[str]) -> bytes:
    """One record with its line end, quoted where it has to be."""
    # The module leaves a lone carriage return unquoted and then cannot read it back.
    quoting: Literal[0, 1] = csv.QUOTE_ALL if any("\r" in field for field in fields) else csv.QUOTE_MINIMAL
    line = io.StringIO()
    csv.writer(line, lineterminator="\n", quoting=quoting).writerow(fields)
    return line.getvalue().encode("utf-8", "surrogateescape")


def whole_records(path: Path) -> Iterator[tuple[int, list[str]]]:
    """(offset of the byte after it, its fields) of every record that is wholly there; a cut-off end is left out.

    A record ends at a line end that no quotation spans: where the quotation marks so far are even in number.

    Raises:
        DataError: a record is not CSV.
    """
    with path.open("rb") as stream:
        pending, offset = b"", 0
        for line in stream:
            pending += line
            if not line.endswith(b"\n") or pending.count(b'"') % 2:
                continue
            offset += len(pending)
            text = pending.decode("utf-8", "surrogateescape")
            try:
                fields = next(csv.reader([text], strict=True), [])
            except csv.Error as error:
                raise DataError(f"{path} is not CSV ({error}). Delete it to begin anew.") from error
            yield offset, fields
            pending = b""
