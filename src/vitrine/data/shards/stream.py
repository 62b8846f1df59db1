"""Training pictures streamed out of shards, batch by batch, shuffled, in constant memory.

An epoch assigns the shards to lanes. Each lane is read in order through a shuffle buffer of its own, and a batch takes
its pictures from the lanes in turn. The order depends on the lanes, not on the processes: up to :data:`LANES`
processes, each of which reads some of the lanes, see together what one process alone would see.
"""

from __future__ import annotations

import hashlib
import io
import json
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any

import numpy as np
from PIL import Image

from vitrine.data.batch_plan import BatchShard, SampleBatch
from vitrine.data.decode import BytesPicture
from vitrine.data.samples import Sample, Split
from vitrine.data.shards.index import Shard, is_remote
from vitrine.data.shards.listing import list_samples
from vitrine.data.shards.reader import Member, read_shard
from vitrine.data.training_copies import HashedPicture
from vitrine.errors import DataError
from vitrine.results import count_of

LANES = 8
"""Number of lanes, where there are as many shards and no more processes than this."""


def lane_count(shards: int, processes: int) -> int:
    """Number of lanes for a number of shards and of processes."""
    return min(shards, max(LANES, processes))


def assign_shards(shards: int, lanes: int, seed: int, epoch: int) -> list[list[int]]:
    """Numbers of the shards that each lane reads in an epoch, in order; every shard is in one lane."""
    order = np.random.default_rng(np.random.SeedSequence((seed, epoch, 2))).permutation(shards).tolist()
    return [order[lane::lanes] for lane in range(lanes)]


def round_robin(counts: Sequence[int]) -> Iterator[int]:
    """The lane that each picture of an epoch comes from: lanes take turns as long as they have pictures."""
    left = list(counts)
    waiting = [lane for lane, count in enumerate(left) if count]
    while waiting:
        for lane in waiting:
            yield lane
            left[lane] -= 1
        waiting = [lane for lane in waiting if left[lane]]


