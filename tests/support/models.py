"""Models that compute in no time, and how tests open them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from vitrine.caption.model import Captioner
from vitrine.models.reference import WeightsFile

MICRO = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
"""Constructor arguments of a ViT with 16 patches."""


def opened_captioner(module: Any, transform: Any, precision: str = "fp32") -> Captioner:
    """A module as ``open_captioner`` would give it, on the CPU."""
    weights = WeightsFile(Path("model.safetensors"), "a test")
    vocabulary = getattr(module, "vocabulary", None)
    device = torch.device("cpu")
    return Captioner(module, vocabulary, transform, weights, device, precision, ())  # type: ignore[arg-type]
