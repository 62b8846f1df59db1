"""Rows of attention formed beside the fused kernels: that of the newest position, or of a few, in every layer.

Attention functions are what transformers lets a model be given by name. The one here computes the same output as the
library's fused one, and, while a :class:`RowRecorder` is at work, the last query's row of the attention matrix too: one
row in place of a whole matrix, so that neither its time nor its memory grows with the square of the prompt. Of a single
query, as in every step of an answer, the row is all there is, and the output is computed from it.

Letters: B rows of a batch, H heads, G heads of keys and values, Q queries, K keys, E channels of one head.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

AnyRecorder = TypeVar("AnyRecorder", bound="Recorder")

NAME = "vitrine_rows"
"""The name under which transformers knows the attention function."""


@dataclass(frozen=True, eq=False)
class AttentionCall:
    """What one layer's attention is computed from.

    Attributes:
        query_BHQE, key_BGKE, value_BGKE: the queries are of the newest positions; H / G heads share keys and values.
        mask: as :func:`attention_weights` takes it; None: a query sees the keys up to its own position.
        scale: of the products.
        softcap: of the scores; None leaves them.
        bias_HQK: added to the scores, as T5 does for distances; None where nothing is.
        module: the layer's attention; None where it is not known.
    """

    query_BHQE: Tensor
    key_BGKE: Tensor
    value_BGKE: Tensor
    mask: Tensor | None
    scale: float
    softcap: float | None
    bias_HQK: Tensor | None = None
    module: Any = None

    def weights(self, queries_Q: Tensor | None = None) -> Tensor:
        """Attention probabilities, float32 (B, H, Q, K), of all queries or of those with these numbers."""
        query_BHQE, mask, bias_HQK = self.query_BHQE, self.mask, self.bias_HQK
        if mask is None and query_BHQE.shape[2] > 1 and getattr(self.module, "is_causal", True):
            mask = causal_mask(query_BHQE.shape[2], self.key_BGKE.shape[2], query_BHQE.device)
        if queries_Q is not None:
            queries_Q = queries_Q.to(query_BHQE.device)
            query_BHQE = query_BHQE[:, :, queries_Q]
            mask = mask[:, :, queries_Q] if mask is not None and mask.shape[2] > 1 else mask
            bias_HQK = None if bias_HQK is None else bias_HQK[..., queries_Q, :]
        return attention_weights(query_BHQE, self.key_BGKE, mask, self.scale, self.softcap, bias_HQK)

    def output(self, weights_BHQK: Tensor) -> Tensor:
        """The values summed up by these weights, as the library wants them: (B, Q, H, E)."""
        batch, heads, queries, keys = weights_BHQK.shape
        groups = self.value_BGKE.shape[1]
        weights_BGXK = weights_BHQK.to(self.value_BGKE.dtype).reshape(batch, groups, heads // groups * queries, keys)
        return (weights_BGXK @ self.value_BGKE).reshape(batch, heads, queries, -1).transpose(1, 2).contiguous()


class Recorder(Protocol):
    """Notes of the attention of the calls that are made while it is at work."""

    def attend(self, layer: int, call: AttentionCall) -> Tensor | None:
        """Take note of a layer's call; its output, where that was computed on the way, else None."""


@dataclass
class RowRecorder:
    """The attention of some queries, the newest alone where no others are named, in each layer.

    Attributes:
        queries_Q: int64, their numbers among the queries of a call, on any device; None is the newest.
        rows_by_layer: float32 (B, H, Q, K) over the layer's keys, each row with the sum 1, by the layer's number. A
            layer with a sliding window may have fewer keys than there are positions: its keys are the newest ones.
        layers: the modules whose rows are wanted, in order; None takes all that have a number among the layers.
        readers: modules whose whole matrices are wanted: few queries, once a picture.
        matrices_by_reader: float32 (B, H, Q, K), by the place among the readers.
    """

    queries_Q: Tensor | None = None
    rows_by_layer: dict[int, Tensor] = field(default_factory=dict)
    layers: Sequence[nn.Module] | None = None
    readers: Sequence[nn.Module] = ()
    matrices_by_reader: dict[int, Tensor] = field(default_factory=dict)

    def attend(self, layer: int | None, call: AttentionCall) -> Tensor | None:
        """Form the rows. One query's row is all that its output needs."""
        reader = _place(self.readers, call.module)
        if reader is not None:
            self.matrices_by_reader[reader] = call.weights()
            return None
        layer = layer if self.layers is None else _place(self.layers, call.module)
        if layer is None:
            return None
        queries = call.query_BHQE.shape[2]
        if queries == 1 and self.queries_Q is None:
            self.rows_by_layer[layer] = call.weights()
            return call.output(self.rows_by_layer[layer])
        newest_Q = torch.tensor([queries - 1], device=call.query_BHQE.device)
        self.rows_by_layer[layer] = call.weights(newest_Q if self.queries_Q is None else self.queries_Q)
        return None

    def attention_to(self, places_BN: Tensor, positions: int) -> Tensor:
        """The attention to some positions, of all layers, whichever devices these are on: (L, B, H, Q, N).

        Args:
            places_BN: int64, counted from the first position; below 0 where there is none, which has attention 0. The
                result is on their device.
            positions: how many there are, the newest included.
        """
        return torch.stack(
            [
                attention_to_places(rows_BHQK, places_BN, positions)
                for _, rows_BHQK in sorted(self.rows_by_layer.items())
            ]
        )


