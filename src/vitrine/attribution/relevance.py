"""Gradient-weighted attention over all layers, for one class (Chefer, Gur and Wolf 2021b, arXiv:2103.15679).

Axes: B pictures, H heads, N, M tokens (prefix tokens first), K keys.
"""

from __future__ import annotations

import torch
from torch import nn

from vitrine.attribution.attention import POOL, AttentionCall, mean_over_heads, readout_row, watch_attention
from vitrine.attribution.maps import BatchMaps, split_prefix, token_layout


def relevance(module: nn.Module, pixels_BCHW: torch.Tensor, targets_B: torch.Tensor) -> BatchMaps:
    """Relevance of every patch for the logit of one class a picture.

    For self-attention (equations 5 and 6 of the paper): Ā_l = mean over heads of the positive part of ∇A_l ⊙ A_l, the
    gradient being that of the class's logit by the *same* layer's attention; R ← R + Ā_l R from the first layer on,
    R_0 = I. The map is the class token's row of R without the identity it started from (the mean of the patches'
    rows, or the row of the attention pool treated as one more layer, where the head reads those).

    The gradient by the attention is that of its output times the values transposed, so that fused attention stays in
    use, and one layer's matrices are formed at a time.

    Args:
        module: a timm vision transformer in eval mode; its parameters' gradients are not touched.
        pixels_BCHW: normalised.
        targets_B: int64, a class for each picture.

    Raises:
        ModelError: an attention that cannot be shown.
    """
    layout = token_layout(module, *pixels_BCHW.shape[-2:])
    calls: list[AttentionCall] = []
    with torch.enable_grad(), watch_attention(module, calls.append):
        logits_BC = module(pixels_BCHW.detach().requires_grad_())  # so that frozen models have a graph, too
        target_logits = logits_BC.gather(1, targets_B[:, None].to(logits_BC.device)).sum()
        gradients = torch.autograd.grad(target_logits, [call.carrier for call in calls])
    relevance_BNM: torch.Tensor | None = None
    pool_BK: torch.Tensor | None = None
    for call, gradient in zip(calls, gradients, strict=True):
        weighted_BNM = weighted_attention(call, gradient)
        if call.layer == POOL:
            pool_BK = weighted_BNM[:, 0]
        elif relevance_BNM is None:
            relevance_BNM = weighted_BNM  # R - I: (I + Ā) I - I
        else:
            relevance_BNM = relevance_BNM + weighted_BNM + weighted_BNM @ relevance_BNM
    assert relevance_BNM is not None
    rows_BK = readout_row(relevance_BNM, layout, pool_BK)
    if pool_BK is not None and layout.readout == "pool":
        rows_BK = pool_BK + rows_BK  # the pool is one more layer: (I + Ā) R, without the identity
    return split_prefix(rows_BK, layout)


def weighted_attention(call: AttentionCall, carrier_gradient: torch.Tensor) -> torch.Tensor:
    """Mean over heads of the positive part of gradient times attention: float32 (B, N, M)."""

    def positive(some: slice) -> torch.Tensor:
        return call.gradient(carrier_gradient, some).mul_(call.rows(slice(None), some)).clamp_(min=0)

    return mean_over_heads(call, positive)
