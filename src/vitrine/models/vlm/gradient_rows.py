"""Gradient-weighted attention: what of a position's attention raised the logit of the word that it predicted.

Attention times the gradient of a logit with respect to it, where that is positive (Chefer, Gur and Wolf 2021,
arXiv:2103.15679, without their products over layers). The gradient of one word's logit at the row of its own predicting
position runs through that position alone, as later positions cannot be seen. All words of an answer are therefore read
in one pass in which no position passes gradients to another one: keys and values of others are constants there, and the
sum of all logits has each word's own gradient in that word's rows.

Letters: H heads, G heads of keys and values, Q queries, K keys, E channels of one head, T words, L layers, N image
tokens, V vocabulary; a batch is of one, B or 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from vitrine.models.vlm.attention_rows import AttentionCall, attention_to_places, causal_mask, recording

_WORDS_AT_ONCE = 32  # so that a long answer's rows and their gradients need no more memory than a short one's


@dataclass
class LastMaskRecorder:
    """Which keys the last position of a prompt sees in each layer: a prefix that is read in both directions may see
    further than an answer's word there would.

    Attributes:
        mask_by_layer: as the layer's call had it, (1, 1, 1, K); no entry where it had none.
    """

    mask_by_layer: dict[int, Tensor] = field(default_factory=dict)

    def attend(self, layer: int, call: AttentionCall) -> None:
        """Note the mask's last row."""
        if call.mask is not None:
            self.mask_by_layer[layer] = call.mask[:1, :1, -1:]


@dataclass
class GradientRecorder:
    """Attention probabilities that a logit can be differentiated by, with every position cut off from the others.

    Attributes:
        first_mask_by_layer: of the first query, in place of the call's own mask.
        weights_by_layer: float32 (B, H, Q, K), part of the graph.
    """

    first_mask_by_layer: Mapping[int, Tensor] = field(default_factory=dict)
    weights_by_layer: dict[int, Tensor] = field(default_factory=dict)

    def attend(self, layer: int, call: AttentionCall) -> Tensor:
        """A layer's output by plain products, whose gradients do not pass from one position to another."""
        weights_BHQK = _weights_by_own_position(call, self._mask(layer, call))
        if not weights_BHQK.requires_grad:
            weights_BHQK.requires_grad_()
        self.weights_by_layer[layer] = weights_BHQK
        queries = call.query_BHQE.shape[2]
        output_BQHE = _with_values(call, call.value_BGKE.detach()).output(weights_BHQK)
        own_BHQ = weights_BHQK[..., -queries:].diagonal(dim1=-2, dim2=-1)
        own_value_BHQE = _repeat_groups(call.value_BGKE[:, :, -queries:], weights_BHQK.shape[1])
        # Zero, but for the gradient by which a position's own value belongs to its own stream.
        through_own_BHQE = own_BHQ[..., None].to(own_value_BHQE.dtype).detach() * (
            own_value_BHQE - own_value_BHQE.detach()
        )
        return output_BQHE + through_own_BHQE.transpose(1, 2)

    def _mask(self, layer: int, call: AttentionCall) -> Tensor | None:
        queries, keys = call.query_BHQE.shape[2], call.key_BGKE.shape[2]
        mask = causal_mask(queries, keys, call.query_BHQE.device) if call.mask is None else call.mask
        first = self.first_mask_by_layer.get(layer)
        if first is None:
            return mask
        later = False if first.dtype == torch.bool else -torch.inf
        first = torch.nn.functional.pad(first, (0, keys - first.shape[-1]), value=later)
        return torch.cat([first.to(mask.dtype), mask[:, :, 1:]], 2)


def _with_values(call: AttentionCall, value_BGKE: Tensor) -> AttentionCall:
    return AttentionCall(call.query_BHQE, call.key_BGKE, value_BGKE, call.mask, call.scale, call.softcap)


