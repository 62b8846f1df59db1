"""A cache of all attention of one forward pass, from which every map is made without running the model again.

It has queries and keys of every layer instead of attention matrices, in a tenth to a half of the memory. Any row,
column, head or product over layers follows from them by the code of :mod:`vitrine.attribution.attention` and
:mod:`vitrine.attribution.rollout`.

Axes: B pictures (one here), C channels (classes, in logits_BC), H heads, Q queries, K keys, N tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import nn

from vitrine.attribution.attention import (
    AttentionCall,
    layer_number,
    query_layers,
    query_readout,
    readout_attention,
    reduce_heads,
    watch_attention,
)
from vitrine.attribution.maps import BatchMaps, TokenLayout, split_prefix, token_layout
from vitrine.attribution.readout import Readout, describe_readout, watch_head_tokens
from vitrine.attribution.rollout import Rollout
from vitrine.errors import ModelError


@dataclass(frozen=True, eq=False)
class AttentionCache:
    """The attention of every layer for one picture.

    Attributes:
        calls: of the blocks in order, and of the pool, by their numbers; without values and outputs.
        layout: of the tokens.
        readout: what the head reads; the error that says why that is not known.
        tokens_BND: as the head gets them, where the readout depends on the picture; else None.
    """

    calls: dict[int, AttentionCall]
    layout: TokenLayout
    readout: Readout | ModelError
    tokens_BND: torch.Tensor | None = None

    @property
    def nbytes(self) -> int:
        """Memory of the tensors, in bytes."""
        return _size(self.tokens_BND) + sum(_size(part) for call in self.calls.values() for part in _parts(call))

    def heads(self, layer: int) -> int:
        """Heads of a block.

        Raises:
            ModelError: there is no such layer.
        """
        return self.calls[layer_number(layer, self.layout.blocks)].heads

    def map(self, layer: int = -1, heads: str | int = "mean", query: str | tuple[int, int] = "auto") -> BatchMaps:
        """What :func:`vitrine.attribution.attention.attention_map` gives for this picture; arguments are its own.

        Raises:
            ModelError: no such layer, head or query.
        """
        readout = query_readout(self.layout, query, self.describe)
        calls = [self.calls[number] for number in query_layers(self.layout, readout, query, layer)]
        with torch.inference_mode():
            attention_BHK = readout_attention(calls, readout, self.layout, self.tokens_BND)
            return split_prefix(reduce_heads(attention_BHK[:, :, None], heads)[:, 0], self.layout)

    def describe(self) -> Readout:
        """What the head reads.

        Raises:
            ModelError: that is not known.
        """
        if isinstance(self.readout, ModelError):
            raise self.readout
        return self.readout

    def matrix(self, layer: int = -1, heads: str | int = "mean") -> torch.Tensor:
        """Attention of every token to every token: float32 (N, N) on the CPU. With one head, rows sum to 1.

        Raises:
            ModelError: no such layer or head.
        """
        call = self.calls[layer_number(layer, self.layout.blocks)]
        with torch.inference_mode():
            return reduce_heads(call.rows(slice(None)), heads)[0].cpu()

    @cached_property
    def rollout(self) -> BatchMaps:
        """What :func:`vitrine.attribution.rollout.rollout` gives for this picture.

        Raises:
            ModelError: what the head reads is not known.
        """
        product, readout = Rollout(), self.describe()
        with torch.inference_mode():
            for call in self.calls.values():
                product(call)
            return product.maps(self.layout, readout, self.tokens_BND)


def cache_attention(module: nn.Module, pixels_BCHW: torch.Tensor) -> tuple[torch.Tensor, AttentionCache]:
    """Run the model once on one picture: its logits (1, classes), the same bits as without, and all its attention.

    Args:
        module: a timm vision transformer in eval mode.
        pixels_BCHW: normalised, one picture.

    Raises:
        ModelError: an attention that cannot be shown.
    """
    calls: dict[int, AttentionCall] = {}

    def keep(call: AttentionCall) -> None:
        calls[call.layer] = _compact(call)

    layout = token_layout(module, *pixels_BCHW.shape[-2:])
    readout = _describe(module, layout)
    with torch.inference_mode(), watch_attention(module, keep), watch_head_tokens(module) as tokens:
        logits_BC: torch.Tensor = module(pixels_BCHW)
    needs_tokens = isinstance(readout, Readout) and readout.depends_on_picture and not readout.is_pool
    return logits_BC, AttentionCache(calls, layout, readout, _copy(tokens[-1]) if needs_tokens else None)


def _describe(module: nn.Module, layout: TokenLayout) -> Readout | ModelError:
    try:
        return describe_readout(module, layout)
    except ModelError as error:
        return error


def _compact(call: AttentionCall) -> AttentionCall:
    """The call without values and output, and with copies, so that nothing else of the forward pass stays alive."""
    if call.matrix_BHQK is not None:
        return replace(call, matrix_BHQK=_copy(call.matrix_BHQK))
    # Of the output only its shape, type and device are asked for from here on: one element stands for all.
    stand_in = call.carrier.new_empty(()).expand(call.carrier.shape)
    assert call.q_BHQD is not None and call.k_BHKD is not None
    return replace(
        call, q_BHQD=_copy(call.q_BHQD), k_BHKD=_copy(call.k_BHKD), v_BHKD=None, output_BHQD=stand_in, bias=call.bias
    )


def _copy(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().clone(memory_format=torch.contiguous_format)


def _parts(call: AttentionCall) -> tuple[torch.Tensor | None, ...]:
    return call.q_BHQD, call.k_BHKD, call.bias, call.matrix_BHQK


def _size(tensor: torch.Tensor | None) -> int:
    return 0 if tensor is None else tensor.untyped_storage().nbytes()
