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


class ByteLRUCache(Generic[S]):
    """The latest things up to a number of bytes; what was not asked for the longest goes first. For many threads.

    Things are weighed when they are put in; what grows later is to be small.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._entries: OrderedDict[Hashable, tuple[S, int]] = OrderedDict()
        self._total = 0
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> S | None:
        """What is held under a key, which makes it the latest; None where nothing is."""
        with self._lock:
            if key not in self._entries:
                return None
            self._entries.move_to_end(key)
            return self._entries[key][0]

    def put(self, key: Hashable, value: S) -> None:
        """Hold something; the latest one stays even where it is larger than everything may be."""
        size = value.nbytes
        with self._lock:
            self._total += size - self._entries.pop(key, (value, 0))[1]
            self._entries[key] = (value, size)
            while len(self._entries) > 1 and self._total > self._max_bytes:
                self._total -= self._entries.popitem(last=False)[1][1]

    @property
    def nbytes(self) -> int:
        """Bytes of all that is held."""
        return self._total

    def __len__(self) -> int:
        return len(self._entries)
