"""The checks of ``vitrine verify`` (weights, class names, pictures, predictions, environment), and their result."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NotRequired, TypedDict

import torch

from vitrine.data.samples import Dataset, Sample
from vitrine.display import ResultDisplay
from vitrine.io.files import file_sha256
from vitrine.plotting.tables import Table
from vitrine.results import Progress, agree, count_of, no_progress, shown_number
from vitrine.runs.data import content_sha256
from vitrine.runs.environment import VOCABULARY_SHA256, WEIGHTS_SHA256, describe_environment
from vitrine.runs.folder import RunFolder
from vitrine.runs.record import Annotation, RunRecord, label_of_row, labels_text

Status = Literal["same", "differs", "noted", "not checked"]

# Appended where predictions changed on the same pictures, classes and weights.
_UNEXPLAINED = "; nothing else differs, so that versions, hardware or precision moved them (see environment)"
_SHOWN = 10  # rows and names that a person reads
_ROUNDING = 1e-9  # the tolerance itself is allowed, however it is rounded in binary


@dataclass(frozen=True)
class RerunConfig:
    """How a run's model predicts its validation pictures again.

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
    """One thing that was compared with the run's record.

    Attributes:
        what: "weights", "settings", "class names", "validation pictures", "training pictures", "predictions" or
            "captions", "word pieces", "training copies", "environment".
        status: ``differs`` decides the exit status; ``noted`` may explain a difference but is none itself.
        detail: a sentence.
        examples: names of files, the first few.
    """

    what: str
    status: Status
    detail: str
    examples: tuple[str, ...] = ()


@dataclass(frozen=True)
class ChangedPrediction:
    """A validation picture that has another label or caption than the run recorded.

    Attributes:
        name: of the picture.
        true: its class; None of a captioner's run.
        then, now: the recorded label or caption, and that of the rerun.
        then_score, now_score: the probability of each label, 0 to 1, or the natural log-probability of each caption;
            None where the run recorded none.
    """

    name: str
    true: str | None
    then: str
    now: str
    then_score: float | None
    now_score: float | None


