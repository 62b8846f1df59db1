"""The data of one training: opened, read once, unreadable pictures set aside, all of it written down."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from vitrine.data.index import index_samples
from vitrine.data.samples import FiniteSplit, LabelledData, Sample, Split
from vitrine.data.sources import open_data
from vitrine.errors import DataError, RunError
from vitrine.recipes import Recipe


@dataclass(frozen=True)
class TrainingData:
    """What a training reads.

    Attributes:
        found: the data as they were found.
        train: the training split without unreadable pictures.
        validation: the validation pictures without unreadable ones.
        record: content of data.json: every file's name, label and sha256; the quarantine; decisions.
    """

    found: LabelledData
    train: Split
    validation: tuple[Sample, ...]
    record: dict[str, Any]

    @property
    def quarantined(self) -> list[dict[str, str]]:
        """Unreadable pictures: split, name and reason."""
        quarantine: list[dict[str, str]] = self.record["quarantine"]
        return quarantine


def prepare_data(reference: str, recipe: Recipe, progress: Callable[[int, int], None] | None = None) -> TrainingData:
    """Open the data, read and hash every picture, and set the unreadable ones aside.

    Raises:
        DataError: no data, fewer than two classes, no training or validation pictures, or more unreadable pictures
            than the recipe allows.
    """
    found = open_data(reference, seed=recipe.seed, val_fraction=recipe.val_fraction)
    for name in ("train", "validation"):
        if name not in found.splits or (not found.splits[name].endless and not len(found.splits[name])):
            raise DataError(f"{reference} has no {name} pictures, so nothing can be trained on it ({found.layout}).")
    if len(found.labels) < 2:
        raise DataError(f"{reference} has {len(found.labels)} class; a classifier needs at least two.")
    finite = {name: tuple(found.splits[name]) for name in ("train", "validation") if not found.splits[name].endless}
    everything = tuple(sample for samples in finite.values() for sample in samples)
    index = index_samples(everything, workers=recipe.workers, progress=progress)
    reasons = dict(index.unreadable)
    if len(reasons) > recipe.max_unreadable * len(everything):
        first = next(iter(reasons.items()))
        raise DataError(
            f"{len(reasons)} of {len(everything)} pictures cannot be read, for example {first[0]}: {first[1]}\n"
            f"Look at them with: vitrine check {reference}; to train all the same: --set max_unreadable=1"
        )
    record: dict[str, Any] = {"reference": reference, "layout": found.layout, "labels": list(found.labels)}
    record |= {"notes": list(found.notes), "quarantine": [], "splits": {}}
    readable: dict[str, tuple[Sample, ...]] = {}
    for name, samples in finite.items():
        readable[name] = tuple(s for s in samples if s.name not in reasons)
        record["splits"][name] = [
            {"name": s.name, "label": s.label, "sha256": index.hashes[s.name]} for s in readable[name]
        ]
        record["quarantine"] += [
            {"split": name, "name": s.name, "reason": reasons[s.name]} for s in samples if s.name in reasons
        ]
    train = found.splits["train"]
    if train.endless:
        record["splits"]["train"] = "endless"
    else:
        train = FiniteSplit(readable["train"])
    return TrainingData(found, train, readable["validation"], record)


def require_same_data(then: dict[str, Any], now: dict[str, Any]) -> None:
    """Refuse to resume on data that differ from the ones that training began with.

    Raises:
        RunError: naming the first file that is new, gone or changed.
    """
    if then["labels"] != now["labels"]:
        raise RunError(f"The classes changed since the run began: {then['labels']} then, {now['labels']} now.")
    for split, rows in then["splits"].items():
        if rows == now["splits"].get(split):
            continue
        before, after = ({row["name"]: row["sha256"] for row in side} for side in (rows, now["splits"].get(split, [])))
        changed = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
        raise RunError(
            f"The {split} data changed since the run began: {changed[0]} is new, gone or different "
            f"({len(changed)} files in all).\nPut the old data back, or train a new run."
        )


def names_of(samples: Sequence[Sample], indices: Sequence[int]) -> list[str]:
    """Names of some samples."""
    return [samples[i].name for i in indices]
