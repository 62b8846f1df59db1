"""Which samples make a batch: the order of an epoch, the number of batches, and each process's part of one.

Without torch, so that ``vitrine check`` and ``vitrine shards`` start at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vitrine.data.samples import Sample


def batch_count(n: int, batch_size: int, drop_last: bool = False) -> int:
    """Number of batches of ``n`` samples."""
    return n // batch_size if drop_last else -(-n // batch_size)


def epoch_order(
    n: int, *, seed: int, epoch: int, shuffle: bool, weights_N: npt.NDArray[np.float64] | None = None
) -> np.ndarray:
    """Positions of ``n`` samples in the order of one epoch, int64; a function of its arguments only.

    Args:
        n: samples.
        seed: with ``epoch`` it determines the order.
        epoch: from 0.
        shuffle: a random order; else that of the samples.
        weights_N: at least 0; ``n`` positions are drawn with replacement, each sample as often as its weight says, as
            torch's ``WeightedRandomSampler`` does. None takes every sample once.
    """
    if not shuffle:
        return np.arange(n)
    rng = np.random.default_rng(np.random.SeedSequence((seed, epoch)))
    if weights_N is None:
        return rng.permutation(n)
    return rng.choice(n, size=n, p=weights_N / weights_N.sum())


def draw_numbers(order: np.ndarray) -> np.ndarray:
    """How often each position of an epoch's order came before it, int64: 0 where a sample is drawn first."""
    by_sample = np.argsort(order, kind="stable")
    sorted_order = order[by_sample]
    is_first = np.append(True, sorted_order[1:] != sorted_order[:-1])
    starts = np.maximum.accumulate(np.where(is_first, np.arange(len(order)), 0))
    numbers = np.empty(len(order), dtype=np.int64)
    numbers[by_sample] = np.arange(len(order)) - starts
    return numbers


@dataclass(frozen=True)
class SampleBatch:
    """One process's samples of a batch, to be loaded.

    Attributes:
        indices: positions in the order of the epoch.
        samples: in that order.
        is_dummy: the process has no picture of this batch; the one sample stands in for it and counts nowhere.
    """

    indices: tuple[int, ...]
    samples: tuple[Sample, ...]
    is_dummy: bool = False


@dataclass(frozen=True)
class BatchShard:
    """Which part of every batch belongs to one of the processes that train together.

    Attributes:
        rank: number of the process, from 0.
        world_size: how many processes there are.
        pair_for_mixup: picture i of a batch of n goes to the same process as picture n - 1 - i, with which timm's mixup
            and cutmix mix it: what the processes mix is then what one process alone would have mixed.
    """

    rank: int = 0
    world_size: int = 1
    pair_for_mixup: bool = False

    def contiguous(self, count: int) -> range:
        """The ``rank``-th of ``world_size`` contiguous ranges of ``count`` items; their lengths differ by 1 at most."""
        return range(count * self.rank // self.world_size, count * (self.rank + 1) // self.world_size)

    def positions(self, count: int) -> list[int]:
        """Positions in a batch of ``count`` pictures; none where there are fewer pictures than processes."""
        if not self.pair_for_mixup or self.world_size == 1:
            return list(self.contiguous(count))
        first = list(self.contiguous(count // 2))
        mirror = [count // 2 * 2 - 1 - position for position in reversed(first)]
        odd = [count - 1] if count % 2 and self.rank == self.world_size - 1 else []  # timm leaves the last one out
        return first + mirror + odd

    def positions_or_dummy(self, count: int) -> tuple[list[int], bool]:
        """As :meth:`positions`, but never empty, because every process has to take part in a training step.

        Returns:
            The positions, and whether they are a dummy: the batch's first picture, which another process counts.
        """
        positions = self.positions(count)
        return positions or [0], not positions
