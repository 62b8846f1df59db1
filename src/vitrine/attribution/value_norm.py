"""Attention × value norm: how long the vector is that each token adds to another (Kobayashi et al. 2020).

Axes: B pictures, H, G heads, Q queries, K keys (tokens, prefix tokens first), D channels of a head, E of a token.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from vitrine.attribution.attention import POOL, AttentionCall, query_layers, watch_attention, weighted_row
from vitrine.attribution.maps import BatchMaps, split_prefix, token_layout
from vitrine.attribution.readout import describe_readout, watch_head_tokens
from vitrine.errors import ModelError


def value_norm(module: nn.Module, pixels_BCHW: torch.Tensor, layer: int = -1) -> BatchMaps:
    """‖Σ_h α_h f_h(x)‖: the length of what each patch adds to what the head reads, in one layer's attention.

    α_h is a head's attention and f_h(x) the token's value under that head's part of the output matrix: a token that is
    attended to much and has next to no value adds next to nothing. A LayerScale that follows belongs to the matrix. The
    rows are those of the tokens that the head reads, each by its weight, as in :mod:`vitrine.attribution.readout`.
    Source: G. Kobayashi, T. Kuribayashi, S. Yokoi, K. Inui (2020), arXiv:2004.10102, equation 5, heads summed before
    the norm.

    Args:
        module: a timm vision transformer in eval mode.
        pixels_BCHW: normalised.
        layer: a block from 0, or from the end with -1.

    Raises:
        ModelError: no such layer, an attention that cannot be shown, or one whose output is not linear in its values.
    """
    layout = token_layout(module, *pixels_BCHW.shape[-2:])
    readout = describe_readout(module, layout)
    layers = query_layers(layout, readout, "auto", layer)
    parts = [_attention_of(module, number) for number in layers]
    matrix_EHD = _output_matrix(module, layers[0])
    calls: list[AttentionCall] = []
    with (
        torch.inference_mode(),
        _fused_attention(parts),
        watch_attention(module, calls.append, layers),
        watch_head_tokens(module) as tokens,
    ):
        module(pixels_BCHW)
        norm_BQK = _norms(calls[0], matrix_EHD)
        if calls[0].layer == POOL:
            return split_prefix(readout.pool_row(norm_BQK, layout.tokens), layout)
        if readout.token is not None:
            return split_prefix(norm_BQK[:, readout.token], layout)
        pool_BQK = calls[-1].rows(slice(None)).mean(dim=1) if readout.is_pool else None
        weights_BN = readout.weights(layout.tokens, tokens[-1] if readout.depends_on_picture else None, pool_BQK)
        return split_prefix(weighted_row(norm_BQK, weights_BN.to(norm_BQK.device)), layout)


def _norms(call: AttentionCall, matrix_EHD: torch.Tensor) -> torch.Tensor:
    """Lengths of what each key adds to each query: float32 (B, Q, K), without forming one vector a pair.

    With M the products of a key's transformed values, head by head, the squared length is Σ_hg α_h α_g M_hg.
    """
    assert call.v_BHKD is not None
    with torch.autocast(call.carrier.device.type, enabled=False):
        values_BHKD = call.v_BHKD.float()
        if values_BHKD.shape[1] != call.heads:
            values_BHKD = values_BHKD.repeat_interleave(call.heads // values_BHKD.shape[1], dim=1)
        added_BKHE = torch.einsum("bhkd,ehd->bkhe", values_BHKD, matrix_EHD.float())
        products_BKHG = added_BKHE @ added_BKHE.transpose(-2, -1)
        rows_BHQK = call.rows(slice(None))
        squares_BQK = torch.zeros_like(rows_BHQK[:, 0])
        for head in range(call.heads):  # one head's sum over the others at a time: it saves memory
            beside_BQK = torch.einsum("bgqk,bkg->bqk", rows_BHQK, products_BKHG[:, :, head])
            squares_BQK += rows_BHQK[:, head] * beside_BQK
        return squares_BQK.clamp_(min=0).sqrt_()


def _attention_of(module: nn.Module, layer: int) -> Any:
    blocks: Any = module.blocks
    return module.attn_pool if layer == POOL else blocks[layer].attn


def _output_matrix(module: nn.Module, layer: int) -> torch.Tensor:
    """What a layer's values are multiplied with: (E, H, D), D a head's channels; LayerScale included.

    Raises:
        ModelError: there is more between the values and the tokens than a matrix.
    """
    part = _attention_of(module, layer)
    projection = getattr(part, "proj", None)
    between = None if layer == POOL else getattr(part, "norm", None)  # a pool's norm comes after its matrix
    if not isinstance(projection, nn.Linear) or not isinstance(between, nn.Identity | None):
        raise ModelError(
            f"What the attention of this {type(module).__name__} adds is not its values times one matrix "
            f"({type(part).__name__}): their lengths cannot be told.\nUse --method attention or value-output."
        )
    matrix_EF = projection.weight.detach()
    blocks: Any = module.blocks
    scale = None if layer == POOL else getattr(getattr(blocks[layer], "ls1", None), "gamma", None)
    if scale is not None:
        matrix_EF = scale.detach()[:, None] * matrix_EF
    return matrix_EF.reshape(len(matrix_EF), int(part.num_heads), -1)


@contextmanager
def _fused_attention(parts: list[Any]) -> Iterator[None]:
    """Attention hands over its values only where it runs fused."""
    switches = [part.fused_attn for part in parts]
    try:
        for part in parts:
            part.fused_attn = True
        yield
    finally:
        for part, switch in zip(parts, switches, strict=True):
            part.fused_attn = switch
