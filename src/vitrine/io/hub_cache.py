"""The download cache: its folder, whether the network may be used, and a record of each file's last use and hash.

Records are small files in the cache folder, one for each downloaded file. A record is replaced whole, so that processes
that use a file at the same time do not spoil it. A record that cannot be written, as in a folder that others own, is
left out: nothing depends on it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from vitrine.errors import UsageError
from vitrine.io.file_names import temporary_path
from vitrine.io.files import remove_unfinished
from vitrine.io.untrusted_files import read_json

HUB, CATR, PETS, DATASETS, XET = "hub", "catr", "oxford-iiit-pet", "datasets", "xet"
"""Folders in the cache folder: of the hub's client, of the published captioner (CATR), of torchvision's Oxford pets, of
Hugging Face datasets, and of parts of files that the hub's client keeps."""

DECODED, DECODED_FROM = "decoded", "training pictures, decoded by vitrine train"
"""Folder in the cache folder of decoded training pictures, and the origin that records give for it."""

CACHE, OFFLINE = "VITRINE_CACHE", "VITRINE_OFFLINE"
NETWORK_OFF = "the network was turned off"

_YES = {"1", "ON", "YES", "TRUE"}
_CLIENTS = ("huggingface_hub.constants", "datasets.config")  # each keeps HF_HUB_OFFLINE as it was at its import


def cache_folder() -> Path:
    """The one folder that downloaded files go to: ``VITRINE_CACHE``, else ``~/.cache/vitrine``."""
    return Path(os.environ.get(CACHE) or Path.home() / ".cache" / "vitrine").expanduser()


def is_offline() -> bool:
    """Whether the network may not be used: ``VITRINE_OFFLINE`` or ``HF_HUB_OFFLINE`` is set."""
    if any(os.environ.get(name, "").upper() in _YES for name in (OFFLINE, "HF_HUB_OFFLINE")):
        return True
    return any(getattr(sys.modules.get(name), "HF_HUB_OFFLINE", False) for name in _CLIENTS)


@contextmanager
def download_settings(*, into: Path | None = None, offline: bool = False) -> Iterator[None]:
    """Set the cache folder, or turn the network off, within a ``with`` block.

    Args:
        into: the folder; None leaves it as it is.
        offline: use no network; False leaves it as it is.

    Raises:
        UsageError: ``into`` is something else than a folder.
    """
    if into is not None and into.expanduser().exists() and not into.expanduser().is_dir():
        raise UsageError(f"--cache {into} is not a folder: expected one, or the path of one to make.")
    values = {} if into is None else {CACHE: str(into.expanduser().absolute())}
    values |= {OFFLINE: "1", "HF_HUB_OFFLINE": "1"} if offline else {}
    before = {name: os.environ.get(name) for name in values}
    clients = _CLIENTS if offline else ()
    offline_before = {name: sys.modules[name].HF_HUB_OFFLINE for name in clients if name in sys.modules}
    os.environ.update(values)
    for name in offline_before:
        sys.modules[name].HF_HUB_OFFLINE = True  # type: ignore[attr-defined]
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        for name in clients:
            if name in sys.modules:  # one that was imported within the block read what holds there
                is_offline_now = os.environ.get("HF_HUB_OFFLINE", "").upper() in _YES
                sys.modules[name].HF_HUB_OFFLINE = offline_before.get(name, is_offline_now)  # type: ignore[attr-defined]


