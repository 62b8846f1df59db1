"""Captions gathered by picture while files of them are read, and what was left out said.

Files of captions may come from anyone: a path in one of them never leads out of the data folder.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from vitrine.data.listing import listed, printable
from vitrine.errors import DataError

_TRIED = 64  # pictures that are looked for, to tell in which folder they are
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f]")


@dataclass(frozen=True)
class CaptionedFile:
    """One picture file with its captions, none of them empty, and its split ("" where the data have none)."""

    name: str
    path: Path
    captions: tuple[str, ...]
    split: str = ""


@dataclass(frozen=True)
class Found:
    """Captioned pictures: how they were understood, one at least, and sentences on what was decided."""

    layout: str
    files: tuple[CaptionedFile, ...]
    notes: tuple[str, ...]


class Gathering:
    """Pictures with their captions, one after the other.

    Attributes:
        root: the data folder, which no path leads out of.
        notes: sentences on what was decided.
    """

    def __init__(self, root: Path, source: Path, notes: Iterable[str] | None = None) -> None:
        """``source`` is the file that errors name."""
        self.root = root
        self._absolute = os.path.normpath(root.absolute())
        self.notes: list[str] = list(notes or ())
        self._source = source
        self._folder = ""
        self._captions: dict[str, list[str]] = {}
        self._splits: dict[str, str] = {}
        self._empty = 0

    def look_in(self, folders: Sequence[str], names: Sequence[object]) -> None:
        """Take later paths as relative to that of some folders below the root in which most pictures are."""
        step = max(1, len(names) // _TRIED)
        tried = [name for name in names[::step] if isinstance(name, str) and name.strip()]

        def there(folder: str) -> int:
            return sum(_is_file(Path(path)) for name in tried if (path := self._path(folder, name)) is not None)

        best = max(folders, key=there)  # the first of equals
        self._folder = best
        if best and best != folders[0]:
            self.notes.append(f"{self._source.name}: its pictures are in {best}/.")

    def add(self, written: object, captions: Iterable[object], split: str, where: str) -> None:
        """Add captions of a picture.

        Args:
            written: its path, as the file has it.
            captions: texts; None and blank ones are counted and left out.
            split: "" where the data have none.
            where: what errors begin with.

        Raises:
            DataError: no usable path, a path out of the data folder, a caption that is no text, or another split than
                the picture had before.
        """
        if not isinstance(written, str) or not written.strip() or "\0" in written:
            raise DataError(f"{where}: expected the path of a picture; got {written!r:.60}.")
        name = self._inside(self._folder, written, where)
        if self._splits.setdefault(name, split) != split:
            named = [each or "none" for each in (self._splits[name], split)]
            raise DataError(f"{where}: {printable(name)} is in two splits, {named[0]} and {named[1]}. Keep one.")
        texts = self._captions.setdefault(name, [])
        for caption in captions:
            if caption is not None and not isinstance(caption, str):
                raise DataError(f"{where}: expected a caption as text; got {caption!r:.60}.")
            text = one_line(caption or "")
            if text:
                texts.append(text)
            else:
                self._empty += 1

    def found(self, layout: str) -> Found:
        """All pictures that exist and have a caption, and notes on those that do not.

        Raises:
            DataError: there is none.
        """
        captioned = [name for name, texts in self._captions.items() if texts]
        if not captioned:
            raise DataError(f"{self._source} has no caption for any picture. Is it a file of captions?")
        absent = [printable(name) for name in captioned if not _is_file(self.root / name)]
        if len(absent) == len(captioned):
            raise DataError(
                f"{self._source}: none of its {len(captioned):,} pictures exists; the first was looked for at "
                f"{self.root / absent[0]}.\nPaths are relative to {self.root}, or to a folder of pictures in it."
            )
        if absent:
            self.notes.append(
                f"{len(absent):,} of {len(captioned):,} pictures that are listed do not exist and were left out: "
                f"{listed(absent, 3)}."
            )
        if self._empty:
            self.notes.append(f"{self._empty:,} captions are empty and were left out.")
        without = [printable(name) for name, texts in self._captions.items() if not texts]
        if without:
            self.notes.append(f"{len(without):,} pictures have no caption and were left out: {listed(without, 3)}.")
        gone = set(absent)
        files = tuple(
            CaptionedFile(shown, self.root / name, tuple(self._captions[name]), self._splits[name])
            for name in captioned
            if (shown := printable(name)) not in gone
        )
        return Found(layout, files, tuple(self.notes))

    def _inside(self, folder: str, written: str, where: str) -> str:
        """A path as relative to the root, with slashes.

        Raises:
            DataError: it leads out of the root. Links within the root are the person's own, and are followed.
        """
        path = self._path(folder, written)
        if path is None:
            raise DataError(
                f"{where}: the picture {written!r:.80} is not in the data folder, {self.root}.\n"
                "Put it there, and give its path relative to that folder."
            )
        return path[len(self._absolute) :].replace(os.sep, "/").lstrip("/")

    def _path(self, folder: str, written: str) -> str | None:
        """An absolute path without dots; None where it is not below the root."""
        plain, root = written.strip(), self._absolute.rstrip(os.sep) + os.sep
        path = os.path.normpath(os.path.join(self._absolute, folder, plain.replace("\\", "/")))  # noqa: PTH118
        if not path.startswith(root):
            return None
        if "\\" in plain:  # written on Windows, unless a file has such a name
            as_written = os.path.normpath(os.path.join(self._absolute, folder, plain))  # noqa: PTH118
            if as_written.startswith(root) and _is_file(Path(as_written)):
                return as_written
        return path


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that is too long, or that no file system can have
        return False


def one_line(text: str) -> str:
    """A caption without line breaks, control characters and repeated blanks; done twice, it changes nothing."""
    return printable(" ".join(_CONTROLS.sub(" ", text).split()))
