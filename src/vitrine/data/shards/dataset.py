"""Shards as data: a folder, an address, or a pattern with braces becomes a data set."""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path

from vitrine.data.ignored_files import is_ignored
from vitrine.data.samples import Dataset, FiniteSplit, Split
from vitrine.data.shards.index import (
    CONNECTION_ERRORS,
    INDEX,
    SPLITS,
    AbsentError,
    Shard,
    ShardIndex,
    is_remote,
    open_location,
    parse_index,
    read_text,
)
from vitrine.data.shards.listing import list_samples
from vitrine.data.shards.reader import Member, read_members
from vitrine.data.shards.stream import ShardSplit
from vitrine.errors import DataError
from vitrine.io.limits import limit
from vitrine.io.network import diagnose, retry_stream
from vitrine.results import agree, count_of

LAYOUT = "webdataset shards"
_BRACES = re.compile(r"\{([^{}]*)\}")
_SPLIT_NAME = re.compile(r"(train|val|valid|validation|dev|test)[-_]?\d+\.tar$", re.IGNORECASE)
_RANGE = re.compile(r"(\d{1,18})\.\.(\d{1,18})")
MAX_SHARDS = limit("MAX_SHARDS", 1_000_000)
"""Shards that the braces of a reference stand for."""
_OTHER_NAMES = {"val": "validation", "valid": "validation", "dev": "validation"}


def is_shards(reference: str) -> bool:
    """Whether a reference to data means shards: an address, a ``.tar``, an index, or a folder that holds some."""
    if is_remote(reference) or reference.endswith((".tar", f"/{INDEX}")):
        return True
    folder = Path(reference).expanduser()
    tars = [Path(place).name for place in _tars(folder)] if folder.is_dir() else []
    return any(_SPLIT_NAME.match(name) for name in tars) or bool(tars and (folder / INDEX).is_file())


def open_shards(reference: str, *, captions: bool = False) -> Dataset:
    """Open shards. "train" comes in a stream; other splits are listed by name, those from an address with their bytes.

    Args:
        reference: a folder of ``train-000000.tar`` and so on, with or without index.json; the address of a folder or of
            its index.json; or shards by name, with braces (``data/train-{000000..000009}.tar``), several patterns
            separated by ``::``. Shards without an index are read once to count their pictures and classes.
        captions: samples have captions, and there are no labels; else they have labels.

    Raises:
        DataError: nothing there, no index where one is needed, a shard that is no plain tar file, or pictures with
            labels where captions are wanted, or the other way round.
    """
    index = find_shards(reference)
    _require_kind(reference, index, captions)
    labels, splits = () if captions else index.labels, dict[str, Split]()
    classes = None if captions else len(labels)
    for name, shards in index.splits.items():
        splits[name] = ShardSplit(shards, classes) if name == "train" else FiniteSplit(list_samples(shards, classes))
    counts = ", ".join(
        f"{sum(s.pictures for s in shards):,} {name} in {len(shards):,}" for name, shards in index.splits.items()
    )
    return Dataset(reference, LAYOUT, labels, splits, (f"Pictures in shards: {counts}.", *index.notes))


def _require_kind(reference: str, index: ShardIndex, captions: bool) -> None:
    if captions and not index.captions:
        raise DataError(
            f"{reference} are shards of labelled pictures, without captions.\n"
            "Train a classifier on them, or write shards of captioned pictures: vitrine shards DATA --captions -o DIR"
        )
    if not captions and not index.labels:
        raise DataError(
            f"{reference} are shards of captioned pictures, without classes.\n"
            "Train a captioner on them, or write shards of labelled pictures: vitrine shards DATA --labels -o DIR"
        )


def find_shards(reference: str) -> ShardIndex:
    """The index of the shards that a reference means; see :func:`open_shards`."""
    if "::" in reference or reference.endswith(".tar"):
        return _by_name([name for part in reference.split("::") for name in expand_braces(part)])
    place = reference.rstrip("/").removesuffix(f"/{INDEX}")
    if is_remote(place):
        return parse_index(read_text(f"{place}/{INDEX}"), place)
    folder = Path(place).expanduser()
    if (folder / INDEX).is_file():
        return parse_index(read_text(str(folder / INDEX)), str(folder))
    return _count_shards(_tars(folder))


def _tars(folder: Path) -> list[str]:
    return [str(path) for path in sorted(folder.glob("*.tar")) if not is_ignored(path.name)]


