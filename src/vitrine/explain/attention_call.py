"""One attention as a block called it, and the rows and gradients that can be had from it.

Axes: B pictures, H heads, Q queries, K keys, D channels of a head; tokens are counted with the prefix tokens first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

POOL = -1
"""The layer number of an attention pool."""


@dataclass(frozen=True, eq=False)
class AttentionCall:
    """One attention of one forward pass, as the block called it.

    Attributes:
        layer: the block's number from 0, or ``POOL``.
        q_BHQD, k_BHKD, v_BHKD: what went in; None where the block formed its matrix itself.
        bias: added to the scores before the softmax (or a mask: false is left out); None without.
        scale: of the scores.
        output_BHQD: what came out, part of the model's graph; None where the block formed its matrix itself.
        matrix_BHQK: the attention, part of the model's graph, where the block formed it itself.
    """

    layer: int
    q_BHQD: torch.Tensor | None = None
    k_BHKD: torch.Tensor | None = None
    v_BHKD: torch.Tensor | None = None
    bias: torch.Tensor | None = None
    scale: float = 1.0
    output_BHQD: torch.Tensor | None = None
    matrix_BHQK: torch.Tensor | None = None

    @property
    def heads(self) -> int:
        """Number of heads."""
        return int(self.carrier.shape[1])

    @property
    def queries(self) -> int:
        """Number of queries."""
        return int(self.carrier.shape[2])

    @property
    def keys(self) -> int:
        """Number of keys."""
        return int(self.carrier.shape[-1] if self.k_BHKD is None else self.k_BHKD.shape[2])

    @property
    def carrier(self) -> torch.Tensor:
        """The tensor whose gradient :meth:`gradient` turns into that of the attention."""
        tensor = self.matrix_BHQK if self.output_BHQD is None else self.output_BHQD
        assert tensor is not None
        return tensor

    def rows(self, queries: Sequence[int] | slice, heads: Sequence[int] | slice = slice(None)) -> torch.Tensor:
        """Attention of some queries to all keys: float32 (B, H, Q, K), rows sum to 1, without a graph."""
        with torch.no_grad(), torch.autocast(self.carrier.device.type, enabled=False):
            if self.matrix_BHQK is not None:
                return self.matrix_BHQK.detach()[:, heads][:, :, queries].float()
            assert self.q_BHQD is not None and self.k_BHKD is not None
            q_BHQD = self.q_BHQD.detach()[:, heads][:, :, queries].float() * self.scale
            scores_BHQK = q_BHQD @ _each_head(self.k_BHKD, self.heads)[:, heads].detach().float().transpose(-2, -1)
            return self._biased(scores_BHQK, queries, heads).softmax(dim=-1)

    def _biased(
        self, scores_BHQK: torch.Tensor, queries: Sequence[int] | slice, heads: Sequence[int] | slice
    ) -> torch.Tensor:
        if self.bias is None:
            return scores_BHQK
        bias = self.bias.detach()
        bias = bias.expand(*scores_BHQK.shape[:1], self.heads, bias.shape[-2], bias.shape[-1])[:, heads]
        if bias.shape[-2] > 1:
            bias = bias[:, :, queries]
        if bias.dtype == torch.bool:
            return scores_BHQK.masked_fill(~bias, -math.inf)
        return scores_BHQK + bias.float()

    def gradient(self, carrier_gradient: torch.Tensor, heads: Sequence[int] | slice = slice(None)) -> torch.Tensor:
        """Gradient of some scalar by the attention, float32 (B, H, Q, K), from its gradient by :attr:`carrier`.

        The output is attention times values, so the gradient by the attention is the output's times the values
        transposed: no matrix has to be kept in the graph.
        """
        with torch.no_grad(), torch.autocast(self.carrier.device.type, enabled=False):
            if self.matrix_BHQK is not None:
                return carrier_gradient[:, heads].float()
            assert self.v_BHKD is not None
            values_BHKD = _each_head(self.v_BHKD, self.heads)[:, heads].detach().float()
            return carrier_gradient[:, heads].float() @ values_BHKD.transpose(-2, -1)


def _each_head(tensor_BHKD: torch.Tensor, heads: int) -> torch.Tensor:
    """Keys or values for every head, where several heads share one (grouped-query attention)."""
    shared = heads // tensor_BHKD.shape[1]
    return tensor_BHKD if shared == 1 else tensor_BHKD.repeat_interleave(shared, dim=1)


def fused_call(
    layer: int,
    output: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> AttentionCall:
    """The arguments of ``scaled_dot_product_attention``, under the names of its documentation."""
    del dropout_p, enable_gqa  # dropout does not change the attention; shared keys show in the shapes
    if is_causal:
        attn_mask = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool, device=query.device).tril()
    return AttentionCall(
        layer, query, key, value, attn_mask, 1 / math.sqrt(query.shape[-1]) if scale is None else scale, output
    )
