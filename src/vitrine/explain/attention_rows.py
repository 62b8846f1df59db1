"""The attention map itself: rows of one layer's attention, over heads, as scores of patches.

Axes: B pictures, H heads, Q queries, K keys (tokens, prefix tokens first), R grid rows, C grid columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
from torch import nn

from vitrine.errors import ModelError
from vitrine.explain.capture import record_attention
from vitrine.explain.maps import BatchMaps, split_prefix
from vitrine.explain.tokens import TokenLayout, token_layout
from vitrine.models.class_token import class_token_alone

HEADS = ("mean", "max", "min")


def over_heads(attention_BHQK: torch.Tensor, heads: str | int) -> torch.Tensor:
    """(B, Q, K): the mean, maximum or minimum over heads, or one head by its number from 0.

    Raises:
        ModelError: there is no such head.
    """
    if heads == "mean":
        return attention_BHQK.mean(dim=1)
    if heads == "max":
        return attention_BHQK.amax(dim=1)
    if heads == "min":
        return attention_BHQK.amin(dim=1)
    if not isinstance(heads, int) or not 0 <= heads < attention_BHQK.shape[1]:
        raise ModelError(
            f"There is no head {heads}: expected mean, max, min or a number from 0 to {attention_BHQK.shape[1] - 1}."
        )
    return attention_BHQK[:, heads]


def attention_map(
    module: nn.Module,
    pixels_BCHW: torch.Tensor,
    *,
    layer: int = -1,
    heads: str | int = "mean",
    query: str | tuple[int, int] = "auto",
) -> BatchMaps:
    """Attention of one query to all patches.

    Args:
        module: a timm vision transformer in eval mode.
        pixels_BCHW: normalised.
        layer: a block, from 0, or from the end with -1.
        heads: mean, max, min, or a head's number from 0.
        query: ``class``; ``pool`` (the attention pool's own weights, whatever the layer); a patch (row, column) from
            0; ``auto`` is the pool where the head reads one, else the class token.

    Returns:
        Scores are attention probabilities; with one head or the mean they and the share of the prefix tokens sum to 1.

    Raises:
        ModelError: no such layer, head or query; a model without class token is told what else it offers.
    """
    layout = token_layout(module, *pixels_BCHW.shape[-2:])
    queries = query_tokens(layout, query)
    layers = (layer,) if queries != "pool" else ()
    with torch.inference_mode(), _no_more_than(module, queries), record_attention(module, layers, queries) as record:
        module(pixels_BCHW)
    rows_BK = over_heads(record.attention(), heads)[:, 0]
    return split_prefix(rows_BK, layout)


def query_tokens(layout: TokenLayout, query: str | tuple[int, int]) -> list[int] | Literal["class", "pool"]:
    """What :func:`record_attention` is asked for.

    Raises:
        ModelError: the model has no such query.
    """
    if isinstance(query, tuple):
        return [layout.token_of(*query)]
    if query == "auto":
        query = "pool" if layout.readout == "pool" else "class"
    if query == "class" and not layout.has_class:
        raise ModelError(
            "This model has no class token, so there is no class row: its head reads "
            f"{'an attention pool' if layout.readout == 'pool' else 'the mean of its patches'}.\n"
            "Use --method rollout or relevance, or the attention of one patch: --query ROW,COLUMN"
        )
    if query == "pool" and layout.readout != "pool":
        raise ModelError("This model has no attention pool. Use --query class, or a patch: --query ROW,COLUMN")
    if query not in ("class", "pool"):
        raise ModelError(f"query = {query!r} cannot be used: expected class, pool or ROW,COLUMN.")
    return "pool" if query == "pool" else "class"


def head_maps(
    module: nn.Module, pixels_BCHW: torch.Tensor, *, layer: int = -1, query: str | tuple[int, int] = "auto"
) -> tuple[BatchMaps, ...]:
    """:func:`attention_map` of every head, from one forward pass."""
    layout = token_layout(module, *pixels_BCHW.shape[-2:])
    queries = query_tokens(layout, query)
    layers = (layer,) if queries != "pool" else ()
    with torch.inference_mode(), _no_more_than(module, queries), record_attention(module, layers, queries) as record:
        module(pixels_BCHW)
    attention_BHK = record.attention()[:, :, 0]
    return tuple(split_prefix(attention_BHK[:, head], layout) for head in range(attention_BHK.shape[1]))


def _no_more_than(module: nn.Module, queries: list[int] | Literal["class", "pool"]) -> AbstractContextManager[None]:
    """The last block need not compute what neither the map nor the head reads."""
    return class_token_alone(module) if queries == "class" else nullcontext()


def attention_matrices(module: nn.Module, pixels_BCHW: torch.Tensor, *, layer: int = -1) -> torch.Tensor:
    """The whole attention of one layer, every token to every token: float32 (B, H, Q, K); rows sum to 1."""
    with torch.inference_mode(), record_attention(module, (layer,), "all") as record:
        module(pixels_BCHW)
    return record.attention()


def head_count(module: nn.Module, layer: int = -1) -> int:
    """Heads of a block."""
    blocks: Sequence[nn.Module] = module.blocks  # type: ignore[assignment]
    return int(blocks[layer].attn.num_heads)  # type: ignore[union-attr, arg-type]
