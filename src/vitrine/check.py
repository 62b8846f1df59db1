"""``vitrine check``: what is in the data, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TypeVar

from vitrine.data.captions.counts import Range
from vitrine.data.captions.datasets import is_captioned_data, open_captions
from vitrine.data.check import DarkPicture, DataReport, Duplicates, NearCopy, SplitCount, Spread, inspect
from vitrine.data.image_folder import LAYOUTS, UnknownLayoutError
from vitrine.data.perceptual_hash import BITS
from vitrine.data.sources import open_data, open_unlabelled
from vitrine.results import Progress, count_of

MOST_CLASSES = 40
"""Classes above which the table shows only the largest and the smallest."""

_Item = TypeVar("_Item")
_SHOWN = 5  # examples of each problem; --json has them all


def check(
    reference: str,
    *,
    seed: int = 0,
    captions: bool | None = None,
    workers: int = -1,
    progress: Progress | None = None,
) -> DataReport:
    """Open data and look at every picture. A folder of pictures without labels is looked at as one.

    Args:
        reference: see :func:`vitrine.data.sources.open_data` and
            :func:`vitrine.data.captions.datasets.open_captions`.
        seed: of the split, where the data bring none for validation.
        captions: look at captions, or at classes; by default at captions where the data have a file of them, unless
            that file has classes too.
        workers: threads; -1 chooses.
        progress: called with (done, total) after each picture.

    Raises:
        DataError: there are no data, or no pictures in them.
    """
    if is_captioned_data(reference) if captions is None else captions:
        return inspect(open_captions(reference, seed=seed), workers=workers, progress=progress)
    try:
        data = open_data(reference, seed=seed)
    except UnknownLayoutError as unknown:
        if not unknown.pictures:
            raise
        data = open_unlabelled(reference)
        data = replace(data, notes=(*data.notes, f"No labels were found. Known are {LAYOUTS}."))
    return inspect(data, workers=workers, progress=progress)


def render(report: DataReport) -> str:
    """The report as text for a terminal: problems first, the most serious one on top."""
    blocks = [_head(report), _problems(report), _classes(report), _captions(report), _pictures(report)]
    if report.notes:
        blocks.append(["Notes", *(f"  {note}" for note in report.notes)])
    if report.suggestions:
        blocks.append(["Suggestions", *(f"  {suggestion}" for suggestion in report.suggestions)])
    return "\n\n".join("\n".join(block) for block in blocks if block)


def _head(report: DataReport) -> list[str]:
    facts = [f"{count_of(report.pictures, 'picture')} ({_size(report.size)})"]
    if report.labels:
        noun = ("label", "labels") if report.is_multi_label else ("class", "classes")
        facts.append(f"{count_of(len(report.labels), *noun)}{' (multi-label)' if report.is_multi_label else ''}")
    if report.captions is not None:
        facts.append(count_of(report.captions.captions, "caption"))
    if report.labels or report.captions is not None:
        facts.extend(f"{split.name} {split.pictures:,}" for split in report.splits)
    return [f"{report.reference}: {report.layout}", ", ".join(facts)]


def _problems(report: DataReport) -> list[str]:
    within = [group for group in report.within_splits if not group.labels_differ]
    conflicts = [group for group in report.within_splits if group.labels_differ]
    captions = report.captions
    lines = [
        *_problem(
            captions.absent if captions else (),
            "picture has captions and does",
            "pictures have captions and do",
            "not exist",
            str,
        ),
        *_problem(captions.without_captions if captions else (), "picture has", "pictures have", "no caption", str),
        *_problem(report.across_splits, "picture lies", "pictures lie", "in more than one split", _copies),
        *_problem(report.unreadable, "picture", "pictures", "cannot be read", lambda item: f"{item[0]}: {item[1]}"),
        *_problem(conflicts, "picture has", "pictures have", "copies with another label in its split", _copies),
        *_problem(within, "picture has", "pictures have", "copies in the same split", _copies),
        *_problem(
            report.near_across_splits,
            "picture looks",
            "pictures look",
            "like a copy of one in another split (near copies: a suspicion)",
            _near_copy,
        ),
        *_problem(
            report.near_within_splits,
            "picture looks",
            "pictures look",
            "like a copy of one in the same split (near copies: a suspicion)",
            _near_copy,
        ),
        *_problem(
            report.dark,
            "picture of more than 8 bits comes",
            "pictures of more than 8 bits come",
            "out dark: few of the bits are used",
            _show_dark,
        ),
        *_problem(
            report.mismatches, "file is", "files are", "not what the name says", lambda item: f"{item[0]} is {item[1]}"
        ),
    ]
    if not lines:
        if not report.pictures:
            return ["Problems", "  There are no pictures."]
        return [
            "No problems found: every picture can be read, no two files are the same, and none looks like a copy of "
            "another."
        ]
    return ["Problems", *lines]


def _problem(items: Sequence[_Item], one: str, many: str, what: str, show: Callable[[_Item], str]) -> list[str]:
    if not items:
        return []
    rest = [f"    and {len(items) - _SHOWN:,} more"] if len(items) > _SHOWN else []
    return [f"  {count_of(len(items), one, many)} {what}", *(f"    {show(item)}" for item in items[:_SHOWN]), *rest]


def _show_dark(picture: DarkPicture) -> str:
    bits = f"{picture.used_bits} of {picture.bits} bits"
    return f"{picture.name}: {bits}, nowhere brighter than {picture.brightest} of 255"


def _copies(group: Duplicates) -> str:
    def name_of_copy(name: str, label: str | None) -> str:
        return f"{name} ({label})" if group.labels_differ else name

    copies = " = ".join(name_of_copy(copy.name, copy.label) for copy in group.copies[:3])
    return copies + (f" and {len(group.copies) - 3:,} more" if len(group.copies) > 3 else "")


def _near_copy(near: NearCopy) -> str:
    names = [near.copy.name, near.original.name]
    if near.copy.label != near.original.label:
        names = [f"{each.name} ({each.label})" for each in (near.copy, near.original)]
    addition = ", mirrored" if near.is_mirrored else ""
    return f"{names[0]} ~ {names[1]}: near copy (distance {near.distance} of {BITS}{addition})"


def _classes(report: DataReport) -> list[str]:
    if not report.labels or not report.splits:
        return []
    noun = "label" if report.is_multi_label else "class"
    rows = [[label, *(f"{s.by_class[label]:,}" for s in report.splits)] for label in report.labels]
    if report.is_multi_label:  # of pictures with several labels, counts alone do not say how frequent one is
        rows = [[label, *(_count_and_share(split, label) for split in report.splits)] for label in report.labels]
    elif len(rows) > 2 and all(row[1:] == rows[0][1:] for row in rows):
        each = ", ".join(f"{cell} in {split.name}" for cell, split in zip(rows[0][1:], report.splits, strict=True))
        return [f"Every class has the same number of pictures: {each}."]
    title = noun.capitalize()
    if len(rows) > MOST_CLASSES:
        first = report.splits[0]
        by_size = sorted(rows, key=lambda row: -first.by_class[row[0]])
        rows = [*by_size[:_SHOWN], ["...", *("" for _ in report.splits)], *by_size[-_SHOWN:]]
        title = f"{noun.capitalize()} (by size in {first.name})"
    table = _align([[title, *(split.name for split in report.splits)], *rows])
    return [*table, *_labels_a_picture(report), *_balance(report)]


def _count_and_share(split: SplitCount, label: str) -> str:
    count = split.by_class[label]
    return f"{count:,}  {count / max(1, split.pictures):4.0%}"


def _labels_a_picture(report: DataReport) -> list[str]:
    """How many labels pictures have, and how many have none, for multi-label data."""
    lines = []
    for split in report.splits if report.is_multi_label else ():
        labels = sum(number * pictures for number, pictures in split.by_labels.items())
        mean = f"{labels / max(1, split.pictures):.2f} labels a picture in {split.name}"
        counts = ", ".join(f"{pictures:,} with {number:,}" for number, pictures in split.by_labels.items() if number)
        without = split.by_labels.get(0, 0)
        none = f"; {count_of(without, 'picture')} without any label, which is allowed" if without else ""
        lines.append(f"{mean}: {counts or 'none'}{none}.")
    return lines


def _balance(report: DataReport) -> list[str]:
    lines = []
    if report.imbalance is not None:
        largest = "most frequent label" if report.is_multi_label else "largest class"
        smallest = "rarest of those there are" if report.is_multi_label else "smallest"
        lines.append(f"The {largest} has {report.imbalance:.1f} times as many pictures as the {smallest}.")
        guesses = [f"{share:.1%} of {name}" for name, share in report.majority.items() if name != "train"]
        if guesses:
            lines.append(f"Always guessing the largest is right for {' and '.join(guesses)}.")
    return lines


def _captions(report: DataReport) -> list[str]:
    counts = report.captions
    if counts is None or counts.per_picture is None or counts.words is None:
        return []
    return [
        "Captions",
        f"  a picture  {_range(counts.per_picture)}",
        f"  words      {_range(counts.words)} a caption; {counts.different_words:,} different ones in all",
    ]


def _range(counts: Range) -> str:
    if counts.smallest == counts.largest:
        return f"{counts.smallest:,}"
    return f"{counts.smallest:,} to {counts.largest:,}, median {counts.median:,.0f}"


def _pictures(report: DataReport) -> list[str]:
    if report.width is None or report.height is None:
        return []
    rows = [
        ["formats", _join_counts(report.formats.items())],
        ["modes", _join_counts(report.modes.items())],
        ["width", _spread(report.width)],
        ["height", _spread(report.height)],
        *(
            [kind.kind, f"{kind.pictures:,}: {kind.treatment} ({', '.join(kind.examples[:1])})"]
            for kind in report.kinds
        ),
    ]
    width = max(len(row[0]) for row in rows)
    return ["Pictures", *(f"  {name:<{width}}  {value}" for name, value in rows)]


def _align(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as lines: the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows]


def _spread(spread: Spread) -> str:
    if spread.smallest == spread.largest:
        return f"{spread.smallest:,} px"
    return f"{spread.smallest:,} to {spread.largest:,} px, median {spread.median:,.0f}"


def _join_counts(counts: Iterable[tuple[str, int]]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts)


def _size(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
