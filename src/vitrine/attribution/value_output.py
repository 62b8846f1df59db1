"""What the last block's attention brings from each patch into a class's logit; the contributions add up exactly.

Axes: B pictures, C classes (in logits) or channels, H heads, N tokens (prefix tokens first), Q queries, K keys, D
channels of a head.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from vitrine.attribution.attention import AttentionCall, head_slices, watch_attention
from vitrine.attribution.maps import BatchMaps, TokenLayout, token_layout
from vitrine.attribution.model_tail import tail_class_logit
from vitrine.attribution.pixel_gradients import unit_quadrature
from vitrine.errors import ModelError
from vitrine.models.forward_hooks import watch_input

_STEPS = 16


def value_output(
    module: nn.Module, pixels_BCHW: torch.Tensor, targets_B: torch.Tensor, against_B: torch.Tensor | None = None
) -> BatchMaps:
    """Σ_h Σ_q A_hqk ḡ_hq · v_hk: what patch k's values, attended to in the last block, add to the class's logit.

    o_hq = Σ_k A_hqk v_hk is what the last attention hands on, and ḡ the mean of ∂z/∂o while o grows from 0 to what it
    is (Aumann and Shapley's path, as in integrated gradients), through that block's MLP, the last norm and the head.
    Summed over all tokens, the contributions are z(o) - z(0): the logit's change by that attention, exactly but for
    the integral, which is by Gauss and Legendre at 16 places. What earlier blocks mixed into a patch's token counts as
    that patch's. Source of the split by values: G. Kobayashi et al. (2020), arXiv:2004.10102; of the path:
    M. Sundararajan et al. (2017), arXiv:1703.01365.

    Args:
        module: a timm vision transformer in eval mode; its parameters' gradients are not touched.
        pixels_BCHW: normalised.
        targets_B: int64, a class for each picture.
        against_B: the class that it is compared with; None is none.

    Raises:
        ModelError: an attention that cannot be shown.
    """
    layout = token_layout(module, *pixels_BCHW.shape[-2:])
    contributions_BN = token_contributions(module, pixels_BCHW, targets_B, against_B)
    patches_BN = contributions_BN[:, layout.prefix :]
    return BatchMaps(patches_BN.reshape(-1, layout.rows, layout.columns).cpu(), unit="logit")


def token_contributions(
    module: nn.Module, pixels_BCHW: torch.Tensor, targets_B: torch.Tensor, against_B: torch.Tensor | None = None
) -> torch.Tensor:
    """:func:`value_output` of every token, the prefix tokens first: float32 (B, N)."""
    layout = token_layout(module, *pixels_BCHW.shape[-2:])
    blocks: Any = module.blocks
    with torch.no_grad(), watch_input(blocks[-1]) as inputs:
        module(pixels_BCHW)
    tokens_BND = inputs[0]
    calls: list[AttentionCall] = []
    leaves: list[torch.Tensor] = []

    share = 0.0

    def scale(call: AttentionCall) -> torch.Tensor:
        calls.append(call)
        leaves.append((call.carrier.detach() * share).requires_grad_())
        return leaves[-1]

    mean_gradient: torch.Tensor | None = None
    with torch.enable_grad(), watch_attention(module, scale, [layout.blocks - 1]):
        for share, weight in unit_quadrature(_STEPS):  # noqa: B007  scale reads the share
            score = tail_class_logit(module, pixels_BCHW, tokens_BND, targets_B, against_B, last_blocks=1)
            (gradient,) = torch.autograd.grad(score, leaves.pop())
            term = weight * gradient.float()
            mean_gradient = term if mean_gradient is None else mean_gradient + term
    assert mean_gradient is not None
    return _by_key(calls[0], mean_gradient, layout)


def _by_key(call: AttentionCall, gradient: torch.Tensor, layout: TokenLayout) -> torch.Tensor:
    """Attention times its gradient, summed over heads and queries: (B, K)."""
    parts = [(call.gradient(gradient, some) * call.rows(slice(None), some)).sum((1, 2)) for some in head_slices(call)]
    total_BK = torch.stack(parts).sum(0)
    if total_BK.shape[1] != layout.tokens:
        raise ModelError(f"This model's last block attends to {total_BK.shape[1]} tokens, not to its {layout.tokens}.")
    return total_BK
