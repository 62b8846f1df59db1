"""``vitrine cache``: which downloaded files lie where, from where, with which hash; and removing them."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path

from vitrine.data.pets import ADDRESS
from vitrine.downloads.records import FOLDER, Record, forget, know, read_records
from vitrine.downloads.settings import CLIENT, DATA_SETS, DECODED, DECODED_FROM, HUB, PETS, RELEASED, cache_folder
from vitrine.errors import UsageError
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
from vitrine.workflows.cached import CacheContents, Pruned

_OURS = {FOLDER, HUB, RELEASED, PETS, DATA_SETS, CLIENT, DECODED}
_DAY = 24 * 60 * 60


def cache_contents(progress: Callable[[int, int], None] = lambda _done, _total: None) -> CacheContents:
    """Look through the cache folder. Hashes that are not recorded are computed, which takes a while once.

    Args:
        progress: called with files of the hub done, of how many.
    """
    folder = cache_folder().absolute()
    known = read_records(folder)
    items = (
        *cached_repositories(folder, known, progress),
        *cached_releases(folder, known),
        *_data_sets(folder, known),
        *_decoded(folder, known),
        *unfinished_downloads(folder),
    )
    return CacheContents(folder, items, tuple(_unknown(folder, items)), _held(folder))


def chosen(contents: CacheContents, wanted: Sequence[str]) -> tuple[CachedItem, ...]:
    """The items that names or days mean.

    Args:
        contents: what there is.
        wanted: an item's name, with @ and the beginning of its commit where one of several revisions is meant; or a
            number of days: what was last used, or else downloaded, longer ago.

    Raises:
        UsageError: there is no such item.
    """
    found: dict[int, CachedItem] = {}
    for each in wanted:
        matching = [item for item in contents.items if _matches(item, each)]
        if not matching and not each.isdecimal():
            names = ", ".join(dict.fromkeys(item.name for item in contents.items)) or "nothing"
            raise UsageError(
                f"--prune {each}: nothing of that name was downloaded into {contents.folder}.\n"
                f"Expected a number of days, or one of: {names}."
            )
        found |= {id(item): item for item in matching}
    return tuple(found.values())


def prune(contents: CacheContents, items: Sequence[CachedItem]) -> Pruned:
    """Remove items, and nothing that is not in the cache folder; it ends at the first that cannot be removed."""
    folder, before = contents.folder, _held(contents.folder)
    removed: list[CachedItem] = []
    failed = None
    for item in items:
        try:
            _remove(folder, item)
        except OSError as error:
            failed = f"{error.filename}: {error.strerror}" if error.filename else str(error)
            break
        removed.append(item)
    for file in read_records(folder):
        if not (folder / file).exists():
            forget(folder, file)
    left = _held(folder)
    return Pruned(folder, tuple(removed), before - left, left, failed)


def _remove(folder: Path, item: CachedItem) -> None:
    """Remove one item. Raises OSError where that cannot be, or where a link leads out of the folder."""
    if item.revision is not None:
        remove_revision(folder, item)
        return
    for each in item.files:
        if each.path.is_symlink() or not is_inside(each.path, folder):
            raise OSError(f"{each.path} leads out of {folder}, so it is left alone")
        shutil.rmtree(each.path) if each.path.is_dir() else each.path.unlink(missing_ok=True)


def _matches(item: CachedItem, wanted: str) -> bool:
    if wanted.isdecimal():
        written = max((each.written for each in item.files), default=0.0)
        since = datetime.fromisoformat(item.last_used).timestamp() if item.last_used else written
        return time.time() - since > int(wanted) * _DAY
    name, _, commit = wanted.partition("@")
    return item.name == name and (not commit or (item.revision or "").startswith(commit))


def _decoded(folder: Path, known: Mapping[str, Record]) -> Iterator[CachedItem]:
    """Training pictures that were decoded once: a folder for each short side that they were reduced to."""
    for path in sorted((folder / DECODED).iterdir()) if (folder / DECODED).is_dir() else ():
        if path.is_dir() and not path.is_symlink():
            yield _folder_item(folder, known, (f"{DECODED}/{path.name}", DECODED_FROM, path), "decoded pictures")


def _data_sets(folder: Path, known: Mapping[str, Record]) -> Iterator[CachedItem]:
    """Data sets that torchvision and datasets downloaded: a folder each."""
    there = [("oxford-pets", ADDRESS, folder / PETS)]
    for path in sorted((folder / DATA_SETS).iterdir()) if (folder / DATA_SETS).is_dir() else ():
        owner, _, rest = path.name.partition("___")
        name = f"hf:{owner}/{rest}" if rest else path.name
        there.append((name, name if rest else f"{path.name} files, as datasets copies them", path))
    there.append((CLIENT, "parts of files of the hub, which its client keeps", folder / CLIENT))
    for name, origin, path in there:
        if path.is_dir() and not path.is_symlink():
            kind = UNFINISHED if name == CLIENT else "data set"
            yield _folder_item(folder, known, (name, origin, path), kind)


def _folder_item(folder: Path, known: Mapping[str, Record], found: tuple[str, str, Path], kind: str) -> CachedItem:
    """What is a folder: its name, where it is from and where it lies."""
    name, origin, path = found
    record, size = know(known, folder, path, origin), _held(path)
    file = CachedFile(f"{path.name}/", path, size, None, record.last_used, record.changed_ns / 1e9)
    return CachedItem(name, kind, origin, None, (file,), size)


def _unknown(folder: Path, items: Sequence[CachedItem]) -> Iterator[CachedFile]:
    ours = {each.path for item in items for each in item.files}
    in_catr = sorted((folder / RELEASED).iterdir()) if (folder / RELEASED).is_dir() else []
    outside = [path for path in sorted(folder.iterdir()) if path.name not in _OURS] if folder.is_dir() else []
    for path in (*unknown_in_hub(folder), *(each for each in in_catr if each not in ours), *outside):
        found = path.lstat()
        size = _held(path) if path.is_dir() and not path.is_symlink() else found.st_size
        yield CachedFile(path.name, path, size, None, None, found.st_mtime)


def _held(folder: Path) -> int:
    """Bytes of all files below a folder; links are not followed, and a file with two names counts once."""
    sizes: dict[tuple[int, int], int] = {}
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                found = (Path(parent) / name).lstat()
            except OSError:  # removed meanwhile
                continue
            sizes[found.st_dev, found.st_ino] = found.st_size
    return sum(sizes.values())
