"""The inspection behind ``vitrine check``: every picture is read once, counted, hashed and compared with the others."""

from __future__ import annotations

import shlex
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from vitrine.data.captions.counts import CaptionCounts, count_captions
from vitrine.data.decode import TREATMENTS, promised_format
from vitrine.data.perceptual_hash import BITS, find_near
from vitrine.data.sample_index import Reading, read_samples
from vitrine.data.samples import Dataset, Sample
from vitrine.display import ResultDisplay
from vitrine.results import Progress, count_of, unreadable_to_json

FEW_PICTURES = 10
"""A class with fewer training pictures than this is named in the suggestions."""

DARK_LEVEL = 64
"""Of 255: a picture of more than 8 bits that is nowhere brighter uses 14 of 16 bits at most, and is named."""

UNEVEN_RATIO = 5.0
"""Ratio of the largest to the smallest class from which the suggestions call classes uneven."""


@dataclass(frozen=True)
class SplitCount:
    """One split: its pictures, in all and by class name (pictures without a label are counted in all only).

    Attributes:
        by_labels: of multi-label data, pictures by how many labels they have, fewest labels first; empty of other data.
    """

    name: str
    pictures: int
    by_class: Mapping[str, int]
    by_labels: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Spread:
    """Smallest, median and largest width or height of upright pictures, in pixels."""

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
class DarkPicture:
    """A picture of more than 8 bits whose values use few of them, so that it comes out dark or nearly black.

    Attributes:
        name: of the sample.
        bits: of a channel, as the file states them.
        used_bits: what its largest value takes.
        brightest: that value as the model sees it, 0 to 255.
    """

    name: str
    bits: int
    used_bits: int
    brightest: int


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
class NearCopy:
    """A picture that looks like a copy of another one: a suspicion, where files with the same bytes are a fact.

    Attributes:
        copy: the picture.
        original: the one that comes before it and is nearest to it; which was made of which is not known.
        distance: bits of :data:`vitrine.data.perceptual_hash.BITS` in which their perceptual hashes differ.
        is_mirrored: whether one is nearer to the other's mirror image.
    """

    copy: Copy
    original: Copy
    distance: int
    is_mirrored: bool

    @property
    def across_splits(self) -> bool:
        """Whether the two lie in different splits."""
        return self.copy.split != self.original.split


