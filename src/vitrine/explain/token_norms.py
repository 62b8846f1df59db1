"""How long the patch tokens are when the last block leaves them: what tells outlier tokens.

Axes: B pictures, C channels, H, W pixels, R grid rows, C grid columns, N tokens (prefix tokens first), D channels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from vitrine.explain.tokens import token_layout


def token_norms(module: nn.Module, pixels_BCHW: torch.Tensor) -> torch.Tensor:
    """Euclidean norms of the patch tokens after the last block, before the final norm: float32 (B, R, C) on the CPU.

    Args:
        module: a timm vision transformer in eval mode.
        pixels_BCHW: normalised, on its device.

    Raises:
        ModelError: it is no vision transformer with one sequence of patch tokens.
    """
    layout = token_layout(module, *pixels_BCHW.shape[-2:])
    kept: list[torch.Tensor] = []
    blocks: Any = module.blocks
    hook = blocks[-1].register_forward_hook(lambda _, __, tokens_BND: kept.append(tokens_BND))
    try:
        with torch.no_grad():
            module(pixels_BCHW)
    finally:
        hook.remove()
    norms_BN: torch.Tensor = kept[-1][:, layout.prefix :].float().norm(dim=-1)
    return norms_BN.reshape(-1, layout.rows, layout.columns).cpu()
