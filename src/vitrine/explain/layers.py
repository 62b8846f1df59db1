"""What the methods that go through all layers share: a layer's mean over heads, and the row that the head reads.

Axes: B pictures, H heads, N, M tokens (prefix tokens first), K keys.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from vitrine.explain.attention_call import AttentionCall
from vitrine.explain.tokens import TokenLayout

_MOST_ELEMENTS = 1 << 24  # of attention held at a time: 64 MB in float32


def mean_over_heads(call: AttentionCall, part_of: Callable[[slice], torch.Tensor]) -> torch.Tensor:
    """Mean over a layer's heads of what ``part_of`` gives for some of them, with few heads in memory at a time.

    Args:
        call: the layer's attention.
        part_of: a slice of heads to (B, heads, N, M), float32.

    Returns:
        float32 (B, N, M).
    """
    one = len(call.carrier) * call.queries * call.keys
    count = max(1, min(call.heads, _MOST_ELEMENTS // max(1, one)))
    total_BNM: torch.Tensor | None = None
    for first in range(0, call.heads, count):
        part_BNM = part_of(slice(first, min(first + count, call.heads))).sum(dim=1)
        total_BNM = part_BNM if total_BNM is None else total_BNM.add_(part_BNM)
    assert total_BNM is not None
    return total_BNM.div_(call.heads)


def read_out(matrix_BNM: torch.Tensor, layout: TokenLayout, pool_BK: torch.Tensor | None) -> torch.Tensor:
    """The row of what the head reads, (B, K): the pool's weights times the rows, the class token's, or the mean."""
    if layout.readout == "pool" and pool_BK is not None:
        return (pool_BK[:, None] @ matrix_BNM)[:, 0]
    if layout.readout == "class" and layout.has_class:
        return matrix_BNM[:, 0]
    return matrix_BNM[:, layout.prefix :].mean(dim=1)
