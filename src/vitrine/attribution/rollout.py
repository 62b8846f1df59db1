"""Attention rollout: the attention of all layers multiplied out (Abnar and Zuidema 2020, arXiv:2005.00928).

Axes: B pictures, H heads, N, M tokens (prefix tokens first), K keys.
"""

from __future__ import annotations

import torch
from torch import nn

from vitrine.attribution.attention import POOL, AttentionCall, mean_over_heads, watch_attention, weighted_row
from vitrine.attribution.maps import BatchMaps, TokenLayout, split_prefix, token_layout
from vitrine.attribution.readout import Readout, describe_readout, watch_head_tokens


def rollout(module: nn.Module, pixels_BCHW: torch.Tensor) -> BatchMaps:
    """Attention rollout, from what the head reads back to the patches.

    Half of each layer is the residual connection: R_l = (0.5 mean_h A_l + 0.5 I) R_(l-1), R_0 = I; rows sum to 1. The
    map is the rows of the tokens that the head reads, each by its weight: the class token's row, the mean of the
    patches' rows, the pool's weights times the rows, and so on; see :mod:`vitrine.attribution.readout`. One N × N
    matrix is carried through the layers, and one layer's attention is formed at a time.

    Args:
        module: a timm vision transformer in eval mode.
        pixels_BCHW: normalised.

    Raises:
        ModelError: an attention that cannot be shown, or a head that is not known.
    """
    layout = token_layout(module, *pixels_BCHW.shape[-2:])
    product, readout = Rollout(), describe_readout(module, layout)
    with torch.inference_mode(), watch_attention(module, product), watch_head_tokens(module) as tokens:
        module(pixels_BCHW)
        return product.maps(layout, readout, tokens[-1])


class Rollout:
    """The product of the layers' attention, to which each call of a layer adds that layer."""

    def __init__(self) -> None:
        self.rolled_BNM: torch.Tensor | None = None
        self.pool_BQK: torch.Tensor | None = None

    def __call__(self, call: AttentionCall) -> None:
        if call.layer == POOL:
            self.pool_BQK = call.rows(slice(None)).mean(dim=1)
            return
        mixed_BNM = 0.5 * mean_over_heads(call, lambda some: call.rows(slice(None), some))
        mixed_BNM.diagonal(dim1=1, dim2=2).add_(0.5)
        self.rolled_BNM = mixed_BNM if self.rolled_BNM is None else mixed_BNM @ self.rolled_BNM

    def maps(self, layout: TokenLayout, readout: Readout, tokens_BND: torch.Tensor | None) -> BatchMaps:
        """The maps, from the tokens that the head reads after the last layer; arguments are those of the head."""
        assert self.rolled_BNM is not None
        if readout.token is not None:
            return split_prefix(self.rolled_BNM[:, readout.token], layout)
        tokens_BND = tokens_BND if readout.depends_on_picture else None
        weights_BN = readout.weights(layout.tokens, tokens_BND, self.pool_BQK).to(self.rolled_BNM.device)
        return split_prefix(weighted_row(self.rolled_BNM, weights_BN), layout)
