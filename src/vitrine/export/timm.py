"""A model exported as a folder of timm's hub layout, which a run has already."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from vitrine.export.compare import DTYPES, LoadedExport
from vitrine.io.files import atomic_path, write_atomically
from vitrine.io.untrusted_files import read_json

CONFIG, WEIGHTS = "config.json", "model.safetensors"


def write_timm(folder: Path, run: Path, precision: str) -> None:
    """Copy a run's configuration and weights.

    Args:
        folder: exists.
        run: a run folder.
        precision: fp32 copies the weights as they are; bf16 rounds them.
    """
    write_atomically(folder / CONFIG, (run / CONFIG).read_bytes())
    if precision == "fp32":
        write_atomically(folder / WEIGHTS, (run / WEIGHTS).read_bytes())
        return
    tensors = {
        name: value.to(DTYPES[precision]) if value.is_floating_point() else value
        for name, value in load_file(run / WEIGHTS).items()
    }
    with atomic_path(folder / WEIGHTS) as file:
        save_file(tensors, file, metadata={"format": "pt"})


def read_timm(folder: Path, precision: str) -> LoadedExport:
    """Open a folder as timm does.

    Args:
        folder: what :func:`write_timm` wrote.
        precision: fp32 or bf16: what the model computes in.
    """
    model = timm.create_model(f"local-dir:{folder.absolute()}", pretrained=True).eval().to(DTYPES[precision])
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    config = read_json(folder / CONFIG, dict[str, Any])

    def logits(pixels_BCHW: torch.Tensor) -> torch.Tensor:
        logits_BC: torch.Tensor = model(pixels_BCHW.to(DTYPES[precision]))
        return logits_BC.float()

    def prepare(image: Image.Image) -> torch.Tensor:
        pixels: torch.Tensor = transform(image)
        return pixels

    problem_type = config.get("problem_type")
    return LoadedExport(logits, tuple(config.get("label_names", [])), prepare, problem_type=problem_type)
