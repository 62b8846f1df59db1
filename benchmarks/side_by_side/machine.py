"""What a benchmark ran on."""

from __future__ import annotations

import platform
from importlib import metadata

import torch

DEVICES = ("cpu", "cuda")  # that are measured
_PACKAGES = ("torch", "timm", "transformers", "pytorch_pretrained_vit", "accelerate")


def about() -> dict[str, object]:
    """Processor, its bf16 units, threads, the GPU where there is one, and versions."""
    gpu = {"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}
    return (
        {
            "machine": platform.machine(),
            "cpu_capability": torch.backends.cpu.get_cpu_capability(),
            "amx": torch.cpu._is_amx_tile_supported(),
            "avx512_bf16": torch.cpu._is_avx512_bf16_supported(),
            "threads": torch.get_num_threads(),
        }
        | gpu
        | {name: metadata.version(name) for name in _PACKAGES}
    )
