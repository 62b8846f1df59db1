"""The parts of a bulk job on disk: which are finished, and how they become one table.

A folder beside the result holds, while the job is unfinished:

- ``_manifest.jsonl``: first what the job is, then one line a finished part. A line is written after its part's files.
- ``part-000012.csv`` (or ``.parquet``): a finished part's rows; ``_part-000012.unreadable.csv`` where some pictures
  could not be read. They appear under these names only whole. Readers of tables leave out what begins with ``_``.
- ``.part-000012.*/``: an attempt at a part. It is a part's only when it is finished, and several attempts are harmless.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import pyarrow
import pyarrow.parquet

from vitrine.errors import DataError, RunError
from vitrine.io.file_names import beside
from vitrine.io.files import writing
from vitrine.io.resumable_csv import UNREADABLE_HEADER, complete_records, csv_row
from vitrine.io.untrusted_files import parse_json, read_lines
from vitrine.results import Unreadable, agree, count_of

MANIFEST = "_manifest.jsonl"


@dataclass(frozen=True)
class FinishedPart:
    """A finished part, as its line in the manifest has it.

    Attributes:
        part: its number, from 0.
        rows: pictures that have a row.
        unreadable: pictures that have none.
        precision: that the model ran in.
        weights: sha256 of the model's weights; "none" of random ones.
    """

    part: int
    rows: int
    unreadable: int
    precision: str
    weights: str


def part_name(number: int) -> str:
    """The stem of a part's files."""
    return f"part-{number:06d}"


def unreadable_name(number: int) -> str:
    """The file that lists a part's unreadable pictures."""
    return f"_{part_name(number)}.unreadable.csv"