class ShuffleBuffer(Iterator[int]):
    """The order in which a lane's pictures, numbered 0 to count - 1 as they are read, leave its shuffle buffer.

    Attributes:
        waiting: numbers of the pictures in the buffer.
        read: how many pictures have entered it so far.
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
        number, last = self.waiting[place], self.waiting[-1]
        if self.read < self._count:
            self.waiting[place], self.read = self.read, self.read + 1
        else:
            self.waiting[place] = last
            self.waiting.pop()
        return number


class ShardSplit(Split):
    """The pictures of shards, which come in a stream: they cannot be picked by number.

    Attributes:
        shards: all of them.
        classes: how many there are; None where pictures come with captions.
    """

    def __init__(self, shards: Sequence[Shard], classes: int | None) -> None:
        self.shards, self.classes = tuple(shards), classes

    @property
    def digest(self) -> str:
        """A hash of the shards' names, counts and hashes: the same wherever they lie."""
        rows = [(shard.name, shard.pictures, shard.sha256) for shard in self.shards]
        return hashlib.sha256(json.dumps([rows, self.classes]).encode()).hexdigest()[:16]

    def __len__(self) -> int:
        return sum(shard.pictures for shard in self.shards)

    def __getitem__(self, index: Any) -> Any:
        raise TypeError("Pictures of shards come in a stream: take its batches.")

    def for_epoch(self, epoch: int, epoch_size: int) -> Sequence[Sample]:  # noqa: ARG002
        """Refused: see :meth:`batches`."""
        raise TypeError("Pictures of shards come in a stream: take its batches.")

    @property
    def endless(self) -> bool:
        """True: the pictures are not listed one by one."""
        return True

    def skipped_note(self, name: str) -> str:
        """That there is an end, and still no list."""
        return f"The {len(self):,} {name} pictures lie in shards at an address: not downloaded, and not looked at."

    def list_samples(self) -> Sequence[Sample] | None:
        """The pictures by name, to be read one by one; None where a shard lies at an address."""
        return None if self.is_remote else list_samples(self.shards, self.classes)

    @property
    def is_remote(self) -> bool:
        """Whether a shard lies at an address."""
        return any(is_remote(shard.place) for shard in self.shards)

    def captions(self) -> Iterator[tuple[str, ...]]:
        """The captions of each picture that has some, shard after shard; pictures are not read.

        Raises:
            DataError: a shard is not there.
        """
        for shard in self.shards:
            yield from (member.captions for member in read_shard(shard, lambda _: False) if member.captions)

    def hashed_pictures(self) -> list[HashedPicture] | None:
        """Name and hashes of each picture as ``vitrine shards`` wrote them; pictures are not read.

        None where the shards lie at an address, since all of them would be downloaded for it, or where a picture has no
        hash, as those of other writers.

        Raises:
            DataError: a shard is not there.
        """
        if self.is_remote:
            return None
        pictures = []
        for shard in self.shards:
            for member in read_shard(shard, lambda _: False):
                if not member.sha256:
                    return None
                pictures.append(HashedPicture(member.sample_name(shard), member.sha256, member.signature))
        return pictures

    def batches(
        self,
        *,
        batch_size: int,
        seed: int,
        epoch: int,
        buffer: int,
        start_batch: int = 0,
        batch_shard: BatchShard = BatchShard(),  # noqa: B008
    ) -> Iterator[SampleBatch]:
        """This process's share of every batch of an epoch.

        Args:
            batch_size: of whole batches; the last one may be smaller.
            seed: with ``epoch`` it determines the order.
            epoch: from 0.
            buffer: pictures that wait in memory to be drawn, all lanes and processes together.
            start_batch: batches to leave out; shards that held nothing but pictures of those are not read.
            batch_shard: which part of every batch belongs to this process.

        Raises:
            DataError: a shard is not there; there are fewer shards than processes.
        """
        count = lane_count(len(self.shards), batch_shard.world_size)
        if batch_shard.world_size > len(self.shards):
            raise DataError(
                f"{count_of(batch_shard.world_size, 'process', 'processes')} cannot share "
                f"{count_of(len(self.shards), 'shard')}: expected a shard for each."
                "\nMake smaller ones with: vitrine shards DATA -o DIR --size MB, or launch fewer processes."
            )
        lanes = [[self.shards[i] for i in numbers] for numbers in assign_shards(len(self.shards), count, seed, epoch)]
        turn = round_robin([sum(shard.pictures for shard in lane) for lane in lanes])
        own_lanes = range(batch_shard.rank, count, batch_shard.world_size)
        skip_counts, readers, total = dict.fromkeys(own_lanes, 0), dict[int, Iterator[Sample]](), len(self)
        for first in range(0, total, batch_size):
            places = zip(_batch(first, batch_size, total), turn, strict=False)
            mine = [(place, lane) for place, lane in places if lane in skip_counts]
            if first < start_batch * batch_size:
                for _, lane in mine:
                    skip_counts[lane] += 1
                continue
            for lane in own_lanes if not readers else ():
                order = ShuffleBuffer(
                    sum(s.pictures for s in lanes[lane]), max(1, buffer // count), (seed, epoch, lane, 3)
                )
                readers[lane] = self._shuffled_samples(lanes[lane], order, skip_counts[lane])
            if mine:
                yield SampleBatch(tuple(k for k, _ in mine), tuple(next(readers[lane]) for _, lane in mine))
            else:
                yield SampleBatch((first,), (DUMMY_SAMPLE,), True)

    def _shuffled_samples(self, shards: Sequence[Shard], order: ShuffleBuffer, skip: int) -> Iterator[Sample]:
        """A lane's samples as they leave its shuffle buffer, without the first ``skip``."""
        for _ in range(skip):
            next(order)
        members = _members(shards, frozenset(order.waiting), order.read)
        waiting: dict[int, tuple[Shard, Member]] = {}
        for number in order:
            while number not in waiting:
                read, shard, member = next(members)
                waiting[read] = shard, member
            shard, member = waiting.pop(number)
            yield member.sample(shard, self.classes)


def _batch(first: int, size: int, total: int) -> range:
    return range(first, min(first + size, total))


def _members(shards: Sequence[Shard], waiting: frozenset[int], read: int) -> Iterator[tuple[int, Shard, Member]]:
    """Numbered samples of shards that follow one another: those ``waiting``, and all from number ``read`` on."""
    starts = [0, *accumulate(shard.pictures for shard in shards)]
    needed_shards = {bisect_right(starts, number) - 1 for number in waiting}
    for place, (shard, start) in enumerate(zip(shards, starts, strict=False)):
        if place not in needed_shards and starts[place + 1] <= read:
            continue

        def is_wanted(number: int, start: int = start) -> bool:
            return start + number >= read or start + number in waiting

        for number, member in enumerate(read_shard(shard, is_wanted)):
            if is_wanted(number):
                yield start + number, shard, member


def _black_square() -> Sample:
    square = io.BytesIO()
    Image.new("RGB", (8, 8)).save(square, "PNG")
    return Sample("nothing", BytesPicture(square.getvalue()), 0, ("nothing",))


DUMMY_SAMPLE = _black_square()
"""A sample that stands in where a process has no picture of a batch."""
