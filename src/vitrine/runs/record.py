"""Finished runs read back: what a run recorded of itself, its row in a table of runs, its settings as flat values."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias, TypedDict

from vitrine.config import Recipe
from vitrine.errors import RunError, error_summary
from vitrine.io.resumable_csv import complete_records
from vitrine.io.untrusted_files import require_shape
from vitrine.metrics.caption_text import tokenise
from vitrine.metrics.intervals import wilson
from vitrine.models.captioner_folder import is_captioner_folder
from vitrine.plotting.tables import Cell
from vitrine.results import (
    MULTI_LABEL,
    OVER_PICTURES,
    CaptioningMetrics,
    ClassificationMetrics,
    Interval,
    MultiLabelMetrics,
    agree,
    classifier_metrics_from_dict,
    count_of,
)
from vitrine.runs.folder import RunFolder
from vitrine.runs.leakage import (
    ACCURACY,
    EXACT_CAPTIONS,
    EXACT_LABELS,
    TRAINING_COPIES,
    Leakage,
    count_leakage,
    recorded_copies,
)
from vitrine.runs.schema import CaptioningContent, ClassificationContent, DataContent, MultiLabelContent, PictureRow
from vitrine.runs.setting_changes import SettingChange, read_changes

DATA = "training pictures"
"""The name, among a run's settings, of what it was trained on."""

CHANGES = "changed while training"
"""The name, among a run's settings, of what it was resumed with and had not begun with; only such a run has it."""

SHOWN = {
    "model": "model",
    "image_size": "input",
    "pretrained": "pretrained",
    "batch_size": "batch",
    "learning_rate": "learning rate",
    "weight_decay": "weight decay",
    "transforms": "transforms",
    "epochs": "epochs",
}
"""Settings that every comparison shows, and the names of their columns."""

# Recipe fields that change nothing in the result, or that a later training of the same recipe may have otherwise.
_IGNORED_FIELDS = ("name", "description", "workers", "trackers", "checkpoint_minutes", "max_unreadable")
_ROUNDING = 1e-6  # metrics.json keeps six decimals

Annotation: TypeAlias = str | tuple[str, ...]
"""What a data set says of a picture: the name of its class, or its human captions."""


@dataclass(frozen=True)
class RunRow:
    """A classifier's run as a row of a table.

    Attributes:
        name: what tables and figures call it.
        settings: what was set, by name; the same names in every row.
        accuracy, interval: on its validation pictures, 0 to 1, with the 95 % interval (Wilson).
        n: validation pictures.
        loss: negative log-likelihood, mean over the pictures, in nats.
        calibration_error: expected calibration error, 0 to 1.
        best_epoch: whose weights these are, from 1.
        pictures_per_second: of training, over all epochs; None where no times were kept.
        peak_memory_mib: the largest resident memory of the process; None likewise.
        seconds: of training and measuring its epochs; None likewise.
        leakage: validation pictures that also stand in training; None where that cannot be known.
    """

    name: str
    settings: Mapping[str, Cell]
    accuracy: float
    interval: Interval
    n: int
    loss: float
    calibration_error: float
    best_epoch: int
    pictures_per_second: float | None
    peak_memory_mib: float | None
    seconds: float | None
    leakage: Leakage | None = None

    @property
    def score(self) -> float:
        """What runs are ranked by."""
        return self.accuracy

    def outcome(self) -> dict[str, Cell]:
        """The results by column, as tables show them."""
        return {
            "accuracy": f"{self.accuracy:.4f}",
            OVER_PICTURES: f"{self.interval.low:.4f} to {self.interval.high:.4f}",
            "n": self.n,
            "loss": f"{self.loss:.4f}",
            "calibration error": f"{self.calibration_error:.4f}",
            "best epoch": self.best_epoch,
            "pictures/s": _whole(self.pictures_per_second),
            "peak MiB": _whole(self.peak_memory_mib),
            "seconds": _whole(self.seconds),
        }


