"""The data of one training: opened, every picture read and hashed once, and streamed where they come in shards."""

from __future__ import annotations

import shutil
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vitrine.config import TransformSpec
from vitrine.config.recipe import invalid_value
from vitrine.data.batch_plan import BatchShard, SampleBatch
from vitrine.data.captions.datasets import open_captions
from vitrine.data.class_names import read_class_names, rename_classes
from vitrine.data.decoded_cache import DecodedPicture, bytes_for, folder_for, remove_unfinished
from vitrine.data.loader import PictureLoader, load_batch
from vitrine.data.perceptual_hash import BITS
from vitrine.data.sample_index import SampleIndex, index_samples
from vitrine.data.samples import Dataset, FiniteSplit, Sample, Split
from vitrine.data.shards.stream import DUMMY_SAMPLE, ShardSplit
from vitrine.data.sources import open_data
from vitrine.data.training_copies import (
    PERCEPTUAL_HASH,
    TrainingCopy,
    find_training_copies,
    signature_to_text,
)
from vitrine.data.transforms import short_side
from vitrine.errors import DataError, RunError
from vitrine.io.hub_cache import DECODED_FROM, note_use
from vitrine.results import MULTI_LABEL, Progress, count_of, none_readable
from vitrine.runs.leakage import TRAINING_COPIES
from vitrine.runs.training_pictures import hashed_pictures
from vitrine.train.distributed import ProcessGroup
from vitrine.train.events import Event, Note
from vitrine.train.settings import BatchSettings, DataSettings

_REQUIRED_SPLITS = ("train", "validation")


CLASS_NUMBERS = "class_numbers"
"""Key of data.json where classes that are bare numbers were given names: the names by number."""


@dataclass(frozen=True)
class TrainingData:
    """What a training reads: labelled pictures of a classifier, captioned ones of a captioner.

    Attributes:
        source: the data as they were opened, unreadable pictures included.
        train: the training split without unreadable pictures.
        validation: the validation pictures without unreadable ones.
        record: content of data.json: every file's name, label or captions and sha256; the quarantine; decisions.
        index: hashes and sizes of every picture that is not streamed.
        copies: validation pictures that also stand in training; None where that cannot be known.
    """

    source: Dataset
    train: Split
    validation: tuple[Sample, ...]
    record: dict[str, Any]
    index: SampleIndex
    copies: tuple[TrainingCopy, ...] | None = None

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences on the data, and on validation pictures that also stand in training."""
        return (*self.source.notes, *_copy_notes(self.copies or (), len(self.validation)))


def prepare_data(
    reference: str,
    settings: DataSettings,
    progress: Progress | None = None,
    processes: ProcessGroup | None = None,
    names: Path | None = None,
) -> TrainingData:
    """Open labelled data, read and hash every picture, and set the unreadable ones aside.

    Processes that train together read a part each. ``names`` is a file with names for classes that are bare numbers.

    Raises:
        DataError: no data, fewer than two classes, no training or validation pictures, none of the latter with a label,
            or more unreadable pictures than ``max_unreadable`` allows.
        RecipeError: a loss that is not for multi-label data.
    """
    processes = processes or ProcessGroup()
    source = processes.local_main_first(
        lambda: open_data(reference, seed=settings.seed, val_fraction=settings.val_fraction)
    )
    _require_splits(reference, source)
    source = _with_loss(source, settings.loss)
    if len(source.labels) < (1 if source.is_multi_label else 2):
        raise DataError(f"{reference} has {len(source.labels)} class; a classifier needs at least two.")
    numbers = {} if names is None else read_class_names(names, source.labels)
    source = rename_classes(source, numbers)
    head: dict[str, Any] = {"reference": reference, "layout": source.layout, "labels": list(source.labels)}
    head |= {CLASS_NUMBERS: numbers} if numbers else {}
    if not source.is_multi_label:
        target = _one_label
    else:
        head[MULTI_LABEL], target = True, _all_labels
    data = _set_unreadable_aside(source, head, target, settings, progress, processes)
    if source.is_multi_label and not any(sample.label_set for sample in data.validation):
        raise DataError(f"{reference}: no validation picture has a label, so no epoch could be told from another.")
    return data


def _one_label(sample: Sample) -> dict[str, Any]:
    return {"label": sample.label}


def _all_labels(sample: Sample) -> dict[str, Any]:
    return {"labels": list(sample.label_set)}


def _with_loss(source: Dataset, loss: str) -> Dataset:
    """The data as the recipe's loss reads them: by binary cross-entropy, a class is a label of its own."""
    if source.is_multi_label and loss == "cross_entropy":
        raise invalid_value("loss", loss, "auto or binary_cross_entropy, as these data are multi-label")
    if source.is_multi_label or loss != "binary_cross_entropy":
        return source
    if any(split.endless for split in source.splits.values()):
        raise invalid_value("loss", loss, "auto, as these training pictures come in a stream")
    note = "Every class is trained as a label of its own (loss = binary_cross_entropy): the model is multi-label."
    return replace(source, is_multi_label=True, notes=(*source.notes, note))


