"""Which pictures lie in a folder: a walk that streams, in the order of the names."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from vitrine.data.decoding import FilePicture
from vitrine.data.formats import EXTENSIONS
from vitrine.data.samples import Sample
from vitrine.errors import DataError

_CLUTTER = {"thumbs.db", "desktop.ini", "@eadir", "__macosx"}  # what Windows, Synology and macOS leave behind


def iter_pictures(folder: Path, *, aside: Counter[str] | None = None) -> Iterator[Sample]:
    """The pictures below a folder, or the one file given, without labels, in the order of their names.

    Streams: one folder's entries are in memory at a time. Names are relative to ``folder``. Links are followed, and
    no folder is entered twice, so a loop of links ends.

    Args:
        folder: a folder, or one file (which is taken as a picture whatever it is called).
        aside: counts, by extension, the files left aside because they are no pictures by name.

    Raises:
        DataError: the path does not exist or cannot be read.
    """
    if folder.is_file():
        yield Sample(printable(folder.name), FilePicture(folder))
        return
    if not folder.exists():
        raise DataError(f"There is no file or folder {folder}. Give a picture or a folder of pictures.")
    for path, name in walk(folder, "", aside if aside is not None else Counter(), set()):
        yield Sample(name, FilePicture(path))


def one_picture(picture: str | Path, verbs: str) -> Sample:
    """The one picture that a file is.

    Args:
        picture: a file.
        verbs: what folders are for, in words, for the message.

    Raises:
        DataError: there is no such file, or it is a folder.
    """
    path = Path(picture).expanduser()
    if path.is_dir():
        raise DataError(f"{picture} is a folder: give one picture, or use {verbs}.")
    return list_pictures(path)[0]


def list_pictures(folder: Path) -> tuple[Sample, ...]:
    """All of :func:`iter_pictures`.

    Raises:
        DataError: nothing there, or no picture in it.
    """
    aside: Counter[str] = Counter()
    samples = tuple(iter_pictures(folder, aside=aside))
    if not samples:
        seen = " ".join(left_aside(aside)) or "It is empty."
        raise DataError(f"There are no pictures in {folder}. {seen}\nKnown are {' '.join(EXTENSIONS)}.")
    return samples


def left_aside(extensions: Counter[str]) -> tuple[str, ...]:
    """A sentence on the files that are no pictures by extension; nothing where there are none."""
    if not extensions:
        return ()
    kinds = ", ".join(f"{ending or 'no extension'} {n:,}" for ending, n in extensions.most_common(6))
    total = sum(extensions.values())
    files = "1 file was" if total == 1 else f"{total:,} files were"
    return (f"{files} left aside, not pictures by extension: {kinds}.",)


def printable(name: str) -> str:
    """A file name as text that can be written anywhere: bytes that are not UTF-8 become ``\\udcff`` and the like."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def entries(folder: Path) -> list[os.DirEntry[str]]:
    """What lies in a folder, without hidden files and clutter, so ordered that a walk is sorted by relative path."""
    try:
        with os.scandir(folder) as scan:
            found = [e for e in scan if not e.name.startswith(".") and e.name.lower() not in _CLUTTER]
    except OSError as error:
        raise DataError(f"The folder {folder} cannot be read: {error.strerror}.") from error
    return sorted(found, key=lambda entry: entry.name + "/" if is_folder(entry) else entry.name)


def is_folder(entry: os.DirEntry[str]) -> bool:
    """A folder, or a link to one; a link that leads nowhere or to itself is none."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def is_picture(entry: os.DirEntry[str]) -> bool:
    """By extension. A broken link counts: it is a picture that cannot be read, and is reported as one."""
    if os.path.splitext(entry.name)[1].lower() not in EXTENSIONS:  # noqa: PTH122 - called for every file
        return False
    try:
        return entry.is_file() or (entry.is_symlink() and not entry.is_dir())
    except OSError:
        return True


def walk(folder: Path, prefix: str, aside: Counter[str], entered: set[tuple[int, int]]) -> Iterator[tuple[Path, str]]:
    """Yield (path, name) of every picture below a folder.

    Args:
        folder: where to start.
        prefix: what every name starts with; the path relative to ``folder`` follows it.
        aside: counts other files by extension.
        entered: device and inode of folders that were walked already and are not walked again.
    """
    status = folder.stat()
    if (status.st_dev, status.st_ino) in entered:
        return
    entered.add((status.st_dev, status.st_ino))
    for entry in entries(folder):
        if is_folder(entry):
            yield from walk(Path(entry.path), f"{prefix}{entry.name}/", aside, entered)
        elif is_picture(entry):
            yield Path(entry.path), printable(prefix + entry.name)
        else:
            aside[Path(entry.name).suffix.lower()] += 1


def listed(names: Sequence[str], most: int = 5) -> str:
    """The first few names, and how many more there are."""
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most:,} more"
