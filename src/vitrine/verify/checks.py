"""What ``vitrine verify`` found: what of a run is as it was recorded, and what is not."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

import torch

from vitrine.data.captions.datasets import CaptionData, CaptionedSample
from vitrine.data.samples import LabelledData, Sample
from vitrine.models.reference import file_sha256
from vitrine.plotting.tables import Table
from vitrine.results import Progress, no_progress, shown_number
from vitrine.runs.data import content_sha256
from vitrine.runs.environment import VOCABULARY_SHA256, WEIGHTS_SHA256, describe_environment
from vitrine.runs.folder import RunFolder
from vitrine.runs.record import RunRecord

Status = Literal["same", "differs", "noted", "not checked"]

# Of predictions that moved on the same pictures, classes and weights.
_UNEXPLAINED = "; nothing else differs, so that versions, hardware or precision moved them (see environment)"
_MOST = 10  # rows and names that a person reads


@dataclass(frozen=True)
class RerunConfig:
    """How predictions are made again.

    Attributes:
        precision: fp32 or bf16.
        batch_size: pictures at a time.
        tolerance: share of them that may differ, 0 to 1.
        progress: called with pictures done, of how many.
    """

    precision: str
    batch_size: int
    tolerance: float
    progress: Progress


@dataclass(frozen=True)
class Check:
    """One thing that was held against the record.

    Attributes:
        what: "weights", "class names", "validation pictures", "training pictures", "predictions" or "captions",
            "word pieces", "environment".
        status: ``differs`` decides the exit status; ``noted`` may explain a difference but is none itself.
        detail: a sentence.
        examples: names of files, the first few.
    """

    what: str
    status: Status
    detail: str
    examples: tuple[str, ...] = ()


@dataclass(frozen=True)
class MovedLabel:
    """A validation picture that is called otherwise than it was.

    The probabilities, 0 to 1, are of the label of then, then, and of the label of now, now; None where not recorded.
    """

    name: str
    true: str
    then: str
    now: str
    then_probability: float | None
    now_probability: float


@dataclass(frozen=True)
class MovedCaption:
    """A validation picture that has another caption than it had, with the natural log-probabilities of both."""

    name: str
    then: str
    now: str
    then_log_probability: float
    now_log_probability: float


Moved = TypeVar("Moved", bound=MovedLabel | MovedCaption)


@dataclass(frozen=True, kw_only=True)
class Compared(Generic[Moved]):
    """What a run recorded of its validation pictures and what it says of them now, row by row.

    Attributes:
        recorded: rows of the run's table.
        compared: those whose picture could be read.
        moved: those with another label or caption.
        largest: difference of the probabilities of a label that is the same, or of the log-probabilities of a caption
            that is, in nats; None where they were not recorded.
        largest_at: the picture that has it.
        loss_then, loss_now: negative log-likelihood in nats; None unless all pictures were compared.
        precision: what was computed in now.
    """

    recorded: int
    compared: int
    moved: tuple[Moved, ...]
    largest: float | None
    largest_at: str | None
    loss_then: float | None = None
    loss_now: float | None = None
    precision: str

    @property
    def share_moved(self) -> float:
        """Share of the compared pictures that moved; no accuracy can move by more."""
        return len(self.moved) / self.compared if self.compared else 0.0

    def check(self, what: str, noun: str, details: Sequence[str], tolerance: float, before: Sequence[Check]) -> Check:
        """The check of this comparison.

        Args:
            what: its name.
            noun: what moved, in the plural.
            details: further parts of its sentence.
            tolerance: share that may have moved.
            before: the checks that were made before, of which one may explain a difference.
        """
        parts = [f"{len(self.moved):,} of {self.compared:,} {noun} differ (allowed: {100 * tolerance:g} %)"]
        if self.compared < self.recorded:
            parts.append(f"{self.recorded - self.compared:,} recorded pictures could not be compared")
        told = "; ".join([*parts, *details])
        if self.share_moved <= tolerance + 1e-9:
            return Check(what, "same", told)
        explained = any(check.status == "differs" for check in before)
        return Check(what, "differs", told if explained else told + _UNEXPLAINED)


@dataclass(frozen=True, kw_only=True)
class RowsCompared(Compared[MovedLabel]):
    """The recorded predictions and those of now.

    Attributes:
        accuracy_then, accuracy_now: on the compared pictures, 0 to 1.
    """

    accuracy_then: float
    accuracy_now: float

    def table(self, most: int) -> Table:
        """The first labels that moved, a row a picture."""
        rows = tuple(
            (each.name, each.true, each.then, _share(each.then_probability), each.now, _share(each.now_probability))
            for each in self.moved[:most]
        )
        return Table(("picture", "true", "then", "probability", "now", "probability now"), rows)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "recorded": self.recorded,
            "compared": self.compared,
            "moved_labels": len(self.moved),
            "share_moved": self.share_moved,
            "largest_probability_difference": self.largest,
            "largest_at": self.largest_at,
            "accuracy": {"then": self.accuracy_then, "now": self.accuracy_now},
            "negative_log_likelihood": {"then": self.loss_then, "now": self.loss_now},
            "precision": self.precision,
            "moved": [vars(each) for each in self.moved],
        }


@dataclass(frozen=True, kw_only=True)
class CaptionsCompared(Compared[MovedCaption]):
    """The recorded captions and those of now; losses are of the human captions' word pieces.

    Attributes:
        exact_then, exact_now: of the compared pictures, how many captions are word for word one of their own.
        pieces_then, pieces_now: share of the human captions' word pieces that were the likeliest, 0 to 1; None unless
            all pictures were compared.
    """

    exact_then: int
    exact_now: int
    pieces_then: float | None = None
    pieces_now: float | None = None

    def table(self, most: int) -> Table:
        """The first captions that moved, a row a picture."""
        rows = tuple(
            (
                each.name,
                each.then,
                shown_number(each.then_log_probability, 4),
                each.now,
                shown_number(each.now_log_probability, 4),
            )
            for each in self.moved[:most]
        )
        return Table(("picture", "then", "log-probability", "now", "log-probability now"), rows)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "recorded": self.recorded,
            "compared": self.compared,
            "moved_captions": len(self.moved),
            "share_moved": self.share_moved,
            "largest_log_probability_difference": self.largest,
            "largest_at": self.largest_at,
            "exact_captions": {"then": self.exact_then, "now": self.exact_now},
            "piece_accuracy": {"then": self.pieces_then, "now": self.pieces_now},
            "negative_log_likelihood": {"then": self.loss_then, "now": self.loss_now},
            "precision": self.precision,
            "moved": [vars(each) for each in self.moved],
        }


@dataclass(frozen=True)
class VerificationResult:
    """A run held against its own record.

    Attributes:
        run, data: what was verified, on what.
        tolerance: share of the labels or captions that may differ.
        checks: in the order in which they were made.
        rows: the predictions; None where they could not be made.
    """

    run: str
    data: str
    tolerance: float
    checks: tuple[Check, ...]
    rows: RowsCompared | CaptionsCompared | None

    @property
    def same(self) -> bool:
        """Whether nothing differs beyond the tolerance, and the predictions were made."""
        return self.rows is not None and not self.differing

    @property
    def differing(self) -> tuple[str, ...]:
        """What differs."""
        return tuple(check.what for check in self.checks if check.status == "differs")

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "run": self.run,
            "data": self.data,
            "tolerance": self.tolerance,
            "verified": self.same,
            "differs": list(self.differing),
            "checks": [_plain(vars(check)) for check in self.checks],
            "predictions": None if self.rows is None else self.rows.to_dict(),
        }

    def text(self) -> str:
        """For a terminal."""
        width = max(len(check.what) for check in self.checks)
        lines = [f"{self.run} on {self.data}", ""]
        for check in self.checks:
            first, *more = check.detail.split("; ")
            more += check.examples[:_MOST]
            if len(check.examples) > _MOST:
                more.append(f"and {len(check.examples) - _MOST} more")
            lines.append(f"{check.what:<{width}}  {check.status:<11}  {first}")
            lines += [f"{'':<{width + 15}}{line}" for line in more]
        if self.rows is not None and self.rows.moved:
            lines += ["", self.rows.table(_MOST).text()]
            if len(self.rows.moved) > _MOST:
                lines.append(f"and {len(self.rows.moved) - _MOST} more; --json has all.")
        return "\n".join([*lines, "", self._conclusion()])

    def _conclusion(self) -> str:
        if self.same:
            unseen = [check.what for check in self.checks if check.status == "not checked"]
            besides = f" Not checked: {', '.join(unseen)}." if unseen else ""
            return f"Verified: this run still says what it was recorded to say.{besides}"
        if not self.differing:
            return "Not verified: the predictions could not be made."
        return f"Not verified; what differs: {', '.join(self.differing)}."


def _share(value: float | None) -> str | None:
    return None if value is None else f"{value:.4f}"


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}


Annotation = str | tuple[str, ...]
"""What data say of a picture: the name of its class, or its captions."""


@dataclass(frozen=True)
class PictureIndex:
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
    said: Mapping[str, Annotation]


@dataclass(frozen=True)
class SplitMatch:
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
    relabelled: tuple[tuple[str, Annotation, Annotation], ...]
    elsewhere: tuple[str, ...]
    new: tuple[str, ...]


def index_pictures(data: LabelledData | CaptionData, progress: Progress = no_progress) -> PictureIndex:
    """Hash every picture of every finite split."""
    splits: dict[str, tuple[Sample | CaptionedSample, ...]]
    splits = {name: tuple(split) for name, split in data.splits.items() if not split.endless}
    total, by_name, split_of = sum(map(len, splits.values())), {}, {}
    by_hash: dict[str, tuple[str, ...]] = {}
    said: dict[str, Annotation] = {}
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
    return PictureIndex(by_name, by_hash, split_of, said)


def _said(each: Sample | CaptionedSample, data: LabelledData | CaptionData) -> tuple[Sample, Annotation | None]:
    """A picture, and what is said of it."""
    if isinstance(each, CaptionedSample):
        return each.unlabelled, each.captions
    assert isinstance(data, LabelledData)
    return each, None if each.label is None else data.labels[each.label]


def match_split(record: Mapping[str, Any], split: str, present: PictureIndex) -> SplitMatch:
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
    return SplitMatch(
        samples, tuple(missing), tuple(changed), tuple(relabelled), tuple(elsewhere), _new(record, split, present)
    )


def _new(record: Mapping[str, Any], split: str, present: PictureIndex) -> tuple[str, ...]:
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


def check_split(record: Mapping[str, Any], split: str, found: SplitMatch) -> Check:
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


def check_weights(run: RunFolder) -> Check:
    """The hash of the weights beside the one that the run recorded when it was measured."""
    return _hash_check("weights", run, "model.safetensors", WEIGHTS_SHA256)


def check_vocabulary(run: RunFolder) -> Check:
    """The same of a captioner's word pieces."""
    return _hash_check("vocabulary", run, "tokenizer.json", VOCABULARY_SHA256)


