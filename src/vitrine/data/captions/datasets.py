"""From what a person writes for DATA to pictures with captions in splits.

The layouts that files may have are in :mod:`vitrine.data.caption_files`; generated scenes carry their own captions, and
so do webdataset shards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

from vitrine.data.captions.files import LAYOUTS, CaptionedFile, read_captions
from vitrine.data.decode import FilePicture
from vitrine.data.samples import FiniteSplit, LabelledData, Picture, Sample, Split
from vitrine.data.scenes.dataset import PREFIX, ScenePicture, open_scenes
from vitrine.data.shards.dataset import is_shards, open_shards
from vitrine.data.splits import hold_out
from vitrine.errors import DataError

__all__ = ["LAYOUTS", "CaptionData", "CaptionSplit", "CaptionedSample", "open_captions"]

_SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class CaptionedSample:
    """One picture with all its captions.

    Attributes:
        name: of the file as written to tables: a relative POSIX path, unique in its data.
        picture: where the pixels come from.
        captions: one at least, none of them empty, each on one line; none of a picture that is lost in damaged shards.
        split: "train", "validation" or "test".
    """

    name: str
    picture: Picture
    captions: tuple[str, ...]
    split: str

    @property
    def sample(self) -> Sample:
        """The picture with its captions, for what knows nothing of splits."""
        return Sample(self.name, self.picture, captions=self.captions)

    @property
    def unlabelled(self) -> Sample:
        """The picture alone, for what reads, hashes or loads pictures."""
        return Sample(self.name, self.picture)


class CaptionSplit(Sequence[CaptionedSample]):
    """Pictures of one split. An endless source gives another window of itself for every epoch.

    Captions of generated scenes are made when a picture is asked for, about a millisecond each at 64 px.

    Attributes:
        pictures: samples with captions, or generated scenes.
    """

    def __init__(self, pictures: Split, name: str) -> None:
        self.pictures = pictures
        self._name = name

    def __len__(self) -> int:
        """Pictures, not captions.

        Raises:
            TypeError: the split is endless.
        """
        return len(self.pictures)

    @overload
    def __getitem__(self, index: int) -> CaptionedSample: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[CaptionedSample, ...]: ...
    def __getitem__(self, index: int | slice) -> CaptionedSample | tuple[CaptionedSample, ...]:
        if isinstance(index, slice):
            return tuple(self._captioned(sample) for sample in self.pictures[index])
        return self._captioned(self.pictures[index])

    def for_epoch(self, epoch: int, epoch_size: int) -> CaptionSplit:
        """The pictures of one pass (``epoch`` counts from 0). Finite splits return themselves."""
        if not self.endless:
            return self
        window = self.pictures.for_epoch(epoch, epoch_size)
        return CaptionSplit(window if isinstance(window, Split) else FiniteSplit(window), self._name)

    @property
    def endless(self) -> bool:
        """Whether the source has no end."""
        return self.pictures.endless

    def _captioned(self, sample: Sample) -> CaptionedSample:
        captions = sample.captions
        if isinstance(sample.picture, ScenePicture):
            captions = tuple(caption.text for caption in sample.picture.scene.captions)
        return CaptionedSample(sample.name, sample.picture, captions, self._name)


@dataclass(frozen=True)
class CaptionData:
    """Captioned pictures as they were found.

    Attributes:
        reference: what the person wrote.
        layout: how it was understood, in a few words ("COCO captions", "Karpathy's splits").
        splits: "train", "validation", "test": those that exist.
        notes: sentences on every decision a person would want to know (a split that was made, pictures left out).
    """

    reference: str
    layout: str
    splits: Mapping[str, CaptionSplit]
    notes: tuple[str, ...] = ()


def open_captions(reference: str, *, seed: int = 0, val_fraction: float = 0.2) -> CaptionData:
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
        return _captioned(open_scenes(reference, seed=seed))
    if is_shards(reference):
        return _captioned(open_shards(reference, captions=True))
    found = read_captions(Path(reference).expanduser())
    by_split: dict[str, list[CaptionedFile]] = {name: [] for name in _SPLITS}
    for file in sorted(found.files, key=lambda file: file.name):
        by_split[file.split or "train"].append(file)
    pictures = {
        name: tuple(Sample(file.name, FilePicture(file.path), captions=file.captions) for file in files)
        for name, files in by_split.items()
        if files
    }
    notes = [*found.notes]
    if "train" in pictures and "validation" not in pictures:
        notes.append(_held_out(pictures, seed, val_fraction))
    splits = {name: FiniteSplit(pictures[name]) for name in _SPLITS if name in pictures}
    return _captioned(LabelledData(reference, found.layout, (), splits, tuple(notes)))


def _captioned(found: LabelledData) -> CaptionData:
    splits = {name: CaptionSplit(split, name) for name, split in found.splits.items()}
    return CaptionData(found.reference, found.layout, splits, found.notes)


def _held_out(pictures: dict[str, tuple[Sample, ...]], seed: int, fraction: float) -> str:
    """Move pictures from "train" to "validation", and say so."""
    train = pictures["train"]
    kept, held = hold_out(train, round(len(train) * fraction), seed=seed)
    if not held:
        return "There is no validation split, and no two training pictures to make one of."
    pictures["train"], pictures["validation"] = kept, held
    return (
        f"There is no validation split: {len(held):,} of {len(train):,} training pictures were held out for it with "
        f"all their captions, seed {seed}."
    )
