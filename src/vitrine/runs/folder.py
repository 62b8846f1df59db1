"""The layout of a run folder: plain files that other tools can open, each written whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from vitrine.config import Recipe, recipe_from_toml, recipe_to_toml
from vitrine.config.preprocessing import InputSpec
from vitrine.errors import RunError, error_summary
from vitrine.io.files import atomic_path, to_json, write_atomically, writing
from vitrine.io.limits import limit
from vitrine.io.output_lock import lock_folder
from vitrine.io.untrusted_files import (
    MAX_TOML_BYTES,
    parse_json,
    read_json,
    read_lines,
    read_text,
    require_shape,
)
from vitrine.runs.schema import DataContent, EnvironmentContent, HistoryRow, TimingsRow, require_known_labels

if TYPE_CHECKING:
    import torch
    from torch import nn

T = TypeVar("T")
MAX_RUN_FILE_BYTES = limit("MAX_RUN_FILE_BYTES", 1 << 32)
"""Bytes of a file of a run, such as data.json of ten million pictures."""


class RunFolder:
    """The files of one training.

    ``model.safetensors`` and ``config.json`` (timm's hub layout), ``recipe.toml``, ``labels.txt``, ``history.jsonl``
    (no times in it: the same command writes the same bytes), ``timings.jsonl``, ``metrics.json``,
    ``predictions.csv``, ``data.json``, ``environment.json``; and ``state/`` until the training is finished.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def is_finished(self) -> bool:
        """Whether the training came to its end: metrics.json is written after everything else."""
        return (self.path / "metrics.json").is_file()

    @property
    def is_started(self) -> bool:
        """Whether a training has begun here: recipe.toml is written before the first step."""
        return (self.path / "recipe.toml").is_file()

    def write(self, name: str, content: bytes | str) -> None:
        """Write one of the folder's files atomically."""
        write_atomically(self.path / name, content)

    def read_recipe(self) -> Recipe:
        """Read the resolved recipe.

        Raises:
            RunError: the folder has none.
        """
        path = self.path / "recipe.toml"
        try:
            text = read_text(path, MAX_TOML_BYTES)
        except FileNotFoundError as error:
            raise RunError(f"{self.path} has no recipe.toml, so it is not a run that vitrine train wrote.") from error
        except (OSError, ValueError) as error:
            raise RunError(f"{path} cannot be read: {error_summary(error)}.") from error
        return recipe_from_toml(text, self.path.name)

    def read_labels(self) -> tuple[str, ...]:
        """Read the class names, in the order of the model's outputs.

        Raises:
            RunError: the folder has no labels.txt.
        """
        try:
            return tuple(read_lines(self.path / "labels.txt"))
        except FileNotFoundError as error:
            raise RunError(f"{self.path} has no labels.txt, so its class names are not known.") from error
        except (OSError, ValueError) as error:
            raise RunError(f"{self.path / 'labels.txt'} cannot be read: {error_summary(error)}.") from error

    def read_json(self, name: str, shape: type[T]) -> T:
        """Read one of the folder's JSON files, whose content must have a shape.

        Raises:
            RunError: it is missing, damaged or of another shape: what was expected, what was found and where.
        """
        try:
            return read_json(self.path / name, shape, MAX_RUN_FILE_BYTES)
        except FileNotFoundError as error:
            raise RunError(f"{self.path} has no {name}, so the run cannot be read.") from error
        except (OSError, ValueError) as error:
            raise RunError(f"{self.path / name} is damaged: {error_summary(error)}. The run cannot be read.") from error

    def read_data(self) -> DataContent:
        """Read data.json.

        Raises:
            RunError: as :meth:`read_json`, or a picture is of a class that is not there.
        """
        data = self.read_json("data.json", DataContent)
        try:
            require_known_labels(data)
        except ValueError as error:
            raise RunError(f"{self.path / 'data.json'} is damaged: {error}. The run cannot be read.") from error
        return data

    def read_environment(self) -> EnvironmentContent:
        """Read environment.json.

        Raises:
            RunError: as :meth:`read_json`.
        """
        return self.read_json("environment.json", EnvironmentContent)

    def start(
        self, recipe: Recipe, labels: Sequence[str], data: Mapping[str, Any], environment: Mapping[str, Any]
    ) -> None:
        """Write the files that are known before the first step; the last, recipe.toml, marks the folder as started.

        A captioner has no labels, and no labels.txt.
        """
        if labels:
            self.write("labels.txt", "".join(f"{label}\n" for label in labels))
        self.write("data.json", to_json(data))
        self.write("environment.json", to_json(environment))
        self.write("history.jsonl", "")
        self.write("timings.jsonl", "")
        self.write("recipe.toml", recipe_to_toml(recipe))

    def save_model(
        self,
        module: nn.Module,
        labels: Sequence[str],
        spec: InputSpec,
        dtype: torch.dtype | None = None,
        problem_type: str | None = None,
    ) -> None:
        """Write weights and configuration for ``timm.create_model("local-dir:RUN", pretrained=True)``.

        ``problem_type`` is what transformers calls what the outputs are; None is a choice of one class.
        """
        from safetensors.torch import save_file  # with torch, which reading a run needs nothing of
        from timm.models._hub import save_config_for_hf

        tensors = {
            name: (tensor.to(dtype) if dtype and tensor.is_floating_point() else tensor).detach().cpu().contiguous()
            for name, tensor in module.state_dict().items()
        }
        with atomic_path(self.path / "config.json") as file:
            # The weights are no longer those of timm's tag, so the tag goes.
            changes: dict[str, Any] = {"label_names": list(labels), "pretrained_cfg": {"tag": ""}}
            if problem_type is not None:
                changes["problem_type"] = problem_type
            save_config_for_hf(module, str(file), model_config=changes, data_config=spec.to_timm())
        with atomic_path(self.path / "model.safetensors") as file:
            save_file(tensors, file, metadata={"format": "pt"})

    def read_history(self) -> list[HistoryRow]:
        """Read history.jsonl, a row an epoch; a last line that was cut off by a kill is left out.

        Raises:
            RunError: a line is damaged.
        """
        return _read_rows(self.path / "history.jsonl", HistoryRow)

    def read_best_epoch(self) -> int:
        """The epoch whose weights the folder holds, from history.jsonl.

        Raises:
            RunError: a line is damaged, or there is no best epoch.
        """
        best = [row["epoch"] for row in self.read_history() if row["best"]]
        if not best:
            raise RunError(f"{self.path / 'history.jsonl'} has no best epoch, so the run cannot be read.")
        return best[-1]

    def read_timings(self) -> list[TimingsRow]:
        """Read timings.jsonl, a row an epoch; a last line that was cut off by a kill is left out.

        Raises:
            RunError: a line is damaged.
        """
        return _read_rows(self.path / "timings.jsonl", TimingsRow)

    def truncate_history(self, epochs: int) -> None:
        """Drop the epochs after the given one from history.jsonl and timings.jsonl: a checkpoint does not have them."""
        for name, read in (("history.jsonl", self.read_history), ("timings.jsonl", self.read_timings)):
            rows = [row for row in read() if row["epoch"] <= epochs]
            self.write(name, "".join(json.dumps(row) + "\n" for row in rows))

    def append(self, name: str, row: Mapping[str, Any]) -> None:
        """Add one line to history.jsonl or timings.jsonl."""
        with writing(self.path / name), (self.path / name).open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(row) + "\n")

    def lock(self) -> AbstractContextManager[None]:
        """Be the only process that trains into the folder; see :func:`vitrine.io.output_lock.lock_folder`."""
        return lock_folder(self.path, "train", ("state", "figures"))


def _read_rows(path: Path, shape: type[T]) -> list[T]:
    if not path.is_file():
        return []
    rows: list[T] = []
    try:
        lines = read_lines(path, MAX_RUN_FILE_BYTES)
        for number, line in enumerate(lines, start=1):
            try:
                content = parse_json(line)
            except ValueError as error:
                if number == len(lines):  # torn: a process was killed while it wrote
                    break
                raise ValueError(f"line {number:,}: {error}") from error
            rows.append(require_shape(content, shape))
    except (OSError, ValueError) as error:
        raise RunError(f"{path} is damaged: {error_summary(error)}. The run cannot be read.") from error
    return rows
