"""``vitrine shards``: labelled or captioned pictures written as webdataset shards."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vitrine.data.captions.datasets import is_captioned_data, open_captions
from vitrine.data.samples import Dataset, Sample
from vitrine.data.shards.index import INDEX
from vitrine.data.shards.writer import ShardsWriter, fingerprint, require_webdataset
from vitrine.data.sources import open_data
from vitrine.errors import DataError, UsageError
from vitrine.results import Progress, no_progress

MEGABYTE = 1_000_000


@dataclass(frozen=True)
class WrittenShards:
    """What ``vitrine shards`` made.

    Attributes:
        folder: where.
        splits: (split, shards, pictures, bytes).
        unreadable: (name, reason) of pictures that are in no shard.
        notes: sentences on the data.
        captions: whether pictures have captions, and no classes.
    """

    folder: Path
    splits: tuple[tuple[str, int, int, int], ...]
    unreadable: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    captions: bool = False

    def text(self) -> str:
        """For a person."""
        kind = "captioned pictures" if self.captions else "pictures"
        lines = [
            f"{split}: {pictures:,} {kind} in {shards:,} shards, {size / MEGABYTE:,.1f} MB"
            for split, shards, pictures, size in self.splits
        ]
        if self.unreadable:
            lines += [f"not readable: {name}: {reason}" for name, reason in self.unreadable[:5]]
            lines.append(f"{len(self.unreadable):,} pictures were left out; all are named in {self.folder / INDEX}.")
        recipe = "captioner" if self.captions else "NAME"
        return "\n".join([*lines, f"Next: vitrine train {self.folder} --recipe {recipe} -o RUN"])


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
    shard, and the result is the same.

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
    if (out / INDEX).exists():
        raise DataError(f"{out} holds shards already. Choose another -o.")
    if captions is None:
        captions = is_captioned_data(reference)
    dataset = (open_captions if captions else open_data)(reference, seed=seed, val_fraction=val_fraction)
    dataset.require_one_label("shards hold")
    splits, labels = _finite(dataset), dataset.labels
    if not captions and not labels:
        raise DataError(f"{reference} has no labels, and shards are made for training.")
    most = round(megabytes * MEGABYTE)
    out.mkdir(parents=True, exist_ok=True)
    writer = ShardsWriter(out, fingerprint(splits, labels, most=most, seed=seed), most, seed)
    total, before = sum(map(len, splits.values())), 0
    for name, samples in splits.items():
        writer.write(name, samples, labels, lambda done, before=before: progress(before + done, total))  # type: ignore[misc]
        before += len(samples)
    if not any(each.shards for each in writer.splits.values()):
        raise DataError(f"No picture of {reference} can be read. Look at them with: vitrine check {reference}")
    facts = {"reference": reference, "layout": dataset.layout, "labels": list(labels), "notes": list(dataset.notes)}
    writer.finish({**facts, "captions": captions, "seed": seed})
    return WrittenShards(
        out,
        tuple(
            (name, len(each.shards), sum(s["pictures"] for s in each.shards), sum(s["bytes"] for s in each.shards))
            for name, each in writer.splits.items()
        ),
        tuple((row["name"], row["reason"]) for each in writer.splits.values() for row in each.quarantine),
        dataset.notes,
        captions,
    )


def _finite(dataset: Dataset) -> dict[str, tuple[Sample, ...]]:
    endless = [name for name, split in dataset.splits.items() if split.endless]
    if endless:
        raise DataError(
            f"{dataset.reference} ({dataset.layout}): its {endless[0]} pictures come in a stream. "
            "Give pictures in files."
        )
    return {name: tuple(split) for name, split in dataset.splits.items() if len(split)}
