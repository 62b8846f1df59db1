"""Maps of several methods from shared forward and backward passes: the same numbers as each method by itself.

Attention of any layer, head and query and the rollout take one forward pass together; Grad-CAM of any layer and
relevance take one forward and one backward pass. Every other method runs by itself.

Axes: B pictures, C channels or classes, H, W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack

import torch
from torch import nn

from vitrine.attribution.attention import (
    AttentionCall,
    query_layers,
    query_readout,
    readout_attention,
    reduce_heads,
    watch_attention,
)
from vitrine.attribution.class_logit import class_logit
from vitrine.attribution.gradcam import gradcam_map, gradcam_tokens, watch_gradcam_tokens
from vitrine.attribution.maps import BatchMaps, TokenLayout, split_prefix, token_layout
from vitrine.attribution.methods import Method, softmax
from vitrine.attribution.readout import Readout, describe_readout, watch_head_tokens
from vitrine.attribution.relevance import relevance_map
from vitrine.attribution.rollout import Rollout

_FORWARD = ("attention", "rollout")
_BACKWARD = ("gradcam", "relevance")


def shared_maps(
    methods: Mapping[str, Method],
    module: nn.Module,
    pixels_BCHW: torch.Tensor,
    targets_B: torch.Tensor,
    probabilities: Callable[[torch.Tensor], torch.Tensor] = softmax,
) -> Iterator[tuple[str, BatchMaps]]:
    """Yield (name, maps) of every method for one batch; those that share a pass come together.

    Args:
        methods: by any name.
        module: a timm vision transformer in eval mode.
        pixels_BCHW: normalised, on the module's device.
        targets_B: int64, a class for each picture.
        probabilities: of logits (B, C).

    Raises:
        ModelError: the model lacks what one of the methods needs.
    """
    groups: dict[str, dict[str, Method]] = {"forward": {}, "backward": {}, "alone": {}}
    for name, method in methods.items():
        kind = "alone" if runs_alone(method) else "forward" if method.name in _FORWARD else "backward"
        groups[kind][name] = method
    if groups["forward"]:
        yield from _forward_maps(groups["forward"], module, pixels_BCHW).items()
    if groups["backward"]:
        yield from _backward_maps(groups["backward"], module, pixels_BCHW, targets_B).items()
    for name, method in groups["alone"].items():
        yield name, method.maps(module, pixels_BCHW, targets_B, probabilities)


def runs_alone(method: Method) -> bool:
    """Whether a method shares no pass with others, so that its maps take as long beside them as by itself."""
    return method.name not in (*_FORWARD, *_BACKWARD) or (method.name in _BACKWARD and method.against is not None)


def _forward_maps(methods: Mapping[str, Method], module: nn.Module, pixels_BCHW: torch.Tensor) -> dict[str, BatchMaps]:
    """Maps that follow from the attention of one forward pass."""
    layout = token_layout(module, *pixels_BCHW.shape[-2:])
    rows = {
        name: _AttentionRows(method, module, layout) for name, method in methods.items() if method.name != "rollout"
    }
    rollouts = {name: Rollout() for name, method in methods.items() if method.name == "rollout"}
    visitors: list[Callable[[AttentionCall], None]] = [*rows.values(), *rollouts.values()]

    def visit(call: AttentionCall) -> None:
        for visitor in visitors:
            visitor(call)

    with torch.inference_mode(), watch_attention(module, visit), watch_head_tokens(module) as tokens:
        module(pixels_BCHW)
        maps = {name: each.maps(layout, tokens[-1]) for name, each in rows.items()}
        for name, each in rollouts.items():
            maps[name] = each.maps(layout, describe_readout(module, layout), tokens[-1])
    return maps


class _AttentionRows:
    """What one attention map takes of a forward pass: it is made as soon as its layer has run, where that is enough."""

    def __init__(self, method: Method, module: nn.Module, layout: TokenLayout) -> None:
        self.method = method
        self.readout: Readout = query_readout(layout, method.query, lambda: describe_readout(module, layout))
        self.layers = query_layers(layout, self.readout, method.query, method.layer)
        self.layout = layout
        self.calls: list[AttentionCall] = []
        self.rows_BHK: torch.Tensor | None = None

    def __call__(self, call: AttentionCall) -> None:
        if call.layer not in self.layers:
            return
        if self.readout.depends_on_picture:
            self.calls.append(call)
        else:
            self.rows_BHK = readout_attention([call], self.readout, self.layout, None)

    def maps(self, layout: TokenLayout, tokens_BND: torch.Tensor) -> BatchMaps:
        """The map, after the forward pass."""
        rows_BHK = self.rows_BHK
        if rows_BHK is None:
            rows_BHK = readout_attention(self.calls, self.readout, layout, tokens_BND)
        return split_prefix(reduce_heads(rows_BHK[:, :, None], self.method.heads)[:, 0], layout)


def _backward_maps(
    methods: Mapping[str, Method], module: nn.Module, pixels_BCHW: torch.Tensor, targets_B: torch.Tensor
) -> dict[str, BatchMaps]:
    """Maps that follow from the gradients of one backward pass."""
    layout = token_layout(module, *pixels_BCHW.shape[-2:])
    cams = {name: method.layer for name, method in methods.items() if method.name == "gradcam"}
    relevances = [name for name in methods if name not in cams]
    calls: list[AttentionCall] = []
    with torch.enable_grad(), ExitStack() as stack:
        if relevances:
            stack.enter_context(watch_attention(module, calls.append))
        head_tokens = stack.enter_context(watch_head_tokens(module)) if relevances else []
        cam_tokens = {name: stack.enter_context(watch_gradcam_tokens(module, layer)) for name, layer in cams.items()}
        logits_BC = module(pixels_BCHW.detach().requires_grad_())  # so that frozen models have a graph, too
        sources = [*(call.carrier for call in calls), *head_tokens, *(tokens[0] for tokens in cam_tokens.values())]
        gradients = torch.autograd.grad(class_logit(logits_BC, targets_B), sources, allow_unused=True)
    maps = {}
    if relevances:
        readout = describe_readout(module, layout)
        whole = relevance_map(calls, gradients[: len(calls)], gradients[len(calls)], layout, readout)
        maps = dict.fromkeys(relevances, whole)
    for (name, layer), gradient in zip(cams.items(), gradients[len(gradients) - len(cams) :], strict=True):
        maps[name] = gradcam_map(cam_tokens[name][0], gradient, layout, gradcam_tokens(module, layer))
    return maps