@dataclass(frozen=True, kw_only=True)
class PredictionComparison:
    """The predictions that a run recorded for its validation pictures, beside those of a rerun.

    Attributes:
        noun: what was predicted: labels by a classifier, captions by a captioner.
        measure: what is compared of a classifier's: accuracy, or the exact match of a multi-label one.
        n_recorded: rows of the run's table.
        n_compared: those whose picture could be read.
        changes: those with another label or caption.
        largest_difference: between the two probabilities of one label, or log-probabilities of one caption, in nats;
            None where they were not recorded.
        largest_at: the picture that has it.
        correct_then, correct_now: of the compared pictures, how many labels are the true ones, or how many captions are
            word for word human ones.
        loss_then, loss_now: negative log-likelihood of the true labels or the human captions' tokens, in nats; None
            unless all pictures were compared.
        token_accuracy_then, token_accuracy_now: share of the human captions' tokens that were the likeliest, 0 to 1;
            None of a classifier's run, or unless all pictures were compared.
        precision: of the rerun.
    """

    noun: Literal["labels", "captions"]
    n_recorded: int
    n_compared: int
    changes: tuple[ChangedPrediction, ...]
    largest_difference: float | None
    largest_at: str | None
    correct_then: int
    correct_now: int
    loss_then: float | None = None
    loss_now: float | None = None
    token_accuracy_then: float | None = None
    token_accuracy_now: float | None = None
    precision: str
    measure: str = "accuracy"

    @property
    def share_changed(self) -> float:
        """Share of the compared pictures whose prediction changed; no accuracy can differ by more."""
        return len(self.changes) / self.n_compared if self.n_compared else 0.0

    @property
    def _score(self) -> str:
        return "probability" if self.noun == "labels" else "log_probability"

    def check(self, tolerance: float, earlier: Sequence[Check]) -> Check:
        """Check that no more predictions changed than the tolerance allows.

        Args:
            tolerance: share that may have changed.
            earlier: the checks that were made before, of which one may explain a difference.
        """
        what = "predictions" if self.noun == "labels" else "captions"
        parts = [f"{len(self.changes):,} of {self.n_compared:,} {self.noun} differ (allowed: {100 * tolerance:g} %)"]
        if self.n_compared < self.n_recorded:
            parts.append(f"{count_of(self.n_recorded - self.n_compared, 'recorded picture')} could not be compared")
        detail = "; ".join([*parts, *self._details()])
        if self.share_changed <= tolerance + _ROUNDING:
            return Check(what, "same", detail)
        is_explained = any(check.status == "differs" for check in earlier)
        return Check(what, "differs", detail if is_explained else detail + _UNEXPLAINED)

    def _details(self) -> Iterator[str]:
        """What else is compared, in parts of a sentence."""
        if self.noun == "captions":
            yield f"word for word human ones: {self.correct_then:,} then, {self.correct_now:,} now"
        else:
            then, now = (count / self.n_compared for count in (self.correct_then, self.correct_now))
            yield f"{self.measure} {then:.4f} then, {now:.4f} now"
            if self.loss_then is not None and self.loss_now is not None:
                yield f"loss {self.loss_then:.5f} then, {self.loss_now:.5f} now"
        if self.largest_difference is not None:
            score = self._score.replace("_", "-")
            yield f"the largest difference of a {score} is {self.largest_difference:.2g} ({self.largest_at})"
        elif self.noun == "labels":
            yield "probabilities were not recorded"

    def check_tokens(self, tolerance: float) -> Check:
        """Whether a captioner predicts as many of the human captions' tokens as it did, each from those before it."""
        then, now = self.token_accuracy_then, self.token_accuracy_now
        if then is None or now is None:
            return Check("word pieces", "not checked", "they are measured on all recorded pictures only")
        detail = (
            f"{then:.4f} of them the likeliest then, {now:.4f} now; "
            f"loss {self.loss_then:.5f} then, {self.loss_now:.5f} now"
        )
        return Check("word pieces", "same" if abs(then - now) <= tolerance + _ROUNDING else "differs", detail)

    def table(self, limit: int) -> Table:
        """The first predictions that changed, a row a picture."""
        is_labels, score = self.noun == "labels", self._score.replace("_", "-")
        rows = tuple(
            (
                each.name,
                *((each.true,) if is_labels else ()),
                each.then,
                None if each.then_score is None else shown_number(each.then_score, 4),
                each.now,
                None if each.now_score is None else shown_number(each.now_score, 4),
            )
            for each in self.changes[:limit]
        )
        return Table(("picture", *(("true",) if is_labels else ()), "then", score, "now", f"{score} now"), rows)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        correct: dict[str, Any]
        if self.noun == "labels":
            correct = {
                self.measure.replace(" ", "_"): _then_now(
                    self.correct_then / self.n_compared, self.correct_now / self.n_compared
                )
            }
        else:
            correct = {
                "exact_captions": _then_now(self.correct_then, self.correct_now),
                "piece_accuracy": _then_now(self.token_accuracy_then, self.token_accuracy_now),
            }
        return {
            "recorded": self.n_recorded,
            "compared": self.n_compared,
            f"moved_{self.noun}": len(self.changes),
            "share_moved": self.share_changed,
            f"largest_{self._score}_difference": self.largest_difference,
            "largest_at": self.largest_at,
            **correct,
            "negative_log_likelihood": _then_now(self.loss_then, self.loss_now),
            "precision": self.precision,
            "moved": [
                {
                    "name": each.name,
                    **({"true": each.true} if self.noun == "labels" else {}),
                    "then": each.then,
                    "now": each.now,
                    f"then_{self._score}": each.then_score,
                    f"now_{self._score}": each.now_score,
                }
                for each in self.changes
            ],
        }


def _then_now(then: float | None, now: float | None) -> dict[str, float | None]:
    return {"then": then, "now": now}