class Ledger:
    """The folder of a job's parts.

    Args:
        folder: of the parts.
        ending: of a part's rows, ``.csv`` or ``.parquet``.
        job: what must be equal for parts to belong together, JSON-ready: data, model, options.
    """

    def __init__(self, folder: Path, ending: str, job: Mapping[str, Any]) -> None:
        self.folder, self.ending, self._job = folder, ending, dict(job)
        self._manifest = folder / MANIFEST
        self.finished_parts: dict[int, FinishedPart] = {}

    def begin(self, *, resume: bool) -> None:
        """Start with no part, or with those that an earlier call finished.

        Raises:
            RunError: there are finished parts and ``resume`` is false; or they are of another job.
            DataError: the folder is a file, or holds something else.
        """
        if self.folder.exists() and not self.folder.is_dir():
            raise DataError(f"{self.folder} is a file. Name another result, or move it away.")
        known_job, parts = self._read_manifest()
        if parts and not resume:
            raise RunError(
                f"{self.folder} holds {count_of(len(parts), 'finished part')} of a job. Continue it with "
                f"--resume, or delete it."
            )
        if parts and known_job != self._job:
            differing = ", ".join(key for key in self._job if known_job.get(key) != self._job[key])
            raise RunError(
                f"The parts in {self.folder} were made otherwise: {differing} differ.\n"
                "Resume with the same pictures, model and options, or delete the folder to begin anew."
            )
        if not parts and self.folder.is_dir() and any(not _is_of_a_job(path) for path in self.folder.iterdir()):
            raise DataError(f"{self.folder} holds other files. Name a folder that is empty or does not exist.")
        self.folder.mkdir(parents=True, exist_ok=True)
        self.remove_attempts()
        self.finished_parts = {part.part: part for part in parts if self._rows(part.part).is_file()}
        lines = [json.dumps(self._job), *(json.dumps(asdict(part)) for part in self.finished_parts.values())]
        temporary = self._manifest.with_name(f"{MANIFEST}.new")
        temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        temporary.replace(self._manifest)

    def record(self, part: FinishedPart) -> None:
        """Add a part, whose files are there, to the manifest; nothing changes where it is there already."""
        if part.part in self.finished_parts:
            return
        self.finished_parts[part.part] = part
        with writing(self._manifest), self._manifest.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(asdict(part)) + "\n")
            lines.flush()
            os.fsync(lines.fileno())

    def unreadable(self, count: int) -> Iterator[Unreadable]:
        """(name, reason) of the unreadable pictures of ``count`` parts, in order."""
        for number in range(count):
            path = self.folder / unreadable_name(number)
            if path.is_file():
                for index, (_, fields) in enumerate(complete_records(path)):
                    if index:
                        yield fields[0], fields[1]

    def write_unreadable(self, count: int, out: Path) -> Path | None:
        """List the unreadable pictures of all parts; None, and no file, where there are none."""
        partial = beside(out, ".partial")
        with writing(out, partial), partial.open("wb") as stream:
            stream.write(csv_row(UNREADABLE_HEADER))
            has_rows = False
            for item in self.unreadable(count):
                stream.write(csv_row(item))
                has_rows = True
        if has_rows:
            partial.replace(out)
            return out
        partial.unlink()
        out.unlink(missing_ok=True)  # an earlier table's
        return None

    def merge(self, count: int, out: Path) -> None:
        """Put the CSV rows of ``count`` parts into one table, in their order; the header comes once.

        Raises:
            RunError: a part is missing.
        """
        missing = [number for number in range(count) if number not in self.finished_parts]
        if missing:
            raise RunError(
                f"{len(missing)} of {count_of(count, 'part')} {agree(len(missing), 'is', 'are')} missing in "
                f"{self.folder}. Continue it with --resume."
            )
        partial = beside(out, ".partial")
        with writing(out, partial), partial.open("wb") as table:
            for number in range(count):
                _copy_rows(self._rows(number), table, header=number == 0)
            table.flush()
            os.fsync(table.fileno())
        partial.replace(out)

    def remove(self) -> None:
        """Delete the folder with all parts, whose rows are in the result by now."""
        shutil.rmtree(self.folder)

    def remove_attempts(self) -> None:
        """Delete what is left of attempts that were killed; finished parts stay."""
        for path in self.folder.glob(".part-*"):
            shutil.rmtree(path, ignore_errors=True)

    def _rows(self, number: int) -> Path:
        return self.folder / f"{part_name(number)}{self.ending}"

    def _read_manifest(self) -> tuple[dict[str, Any], Sequence[FinishedPart]]:
        if not self._manifest.is_file():
            return {}, ()
        job: dict[str, Any] = {}
        parts = []
        for number, line in enumerate(read_lines(self._manifest)):
            try:
                content = parse_json(line)
                if number:
                    parts.append(FinishedPart(**content))
                else:
                    job = content
            except (ValueError, TypeError):  # only a last line can be torn
                break
        return job, parts


def _is_of_a_job(path: Path) -> bool:
    return path.name.startswith((MANIFEST, "_unreadable", "_part-", ".part-", "part-"))


def _copy_rows(part: Path, table: IO[bytes], *, header: bool) -> None:
    with part.open("rb") as rows:
        if not header:
            rows.seek(next(iter(complete_records(part)))[0])
        shutil.copyfileobj(rows, table, 1 << 20)


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
        types = [pyarrow.float64() if _is_number(name) else pyarrow.string() for name in header]
        schema = pyarrow.schema(list(zip(header, types, strict=True)))
        with pyarrow.parquet.ParquetWriter(out, schema) as writer:
            for chunk in _chunks(lines):
                columns = zip(*chunk, strict=True)
                arrays = [
                    pyarrow.array([float(cell) for cell in cells] if _is_number(name) else list(cells), kind)
                    for name, kind, cells in zip(header, types, columns, strict=True)
                ]
                writer.write_table(pyarrow.table(arrays, schema=schema))
    return out


def _is_number(column: str) -> bool:
    return column == "probability" or column.endswith("_probability")


def _chunks(lines: Iterator[list[str]]) -> Iterator[list[list[str]]]:
    chunk: list[list[str]] = []
    for line in lines:
        chunk.append(line)
        if len(chunk) == _ROWS_AT_ONCE:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
