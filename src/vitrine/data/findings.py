"""What a look at the data found, as frozen values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

FEW = 10
"""Training pictures of a class below which a suggestion says so."""

UNEVEN = 5.0
"""Ratio of the largest to the smallest class from which a suggestion says so."""


@dataclass(frozen=True)
class SplitCount:
    """One split: its pictures, in all and by class name (pictures without a label are counted in all only)."""

    name: str
    pictures: int
    by_class: Mapping[str, int]


@dataclass(frozen=True)
class Spread:
    """Smallest, median and largest of a length in pixels, of upright pictures."""

    smallest: int
    median: float
    largest: int


@dataclass(frozen=True)
class KindCount:
    """Pictures of one special kind, what is done with them, and a few names."""

    kind: str
    pictures: int
    treatment: str
    examples: tuple[str, ...]


@dataclass(frozen=True)
class Copy:
    """One of several files with the same bytes."""

    name: str
    split: str
    label: str | None


@dataclass(frozen=True)
class Duplicates:
    """Files with the same bytes; two or more."""

    copies: tuple[Copy, ...]

    @property
    def across_splits(self) -> bool:
        """Whether the copies lie in more than one split: what was learned is then tested as if it were new."""
        return len({copy.split for copy in self.copies}) > 1

    @property
    def labels_differ(self) -> bool:
        """Whether the same picture has two labels."""
        return len({copy.label for copy in self.copies}) > 1


@dataclass(frozen=True)
class DataReport:
    """All that :func:`vitrine.data.inspection.inspect` found.

    Attributes:
        reference, layout, labels, notes: as in :class:`vitrine.data.samples.LabelledData`.
        splits: pictures by split and class.
        size: bytes of all encoded pictures.
        formats: pictures by format, by content, not by extension; most frequent first.
        modes: pictures by Pillow mode; most frequent first.
        width, height: in pixels; None where no picture can be read.
        kinds: special kinds and what is done with them.
        unreadable: (name, reason).
        mismatches: (name, format found) of pictures whose extension promises another format.
        duplicates: files with the same bytes; those across splits first.
        majority: the share of each split that the most frequent training class makes up: what a guess gets right.
    """

    reference: str
    layout: str
    labels: tuple[str, ...]
    notes: tuple[str, ...]
    splits: tuple[SplitCount, ...]
    size: int
    formats: Mapping[str, int]
    modes: Mapping[str, int]
    width: Spread | None
    height: Spread | None
    kinds: tuple[KindCount, ...]
    unreadable: tuple[tuple[str, str], ...]
    mismatches: tuple[tuple[str, str], ...]
    duplicates: tuple[Duplicates, ...]
    majority: Mapping[str, float]

    @property
    def pictures(self) -> int:
        """Pictures in all splits."""
        return sum(split.pictures for split in self.splits)

    @property
    def across_splits(self) -> tuple[Duplicates, ...]:
        """Duplicates that lie in more than one split."""
        return tuple(group for group in self.duplicates if group.across_splits)

    @property
    def within_splits(self) -> tuple[Duplicates, ...]:
        """Duplicates that lie in one split."""
        return tuple(group for group in self.duplicates if not group.across_splits)

    @property
    def imbalance(self) -> float | None:
        """Pictures of the largest class over those of the smallest, in training; None without two classes."""
        counts = [n for n in self._training().values() if n]
        return max(counts) / min(counts) if len(counts) > 1 else None

    @property
    def serious(self) -> bool:
        """Whether a result on these data could not be trusted: unreadable pictures, copies across splits, nothing."""
        return bool(self.unreadable or self.across_splits or not self.pictures)

    @property
    def suggestions(self) -> tuple[str, ...]:
        """What a person could do, most urgent first."""
        found = []
        if self.across_splits:
            found.append("Keep every picture in one split only: copies of training pictures make a score too good.")
        if self.unreadable:
            found.append("Replace or remove what cannot be read: training names it and goes on without it, up to 1 %.")
        if any(group.labels_differ for group in self.duplicates):
            found.append("Decide which label is right where copies of one picture have two.")
        if self.within_splits:
            found.append("Remove copies within a split: each counts as often as it is there.")
        if self.mismatches:
            found.append("Rename files whose extension is wrong: vitrine goes by the content, other programs may not.")
        counts = self._training()
        few = sum(0 < n < FEW for n in counts.values())
        if few:
            which = "Every class has" if few == len(counts) else f"{few:,} of {len(counts):,} classes have"
            found.append(f"{which} fewer than {FEW} training pictures: start from pretrained weights.")
        if (self.imbalance or 0) >= UNEVEN:
            found.append("Classes are uneven: read recall by class beside accuracy.")
        return tuple(found)

    def to_dict(self) -> dict[str, object]:
        """Everything as plain values for JSON."""
        copies = [
            {**asdict(group), "across_splits": group.across_splits, "labels_differ": group.labels_differ}
            for group in self.duplicates
        ]
        return {
            **asdict(self),
            "unreadable": [{"name": name, "reason": reason} for name, reason in self.unreadable],
            "mismatches": [{"name": name, "format": found} for name, found in self.mismatches],
            "duplicates": copies,
            "pictures": self.pictures,
            "imbalance": self.imbalance,
            "serious": self.serious,
            "suggestions": self.suggestions,
        }

    def _training(self) -> Mapping[str, int]:
        """Pictures by class in training; in the first split where there is none."""
        found = [*(split for split in self.splits if split.name == "train"), *self.splits]
        return found[0].by_class if found else {}
