"""Pictures that a table names without ending, or that lie in a folder beside it: ``id`` becomes ``train/id.jpg``."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from vitrine.data.decode import EXTENSIONS
from vitrine.data.image_folder import SPLIT_NAMES, entries, is_folder, is_picture
from vitrine.errors import DataError
from vitrine.io.untrusted_files import is_regular_file
from vitrine.results import and_n_more

_MAX_SAID = 4


class PictureFinder:
    """Looks for pictures by name in a folder, in the folders in it, and in those in them, each listed once if needed.

    Attributes:
        places: how many pictures were found in which folder, by its path relative to the root.
    """

    def __init__(self, root: Path, table: Path) -> None:
        """``root`` is where names begin, ``table`` the file that has them, whose own name may say which folder."""
        self.root = root
        self.places: Counter[str] = Counter()
        self._table = table
        self._folders: list[str] | None = None
        self._files_below: dict[str, list[str]] | None = None
        self._files: dict[str, dict[str, list[str]]] = {}

    def find(self, name: str, where: str, split: str = "") -> str | None:
        """The picture that a name means, as a path relative to the root; None where there is none.

        A file of exactly this name comes before one that has an ending besides. Of several, the one in the folder of
        the row's split, else of the split that the table is called after, is taken.

        Args:
            name: a relative path with slashes, with its ending or without.
            where: what an error begins with.
            split: of the row: "train", "validation", "test", or empty.

        Raises:
            DataError: several pictures can be meant.
        """
        path = PurePosixPath(name)
        parent = "" if str(path.parent) == "." else str(path.parent)
        if _is_absolute(name):
            return self._find_elsewhere(name)
        if ".." in path.parts or not path.name:
            return None
        matches = self._match(self._list(parent), path.name)
        if not matches and not parent:  # a folder deeper, listed only where it is needed
            matches = self._match(self._list_below(), path.name)
        if len(matches) > 1:
            matches = self._in_split(matches, split) or matches
        if len(matches) > 1:
            raise DataError(
                f"{where}: {name!r:.80} may be {and_n_more(matches, _MAX_SAID)}.\n"
                f"Say in which folder the pictures are: {self._table.name}?pictures=FOLDER."
            )
        if not matches:
            return None
        return self._count(matches[0])

    def _find_elsewhere(self, name: str) -> str | None:
        """What an absolute path of another machine is here: the longest end of it that is a file below the root."""
        parts = PurePosixPath(name.partition("?d=")[2] or name).parts  # ?d= is of Label Studio's local files
        ends = ("/".join(parts[start:]) for start in range(len(parts)))
        end = next((end for end in ends if not _is_absolute(end) and is_regular_file(self.root / end)), None)
        return None if end is None else self._count(end)

    def _count(self, path: str) -> str:
        self.places[path[: -len(PurePosixPath(path).name)]] += 1
        return path

    def note(self) -> str:
        """Where pictures were found, in a sentence; empty where none was."""
        if not self.places:
            return ""
        counts = and_n_more([f"{folder or './'} {count:,}" for folder, count in self.places.most_common()])
        return f"Pictures were found by their names, without ending or folder: {counts}."

    def _list(self, parent: str) -> dict[str, list[str]]:
        """The pictures in a folder and in that folder of each folder in the root, by name, and by ``stem.*``."""
        if parent not in self._files:
            files: dict[str, list[str]] = {}
            for place in ("", *self._list_folders()):
                folder = "/".join(part for part in (place, parent) if part)
                if (self.root / folder).is_dir():
                    self._add(files, folder)
            self._files[parent] = files
        return self._files[parent]

    @staticmethod
    def _match(files: Mapping[str, list[str]], name: str) -> list[str]:
        return files.get(name) or files.get(f"{name}.*") or []

    def _list_below(self) -> Mapping[str, list[str]]:
        """The pictures in the folders of each folder in the root, as :meth:`_list` has them."""
        if self._files_below is None:
            self._files_below = {}
            for place in self._list_folders():
                for entry in entries(self.root / place):
                    if is_folder(entry):
                        self._add(self._files_below, f"{place}/{entry.name}")
        return self._files_below

    def _add(self, files: dict[str, list[str]], folder: str) -> None:
        for entry in entries(self.root / folder):
            if is_picture(entry):
                path = f"{folder}/{entry.name}" if folder else entry.name
                files.setdefault(entry.name, []).append(path)
                files.setdefault(f"{_without_ending(entry.name)}.*", []).append(path)

    def _list_folders(self) -> Sequence[str]:
        if self._folders is None:
            self._folders = (
                [entry.name for entry in entries(self.root) if is_folder(entry)] if self.root.is_dir() else []
            )
        return self._folders

    def _in_split(self, matches: Sequence[str], split: str) -> list[str]:
        split = split or _split_of(self._table.stem)
        return [path for path in matches if split and _split_of(path.rpartition("/")[0]) == split]


def _is_absolute(name: str) -> bool:
    """Whether a path is absolute, on this system or on Windows, or an address."""
    return name.startswith("/") or re.match(r"[A-Za-z]:/|[a-z0-9]+://", name) is not None


def _without_ending(name: str) -> str:
    stem, dot, ending = name.rpartition(".")
    return stem if f"{dot}{ending.lower()}" in EXTENSIONS else name


def _split_of(name: str) -> str:
    """The split that a file's or folder's name begins with: of ``train_images`` and ``train.csv`` it is train."""
    return SPLIT_NAMES.get(re.split(r"[^a-z]+", name.lower())[0], "")