def _hash_check(what: str, run: RunFolder, file: str, key: str) -> Check:
    path = run.path / file
    if not path.is_file():
        return Check(what, "differs", f"{file} is missing")
    then = json.loads((run.path / "metrics.json").read_text("utf-8")).get(key)
    now = file_sha256(path)
    if then is None:
        return Check(what, "not checked", f"the run recorded no hash of {file}; now sha256 {now[:12]}…")
    if then == now:
        return Check(what, "same", f"{file} is the file that was measured (sha256 {now[:12]}…)")
    return Check(what, "differs", f"{file} was sha256 {then[:12]}…, now {now[:12]}…")


def check_class_names(record: RunRecord, found: LabelledData) -> Check:
    """Class names in the run's files and in the data."""
    then = tuple(record.data["labels"])
    config = json.loads((record.folder.path / "config.json").read_text("utf-8"))
    places = {"labels.txt": record.folder.read_labels(), "config.json": tuple(config.get("label_names", then))}
    for place, names in places.items():
        if names != then:
            return Check("class names", "differs", f"{place} was changed: {_difference(then, names)}")
    if set(found.labels) - set(then):
        return Check("class names", "differs", f"the data have other classes: {_difference(then, found.labels)}")
    if len(set(then) - set(found.labels)):
        return Check("class names", "differs", f"the data lack classes: {_difference(then, found.labels)}")
    return Check("class names", "same", f"{len(then)} classes")


