"""A least-recently-used cache that is limited by bytes rather than by the number of its entries."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, Protocol, TypeVar


class HasBytes(Protocol):
    """A value that knows how much memory it takes."""

    @property
    def nbytes(self) -> int:
        """Bytes, about."""
        ...


V = TypeVar("V", bound=HasBytes)


class ByteLRUCache(Generic[V]):
    """Values by key, up to a number of bytes; the least recently used ones are dropped first. Safe for many threads.

    A value's bytes are read when it is put in; it must not grow much later.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._entries: OrderedDict[Hashable, tuple[V, int]] = OrderedDict()
        self._total = 0
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> V | None:
        """The value of a key, which becomes the most recently used one; None if the cache has none."""
        with self._lock:
            if key not in self._entries:
                return None
            self._entries.move_to_end(key)
            return self._entries[key][0]

    def put(self, key: Hashable, value: V) -> None:
        """Add or replace a value; the newest one stays even if it is larger than the whole limit."""
        size = value.nbytes
        with self._lock:
            self._total += size - self._entries.pop(key, (value, 0))[1]
            self._entries[key] = (value, size)
            while len(self._entries) > 1 and self._total > self._max_bytes:
                self._total -= self._entries.popitem(last=False)[1][1]

    @property
    def nbytes(self) -> int:
        """Bytes of all values."""
        return self._total

    def __len__(self) -> int:
        return len(self._entries)
