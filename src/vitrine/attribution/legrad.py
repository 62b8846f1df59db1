"""LeGrad: how much each layer's class score grows with its attention to a patch (Bousselham et al. 2024).

Axes: B pictures, C classes, D channels, H heads, N, K tokens (prefix tokens first), Q queries.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from vitrine.attribution.attention import POOL, AttentionCall, mean_over_heads, watch_attention
from vitrine.attribution.maps import BatchMaps, TokenLayout, split_prefix, token_layout
from vitrine.attribution.model_tail import tail_class_logit
from vitrine.attribution.readout import describe_readout
from vitrine.models.forward_hooks import watch_outputs


def legrad(
    module: nn.Module, pixels_BCHW: torch.Tensor, targets_B: torch.Tensor, against_B: torch.Tensor | None = None
) -> BatchMaps:
    """The mean over layers, heads and queries of (∂z_l/∂A_l)⁺: float32 (B, rows, columns), 0 or more.

    z_l is the class's logit as the model's own norm and head give it for the tokens that leave layer l, and A_l that
    layer's attention; what is averaged are the columns of the patches. Where an attention pool reads the tokens, A_l
    are the weights with which it reads those of layer l. The authors' code for CLIP, whose head reads the class token,
    gives norm and head the mean of all tokens instead. The paper's maps are besides stretched to their own range,
    which is left to figures; its code starts at the last layers but one for the largest CLIP, and takes all layers in
    the formula, as here. Source: W. Bousselham, A. Boggust, S. Chaybouti, H. Strobelt, H. Kuehne (2024),
    arXiv:2404.03214, equations 4 to 8 and, for the pool, 10.

    Args:
        module: a timm vision transformer in eval mode; its parameters' gradients are not touched.
        pixels_BCHW: normalised.
        targets_B: int64, a class for each picture.
        against_B: the class that it is compared with; None is none.

    Raises:
        ModelError: an attention that cannot be shown.
    """
    layout = token_layout(module, *pixels_BCHW.shape[-2:])
    calls: list[AttentionCall] = []
    has_pool = getattr(module, "attn_pool", None) is not None
    total_BN = torch.zeros(len(pixels_BCHW), layout.tokens, device=pixels_BCHW.device)
    blocks: Any = module.blocks
    with torch.enable_grad(), watch_attention(module, calls.append), watch_outputs(*blocks) as outputs:
        module(pixels_BCHW.detach().requires_grad_())
        own_calls = {call.layer: call for call in calls}
        for layer, tokens_BND in enumerate(list(outputs)):
            calls.clear()
            score = tail_class_logit(module, pixels_BCHW, tokens_BND, targets_B, against_B)
            call = calls[-1] if has_pool else own_calls[layer]
            (gradient,) = torch.autograd.grad(score, call.carrier, retain_graph=True)
            total_BN += _columns(call, gradient, module, layout)
    return split_prefix(total_BN / layout.blocks, layout)


def _columns(call: AttentionCall, gradient: torch.Tensor, module: nn.Module, layout: TokenLayout) -> torch.Tensor:
    """What each token's column of one attention adds to the score: (B, N), the mean over heads and queries."""
    mean_BQK = mean_over_heads(call, lambda some: call.gradient(gradient, some).clamp_(min=0).mean(dim=2, keepdim=True))
    if call.layer == POOL:
        return describe_readout(module, layout).pool_row(mean_BQK, layout.tokens)
    return mean_BQK[:, 0]
