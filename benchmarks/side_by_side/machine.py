"""What a benchmark ran on."""

from __future__ import annotations

import platform
from importlib import metadata

import torch

_PACKAGES = ("torch", "timm", "transformers", "pytorch_pretrained_vit", "accelerate")


def about() -> dict[str, object]:
    """Processor, its bf16 units, threads, and versions."""
    return {
        "machine": platform.machine(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "amx": torch.cpu._is_amx_tile_supported(),
        "avx512_bf16": torch.cpu._is_avx512_bf16_supported(),
        "threads": torch.get_num_threads(),
    } | {name: metadata.version(name) for name in _PACKAGES}
