"""The data of one training: opened, read once, unreadable pictures set aside, all of it written down."""

from __future__ import annotations

import shutil
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vitrine.config import Recipe
from vitrine.data.captions.datasets import open_captions
from vitrine.data.check import SampleIndex, index_samples
from vitrine.data.decoded_cache import DecodedPicture, bytes_for, folder_for, remove_unfinished, short_side
from vitrine.data.loader import BatchShard, PictureLoader, load_batch
from vitrine.data.samples import Dataset, FiniteSplit, Sample, Split
from vitrine.data.shards.stream import DUMMY_SAMPLE, ShardSplit
from vitrine.data.sources import open_data
from vitrine.errors import DataError, RunError
from vitrine.io.hub_cache import DECODED_FROM, note_use
from vitrine.results import Progress, none_readable
from vitrine.train.distributed import ProcessGroup
from vitrine.train.events import Event, Note

_NEEDED = ("train", "validation")


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

    found: Dataset
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

    found: Dataset
    train: Split
    validation: Split
    record: dict[str, Any]


def prepare_data(
    reference: str, recipe: Recipe, progress: Progress | None = None, processes: ProcessGroup | None = None
) -> TrainingData:
    """Open labelled data, read and hash every picture, and set the unreadable ones aside.

    ``processes`` that train together read a part each.

    Raises:
        DataError: no data, fewer than two classes, no training or validation pictures, or more unreadable pictures
            than the recipe allows.
    """
    processes = processes or ProcessGroup()
    found = processes.local_main_first(lambda: open_data(reference, seed=recipe.seed, val_fraction=recipe.val_fraction))
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
    reference: str, recipe: Recipe, progress: Progress | None = None, processes: ProcessGroup | None = None
) -> CaptionTrainingData:
    """Open captioned data, read and hash every picture, and set the unreadable ones aside.

    ``processes`` that train together read a part each.

    Raises:
        DataError: no data, no training or validation pictures, or more unreadable pictures than the recipe allows.
    """
    processes = processes or ProcessGroup()
    found = processes.local_main_first(
        lambda: open_captions(reference, seed=recipe.seed, val_fraction=recipe.val_fraction)
    )
    _require_splits(reference, found)
    finite = {name: tuple(found.splits[name]) for name in _NEEDED if not found.splits[name].endless}
    index = _read(reference, finite, recipe, progress, processes)
    record, readable = _record(found, finite, index, lambda sample: {"captions": list(sample.captions)})
    record = {"reference": reference, "layout": found.layout, **record}
    train = found.splits["train"] if "train" not in readable else FiniteSplit(readable["train"])
    return CaptionTrainingData(found, train, FiniteSplit(readable["validation"]), record)


def _require_splits(reference: str, found: Dataset) -> None:
    for name in _NEEDED:
        if name not in found.splits or (not found.splits[name].endless and not len(found.splits[name])):
            raise DataError(f"{reference} has no {name} pictures, so nothing can be trained on it ({found.layout}).")


def _read(
    reference: str,
    finite: Mapping[str, Sequence[Sample]],
    recipe: Recipe,
    progress: Progress | None,
    processes: ProcessGroup,
) -> SampleIndex:
    everything = tuple(sample for samples in finite.values() for sample in samples)
    part = processes.batch_shard().contiguous(len(everything))
    own = index_samples(everything[part.start : part.stop], workers=recipe.workers, progress=progress)
    index = SampleIndex.concatenate(processes.all_gather(own))
    if len(index.unreadable) > recipe.max_unreadable * len(everything):
        name, reason = index.unreadable[0]
        raise DataError(
            f"{len(index.unreadable)} of {len(everything)} pictures cannot be read, for example {name}: {reason}\n"
            f"Look at them with: vitrine check {reference}; to train all the same: --set max_unreadable=1"
        )
    return index


