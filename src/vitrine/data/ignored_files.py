"""Files that are not data: what systems, archivers and tools leave among pictures, and what a walk left aside.

One list, for every verb. A name on it is passed over wherever it stands below the folder that was given; a folder that
is given itself is read, whatever it is called.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from vitrine.results import agree, and_n_more, count_of

FOLDERS = frozenset(
    (
        *("$recycle.bin", "recycler", "recycled", "system volume information", "found.000", "config.msi"),  # Windows
        *("__macosx", "network trash folder", "temporary items", "thevolumesettingsfolder"),  # macOS
        *("lost+found", "lost.dir"),  # ext file systems; Android
        *("@eadir", "@recycle", "#recycle", "@recently-snapshot", "#snapshot", "~snapshot", "@tmp"),  # network storage
        *("@synoresource", "@sharebin", "@__thumb"),
        *("__pycache__", "cvs", "_vti_cnf", "node_modules"),  # tools
    )
)
"""Folders that are never entered (small letters), beside all whose name begins with a dot."""

FILES = frozenset(
    (
        *("thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "autorun.inf"),  # Windows
        *("icon\r", "picasa.ini", "zbthumbnail.info", "pspbrwse.jbf", "sync.ffs_db"),  # macOS; picture managers
    )
)
"""Files that are no data (small letters), beside all whose name begins with a dot."""

APPLE_DOUBLE = "._"
"""What the names of files begin with in which macOS keeps what a file system cannot: ``._1.jpg`` is no picture."""

_IGNORED = FOLDERS | FILES


def is_ignored(name: str) -> bool:
    """Whether a file or folder of this name (one part of a path) is no data."""
    return name.startswith(".") or name.lower() in _IGNORED


def is_ignored_path(path: str) -> bool:
    """Whether any part of a path with slashes, such as an archive's member, is no data; ``./`` and ``../`` are."""
    return any(is_ignored(part) for part in PurePosixPath(path).parts if part != "..")


def kind_of_ignored(name: str) -> str:
    """What a name that is ignored is called in a sentence: itself, or ``._*`` for the many of macOS."""
    return f"{APPLE_DOUBLE}*" if name.startswith(APPLE_DOUBLE) else name


@dataclass
class FilesAside:
    """What a walk through folders left aside.

    Attributes:
        extensions: files that are no pictures by name, by their extension in small letters.
        ignored_names: files and folders that are no data, by name; what lies in such a folder is not counted.
        masks: folders of the pictures' own masks, with the masks in each.
        mask_like: folders that are called so, whose files are pictures all the same, with why.
        has_mask_names: whether a folder was walked that is called like masks; without one there is nothing to decide.
    """

    extensions: Counter[str] = field(default_factory=Counter)
    ignored_names: Counter[str] = field(default_factory=Counter)
    masks: Counter[str] = field(default_factory=Counter)
    mask_like: dict[str, str] = field(default_factory=dict)
    has_mask_names: bool = False

    def ignore(self, name: str) -> None:
        """Count a file or folder that is no data."""
        self.ignored_names[kind_of_ignored(name)] += 1

    def notes(self, aside: str = "", read: str = "") -> tuple[str, ...]:
        """A sentence for each kind of thing that was left aside; none where nothing was.

        Args:
            aside: how a person has masks left aside that were read as pictures, in a sentence.
            read: how a person has masks read as pictures that were left aside, in a sentence.
        """
        return (
            *_sentence(self.extensions, "not pictures by extension", "no extension"),
            *_sentence(self.ignored_names, "no data by name", ""),
            *(
                f"{count_of(count, 'mask')} of the pictures {agree(count, 'was', 'were')} left aside: "
                f"{folder}/. {read}".rstrip()
                for folder, count in self.masks.items()
            ),
            *(f"{folder}/ was read as pictures: {why}. {aside}".rstrip() for folder, why in self.mask_like.items()),
        )


def _sentence(counts: Mapping[str, int], what: str, empty: str) -> tuple[str, ...]:
    if not counts:
        return ()
    total = sum(counts.values())
    kinds = and_n_more([f"{name or empty} {count:,}" for name, count in Counter(counts).most_common()], 6)
    return (f"{count_of(total, 'file')} {agree(total, 'was', 'were')} left aside, {what}: {kinds}.",)
