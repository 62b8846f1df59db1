"""What is in the data, and what is wrong with them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from statistics import median

from vitrine.data.findings import Copy, DataReport, Duplicates, KindCount, SplitCount, Spread
from vitrine.data.formats import TREATMENTS, promised_format
from vitrine.data.index import Reading, read_samples
from vitrine.data.samples import LabelledData, Sample, Split
from vitrine.data.shards.stream import ShardSplit

__all__ = ["DataReport", "inspect"]


def inspect(data: LabelledData, *, workers: int = -1, progress: Callable[[int, int], None] | None = None) -> DataReport:
    """Read every picture of every finite split once.

    Args:
        data: what to look at; endless splits are left out, and a note says so.
        workers: threads; -1 chooses.
        progress: called with (done, total) after each picture.
    """
    endless = [name for name, split in data.splits.items() if split.endless]
    finite = {name: split for name, split in data.splits.items() if not split.endless}
    placed = [(name, sample) for name, split in finite.items() for sample in split]
    readings = list(read_samples([sample for _, sample in placed], workers=workers, progress=progress))
    usable = [reading for reading in readings if reading.problem is None]
    counts = tuple(_counted(name, split, data.labels) for name, split in finite.items())
    widths, heights = _lengths(usable)
    return DataReport(
        reference=data.reference,
        layout=data.layout,
        labels=data.labels,
        notes=(*data.notes, *(_passed_over(name, data.splits[name]) for name in endless)),
        splits=counts,
        size=sum(reading.size for reading in readings),
        formats=dict(Counter(r.facts.format for r in usable if r.facts).most_common()),
        modes=dict(Counter(r.facts.mode for r in usable if r.facts).most_common()),
        width=_spread(widths),
        height=_spread(heights),
        kinds=_kinds(usable),
        unreadable=tuple((r.name, r.problem) for r in readings if r.problem is not None),
        mismatches=_mismatches(readings),
        duplicates=_duplicates(placed, readings, data.labels),
        majority=_majority(counts),
    )


def _passed_over(name: str, split: Split) -> str:
    if isinstance(split, ShardSplit):
        return f"The {len(split):,} {name} pictures come out of shards in a stream, and were not looked at."
    return f"The split {name} has no end and was not looked at."


def _counted(name: str, split: Sequence[Sample], labels: Sequence[str]) -> SplitCount:
    counts = Counter(sample.label for sample in split)
    return SplitCount(name, len(split), {label: counts[index] for index, label in enumerate(labels)})


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


def _mismatches(readings: Sequence[Reading]) -> tuple[tuple[str, str], ...]:
    return tuple(
        (r.name, r.facts.format) for r in readings if r.facts and promised_format(r.name) not in (None, r.facts.format)
    )


def _duplicates(
    placed: Sequence[tuple[str, Sample]], readings: Sequence[Reading], labels: Sequence[str]
) -> tuple[Duplicates, ...]:
    by_hash: dict[str, list[Copy]] = defaultdict(list)
    for (split, sample), reading in zip(placed, readings, strict=True):
        if reading.problem is None and reading.sha256 is not None:  # empty files are no copies of one another
            label = None if sample.label is None else labels[sample.label]
            by_hash[reading.sha256].append(Copy(sample.name, split, label))
    groups = [Duplicates(tuple(copies)) for copies in by_hash.values() if len(copies) > 1]
    return tuple(sorted(groups, key=lambda group: (not group.across_splits, not group.labels_differ)))


def _majority(counts: Sequence[SplitCount]) -> dict[str, float]:
    train = next((split for split in counts if split.name == "train"), None)
    if train is None or not train.by_class or not train.pictures:
        return {}
    most = max(train.by_class, key=lambda label: train.by_class[label])
    return {split.name: split.by_class[most] / split.pictures for split in counts if split.pictures}