def quieten_client() -> None:
    """Turn off the telemetry of the hub's client, and keep its files inside the cache folder."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ["HF_XET_CACHE"] = str(cache_folder() / XET)
    constants = sys.modules.get("huggingface_hub.constants")
    if constants is not None:
        constants.HF_HUB_DISABLE_TELEMETRY = True  # type: ignore[attr-defined]


FOLDER = "uses"


@dataclass(frozen=True)
class Record:
    """One downloaded file or folder, as it was when it was used last.

    Attributes:
        file: its path below the cache folder.
        origin: where it is from, without the version: another file may have the same.
        size: bytes; 0 of a folder.
        changed_ns: when its content was written, in nanoseconds since 1970.
        sha256: hexadecimal; None of a folder.
        last_used: UTC, as ISO 8601 writes it; None where it never was.
    """

    file: str
    origin: str
    size: int
    changed_ns: int
    sha256: str | None
    last_used: str | None


@dataclass(frozen=True)
class Use:
    """Hash of a file that is about to be used, and its previous use where that was of other content.

    Attributes:
        sha256: of its bytes; None of a folder, and of what is not in the cache folder.
        previous: the last use of a file from the same place with another hash, where that was the last one; else None.
    """

    sha256: str | None
    previous: Record | None


def note_use(path: Path, origin: str) -> Use:
    """Record that a file or folder of the cache folder is used now; once a process, as long as it stays the same.

    Nothing is recorded of what lies outside of the cache folder.
    """
    status = path.stat()
    return _note(cache_folder().absolute(), path.absolute(), origin, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=256)
def _note(folder: Path, path: Path, origin: str, size: int, changed_ns: int) -> Use:  # noqa: ARG001  they are the key
    if not path.is_relative_to(folder):
        return Use(None, None)
    records = read_records(folder)
    record = replace(_current_record(records, folder, path, origin), last_used=_now())
    uses = [each for each in records.values() if each.origin == origin and each.last_used is not None]
    latest = max(uses, key=lambda each: each.last_used or "", default=None)
    _write(folder, record)
    return Use(
        record.sha256, latest if latest is not None and path.is_file() and latest.sha256 != record.sha256 else None
    )


def file_record(records: Mapping[str, Record], folder: Path, path: Path, origin: str) -> Record:
    """The record of a file or folder as it is now, whether it was used or not; a hash that is new is stored.

    Args:
        records: all of them, see :func:`read_records`.
        folder: the cache folder.
        path: in it.
        origin: where it is from.
    """
    record = _current_record(records, folder, path, origin)
    if records.get(record.file) != record:
        _write(folder, record)
    return record


def _current_record(records: Mapping[str, Record], folder: Path, path: Path, origin: str) -> Record:
    """The record of a file as it is now; a hash is computed where none is recorded for its size and time."""
    name, status, is_file = path.relative_to(folder).as_posix(), path.stat(), path.is_file()
    previous, size = records.get(name), status.st_size if is_file else 0
    facts = (origin, size, status.st_mtime_ns)
    if previous is not None and (previous.origin, previous.size, previous.changed_ns) == facts:
        return previous
    sha256 = _sha256(path) if is_file else None
    return Record(name, origin, size, status.st_mtime_ns, sha256, None if previous is None else previous.last_used)


def changed_sentence(path: Path, origin: str) -> str | None:
    """A sentence that a file's content is not what was last used from its origin; None where it is the same or new."""
    use = note_use(path, origin)
    if use.previous is None or use.previous.last_used is None or use.sha256 is None:
        return None
    return (
        f"{origin} has changed since it was last used here, on {use.previous.last_used[:10]}: "
        f"its sha256 was {short_hash(use.previous.sha256)} and is {short_hash(use.sha256)}."
    )


_HASH = re.compile("[0-9a-f]{40}|[0-9a-f]{64}")


def hash_difference(blob: Path, sha256: str) -> str | None:
    """What is wrong with a file that the hub's client named by the hash that the hub gave; None where it is right.

    The hub gives the sha256 of large files and git's hash of small ones, which is a sha1 of the length and the bytes;
    some servers in its place give the sha1 of the bytes. What is no hash is not compared.

    Args:
        blob: the file itself, not a link to it.
        sha256: of its bytes as they are.
    """
    expected = blob.name
    if not _HASH.fullmatch(expected) or expected == sha256:
        return None
    kind, actual = "sha256", sha256
    if len(expected) == 40:
        kind, actual = "git hash", _sha1(blob, f"blob {blob.stat().st_size}\0".encode())
        if expected in (actual, _sha1(blob, b"")):
            return None
    return f"should have the {kind} {short_hash(expected)}... and has {short_hash(actual)}..."


def _sha1(path: Path, start: bytes) -> str:
    digest = hashlib.sha1(start, usedforsecurity=False)
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def short_hash(sha256: str | None) -> str:
    """The first 12 characters of a hash, enough to tell a person's files apart."""
    return (sha256 or "unknown")[:12]


def read_records(folder: Path) -> dict[str, Record]:
    """All records of a cache folder by path; what is no record is left out."""
    records = {}
    for path in sorted((folder / FOLDER).glob("*.json")):
        try:
            record = Record(**read_json(path, dict[str, Any]))
        except (OSError, ValueError, TypeError):
            continue
        if (
            path.name == _name(record.file)
            and isinstance(record.last_used, str | None)
            and isinstance(record.origin, str)
        ):
            records[record.file] = record
    return records


def remove_record(folder: Path, file: str) -> None:
    """Remove the record of a file that was removed."""
    (folder / FOLDER / _name(file)).unlink(missing_ok=True)


def _write(folder: Path, record: Record) -> None:
    path = folder / FOLDER / _name(record.file)
    temporary = temporary_path(path)
    try:
        path.parent.mkdir(exist_ok=True)
        remove_unfinished(path.parent)
        temporary.write_text(json.dumps(asdict(record)), encoding="utf-8")
        temporary.replace(path)
    except OSError:  # see the top of this module
        try:
            temporary.unlink(missing_ok=True)
        except OSError:
            return


def _name(file: str) -> str:
    return f"{hashlib.sha256(os.fsencode(file)).hexdigest()[:32]}.json"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