def prepare_captions(
    reference: str, settings: DataSettings, progress: Progress | None = None, processes: ProcessGroup | None = None
) -> TrainingData:
    """Open captioned data, read and hash every picture, and set the unreadable ones aside.

    Processes that train together read a part each.

    Raises:
        DataError: no data, no training or validation pictures, or more unreadable pictures than ``max_unreadable``
            allows.
    """
    processes = processes or ProcessGroup()
    source = processes.local_main_first(
        lambda: open_captions(reference, seed=settings.seed, val_fraction=settings.val_fraction)
    )
    _require_splits(reference, source)
    head = {"reference": reference, "layout": source.layout}

    def target(sample: Sample) -> dict[str, Any]:
        return {"captions": list(sample.captions)}

    return _set_unreadable_aside(source, head, target, settings, progress, processes)


def _require_splits(reference: str, source: Dataset) -> None:
    for name in _REQUIRED_SPLITS:
        if name not in source.splits or (not source.splits[name].endless and not len(source.splits[name])):
            raise DataError(f"{reference} has no {name} pictures, so nothing can be trained on it ({source.layout}).")


def _set_unreadable_aside(
    source: Dataset,
    head: dict[str, Any],
    target: Callable[[Sample], dict[str, Any]],
    settings: DataSettings,
    progress: Progress | None,
    processes: ProcessGroup,
) -> TrainingData:
    """Read all pictures that are not streamed; ``head`` begins data.json, ``target`` is what it says of a sample."""
    finite = {name: tuple(source.splits[name]) for name in _REQUIRED_SPLITS if not source.splits[name].endless}
    index = _index_pictures(head["reference"], finite, settings, progress, processes)
    record, readable = _record(source, finite, index, target)
    train = FiniteSplit(readable["train"]) if "train" in readable else source.splits["train"]
    copies = _find_copies(source.splits["train"], readable, index)
    record[TRAINING_COPIES] = None if copies is None else [each.to_dict() for each in copies]
    return TrainingData(source, train, readable["validation"], {**head, **record}, index, copies)


def _find_copies(
    train: Split, readable: Mapping[str, Sequence[Sample]], index: SampleIndex
) -> tuple[TrainingCopy, ...] | None:
    """The validation pictures that also stand in training; None where training pictures are not known one by one."""
    shards = shards_of(train)
    training = shards.hashed_pictures() if shards is not None else None
    if "train" in readable:
        training = hashed_pictures(readable["train"], index)
    if training is None:
        return None
    return find_training_copies(hashed_pictures(readable["validation"], index), training)