@dataclass(frozen=True, repr=False)
class VerificationResult(ResultDisplay):
    """A run compared with its own record.

    Attributes:
        run, data: the run folder, and the reference of the data that it was verified on.
        tolerance: share of the labels or captions that may differ.
        checks: in the order in which they were made.
        predictions: recorded and rerun; None where they could not be made.
    """

    run: str
    data: str
    tolerance: float
    checks: tuple[Check, ...]
    predictions: PredictionComparison | None

    @property
    def same(self) -> bool:
        """Whether nothing differs beyond the tolerance, and the predictions were made."""
        return self.predictions is not None and not self.differences

    @property
    def differences(self) -> tuple[str, ...]:
        """The checks that found a difference, by what they check."""
        return tuple(check.what for check in self.checks if check.status == "differs")

    def headline(self) -> str:
        """The conclusion."""
        return self._conclusion()

    def details(self) -> str:
        """The checks."""
        return self.text()

    def table_rows(self) -> Sequence[Mapping[str, Any]]:
        """A row a check."""
        return [{"check": each.what, "status": each.status, "detail": each.detail} for each in self.checks]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "run": self.run,
            "data": self.data,
            "tolerance": self.tolerance,
            "verified": self.same,
            "differs": list(self.differences),
            "checks": [_plain(vars(check)) for check in self.checks],
            "predictions": None if self.predictions is None else self.predictions.to_dict(),
        }

    def text(self) -> str:
        """The checks, the predictions that changed and the conclusion, as text for a terminal."""
        width = max(len(check.what) for check in self.checks)
        lines = [f"{self.run} on {self.data}", ""]
        for check in self.checks:
            first, *more = check.detail.split("; ")
            more += check.examples[:_SHOWN]
            if len(check.examples) > _SHOWN:
                more.append(f"and {len(check.examples) - _SHOWN} more")
            lines.append(f"{check.what:<{width}}  {check.status:<11}  {first}")
            lines += [f"{'':<{width + 15}}{line}" for line in more]
        if self.predictions is not None and self.predictions.changes:
            lines += ["", self.predictions.table(_SHOWN).text()]
            if len(self.predictions.changes) > _SHOWN:
                lines.append(f"and {len(self.predictions.changes) - _SHOWN} more; --json has all.")
        return "\n".join([*lines, "", self._conclusion()])

    def _conclusion(self) -> str:
        if self.same:
            open_checks = [check.what for check in self.checks if check.status == "not checked"]
            besides = f" Not checked: {', '.join(open_checks)}." if open_checks else ""
            return f"Verified: this run still says what it was recorded to say.{besides}"
        if not self.differences:
            return "Not verified: the predictions could not be made."
        return f"Not verified; what differs: {', '.join(self.differences)}."


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}


@dataclass(frozen=True)
class PictureIndex:
    """Every picture that the data have now.

    Attributes:
        by_name: (sample, sha256) by name; the hash is None where the bytes cannot be had.
        by_hash: names by content.
        split_of: the split of each name.
        annotations: class name or human captions of each name; none of a picture without a class.
    """

    by_name: Mapping[str, tuple[Sample, str | None]]
    by_hash: Mapping[str, tuple[str, ...]]
    split_of: Mapping[str, str]
    annotations: Mapping[str, Annotation]


@dataclass(frozen=True)
class SplitMatch:
    """The recorded pictures of one split, matched with those that the data have now. Names are those of the record.

    Attributes:
        samples: the picture that matches each recorded one: of the same content, or else of the same name.
        missing: pictures of which neither the name nor the content is there.
        content_changes: pictures whose name is there with another content.
        annotation_changes: (name, class or captions then, those of now).
        other_names: pictures whose content is there under another name.
        new: names of now that the record does not have.
    """

    samples: Mapping[str, Sample]
    missing: tuple[str, ...]
    content_changes: tuple[str, ...]
    annotation_changes: tuple[tuple[str, Annotation, Annotation], ...]
    other_names: tuple[str, ...]
    new: tuple[str, ...]


