"""Bytes of a shard as a stream: from a file or over http, and from nowhere else."""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from vitrine.downloads.settings import is_offline
from vitrine.errors import DataError

_SECONDS = 60.0  # without a byte, after which a connection counts as lost
REMOTE = ("http://", "https://")

LOST = (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError)
"""What a connection that breaks raises; an answer that says no is a :class:`urllib.error.HTTPError` among them."""


def is_remote(place: str) -> bool:
    """Whether a place is an address."""
    return place.startswith(REMOTE)


@contextmanager
def opened(place: str) -> Iterator[IO[bytes]]:
    """Open a shard, or the index of shards, for reading.

    Raises:
        DataError: there is no such file, it may not be read, or the server says that there is none.
        one of :data:`LOST`: the connection broke.
    """
    stream: Any
    if is_remote(place):
        if is_offline():
            raise DataError(f"{place} is not on this machine, and the network is not to be used (--offline).")
        try:
            stream = urllib.request.urlopen(place, timeout=_SECONDS)  # noqa: S310  http and https only, see is_remote
        except urllib.error.HTTPError as error:
            if error.code >= 500:
                raise
            raise DataError(f"{place} cannot be read: the server answers {error.code} {error.reason}.") from error
    else:
        try:
            stream = Path(place).open("rb")  # noqa: SIM115  closed below
        except OSError as error:
            raise DataError(f"The shard {place} cannot be read: {error.strerror}.") from error
    with stream:
        yield stream


def text_of(place: str, limit: int = 64 << 20) -> str:
    """A small text file.

    Raises:
        DataError: it cannot be read, or is longer than ``limit`` bytes.
    """
    try:
        with opened(place) as stream:
            content = stream.read(limit + 1)
    except LOST as error:
        raise DataError(f"{place} cannot be read: {error}. Is the server there?") from error
    if len(content) > limit:
        raise DataError(f"{place} is longer than {limit:,} bytes, so it is no index of shards.")
    return content.decode("utf-8", "replace")
