"""The pictures of shards one by one, in the order of their names, for what looks at a split more than once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from vitrine.data.samples import Sample
from vitrine.data.shards.index import Shard, is_remote
from vitrine.data.shards.reader import read_shard
from vitrine.errors import DataError
from vitrine.io.limits import limit

MAX_REMOTE_BYTES = limit("MAX_REMOTE_BYTES", 1 << 30)
"""Bytes of pictures from http addresses that are kept in memory."""


def list_samples(shards: Sequence[Shard], classes: int | None) -> tuple[Sample, ...]:
    """Samples of shards by name, as files are listed; those of local shards without their bytes.

    Raises:
        DataError: a shard is not there, or pictures of remote ones are too large to be kept in memory.
    """
    samples, names, total_bytes = [], set[str](), 0
    for shard in shards:
        remote = is_remote(shard.place)
        for number, member in enumerate(read_shard(shard, lambda _, remote=remote: remote)):  # type: ignore[misc]
            total_bytes += len(member.data or b"")
            if total_bytes > MAX_REMOTE_BYTES:
                raise DataError(
                    f"The pictures of {shard.place} and those before it are too large to be kept in memory.\n"
                    "Put validation and test shards on this machine."
                )
            local = None if remote or member.picture_problem or not member.file else shard.place
            sample = member.sample(shard, classes, local)
            if sample.name in names:
                sample = replace(sample, name=f"{shard.name.removesuffix('.tar')}/{number:06}-{sample.name}")
            names.add(sample.name)
            samples.append(sample)
    return tuple(sorted(samples, key=lambda sample: sample.name))