def index_pictures(data: Dataset, progress: Progress = no_progress) -> PictureIndex:
    """Hash every picture of every finite split."""
    splits: dict[str, tuple[Sample, ...]]
    splits = {name: tuple(split) for name, split in data.splits.items() if not split.endless}
    total, by_name, split_of = sum(map(len, splits.values())), {}, {}
    by_hash: dict[str, tuple[str, ...]] = {}
    annotations: dict[str, Annotation] = {}
    for split, samples in splits.items():
        for sample in samples:
            annotation = _annotation(sample, data)
            sha256 = content_sha256(sample)
            by_name[sample.name], split_of[sample.name] = (sample, sha256), split
            if annotation is not None:
                annotations[sample.name] = annotation
            if sha256 is not None:
                by_hash[sha256] = (*by_hash.get(sha256, ()), sample.name)
            progress(len(by_name), total)
    return PictureIndex(by_name, by_hash, split_of, annotations)


def _annotation(sample: Sample, data: Dataset) -> Annotation | None:
    """A picture's class name, or its human captions where the data have no classes."""
    if not data.labels:
        return tuple(sample.captions)
    if data.is_multi_label:
        return labels_text([data.labels[index] for index in sample.label_set])
    return None if sample.label is None else data.labels[sample.label]


def match_split(record: Mapping[str, Any], split: str, index: PictureIndex) -> SplitMatch:
    """Match the pictures of a split of data.json with those of the data.

    Args:
        record: content of data.json.
        split: train or validation; it must be a finite one.
        index: the pictures of the data.
    """
    samples: dict[str, Sample] = {}
    missing, content_changes, other_names, annotation_changes = [], [], [], []
    for row in record["splits"][split]:
        name, sha256 = row["name"], row["sha256"]
        match = index.by_name.get(name)
        if match is None or match[1] != sha256:
            same_content = index.by_hash.get(sha256, ())
            if same_content:
                other_names.append(name)
                match = index.by_name[same_content[0]]
            elif match is None:
                missing.append(name)
                continue
            else:
                content_changes.append(name)
        samples[name] = Sample(name, match[0].picture)
        then = tuple(row["captions"]) if "captions" in row else label_of_row(row, record["labels"])
        now = index.annotations.get(match[0].name)
        if now is not None and now != then:
            annotation_changes.append((name, then, now))
    return SplitMatch(
        samples=samples,
        missing=tuple(missing),
        content_changes=tuple(content_changes),
        annotation_changes=tuple(annotation_changes),
        other_names=tuple(other_names),
        new=_new_names(record, split, index),
    )


def _new_names(record: Mapping[str, Any], split: str, index: PictureIndex) -> tuple[str, ...]:
    """Pictures of a split that data.json has nowhere, neither by name nor by content."""
    names = {row["name"] for row in record["quarantine"]}
    hashes = set()
    for rows in record["splits"].values():
        if not isinstance(rows, str):
            names |= {row["name"] for row in rows}
            hashes |= {row["sha256"] for row in rows}
    return tuple(
        name
        for name, (_, sha256) in index.by_name.items()
        if index.split_of[name] == split and name not in names and sha256 not in hashes
    )


def check_split(record: Mapping[str, Any], split: str, match: SplitMatch) -> Check:
    """Whether a split's pictures are there with the recorded content and class or captions.

    Args:
        record: content of data.json.
        split: train or validation.
        match: of that split.
    """
    what = "training pictures" if split == "train" else f"{split} pictures"
    total = len(record["splits"][split])
    if not match.samples:
        if split == "train":
            return Check(what, "not checked", f"none of the {total:,} is there")
        return Check(what, "differs", f"none of the {total:,} is there", match.missing)
    class_changes = Counter((then, now) for _, then, now in match.annotation_changes if isinstance(then, str))
    caption_changes = len(match.annotation_changes) - class_changes.total()
    differences = [
        *(
            [f"{len(match.content_changes):,} {agree(len(match.content_changes), 'has', 'have')} another content"]
            if match.content_changes
            else []
        ),
        *([f"{len(match.missing):,} {agree(len(match.missing), 'is', 'are')} missing"] if match.missing else []),
        *([f"{len(match.new):,} {agree(len(match.new), 'is', 'are')} new"] if match.new else []),
        *(
            [f"{caption_changes:,} {agree(caption_changes, 'has', 'have')} other human captions"]
            if caption_changes
            else []
        ),
        *(f"{count:,} of class {then} are now of class {now}" for (then, now), count in class_changes.items()),
    ]
    elsewhere = (
        f"; {len(match.other_names):,} {agree(len(match.other_names), 'lies', 'lie')} under other names"
        if match.other_names
        else ""
    )
    if not differences:
        annotation = "class" if "labels" in record else "captions"
        return Check(what, "same", f"all {total:,} have the recorded content and {annotation}{elsewhere}")
    names = (*match.content_changes, *match.missing, *match.new, *(name for name, _, _ in match.annotation_changes))
    return Check(what, "differs", f"of {total:,}: {'; '.join(differences)}{elsewhere}", tuple(dict.fromkeys(names)))


