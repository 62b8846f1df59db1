"""Attention as two matrix products and a softmax, a few heads at a time.

PyTorch's fused attention for the CPU computes bf16 inputs with products of small float32 tiles. Where the processor
multiplies bf16 matrices itself, whole products are faster, and still nothing is kept that grows with the square of the
tokens: the scores of a few heads live in the processor's cache until the next ones take their place, and the backward
pass computes them again, as FlashAttention does (Dao et al. 2022, arXiv:2205.14135).

Letters: B pictures, H heads, N tokens, Q queries, K keys, D channels of a head.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_SCORE_BYTES = 4 << 20  # of the scores that are computed at a time, a thread
_MOST_TOKENS = 2048  # one head's scores beyond that leave every cache


def suits(query: Tensor, key: Tensor, value: Tensor) -> bool:
    """Whether these can be computed so: bf16 on the CPU, as many heads each, (B, H, tokens, D), not too many tokens."""
    return (
        query.dtype == key.dtype == value.dtype == torch.bfloat16
        and query.device.type == "cpu"
        and query.ndim == 4
        and query.shape[:2] == key.shape[:2] == value.shape[:2]
        and max(query.shape[2], key.shape[2]) <= _MOST_TOKENS
        and query.numel() > 0
        and key.numel() > 0
    )


def plain_attention(query: Tensor, key: Tensor, value: Tensor, scale: float | None = None) -> Tensor:
    """``scaled_dot_product_attention`` without mask and dropout.

    Args:
        query: bf16, (B, H, Q, D).
        key: bf16, (B, H, K, D).
        value: as ``key``.
        scale: of the scores; None is 1 / √D.

    Returns:
        bf16, (B, H, Q, D). Scores are rounded to bf16 once more than PyTorch's kernel does.
    """
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    with torch.autocast("cpu", enabled=False):
        attended: Tensor = _Attention.apply(query, key, value, scale)  # type: ignore[no-untyped-call]
    return attended


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        out = _empty_like(query, value.shape[-1])
        for part in _parts(query, key):
            weights = _weights(query[part] * scale, key[part])
            out[part] = weights @ value[part]
        ctx.save_for_backward(query, key, value, out)
        ctx.scale = scale
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        query, key, value, out = ctx.saved_tensors
        query_grad, key_grad, value_grad = (_empty_like(each, each.shape[-1]) for each in (query, key, value))
        # Of each query, the sum over keys of weight times gradient by the weight.
        sums = (grad * out).sum(-1, keepdim=True)
        for part in _parts(query, key):
            scaled = query[part] * ctx.scale
            weights = _weights(scaled, key[part])
            value_grad[part] = weights.transpose(-1, -2) @ grad[part]
            by_score = (grad[part] @ value[part].transpose(-1, -2)).sub_(sums[part]).mul_(weights)
            query_grad[part] = (by_score @ key[part]).mul_(ctx.scale)
            key_grad[part] = by_score.transpose(-1, -2) @ scaled
        return query_grad, key_grad, value_grad, None


def _weights(scaled: Tensor, key: Tensor) -> Tensor:
    return (scaled @ key.transpose(-1, -2)).softmax(-1)


def _empty_like(tensor: Tensor, channels: int) -> Tensor:
    """Empty (B, H, N, D) that lies in memory as (B, N, H, D), as the layers before and after have it."""
    batch, heads, tokens = tensor.shape[:3]
    return tensor.new_empty(batch, tokens, heads, channels).transpose(1, 2)


def _parts(query: Tensor, key: Tensor) -> Iterator[tuple[slice, slice]]:
    """Pictures and heads to take at a time: some heads of one picture, or all heads of some."""
    batch, heads = query.shape[:2]
    fit = max(1, _SCORE_BYTES * torch.get_num_threads() // (2 * query.shape[2] * key.shape[2]))
    pictures, heads_each = max(1, fit // heads), min(fit, heads)
    for first in range(0, batch, pictures):
        for head in range(0, heads, heads_each):
            yield slice(first, first + pictures), slice(head, head + heads_each)
