"""The index of shards, ``index.json`` beside them, checked as it is read; and opening shards from disk or over http."""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NotRequired, TypedDict

from vitrine.errors import DataError
from vitrine.io.hub_cache import is_offline
from vitrine.io.limits import limit
from vitrine.io.untrusted_files import open_regular_file, parse_json, require_shape

INDEX = "index.json"
FORMAT = "vitrine shards 1"
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Shard:
    """One tar file of pictures.

    Attributes:
        place: a path or an http address.
        pictures: how many are in it, readable or not.
        sha256: of the file; empty where nobody has computed it.
    """

    place: str
    pictures: int
    sha256: str = ""

    @property
    def name(self) -> str:
        """The last part of its place."""
        return self.place.rstrip("/").rpartition("/")[2]


@dataclass(frozen=True)
class ShardIndex:
    """All shards of some data.

    Attributes:
        labels: class names; a picture's label is an index into it. None where pictures have no classes.
        splits: shards in order, of "train", "validation" and "test" where there are such.
        notes: sentences on decisions.
        captions: whether pictures have captions.
    """

    labels: tuple[str, ...]
    splits: Mapping[str, tuple[Shard, ...]]
    notes: tuple[str, ...] = ()
    captions: bool = False


class _Content(TypedDict):
    format: str
    labels: list[str]
    splits: dict[str, list[_Row] | None]
    notes: NotRequired[list[str]]
    captions: NotRequired[bool]


class _Row(TypedDict):
    file: str
    pictures: int
    sha256: NotRequired[str]


def parse_index(text: str, folder: str) -> ShardIndex:
    """Read the content of an index.json whose shards lie in ``folder`` (a path or an address).

    Raises:
        DataError: it is no index of shards, or names files outside of its folder.
    """
    try:
        anything = require_shape(parse_json(text), dict[str, Any])
        if anything.get("format") != FORMAT:
            raise ValueError(f"its format is {anything.get('format')!r}, expected {FORMAT!r}")
        content = require_shape(anything, _Content)
        labels = tuple(content["labels"])
        splits = {name: _shards(rows, folder) for name in SPLITS if (rows := content["splits"].get(name))}
    except ValueError as error:
        raise DataError(
            f"{folder}/{INDEX} is no index of shards ({error}).\nMake the shards anew with: vitrine shards DATA -o DIR"
        ) from error
    return ShardIndex(labels, splits, tuple(content.get("notes", ())), content.get("captions", False))


MAX_SHARD_PICTURES = limit("MAX_SHARD_PICTURES", 1_000_000)
"""Pictures of one shard, unless its size shows that it has room for more."""

_BLOCK = 512  # bytes of a tar file's header


def _shards(rows: list[_Row], folder: str) -> tuple[Shard, ...]:
    shards = []
    for row in rows:
        file, pictures = row["file"], row["pictures"]
        if file in ("", ".", "..") or "/" in file or "\\" in file:
            raise ValueError(f"{file!r} is no file of this folder")
        if pictures < 1:
            raise ValueError(f"{file} with {pictures:,} pictures")
        if pictures > MAX_SHARD_PICTURES and (is_remote(folder) or pictures > _size(Path(folder) / file) // _BLOCK):
            raise ValueError(f"{file} with {pictures:,} pictures, where {MAX_SHARD_PICTURES:,} are the limit")
        shards.append(Shard(f"{folder}/{file}", pictures, row.get("sha256", "")))
    return tuple(shards)


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


_TIMEOUT_SECONDS = 60.0  # without a byte, after which a connection counts as lost
REMOTE = ("http://", "https://")

CONNECTION_ERRORS = (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError)
"""What a broken connection raises; :class:`urllib.error.HTTPError`, the server's refusal, is one of them too."""


def is_remote(place: str) -> bool:
    """Whether a location is an http address and not a path."""
    return place.startswith(REMOTE)


@contextmanager
def open_location(place: str) -> Iterator[IO[bytes]]:
    """Open a shard, or the index of shards, for reading.

    Raises:
        DataError: there is no such file, it may not be read, or the server says that there is none.
        one of :data:`CONNECTION_ERRORS`: the connection broke.
    """
    stream: Any
    if is_remote(place):
        if is_offline():
            raise DataError(f"{place} is not on this machine, and the network is not to be used (--offline).")
        try:
            stream = urllib.request.urlopen(place, timeout=_TIMEOUT_SECONDS)  # noqa: S310  http and https only, see is_remote
        except urllib.error.HTTPError as error:
            if error.code >= 500:
                raise
            raise DataError(f"{place} cannot be read: the server answers {error.code} {error.reason}.") from error
    else:
        try:
            stream = open_regular_file(Path(place))
        except OSError as error:
            raise DataError(f"The shard {place} cannot be read: {error.strerror}.") from error
    with stream:
        yield stream


def read_text(place: str, limit: int = 64 << 20) -> str:
    """The content of a small text file, from a path or an address.

    Raises:
        DataError: it cannot be read, or is longer than ``limit`` bytes.
    """
    try:
        with open_location(place) as stream:
            content = stream.read(limit + 1)
    except CONNECTION_ERRORS as error:
        raise DataError(f"{place} cannot be read: {error}. Is the server there?") from error
    if len(content) > limit:
        raise DataError(f"{place} is longer than {limit:,} bytes, so it is no index of shards.")
    return content.decode("utf-8", "replace")
