"""The training pictures of a run, by their hashes, and which of some other pictures also stand among them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitrine.data.sample_index import SampleIndex, index_samples
from vitrine.data.samples import Sample
from vitrine.data.shards.dataset import find_shards
from vitrine.data.shards.stream import ShardSplit
from vitrine.data.training_copies import HashedPicture, TrainingCopy, find_training_copies
from vitrine.errors import DataError
from vitrine.results import Progress
from vitrine.runs.data import resolve_data_reference
from vitrine.runs.folder import RunFolder
from vitrine.runs.leakage import ACCURACY, Leakage, count_leakage


@dataclass(frozen=True)
class TrainingCopies:
    """Pictures that also stand in the training of a run.

    Attributes:
        copies: in the order of the pictures.
        near_checked: whether near copies were looked for; runs of older versions have no perceptual hashes.
    """

    copies: tuple[TrainingCopy, ...]
    near_checked: bool

    def leakage(self, is_right: Mapping[str, bool], *, split: str, measure: str = ACCURACY) -> Leakage:
        """What a model comes to without them; see :func:`vitrine.runs.leakage.count_leakage`."""
        return count_leakage(self.copies, is_right, split=split, measure=measure, near_checked=self.near_checked)


def copies_of_run(folder: Path | None, samples: Sequence[Sample], progress: Progress) -> TrainingCopies | None:
    """Those of some pictures that also stand in the training of a run; every picture is read for it.

    Args:
        folder: of a model.
        samples: the pictures.
        progress: called with pictures read, of how many.

    Returns:
        None where the folder is no run, or its training pictures are not known one by one: scenes without end, shards
        at an address, shards of other writers.

    Raises:
        RunError: data.json is damaged.
    """
    if folder is None or not RunFolder(folder).is_started or not (folder / "data.json").is_file():
        return None
    training = _training_pictures(RunFolder(folder))
    if training is None:
        return None
    pictures = hashed_pictures(samples, index_samples(samples, progress=progress))
    return TrainingCopies(find_training_copies(pictures, training), any(each.signature for each in training))


def hashed_pictures(samples: Sequence[Sample], index: SampleIndex) -> list[HashedPicture]:
    """The pictures that have been read, with their hashes."""
    return [
        HashedPicture(each.name, index.hashes[each.name], index.signatures.get(each.name))
        for each in samples
        if each.name in index.hashes
    ]


def _training_pictures(run: RunFolder) -> list[HashedPicture] | None:
    data = run.read_data()
    train = data["splits"].get("train")
    if isinstance(train, list):
        return [HashedPicture.from_row(row) for row in train]
    return _pictures_of_shards(run, data, str(train))


def _pictures_of_shards(run: RunFolder, data: Mapping[str, Any], description: str) -> list[HashedPicture] | None:
    """Of shards that a run was trained on, where they are still there and the same; else None."""
    if not description.startswith("shards"):
        return None
    try:
        index = find_shards(resolve_data_reference(run, str(data["reference"])))
        split = ShardSplit(index.splits.get("train", ()), len(data["labels"]) if "labels" in data else None)
        return split.hashed_pictures() if split.digest in description else None
    except DataError:
        return None
