"""Captioned data: what a person writes for DATA becomes pictures with captions, by split.

The layouts that files may have are in :mod:`vitrine.data.captions.files`. Generated scenes and webdataset shards have
captions of their own.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl

from vitrine.data.captions.files import LAYOUTS, OPTIONS, CaptionedFile, is_captioned, read_captions
from vitrine.data.decode import FilePicture
from vitrine.data.reference_options import split_options, without_options
from vitrine.data.samples import Dataset, FiniteSplit, Sample
from vitrine.data.scenes.dataset import PREFIX, open_scenes
from vitrine.data.shards.dataset import find_shards, is_shards, open_shards
from vitrine.data.splits import hold_out
from vitrine.errors import DataError
from vitrine.results import agree, count_of

__all__ = ["LAYOUTS", "CaptionedDataset", "is_captioned_data", "open_captions"]

_SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class CaptionedDataset(Dataset):
    """Captioned pictures of files.

    Attributes:
        absent: pictures that have captions and do not exist, by name.
        without_captions: pictures that are listed without a caption, by name.
    """

    absent: tuple[str, ...] = ()
    without_captions: tuple[str, ...] = ()


def is_captioned_data(reference: str) -> bool:
    """Whether a reference means captioned pictures; data that have classes too count as labelled, and so do scenes.

    Raises:
        DataError: shards without an index, or a file that may be one of captions, cannot be read.
    """
    if reference.startswith(PREFIX):
        return False
    place, options = _loose_options(reference)
    if "caption" in options:
        return True
    if is_shards(reference):
        return not find_shards(reference).labels
    return is_captioned(Path(place).expanduser())


def _loose_options(reference: str) -> tuple[str, dict[str, str]]:
    """The options of a reference that may be one to labels, which has others."""
    place = without_options(reference)
    return place, dict(parse_qsl(reference[len(place) + 1 :]))


def open_captions(reference: str, *, seed: int = 0, val_fraction: float = 0.2) -> Dataset:
    """Open captioned pictures.

    A picture with all its captions is in one split. Where there is no validation split, pictures are held out of the
    training split for it; where there is no split at all, all pictures are training pictures before that.

    Args:
        reference: a folder (COCO's layout, Flickr8k's, Karpathy's json, LAVIS's lists, a table of captions, written
            scenes), one of those files itself, either with options after a question mark
            (:data:`vitrine.data.captions.files.OPTIONS`), ``scenes:...``, or webdataset shards with captions (see
            :func:`vitrine.data.shards.dataset.open_shards`).
        seed: of the split, where one is made, and of generated scenes.
        val_fraction: share of the training pictures held out for validation where the data have no such split;
            above 0, below 1.

    Returns:
        The data; ``notes`` names every decision that was taken on the way.

    Raises:
        DataError: nothing there, no known layout, a file that cannot be read, contradictory entries, a path that
            leads out of the data folder, or no picture that exists and has a caption.
    """
    if not 0 < val_fraction < 1:
        raise DataError(f"val_fraction is {val_fraction}: give a share above 0 and below 1, such as 0.2.")
    if reference.startswith(PREFIX):
        return open_scenes(reference, seed=seed, captions=True)
    if is_shards(reference):
        return open_shards(reference, captions=True)
    place, options = split_options(reference, OPTIONS)
    captioned_files = read_captions(Path(place).expanduser(), options)
    by_split: dict[str, list[CaptionedFile]] = {name: [] for name in _SPLITS}
    for file in sorted(captioned_files.files, key=lambda file: file.name):
        by_split[file.split or "train"].append(file)
    pictures = {
        name: tuple(Sample(file.name, FilePicture(file.path), captions=file.captions) for file in files)
        for name, files in by_split.items()
        if files
    }
    notes = [*captioned_files.notes]
    if "train" in pictures and "validation" not in pictures:
        notes.append(_held_out(pictures, seed, val_fraction))
    splits = {name: FiniteSplit(pictures[name]) for name in _SPLITS if name in pictures}
    absent, without = captioned_files.absent, captioned_files.without_captions
    return CaptionedDataset(
        reference, captioned_files.layout, (), splits, tuple(notes), absent=absent, without_captions=without
    )


def _held_out(pictures: dict[str, tuple[Sample, ...]], seed: int, fraction: float) -> str:
    """Move pictures from "train" to "validation", and say so."""
    train = pictures["train"]
    rest, held_out = hold_out(train, round(len(train) * fraction), seed=seed)
    if not held_out:
        return "There is no validation split, and no two training pictures to make one of."
    pictures["train"], pictures["validation"] = rest, held_out
    return (
        f"There is no validation split: {len(held_out):,} of {count_of(len(train), 'training picture')} "
        f"{agree(len(held_out), 'was', 'were')} held out for it "
        f"with all their captions, seed {seed}."
    )