@dataclass(frozen=True, repr=False)
class DataReport(ResultDisplay):
    """All that :func:`vitrine.data.check.inspect` found.

    Attributes:
        reference, layout, labels, notes: as in :class:`vitrine.data.samples.Dataset`.
        splits: pictures by split and class.
        size: bytes of all encoded pictures.
        formats: pictures by format, by content, not by extension; most frequent first.
        modes: pictures by Pillow mode; most frequent first.
        width, height: in pixels; None where no picture can be read.
        kinds: special kinds and what is done with them.
        unreadable: (name, reason).
        mismatches: (name, format found) of pictures whose extension promises another format.
        duplicates: files with the same bytes; those across splits first.
        near_copies: pictures that look like copies of others by their perceptual hashes, each with the nearest one;
            those across splits first, nearest first.
        dark: pictures of more than 8 bits that use few of them, such as the 12 bits of a camera in a file of 16.
        captions: of captioned pictures, how many there are and which are missing; None of labelled ones.
        majority: the share of each split that the most frequent training class makes up: what a guess gets right; none
            of multi-label data.
        is_multi_label: a picture has any number of labels.
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
    near_copies: tuple[NearCopy, ...]
    dark: tuple[DarkPicture, ...]
    majority: Mapping[str, float]
    is_multi_label: bool = False
    captions: CaptionCounts | None = None

    def headline(self) -> str:
        """How many pictures, and whether something is wrong with them."""
        verdict = "something is wrong" if self.serious else "nothing serious was found"
        return f"{self.reference}: {count_of(self.pictures, 'picture')} ({self.layout}); {verdict}"

    def details(self) -> str:
        """What a person could do, most urgent first."""
        return "\n".join(self.suggestions)

    def table_rows(self) -> Sequence[Mapping[str, Any]]:
        """A row a split and class."""
        return [
            {"split": split.name, "label": label, "pictures": number}
            for split in self.splits
            for label, number in split.by_class.items()
        ]

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
    def near_across_splits(self) -> tuple[NearCopy, ...]:
        """Near copies of pictures of another split."""
        return tuple(each for each in self.near_copies if each.across_splits)

    @property
    def near_within_splits(self) -> tuple[NearCopy, ...]:
        """Near copies of pictures of the same split."""
        return tuple(each for each in self.near_copies if not each.across_splits)

    @property
    def imbalance(self) -> float | None:
        """Pictures of the largest class over those of the smallest, in training; None without two classes."""
        counts = [n for n in self._training().values() if n]
        return max(counts) / min(counts) if len(counts) > 1 else None

    @property
    def serious(self) -> bool:
        """Whether a result on these data could not be trusted: nothing, unreadable or absent, copies across splits."""
        absent = self.captions is not None and self.captions.absent
        return bool(self.unreadable or self.across_splits or not self.pictures or absent)

    @property
    def suggestions(self) -> tuple[str, ...]:
        """What a person could do, most urgent first."""
        advice = []
        if self.across_splits:
            advice.append("Keep every picture in one split only: copies of training pictures make a score too good.")
        if self.near_across_splits:
            advice.append("Look at the near copies across splits: one picture, however stored, belongs into one split.")
        if self.unreadable:
            advice.append("Replace or remove what cannot be read: training names it and goes on without it, up to 1 %.")
        if self.captions and self.captions.absent:
            advice.append("Put the pictures that do not exist where their captions say, or remove those captions.")
        if any(group.labels_differ for group in self.duplicates):
            advice.append("Decide which label is right where copies of one picture have two.")
        if self.within_splits:
            advice.append("Remove copies within a split: each counts as often as it is there.")
        if self.mismatches:
            advice.append("Rename files whose extension is wrong: vitrine goes by the content, other programs may not.")
        if self.dark:
            used, bits = max((each.used_bits, each.bits) for each in self.dark)
            advice.append(
                f"Multiply the values of the dark pictures by {2 ** (bits - used)} and save them again: their largest "
                f"value has {used} bits, and white is the largest of {bits}. docs/pictures.md has a program."
            )
        return (*advice, *self._advice_on_classes(), *self._advice_on_captions())

    def _advice_on_classes(self) -> list[str]:
        advice = []
        counts = self._training()
        few = sum(0 < n < FEW_PICTURES for n in counts.values())
        if few:
            one, several = ("label", "labels") if self.is_multi_label else ("class", "classes")
            which = f"Every {one} has" if few == len(counts) else f"{few:,} of {len(counts):,} {several} have"
            advice.append(f"{which} fewer than {FEW_PICTURES} training pictures: start from pretrained weights.")
        if (self.imbalance or 0) >= UNEVEN_RATIO:
            advice.append(
                "Labels are uneven: read average precision by label; class_weights = balanced weighs them in training."
                if self.is_multi_label
                else "Classes are uneven: read recall by class beside accuracy; class_weights or sampling = balanced "
                "weighs them in training."
            )
        return advice

    def _advice_on_captions(self) -> list[str]:
        if self.captions is None or not self.pictures:
            return []
        reference = shlex.quote(self.reference)
        return [
            f"Train a captioner: vitrine train {reference} --recipe captioner -o runs/captioner",
            f"Measure it: vitrine evaluate runs/captioner {reference}",
        ]

    def to_dict(self) -> dict[str, object]:
        """The report as plain values for JSON."""
        copies = [
            {**asdict(group), "across_splits": group.across_splits, "labels_differ": group.labels_differ}
            for group in self.duplicates
        ]
        return {
            **asdict(self),
            "unreadable": unreadable_to_json(self.unreadable),
            "mismatches": [{"name": name, "format": format_} for name, format_ in self.mismatches],
            "duplicates": copies,
            "near_copies": [
                {**asdict(each), "bits": BITS, "across_splits": each.across_splits} for each in self.near_copies
            ],
            "pictures": self.pictures,
            "imbalance": self.imbalance,
            "serious": self.serious,
            "suggestions": self.suggestions,
        }

    def _training(self) -> Mapping[str, int]:
        """Pictures by class in training; in the first split where there is none."""
        splits = [*(split for split in self.splits if split.name == "train"), *self.splits]
        return splits[0].by_class if splits else {}


__all__ = ["DataReport", "inspect"]


def inspect(data: Dataset, *, workers: int = -1, progress: Progress | None = None) -> DataReport:
    """Read every picture of every finite split once.

    Args:
        data: what to look at; endless splits and shards at an address are left out, and a note says so.
        workers: threads; -1 chooses.
        progress: called with (done, total) after each picture.
    """
    pictures_by_split = {name: split.list_samples() for name, split in data.splits.items()}
    finite = {name: pictures for name, pictures in pictures_by_split.items() if pictures is not None}
    endless = [name for name in pictures_by_split if name not in finite]
    samples = [(name, sample) for name, split in finite.items() for sample in split]
    readings = list(read_samples([sample for _, sample in samples], workers=workers, progress=progress))
    usable = [reading for reading in readings if reading.problem is None]
    counts = tuple(_count_split(name, split, data) for name, split in finite.items())
    copies = [Copy(sample.name, name, data.label_text(sample)) for name, sample in samples]
    widths, heights = _lengths(usable)
    return DataReport(
        reference=data.reference,
        layout=data.layout,
        labels=data.labels,
        notes=(*data.notes, *(data.splits[name].skipped_note(name) for name in endless)),
        splits=counts,
        size=sum(reading.size for reading in readings),
        formats=dict(Counter(r.facts.format for r in usable if r.facts).most_common()),
        modes=dict(Counter(r.facts.mode for r in usable if r.facts).most_common()),
        width=_spread(widths),
        height=_spread(heights),
        kinds=_kinds(usable),
        unreadable=tuple((r.name, r.problem) for r in readings if r.problem is not None),
        mismatches=_mismatches(readings),
        duplicates=_duplicates(copies, readings),
        near_copies=_near_copies(copies, readings),
        dark=_dark(usable),
        majority={} if data.is_multi_label else _majority(counts),
        is_multi_label=data.is_multi_label,
        captions=None if data.labels or not _has_captions(samples) else count_captions(data),
    )


def _has_captions(samples: Sequence[tuple[str, Sample]]) -> bool:
    return any(sample.captions for _, sample in samples[:1])


def _count_split(name: str, split: Sequence[Sample], data: Dataset) -> SplitCount:
    counts = Counter(label for sample in split for label in sample.label_set)
    by_class = {label: counts[index] for index, label in enumerate(data.labels)}
    by_labels = Counter(len(sample.label_set) for sample in split) if data.is_multi_label else {}
    return SplitCount(name, len(split), by_class, dict(sorted(by_labels.items())))


def _lengths(readings: Sequence[Reading]) -> tuple[list[int], list[int]]:
    widths, heights = [], []
    for facts in (reading.facts for reading in readings if reading.facts):
        lies = facts.orientation >= 5  # EXIF 5 to 8 exchange the sides
        widths.append(facts.height if lies else facts.width)
        heights.append(facts.width if lies else facts.height)
    return widths, heights


def _spread(lengths: Sequence[int]) -> Spread | None:
    return Spread(min(lengths), median(lengths), max(lengths)) if lengths else None


def _kinds(readings: Sequence[Reading]) -> tuple[KindCount, ...]:
    names: dict[str, list[str]] = defaultdict(list)
    for reading in readings:
        for kind in reading.facts.kinds if reading.facts else ():
            names[kind].append(reading.name)
    return tuple(
        KindCount(kind, len(names[kind]), treatment, tuple(names[kind][:3]))
        for kind, treatment in TREATMENTS.items()
        if kind in names
    )


def _dark(readings: Sequence[Reading]) -> tuple[DarkPicture, ...]:
    return tuple(
        DarkPicture(each.name, each.facts.bits, _used_bits(each.brightest, each.facts.bits), each.brightest)
        for each in readings
        if each.facts and each.brightest is not None and each.brightest <= DARK_LEVEL
    )


def _used_bits(brightest: int, bits: int) -> int:
    """The bits that a value takes which comes out as ``brightest`` of 255, in a file of so many bits a channel."""
    return next(used for used in range(bits + 1) if round(255 * (2**used - 1) / (2**bits - 1)) >= brightest)


def _mismatches(readings: Sequence[Reading]) -> tuple[tuple[str, str], ...]:
    return tuple(
        (r.name, r.facts.format) for r in readings if r.facts and promised_format(r.name) not in (None, r.facts.format)
    )


def _duplicates(copies: Sequence[Copy], readings: Sequence[Reading]) -> tuple[Duplicates, ...]:
    by_hash: dict[str, list[Copy]] = defaultdict(list)
    for copy, reading in zip(copies, readings, strict=True):
        if reading.problem is None and reading.sha256 is not None:  # empty files are no copies of one another
            by_hash[reading.sha256].append(copy)
    groups = [Duplicates(tuple(each)) for each in by_hash.values() if len(each) > 1]
    return tuple(sorted(groups, key=lambda group: (not group.across_splits, not group.labels_differ)))


def _near_copies(copies: Sequence[Copy], readings: Sequence[Reading]) -> tuple[NearCopy, ...]:
    """Each picture with the nearest one of an earlier split, or else the nearest before it in its own split."""
    by_split: dict[str, list[tuple[Copy, bytes]]] = defaultdict(list)
    first_of_hash: dict[str | None, Copy] = {}
    for copy, reading in zip(copies, readings, strict=True):
        # Files with the same bytes are duplicates, and stand here once.
        if reading.signature is not None and first_of_hash.setdefault(reading.sha256, copy) is copy:
            by_split[copy.split].append((copy, reading.signature))
    earlier: list[tuple[Copy, bytes]] = []
    near_copies: list[NearCopy] = []
    for pictures in by_split.values():
        across = _nearest(pictures, earlier)
        within = _nearest(pictures, pictures, earlier_only=True)
        near_copies += (within | across).values()
        earlier += pictures
    return tuple(sorted(near_copies, key=lambda each: (not each.across_splits, each.distance)))


def _nearest(
    pictures: Sequence[tuple[Copy, bytes]], others: Sequence[tuple[Copy, bytes]], *, earlier_only: bool = False
) -> dict[Copy, NearCopy]:
    queries, references = ([signature for _, signature in each] for each in (pictures, others))
    return {
        pictures[each.query][0]: NearCopy(
            pictures[each.query][0], others[each.reference][0], each.distance, each.is_mirrored
        )
        for each in find_near(queries, references, earlier_only=earlier_only)
    }


def _majority(counts: Sequence[SplitCount]) -> dict[str, float]:
    train = next((split for split in counts if split.name == "train"), None)
    if train is None or not train.by_class or not train.pictures:
        return {}
    most = max(train.by_class, key=lambda label: train.by_class[label])
    return {split.name: split.by_class[most] / split.pictures for split in counts if split.pictures}