@dataclass(frozen=True)
class CaptionerRow:
    """A captioner's run as a row of a table. Its accuracy is of word pieces, so it is not in the classifiers' table.

    Attributes:
        name: what tables call it.
        accuracy: share of word pieces that were the likeliest after those before them, 0 to 1.
        pieces: how many there were.
        n: validation pictures.
        loss: mean over the pieces, in nats.
        exact, exact_interval: pictures whose caption is word for word one of their own, and the 95 % interval of their
            share (Wilson).
        settings: what was set, by name; the same names in every row.
        leakage: validation pictures that also stand in training; None where that cannot be known.
    """

    name: str
    accuracy: float
    pieces: int
    n: int
    loss: float
    exact: int
    exact_interval: Interval
    settings: Mapping[str, Cell]
    leakage: Leakage | None = None

    @property
    def score(self) -> float:
        """What runs are ranked by."""
        return self.accuracy


@dataclass(frozen=True)
class MultiLabelRow:
    """A multi-label classifier's run as a row of a table; it is not in the table of classifiers of one label.

    Attributes:
        name: what tables call it.
        mean_average_precision, interval: on its validation pictures, 0 to 1, with the 95 % interval; None with too few.
        macro_f1, micro_f1: at a threshold of 0.5, 0 to 1.
        exact: share of pictures all of whose labels are right.
        n: validation pictures.
        loss: binary cross-entropy, mean over pictures and labels, in nats.
        best_epoch: whose weights these are, from 1.
        settings: what was set, by name; the same names in every row.
        leakage: validation pictures that also stand in training; None where that cannot be known.
    """

    name: str
    mean_average_precision: float
    interval: Interval | None
    macro_f1: float
    micro_f1: float
    exact: float
    n: int
    loss: float
    best_epoch: int
    settings: Mapping[str, Cell]
    leakage: Leakage | None = None

    @property
    def score(self) -> float:
        """What runs are ranked by."""
        return self.mean_average_precision


AnyRow: TypeAlias = RunRow | MultiLabelRow | CaptionerRow


def _whole(value: float | None) -> int | None:
    return None if value is None else round(value)


@dataclass(frozen=True)
class RecordedPrediction:
    """A row of a run's predictions.csv or captions.csv.

    Attributes:
        text: the label, or the caption.
        score: the label's probability, 0 to 1, where the table has one; the caption's natural log-probability.
    """

    text: str
    score: float | None


