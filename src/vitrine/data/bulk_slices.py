"""Slices for bulk work: runs of a folder's pictures, whole shards, and rows of Parquet files.

A slice is a small description that travels to wherever it is worked on; its pictures are looked at only there.
"""

from __future__ import annotations

import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import pyarrow
import pyarrow.parquet

from vitrine.data.decode import BytesPicture, FilePicture, UnreadablePicture, promised_format
from vitrine.data.huggingface import is_picture_struct
from vitrine.data.ignored_files import FilesAside, is_ignored_path
from vitrine.data.image_folder import read_pictures
from vitrine.data.manifest import PATH_COLUMNS
from vitrine.data.samples import Picture, Sample, printable
from vitrine.data.shards.reader import BoundedHeader, ShardPicture
from vitrine.errors import DataError, error_summary
from vitrine.io.untrusted_files import open_regular_file
from vitrine.results import and_n_more, count_of

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
        return tuple(safe_relative_path(printable(str(value))) for value in self._column(self.columns.name))

    def samples(self) -> tuple[Sample, ...]:
        values = self._column(self.columns.picture)
        return tuple(Sample(name, self._picture(value)) for name, value in zip(self.names(), values, strict=True))

    def _column(self, name: str) -> list[Any]:
        try:
            group = pyarrow.parquet.ParquetFile(self.path).read_row_group(self.group, columns=[name])
        except (OSError, pyarrow.ArrowException) as error:
            raise DataError(f"{self.path} cannot be read: {error_summary(error)}.") from error
        values: list[Any] = group.column(0).slice(self.start, self.count).to_pylist()
        return values

    def _picture(self, value: Any) -> Picture:
        if self.columns.kind == "struct" and value is not None:
            value = value["bytes"] if value["bytes"] is not None else value["path"]
        if value is None:
            return UnreadablePicture("there is no picture in this row")
        return BytesPicture(value) if isinstance(value, bytes) else FilePicture(self.path.parent / value)


def safe_relative_path(name: str) -> str:
    """A name as a relative path that cannot leave the folder it is joined to."""
    return "/".join(part for part in PurePosixPath(name).parts if part not in ("/", "..")) or "unnamed"


def row_slices(path: Path, prefix: str, size: int) -> Iterator[RowSlice]:
    """Cut a Parquet file into slices of at most ``size`` rows, none across row groups.

    Raises:
        DataError: the file cannot be read, or has no column of pictures or paths.
    """
    try:
        file = pyarrow.parquet.ParquetFile(path)
    except (OSError, pyarrow.ArrowException) as error:
        raise DataError(f"{path} cannot be read as Parquet: {error_summary(error)}.") from error
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
            f"{path} has several columns of bytes, {and_n_more(list(kinds))}: rename that of pictures to image."
        )
    picture = usual or next(iter(kinds), None)
    if picture is not None:
        return PictureColumns(picture, kinds[picture], name)
    where = next((by_lower[each] for each in PATH_COLUMNS if by_lower.get(each) in texts), None)
    if where is None:
        raise DataError(
            f"{path} has no column of pictures: expected bytes (image) or paths (path); it has "
            f"{and_n_more(schema.names, 12)}."
        )
    return PictureColumns(where, "paths", where)


def _is_text(kind: pyarrow.DataType) -> bool:
    return bool(pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind))


def _kind(kind: pyarrow.DataType) -> str:
    if is_picture_struct(kind):
        return "struct"
    return "bytes" if pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind) else ""


class Slice(Protocol):
    """Pictures that are worked on together.

    Attributes:
        count: pictures in it; None where nobody has looked yet.
    """

    @property
    def count(self) -> int | None: ...

    @property
    def identity(self) -> str:
        """A text that changes with the slice's content: a later call compares it with what was recorded."""
        ...

    def names(self) -> tuple[str, ...]:
        """Names of the pictures, in order, without reading a picture."""
        ...

    def samples(self) -> tuple[Sample, ...]:
        """The pictures, in order.

        Raises:
            DataError: they cannot be looked at.
        """
        ...


@dataclass(frozen=True)
class FolderSlice:
    """A run of a folder's pictures, in the order of their names."""

    pictures: tuple[Sample, ...]

    @property
    def count(self) -> int:
        return len(self.pictures)

    @property
    def identity(self) -> str:
        return "\n".join(self.names())

    def names(self) -> tuple[str, ...]:
        return tuple(sample.name for sample in self.pictures)

    def samples(self) -> tuple[Sample, ...]:
        return self.pictures


