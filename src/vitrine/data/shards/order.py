"""The order in which pictures leave shards: a function of counts and seeds alone, so that it can be taken up anywhere.

Shards are dealt out to lanes. Every lane reads its shards one after the other through a buffer, out of which pictures
are drawn at random; the lanes take turns. Processes that train together have lanes of their own: what is in a batch
does not depend on how many they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

LANES = 8
"""Lanes of data with as many shards or more; more processes have more."""


def lane_count(shards: int, processes: int) -> int:
    """How many lanes there are."""
    return min(shards, max(LANES, processes))


def dealt(shards: int, lanes: int, seed: int, epoch: int) -> list[list[int]]:
    """Which shards each lane reads in an epoch, in order; together each shard once."""
    order = np.random.default_rng(np.random.SeedSequence((seed, epoch, 2))).permutation(shards).tolist()
    return [order[lane::lanes] for lane in range(lanes)]


def turns(counts: Sequence[int]) -> Iterator[int]:
    """The lane that each picture of an epoch comes from: in turn, as long as they have any."""
    left = list(counts)
    waiting = [lane for lane, count in enumerate(left) if count]
    while waiting:
        for lane in waiting:
            yield lane
            left[lane] -= 1
        waiting = [lane for lane in waiting if left[lane]]


class Drawing(Iterator[int]):
    """Numbers of a lane's pictures (0 to count - 1, in reading order) as they leave its buffer.

    Attributes:
        waiting: in the buffer.
        read: how many came into it so far.
    """

    def __init__(self, count: int, buffer: int, seed: Sequence[int]) -> None:
        self._count = count
        self._rng = np.random.default_rng(np.random.SeedSequence(tuple(seed)))
        self.read = min(buffer, count)
        self.waiting = list(range(self.read))

    def __next__(self) -> int:
        if not self.waiting:
            raise StopIteration
        place = int(self._rng.integers(len(self.waiting)))
        drawn, last = self.waiting[place], self.waiting[-1]
        if self.read < self._count:
            self.waiting[place], self.read = self.read, self.read + 1
        else:
            self.waiting[place] = last
            self.waiting.pop()
        return drawn
