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

from vitrine.attribution.attention import POOL, AttentionCall, layer_number, query_tokens, reduce_heads, watch_attention
from vitrine.attribution.maps import BatchMaps, TokenLayout, split_prefix, token_layout
from vitrine.attribution.rollout import Rollout


@dataclass(frozen=True, eq=False)
class AttentionCache:
    """The attention of every layer for one picture.

    Attributes:
        calls: of the blocks in order, and of the pool, by their numbers; without values and outputs.
        layout: of the tokens.
    """

    calls: dict[int, AttentionCall]
    layout: TokenLayout

    @property
    def nbytes(self) -> int:
        """Memory of the tensors, in bytes."""
        return sum(_size(part) for call in self.calls.values() for part in _parts(call))

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
        tokens = query_tokens(self.layout, query)
        if tokens == "pool":
            rows: list[int] | slice = slice(None)
            call = self.calls[POOL]
        else:
            rows = [0] if tokens == "class" else list(tokens)
            call = self.calls[layer_number(layer, self.layout.blocks)]
        with torch.inference_mode():
            return split_prefix(reduce_heads(call.rows(rows), heads)[:, 0], self.layout)

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
        """What :func:`vitrine.attribution.rollout.rollout` gives for this picture."""
        product = Rollout()
        with torch.inference_mode():
            for call in self.calls.values():
                product(call)
            return product.maps(self.layout)


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

    with torch.inference_mode(), watch_attention(module, keep):
        logits_BC: torch.Tensor = module(pixels_BCHW)
    return logits_BC, AttentionCache(calls, token_layout(module, *pixels_BCHW.shape[-2:]))


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