@dataclass(frozen=True)
class ShardSlice:
    """One webdataset shard: an uncompressed ``.tar``.

    Its pictures are its members with a picture's extension, in the order of their names, each called
    ``SHARD/MEMBER`` without the shard's ``.tar``. Of members with one name the last counts, as when unpacked. What
    follows a damage in the file is lost, and named as one unreadable picture ``SHARD.tar``.
    """

    path: Path
    prefix: str
    size: int

    @property
    def count(self) -> None:
        return None

    @property
    def identity(self) -> str:
        return f"{self.prefix} {self.size}"

    def names(self) -> tuple[str, ...]:
        return tuple(sample.name for sample in self.samples())

    def samples(self) -> tuple[Sample, ...]:
        samples: dict[str, Sample] = {}
        try:
            with (
                open_regular_file(self.path) as stream,
                tarfile.open(fileobj=stream, mode="r:", tarinfo=BoundedHeader) as shard,
            ):
                for member in shard:
                    if member.isreg() and promised_format(member.name) and not is_ignored_path(member.name):
                        name = f"{self.prefix}/{safe_relative_path(printable(member.name))}"
                        samples[name] = Sample(name, ShardPicture(self.path, member.offset_data, member.size))
        except (tarfile.TarError, EOFError, OSError) as error:
            reason = f"this shard is damaged after {count_of(len(samples), 'picture')}, or no uncompressed tar: {error}"
            samples[f"{self.prefix}.tar"] = Sample(f"{self.prefix}.tar", UnreadablePicture(" ".join(reason.split())))
        return tuple(samples[name] for name in sorted(samples))


@dataclass(frozen=True)
class BulkInput:
    """The input of bulk work, cut into slices.

    Attributes:
        kind: "pictures", "shards" or "rows".
        slices: in the order in which their results are put together.
        notes: sentences on what was left aside.
    """

    kind: str
    slices: tuple[Slice, ...]
    notes: tuple[str, ...] = ()


def slice_pictures(images: Path, size: int) -> BulkInput:
    """Cut a folder of pictures, shards or Parquet files, or one such file, into slices.

    Args:
        images: a folder of pictures, of ``.tar`` shards or of ``.parquet`` files, or one file of these kinds. A folder
            that holds pictures is one of pictures, whatever else is in it.
        size: pictures or rows of a slice at most; a shard is a slice whatever its size.

    Raises:
        DataError: nothing there, or both shards and Parquet files.
    """
    if images.is_file() and images.suffix.lower() in (".tar", ".parquet"):
        return _of_files([images], images.parent, size)
    pictures = read_pictures(images)
    samples, archives = pictures.samples, Counter[str]()
    for ending in (".tar", ".parquet"):
        archives[ending] += pictures.aside.extensions[ending]
    if samples:
        runs = tuple(FolderSlice(samples[first : first + size]) for first in range(0, len(samples), size))
        return BulkInput("pictures", runs, (*FilesAside(+archives).notes(), *pictures.notes))
    if all(archives.values()):
        raise DataError(f"{images} holds both .tar shards and .parquet files: give one kind alone.")
    files = _files(images, ".tar" if archives[".tar"] else ".parquet")
    if not files:
        notes = " ".join(pictures.aside.notes()) or "It is empty."
        raise DataError(f"There are no pictures, .tar shards or .parquet files in {images}. {notes}")
    return _of_files(files, images, size)


def _files(folder: Path, ending: str) -> Sequence[Path]:
    paths = [path for path in folder.rglob("*") if path.suffix.lower() == ending and path.is_file()]
    visible_paths = [path for path in paths if not is_ignored_path(path.relative_to(folder).as_posix())]
    # As if each file were the folder of its pictures: then results one after the other are in the order of names.
    return sorted(visible_paths, key=lambda path: f"{_prefix(path, folder)}/")


def _prefix(path: Path, folder: Path) -> str:
    return printable(path.relative_to(folder).with_suffix("").as_posix())


def _of_files(files: Sequence[Path], folder: Path, size: int) -> BulkInput:
    if files[0].suffix.lower() == ".tar":
        shards = tuple(ShardSlice(path, _prefix(path, folder), path.stat().st_size) for path in files)
        return BulkInput("shards", shards)

    def rows() -> Iterator[RowSlice]:
        for path in files:
            yield from row_slices(path, _prefix(path, folder), size)

    slices = tuple(rows())
    if not slices:
        raise DataError(f"There are no rows in {and_n_more([str(path) for path in files], 3)}.")
    return BulkInput("rows", slices)
