"""The pictures of a run's data.json, looked for among those that are there now, by content."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from vitrine.data.captions import CaptionData, CaptionedSample
from vitrine.data.samples import LabelledData, Sample
from vitrine.workflows.run_pictures import content_sha256
from vitrine.workflows.verified import Check

Progress = Callable[[int, int], None]
Said = str | tuple[str, ...]
"""What data say of a picture: the name of its class, or its captions."""


@dataclass(frozen=True)
class Present:
    """Every picture that is there now.

    Attributes:
        by_name: (sample, sha256) by name; the hash is None where the bytes cannot be had.
        by_hash: names by content.
        split_of: the split of each name.
        said: of each name; none of a picture without class.
    """

    by_name: Mapping[str, tuple[Sample, str | None]]
    by_hash: Mapping[str, tuple[str, ...]]
    split_of: Mapping[str, str]
    said: Mapping[str, Said]


@dataclass(frozen=True)
class SplitFound:
    """What became of the recorded pictures of one split; names are those of the record.

    Attributes:
        samples: what is there for each recorded picture: the same content, or else the same name.
        missing: neither the name nor the content is there.
        changed: the name is there with another content.
        relabelled: (name, class or captions then, those of now).
        elsewhere: the content is there under another name.
        new: names of now that the record does not have.
    """

    samples: Mapping[str, Sample]
    missing: tuple[str, ...]
    changed: tuple[str, ...]
    relabelled: tuple[tuple[str, Said, Said], ...]
    elsewhere: tuple[str, ...]
    new: tuple[str, ...]


def look_at(data: LabelledData | CaptionData, progress: Progress = lambda _done, _total: None) -> Present:
    """Hash every picture of every finite split."""
    splits: dict[str, tuple[Sample | CaptionedSample, ...]]
    splits = {name: tuple(split) for name, split in data.splits.items() if not split.endless}
    total, by_name, split_of = sum(map(len, splits.values())), {}, {}
    by_hash: dict[str, tuple[str, ...]] = {}
    said: dict[str, Said] = {}
    for split, samples in splits.items():
        for each in samples:
            sample, about = _said(each, data)
            sha256 = content_sha256(sample)
            by_name[sample.name], split_of[sample.name] = (sample, sha256), split
            if about is not None:
                said[sample.name] = about
            if sha256 is not None:
                by_hash[sha256] = (*by_hash.get(sha256, ()), sample.name)
            progress(len(by_name), total)
    return Present(by_name, by_hash, split_of, said)


def _said(each: Sample | CaptionedSample, data: LabelledData | CaptionData) -> tuple[Sample, Said | None]:
    """A picture, and what is said of it."""
    if isinstance(each, CaptionedSample):
        return each.unlabelled, each.captions
    assert isinstance(data, LabelledData)
    return each, None if each.label is None else data.labels[each.label]


def find_split(record: Mapping[str, Any], split: str, present: Present) -> SplitFound:
    """Look for the pictures of a split of data.json."""
    rows = record["splits"][split]
    samples: dict[str, Sample] = {}
    missing, changed, elsewhere, relabelled = [], [], [], []
    for row in rows:
        name, sha256 = row["name"], row["sha256"]
        here = present.by_name.get(name)
        if here is None or here[1] != sha256:
            others = present.by_hash.get(sha256, ())
            if others:
                elsewhere.append(name)
                here = present.by_name[others[0]]
            elif here is None:
                missing.append(name)
                continue
            else:
                changed.append(name)
        samples[name] = Sample(name, here[0].picture)
        then = tuple(row["captions"]) if "captions" in row else record["labels"][row["label"]]
        now = present.said.get(here[0].name)
        if now is not None and now != then:
            relabelled.append((name, then, now))
    return SplitFound(
        samples, tuple(missing), tuple(changed), tuple(relabelled), tuple(elsewhere), _new(record, split, present)
    )


def _new(record: Mapping[str, Any], split: str, present: Present) -> tuple[str, ...]:
    known = {row["name"] for row in record["quarantine"]}
    contents = set()
    for rows in record["splits"].values():
        if not isinstance(rows, str):
            known |= {row["name"] for row in rows}
            contents |= {row["sha256"] for row in rows}
    return tuple(
        name
        for name, (_, sha256) in present.by_name.items()
        if present.split_of[name] == split and name not in known and sha256 not in contents
    )


def check_split(record: Mapping[str, Any], split: str, found: SplitFound) -> Check:
    """What to say of a split."""
    what, total = f"{split} pictures".replace("train ", "training "), len(record["splits"][split])
    if not found.samples:
        if split == "train":
            return Check(what, "not checked", f"none of the {total:,} is there")
        return Check(what, "differs", f"none of the {total:,} is there", found.missing)
    relabelled = Counter((then, now) for _, then, now in found.relabelled if isinstance(then, str))
    captioned = sum(not isinstance(then, str) for _, then, _ in found.relabelled)
    told = [
        *([f"{len(found.changed):,} have another content"] if found.changed else []),
        *([f"{len(found.missing):,} are missing"] if found.missing else []),
        *([f"{len(found.new):,} are new"] if found.new else []),
        *([f"{captioned:,} have other human captions"] if captioned else []),
        *(f"{count:,} of class {then} are now of class {now}" for (then, now), count in relabelled.items()),
    ]
    moved = f"; {len(found.elsewhere):,} lie under other names" if found.elsewhere else ""
    if not told:
        said = "class" if "labels" in record else "captions"
        return Check(what, "same", f"all {total:,} have the recorded content and {said}{moved}")
    names = (*found.changed, *found.missing, *found.new, *(name for name, _, _ in found.relabelled))
    return Check(what, "differs", f"of {total:,}: {'; '.join(told)}{moved}", tuple(dict.fromkeys(names)))