@dataclass(frozen=True)
class RunRecord:
    """What a finished run of a classifier or a captioner recorded of itself.

    Attributes:
        name: what a comparison calls it.
        folder: its files.
        recipe: resolved.
        metrics: on its validation pictures.
        data: content of data.json.
    """

    name: str
    folder: RunFolder
    recipe: Recipe
    metrics: ClassificationMetrics | MultiLabelMetrics | CaptioningMetrics
    data: DataContent

    @property
    def is_captioner(self) -> bool:
        """Whether a captioner was trained, not a classifier."""
        return isinstance(self.metrics, CaptioningMetrics)

    @property
    def is_multi_label(self) -> bool:
        """Whether a multi-label classifier was trained."""
        return isinstance(self.metrics, MultiLabelMetrics)

    @property
    def classification_metrics(self) -> ClassificationMetrics:
        """:attr:`metrics` of a classifier's run."""
        assert isinstance(self.metrics, ClassificationMetrics)
        return self.metrics

    @property
    def captioning_metrics(self) -> CaptioningMetrics:
        """:attr:`metrics` of a captioner's run."""
        assert isinstance(self.metrics, CaptioningMetrics)
        return self.metrics

    @property
    def validation_rows(self) -> list[PictureRow]:
        """The validation pictures as data.json has them."""
        rows = self.data["splits"]["validation"]
        assert isinstance(rows, list)
        return rows

    @cached_property
    def pictures(self) -> frozenset[tuple[str, str]]:
        """(name, sha256) of every validation picture."""
        return frozenset((row["name"], row["sha256"]) for row in self.validation_rows)

    @cached_property
    def true_labels(self) -> dict[str, str]:
        """The class name of each validation picture of a classifier's run, by the picture's name.

        Of a multi-label run, all its labels as one text; see :func:`labels_text`.
        """
        labels = self.data["labels"]
        return {row["name"]: label_of_row(row, labels) for row in self.validation_rows}

    @cached_property
    def human_captions(self) -> dict[str, tuple[str, ...]]:
        """The human captions of each validation picture of a captioner's run, by the picture's name."""
        return {row["name"]: tuple(row["captions"]) for row in self.validation_rows}

    @property
    def annotations(self) -> Mapping[str, Annotation]:
        """:attr:`human_captions` of a captioner's run, :attr:`true_labels` of a classifier's."""
        return self.human_captions if self.is_captioner else self.true_labels

    @cached_property
    def predictions(self) -> dict[str, RecordedPrediction]:
        """What the run predicted for each validation picture, by the picture's name, in the order of the data.

        Raises:
            RunError: the table is missing, or is of other pictures or results than data.json and metrics.json.
        """
        table = "captions.csv" if self.is_captioner else "predictions.csv"
        if self.is_multi_label:
            rows = read_multi_label_predictions(self.folder.path, self.data["labels"])
        else:
            rows = (read_captions if self.is_captioner else read_label_predictions)(self.folder.path)
        if rows.keys() != self.annotations.keys():
            count = len(rows.keys() ^ self.annotations.keys())
            raise RunError(f"{table} in {self.folder.path} is of other pictures than data.json ({count}).")
        predictions = {name: rows[name] for name in self.annotations}
        self._check_metrics(sum(is_correct(predictions[name].text, each) for name, each in self.annotations.items()))
        return predictions

    def _check_metrics(self, correct: int) -> None:
        """Compare how many predictions are correct with metrics.json."""
        if self.is_captioner:
            if correct != self.recorded_exact:
                raise RunError(
                    f"In {self.folder.path}, {count_of(correct, 'caption')} of captions.csv "
                    f"{agree(correct, 'is word for word a human one', 'are word for word human ones')}, "
                    f"metrics.json says {self.recorded_exact}: one of them was changed."
                )
            return
        accuracy = correct / max(1, len(self.annotations))
        if abs(accuracy - self.metrics.accuracy) > _ROUNDING:
            what = "exact match" if self.is_multi_label else "accuracy"
            raise RunError(
                f"In {self.folder.path}, predictions.csv gives an {what} of {accuracy:.4f}, metrics.json says "
                f"{self.metrics.accuracy:.4f}: one of them was changed."
            )

    @cached_property
    def leakage(self) -> Leakage | None:
        """The validation pictures that also stand in training, and what the run comes to without them.

        None where the training pictures were not listed, so that it cannot be known.

        Raises:
            RunError: data.json or the table of predictions is damaged.
        """
        copies = recorded_copies(self.data)
        if copies is None:
            return None
        measure = EXACT_CAPTIONS if self.is_captioner else EXACT_LABELS if self.is_multi_label else ACCURACY
        near_checked = TRAINING_COPIES in self.data
        if not copies:  # the table of predictions need not be read for it
            n = len(self.annotations)
            right = self.recorded_exact if self.is_captioner else round(n * self.metrics.accuracy)
            return Leakage("validation", measure, n, right, near_checked=near_checked)
        is_right = {name: self.is_correct(name) for name in self.annotations}
        return count_leakage(copies, is_right, split="validation", measure=measure, near_checked=near_checked)

    def is_correct(self, name: str) -> bool:
        """Whether a picture's label is the true one, or its caption word for word one of its human captions."""
        return is_correct(self.predictions[name].text, self.annotations[name])

    @property
    def recorded_exact(self) -> int:
        """Of a captioner's run: pictures whose caption is word for word a human one, as metrics.json has it."""
        return int(self.captioning_metrics.scores["predicted"]["exact"]["n"])

    @cached_property
    def changes(self) -> tuple[SettingChange, ...]:
        """Settings that were changed while it trained: its recipe has those that it ended with."""
        return read_changes(self.folder)

    @cached_property
    def validation(self) -> str:
        """A hash of the validation pictures with their labels or captions, whatever their order."""
        rows = ((name, sha256, self.annotations[name]) for name, sha256 in self.pictures)
        return digest((name, sha256, *((each,) if isinstance(each, str) else each)) for name, sha256, each in rows)

    @cached_property
    def settings(self) -> Mapping[str, Cell]:
        """Everything that decides what comes out; see :func:`flat_settings`."""
        size = self.recipe.image_size or self._image_size()
        changes = {CHANGES: "; ".join(each.sentence() for each in self.changes)} if self.changes else {}
        return flat_settings(self.recipe) | {"image_size": size, DATA: describe_training_pictures(self.data)} | changes

    def _image_size(self) -> int:
        if self.is_captioner:
            return self.folder.read_json("config.json", _CaptionerConfig)["input"]["long_side"]
        return self.folder.read_json("config.json", _ClassifierConfig)["pretrained_cfg"]["input_size"][-1]

    def row(self, settings: Mapping[str, Cell]) -> AnyRow:
        """The run as a row of the table, with the settings that the table shows."""
        m = self.metrics
        if isinstance(m, CaptioningMetrics):
            exact = self.recorded_exact
            return CaptionerRow(
                name=self.name,
                accuracy=m.accuracy,
                pieces=m.pieces,
                n=m.n,
                loss=m.negative_log_likelihood,
                exact=exact,
                exact_interval=wilson(exact, m.n),
                settings=dict(settings),
                leakage=self.leakage,
            )
        best = self.folder.read_best_epoch()
        if isinstance(m, MultiLabelMetrics):
            return MultiLabelRow(
                name=self.name,
                mean_average_precision=m.mean_average_precision,
                interval=m.mean_average_precision_interval,
                macro_f1=m.macro_f1,
                micro_f1=m.micro_f1,
                exact=m.accuracy,
                n=m.n,
                loss=m.negative_log_likelihood,
                best_epoch=best,
                settings=dict(settings),
                leakage=self.leakage,
            )
        timings = self.folder.read_timings()
        train_seconds = sum(row["train_seconds"] for row in timings)
        return RunRow(
            name=self.name,
            settings=dict(settings),
            accuracy=m.accuracy,
            interval=m.accuracy_interval,
            n=m.n,
            loss=m.negative_log_likelihood,
            calibration_error=m.calibration_error,
            best_epoch=best,
            pictures_per_second=sum(row["pictures"] for row in timings) / train_seconds if train_seconds else None,
            peak_memory_mib=max((row["peak_memory_mib"] for row in timings), default=None),
            seconds=train_seconds + sum(row["evaluation_seconds"] for row in timings) if timings else None,
            leakage=self.leakage,
        )


