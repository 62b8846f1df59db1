"""Whether a folder has a captioner's checkpoint, seen from its config.json without opening the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vitrine.io.untrusted_files import read_json

ARCHITECTURE = "vitrine-captioner"
WEIGHTS, CONFIG, VOCABULARY = "model.safetensors", "config.json", "tokenizer.json"


def is_captioner_folder(folder: Path) -> bool:
    """Whether :func:`vitrine.models.captioner.checkpoint.save_captioner_checkpoint` wrote it."""
    try:
        return read_json(folder / CONFIG, dict[str, Any]).get("architecture") == ARCHITECTURE
    except (OSError, ValueError):
        return False
