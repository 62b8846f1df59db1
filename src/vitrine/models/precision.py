"""Device and precision: what is used, and why."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from vitrine.models.cpu_kernels import bf16_kernels

# ViT-Ti's. Training steps are 1.8 times as fast in bf16 from here to 768 (benchmarks/train.py --widths, AVX512-BF16);
# smaller models, which gain as much at 128, train in minutes and keep their float32.
_BF16_PAYS_FROM_WIDTH = 192


def default_device() -> torch.device:
    """CUDA, else MPS, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def bf16_in_hardware(device: torch.device) -> bool:
    """Whether the device multiplies bf16 matrices itself: CUDA from Ampere on, CPUs with AMX or AVX512-BF16."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return False


def resolve_precision(wanted: str, device: torch.device, width: int) -> str:
    """``bf16`` or ``fp32`` for a recipe's ``precision``; ``auto`` takes bf16 where it pays at this token width."""
    if wanted != "auto":
        return wanted
    return "bf16" if bf16_in_hardware(device) and width >= _BF16_PAYS_FROM_WIDTH else "fp32"


@contextmanager
def autocast(device: torch.device, precision: str, *, compiled: bool = False) -> Iterator[None]:
    """Mixed precision for a forward pass: matrix products in bf16, sums and norms in float32.

    On some CPUs with kernels of our own (:mod:`vitrine.models.cpu_kernels`), which a compiled module does without.
    """
    if precision != "bf16":
        with torch.autocast(device.type, enabled=False):
            yield
    elif compiled:
        with torch.autocast(device.type, torch.bfloat16):
            yield
    else:
        with torch.autocast(device.type, torch.bfloat16), bf16_kernels(device):
            yield
