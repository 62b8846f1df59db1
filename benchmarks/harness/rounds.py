"""Rounds that alternate between tools, and what is said of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Spread:
    """A median with the smallest and the largest value."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of at least one value."""
        return cls(statistics.median(values), min(values), max(values))

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f} to {self.high:.2f})"


def alternate(work: Mapping[str, Callable[[], float]], *, rounds: int, warm_up: int = 1) -> dict[str, list[float]]:
    """What every piece of work does a second (pictures, captions, operations), in every round.

    All of them are run in each round, and each round begins with another one: a machine that slows down, or a cache
    that one leaves to the next, meets every tool alike.

    Args:
        work: by name; a call does one round and returns how much it did.
        rounds: that count.
        warm_up: rounds before those.
    """
    names = list(work)
    speeds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(warm_up + rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            began = time.perf_counter()
            done = work[name]()
            seconds = time.perf_counter() - began
            if number >= warm_up:
                speeds[name].append(done / seconds)
    return speeds


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> Spread:
    """How many times as fast, round by round."""
    return Spread.of([a / b for a, b in zip(ours, theirs, strict=True)])