def _record(
    found: Dataset,
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


def shards_of(split: Split) -> ShardSplit | None:
    """The shards that a split streams, if it does."""
    return split if isinstance(split, ShardSplit) else None


def epoch_pictures(split: Split, recipe: Recipe) -> int:
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


_MOST_NAMED = 1000  # unreadable pictures; all are counted


@dataclass(frozen=True)
class _Told:
    """What is remembered of a picture that went to be loaded."""

    name: str
    captions: Sequence[str]


class ShardedBatches:
    """The batches of a training that reads shards, whatever its loader makes of pictures.

    Args:
        split: the training pictures.
        recipe: batch size, seed, buffer, and how many pictures may be unreadable.
        share: of this process.
        report: is told which pictures could not be read.
    """

    def __init__(
        self, split: ShardSplit, recipe: Recipe, share: BatchShard, report: Callable[[Event], None] = lambda _: None
    ) -> None:
        self._split, self._recipe, self._share, self._report = split, recipe, share, report
        self._recent: deque[dict[int, _Told]] = deque(maxlen=recipe.accumulate)
        self._unreadable: list[tuple[str, str]] = []
        self._count = 0

    def epoch(self, loader: PictureLoader, epoch: int, start: int) -> Iterator[Any]:
        """This process's parts of an epoch's batches, from a batch number on.

        Raises:
            DataError: a shard is gone, or nothing of a whole batch can be read.
        """
        recipe, told, is_dummy = self._recipe, dict[int, _Told](), self._share.world_size > 1

        def parts() -> Iterator[tuple[tuple[int, ...], tuple[Sample, ...], bool]]:
            for part in self._split.batches(
                batch_size=recipe.batch_size,
                seed=recipe.seed,
                epoch=epoch,
                buffer=recipe.shuffle_buffer,
                start_batch=start,
                batch_shard=self._share,
            ):
                for place, sample in zip(part.indices, part.samples, strict=True):
                    told[place] = _Told(sample.name, sample.captions)
                yield part.indices, part.samples, part.is_dummy

        for batch in loader.stream(parts(), seed=recipe.seed, epoch=epoch):
            places = [*batch.indices_B.tolist(), *(place for place, _ in batch.unreadable)]
            self._recent.append({place: told.pop(place) for place in places})
            for place, reason in batch.unreadable:
                self._tell(self._recent[-1][place].name, reason)
            if len(batch):
                yield batch
            elif is_dummy:
                yield self._stand_in(loader, places[0])
            else:
                raise none_readable(self._unreadable[-1:], len(places), "pictures of a batch")

    def _stand_in(self, loader: PictureLoader, place: int) -> Any:
        self._recent[-1][place] = _Told(DUMMY_SAMPLE.name, DUMMY_SAMPLE.captions)
        return replace(load_batch((DUMMY_SAMPLE,), (place,), loader.transform, seed=0, epoch=0), is_dummy=True)

    def _tell(self, name: str, reason: str) -> None:
        self._count += 1
        if len(self._unreadable) < _MOST_NAMED:
            self._unreadable.append((name, reason))

    def report_unreadable(self, processes: ProcessGroup) -> None:
        """Say which pictures could not be used since this was called last; every process calls it.

        Raises:
            DataError: more of them than the recipe allows.
        """
        parts = processes.all_gather((self._count, self._unreadable))
        self._count, self._unreadable = 0, []
        count, named, total = (
            sum(part[0] for part in parts),
            [row for part in parts for row in part[1]],
            len(self._split),
        )
        if not count:
            return
        for name, reason in named[:5]:
            self._report(Note(f"not readable: {name}: {reason}"))
        self._report(Note(f"{count:,} of {total:,} pictures could not be read in this epoch."))
        if count > self._recipe.max_unreadable * total:
            name, reason = named[0]
            raise DataError(
                f"{count:,} of {total:,} pictures cannot be read, for example {name}: {reason}\n"
                "Make the shards anew with vitrine shards, or --set max_unreadable=1 in a new run."
            )

    def names(self, indices: Sequence[int]) -> list[str]:
        """File names of pictures of the last ``accumulate`` batches, by their places in the epoch."""
        known = {place: each.name for batch in self._recent for place, each in batch.items()}
        return [known.get(place, "?") for place in indices]

    def captions(self, indices: Sequence[int]) -> list[Sequence[str]]:
        """Captions of pictures of the batch that came last."""
        return [self._recent[-1][place].captions for place in indices]


_GB = 1e9


def use_decoded_cache(data: TrainingData, recipe: Recipe, size: int) -> tuple[TrainingData, tuple[str, ...]]:
    """The data with training pictures that are decoded once, and a sentence on it.

    ValidationResult pictures stay as they are: what a model is measured on is never reduced.

    Args:
        data: what a training reads.
        recipe: ``decoded_cache`` and ``transforms`` are read.
        size: side of the model's input, pixels.
    """
    if not recipe.decoded_cache:
        return data, ()
    if data.train.endless:
        return data, ("decoded_cache: training pictures come in a stream, of which none is kept.",)
    samples, index, short = tuple(data.train), data.index, short_side(recipe.transforms, size)
    if any(each.name not in index.hashes or each.name not in index.sizes for each in samples):
        return data, ("decoded_cache: training pictures are not files that were hashed, so they are not kept.",)
    needed = bytes_for((index.sizes[each.name] for each in samples), short)
    if needed > recipe.decoded_cache * _GB:
        told = f"{len(samples):,} decoded pictures would take {needed / _GB:.3g} GB, more than {recipe.decoded_cache:g}"
        return data, (f"decoded_cache: {told}; every epoch decodes them.",)
    folder = folder_for(short)
    kept = [_kept(each, index.hashes[each.name], folder, short) for each in samples]
    notes = [
        f"Decoded pictures are kept in {folder}: {needed / _GB:.3g} GB, short sides up to {short} px where reduced."
    ]
    notes += _begun(folder, needed)
    return replace(data, train=FiniteSplit(kept)), tuple(notes)


def _kept(sample: Sample, sha256: str, folder: Path, short: int) -> Sample:
    return replace(sample, picture=DecodedPicture(sample.picture, sha256, folder, short))


def _begun(folder: Path, needed: int) -> list[str]:
    """Make the folder, tidy it up, and look whether there is room; a training goes on without it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        remove_unfinished(folder)
        note_use(folder, DECODED_FROM)
        there = sum(path.stat().st_size for path in folder.glob("*/*.rgbx"))
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return [f"Nothing can be kept there ({error.strerror or error}): pictures are decoded in every epoch."]
    if free < needed - there:
        return [f"Only {free / _GB:.3g} GB are free there: what finds no room is decoded in every epoch."]
    return []
