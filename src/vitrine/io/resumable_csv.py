r"""CSV files that survive a kill: rows as bytes, and tables that are written batch by batch and can be continued.

A file that was cut off anywhere can be read up to its last whole record. Records end in ``\n``. Names are written as
the file system has them: bytes that are no UTF-8 (Linux allows them in names) go through unchanged, by Python's
``surrogateescape``.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from vitrine.errors import DataError, RunError, error_summary
from vitrine.io.file_names import beside
from vitrine.io.files import writing
from vitrine.io.untrusted_files import read_json
from vitrine.results import Unreadable, count_of

UNREADABLE_HEADER = ("filename", "reason")
"""The first row of a list of unreadable pictures."""


CSV_SAFE = "VITRINE_CSV_SAFE"
"""Environment variable that --csv-safe sets; workers of the same job see it too."""

_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)


def is_csv_safe() -> bool:
    """Whether cells that a spreadsheet takes for a formula are written with an apostrophe before them."""
    return bool(os.environ.get(CSV_SAFE))


def _disarm(cell: str) -> str:
    """A cell that no spreadsheet computes. What begins with an apostrophe has one more, so that each can be undone."""
    return f"'{cell}" if cell[:1] in ("=", "+", "-", "@", "\t", "\r", "'") and not _NUMBER.fullmatch(cell) else cell


def _rearm(cell: str) -> str:
    return cell[1:] if cell[:1] == "'" else cell


def csv_row(fields: Sequence[str]) -> bytes:
    """One record with its line end, quoted where it has to be."""
    if is_csv_safe():
        fields = [_disarm(field) for field in fields]
    # The module leaves a lone carriage return unquoted and then cannot read it back.
    quoting: Literal[0, 1] = csv.QUOTE_ALL if any("\r" in field for field in fields) else csv.QUOTE_MINIMAL
    line = io.StringIO()
    csv.writer(line, lineterminator="\n", quoting=quoting).writerow(fields)
    return line.getvalue().encode("utf-8", "surrogateescape")


def unreadable_csv(unreadable: Iterable[Unreadable]) -> bytes:
    """A list of unreadable pictures, header included, as the bytes of a CSV file."""
    return csv_row(UNREADABLE_HEADER) + b"".join(csv_row(item) for item in unreadable)


def complete_records(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Read the records of a CSV file that are wholly there; a cut-off end is left out.

    A record ends at a line end that no quotation spans: where the quotation marks so far are even in number.

    Yields:
        The offset in bytes of what comes after a record, and the record's fields.

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
            yield offset, [_rearm(field) for field in fields] if is_csv_safe() else fields
            pending = b""


def count_records(rows: bytes) -> int:
    """How many records there are in the bytes of a table."""
    text = rows.decode("utf-8", "surrogateescape")
    return sum(1 for _ in csv.reader(io.StringIO(text, newline=""), strict=True))


@dataclass(frozen=True)
class ResumePoint:
    """Where an unfinished table stops.

    Attributes:
        position: how many pictures it is done with, from the first on.
        rows: how many rows those have.
        unreadable: name and reason of the others.
    """

    position: int
    rows: int
    unreadable: dict[str, str]


def _unreadable_path(out: Path) -> Path:
    """Of NAME.csv NAME.unreadable.csv; of NAME.tsv, which may lie beside it, NAME.tsv.unreadable.csv."""
    if out.suffix:
        return beside(out, ".unreadable.csv", keep_ending=out.suffix != ".csv")
    return beside(out, "-unreadable.csv")


class ResumableTable:
    """A table that is written bit by bit and can be continued after a kill.

    Rows go to ``OUT.partial``, pictures without a row to ``NAME.unreadable.csv.partial``, and what the rows were made
    with to ``OUT.partial.json``; :meth:`finish` gives the first two their final names and removes the third.

    Args:
        out: the finished table's path.
        header: its first row.
        labels: what may be in the column ``label``.
        made_with: what must be equal for rows to go into one table; None asks nothing.
        repeats_names: a picture may have several rows, one behind the other.
    """

    def __init__(
        self,
        out: Path,
        header: Sequence[str],
        labels: Sequence[str],
        made_with: Mapping[str, str] | None,
        *,
        repeats_names: bool = False,
    ) -> None:
        self.out, self.unreadable_out = out, _unreadable_path(out)
        self.rows_path = beside(out, ".partial")
        self._unreadable_path = beside(self.unreadable_out, ".partial")
        self._origin_path = beside(out, ".partial.json")
        self._header, self._labels = list(header), frozenset(labels)
        self._made_with = None if made_with is None else dict(made_with)
        self._repeats_names = repeats_names
        self._rows: IO[bytes] | None = None
        self._unreadable: IO[bytes] | None = None

    @property
    def exists(self) -> bool:
        """Whether there is an unfinished table."""
        return self.rows_path.exists()

    def require_no_rows(self) -> None:
        """Refuse to begin anew where an unfinished table has rows.

        Raises:
            RunError: there is an unfinished table with at least one row.
        """
        rows = sum(1 for _ in complete_records(self.rows_path)) - 1 if self.exists else 0
        if rows > 0:
            raise RunError(
                f"{self.rows_path} holds {count_of(rows, 'row')} of an unfinished table. Continue it with "
                f"--resume, or delete it."
            )

    def begin(self) -> None:
        """Start with no rows."""
        self.out.parent.mkdir(parents=True, exist_ok=True)
        for path in (self.rows_path, self._origin_path):  # rows first: without them the rest means nothing
            path.unlink(missing_ok=True)
        if self._made_with is not None:
            _replace(self._origin_path, json.dumps(self._made_with, indent=2).encode() + b"\n")
        _replace(self._unreadable_path, unreadable_csv([]))
        _replace(self.rows_path, csv_row(self._header))
        self._open()

    def recover(self, names: Sequence[str], batch_size: int) -> ResumePoint:
        """Find where an unfinished table stops, cut off what is beyond, and get ready to continue there.

        Args:
            names: of all pictures, in order.
            batch_size: the position is a multiple of it (or the end), so that the pictures that follow come in the
                same batches as they would have: a last digit may depend on a batch's other pictures.

        Raises:
            DataError: the rows are of other pictures, or of another model's labels.
            RunError: the rows have other columns, or were made with something else.
        """
        self._check_origin()
        failures = self._recorded_failures()
        point, offset = self._match(names, failures, batch_size)
        if offset:
            os.truncate(self.rows_path, offset)
        else:
            _replace(self.rows_path, csv_row(self._header))
        _replace(self._unreadable_path, unreadable_csv(point.unreadable.items()))
        self._open()
        return point

    def append(self, rows: bytes, unreadable: Sequence[Unreadable]) -> None:
        """Add a batch's rows and unreadable pictures; afterwards every other process can read them.

        Raises:
            ValueError: neither :meth:`begin` nor :meth:`recover` was called.
        """
        if self._rows is None or self._unreadable is None:
            raise ValueError("The table is not open: call begin or recover first.")
        with writing(self.out):
            if unreadable:
                self._unreadable.write(b"".join(csv_row(item) for item in unreadable))
                self._unreadable.flush()
                os.fsync(self._unreadable.fileno())  # not after the rows, even if the machine stops
            self._rows.write(rows)
            self._rows.flush()

    def finish(self, *, any_unreadable: bool) -> None:
        """Give the files their final names. The rows' comes last: until then the table is unfinished."""
        if self._rows is not None:
            os.fsync(self._rows.fileno())
        self.close()
        if any_unreadable:
            self._unreadable_path.replace(self.unreadable_out)
        else:
            self.unreadable_out.unlink(missing_ok=True)  # an earlier table's
            self._unreadable_path.unlink(missing_ok=True)
        self.rows_path.replace(self.out)
        self._origin_path.unlink(missing_ok=True)

    def close(self) -> None:
        """Close what is open; everything stays for a later process."""
        for stream in (self._rows, self._unreadable):
            if stream is not None:
                stream.close()
        self._rows = self._unreadable = None

    def _open(self) -> None:
        self._rows, self._unreadable = self.rows_path.open("ab"), self._unreadable_path.open("ab")

    def _check_origin(self) -> None:
        if self._made_with is None:
            return
        try:
            before = read_json(self._origin_path, dict[str, Any])
        except FileNotFoundError:
            before = {}
        except (OSError, ValueError) as error:
            raise RunError(f"{self._origin_path} cannot be read: {error_summary(error)}. Delete it.") from error
        differing = [key for key in {**before, **self._made_with} if before.get(key) != self._made_with.get(key)]
        if differing:
            pairs = ", ".join(f"{key} was {before.get(key)}, now {self._made_with.get(key)}" for key in differing)
            raise RunError(f"{self.rows_path} was begun with something else: {pairs}.\nDelete it to begin anew.")

    def _recorded_failures(self) -> dict[str, str]:
        # Without the partial list the kill fell between the renames, and the list has its final name already.
        path = self._unreadable_path if self._unreadable_path.exists() else self.unreadable_out
        if not path.exists():
            return {}
        records = (fields for _, fields in complete_records(path))
        next(records, None)
        return {fields[0]: fields[1] for fields in records if len(fields) == len(UNREADABLE_HEADER)}

    def _match(self, names: Sequence[str], failures: Mapping[str, str], batch_size: int) -> tuple[ResumePoint, int]:
        rows = self._recorded_rows()
        offset = next(rows, (0, []))[0]
        point, position, count = (0, 0, offset), 0, 0
        row = next(rows, None)
        while position < len(names):
            if row is not None and row[1][0] == names[position]:
                (offset, _), count, row = row, count + 1, next(rows, None)
                while self._repeats_names and row is not None and row[1][0] == names[position]:
                    (offset, _), count, row = row, count + 1, next(rows, None)
                if self._repeats_names and row is None:
                    break  # the last picture in the file may lack rows
            elif names[position] not in failures:
                break
            position += 1
            if position % batch_size == 0 or position == len(names):
                point = (position, count, offset)
        if row is not None:
            expected = f"{names[position]} is expected" if position < len(names) else "the pictures end"
            raise DataError(
                f"{self.rows_path} is a table of other pictures: row {count + 1} is {row[1][0]} where {expected}.\n"
                "Delete it to begin anew, or bring the pictures back."
            )
        position, count, offset = point
        unreadable = {name: failures[name] for name in names[:position] if name in failures}
        return ResumePoint(position, count, unreadable), offset

    def _recorded_rows(self) -> Iterator[tuple[int, list[str]]]:
        """The header, where it is whole, and every whole row, each checked, with the offset of the byte after it."""
        header = csv_row(self._header)
        with self.rows_path.open("rb") as stream:
            start = stream.read(len(header))
        if not header.startswith(start):
            raise RunError(
                f"{self.rows_path} was begun with other columns than {header.decode().strip()}.\n"
                "Resume with the same options, or delete it to begin anew."
            )
        for number, (offset, fields) in enumerate(complete_records(self.rows_path)):
            if number and (len(fields) != len(self._header) or fields[1] not in self._labels):
                raise DataError(
                    f"{self.rows_path} has a row that this model cannot have written, row {number}: {fields}.\n"
                    "Resume with the same model, or delete the file to begin anew."
                )
            yield offset, [_rearm(field) for field in fields] if is_csv_safe() else fields


def _replace(path: Path, content: bytes) -> None:
    temporary = beside(path, ".new")  # always the same one, so that none is left behind by a kill
    with writing(path, temporary):
        temporary.write_bytes(content)
        temporary.replace(path)
