"""Samples (pictures with their labels or captions), splits of samples, and data sets of splits."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from PIL import Image

from vitrine.errors import DataError
from vitrine.printable import escape_controls
from vitrine.results import list_names


class Picture(Protocol):
    """One picture, wherever it comes from."""

    def read_bytes(self) -> bytes:
        """The file's bytes, unchanged; content hashes are computed of them."""
        ...

    def decode(self) -> Image.Image:
        """The picture as upright 8-bit RGB.

        Raises:
            PictureError: it cannot be used; the message says why in one line.
        """
        ...


@dataclass(frozen=True)
class Sample:
    """One picture with its name and, where known, its label or captions.

    Attributes:
        name: the file's name as written to tables: a relative POSIX path, unique in its data.
        picture: where the pixels come from.
        label: index into the class list; None where the label is not known, and of multi-label data.
        captions: none where they are not known; each is on one line. Those of a generated scene are written when they
            are looked at first.
        labels: of multi-label data, the indices of all labels that the picture has, ascending, possibly none; None of
            other data.
    """

    name: str
    picture: Picture
    label: int | None = None
    captions: Sequence[str] = ()
    labels: tuple[int, ...] | None = None

    @property
    def label_set(self) -> tuple[int, ...]:
        """The indices of all labels that are known of the picture, whatever data it is of."""
        if self.labels is not None:
            return self.labels
        return () if self.label is None else (self.label,)


def random_subset(samples: Sequence[Sample], limit: int | None, seed: int) -> tuple[Sample, ...]:
    """``limit`` samples drawn at random with ``seed``, in their own order; all of them where there are no more."""
    return tuple(samples[index] for index in random_positions(len(samples), limit, seed))


def random_positions(count: int, limit: int | None, seed: int) -> Sequence[int]:
    """``limit`` of the numbers below ``count`` drawn at random with ``seed``, ascending; all if there are no more."""
    if limit is None or count <= limit:
        return range(count)
    positions: list[int] = np.sort(np.random.default_rng(seed).permutation(count)[:limit]).tolist()
    return positions


class Split(Sequence[Sample]):
    """A finite sequence of samples. An endless source gives another window of itself for every epoch."""

    def for_epoch(self, epoch: int, epoch_size: int) -> Sequence[Sample]:
        """The samples of one pass (``epoch`` counts from 0). Finite splits return themselves."""
        raise NotImplementedError

    @property
    def endless(self) -> bool:
        """Whether the source has no end."""
        raise NotImplementedError

    def list_samples(self) -> Sequence[Sample] | None:
        """All samples, to be read one by one; None where that cannot be, which :meth:`skipped_note` explains."""
        return None if self.endless else self

    def skipped_note(self, name: str) -> str:
        """Why a split called ``name`` was passed over by what looks at every picture, in a sentence."""
        return f"The split {name} has no end and was not looked at."


class FiniteSplit(Split):
    """A split that is a tuple of samples."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self._samples = tuple(samples)

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        return self._samples[index]

    def for_epoch(self, epoch: int, epoch_size: int) -> Sequence[Sample]:  # noqa: ARG002
        return self

    @property
    def endless(self) -> bool:
        return False


@dataclass(frozen=True)
class Dataset:
    """What a reference to data turned out to be: labelled or captioned pictures by split.

    Attributes:
        reference: what the person wrote.
        layout: how it was understood, in a few words ("class folders", "flat files {label}_{id}", "COCO captions").
        labels: class names, which a sample's label is an index into; none of captioned pictures.
        splits: "train", "validation", "test": those that exist.
        notes: sentences on every decision that a person would want to know (a split that was made, files left aside).
        is_multi_label: every label is there or not, whatever the others are: samples have ``labels``, not a ``label``.

    Raises:
        DataError: two classes have one name, or one has a control character in it, such as a line break.
    """

    reference: str
    layout: str
    labels: tuple[str, ...]
    splits: Mapping[str, Split]
    notes: tuple[str, ...] = ()
    is_multi_label: bool = False

    def label_text(self, sample: Sample) -> str | None:
        """A picture's class name, or its labels with commas between them; None where nothing is known of it."""
        if self.is_multi_label:
            return list_names(self.labels[index] for index in sample.label_set)
        return None if sample.label is None else self.labels[sample.label]

    def require_one_label(self, purpose: str) -> None:
        """Refuse multi-label data where a picture has to have one label.

        Raises:
            DataError: they are; ``purpose`` says what for: "vitrine knn compares".
        """
        if self.is_multi_label:
            raise DataError(
                f"{self.reference} is multi-label data ({self.layout}), and {purpose} one label a picture.\n"
                "A table can be read as one class a picture: '?label=COLUMN&separator='."
            )

    def __post_init__(self) -> None:
        twice = [label for label, count in Counter(self.labels).items() if count > 1]
        if twice:
            raise DataError(
                f"{self.reference} has several classes of one name: {', '.join(map(repr, twice[:5]))}.\n"
                "Give every class a name of its own: what is trained on the data knows classes by their names."
            )
        for label in self.labels:
            if control := control_character(label):
                raise DataError(
                    f"{self.reference}: the class {label!r:.80} holds {control}: class names are one a line. Rename it."
                )


def printable(name: str) -> str:
    r"""A file name as text that can be written anywhere, on one line: see :func:`vitrine.printable.escape_controls`.

    Bytes that are not UTF-8 become ``\udcff`` and the like.
    """
    return escape_controls(name)


_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def control_character(text: str) -> str:
    """The first control character of a text (Unicode's Cc), as a sentence calls it; empty where there is none."""
    match = re.search(r"[\x00-\x1f\x7f-\x9f]", text)
    if match is None:
        return ""
    name = {"\n": "a line break", "\r": "a line break", "\t": "a tab"}.get(match[0], "a control character")
    return f"{name} (U+{ord(match[0]):04X})"


def clean_caption(text: str) -> str:
    """A caption without line breaks, control characters and repeated blanks; done twice, it changes nothing."""
    return printable(" ".join(_CONTROLS.sub(" ", text).split()))