def check_weights(run: RunFolder) -> Check:
    """Whether the weights file has the hash that the run recorded when it was measured."""
    return _check_hash("weights", run, "model.safetensors", WEIGHTS_SHA256)


def check_vocabulary(run: RunFolder) -> Check:
    """Whether a captioner's tokenizer.json has the hash that the run recorded when it was measured."""
    return _check_hash("vocabulary", run, "tokenizer.json", VOCABULARY_SHA256)


def _check_hash(what: str, run: RunFolder, file: str, key: str) -> Check:
    path = run.path / file
    if not path.is_file():
        return Check(what, "differs", f"{file} is missing")
    then = run.read_json("metrics.json", dict[str, Any]).get(key)
    now = file_sha256(path)
    if then is None:
        return Check(what, "not checked", f"the run recorded no hash of {file}; now sha256 {now[:12]}…")
    if then == now:
        return Check(what, "same", f"{file} is the file that was measured (sha256 {now[:12]}…)")
    return Check(what, "differs", f"{file} was sha256 {then[:12]}…, now {now[:12]}…")


class _LabelNames(TypedDict):
    label_names: NotRequired[list[str]]


def check_class_names(record: RunRecord, data: Dataset) -> Check:
    """Whether labels.txt, config.json and the data have the class names that the run recorded in data.json."""
    then = tuple(record.data["labels"])
    config = record.folder.read_json("config.json", _LabelNames)
    files = {"labels.txt": record.folder.read_labels(), "config.json": tuple(config.get("label_names", then))}
    for file, names in files.items():
        if names != then:
            return Check("class names", "differs", f"{file} was changed: {_name_changes(then, names)}")
    if set(data.labels) - set(then):
        return Check("class names", "differs", f"the data have other classes: {_name_changes(then, data.labels)}")
    if set(then) - set(data.labels):
        return Check("class names", "differs", f"the data lack classes: {_name_changes(then, data.labels)}")
    return Check("class names", "same", f"{count_of(len(then), 'class', 'classes')}")


def _name_changes(then: tuple[str, ...], now: tuple[str, ...]) -> str:
    missing, new = ([x for x in one if x not in other] for one, other in ((then, now), (now, then)))
    parts = [f"{', '.join(map(repr, names[:5]))} {word}" for names, word in ((missing, "gone"), (new, "new")) if names]
    return "; ".join(parts) or "their order is another"


def check_environment(run: RunFolder, then_precision: str, precision: str, device: torch.device) -> Check:
    """Versions and hardware then and now: they may explain a difference, and are none themselves.

    Args:
        run: its environment.json is read.
        then_precision: that the run was measured in.
        precision: of the rerun.
        device: of the rerun.
    """
    path = run.path / "environment.json"
    if not path.is_file():
        return Check("environment", "not checked", "the run recorded none")
    now = describe_environment(device) | {"precision": precision}
    before = _flatten({**run.read_environment(), "precision": then_precision})
    after = _flatten(now)
    changes = [
        f"{key} {before[key]} then, {after[key]} now" for key in after if before.get(key, after[key]) != after[key]
    ]
    if changes:
        return Check("environment", "noted", "; ".join(changes))
    return Check("environment", "same", f"versions, {now['device']}, {torch.get_num_threads()} threads, {precision}")


def _flatten(environment: Mapping[str, Any]) -> dict[str, Any]:
    """The packages' versions beside the other entries."""
    return {**{key: v for key, v in environment.items() if key != "packages"}, **environment.get("packages", {})}