class _LongSide(TypedDict):
    long_side: int


class _CaptionerConfig(TypedDict):
    input: _LongSide


class _InputSize(TypedDict):
    input_size: tuple[int, int, int]


class _ClassifierConfig(TypedDict):
    pretrained_cfg: _InputSize


RecordReader: TypeAlias = Callable[[str, RunFolder], RunRecord]
"""From a name and a folder to the record of the run in it."""


def read_record(name: str, folder: RunFolder, metrics_content: Mapping[str, Any] | None = None) -> RunRecord:
    """Read a finished run of a classifier or a captioner; ``metrics_content`` stands for a metrics.json to be written.

    Raises:
        RunError: a file is missing or cannot be read.
    """
    data, is_captioner = folder.read_data(), is_captioner_folder(folder.path)
    for split in ("validation", "train"):
        rows = data["splits"].get(split)
        if split == "train" and isinstance(rows, str):  # an endless stream is described
            continue
        if not isinstance(rows, list) or not _has_annotations(data, rows, is_captioner=is_captioner):
            noun = "captions" if is_captioner else "labels"
            raise RunError(f"{folder.path / 'data.json'} does not list {split} pictures with {noun}.")
    content = folder.read_json("metrics.json", dict[str, Any]) if metrics_content is None else metrics_content
    metrics = parse_metrics(content, folder.path / "metrics.json", is_captioner=is_captioner)
    return RunRecord(name, folder, folder.read_recipe(), metrics, data)


def _has_annotations(data: DataContent, rows: Sequence[PictureRow], *, is_captioner: bool) -> bool:
    if is_captioner:
        return all("captions" in row for row in rows)
    return "labels" in data and all("label" in row or "labels" in row for row in rows)


