"""What finished runs of both kinds have in common when they are read back."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, TypeAlias, TypeVar

from vitrine.config import Recipe
from vitrine.errors import RunError
from vitrine.io.csv_tables import complete_records
from vitrine.metrics.caption_text import tokenise
from vitrine.metrics.intervals import wilson
from vitrine.models.captioner.checkpoint import is_captioner_folder
from vitrine.plotting.tables import Cell
from vitrine.results import CaptioningMetrics, ClassificationMetrics, Interval
from vitrine.runs.folder import RunFolder


@dataclass(frozen=True)
class RunRow:
    """A classifier's run as a row.

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

    def outcome(self) -> dict[str, Cell]:
        """What came out, by column."""
        return {
            "accuracy": f"{self.accuracy:.4f}",
            "95 % interval": f"{self.interval.low:.4f} to {self.interval.high:.4f}",
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
    """A captioner's run as a row: its accuracy is of word pieces, so it is not among the classifiers.

    Attributes:
        name: what tables call it.
        accuracy: share of word pieces that were the likeliest after those before them, 0 to 1.
        pieces: how many there were.
        n: validation pictures.
        loss: mean over the pieces, in nats.
        exact, exact_interval: pictures whose caption is word for word one of their own, and the 95 % interval of their
            share (Wilson).
        settings: what was set, by name; the same names in every row.
    """

    name: str
    accuracy: float
    pieces: int
    n: int
    loss: float
    exact: int
    exact_interval: Interval
    settings: Mapping[str, Cell]


def _whole(value: float | None) -> int | None:
    return None if value is None else round(value)


Metrics = TypeVar("Metrics", ClassificationMetrics, CaptioningMetrics)


@dataclass(frozen=True)
class RecordedRun(Generic[Metrics]):
    """A finished run.

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
    metrics: Metrics
    data: Mapping[str, Any]

    @cached_property
    def pictures(self) -> frozenset[tuple[str, str]]:
        """(name, sha256) of every validation picture."""
        return frozenset((row["name"], row["sha256"]) for row in self.data["splits"]["validation"])


DATA = "training pictures"
"""What a run was trained on, among its settings."""

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

# What changes nothing in what comes out, and what a later training of the same recipe may have otherwise.
_ASIDE = ("name", "description", "workers", "trackers", "checkpoint_minutes", "max_unreadable")
_ROUNDING = 1e-6  # metrics.json keeps six decimals


@dataclass(frozen=True)
class Answer:
    """A validation picture: its true class and what the run called it."""

    true: str
    predicted: str

    @property
    def right(self) -> bool:
        """Whether the two are the same."""
        return self.true == self.predicted


@dataclass(frozen=True)
class RunRecord(RecordedRun[ClassificationMetrics]):
    """A classifier's finished run."""

    @cached_property
    def truths(self) -> dict[str, str]:
        """True class names by picture."""
        labels = self.data["labels"]
        return {row["name"]: labels[row["label"]] for row in self.data["splits"]["validation"]}

    @cached_property
    def answers(self) -> dict[str, Answer]:
        """What the run said of each validation picture.

        Raises:
            RunError: predictions.csv is missing, or is of other pictures or results than data.json and metrics.json.
        """
        predicted = {row["filename"]: row["label"] for row in read_predictions(self.folder.path)}
        if predicted.keys() != self.truths.keys():
            count = len(predicted.keys() ^ self.truths.keys())
            raise RunError(f"predictions.csv in {self.folder.path} is of other pictures than data.json ({count}).")
        answers = {name: Answer(true, predicted[name]) for name, true in self.truths.items()}
        accuracy = sum(each.right for each in answers.values()) / max(1, len(answers))
        if abs(accuracy - self.metrics.accuracy) > _ROUNDING:
            raise RunError(
                f"In {self.folder.path}, predictions.csv gives an accuracy of {accuracy:.4f}, metrics.json says "
                f"{self.metrics.accuracy:.4f}: one of them was changed."
            )
        return answers

    @cached_property
    def validation(self) -> str:
        """A name for the validation pictures with their labels: the same for the same ones."""
        return digest((*pair, self.truths[pair[0]]) for pair in self.pictures)

    @cached_property
    def settings(self) -> Mapping[str, Cell]:
        """Everything that decides what comes out; see :func:`flat_settings`."""
        return flat_settings(self.recipe) | {"image_size": self._input(), DATA: describe_training_pictures(self.data)}

    def _input(self) -> Cell:
        if self.recipe.image_size:
            return self.recipe.image_size
        config = read_json(self.folder.path / "config.json")
        return int(config["pretrained_cfg"]["input_size"][-1])

    def row(self, settings: Mapping[str, Cell]) -> RunRow:
        """The run as a row of the table, with the settings that the table shows."""
        timings = read_timings(self.folder.path)
        trained = sum(row["train_seconds"] for row in timings)
        best = [row["epoch"] for row in self.folder.read_history() if row["best"]]
        m = self.metrics
        return RunRow(
            name=self.name,
            settings=dict(settings),
            accuracy=m.accuracy,
            interval=m.accuracy_interval,
            n=m.n,
            loss=m.negative_log_likelihood,
            calibration_error=m.calibration_error,
            best_epoch=best[-1] if best else 0,
            pictures_per_second=sum(row["pictures"] for row in timings) / trained if trained else None,
            peak_memory_mib=max((row["peak_memory_mib"] for row in timings), default=None),
            seconds=trained + sum(row["evaluation_seconds"] for row in timings) if timings else None,
        )


def read_record(name: str, folder: RunFolder) -> RunRecord:
    """Read a classifier's finished run.

    Raises:
        RunError: a file is missing or cannot be read.
    """
    metrics, data = (read_json(folder.path / file) for file in ("metrics.json", "data.json"))
    if not isinstance(data.get("splits", {}).get("validation"), list) or "labels" not in data:
        raise RunError(f"{folder.path / 'data.json'} does not list validation pictures with labels.")
    try:
        return RunRecord(name, folder, folder.read_recipe(), ClassificationMetrics.from_dict(metrics), data)
    except (KeyError, TypeError) as error:
        raise RunError(f"{folder.path / 'metrics.json'} is not a classifier's metrics (no {error}).") from error


def read_timings(run: Path) -> list[dict[str, Any]]:
    """The rows of a run's timings.jsonl: one an epoch; a line that was cut off by a kill is left out."""
    path = run / "timings.jsonl"
    rows = []
    for line in path.read_text("utf-8").splitlines() if path.is_file() else ():
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows


def read_predictions(run: Path) -> list[dict[str, str]]:
    """The rows of a run's predictions.csv, by column.

    Raises:
        RunError: there is none, or it has no columns filename and label.
    """
    path = run / "predictions.csv"
    if not path.is_file():
        raise RunError(f"{run} has no predictions.csv, so there is nothing to hold against. Train it anew.")
    header, *rows = [fields for _, fields in complete_records(path)] or [[]]
    if header[:2] != ["filename", "label"] or any(len(row) != len(header) for row in rows):
        raise RunError(f"{path} is not a table of predictions: expected the columns filename,label.")
    return [dict(zip(header, row, strict=True)) for row in rows]


def flat_settings(recipe: Recipe) -> dict[str, Cell]:
    """A recipe as plain values: ``transforms`` is a name, ``transforms.rotation`` and ``caption.width`` are numbers."""
    flat: dict[str, Cell] = {}
    for field in fields(Recipe):
        value = getattr(recipe, field.name)
        if field.name in _ASIDE:
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
    """What a run was trained on, in a few characters that differ where the pictures, classes or captions do."""
    rows = data["splits"]["train"]
    if isinstance(rows, str):
        return f"{rows}: {data['reference']}"
    said = (
        (row["name"], row["sha256"], *(row["captions"] if "captions" in row else (str(row["label"]),))) for row in rows
    )
    return f"{len(rows):,} ({digest(said, 6)})"


def varying_settings(settings: Sequence[Mapping[str, Cell]]) -> frozenset[str]:
    """Names of the settings in which any two runs differ, in the sense of :func:`differing`."""
    by_transforms: dict[Cell, list[Mapping[str, Cell]]] = {}
    for each in settings:
        by_transforms.setdefault(each.get("transforms"), []).append(each)
    names = {name for each in settings for name in each}
    whole = {name for name in names if not name.startswith("transforms.")}
    groups = [(whole, settings), *((names - whole, alike) for alike in by_transforms.values())]
    return frozenset(name for some, runs in groups for name in some if len({each.get(name) for each in runs}) > 1)


def differing_settings(one: Mapping[str, Cell], other: Mapping[str, Cell]) -> tuple[str, ...]:
    """Names of the settings that two runs have otherwise; parts of transforms only where their names do not tell."""
    names = [key for key in {**one, **other} if one.get(key) != other.get(key)]
    return tuple(key for key in names if not (key.startswith("transforms.") and "transforms" in names))


def same_but_seed(one: Mapping[str, Cell], other: Mapping[str, Cell]) -> bool:
    """Whether two runs are of one recipe with two seeds; a seed may also draw which pictures are trained on."""
    return set(differing_settings(one, other)) - {DATA} == {"seed"}


def digest(rows: Iterable[tuple[str, ...]], length: int = 64) -> str:
    """Characters that are the same for the same rows in whatever order."""
    whole = hashlib.sha256()
    for row in sorted(rows):
        whole.update("\0".join(row).encode("utf-8", "surrogateescape") + b"\n")
    return whole.hexdigest()[:length]


def _cell(value: object) -> Cell:
    if value is None or isinstance(value, str | int | float):
        return value
    return (
        ", ".join(f"{each:g}" if isinstance(each, float) else str(each) for each in value)
        if isinstance(value, tuple | list)
        else str(value)
    )


def read_json(path: Path) -> dict[str, Any]:
    """One of a run's files.

    Raises:
        RunError: it is missing or damaged.
    """
    try:
        content: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{path} is missing or damaged ({error}), so the run cannot be read.") from error
    return content


@dataclass(frozen=True)
class RecordedCaption:
    """A caption of captions.csv and its natural log-probability."""

    text: str
    log_probability: float


@dataclass(frozen=True)
class CaptionerRecord(RecordedRun[CaptioningMetrics]):
    """A captioner's finished run."""

    @cached_property
    def humans(self) -> dict[str, tuple[str, ...]]:
        """The human captions of each validation picture."""
        return {row["name"]: tuple(row["captions"]) for row in self.data["splits"]["validation"]}

    @cached_property
    def captions(self) -> dict[str, RecordedCaption]:
        """What the run said of each validation picture, in the order of the data.

        Raises:
            RunError: captions.csv is missing, or is of other pictures or results than data.json and metrics.json.
        """
        found = read_captions(self.folder.path)
        if found.keys() != self.humans.keys():
            count = len(found.keys() ^ self.humans.keys())
            raise RunError(f"captions.csv in {self.folder.path} is of other pictures than data.json ({count}).")
        exact = sum(is_exact(found[name].text, humans) for name, humans in self.humans.items())
        if exact != self.recorded_exact:
            raise RunError(
                f"In {self.folder.path}, {exact} captions of captions.csv are word for word human ones, metrics.json "
                f"says {self.recorded_exact}: one of them was changed."
            )
        return {name: found[name] for name in self.humans}

    @property
    def recorded_exact(self) -> int:
        """Pictures whose caption is word for word one of their own, as metrics.json has it."""
        return int(self.metrics.scores["predicted"]["exact"]["n"])

    @cached_property
    def validation(self) -> str:
        """A name for the validation pictures with their captions: the same for the same ones."""
        return digest((*pair, *self.humans[pair[0]]) for pair in self.pictures)

    @cached_property
    def settings(self) -> Mapping[str, Cell]:
        """Everything that decides what comes out; see :func:`vitrine.runs.record.flat_settings`."""
        size = self.recipe.image_size or int(read_json(self.folder.path / "config.json")["input"]["long_side"])
        return flat_settings(self.recipe) | {"image_size": size, DATA: describe_training_pictures(self.data)}

    def row(self, settings: Mapping[str, Cell]) -> CaptionerRow:
        """The run as a row of the table, with the settings that the table shows."""
        m, exact = self.metrics, self.recorded_exact
        return CaptionerRow(
            self.name, m.accuracy, m.pieces, m.n, m.negative_log_likelihood, exact, wilson(exact, m.n), dict(settings)
        )


def is_exact(caption: str, humans: Sequence[str]) -> bool:
    """Whether a caption is word for word one of the human ones; those without a word count for none."""
    return tokenise(caption) in {words for words in map(tokenise, humans) if words}


def read_captioner_record(name: str, folder: RunFolder) -> CaptionerRecord:
    """Read a captioner's finished run.

    Raises:
        RunError: a file is missing or cannot be read.
    """
    metrics, data = (read_json(folder.path / file) for file in ("metrics.json", "data.json"))
    rows = data.get("splits", {}).get("validation")
    if not isinstance(rows, list) or not all("captions" in row for row in rows):
        raise RunError(f"{folder.path / 'data.json'} does not list validation pictures with captions.")
    try:
        record = CaptionerRecord(name, folder, folder.read_recipe(), CaptioningMetrics.from_dict(metrics), data)
        _ = record.recorded_exact
    except (KeyError, TypeError) as error:
        raise RunError(f"{folder.path / 'metrics.json'} is not a captioner's metrics (no {error}).") from error
    return record


def read_captions(run: Path) -> dict[str, RecordedCaption]:
    """The rows of a run's captions.csv by picture.

    Raises:
        RunError: there is none, or it is no such table.
    """
    path = run / "captions.csv"
    if not path.is_file():
        raise RunError(f"{run} has no captions.csv, so there is nothing to hold against. Train it anew.")
    header, *rows = [fields for _, fields in complete_records(path)] or [[]]
    try:
        if header != ["filename", "caption", "log_probability"]:
            raise ValueError(header)
        return {name: RecordedCaption(caption, float(likely)) for name, caption, likely in rows}
    except ValueError as error:
        raise RunError(f"{path} is no table of captions: expected filename,caption,log_probability.") from error


FinishedRun: TypeAlias = RunRecord | CaptionerRecord

ReadRun: TypeAlias = Callable[[str, RunFolder], FinishedRun]
"""From a name and a folder to the run in it."""


def read_finished_run(name: str, folder: RunFolder) -> FinishedRun:
    """Read a finished run.

    Raises:
        RunError: a file is missing or cannot be read.
    """
    return read_captioner_record(name, folder) if is_captioner_folder(folder.path) else read_record(name, folder)
