"""Models and data sets of the hub in the cache folder: listing them, and removing them as the hub's library does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vitrine.errors import ModelError
from vitrine.io.hub_cache import CATR, HUB, Record, cache_folder, file_record
from vitrine.results import Progress

_ADDRESS = "https://github.com/saahiluppal/catr/releases/download/"

# Where the published code's hubconf.py finds them. It states no hashes.
RELEASES = {
    "catr/v1": f"{_ADDRESS}0.1/weights_9348032.pth",
    "catr/v2": f"{_ADDRESS}0.2/weight389123791.pth",
    "catr/v3": f"{_ADDRESS}0.2/weight493084032.pth",
}


def release_path(name: str) -> Path:
    """Where the file of ``catr/v1``, ``catr/v2`` or ``catr/v3`` lies in the cache folder, or would lie.

    Raises:
        ModelError: there is no such release.
    """
    if name not in RELEASES:
        raise ModelError(f"There is no captioner {name!r}. Expected {', '.join(RELEASES)}, or a weights file.")
    return cache_folder() / CATR / RELEASES[name].rsplit("/", 1)[-1]


UNFINISHED = "unfinished"
_LIBRARY_FILES = {".locks", "CACHEDIR.TAG", "blobs", "version.txt"}  # in the hub's folder, beside repositories


@dataclass(frozen=True)
class CachedFile:
    """One file in the cache folder.

    Attributes:
        name: within its item.
        path: where it lies.
        size: in bytes.
        sha256: of its content, in hexadecimal; None where it was not asked for.
        last_used: by vitrine, UTC, as ISO 8601 writes it; None where it never was.
        modified: when it was downloaded, in seconds since 1970.
    """

    name: str
    path: Path
    size: int
    sha256: str | None
    last_used: str | None
    last_modified: float


@dataclass(frozen=True)
class CachedItem:
    """What was downloaded together, and is removed together: a repository's revision, a release, a data set.

    Attributes:
        name: what it is removed by: owner/name, catr/v3, a data set's name.
        kind: "model", "captioner", "data set", "unfinished" or "unknown".
        origin: where it is from.
        revision: the commit on the hub; None of others.
        files: its files; of a data set that is a folder, the folder.
        size: bytes on the disk.
    """

    name: str
    kind: str
    origin: str
    revision: str | None
    files: tuple[CachedFile, ...]
    size: int

    @property
    def last_used(self) -> str | None:
        """When any of its files was last used; None where none was."""
        return max((each.last_used for each in self.files if each.last_used), default=None)


def hub_folder(cache: Path) -> Path:
    """The folder below the cache folder that holds repositories of the hub."""
    return cache / HUB


def cached_repositories(cache: Path, records: Mapping[str, Record], progress: Progress) -> Iterator[CachedItem]:
    """Every revision of every repository of the hub, by name; a file that several revisions share is in each.

    Args:
        cache: the cache folder.
        records: all records of its files.
        progress: called with files done, of how many: hashes that are not recorded are computed.
    """
    from huggingface_hub import constants

    repositories = sorted(_repositories(cache), key=lambda each: (each.repo_type, each.repo_id))
    repositories = [each for each in repositories if is_inside(each.repo_path, cache)]
    total, done = sum(len(rev.files) for repo in repositories for rev in repo.revisions), 0
    for repository in repositories:
        data = repository.repo_type == "dataset"
        address = f"{constants.ENDPOINT}/{'datasets/' if data else ''}{repository.repo_id}"
        for revision in sorted(repository.revisions, key=lambda each: (-each.last_modified, each.commit_hash)):
            files = []
            for entry in sorted(revision.files, key=lambda each: str(each.file_path)):
                path, name = entry.file_path, entry.file_path.relative_to(revision.snapshot_path).as_posix()
                if not is_inside(entry.blob_path, cache):
                    continue
                origin = f"{'hf:' if data else 'hf-hub:'}{repository.repo_id}/{name}"
                record = file_record(records, cache, path, _recorded_origin(records, cache, path) or origin)
                files.append(_file(name, path, record))
                done += 1
                progress(done, total)
            size, commit = int(revision.size_on_disk), str(revision.commit_hash)
            yield CachedItem(str(repository.repo_id), _kind(repository), address, commit, tuple(files), size)


def cached_releases(cache: Path, records: Mapping[str, Record]) -> Iterator[CachedItem]:
    """The weights of the published captioner that were downloaded."""
    for name, address in RELEASES.items():
        path = release_path(name)
        if path.is_file() and not path.is_symlink():
            file = _file(path.name, path, file_record(records, cache, path, address))
            yield CachedItem(name, "captioner", address, None, (file,), file.size)


def unfinished_downloads(cache: Path) -> Iterator[CachedItem]:
    """What interrupted downloads left; one may still be going on."""
    parts = [*hub_folder(cache).glob("*/blobs/*.incomplete"), *(cache / CATR).glob("*.part")]
    for path in sorted(each for each in parts if each.is_file() and not each.is_symlink() and is_inside(each, cache)):
        stat = path.stat()
        file = CachedFile(path.name, path, stat.st_size, None, None, stat.st_mtime)
        yield CachedItem(UNFINISHED, UNFINISHED, path.parent.name, None, (file,), stat.st_size)


def unknown_in_hub(cache: Path) -> Iterator[Path]:
    """What lies in the hub's folder and is no repository that its library can read, or leads out of the folder."""
    folder = hub_folder(cache)
    repositories = {each.repo_path for each in _repositories(cache) if is_inside(each.repo_path, cache)}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path not in repositories and path.name not in _LIBRARY_FILES:
            yield path


def remove_revision(cache: Path, item: CachedItem) -> None:
    """Remove a repository's revision as the hub's library does: what another revision shares stays.

    Raises:
        OSError: something to be removed leads out of the cache folder, and nothing was removed; or it could not be.
    """
    from huggingface_hub import scan_cache_dir

    contents = scan_cache_dir(hub_folder(cache))
    repositories = frozenset(each for each in contents.repos if (each.repo_id, _kind(each)) == (item.name, item.kind))
    plan = replace(contents, repos=repositories).delete_revisions(item.revision or "")
    for path in (*plan.blobs, *plan.refs, *plan.repos, *plan.snapshots):
        if not is_inside(path.parent, cache):
            raise OSError(f"{path} leads out of {cache}, so it is left alone")
    plan.execute()  # it logs what it cannot remove, and goes on
    for path in (*plan.repos, *plan.snapshots, *plan.blobs):
        if path.exists():
            raise OSError(f"{path} could not be removed")


def _kind(repository: Any) -> str:
    return "data set" if repository.repo_type == "dataset" else "model"


def is_inside(path: Path, cache: Path) -> bool:
    """Whether a path, its links followed, ends in the cache folder."""
    return path.resolve().is_relative_to(cache.resolve())


def _repositories(cache: Path) -> frozenset[Any]:
    from huggingface_hub import scan_cache_dir

    folder = hub_folder(cache)
    return scan_cache_dir(folder).repos if folder.is_dir() else frozenset()


def _recorded_origin(records: Mapping[str, Record], cache: Path, path: Path) -> str | None:
    """The origin that the file was used under, which may have a revision in it."""
    record = records.get(path.relative_to(cache).as_posix())
    return None if record is None else record.origin


def _file(name: str, path: Path, record: Record) -> CachedFile:
    return CachedFile(name, path, record.size, record.sha256, record.last_used, record.changed_ns / 1e9)
