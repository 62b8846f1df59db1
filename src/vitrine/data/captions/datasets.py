"""Captioned data: what a person writes for DATA becomes pictures with captions, by split.

The layouts that files may have are in :mod:`vitrine.data.captions.files`. Generated scenes and webdataset shards have
captions of their own.
"""

from __future__ import annotations

from pathlib import Path

from vitrine.data.captions.files import LAYOUTS, CaptionedFile, read_captions
from vitrine.data.decode import FilePicture
from vitrine.data.samples import Dataset, FiniteSplit, Sample
from vitrine.data.scenes.dataset import PREFIX, open_scenes
from vitrine.data.shards.dataset import is_shards, open_shards
from vitrine.data.splits import hold_out
from vitrine.errors import DataError

__all__ = ["LAYOUTS", "open_captions"]

_SPLITS = ("train", "validation", "test")


def open_captions(reference: str, *, seed: int = 0, val_fraction: float = 0.2) -> Dataset:
    """Open captioned pictures.

    A picture with all its captions is in one split. Where there is no validation split, pictures are held out of the
    training split for it; where there is no split at all, all pictures are training pictures before that.

    Args:
        reference: a folder (COCO's layout, Flickr8k's, Karpathy's json, a table of captions, written scenes), one of
            those files itself, ``scenes:...``, or webdataset shards with captions (see
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
    captioned_files = read_captions(Path(reference).expanduser())
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
    return Dataset(reference, captioned_files.layout, (), splits, tuple(notes))


def _held_out(pictures: dict[str, tuple[Sample, ...]], seed: int, fraction: float) -> str:
    """Move pictures from "train" to "validation", and say so."""
    train = pictures["train"]
    rest, held_out = hold_out(train, round(len(train) * fraction), seed=seed)
    if not held_out:
        return "There is no validation split, and no two training pictures to make one of."
    pictures["train"], pictures["validation"] = rest, held_out
    return (
        f"There is no validation split: {len(held_out):,} of {len(train):,} training pictures were held out for it "
        f"with all their captions, seed {seed}."
    )
