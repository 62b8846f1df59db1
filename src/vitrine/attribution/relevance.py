"""Gradient-weighted attention over all layers, for one class (Chefer, Gur and Wolf 2021b, arXiv:2103.15679).

Axes: B pictures, H heads, N, M tokens (prefix tokens first), K keys.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from vitrine.attribution.attention import POOL, AttentionCall, mean_over_heads, watch_attention, weighted_row
from vitrine.attribution.class_logit import class_logit
from vitrine.attribution.maps import BatchMaps, TokenLayout, split_prefix, token_layout
from vitrine.attribution.readout import Readout, describe_readout, watch_head_tokens


def relevance(
    module: nn.Module, pixels_BCHW: torch.Tensor, targets_B: torch.Tensor, against_B: torch.Tensor | None = None
) -> BatchMaps:
    """Relevance of every patch for the logit of one class a picture.

    For self-attention (equations 5 and 6 of the paper): Ā_l = mean over heads of the positive part of ∇A_l ⊙ A_l, the
    gradient being that of the class's logit by the *same* layer's attention; R ← R + Ā_l R from the first layer on,
    R_0 = I. The map is the row of R, without the identity it started from, of the token that the head reads: the
    class token's row, or the mean of the patches' rows. The paper's models read one token. Where a head reads several
    parts (two heads, the class token beside a mean, a maximum) each token's row counts by what the logit of *this*
    class reads of it: the sum over channels of its absolute gradient by the token as the head gets it, of all tokens'.
    An attention pool is treated as one more layer.

    The gradient by the attention is that of its output times the values transposed, so that fused attention stays in
    use, and one layer's matrices are formed at a time.

    Args:
        module: a timm vision transformer in eval mode; its parameters' gradients are not touched.
        pixels_BCHW: normalised.
        targets_B: int64, a class for each picture.
        against_B: the class that it is compared with; None is none.

    Raises:
        ModelError: an attention that cannot be shown, or a head that is not known.
    """
    layout = token_layout(module, *pixels_BCHW.shape[-2:])
    readout = describe_readout(module, layout)
    calls: list[AttentionCall] = []
    with torch.enable_grad(), watch_attention(module, calls.append), watch_head_tokens(module) as tokens:
        logits_BC = module(pixels_BCHW.detach().requires_grad_())  # so that frozen models have a graph, too
        score = class_logit(logits_BC, targets_B, against_B)
        *gradients, gradient_BND = torch.autograd.grad(score, [*(call.carrier for call in calls), tokens[-1]])
    return relevance_map(calls, gradients, gradient_BND, layout, readout)


def relevance_map(
    calls: Sequence[AttentionCall],
    gradients: Sequence[torch.Tensor],
    gradient_BND: torch.Tensor,
    layout: TokenLayout,
    readout: Readout,
) -> BatchMaps:
    """The map of one forward and backward pass.

    Args:
        calls: the attention of every layer.
        gradients: of the class's logit by each call's ``carrier``.
        gradient_BND: by the tokens as the head gets them.
        layout: of the tokens.
        readout: what the head reads.
    """
    relevance_BNM: torch.Tensor | None = None
    pool_BQK: torch.Tensor | None = None
    for call, gradient in zip(calls, gradients, strict=True):
        weighted_BNM = weighted_attention(call, gradient)
        if call.layer == POOL:
            pool_BQK = weighted_BNM
        elif relevance_BNM is None:
            relevance_BNM = weighted_BNM  # R - I: (I + Ā) I - I
        else:
            relevance_BNM = relevance_BNM + weighted_BNM + weighted_BNM @ relevance_BNM
    assert relevance_BNM is not None
    if pool_BQK is not None:
        pool_BN = readout.pool_row(pool_BQK, layout.tokens)
        # The pool is one more layer: (I + Ā) R, without the identity.
        return split_prefix(pool_BN + weighted_row(relevance_BNM, pool_BN), layout)
    if readout.token is not None:
        return split_prefix(relevance_BNM[:, readout.token], layout)
    if readout.depends_on_class:
        strength_BN = gradient_BND.float().abs().sum(dim=-1)
        weights_BN = strength_BN / strength_BN.sum(dim=-1, keepdim=True).clamp_min(1e-30)
    else:
        weights_BN = readout.weights(layout.tokens).to(relevance_BNM.device)
    return split_prefix(weighted_row(relevance_BNM, weights_BN), layout)


def weighted_attention(call: AttentionCall, carrier_gradient: torch.Tensor) -> torch.Tensor:
    """Mean over heads of the positive part of gradient times attention: float32 (B, N, M)."""

    def positive(some: slice) -> torch.Tensor:
        return call.gradient(carrier_gradient, some).mul_(call.rows(slice(None), some)).clamp_(min=0)

    return mean_over_heads(call, positive)
