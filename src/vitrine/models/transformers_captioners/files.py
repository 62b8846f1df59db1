"""The files of a captioner of transformers: in a folder, or in a repository of the hub."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitrine.errors import ModelError
from vitrine.models.formats.processor import read_json
from vitrine.models.hub import fetch, fetch_if_there
from vitrine.models.weights import WeightsFile

MODEL_TYPES = ("blip", "git", "vision-encoder-decoder")
"""``model_type`` in the config.json of captioners that can be opened."""

_HUB = "hf-hub:"
_REMEDY = "with the repository's other files, into one folder, and give that folder as the model."

_CONFIG = ("config.json",)
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_VOCABULARY = ("tokenizer.json", "vocab.txt")
_IMAGE = ("preprocessor_config.json", "processor_config.json")  # version 5 writes the latter beside a tokenizer
_GENERATION = "generation_config.json"


@dataclass(frozen=True)
class CaptionerFiles:
    """Where everything lies.

    Attributes:
        config: what config.json says; its ``model_type`` is one of :data:`MODEL_TYPES`.
        config_path: of config.json.
        weights: safetensors, or what torch.save wrote.
        vocabulary: a tokenizer.json or vocab.txt.
        image: says how pictures are prepared.
        generation: what generation_config.json says; empty where there is none.
    """

    config: dict[str, Any]
    config_path: Path
    weights: WeightsFile
    vocabulary: Path
    image: Path
    generation: dict[str, Any]


def is_transformers_captioner(folder: Path) -> bool:
    """Whether a folder's config.json is that of a captioner of transformers, judged by its ``model_type``."""
    try:
        config = json.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and config.get("model_type") in MODEL_TYPES


def locate_captioner(reference: str) -> CaptionerFiles:
    """Find the files of ``hf-hub:owner/name``, with ``@revision`` where wanted, or of a folder.

    Raises:
        ModelError: a file is missing or cannot be read, or the model is of another kind.
        WeightsUnavailableError: a file of the hub is not here and cannot be fetched.
    """
    config_path = _file(reference, _CONFIG)
    config = read_json(config_path)
    kind = config.get("model_type")
    if kind not in MODEL_TYPES:
        raise ModelError(
            f"{config_path} is of a model of the type {kind!r}, which is no captioner that is known.\n"
            f"Expected one of these types of transformers: {', '.join(MODEL_TYPES)}."
        )
    weights = _file(reference, _WEIGHTS)
    origin = f"{reference}/{weights.name}" if reference.startswith(_HUB) else str(weights)
    return CaptionerFiles(
        config=config,
        config_path=config_path,
        weights=WeightsFile(weights, origin),
        vocabulary=_file(reference, _VOCABULARY),
        image=_file(reference, _IMAGE),
        generation=_generation(reference),
    )


def _file(reference: str, names: tuple[str, ...]) -> Path:
    if reference.startswith(_HUB):
        return fetch(reference.removeprefix(_HUB), names, _REMEDY)
    folder = Path(reference).expanduser()
    found = next((folder / name for name in names if (folder / name).is_file()), None)
    if found is None:
        what = f"{folder} has no {' or '.join(names)}" if folder.is_dir() else f"There is no folder {folder}"
        raise ModelError(
            f"{what}.\nExpected a captioner's folder as transformers saves it: {', '.join(_CONFIG + _WEIGHTS[:1])}, "
            f"{' or '.join(_VOCABULARY)}, {' or '.join(_IMAGE)}."
        )
    return found


def _generation(reference: str) -> dict[str, Any]:
    """Older repositories have none, and say the same in config.json."""
    if reference.startswith(_HUB):
        path = fetch_if_there(reference.removeprefix(_HUB), _GENERATION, _REMEDY)
    else:
        path = Path(reference).expanduser() / _GENERATION
    return read_json(path) if path and path.is_file() else {}
