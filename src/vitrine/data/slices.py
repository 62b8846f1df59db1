"""What bulk work is cut into: runs of a folder's pictures, whole shards, and rows of Parquet files.

A slice is a small description that travels to wherever it is worked on; its pictures are looked at only there.
"""

from __future__ import annotations

import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from PIL import Image

from vitrine.data.decoding import NoPicture, decode
from vitrine.data.formats import promised_format
from vitrine.data.listing import iter_pictures, left_aside, listed, printable
from vitrine.data.parquet_pictures import RowSlice, contained, row_slices
from vitrine.data.samples import Sample
from vitrine.errors import DataError, PictureError


class Slice(Protocol):
    """Pictures that are worked on together.

    Attributes:
        count: pictures in it; None where nobody has looked yet.
    """

    @property
    def count(self) -> int | None: ...

    @property
    def identity(self) -> str:
        """What is written down, so that a later call sees whether the slice is still the same."""
        ...

    def names(self) -> tuple[str, ...]:
        """Of the pictures, in order, without reading any."""
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
class ShardPicture:
    """A picture inside a ``.tar`` file: ``size`` bytes from ``offset`` on."""

    path: Path
    offset: int
    size: int

    def encoded(self) -> bytes:
        """The member's bytes.

        Raises:
            PictureError: the file cannot be read, or ends before them.
        """
        try:
            with self.path.open("rb") as stream:
                stream.seek(self.offset)
                data = stream.read(self.size)
        except OSError as error:
            raise PictureError(f"{self.path.name} cannot be read: {error.strerror}") from error
        if len(data) < self.size:
            raise PictureError(f"truncated: {self.path.name} ends before its picture does")
        return data

    def decoded(self) -> Image.Image:
        """Upright 8-bit RGB."""
        return decode(self.encoded())


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
        found: dict[str, Sample] = {}
        try:
            with tarfile.open(self.path, "r:") as shard:
                for member in shard:
                    if member.isreg() and promised_format(member.name):
                        name = f"{self.prefix}/{contained(printable(member.name))}"
                        found[name] = Sample(name, ShardPicture(self.path, member.offset_data, member.size))
        except (tarfile.TarError, EOFError, OSError) as error:
            reason = f"this shard is damaged after {len(found)} pictures, or no uncompressed tar: {error}"
            found[f"{self.prefix}.tar"] = Sample(f"{self.prefix}.tar", NoPicture(" ".join(reason.split())))
        return tuple(found[name] for name in sorted(found))


@dataclass(frozen=True)
class Sliced:
    """Everything that bulk work was given.

    Attributes:
        kind: "pictures", "shards" or "rows".
        slices: in the order in which their results are put together.
        notes: sentences on what was left aside.
    """

    kind: str
    slices: tuple[Slice, ...]
    notes: tuple[str, ...] = ()


def sliced(images: Path, size: int) -> Sliced:
    """Cut what lies at a path into slices.

    Args:
        images: a folder of pictures, of ``.tar`` shards or of ``.parquet`` files, or one file of these kinds. A folder
            that holds pictures is one of pictures, whatever else is in it.
        size: pictures or rows of a slice at most; a shard is a slice whatever its size.

    Raises:
        DataError: nothing there, or both shards and Parquet files.
    """
    if images.is_file() and images.suffix.lower() in (".tar", ".parquet"):
        return _of_files([images], images.parent, size)
    aside: Counter[str] = Counter()
    pictures = tuple(iter_pictures(images, aside=aside))
    if pictures:
        runs = tuple(FolderSlice(pictures[first : first + size]) for first in range(0, len(pictures), size))
        return Sliced("pictures", runs, left_aside(Counter({k: aside[k] for k in (".tar", ".parquet") if aside[k]})))
    if aside[".tar"] and aside[".parquet"]:
        raise DataError(f"{images} holds both .tar shards and .parquet files: give one kind alone.")
    files = _files(images, ".tar" if aside[".tar"] else ".parquet")
    if not files:
        seen = " ".join(left_aside(aside)) or "It is empty."
        raise DataError(f"There are no pictures, .tar shards or .parquet files in {images}. {seen}")
    return _of_files(files, images, size)


def _files(folder: Path, ending: str) -> Sequence[Path]:
    found = [path for path in folder.rglob("*") if path.suffix.lower() == ending and path.is_file()]
    shown = [path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts)]
    # As if each file were the folder of its pictures: then results one after the other are in the order of names.
    return sorted(shown, key=lambda path: f"{_prefix(path, folder)}/")


def _prefix(path: Path, folder: Path) -> str:
    return printable(path.relative_to(folder).with_suffix("").as_posix())


def _of_files(files: Sequence[Path], folder: Path, size: int) -> Sliced:
    if files[0].suffix.lower() == ".tar":
        shards = tuple(ShardSlice(path, _prefix(path, folder), path.stat().st_size) for path in files)
        return Sliced("shards", shards)

    def rows() -> Iterator[RowSlice]:
        for path in files:
            yield from row_slices(path, _prefix(path, folder), size)

    slices = tuple(rows())
    if not slices:
        raise DataError(f"There are no rows in {listed([str(path) for path in files], 3)}.")
    return Sliced("rows", slices)
