"""Encoded pictures by model and content, the latest ones, up to so many bytes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, Protocol, TypeVar


class Sized(Protocol):
    """What knows how much memory it takes."""

    @property
    def nbytes(self) -> int:
        """Bytes, about."""
        ...


S = TypeVar("S", bound=Sized)


class Held(Generic[S]):
    """The latest things up to a number of bytes; what was not asked for the longest goes first. For many threads."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: OrderedDict[Hashable, S] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> S | None:
        """What is held under a key, which makes it the latest; None where nothing is."""
        with self._lock:
            found = self._kept.get(key)
            if found is not None:
                self._kept.move_to_end(key)
            return found

    def put(self, key: Hashable, value: S) -> None:
        """Hold something; the latest one stays even where it is larger than everything may be."""
        with self._lock:
            self._kept[key] = value
            self._kept.move_to_end(key)
            while len(self._kept) > 1 and self._bytes() > self._most:
                self._kept.popitem(last=False)

    @property
    def nbytes(self) -> int:
        """Bytes of all that is held."""
        with self._lock:
            return self._bytes()

    def __len__(self) -> int:
        return len(self._kept)

    def _bytes(self) -> int:
        return sum(each.nbytes for each in self._kept.values())