def _weights_by_own_position(call: AttentionCall, mask: Tensor | None) -> Tensor:
    """Attention probabilities whose gradient reaches each query and its own key, and no other key."""
    query_BHQE, queries, keys = call.query_BHQE, call.query_BHQE.shape[2], call.key_BGKE.shape[2]
    batch, heads, _, _ = query_BHQE.shape
    groups = call.key_BGKE.shape[1]
    query_BGXE = query_BHQE.reshape(batch, groups, heads // groups * queries, -1)
    scores_BHQK = (query_BGXE @ call.key_BGKE.detach().transpose(-1, -2)).float().reshape(batch, heads, queries, keys)
    own_key_BHQE = _repeat_groups(call.key_BGKE[:, :, -queries:], heads)
    own_BHQ = (query_BHQE * (own_key_BHQE - own_key_BHQE.detach())).sum(-1).float()  # zero, but for its gradient
    is_own_QK = torch.eye(queries, dtype=torch.bool, device=query_BHQE.device)
    is_own_QK = torch.nn.functional.pad(is_own_QK, (keys - queries, 0))
    scores_BHQK = (scores_BHQK + own_BHQ[..., None] * is_own_QK) * call.scale
    if call.softcap is not None:
        scores_BHQK = call.softcap * torch.tanh(scores_BHQK / call.softcap)
    if mask is not None and mask.dtype == torch.bool:
        scores_BHQK = scores_BHQK.masked_fill(~mask, -torch.inf)
    elif mask is not None:
        scores_BHQK = scores_BHQK + mask.float()
    return scores_BHQK.softmax(-1)


def _repeat_groups(tensor_BGQE: Tensor, heads: int) -> Tensor:
    return tensor_BGQE.repeat_interleave(heads // tensor_BGQE.shape[1], 1)


def gradient_attention(
    library: Any, model: Any, family: Any, tensors: Mapping[str, Tensor], places_N: Tensor, ids: Sequence[int]
) -> Tensor:
    """The gradient-weighted attention of each word of an answer to the image tokens: float32 (T, L, H, N), 0 or more.

    The prompt is read once more, without its last position, which predicts the first word.

    Args:
        library: transformers.
        model: one of its vision-language models, whose attention is this package's.
        family: what is known of it.
        tensors: the model's arguments for the prompt, a batch of one.
        places_N: int64, the positions of the image tokens.
        ids: of the answer's words, at least one.
    """
    length = int(tensors["input_ids"].shape[1])
    with torch.inference_mode(mode=False):
        with torch.no_grad(), recording(LastMaskRecorder()) as last:
            cache = library.DynamicCache()  # of all positions, in layers with a sliding window too
            model(**tensors, past_key_values=cache, use_cache=True, logits_to_keep=1)
        next_position = family.next_position(model, length)
        for layer in cache.layers:
            layer.keys, layer.values = layer.keys[:, :, :-1], layer.values[:, :, :-1]
        inputs = [int(tensors["input_ids"][0, -1]), *ids[:-1]]
        parts = []
        for first in range(0, len(ids), _WORDS_AT_ONCE):
            targets = ids[first : first + _WORDS_AT_ONCE]
            start = next_position - 1 + first
            positions_T = torch.arange(start, start + len(targets), device=places_N.device)
            arguments = {
                "input_ids": torch.tensor([inputs[first : first + len(targets)]], device=places_N.device),
                "position_ids": family.position_ids(positions_T).transpose(-1, -2),
                "past_key_values": cache,
                "use_cache": True,
            }
            recorder = GradientRecorder({} if first else last.mask_by_layer)
            parts.append(
                _weighted_rows(
                    family.language_model(model),
                    arguments,
                    recorder,
                    targets,
                    places_N,
                    length - 1 + first + len(targets),
                )
            )
            for layer in cache.layers:
                layer.keys, layer.values = layer.keys.detach(), layer.values.detach()
    return torch.cat(parts)


def _weighted_rows(
    model: Any,
    arguments: Mapping[str, Any],
    recorder: GradientRecorder,
    targets: Sequence[int],
    places_N: Tensor,
    positions: int,
) -> Tensor:
    with torch.enable_grad(), recording(recorder):
        logits_TV = model(**arguments).logits[0].float()
        target_T1 = torch.tensor(targets, device=logits_TV.device)[:, None]
        weights = [weights_BHQK for _, weights_BHQK in sorted(recorder.weights_by_layer.items())]
        gradients = torch.autograd.grad(logits_TV.gather(1, target_T1).sum(), weights)
    layers = [
        attention_to_places(each.detach() * gradient.clamp_min(0), places_N[None], positions)[0]
        for each, gradient in zip(weights, gradients, strict=True)
    ]
    return torch.stack(layers).permute(2, 0, 1, 3)