def _copy_notes(copies: Sequence[TrainingCopy], validation: int) -> Iterator[str]:
    """What is said of copies before a training: its accuracy without them is said after it."""
    exact = sum(each.is_exact for each in copies)
    near = [each for each in copies if not each.is_exact]
    if exact:
        example = next(f"{each.name} = {each.original}" for each in copies if each.is_exact)
        yield (
            f"{exact:,} of the {count_of(validation, 'validation picture')} also {'stands' if exact == 1 else 'stand'} "
            f"in training, byte for byte (for example {example}): what was learnt by heart may count as right."
        )
    if near:
        nearest = min(near, key=lambda each: each.distance or 0)
        yield (
            f"{len(near):,} of the {count_of(validation, 'validation picture')} "
            f"{'looks like a copy' if len(near) == 1 else 'look like copies'} of training pictures (for example "
            f"{nearest.name} ~ {nearest.original}, distance {nearest.distance} of {BITS}): a suspicion."
        )
    if copies:
        yield "The result without them will stand beside the result. vitrine check names all of them."


def _index_pictures(
    reference: str,
    finite: Mapping[str, Sequence[Sample]],
    settings: DataSettings,
    progress: Progress | None,
    processes: ProcessGroup,
) -> SampleIndex:
    samples = tuple(sample for split in finite.values() for sample in split)
    part = processes.batch_shard().contiguous(len(samples))
    own_index = index_samples(samples[part.start : part.stop], workers=settings.workers, progress=progress)
    index = SampleIndex.concatenate(processes.all_gather(own_index))
    if len(index.unreadable) > settings.max_unreadable * len(samples):
        name, reason = index.unreadable[0]
        raise DataError(
            f"{len(index.unreadable)} of {count_of(len(samples), 'picture')} cannot be read, for example "
            f"{name}: {reason}\n"
            f"Look at them with: vitrine check {reference}; to train all the same: --set max_unreadable=1"
        )
    return index


def _record(
    source: Dataset,
    finite: Mapping[str, Sequence[Sample]],
    index: SampleIndex,
    row: Callable[[Sample], dict[str, Any]],
) -> tuple[dict[str, Any], dict[str, tuple[Sample, ...]]]:
    """What data.json says of the splits, and their readable pictures."""
    reasons = dict(index.unreadable)
    record: dict[str, Any] = {"notes": list(source.notes), "quarantine": [], "splits": {}}
    readable: dict[str, tuple[Sample, ...]] = {}
    for name, samples in finite.items():
        readable[name] = tuple(s for s in samples if s.name not in reasons)
        record["splits"][name] = [{"name": s.name, **row(s), "sha256": index.hashes[s.name]} for s in readable[name]]
        if name == "train":  # by which copies among other pictures can be told later
            for each in record["splits"][name]:
                each[PERCEPTUAL_HASH] = signature_to_text(index.signatures.get(each["name"]))
        record["quarantine"] += [
            {"split": name, "name": s.name, "reason": reasons[s.name]} for s in samples if s.name in reasons
        ]
    train = source.splits["train"]
    if train.endless:  # not listed one by one
        shards = shards_of(train)
        record["splits"]["train"] = (
            "endless" if shards is None else f"shards of {count_of(len(shards), 'picture')} ({shards.digest})"
        )
    return record, readable


def shards_of(split: Split) -> ShardSplit | None:
    """The shards that a split streams; None where it does not."""
    return split if isinstance(split, ShardSplit) else None


def epoch_pictures(split: Split, epoch_size: int) -> int:
    """Training pictures in one pass: ``epoch_size`` of an endless stream, else all."""
    return epoch_size if split.endless and shards_of(split) is None else len(split)


