"""The index of shards, ``index.json`` beside them, checked as it is read; and opening shards from disk or over http."""

from __future__ import annotations

import hashlib
import http.client
import urllib.error
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NotRequired, TypedDict

from vitrine.errors import DataError
from vitrine.io.hub_cache import is_offline
from vitrine.io.limits import limit
from vitrine.io.network import CutOffError, Failure, announced_length, diagnose, open_address, retry
from vitrine.io.untrusted_files import MAX_TEXT_BYTES, open_regular_file, parse_json, require_shape
from vitrine.results import count_of

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
            raise ValueError(f"{file} with {count_of(pictures, 'picture')}")
        if pictures > MAX_SHARD_PICTURES and (is_remote(folder) or pictures > _size(Path(folder) / file) // _BLOCK):
            raise ValueError(f"{file} with {count_of(pictures, 'picture')}, where {MAX_SHARD_PICTURES:,} are the limit")
        shards.append(Shard(f"{folder}/{file}", pictures, row.get("sha256", "")))
    return tuple(shards)


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


REMOTE = ("http://", "https://")

CONNECTION_ERRORS = (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError, CutOffError)
"""What a connection raises that breaks while it is read from."""


class AbsentError(DataError):
    """The server says that there is no such file."""


def is_remote(place: str) -> bool:
    """Whether a location is an http address and not a path."""
    return place.startswith(REMOTE)


@contextmanager
def open_location(place: str) -> Iterator[IO[bytes]]:
    """Open a shard, or the index of shards, for reading.

    Raises:
        AbsentError: the server says that there is no such file.
        DataError: there is no such file, it may not be read, or the server does not send it.
        one of :data:`CONNECTION_ERRORS`: the connection broke meanwhile.
    """
    if is_remote(place):
        if is_offline():
            raise DataError(f"{place} is not on this machine, and the network is not to be used (--offline).")
        with ExitStack() as stack:
            yield _ask_for(place, stack)
        return
    try:
        stream = open_regular_file(Path(place))
    except OSError as error:
        raise DataError(f"The shard {place} cannot be read: {error.strerror}.") from error
    with stream:
        yield stream


def _ask_for(place: str, stack: ExitStack) -> Any:
    """The answer of a server to the request for a file, which ``stack`` closes; where that may help, asked for anew.

    Raises:
        AbsentError: the server says that there is none.
        DataError: it does not send it; the message says what to do.
    """
    try:
        return ReceivedFile(retry(lambda: stack.enter_context(open_address(place))))
    except (OSError, http.client.HTTPException) as error:
        failure = diagnose(error)
        kind = AbsentError if failure.status in (404, 410) else DataError
        raise kind(f"{place} cannot be read: {failure.reason}.\n{_remedy(failure)}") from error


def _remedy(failure: Failure) -> str:
    if failure.status in (401, 403, 407):
        return "No name and no password are sent: give an address that needs none, such as a signed one."
    if failure.passes:
        return "Try again later (a training goes on with --resume), or copy the shards to this machine."
    return "Check the address in a browser, or copy the shards to this machine."


class ReceivedFile:
    """A file as it comes from a server: at its end, its length is compared with the one that was announced.

    Attributes:
        is_announced: whether there was such a length.
    """

    def __init__(self, answer: Any) -> None:
        self._answer, self._length = answer, announced_length(answer.headers)
        self.is_announced = self._length is not None
        self._size, self._digest = 0, hashlib.sha256()

    def read(self, size: int) -> bytes:
        """Up to ``size`` bytes; none at the end.

        Raises:
            CutOffError: that came too early.
        """
        data: bytes = self._answer.read(size)
        self._size += len(data)
        self._digest.update(data)
        if size and not data and self._length is not None and self._size < self._length:
            raise CutOffError(f"the connection ended after {self._size:,} of {self._length:,} bytes")
        return data

    def sha256(self) -> str:
        """Of the whole file, in hexadecimal; what was not read yet is read.

        Raises:
            one of :data:`CONNECTION_ERRORS`: it cannot be read to its end.
        """
        while self.read(1 << 20):
            pass
        return self._digest.hexdigest()


def read_text(place: str, limit: int = MAX_TEXT_BYTES) -> str:
    """The content of a small text file, from a path or an address.

    Raises:
        AbsentError: the server says that there is none.
        DataError: it cannot be read, or is longer than ``limit`` bytes.
    """

    def read() -> bytes:
        content, size = [], 0
        with open_location(place) as stream:
            while size <= limit and (block := stream.read(min(1 << 20, limit + 1 - size))):
                content.append(block)
                size += len(block)
        return b"".join(content)

    try:
        text = retry(read)
    except CONNECTION_ERRORS as error:
        raise DataError(f"{place} cannot be read: {diagnose(error).reason}. Is the server there?") from error
    if len(text) > limit:
        raise DataError(f"{place} is longer than {limit:,} bytes, so it is no index of shards.")
    return text.decode("utf-8", "replace")
