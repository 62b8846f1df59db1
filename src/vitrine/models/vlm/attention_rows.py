"""Rows of attention formed beside the fused kernels: that of the newest position alone, in every layer.

Attention functions are what transformers lets a model be given by name. The one here computes the same output as the
library's fused one, and, while a :class:`RowRecorder` is at work, the last query's row of the attention matrix too: one
row in place of a whole matrix, so that neither its time nor its memory grows with the square of the prompt.

Letters: B rows of a batch, H heads, G heads of keys and values, Q queries, K keys, E channels of one head.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

NAME = "vitrine_rows"
"""The name under which transformers knows the attention function."""


@dataclass
class RowRecorder:
    """The last query's attention in each layer of the calls that are made while it is at work.

    Attributes:
        rows_by_layer: float32 (B, H, K) over the layer's keys, each row with the sum 1, by the layer's number. A layer
            with a sliding window may have fewer keys than there are positions: its keys are the newest ones.
    """

    rows_by_layer: dict[int, Tensor] = field(default_factory=dict)

    def attention_to(self, places_BN: Tensor, positions: int) -> Tensor:
        """The attention to some positions, of all layers: (L, B, H, N).

        Args:
            places_BN: int64, counted from the first position; below 0 where there is none, which has attention 0.
            positions: how many there are, the newest included.
        """
        rows = []
        for _, row_BHK in sorted(self.rows_by_layer.items()):
            keys, heads = row_BHK.shape[-1], row_BHK.shape[1]
            at_BN = places_BN - (positions - keys)
            is_key_BN = (places_BN >= 0) & (at_BN >= 0)
            at_BHN = at_BN.clamp_min(0)[:, None].expand(-1, heads, -1)
            rows.append(row_BHK.gather(-1, at_BHN) * is_key_BN[:, None])
        return torch.stack(rows)


_recorder: ContextVar[RowRecorder | None] = ContextVar("recorder", default=None)


@contextmanager
def recording() -> Iterator[RowRecorder]:
    """Within the block, models whose attention is :data:`NAME` leave their newest position's rows in the recorder."""
    recorder = RowRecorder()
    token = _recorder.set(recorder)
    try:
        yield recorder
    finally:
        _recorder.reset(token)


def use_row_attention(library: Any, model: Any) -> None:
    """Give a model's language model the attention function; its vision tower keeps the library's own.

    Args:
        library: transformers.
        model: one of its vision-language models.
    """

    def attend(
        module: Any,
        query_BHQE: Tensor,
        key_BGKE: Tensor,
        value_BGKE: Tensor,
        attention_mask: Tensor | None,
        scaling: float | None = None,
        softcap: float | None = None,
        **options: Any,
    ) -> Any:
        scale = query_BHQE.shape[-1] ** -0.5 if scaling is None else scaling
        recorder = _recorder.get()
        if recorder is not None:
            mask = None if attention_mask is None else attention_mask[:, :, -1:]
            weights_BH1K = attention_weights(query_BHQE[:, :, -1:], key_BGKE, mask, scale, softcap)
            recorder.rows_by_layer[module.layer_idx] = weights_BH1K[:, :, 0]
        if softcap is not None:  # for which there is no fused kernel
            weights_BHQK = attention_weights(query_BHQE, key_BGKE, attention_mask, scale, softcap).to(value_BGKE.dtype)
            value_BHKE = value_BGKE.repeat_interleave(query_BHQE.shape[1] // value_BGKE.shape[1], 1)
            return (weights_BHQK @ value_BHKE).transpose(1, 2).contiguous(), None
        return sdpa(module, query_BHQE, key_BGKE, value_BGKE, attention_mask, scaling=scale, **options)

    sdpa = library.integrations.sdpa_attention.sdpa_attention_forward
    library.AttentionInterface.register(NAME, attend)
    library.AttentionMaskInterface.register(NAME, library.masking_utils.sdpa_mask)
    model.set_attn_implementation({"text_config": NAME})


def attention_weights(
    query_BHQE: Tensor, key_BGKE: Tensor, mask: Tensor | None, scale: float, softcap: float | None = None
) -> Tensor:
    """Attention probabilities, formed in float32: (B, H, Q, K).

    Args:
        query_BHQE: the queries; they are the newest of the positions.
        key_BGKE: the keys; H / G heads in a row share one.
        mask: bool, True where a query sees a key, or added to the scores; broadcast to (B, H, Q, K). None: a query sees
            the keys up to its own position.
        scale: of the products.
        softcap: scores are brought between minus this and this by a hyperbolic tangent (Gemma 2); None leaves them.
    """
    batch, heads, queries, _ = query_BHQE.shape
    groups, keys = key_BGKE.shape[1], key_BGKE.shape[2]
    query_BGXE = query_BHQE.reshape(batch, groups, heads // groups * queries, -1)
    scores_BHQK = (query_BGXE @ key_BGKE.transpose(-1, -2)).float().reshape(batch, heads, queries, keys) * scale
    if softcap is not None:
        scores_BHQK = softcap * torch.tanh(scores_BHQK / softcap)
    if mask is None and queries > 1:
        mask = torch.ones(queries, keys, dtype=torch.bool, device=scores_BHQK.device).tril(keys - queries)
    if mask is not None and mask.dtype == torch.bool:
        scores_BHQK = scores_BHQK.masked_fill(~mask, -torch.inf)
    elif mask is not None:
        scores_BHQK = scores_BHQK + mask.float()
    return scores_BHQK.softmax(-1)
