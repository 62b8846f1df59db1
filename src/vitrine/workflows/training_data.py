"""The data of one training: opened, read once, unreadable pictures set aside, all of it written down."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vitrine.data.captions import CaptionData, CaptionSplit, open_captions
from vitrine.data.index import SampleIndex, index_samples
from vitrine.data.samples import FiniteSplit, LabelledData, Sample, Split
from vitrine.data.shards.stream import ShardSplit
from vitrine.data.sources import open_data
from vitrine.errors import DataError, RunError
from vitrine.recipes import Recipe
from vitrine.train.processes import Processes

_NEEDED = ("train", "validation")

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class TrainingData:
    """What a classifier's training reads.

    Attributes:
        found: the data as they were found.
        train: the training split without unreadable pictures.
        validation: the validation pictures without unreadable ones.
        record: content of data.json: every file's name, label and sha256; the quarantine; decisions.
        index: hashes and sizes of every picture that is no stream's.
    """

    found: LabelledData
    train: Split
    validation: tuple[Sample, ...]
    record: dict[str, Any]
    index: SampleIndex


@dataclass(frozen=True)
class CaptionTrainingData:
    """What a captioner's training reads.

    Attributes:
        found: the data as they were found.
        train: the training pictures with their captions, without unreadable ones.
        validation: likewise.
        record: content of data.json: every file's name, captions and sha256; the quarantine; decisions.
    """

    found: CaptionData
    train: CaptionSplit
    validation: CaptionSplit
    record: dict[str, Any]


def prepare_data(
    reference: str, recipe: Recipe, progress: Progress | None = None, processes: Processes | None = None
) -> TrainingData:
    """Open labelled data, read and hash every picture, and set the unreadable ones aside.

    ``processes`` that train together read a part each.

    Raises:
        DataError: no data, fewer than two classes, no training or validation pictures, or more unreadable pictures
            than the recipe allows.
    """
    processes = processes or Processes()
    found = processes.one_goes_first(lambda: open_data(reference, seed=recipe.seed, val_fraction=recipe.val_fraction))
    _require_splits(reference, found)
    if len(found.labels) < 2:
        raise DataError(f"{reference} has {len(found.labels)} class; a classifier needs at least two.")
    finite = {name: tuple(found.splits[name]) for name in _NEEDED if not found.splits[name].endless}
    index = _read(reference, finite, recipe, progress, processes)
    record, readable = _record(found, finite, index, lambda sample: {"label": sample.label})
    record = {"reference": reference, "layout": found.layout, "labels": list(found.labels), **record}
    endless = found.splits["train"].endless
    train = found.splits["train"] if endless else FiniteSplit(readable["train"])
    return TrainingData(found, train, readable["validation"], record, index)


def prepare_captions(
    reference: str, recipe: Recipe, progress: Progress | None = None, processes: Processes | None = None
) -> CaptionTrainingData:
    """Open captioned data, read and hash every picture, and set the unreadable ones aside.

    ``processes`` that train together read a part each.

    Raises:
        DataError: no data, no training or validation pictures, or more unreadable pictures than the recipe allows.
    """
    processes = processes or Processes()
    found = processes.one_goes_first(
        lambda: open_captions(reference, seed=recipe.seed, val_fraction=recipe.val_fraction)
    )
    _require_splits(reference, found)
    splits = {name: found.splits[name] for name in _NEEDED if not found.splits[name].endless}
    finite = {name: tuple(each.sample for each in split) for name, split in splits.items()}
    index = _read(reference, finite, recipe, progress, processes)
    record, readable = _record(found, finite, index, lambda sample: {"captions": list(sample.captions)})
    splits |= {name: CaptionSplit(FiniteSplit(samples), name) for name, samples in readable.items()}
    record = {"reference": reference, "layout": found.layout, **record}
    return CaptionTrainingData(found, splits.get("train", found.splits["train"]), splits["validation"], record)


def _require_splits(reference: str, found: LabelledData | CaptionData) -> None:
    for name in _NEEDED:
        if name not in found.splits or (not found.splits[name].endless and not len(found.splits[name])):
            raise DataError(f"{reference} has no {name} pictures, so nothing can be trained on it ({found.layout}).")


def _read(
    reference: str,
    finite: Mapping[str, Sequence[Sample]],
    recipe: Recipe,
    progress: Progress | None,
    processes: Processes,
) -> SampleIndex:
    everything = tuple(sample for samples in finite.values() for sample in samples)
    part = processes.share().part(len(everything))
    own = index_samples(everything[part.start : part.stop], workers=recipe.workers, progress=progress)
    index = SampleIndex.joined(processes.gathered(own))
    if len(index.unreadable) > recipe.max_unreadable * len(everything):
        name, reason = index.unreadable[0]
        raise DataError(
            f"{len(index.unreadable)} of {len(everything)} pictures cannot be read, for example {name}: {reason}\n"
            f"Look at them with: vitrine check {reference}; to train all the same: --set max_unreadable=1"
        )
    return index


def _record(
    found: LabelledData | CaptionData,
    finite: Mapping[str, Sequence[Sample]],
    index: SampleIndex,
    row: Callable[[Sample], dict[str, Any]],
) -> tuple[dict[str, Any], dict[str, tuple[Sample, ...]]]:
    """What data.json says of the splits, and their readable pictures."""
    reasons = dict(index.unreadable)
    record: dict[str, Any] = {"notes": list(found.notes), "quarantine": [], "splits": {}}
    readable: dict[str, tuple[Sample, ...]] = {}
    for name, samples in finite.items():
        readable[name] = tuple(s for s in samples if s.name not in reasons)
        record["splits"][name] = [{"name": s.name, **row(s), "sha256": index.hashes[s.name]} for s in readable[name]]
        record["quarantine"] += [
            {"split": name, "name": s.name, "reason": reasons[s.name]} for s in samples if s.name in reasons
        ]
    train = found.splits["train"]
    if train.endless:  # not listed one by one
        shards = shards_of(train)
        told = "endless" if shards is None else f"shards of {len(shards):,} pictures ({shards.digest})"
        record["splits"]["train"] = told
    return record, readable


def shards_of(split: Split | CaptionSplit) -> ShardSplit | None:
    """The shards that a split streams, if it does."""
    pictures = split.pictures if isinstance(split, CaptionSplit) else split
    return pictures if isinstance(pictures, ShardSplit) else None


def epoch_pictures(split: Split | CaptionSplit, recipe: Recipe) -> int:
    """Training pictures in one pass."""
    return recipe.epoch_size if split.endless and shards_of(split) is None else len(split)


def require_same_data(then: dict[str, Any], now: dict[str, Any]) -> None:
    """Refuse to resume on data that differ from the ones that training began with.

    Raises:
        RunError: naming the first file that is new, gone or changed.
    """
    if then.get("labels") != now.get("labels"):
        raise RunError(f"The classes changed since the run began: {then.get('labels')} then, {now.get('labels')} now.")
    for split, rows in then["splits"].items():
        if rows == now["splits"].get(split):
            continue
        sides = (rows, now["splits"].get(split, []))
        if any(isinstance(side, str) for side in sides):  # an endless source, or shards
            told = [side if isinstance(side, str) else f"{len(side):,} files" for side in sides]
            raise RunError(f"The {split} data changed since the run began: {told[0]} then, {told[1]} now.")
        before, after = ({row["name"]: row for row in side} for side in sides)
        changed = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
        raise RunError(
            f"The {split} data changed since the run began: {changed[0]} is new, gone or different "
            f"({len(changed)} files in all).\nPut the old data back, or train a new run."
        )


def names_of(samples: Sequence[Sample], indices: Sequence[int]) -> list[str]:
    """Names of some samples."""
    return [samples[i].name for i in indices]
