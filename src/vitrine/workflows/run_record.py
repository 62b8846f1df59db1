"""A finished run read back: its recipe as plain values, its pictures, and what it said of each."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from vitrine.errors import RunError
from vitrine.evaluate.csv_records import whole_records
from vitrine.models.run_folder import RunFolder
from vitrine.recipes import Recipe
from vitrine.report.comparison import RunRow
from vitrine.report.tables import Cell
from vitrine.results import ClassificationMetrics
from vitrine.workflows.recorded_run import RecordedRun

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
        return flat_settings(self.recipe) | {"image_size": self._input(), DATA: training_pictures(self.data)}

    def _input(self) -> Cell:
        if self.recipe.image_size:
            return self.recipe.image_size
        config = read_json(self.folder.path / "config.json")
        return int(config["pretrained_cfg"]["input_size"][-1])

    def row(self, settings: Mapping[str, Cell]) -> RunRow:
        """The run as a row of the table, with the settings that the table shows."""
        timings = read_timings(self.folder.path)
        trained = sum(row["train_seconds"] for row in timings)
        best = [row["epoch"] for row in self.folder.history() if row["best"]]
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
        return RunRecord(name, folder, folder.recipe(), ClassificationMetrics.from_dict(metrics), data)
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
    header, *rows = [fields for _, fields in whole_records(path)] or [[]]
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


def training_pictures(data: Mapping[str, Any]) -> str:
    """What a run was trained on, in a few characters that differ where the pictures, classes or captions do."""
    rows = data["splits"]["train"]
    if isinstance(rows, str):
        return f"{rows}: {data['reference']}"
    said = (
        (row["name"], row["sha256"], *(row["captions"] if "captions" in row else (str(row["label"]),))) for row in rows
    )
    return f"{len(rows):,} ({digest(said, 6)})"


def varying(settings: Sequence[Mapping[str, Cell]]) -> frozenset[str]:
    """Names of the settings in which any two runs differ, in the sense of :func:`differing`."""
    by_transforms: dict[Cell, list[Mapping[str, Cell]]] = {}
    for each in settings:
        by_transforms.setdefault(each.get("transforms"), []).append(each)
    names = {name for each in settings for name in each}
    whole = {name for name in names if not name.startswith("transforms.")}
    groups = [(whole, settings), *((names - whole, alike) for alike in by_transforms.values())]
    return frozenset(name for some, runs in groups for name in some if len({each.get(name) for each in runs}) > 1)


def differing(one: Mapping[str, Cell], other: Mapping[str, Cell]) -> tuple[str, ...]:
    """Names of the settings that two runs have otherwise; parts of transforms only where their names do not tell."""
    names = [key for key in {**one, **other} if one.get(key) != other.get(key)]
    return tuple(key for key in names if not (key.startswith("transforms.") and "transforms" in names))


def same_but_seed(one: Mapping[str, Cell], other: Mapping[str, Cell]) -> bool:
    """Whether two runs are of one recipe with two seeds; a seed may also draw which pictures are trained on."""
    return set(differing(one, other)) - {DATA} == {"seed"}


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
