"""A least-recently-used cache that is limited by bytes rather than by the number of its entries."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
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
        self._reserved_total = 0
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
            self._drop_oldest()

    def reserve(self, max_bytes: int) -> Reservation:
        """A reservation of no bytes yet; see :class:`Reservation`.

        Args:
            max_bytes: limit of all reservations together.
        """
        return Reservation(self._add_reserved, max_bytes)

    def _add_reserved(self, size: int, max_bytes: int | None) -> bool:
        with self._lock:
            if max_bytes is not None and self._reserved_total + size > max_bytes:
                return False
            self._reserved_total += size
            self._drop_oldest()
            return True

    def _drop_oldest(self) -> None:
        while len(self._entries) > 1 and self._total + self._reserved_total > self._max_bytes:
            self._total -= self._entries.popitem(last=False)[1][1]

    @property
    def reserved_bytes(self) -> int:
        """Bytes that are reserved."""
        return self._reserved_total

    @property
    def nbytes(self) -> int:
        """Bytes of all values."""
        return self._total

    def __len__(self) -> int:
        return len(self._entries)


class Reservation:
    """Bytes of a cache's limit that something outside of the cache takes; values are dropped to make room for it."""

    def __init__(self, add: Callable[[int, int | None], bool], max_bytes: int) -> None:
        """Made by :meth:`ByteLRUCache.reserve`."""
        self._add, self._max_bytes = add, max_bytes
        self._size = 0

    def grow(self, size: int) -> bool:
        """Take so many bytes more; False if all reservations together would be over their limit: then none is taken."""
        if not self._add(size, self._max_bytes):
            return False
        self._size += size
        return True

    def release(self) -> None:
        """Give all bytes back; calling it again does nothing."""
        size, self._size = self._size, 0
        self._add(-size, None)