def require_same_data(then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse to resume on data that differ from the ones that training began with.

    Raises:
        RunError: naming the first file that is new, gone or changed.
    """
    if then.get("labels") != now.get("labels"):
        raise RunError(f"The classes changed since the run began: {then.get('labels')} then, {now.get('labels')} now.")
    for split in then["splits"]:
        sides = tuple(_without_perceptual_hashes(data["splits"].get(split, [])) for data in (then, now))
        if sides[0] == sides[1]:
            continue
        if any(isinstance(side, str) for side in sides):  # an endless source, or shards
            before, after = (side if isinstance(side, str) else f"{count_of(len(side), 'file')}" for side in sides)
            raise RunError(f"The {split} data changed since the run began: {before} then, {after} now.")
        old, new = ({row["name"]: row for row in side} for side in sides)
        names = sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
        raise RunError(
            f"The {split} data changed since the run began: {names[0]} is new, gone or different "
            f"({count_of(len(names), 'file')} in all).\nPut the old data back, or train a new run."
        )


def _without_perceptual_hashes(rows: Any) -> Any:
    """A split's rows as they are compared: a picture is known by its bytes, whatever library looked at it."""
    if isinstance(rows, str):
        return rows
    return [{key: value for key, value in row.items() if key != PERCEPTUAL_HASH} for row in rows]


def names_of(samples: Sequence[Sample], indices: Sequence[int]) -> list[str]:
    """Names of some samples."""
    return [samples[i].name for i in indices]


_MAX_NAMED = 1000  # unreadable pictures whose names and reasons are kept; all are counted


@dataclass(frozen=True)
class _StreamedPicture:
    """Name and captions of a picture that was sent to be loaded; its position in the epoch finds it again."""

    name: str
    captions: Sequence[str]


class ShardedBatches:
    """The batches of a training on shards, with the names and captions of the latest ones and a count of what could not
    be read.

    Args:
        split: the training pictures.
        settings: batch size, seed, shuffle buffer, and how many pictures may be unreadable.
        shard: which part of every batch this process loads.
        report: called with a :class:`~vitrine.train.events.Note` on pictures that could not be read.
    """

    def __init__(
        self,
        split: ShardSplit,
        settings: BatchSettings,
        shard: BatchShard,
        report: Callable[[Event], None] = lambda _: None,
    ) -> None:
        self._split, self._settings, self._shard, self._report = split, settings, shard, report
        self._recent: deque[dict[int, _StreamedPicture]] = deque(maxlen=settings.accumulate)
        self._unreadable: list[tuple[str, str]] = []
        self._count = 0

    def epoch(self, loader: PictureLoader, epoch: int, start: int) -> Iterator[Any]:
        """This process's parts of an epoch's batches, from a batch number on.

        Raises:
            DataError: a shard is gone, or nothing of a whole batch can be read.
        """
        settings, pictures = self._settings, dict[int, _StreamedPicture]()

        def parts() -> Iterator[SampleBatch]:
            for part in self._split.batches(
                batch_size=settings.batch_size,
                seed=settings.seed,
                epoch=epoch,
                buffer=settings.shuffle_buffer,
                start_batch=start,
                batch_shard=self._shard,
            ):
                for position, sample in zip(part.indices, part.samples, strict=True):
                    pictures[position] = _StreamedPicture(sample.name, sample.captions)
                yield part

        for batch in loader.stream(parts(), seed=settings.seed, epoch=epoch):
            positions = [*batch.indices_B.tolist(), *(position for position, _ in batch.unreadable)]
            self._recent.append({position: pictures.pop(position) for position in positions})
            for position, reason in batch.unreadable:
                self._count_unreadable(self._recent[-1][position].name, reason)
            if len(batch):
                yield batch
            elif self._shard.world_size > 1:
                yield self._dummy_batch(loader, positions[0])
            else:
                raise none_readable(self._unreadable[-1:], len(positions), of=" of a batch")

    def _dummy_batch(self, loader: PictureLoader, position: int) -> Any:
        """A black picture, so that this process takes part in the step in which it could read nothing."""
        self._recent[-1][position] = _StreamedPicture(DUMMY_SAMPLE.name, DUMMY_SAMPLE.captions)
        return replace(load_batch((DUMMY_SAMPLE,), (position,), loader.transform, seed=0, epoch=0), is_dummy=True)

    def _count_unreadable(self, name: str, reason: str) -> None:
        self._count += 1
        if len(self._unreadable) < _MAX_NAMED:
            self._unreadable.append((name, reason))

    def report_unreadable(self, processes: ProcessGroup) -> None:
        """Report which pictures could not be read since the last call. A collective: every process calls it.

        Raises:
            DataError: more of them than ``max_unreadable`` allows.
        """
        parts = processes.all_gather((self._count, self._unreadable))
        self._count, self._unreadable = 0, []
        count, total = sum(part[0] for part in parts), len(self._split)
        rows = [row for part in parts for row in part[1]]
        if not count:
            return
        for name, reason in rows[:5]:
            self._report(Note(f"not readable: {name}: {reason}"))
        self._report(Note(f"{count:,} of {count_of(total, 'picture')} could not be read in this epoch."))
        if count > self._settings.max_unreadable * total:
            name, reason = rows[0]
            raise DataError(
                f"{count:,} of {count_of(total, 'picture')} cannot be read, for example {name}: {reason}\n"
                "Make the shards anew with vitrine shards, or --set max_unreadable=1 in a new run."
            )

    def names(self, indices: Sequence[int]) -> list[str]:
        """File names of pictures of the last ``accumulate`` batches, by their positions in the epoch."""
        names_by_position = {position: each.name for batch in self._recent for position, each in batch.items()}
        return [names_by_position.get(position, "?") for position in indices]

    def captions(self, indices: Sequence[int]) -> list[Sequence[str]]:
        """Captions of pictures of the latest batch, by their positions in the epoch."""
        return [self._recent[-1][position].captions for position in indices]


_GB = 1e9


def use_decoded_cache(
    data: TrainingData, transforms: TransformSpec, size: tuple[int, int], max_gb: float
) -> tuple[TrainingData, tuple[str, ...]]:
    """The data with training pictures that are decoded once and then read from the cache, and notes on it.

    Validation pictures stay as they are: what a model is measured on is never reduced.

    Args:
        data: what a training reads.
        transforms: of the training, by which the size of cached pictures is chosen.
        size: rows and columns of the model's input, in pixels.
        max_gb: gigabytes that the cached pictures may take; 0 switches the cache off.
    """
    if not max_gb:
        return data, ()
    if data.train.endless:
        return data, ("decoded_cache: training pictures come in a stream, of which none is kept.",)
    samples, index, short = tuple(data.train), data.index, short_side(transforms, max(size))
    if any(each.name not in index.hashes or each.name not in index.sizes for each in samples):
        return data, ("decoded_cache: training pictures are not files that were hashed, so they are not kept.",)
    size_bytes = bytes_for((index.sizes[each.name] for each in samples), short)
    if size_bytes > max_gb * _GB:
        excess = (
            f"{count_of(len(samples), 'decoded picture')} would take {size_bytes / _GB:.3g} GB, more than {max_gb:g}"
        )
        return data, (f"decoded_cache: {excess}; every epoch decodes them.",)
    folder = folder_for(short)
    cached_samples = [_with_cache(each, index.hashes[each.name], folder, short) for each in samples]
    notes = [
        f"Decoded pictures are kept in {folder}: {size_bytes / _GB:.3g} GB, short sides up to {short} px where reduced."
    ]
    notes += _prepare_cache_folder(folder, size_bytes)
    return replace(data, train=FiniteSplit(cached_samples)), tuple(notes)


def _with_cache(sample: Sample, sha256: str, folder: Path, short: int) -> Sample:
    return replace(sample, picture=DecodedPicture(sample.picture, sha256, folder, short))


def _prepare_cache_folder(folder: Path, size_bytes: int) -> list[str]:
    """Make the folder and remove unfinished files; a note where nothing, or not everything, can be stored there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        remove_unfinished(folder)
        note_use(folder, DECODED_FROM)
        used = sum(path.stat().st_size for path in folder.glob("*/*.rgbx"))
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return [f"Nothing can be kept there ({error.strerror or error}): pictures are decoded in every epoch."]
    if free < size_bytes - used:
        return [f"Only {free / _GB:.3g} GB are free there: what finds no room is decoded in every epoch."]
    return []