def expand_braces(pattern: str) -> list[str]:
    """Expand the braces of a pattern as a shell does: ``{a,b}``, ``{000..012}``.

    Raises:
        DataError: it stands for more than a million.
    """
    parts = _BRACES.split(pattern)
    choices = [[part] if i % 2 == 0 else _choices(part) for i, part in enumerate(parts)]
    total = 1
    for each in choices:
        total *= len(each)
    if total > MAX_SHARDS:
        raise DataError(f"{pattern} stands for {count_of(total, 'shard')}; {MAX_SHARDS:,} is the limit.")
    return ["".join(each) for each in product(*choices)]


def _choices(inside: str) -> list[str]:
    numbers = _RANGE.fullmatch(inside)
    if numbers is None:
        return inside.split(",")
    first, last = int(numbers[1]), int(numbers[2])
    if last - first >= MAX_SHARDS:
        raise DataError(f"{{{inside}}} stands for {count_of(last - first + 1, 'shard')}; {MAX_SHARDS:,} is the limit.")
    return [f"{number:0{len(numbers[1])}}" for number in range(first, last + 1)]


def _by_name(places: list[str]) -> ShardIndex:
    """The index of shards given by name: the one beside them where it lists them all, with its other splits."""
    places = [place if is_remote(place) else str(Path(place).expanduser()) for place in places]
    folders = {place.rpartition("/")[0] or "." for place in places}
    index = _index_in(folders.pop()) if len(folders) == 1 else None
    if index is None:
        return _count_shards(places)
    shard_by_name = {shard.name: shard for shard in index.splits.get("train", ())}
    names = [place.rpartition("/")[2] for place in places]
    if not set(names) <= shard_by_name.keys():
        return _count_shards(places)
    others = {name: shards for name, shards in index.splits.items() if name != "train"}
    left = len(shard_by_name) - len(set(names))
    notes = (
        *index.notes,
        *(
            [f"{left:,} of {count_of(len(shard_by_name), 'training shard')} {agree(left, 'is', 'are')} left out."]
            if left
            else []
        ),
    )
    train = tuple(shard_by_name[name] for name in dict.fromkeys(names))
    return replace(index, splits={"train": train, **others}, notes=notes)


def _index_in(folder: str) -> ShardIndex | None:
    """The index in a folder; None where there is none that can be used, and all shards have to be counted."""
    try:
        text = read_text(f"{folder}/{INDEX}")
    except AbsentError:
        return None
    except DataError:
        if is_remote(folder):
            raise
        return None
    try:
        return parse_index(text, folder)
    except DataError:
        return None


def _count_shards(places: list[str]) -> ShardIndex:
    """An index of shards that have none: each is read once to count its pictures; file names begin with their split."""
    splits: dict[str, list[Shard]] = {}
    most, captions = -1, False
    for place in places:
        count = 0
        for member in _members(place):
            count, most = count + 1, max(most, member.label if member.label is not None else -1)
            captions = captions or bool(member.captions)
        match = _SPLIT_NAME.match(place.rpartition("/")[2])
        split = match[1].lower() if match else "train"
        split = _OTHER_NAMES.get(split, split)
        if count:
            splits.setdefault(split, []).append(Shard(place, count))
    if most < 0 and not captions:
        example = places[0] if places else "this folder"
        raise DataError(f"No shard of {example} and the like has a class (.cls) or a caption (.txt).")
    note = f"There is no {INDEX}: {count_of(len(places), 'shard')} {agree(len(places), 'was', 'were')} read to count"
    note += ", and classes are called by their numbers." if most >= 0 else "."
    return ShardIndex(
        tuple(str(label) for label in range(most + 1)),
        {name: tuple(splits[name]) for name in SPLITS if name in splits},
        (note,),
        captions,
    )


def _members(place: str) -> Iterator[Member]:
    done = 0

    def go_on() -> Iterator[Member]:
        nonlocal done
        with open_location(place) as stream:
            for number, member in enumerate(read_members(stream, lambda _: False)):
                if number >= done:
                    done += 1
                    yield member

    try:
        yield from retry_stream(go_on)
    except (tarfile.TarError, *CONNECTION_ERRORS) as error:
        reason = str(error) if isinstance(error, tarfile.TarError) else diagnose(error).reason
        raise DataError(f"{place} cannot be read as a plain tar file: {reason}.") from error
