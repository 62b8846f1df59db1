"""Attention rollout: the attention of all layers multiplied out (Abnar and Zuidema 2020, arXiv:2005.00928).

Axes: B pictures, H heads, N, M tokens (prefix tokens first), K keys.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from vitrine.explain.attention_call import POOL, AttentionCall
from vitrine.explain.capture import watch_attention
from vitrine.explain.maps import BatchMaps, split_prefix
from vitrine.explain.tokens import TokenLayout, token_layout

_MOST_ELEMENTS = 1 << 24  # of attention held at a time: 64 MB in float32


def rollout(module: nn.Module, pixels_BCHW: torch.Tensor) -> BatchMaps:
    """Attention rollout, from what the head reads back to the patches.

    Half of each layer is the residual connection: R_l = (0.5 mean_h A_l + 0.5 I) R_(l-1), R_0 = I; rows sum to 1. The
    map is the row of the class token; the mean of the patches' rows, or the pool's weights times the rows, where the
    head reads those. One N × N matrix is carried through the layers, and one layer's attention is formed at a time.

    Args:
        module: a timm vision transformer in eval mode.
        pixels_BCHW: normalised.

    Raises:
        ModelError: an attention that cannot be shown.
    """
    layout = token_layout(module, *pixels_BCHW.shape[-2:])
    carried = _Rollout()
    with torch.inference_mode(), watch_attention(module, carried):
        module(pixels_BCHW)
    assert carried.rolled_BNM is not None
    return split_prefix(_read(carried.rolled_BNM, layout, carried.pool_BK), layout)


class _Rollout:
    """The product so far, multiplied on by every layer as it runs."""

    def __init__(self) -> None:
        self.rolled_BNM: torch.Tensor | None = None
        self.pool_BK: torch.Tensor | None = None

    def __call__(self, call: AttentionCall) -> None:
        if call.layer == POOL:
            self.pool_BK = call.rows(slice(None)).mean(dim=1)[:, 0]
            return
        mixed_BNM = 0.5 * mean_attention(call)
        mixed_BNM.diagonal(dim1=1, dim2=2).add_(0.5)
        self.rolled_BNM = mixed_BNM if self.rolled_BNM is None else mixed_BNM @ self.rolled_BNM


def mean_attention(call: AttentionCall) -> torch.Tensor:
    """The attention's mean over heads, float32 (B, N, M), with few heads in memory at a time."""
    total_BNM: torch.Tensor | None = None
    for some in head_groups(call):
        part_BNM = call.rows(slice(None), some).sum(dim=1)
        total_BNM = part_BNM if total_BNM is None else total_BNM.add_(part_BNM)
    assert total_BNM is not None
    return total_BNM.div_(call.heads)


def head_groups(call: AttentionCall) -> Iterator[slice]:
    """All heads of a call, in slices whose attention fits into a bounded amount of memory."""
    one = len(call.carrier) * call.queries * call.keys
    count = max(1, min(call.heads, _MOST_ELEMENTS // max(1, one)))
    for first in range(0, call.heads, count):
        yield slice(first, min(first + count, call.heads))


def _read(rolled_BNM: torch.Tensor, layout: TokenLayout, pool_BK: torch.Tensor | None) -> torch.Tensor:
    """The row of what the head reads: (B, K)."""
    if layout.readout == "pool" and pool_BK is not None:
        return (pool_BK[:, None] @ rolled_BNM)[:, 0]
    if layout.readout == "class" and layout.has_class:
        return rolled_BNM[:, 0]
    return rolled_BNM[:, layout.prefix :].mean(dim=1)
