"""Pictures in the rows of Parquet files: encoded in a column of bytes, or named by a column of paths."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow
import pyarrow.parquet

from vitrine.data.decoding import BytesPicture, FilePicture, NoPicture
from vitrine.data.listing import listed, printable
from vitrine.data.manifests import PATH_COLUMNS
from vitrine.data.samples import Picture, Sample
from vitrine.data.tables import is_picture_struct
from vitrine.errors import DataError

_NAME_COLUMNS = (*PATH_COLUMNS, "name", "__key__", "key", "id")
_BYTES_COLUMNS = ("image", "bytes", "img", "picture", "jpg", "png")


@dataclass(frozen=True)
class PictureColumns:
    """Where a file's pictures and their names are.

    Attributes:
        picture: the column of bytes, of ``{bytes, path}``, or of paths.
        kind: "bytes", "struct" or "paths"; paths are absolute or relative to the file's folder.
        name: the column of names; None: rows are called ``FILE/000012``.
    """

    picture: str
    kind: str
    name: str | None


@dataclass(frozen=True)
class RowSlice:
    """Rows ``start`` to ``stop`` of one row group, in order; ``first`` is the first one's number in the whole file."""

    path: Path
    prefix: str
    columns: PictureColumns
    group: int
    start: int
    stop: int
    first: int

    @property
    def count(self) -> int:
        return self.stop - self.start

    @property
    def identity(self) -> str:
        return f"{self.prefix} {self.path.stat().st_size} {self.group} {self.start} {self.stop}"

    def names(self) -> tuple[str, ...]:
        if self.columns.name is None:
            return tuple(f"{self.prefix}/{self.first + row:06d}" for row in range(self.count))
        return tuple(contained(printable(str(value))) for value in self._column(self.columns.name))

    def samples(self) -> tuple[Sample, ...]:
        values = self._column(self.columns.picture)
        return tuple(Sample(name, self._picture(value)) for name, value in zip(self.names(), values, strict=True))

    def _column(self, name: str) -> list[Any]:
        try:
            group = pyarrow.parquet.ParquetFile(self.path).read_row_group(self.group, columns=[name])
        except (OSError, pyarrow.ArrowException) as error:
            raise DataError(f"{self.path} cannot be read: {' '.join(str(error).split())[:200]}") from error
        values: list[Any] = group.column(0).slice(self.start, self.count).to_pylist()
        return values

    def _picture(self, value: Any) -> Picture:
        if self.columns.kind == "struct" and value is not None:
            value = value["bytes"] if value["bytes"] is not None else value["path"]
        if value is None:
            return NoPicture("there is no picture in this row")
        return BytesPicture(value) if isinstance(value, bytes) else FilePicture(self.path.parent / value)


def contained(name: str) -> str:
    """A name as a path that leads nowhere but below the folder that it is joined to."""
    return "/".join(part for part in PurePosixPath(name).parts if part not in ("/", "..")) or "unnamed"


def row_slices(path: Path, prefix: str, size: int) -> Iterator[RowSlice]:
    """Cut a Parquet file into slices of at most ``size`` rows, none across row groups.

    Raises:
        DataError: the file cannot be read, or has no column of pictures or paths.
    """
    try:
        file = pyarrow.parquet.ParquetFile(path)
    except (OSError, pyarrow.ArrowException) as error:
        raise DataError(f"{path} cannot be read as Parquet: {' '.join(str(error).split())[:200]}") from error
    columns = picture_columns(path, file.schema_arrow)
    before = 0
    for group in range(file.num_row_groups):
        rows = file.metadata.row_group(group).num_rows
        for start in range(0, rows, size):
            yield RowSlice(path, prefix, columns, group, start, min(start + size, rows), before + start)
        before += rows


def picture_columns(path: Path, schema: pyarrow.Schema) -> PictureColumns:
    """Which columns of a file hold its pictures and their names: bytes before paths.

    Raises:
        DataError: none, or several columns of bytes that could be it.
    """
    by_lower = {field.name.lower(): field.name for field in schema}
    texts = {field.name for field in schema if _is_text(field.type)}
    name = next((by_lower[each] for each in _NAME_COLUMNS if by_lower.get(each) in texts), None)
    kinds = {field.name: _kind(field.type) for field in schema if _kind(field.type)}
    usual = next((by_lower[each] for each in _BYTES_COLUMNS if by_lower.get(each) in kinds), None)
    if usual is None and len(kinds) > 1:
        raise DataError(
            f"{path} has several columns of bytes, {listed(list(kinds))}: rename that of pictures to image."
        )
    picture = usual or next(iter(kinds), None)
    if picture is not None:
        return PictureColumns(picture, kinds[picture], name)
    where = next((by_lower[each] for each in PATH_COLUMNS if by_lower.get(each) in texts), None)
    if where is None:
        raise DataError(
            f"{path} has no column of pictures: expected bytes (image) or paths (path); it has "
            f"{listed(schema.names, 12)}."
        )
    return PictureColumns(where, "paths", where)


def _is_text(kind: pyarrow.DataType) -> bool:
    return bool(pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind))


def _kind(kind: pyarrow.DataType) -> str:
    if is_picture_struct(kind):
        return "struct"
    return "bytes" if pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind) else ""
