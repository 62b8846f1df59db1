"""``vitrine cache``: which downloaded files lie where, from where, with which hash; and removing them."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from vitrine.data.oxford_pets import ADDRESS
from vitrine.errors import UsageError
from vitrine.io.hub_cache import (
    CATR,
    DATASETS,
    DECODED,
    DECODED_FROM,
    FOLDER,
    HUB,
    PETS,
    XET,
    Record,
    cache_folder,
    file_record,
    read_records,
    remove_record,
)
from vitrine.models.cache import (
    UNFINISHED,
    CachedFile,
    CachedItem,
    cached_releases,
    cached_repositories,
    is_inside,
    remove_revision,
    unfinished_downloads,
    unknown_in_hub,
)
from vitrine.results import Progress, no_progress


@dataclass(frozen=True)
class CacheContents:
    """What lies in the cache folder.

    Attributes:
        folder: the cache folder, which need not exist yet.
        items: what was downloaded, in the order of the table.
        unknown: what does not belong there; it is never removed.
        size: bytes on the disk, of everything.
    """

    folder: Path
    items: tuple[CachedItem, ...]
    unknown: tuple[CachedFile, ...]
    size: int

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "folder": str(self.folder),
            "size": self.size,
            "items": [_item_dict(item) for item in self.items],
            "unknown": [{"path": str(each.path), "size": each.size} for each in self.unknown],
        }

    def text(self) -> str:
        """The table of ``vitrine cache``, for a person."""
        lines = [f"Cache folder: {self.folder} (--cache DIR or VITRINE_CACHE chooses another)", ""]
        for item in self.items:
            used = f"last used {item.last_used[:10]}" if item.last_used else "not used yet"
            commit = f", commit {item.revision[:12]}" if item.revision else ""
            lines += [f"{item.name}  {item.kind}, {format_bytes(item.size)}, {used}", f"  from {item.origin}{commit}"]
            lines += [f"  {format_bytes(each.size):>9}  {each.sha256 or '':64}  {each.name}" for each in item.files]
            lines.append("")
        if not self.items:
            lines += ["Nothing was downloaded.", ""]
        if self.unknown:
            lines.append("Not downloaded by vitrine, and never removed by it:")
            lines += [f"  {format_bytes(each.size):>9}  {each.path}" for each in self.unknown]
            lines.append("")
        return "\n".join([*lines, f"Total: {format_bytes(self.size)}."])


@dataclass(frozen=True)
class PruneResult:
    """What was removed from the cache folder.

    Attributes:
        folder: the cache folder.
        items: what was removed from it.
        freed: bytes on the disk that were freed; less than the items' sizes where others share files with them.
        left: bytes that the folder still holds.
        failure: why it ended before all that was asked for was removed; None where it did not.
    """

    folder: Path
    items: tuple[CachedItem, ...]
    freed: int
    left: int
    failure: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        items = [_item_dict(item) for item in self.items]
        content = {"folder": str(self.folder), "removed": items, "freed": self.freed, "left": self.left}
        return content if self.failure is None else content | {"failed": self.failure}

    def text(self) -> str:
        """What was removed, a line each, for a person."""
        lines = [f"Removed {item_text(item)}." for item in self.items]
        lines += [] if self.failure is None else [f"Not removed, nor anything after it: {self.failure}."]
        return "\n".join(
            [*lines, f"Freed {format_bytes(self.freed)}; {format_bytes(self.left)} are left in {self.folder}."]
        )


def item_text(item: CachedItem) -> str:
    """An item in a few words: its name, kind, commit and size."""
    commit = f", commit {item.revision[:12]}" if item.revision else ""
    return f"{item.name} ({item.kind}{commit}, {format_bytes(item.size)})"


def format_bytes(size: int) -> str:
    """A size for a person, in decimal units."""
    for unit, bytes_ in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= bytes_:
            return f"{size / bytes_:.1f} {unit}"
    return f"{size} B"


def _item_dict(item: CachedItem) -> dict[str, Any]:
    files = [
        {
            "name": each.name,
            "path": str(each.path),
            "size": each.size,
            "sha256": each.sha256,
            "last_used": each.last_used,
        }
        for each in item.files
    ]
    return {
        "name": item.name,
        "kind": item.kind,
        "from": item.origin,
        "revision": item.revision,
        "size": item.size,
        "last_used": item.last_used,
        "files": files,
    }


_OWN_FOLDERS = {FOLDER, HUB, CATR, PETS, DATASETS, XET, DECODED}
_DAY = 24 * 60 * 60


def cache_contents(progress: Progress = no_progress) -> CacheContents:
    """List what lies in the cache folder. Hashes that are not recorded are computed, which takes a while once.

    Args:
        progress: called with files of the hub done, of how many.
    """
    folder = cache_folder().absolute()
    records = read_records(folder)
    items = (
        *cached_repositories(folder, records, progress),
        *cached_releases(folder, records),
        *_data_sets(folder, records),
        *_decoded_pictures(folder, records),
        *unfinished_downloads(folder),
    )
    return CacheContents(folder, items, tuple(_unknown(folder, items)), _size_of(folder))


def select_items(contents: CacheContents, selectors: Sequence[str]) -> tuple[CachedItem, ...]:
    """The items that names or numbers of days select.

    Args:
        contents: what there is.
        selectors: an item's name, with @ and the beginning of its commit where one of several revisions is meant; or a
            number of days: what was last used, or else downloaded, longer ago.

    Raises:
        UsageError: there is no such item.
    """
    by_id: dict[int, CachedItem] = {}
    for selector in selectors:
        matches = [item for item in contents.items if _matches(item, selector)]
        if not matches and not selector.isdecimal():
            names = ", ".join(dict.fromkeys(item.name for item in contents.items)) or "nothing"
            raise UsageError(
                f"--prune {selector}: nothing of that name was downloaded into {contents.folder}.\n"
                f"Expected a number of days, or one of: {names}."
            )
        by_id |= {id(item): item for item in matches}
    return tuple(by_id.values())


def prune(contents: CacheContents, items: Sequence[CachedItem]) -> PruneResult:
    """Remove items, and nothing that is not in the cache folder; it ends at the first that cannot be removed."""
    folder, before = contents.folder, _size_of(contents.folder)
    removed_items: list[CachedItem] = []
    failure = None
    for item in items:
        try:
            _remove(folder, item)
        except OSError as error:
            failure = f"{error.filename}: {error.strerror}" if error.filename else str(error)
            break
        removed_items.append(item)
    for file in read_records(folder):
        if not (folder / file).exists():
            remove_record(folder, file)
    left = _size_of(folder)
    return PruneResult(folder, tuple(removed_items), before - left, left, failure)


def _remove(folder: Path, item: CachedItem) -> None:
    """Remove one item. Raises OSError where that cannot be, or where a link leads out of the folder."""
    if item.revision is not None:
        remove_revision(folder, item)
        return
    for each in item.files:
        if each.path.is_symlink() or not is_inside(each.path, folder):
            raise OSError(f"{each.path} leads out of {folder}, so it is left alone")
        shutil.rmtree(each.path) if each.path.is_dir() else each.path.unlink(missing_ok=True)


def _matches(item: CachedItem, selector: str) -> bool:
    if selector.isdecimal():
        newest = max((each.last_modified for each in item.files), default=0.0)
        since = datetime.fromisoformat(item.last_used).timestamp() if item.last_used else newest
        return time.time() - since > int(selector) * _DAY
    name, _, commit = selector.partition("@")
    return item.name == name and (not commit or (item.revision or "").startswith(commit))


def _decoded_pictures(folder: Path, records: Mapping[str, Record]) -> Iterator[CachedItem]:
    """Training pictures that were decoded once: a folder for each short side that they were reduced to."""
    for path in sorted((folder / DECODED).iterdir()) if (folder / DECODED).is_dir() else ():
        if path.is_dir() and not path.is_symlink():
            yield _folder_item(folder, records, path, f"{DECODED}/{path.name}", DECODED_FROM, "decoded pictures")


def _data_sets(folder: Path, records: Mapping[str, Record]) -> Iterator[CachedItem]:
    """Data sets that torchvision and datasets downloaded: a folder each."""
    folders = [("oxford-pets", ADDRESS, folder / PETS)]
    for path in sorted((folder / DATASETS).iterdir()) if (folder / DATASETS).is_dir() else ():
        owner, _, rest = path.name.partition("___")
        name = f"hf:{owner}/{rest}" if rest else path.name
        folders.append((name, name if rest else f"{path.name} files, as datasets copies them", path))
    folders.append((XET, "parts of files of the hub, which its client keeps", folder / XET))
    for name, origin, path in folders:
        if path.is_dir() and not path.is_symlink():
            yield _folder_item(folder, records, path, name, origin, UNFINISHED if name == XET else "data set")


def _folder_item(
    cache: Path, records: Mapping[str, Record], path: Path, name: str, origin: str, kind: str
) -> CachedItem:
    """An item that is one folder of the cache."""
    record, size = file_record(records, cache, path, origin), _size_of(path)
    file = CachedFile(f"{path.name}/", path, size, None, record.last_used, record.changed_ns / 1e9)
    return CachedItem(name, kind, origin, None, (file,), size)


def _unknown(folder: Path, items: Sequence[CachedItem]) -> Iterator[CachedFile]:
    item_paths = {each.path for item in items for each in item.files}
    in_catr = sorted((folder / CATR).iterdir()) if (folder / CATR).is_dir() else []
    outside = [path for path in sorted(folder.iterdir()) if path.name not in _OWN_FOLDERS] if folder.is_dir() else []
    for path in (*unknown_in_hub(folder), *(each for each in in_catr if each not in item_paths), *outside):
        stat = path.lstat()
        size = _size_of(path) if path.is_dir() and not path.is_symlink() else stat.st_size
        yield CachedFile(path.name, path, size, None, None, stat.st_mtime)


def _size_of(folder: Path) -> int:
    """Bytes of all files below a folder; links are not followed, and a file with two names counts once."""
    sizes: dict[tuple[int, int], int] = {}
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                stat = (Path(parent) / name).lstat()
            except OSError:  # removed meanwhile
                continue
            sizes[stat.st_dev, stat.st_ino] = stat.st_size
    return sum(sizes.values())
