"""The attention of a vision transformer, read while it runs and without changing what it computes.

Fused kernels never form the attention matrix. What is watched here is the call itself: a mode of PyTorch's own function
overrides sees the queries and keys that a block hands to ``scaled_dot_product_attention``, after every norm, rotation
and bias, whatever the architecture, and the rows that are wanted are computed beside it from those. The model's own
call runs as it would without, so its outputs keep every bit.

Axes: B pictures, H heads, Q queries, K keys; tokens are counted with the prefix tokens first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from vitrine.errors import ModelError
from vitrine.explain.attention_call import POOL, AttentionCall, fused_call

_SOFTMAX = (torch.Tensor.softmax, torch.softmax, torch.nn.functional.softmax)


class _Watch(TorchFunctionMode):
    """Sees every PyTorch function; acts on the attention of the block that is running, if it is one of those wanted."""

    def __init__(self, visit: Callable[[AttentionCall], None]) -> None:
        super().__init__()
        self.visit = visit
        self.layer: int | None = None
        self.calls = 0

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if self.layer is None:
            return result
        if func is torch.nn.functional.scaled_dot_product_attention:
            self._found(fused_call(self.layer, result, *args, **kwargs))
        elif func in _SOFTMAX:
            self._found(AttentionCall(self.layer, matrix_BHQK=result))
        return result

    def _found(self, call: AttentionCall) -> None:
        self.calls += 1
        layer, self.layer = self.layer, None  # what the visitor itself computes is not watched
        try:
            self.visit(call)
        finally:
            self.layer = layer


@contextmanager
def watch_attention(
    module: nn.Module, visit: Callable[[AttentionCall], None], layers: Sequence[int] | None = None
) -> Iterator[None]:
    """Call ``visit`` with every attention of the forward passes inside the ``with`` block; all is put back at its end.

    Args:
        module: a timm vision transformer; not compiled.
        visit: called in the order of the layers, during the forward pass.
        layers: blocks from 0, and ``POOL``; None is all of them.

    Raises:
        ModelError: a block's attention is none that can be shown.
    """
    watched = _attention_modules(module, layers)
    watch = _Watch(visit)
    handles = []

    def before(layer: int) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            watch.layer, watch.calls = layer, 0

        return hook

    def after(name: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            watch.layer = None
            if watch.calls != 1:
                raise ModelError(
                    f"The attention of {name} ({type(module).__name__}) is made of {watch.calls} softmaxes: "
                    "there is no single map of it to show."
                )

        return hook

    try:
        for layer, part in watched.items():
            handles.append(part.register_forward_pre_hook(before(layer)))
            handles.append(part.register_forward_hook(after("the pool" if layer == POOL else f"block {layer + 1}")))
        with watch:
            yield
    finally:
        for handle in handles:
            handle.remove()


def _attention_modules(module: nn.Module, layers: Sequence[int] | None) -> dict[int, nn.Module]:
    blocks: Any = getattr(module, "blocks", ())
    found: dict[int, nn.Module] = {}
    for number, block in enumerate(blocks):
        part = getattr(block, "attn", None)
        # Every timm attention that can run fused has this switch; talking heads, which mix maps after the softmax,
        # pooling and convolutional mixers do not.
        if not isinstance(part, nn.Module) or not hasattr(part, "fused_attn"):
            kind = type(part).__name__ if part is not None else type(block).__name__
            raise ModelError(
                f"A {type(module).__name__} has blocks of {kind}, whose attention of all patches to all patches "
                "cannot be shown.\nExpected a plain vision transformer, for example vit_base_patch16_224."
            )
        found[number] = part
    pool = getattr(module, "attn_pool", None)
    if isinstance(pool, nn.Module):
        found[POOL] = pool
    return found if layers is None else {layer: found[layer] for layer in layers}


@dataclass
class AttentionRecord:
    """The attention of the latest forward pass inside :func:`record_attention`.

    Attributes:
        layers: block numbers from 0 (``POOL`` for the pool).
        queries: token numbers of the rows, with the prefix tokens first; a slice of all of them where all were asked.
    """

    layers: tuple[int, ...]
    queries: tuple[int, ...] | slice
    _found: dict[int, torch.Tensor] = field(default_factory=dict)

    def attention(self, layer: int | None = None) -> torch.Tensor:
        """float32 (B, H, Q, K) of one recorded layer; rows sum to 1. None is the only, or the last, recorded layer.

        Raises:
            ModelError: there was no forward pass yet, or the layer was not asked for.
        """
        wanted = self.layers[-1] if layer is None else layer
        if wanted not in self._found:
            raise ModelError(f"No attention of layer {wanted} was recorded: run the model inside the with block.")
        return self._found[wanted]


@contextmanager
def record_attention(
    module: nn.Module,
    layers: Sequence[int] | Literal["all"] = (-1,),
    queries: Sequence[int] | Literal["class", "all", "pool"] = "class",
    heads: Sequence[int] | None = None,
) -> Iterator[AttentionRecord]:
    """Record the attention of the forward passes inside the ``with`` block.

    With few queries, fused attention stays in use and nothing that grows with the square of the tokens is kept. The
    model's outputs are the same bits with and without recording, and nothing of it is left behind, error or not.

    Args:
        module: a timm vision transformer; not compiled.
        layers: blocks, from 0 or from the end with -1; or all.
        queries: the class token; all tokens; the attention pool (instead of layers); or token numbers, with the
            prefix tokens first.
        heads: from 0; None is all.

    Yields:
        An :class:`AttentionRecord`, filled by each forward pass.

    Raises:
        ModelError: a layer, head or query that the model does not have, or an attention that cannot be shown.
    """
    depth = len(getattr(module, "blocks", ()))
    chosen = _chosen_layers(module, layers, queries, depth)
    rows = _chosen_queries(module, queries)
    record = AttentionRecord(chosen, rows if isinstance(rows, slice) else tuple(rows))
    wanted = slice(None) if heads is None else list(heads)

    def keep(call: AttentionCall) -> None:
        for head in heads or ():
            if not 0 <= head < call.heads:
                raise ModelError(f"There is no head {head}: layer {call.layer} has {call.heads}, counted from 0.")
        for query in () if isinstance(rows, slice) else rows:
            if not 0 <= query < call.queries:
                raise ModelError(f"There is no token {query}: layer {call.layer} has {call.queries}, counted from 0.")
        record._found[call.layer] = call.rows(rows, wanted)

    with watch_attention(module, keep, chosen):
        yield record


def _chosen_layers(module: nn.Module, layers: Any, queries: Any, depth: int) -> tuple[int, ...]:
    if queries == "pool":
        if getattr(module, "attn_pool", None) is None:
            raise ModelError(f"This {type(module).__name__} has no attention pool.")
        return (POOL,)
    if layers == "all":
        return tuple(range(depth))
    return tuple(layer_number(layer, depth) for layer in layers)


def layer_number(layer: int, depth: int) -> int:
    """A layer from 0, from one that may count from the end.

    Raises:
        ModelError: there is no such layer.
    """
    if not -depth <= layer < depth:
        raise ModelError(f"There is no layer {layer}: the model has {depth}, 0 to {depth - 1}, or -1 for the last.")
    return layer % depth


def _chosen_queries(module: nn.Module, queries: Any) -> list[int] | slice:
    if queries in ("all", "pool"):
        return slice(None)
    if queries == "class":
        if getattr(module, "cls_token", None) is None:
            raise ModelError(f"This {type(module).__name__} has no class token, so there is no row of it to record.")
        return [0]
    return [int(query) for query in queries]
