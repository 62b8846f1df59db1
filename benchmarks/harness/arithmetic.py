"""How much arithmetic a vision transformer is, and how fast this machine multiplies matrices.

A multiplication with an addition counts as two operations.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

_SIDE = {"cuda": 8192, "cpu": 2048, "mps": 4096}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def forward_operations(module: nn.Module, height: int, width: int) -> float:
    """Operations of one picture's forward pass through a timm vision transformer, matrix products alone.

    A block of width D over N tokens: 2·4·N·D² for queries, keys, values and the projection, 2·2·N²·D for attention, and
    2·2·N·D·M for a feed-forward layer of hidden width M; before the blocks 2·3·p²·D a patch, after them 2·D·C. Norms,
    softmax and activations, which are not products, are left out.

    Args:
        module: with ``patch_embed``, ``blocks``, ``embed_dim`` and ``num_prefix_tokens``.
        height: of the input, in pixels.
        width: likewise.
    """
    vit: Any = module
    rows, columns = vit.patch_embed.patch_size
    patches = (height // rows) * (width // columns)
    tokens, dim = patches + vit.num_prefix_tokens, vit.embed_dim
    total = 2.0 * patches * 3 * rows * columns * dim
    for block in vit.blocks:
        total += 8.0 * tokens * dim**2 + 4.0 * tokens**2 * dim + 4.0 * tokens * dim * block.mlp.fc1.out_features
    return float(total + 2.0 * dim * vit.num_classes)


TRAINING = 3
"""A training step is three forward passes of arithmetic: the gradient of a product is two products."""


def matrix_work(device: torch.device, precision: str) -> Callable[[], float]:
    """One large square matrix product as a piece of work: a call does it once and returns its operations.

    Whatever else runs in the same rounds can be put beside its rate: no program is faster than this for long.
    """
    side = _SIDE.get(device.type, 2048)
    generator = torch.Generator().manual_seed(0)
    first, second = (
        torch.randn(side, side, generator=generator).to(device=device, dtype=DTYPES[precision]) for _ in range(2)
    )

    def once() -> float:
        product = torch.mm(first, second)
        finish(device)
        return 2.0 * side**3 if product.shape[0] else 0.0

    return once


def finish(device: torch.device) -> None:
    """Wait until the device has done everything that was asked of it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
