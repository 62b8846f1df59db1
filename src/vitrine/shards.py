"""``vitrine shards``: labelled or captioned pictures written as webdataset shards."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitrine.data.captions.datasets import is_captioned_data, open_captions
from vitrine.data.samples import Dataset, Sample
from vitrine.data.shards.index import INDEX
from vitrine.data.shards.writer import ShardsWriter, fingerprint, read_finished_index, require_webdataset
from vitrine.data.sources import open_data
from vitrine.display import ResultDisplay
from vitrine.errors import DataError, UsageError
from vitrine.io.output_lock import writes_folder
from vitrine.results import Progress, Unreadable, agree, count_of, no_progress

MEGABYTE = 1_000_000


@dataclass(frozen=True, repr=False)
class WrittenShards(ResultDisplay):
    """What ``vitrine shards`` made.

    Attributes:
        folder: where.
        splits: (split, shards, pictures, bytes).
        unreadable: (name, reason) of pictures that are in no shard.
        notes: sentences on the data.
        captions: whether pictures have captions, and no classes.
        is_new: whether this call wrote them; else an earlier one with the same data and settings did.
    """

    folder: Path
    splits: tuple[tuple[str, int, int, int], ...]
    unreadable: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    captions: bool = False
    is_new: bool = True

    def headline(self) -> str:
        """How many pictures, and where."""
        pictures, shards = sum(each[2] for each in self.splits), sum(each[1] for each in self.splits)
        return f"{count_of(pictures, 'picture')} in {count_of(shards, 'shard')}: {self.folder}"

    def details(self) -> str:
        """A line a split."""
        return self.text()

    def table_rows(self) -> Sequence[Mapping[str, Any]]:
        """A row a split."""
        return [dict(zip(("split", "shards", "pictures", "bytes"), each, strict=True)) for each in self.splits]

    def text(self) -> str:
        """For a person."""
        kind = "captioned picture" if self.captions else "picture"
        lines = [
            f"{split}: {count_of(pictures, kind)} in {count_of(shards, 'shard')}, {size / MEGABYTE:,.1f} MB"
            for split, shards, pictures, size in self.splits
        ]
        if self.unreadable:
            lines += [f"not readable: {name}: {reason}" for name, reason in self.unreadable[:5]]
            lines.append(
                f"{count_of(len(self.unreadable), 'picture')} {agree(len(self.unreadable), 'was', 'were')} "
                f"left out; all are named in {self.folder / INDEX}."
            )
        if not self.is_new:
            lines.insert(0, f"{self.folder} is finished: an earlier call wrote these shards, and nothing was done now.")
        recipe = ["--recipe", "captioner"] if self.captions else []
        command = ["vitrine", "train", str(self.folder), *recipe, "-o", f"{self.folder}-run"]
        return "\n".join([*lines, f"Next: {shlex.join(command)}"])


@writes_folder("shards")
def write_shards(
    reference: str,
    out: Path,
    *,
    megabytes: float = 128,
    seed: int = 0,
    val_fraction: float = 0.2,
    captions: bool | None = None,
    progress: Progress = no_progress,
) -> WrittenShards:
    """Write every split of some labelled or captioned data as shards, with an index.

    The order is drawn with ``seed``; pictures keep their bytes. A run that was stopped goes on after its last whole
    shard, and the result is the same. Where it had finished, nothing is done.

    Args:
        reference: the data; finite.
        out: a new folder, or one in which the same command was stopped.
        megabytes: of a shard, in millions of bytes; a larger picture has one to itself.
        seed: of the order, and of the split that is made where the data have none.
        val_fraction: see :func:`vitrine.data.sources.open_data`.
        captions: write captions, or classes; by default captions where the data have a file of them, unless that file
            has classes too.
        progress: called with pictures done, of how many.

    Raises:
        DataError: no data, endless data, no picture that can be read, or the folder holds something else.
        UsageError: ``megabytes`` is not above 0.
        EnvironmentMismatchError: webdataset is not installed.
    """
    if not megabytes > 0:
        raise UsageError(f"--size {megabytes:g}: give the size of a shard in megabytes, above 0.")
    require_webdataset()
    if captions is None:
        captions = is_captioned_data(reference)
    dataset = (open_captions if captions else open_data)(reference, seed=seed, val_fraction=val_fraction)
    dataset.require_one_label("shards hold")
    splits, labels = _finite(dataset), dataset.labels
    if not captions and not labels:
        raise DataError(f"{reference} has no labels, and shards are made for training.")
    most = round(megabytes * MEGABYTE)
    identity = fingerprint(splits, labels, most=most, seed=seed)
    if (out / INDEX).exists():
        return _read_finished(out, identity, dataset.notes, captions)
    writer = ShardsWriter(out, identity, most, seed)
    total, before = sum(map(len, splits.values())), 0
    for name, samples in splits.items():
        writer.write(name, samples, labels, lambda done, before=before: progress(before + done, total))  # type: ignore[misc]
        before += len(samples)
    if not any(each.shards for each in writer.splits.values()):
        raise DataError(f"No picture of {reference} can be read. Look at them with: vitrine check {reference}")
    facts = {"reference": reference, "layout": dataset.layout, "labels": list(labels), "notes": list(dataset.notes)}
    writer.finish({**facts, "captions": captions, "seed": seed})
    rows = {name: each.shards for name, each in writer.splits.items()}
    quarantine = [row for each in writer.splits.values() for row in each.quarantine]
    return WrittenShards(out, _count(rows), _reasons(quarantine), dataset.notes, captions)


def _count(splits: Mapping[str, Sequence[Mapping[str, Any]]]) -> tuple[tuple[str, int, int, int], ...]:
    return tuple(
        (name, len(rows), sum(row["pictures"] for row in rows), sum(row["bytes"] for row in rows))
        for name, rows in splits.items()
    )


def _reasons(quarantine: Sequence[Mapping[str, str]]) -> tuple[Unreadable, ...]:
    return tuple((row["name"], row["reason"]) for row in quarantine)


def _read_finished(out: Path, identity: str, notes: tuple[str, ...], captions: bool) -> WrittenShards:
    """The shards of a folder that has an index, where the same command wrote it and all of them are there.

    Raises:
        DataError: they are of other data or settings, or some are gone.
    """
    try:
        content = read_finished_index(out, identity)
        counts, reasons = _count(content["splits"]), _reasons(content["quarantine"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{out} holds shards already, of other data or settings. Choose another -o.") from error
    return WrittenShards(out, counts, reasons, notes, captions, is_new=False)


def _finite(dataset: Dataset) -> dict[str, tuple[Sample, ...]]:
    endless = [name for name, split in dataset.splits.items() if split.endless]
    if endless:
        raise DataError(
            f"{dataset.reference} ({dataset.layout}): its {endless[0]} pictures come in a stream. "
            "Give pictures in files."
        )
    return {name: tuple(split) for name, split in dataset.splits.items() if len(split)}