def parse_metrics(
    content: Mapping[str, Any], path: Path, *, is_captioner: bool
) -> ClassificationMetrics | MultiLabelMetrics | CaptioningMetrics:
    """The metrics in a metrics.json, ``path``, of whichever kind they are.

    Raises:
        RunError: what was expected, what was found and where.
    """
    is_multi_label = content.get("kind") == MULTI_LABEL
    shape = CaptioningContent if is_captioner else MultiLabelContent if is_multi_label else ClassificationContent
    try:
        require_shape(content, shape)
        return CaptioningMetrics.from_dict(content) if is_captioner else classifier_metrics_from_dict(content)
    except (ValueError, KeyError, TypeError) as error:  # classes in one part that the other does not have
        noun = "captioner" if is_captioner else "classifier"
        raise RunError(f"{path} is not a {noun}'s metrics: {error_summary(error)}.") from error


def labels_text(labels: Sequence[str]) -> str:
    """The labels of a picture of multi-label data, in class order, as one text; "none" where it has none."""
    return " + ".join(labels) or "none"


def label_of_row(row: Mapping[str, Any], labels: Sequence[str]) -> str:
    """The class of a row of data.json, by its name; of multi-label data, all its labels as one text."""
    return labels_text([labels[index] for index in row["labels"]]) if "labels" in row else labels[row["label"]]


def is_correct(prediction: str, annotation: Annotation) -> bool:
    """Whether a label is the true one, or a caption word for word one of the human captions that have a word."""
    if isinstance(annotation, str):
        return prediction == annotation
    return tokenise(prediction) in {words for words in map(tokenise, annotation) if words}


def read_predictions(run: Path) -> list[dict[str, str]]:
    """Read the rows of a run's predictions.csv, by column.

    Raises:
        RunError: there is none, or it has no columns filename and label.
    """
    path = run / "predictions.csv"
    header, *rows = _read_table(path)
    if header[:2] != ["filename", "label"] or any(len(row) != len(header) for row in rows):
        raise RunError(f"{path} is not a table of predictions: expected the columns filename,label.")
    return [dict(zip(header, row, strict=True)) for row in rows]


def read_label_predictions(run: Path) -> dict[str, RecordedPrediction]:
    """The rows of a run's predictions.csv by picture.

    Raises:
        RunError: there is none, it has no columns filename and label, or a probability is no number.
    """
    rows = read_predictions(run)
    try:
        return {
            row["filename"]: RecordedPrediction(
                row["label"], float(row["probability"]) if "probability" in row else None
            )
            for row in rows
        }
    except ValueError as error:
        raise RunError(f"{run / 'predictions.csv'} has a probability that is no number ({error}).") from error


def read_multi_label_predictions(run: Path, labels: Sequence[str]) -> dict[str, RecordedPrediction]:
    """The labels of each picture of a multi-label run's predictions.csv, as one text.

    The score is the probability of the surest one, as it stands first; None where a picture was given no label.

    Raises:
        RunError: there is no table, it is not one of labels with probabilities, or it has another label.
    """
    order = {label: index for index, label in enumerate(labels)}
    rows_by_name: dict[str, list[tuple[str, str]]] = {}
    for row in read_predictions(run):
        pairs = rows_by_name.setdefault(row["filename"], [])
        if row["label"]:
            pairs.append((row["label"], row.get("probability", "")))
    try:
        return {
            name: RecordedPrediction(
                labels_text(sorted((label for label, _ in pairs), key=lambda label: order[label])),
                float(pairs[0][1]) if pairs else None,
            )
            for name, pairs in rows_by_name.items()
        }
    except (KeyError, ValueError) as error:
        raise RunError(
            f"{run / 'predictions.csv'} has a label or a probability that cannot be used: {error}."
        ) from error


def read_captions(run: Path) -> dict[str, RecordedPrediction]:
    """Read the rows of a run's captions.csv, by picture.

    Raises:
        RunError: there is none, or it has other columns.
    """
    path = run / "captions.csv"
    header, *rows = _read_table(path)
    try:
        if header != ["filename", "caption", "log_probability"]:
            raise ValueError(header)
        return {name: RecordedPrediction(caption, float(score)) for name, caption, score in rows}
    except ValueError as error:
        raise RunError(f"{path} is no table of captions: expected filename,caption,log_probability.") from error


