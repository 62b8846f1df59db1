"""A captioner saved in a folder: weights, settings and vocabulary, as a run has them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from vitrine.config.preprocessing import CaptionInput
from vitrine.errors import ModelError, error_summary
from vitrine.io.files import atomic_path, to_json, write_atomically
from vitrine.io.untrusted_files import read_json
from vitrine.models.captioner.config import CaptionModelConfig
from vitrine.models.captioner.model import CaptionModel
from vitrine.models.captioner_folder import ARCHITECTURE, CONFIG, VOCABULARY, WEIGHTS
from vitrine.models.checkpoints.state_dict import read_safetensors


@dataclass(frozen=True)
class CaptionerCheckpoint:
    """A captioner that was read from a folder.

    Attributes:
        model: float32, on the CPU, in eval mode; its ``vocabulary`` is None.
        input: how its pictures are prepared.
        weights: path of its weights.
        vocabulary: path of its vocabulary.
        special_tokens: those that start and end a caption and fill it up, under ``start``, ``end`` and ``pad``.
    """

    model: CaptionModel
    input: CaptionInput
    weights: Path
    vocabulary: Path
    special_tokens: Mapping[str, str]


def save_captioner_checkpoint(folder: Path, model: CaptionModel, spec: CaptionInput) -> None:
    """Write weights, settings and vocabulary; each file whole or not at all, weights last.

    Args:
        folder: exists.
        model: with its vocabulary; not one that was prepared for prediction.
        spec: how its pictures are prepared.
    """
    vocabulary = model.vocabulary
    special_tokens = {role: vocabulary.token(getattr(vocabulary, role)) for role in ("start", "end", "pad")}
    parts = {"captioner": model.config.to_dict(), "input": asdict(spec), "marks": special_tokens}
    settings = {"architecture": ARCHITECTURE, **parts}
    write_atomically(folder / CONFIG, to_json(settings))
    with atomic_path(folder / VOCABULARY) as file:
        vocabulary.save(file)
    tensors = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    with atomic_path(folder / WEIGHTS) as file:
        save_file(tensors, file, metadata={"format": "pt"})


def load_captioner_checkpoint(folder: Path) -> CaptionerCheckpoint:
    """Read what :func:`save_captioner_checkpoint` wrote.

    Raises:
        ModelError: a file is missing, damaged, or they do not fit one another.
    """
    try:
        content = read_json(folder / CONFIG, dict[str, Any])
        config, spec = CaptionModelConfig.from_dict(content["captioner"]), CaptionInput(**content["input"])
        special_tokens = {role: str(content["marks"][role]) for role in ("start", "end", "pad")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"{folder / CONFIG} does not describe a captioner ({type(error).__name__}: {error}).\n"
            "Expected a folder that vitrine train wrote, with config.json, model.safetensors and tokenizer.json."
        ) from error
    for name in (WEIGHTS, VOCABULARY):
        if not (folder / name).is_file():
            raise ModelError(f"{folder} is not a whole captioner: it has no {name}.")
    try:
        weights = read_safetensors(folder / WEIGHTS)
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(f"{folder / WEIGHTS} is damaged or is not a safetensors file ({error}).") from error
    with torch.device("meta"):  # no memory and no random numbers for weights that are replaced
        model = CaptionModel(config)
    try:
        model.load_state_dict(weights, assign=True)
    except RuntimeError as error:
        reason = error_summary(error, 240)
        raise ModelError(f"{folder / WEIGHTS} does not fit {folder / CONFIG}: {reason}") from error
    return CaptionerCheckpoint(model.eval(), spec, folder / WEIGHTS, folder / VOCABULARY, special_tokens)