def _place(modules: Sequence[nn.Module], module: Any) -> int | None:
    return next((place for place, each in enumerate(modules) if each is module), None)


def attention_to_places(weights_BHQK: Tensor, places_BN: Tensor, positions: int) -> Tensor:
    """One layer's attention to some positions: (B, H, Q, N); see :meth:`RowRecorder.attention_to`."""
    device = places_BN.device
    places_BN = places_BN.to(weights_BHQK.device)
    at_BN = places_BN - (positions - weights_BHQK.shape[-1])
    is_key_B11N = ((places_BN >= 0) & (at_BN >= 0))[:, None, None]
    at_BHQN = at_BN.clamp_min(0)[:, None, None].expand(-1, *weights_BHQK.shape[1:3], -1)
    return (weights_BHQK.gather(-1, at_BHQN) * is_key_B11N).to(device)


def causal_mask(queries: int, keys: int, device: torch.device) -> Tensor:
    """Which keys each of the newest queries sees, its own the last: bool (1, 1, Q, K)."""
    return torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)[None, None]


_recorder: ContextVar[Recorder | None] = ContextVar("recorder", default=None)


@contextmanager
def recording(recorder: AnyRecorder) -> Iterator[AnyRecorder]:
    """Within the block, models whose attention is :data:`NAME` show the recorder every layer's call."""
    token = _recorder.set(recorder)
    try:
        yield recorder
    finally:
        _recorder.reset(token)


def use_row_attention(library: Any, model: Any, language_model: Any = None) -> None:
    """Give a model's language model the attention function, and its Q-Former where it has one; its vision tower keeps
    the library's own.

    Args:
        library: transformers.
        model: one of its vision-language models.
        language_model: the part of it that is one by itself; None where no part is.
    """

    def attend(
        module: Any,
        query_BHQE: Tensor,
        key_BGKE: Tensor,
        value_BGKE: Tensor,
        attention_mask: Tensor | None,
        scaling: float | None = None,
        softcap: float | None = None,
        position_bias: Tensor | None = None,
        **options: Any,
    ) -> Any:
        scale = query_BHQE.shape[-1] ** -0.5 if scaling is None else scaling
        recorder = _recorder.get()
        if recorder is not None or softcap is not None:
            call = AttentionCall(
                query_BHQE, key_BGKE, value_BGKE, attention_mask, scale, softcap, position_bias, module
            )
            layer: Any = getattr(module, "layer_idx", None)
            has_number = layer is not None or isinstance(recorder, RowRecorder)
            output_BQHE = recorder.attend(layer, call) if recorder is not None and has_number else None
            if output_BQHE is None and softcap is not None:  # for which there is no fused kernel
                output_BQHE = call.output(call.weights())
            if output_BQHE is not None:
                return output_BQHE, None
        options |= {} if position_bias is None else {"position_bias": position_bias}
        return sdpa(module, query_BHQE, key_BGKE, value_BGKE, attention_mask, scaling=scale, **options)

    sdpa = library.integrations.sdpa_attention.sdpa_attention_forward
    library.AttentionInterface.register(NAME, attend)
    library.AttentionMaskInterface.register(NAME, library.masking_utils.sdpa_mask)
    model.set_attn_implementation({part: NAME for part in _PARTS if hasattr(model.config, part)})
    if language_model is not None:  # T5's encoder and decoder have copies of its configuration
        language_model.set_attn_implementation(NAME)


_PARTS = ("text_config", "qformer_config", "perceiver_config")


def attention_weights(
    query_BHQE: Tensor,
    key_BGKE: Tensor,
    mask: Tensor | None,
    scale: float,
    softcap: float | None = None,
    bias_HQK: Tensor | None = None,
) -> Tensor:
    """Attention probabilities, formed in float32: (B, H, Q, K).

    Args:
        query_BHQE: the queries.
        key_BGKE: the keys; H / G heads in a row share one.
        mask: bool, True where a query sees a key, or added to the scores; broadcast to (B, H, Q, K). None: all.
        scale: of the products.
        softcap: scores are brought between minus this and this by a hyperbolic tangent (Gemma 2); None leaves them.
        bias_HQK: added to the scores, broadcast like the mask; None adds nothing.
    """
    batch, heads, queries, _ = query_BHQE.shape
    groups, keys = key_BGKE.shape[1], key_BGKE.shape[2]
    query_BGXE = query_BHQE.reshape(batch, groups, heads // groups * queries, -1)
    scores_BHQK = (query_BGXE @ key_BGKE.transpose(-1, -2)).float().reshape(batch, heads, queries, keys) * scale
    if softcap is not None:
        scores_BHQK = softcap * torch.tanh(scores_BHQK / softcap)
    if bias_HQK is not None:
        scores_BHQK = scores_BHQK + bias_HQK.float()
    if mask is not None and mask.dtype == torch.bool:
        scores_BHQK = scores_BHQK.masked_fill(~mask, -torch.inf)
    elif mask is not None:
        scores_BHQK = scores_BHQK + mask.float()
    return scores_BHQK.softmax(-1)