def _difference(then: tuple[str, ...], now: tuple[str, ...]) -> str:
    gone, new = ([x for x in one if x not in other] for one, other in ((then, now), (now, then)))
    told = [f"{', '.join(map(repr, names[:5]))} {word}" for names, word in ((gone, "gone"), (new, "new")) if names]
    return "; ".join(told) or "their order is another"


def check_environment(run: RunFolder, then_precision: str, precision: str, device: torch.device) -> Check:
    """Versions and hardware then and now: no difference by itself, but what may explain one."""
    path = run.path / "environment.json"
    if not path.is_file():
        return Check("environment", "not checked", "the run recorded none")
    then = json.loads(path.read_text("utf-8"))
    now = describe_environment(device) | {"precision": precision}
    then["precision"] = then_precision
    before, after = _flat(then), _flat(now)
    different = [
        f"{key} {before[key]} then, {after[key]} now" for key in after if before.get(key, after[key]) != after[key]
    ]
    if different:
        return Check("environment", "noted", "; ".join(different))
    return Check("environment", "same", f"versions, {now['device']}, {torch.get_num_threads()} threads, {precision}")


def _flat(environment: Mapping[str, Any]) -> dict[str, Any]:
    return {**{key: v for key, v in environment.items() if key != "packages"}, **environment.get("packages", {})}