def _read_table(path: Path) -> list[list[str]]:
    """Header and rows of a run's CSV file; an empty header of an empty file."""
    if not path.is_file():
        raise RunError(f"{path.parent} has no {path.name}, so there is nothing to compare with. Train the run again.")
    return [fields for _, fields in complete_records(path)] or [[]]


def flat_settings(recipe: Recipe) -> dict[str, Cell]:
    """A recipe as plain values: ``transforms`` is a name, ``transforms.rotation`` and ``caption.width`` are numbers."""
    flat: dict[str, Cell] = {}
    for field in fields(Recipe):
        value = getattr(recipe, field.name)
        if field.name in _IGNORED_FIELDS:
            continue
        if field.name == "transforms":
            flat["transforms"] = value.name
            flat |= {f"transforms.{f.name}": _cell(getattr(value, f.name)) for f in fields(value)}
            del flat["transforms.name"]
        elif field.name == "model_args":
            flat |= {f"model_args.{key}": _cell(each) for key, each in value.items()}
        elif field.name != "caption":
            flat[field.name] = _cell(value)
        elif value is not None:
            flat |= {f"caption.{f.name}": _cell(getattr(value, f.name)) for f in fields(value)}
    return flat


def describe_training_pictures(data: Mapping[str, Any]) -> str:
    """A short description of a run's training pictures, which differs where the pictures, classes or captions do."""
    rows = data["splits"]["train"]
    if isinstance(rows, str):
        return f"{rows}: {data['reference']}"
    parts = ((row["name"], row["sha256"], *_target_words(row)) for row in rows)
    return f"{len(rows):,} ({digest(parts, 6)})"


def _target_words(row: Mapping[str, Any]) -> Sequence[str]:
    """What a row of data.json says of its picture: captions, labels or a class."""
    if "captions" in row:
        captions: Sequence[str] = row["captions"]
        return captions
    return [str(index) for index in row["labels"]] if "labels" in row else [str(row["label"])]


def varying_settings(settings: Sequence[Mapping[str, Cell]]) -> frozenset[str]:
    """Names of the settings in which any two runs differ, in the sense of :func:`differing_settings`."""
    by_transforms: dict[Cell, list[Mapping[str, Cell]]] = {}
    for each in settings:
        by_transforms.setdefault(each.get("transforms"), []).append(each)
    names = {name for each in settings for name in each}
    whole = {name for name in names if not name.startswith("transforms.")}
    groups = [(whole, settings), *((names - whole, alike) for alike in by_transforms.values())]
    return frozenset(name for some, runs in groups for name in some if len({each.get(name) for each in runs}) > 1)


def differing_settings(one: Mapping[str, Cell], other: Mapping[str, Cell]) -> tuple[str, ...]:
    """Names of the settings that differ between two runs; parts of ``transforms`` only where its name is the same."""
    names = [key for key in {**one, **other} if one.get(key) != other.get(key)]
    return tuple(key for key in names if not (key.startswith("transforms.") and "transforms" in names))


def same_but_seed(one: Mapping[str, Cell], other: Mapping[str, Cell]) -> bool:
    """Whether two runs are of one recipe with two seeds; the seed may also choose the training pictures."""
    return set(differing_settings(one, other)) - {DATA} == {"seed"}


def digest(rows: Iterable[tuple[str, ...]], length: int = 64) -> str:
    """The first ``length`` hexadecimal digits of a sha256 of the rows, whatever their order."""
    sha256 = hashlib.sha256()
    for row in sorted(rows):
        sha256.update("\0".join(row).encode("utf-8", "surrogateescape") + b"\n")
    return sha256.hexdigest()[:length]


def _cell(value: object) -> Cell:
    if value is None or isinstance(value, str | int | float):
        return value
    return (
        ", ".join(f"{each:g}" if isinstance(each, float) else str(each) for each in value)
        if isinstance(value, tuple | list)
        else str(value)
    )
