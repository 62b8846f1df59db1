"""Counts of captions for ``vitrine check``: how many a picture, how long, and which pictures have none."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from vitrine.data.captions.datasets import CaptionedDataset
from vitrine.data.decode import FilePicture
from vitrine.data.image_folder import entries, is_folder, is_picture
from vitrine.data.samples import Dataset, Sample, printable


@dataclass(frozen=True)
class Range:
    """Smallest, median and largest of some counts."""

    smallest: int
    median: float
    largest: int


@dataclass(frozen=True)
class CaptionCounts:
    """The captions of a data set.

    Attributes:
        captions: how many there are.
        per_picture: of each picture; None where there are no pictures that can be counted.
        words: of each caption, as blanks separate them.
        different_words: how many there are, in small letters and without punctuation around them.
        absent: pictures that have captions and do not exist, by name.
        without_captions: pictures without a caption, by name: those listed so, and those that are not listed
            while others of their folder are.
    """

    captions: int
    per_picture: Range | None
    words: Range | None
    different_words: int
    absent: tuple[str, ...]
    without_captions: tuple[str, ...]


def count_captions(data: Dataset) -> CaptionCounts:
    """Count the captions of every split that has an end.

    Raises:
        DataError: a folder of pictures cannot be read.
    """
    splits = [split.list_samples() for split in data.splits.values()]
    samples = [sample for split in splits if split is not None for sample in split]
    captions = [caption for sample in samples for caption in sample.captions]
    words = [caption.split() for caption in captions]
    absent, without = (data.absent, data.without_captions) if isinstance(data, CaptionedDataset) else ((), ())
    return CaptionCounts(
        len(captions),
        _range([len(sample.captions) for sample in samples]),
        _range([len(each) for each in words]),
        len({word for each in words for part in each if (word := part.lower().strip(".,;:!?\"'()"))}),
        absent,
        (*without, *_find_unlisted(data, samples)),
    )


def _range(counts: Sequence[int]) -> Range | None:
    return Range(min(counts), median(counts), max(counts)) if counts else None


def _find_unlisted(data: Dataset, samples: Sequence[Sample]) -> list[str]:
    """Pictures in the folders of captioned ones that no caption names."""
    if not isinstance(data, CaptionedDataset):
        return []
    by_folder: dict[Path, set[str]] = defaultdict(set)
    prefixes: dict[Path, str] = {}
    for sample in samples:
        if isinstance(sample.picture, FilePicture):
            folder = sample.picture.path.parent
            by_folder[folder].add(printable(sample.picture.path.name))
            prefixes[folder] = sample.name.rpartition("/")[0]
    listed_without = set(data.without_captions)
    return [
        name
        for folder, names in sorted(by_folder.items())
        for entry in entries(folder)
        if not is_folder(entry) and is_picture(entry) and printable(entry.name) not in names
        if (name := f"{prefixes[folder]}/{printable(entry.name)}".lstrip("/")) not in listed_without
    ]
