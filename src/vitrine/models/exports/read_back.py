"""An export as the tool that it is for sees it.

Axes: B pictures, C classes, H, W pixel rows and columns.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from PIL import Image

from vitrine.errors import ModelError
from vitrine.models.build import InputSpec

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
"""By the name of a precision: how weights are stored, and what a model computes in."""


@dataclass(frozen=True)
class ReadBack:
    """An export, opened.

    Attributes:
        logits: normalised pictures, float32 (B, 3, H, W), to logits, float32 (B, C).
        labels: class names, as the export has them.
        prepare: what the tool does to an RGB picture: float32 (3, H, W); None where that is left to whoever uses it.
        spec: the input that the export describes, where it does not prepare pictures itself.
    """

    logits: Callable[[torch.Tensor], torch.Tensor]
    labels: tuple[str, ...]
    prepare: Callable[[Image.Image], torch.Tensor] | None = None
    spec: InputSpec | None = None


def short_side(spec: InputSpec) -> int:
    """Pixels that a picture's short side is resized to before the middle square is cut out."""
    return max(spec.size, math.floor(spec.size / spec.crop))


def described_input(spec: InputSpec) -> dict[str, Any]:
    """What is to be done to a picture, JSON-ready, for files that do not do it themselves."""
    return {
        "size": spec.size,
        "resize_short_side": short_side(spec),
        "crop_pct": spec.crop,
        "interpolation": "bicubic",
        "colours": "RGB, divided by 255, less mean, divided by std",
        "mean": list(spec.mean),
        "std": list(spec.std),
    }


def input_from(said: Mapping[str, Any]) -> InputSpec:
    """What :func:`described_input` wrote."""
    mean, std = tuple(said["mean"]), tuple(said["std"])
    return InputSpec(said["size"], mean, std, said["crop_pct"])


def library(name: str, extra: str) -> Any:
    """A library of an extra of the package.

    Raises:
        ModelError: it is not installed.
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise ModelError(
            f"This export needs the package {name} ({error}). Install it: pip install 'vitrine[{extra}]'"
        ) from None
