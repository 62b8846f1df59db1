"""A model as a folder of the library transformers: written without it, opened by it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from vitrine.errors import ModelError
from vitrine.models.build import InputSpec
from vitrine.models.exports.read_back import DTYPES, ReadBack, library, short_side
from vitrine.models.exports.transformers_vit import as_transformers
from vitrine.models.run_folder import replacing, to_json, write_atomically
from vitrine.models.transformers_captioners.library import quiet
from vitrine.torchpair import require_torchvision


def write_transformers(folder: Path, module: nn.Module, labels: Sequence[str], spec: InputSpec, precision: str) -> None:
    """Write config.json, preprocessor_config.json and model.safetensors.

    The image processor is a ``BitImageProcessor``: like vitrine, it resizes the short side and cuts the middle out,
    where a ``ViTImageProcessor`` squeezes the whole picture into a square.

    Args:
        folder: exists.
        module: a timm model.
        labels: class names in the order of its outputs.
        spec: its input.
        precision: fp32 or bf16: of the stored weights.

    Raises:
        ModelError: transformers cannot hold the model exactly.
    """
    found = as_transformers(module, labels)
    dtype = DTYPES[precision]
    config = {**found.config, "dtype": str(dtype).removeprefix("torch.")}
    write_atomically(folder / "config.json", to_json(config))
    write_atomically(folder / "preprocessor_config.json", to_json(_processor(spec)))
    tensors = {name: value.detach().to(dtype).contiguous().clone() for name, value in found.tensors.items()}
    with replacing(folder / "model.safetensors") as file:
        save_file(tensors, file, metadata={"format": "pt"})


def _processor(spec: InputSpec) -> dict[str, Any]:
    return {
        "image_processor_type": "BitImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": short_side(spec)},
        "resample": 3,  # bicubic, in Pillow's numbers
        "do_center_crop": True,
        "crop_size": {"height": spec.size, "width": spec.size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(spec.mean),
        "image_std": list(spec.std),
    }


def require_transformers() -> Any:
    """The library.

    Raises:
        ModelError: it is not installed.
    """
    require_torchvision()  # which transformers imports for its image processors
    return library("transformers", "hf")


def read_transformers(folder: Path, precision: str) -> ReadBack:
    """Open a folder as transformers' own Auto classes do, with every tensor from the file.

    Args:
        folder: what :func:`write_transformers` wrote.
        precision: fp32 or bf16: what the model computes in.

    Raises:
        ModelError: the library is missing, or tensors are missing, left over or of another shape.
    """
    transformers = require_transformers()
    with quiet(transformers):
        model, found = transformers.AutoModelForImageClassification.from_pretrained(
            folder, dtype=DTYPES[precision], local_files_only=True, output_loading_info=True
        )
        processor = transformers.AutoImageProcessor.from_pretrained(folder, local_files_only=True)
    faults = {name: value for name, value in found.items() if value}
    if faults:
        raise ModelError(f"transformers did not take the export as it is: {str(faults)[:300]}.")
    model.eval()

    def logits(pixels_BCHW: torch.Tensor) -> torch.Tensor:
        answer: torch.Tensor = model(pixels_BCHW.to(DTYPES[precision])).logits
        return answer.float()

    def prepare(image: Image.Image) -> torch.Tensor:
        pixels: torch.Tensor = processor(image, return_tensors="pt")["pixel_values"][0]
        return pixels

    labels = tuple(model.config.id2label[i] for i in range(model.config.num_labels))
    return ReadBack(logits, labels, prepare)
