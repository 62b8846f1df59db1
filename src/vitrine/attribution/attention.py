"""The attention of a vision transformer, read while it runs and without changing what it computes.

Fused kernels never form the attention matrix. A :class:`torch.overrides.TorchFunctionMode` therefore watches the calls
of ``scaled_dot_product_attention``: it sees the queries and keys that a block passes, after every norm, rotation and
bias, whatever the architecture, and attention rows are computed from those beside the model. The model's own call is
not changed, so its outputs keep every bit.

Axes: B pictures, H heads, Q queries, K keys; tokens are counted with the prefix tokens first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from vitrine.attribution.maps import BatchMaps, TokenLayout, patch_on_grid, split_prefix, token_layout
from vitrine.attribution.readout import Readout, describe_readout, watch_head_tokens
from vitrine.errors import ModelError
from vitrine.models.precision import class_token_alone

POOL = -1
"""The layer number of an attention pool."""


@dataclass(frozen=True, eq=False)
class AttentionCall:
    """One attention of one forward pass, as the block called it.

    Attributes:
        layer: the block's number from 0, or ``POOL``.
        q_BHQD, k_BHKD, v_BHKD: queries, keys and values; None where the block formed its matrix itself.
        bias: added to the scores before the softmax (or a mask: false is left out); None without.
        scale: of the scores.
        output_BHQD: attention times values, part of the model's graph; None where the block formed its matrix itself.
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
            return self._add_bias(scores_BHQK, queries, heads).softmax(dim=-1)

    def _add_bias(
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
    queries_per_key = heads // tensor_BHKD.shape[1]
    return tensor_BHKD if queries_per_key == 1 else tensor_BHKD.repeat_interleave(queries_per_key, dim=1)


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


_SOFTMAX = (torch.Tensor.softmax, torch.softmax, torch.nn.functional.softmax)


class _Watch(TorchFunctionMode):
    """Hands each attention call of the block in ``layer`` to a visitor; while ``layer`` is None nothing is watched."""

    def __init__(self, visit: Callable[[AttentionCall], torch.Tensor | None]) -> None:
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
            return self._visit(fused_call(self.layer, result, *args, **kwargs))
        if func in _SOFTMAX:
            return self._visit(AttentionCall(self.layer, matrix_BHQK=result))
        return result

    def _visit(self, call: AttentionCall) -> torch.Tensor:
        self.calls += 1
        layer, self.layer = self.layer, None  # what the visitor itself computes is not watched
        try:
            replacement = self.visit(call)
        finally:
            self.layer = layer
        return call.carrier if replacement is None else replacement


@contextmanager
def watch_attention(
    module: nn.Module, visit: Callable[[AttentionCall], torch.Tensor | None], layers: Sequence[int] | None = None
) -> Iterator[None]:
    """Call ``visit`` with every attention of the forward passes inside the ``with`` block; all is put back at its end.

    Args:
        module: a timm vision transformer; not compiled.
        visit: called in the order of the layers, during the forward pass. A tensor that it returns goes on through
            the model in place of the call's ``carrier``; with None the model computes what it always does.
        layers: blocks from 0, and ``POOL``; None is all of them.

    Raises:
        ModelError: a block's attention is none that can be shown.
    """
    modules = _attention_modules(module, layers)
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
        for layer, part in modules.items():
            handles.append(part.register_forward_pre_hook(before(layer)))
            handles.append(part.register_forward_hook(after("the pool" if layer == POOL else f"block {layer}")))
        with watch:
            yield
    finally:
        for handle in handles:
            handle.remove()


def _attention_modules(module: nn.Module, layers: Sequence[int] | None) -> dict[int, nn.Module]:
    blocks: Any = getattr(module, "blocks", ())
    modules: dict[int, nn.Module] = {}
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
        modules[number] = part
    pool = getattr(module, "attn_pool", None)
    if isinstance(pool, nn.Module):
        modules[POOL] = pool
    return modules if layers is None else {layer: modules[layer] for layer in layers}


@dataclass
class AttentionRecord:
    """The attention of the latest forward pass inside :func:`record_attention`.

    Attributes:
        layers: block numbers from 0 (``POOL`` for the pool).
        queries: token numbers of the rows, with the prefix tokens first; a slice of all of them where all were asked.
    """

    layers: tuple[int, ...]
    queries: tuple[int, ...] | slice
    _attention: dict[int, torch.Tensor] = field(default_factory=dict)

    def attention(self, layer: int | None = None) -> torch.Tensor:
        """float32 (B, H, Q, K) of one recorded layer; rows sum to 1. None is the only, or the last, recorded layer.

        Raises:
            ModelError: there was no forward pass yet, or the layer was not asked for.
        """
        number = self.layers[-1] if layer is None else layer
        if number not in self._attention:
            raise ModelError(f"No attention of layer {number} was recorded: run the model inside the with block.")
        return self._attention[number]


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
        heads: from 0, or from the end with -1; None is all.

    Yields:
        An :class:`AttentionRecord`, filled by each forward pass.

    Raises:
        ModelError: a layer, head or query that the model does not have, or an attention that cannot be shown.
    """
    depth = len(getattr(module, "blocks", ()))
    recorded_layers = _layer_numbers(module, layers, queries, depth)
    rows = _query_rows(module, queries)
    record = AttentionRecord(recorded_layers, rows if isinstance(rows, slice) else tuple(rows))
    head_selection = slice(None) if heads is None else list(heads)

    def keep(call: AttentionCall) -> None:
        for head in heads or ():
            if not -call.heads <= head < call.heads:
                raise ModelError(f"There is no head {head}: layer {call.layer} has {call.heads}, counted from 0.")
        for query in () if isinstance(rows, slice) else rows:
            if not 0 <= query < call.queries:
                raise ModelError(f"There is no token {query}: layer {call.layer} has {call.queries}, counted from 0.")
        record._attention[call.layer] = call.rows(rows, head_selection)

    with watch_attention(module, keep, recorded_layers):
        yield record


def _layer_numbers(module: nn.Module, layers: Any, queries: Any, depth: int) -> tuple[int, ...]:
    if not depth:
        raise ModelError(
            f"This {type(module).__name__} has no blocks of a transformer, and so no attention to record.\n"
            "Give a timm vision transformer, such as timm.create_model('vit_tiny_patch16_224')."
        )
    if queries == "pool":
        if getattr(module, "attn_pool", None) is None:
            raise ModelError(f"This {type(module).__name__} has no attention pool.")
        return (POOL,)
    if layers == "all":
        return tuple(range(depth))
    return tuple(layer_number(layer, depth) for layer in layers)


def layer_number(layer: int, depth: int) -> int:
    """The number from 0 of a block whose number may count from the end, as -1 for the last.

    Raises:
        ModelError: there is no such layer.
    """
    if not -depth <= layer < depth:
        raise ModelError(f"There is no layer {layer}: the model has {depth}, 0 to {depth - 1}, or -1 for the last.")
    return layer % depth


def describe_layer(layer: int, depth: int) -> str:
    """A layer in words, its number from 0 as options take it: "layer 3 of 0 to 11", "layer 11 (the last)".

    Raises:
        ModelError: there is no such layer.
    """
    number = layer_number(layer, depth)
    return f"layer {number} (the last)" if number == depth - 1 else f"layer {number} of 0 to {depth - 1}"


def _query_rows(module: nn.Module, queries: Any) -> list[int] | slice:
    if queries in ("all", "pool"):
        return slice(None)
    if queries == "class":
        if getattr(module, "cls_token", None) is None:
            raise ModelError(f"This {type(module).__name__} has no class token, so there is no row of it to record.")
        return [0]
    return [int(query) for query in queries]


HEAD_REDUCTIONS = ("mean", "max", "min")


def reduce_heads(attention_BHQK: torch.Tensor, heads: str | int) -> torch.Tensor:
    """(B, Q, K): the mean, maximum or minimum over heads, or one head by its number from 0, or from the end with -1.

    Raises:
        ModelError: there is no such head.
    """
    if heads == "mean":
        return attention_BHQK.mean(dim=1)
    if heads == "max":
        return attention_BHQK.amax(dim=1)
    if heads == "min":
        return attention_BHQK.amin(dim=1)
    count = attention_BHQK.shape[1]
    if not isinstance(heads, int) or not -count <= heads < count:
        raise ModelError(
            f"There is no head {heads}: expected mean, max, min or a number from 0 to {count - 1}; -1 is the last."
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
    """Attention of what the head reads, or of one token, to all patches.

    Args:
        module: a timm vision transformer in eval mode.
        pixels_BCHW: normalised.
        layer: a block, from 0, or from the end with -1.
        heads: mean, max, min, or a head's number from 0, or from the end with -1.
        query: ``auto`` is what the head reads: the rows of its tokens, each by its weight, such as the class token's
            row or the mean of the patches' rows. Where that is an attention pool, the last layer is the pool: its own
            weights, which ``pool`` gives whatever the layer; in other layers the tokens' rows count by those weights.
            Or ``class``, ``distillation``, or a patch (row, column) from 0.

    Returns:
        Scores are attention probabilities; with one head or the mean they and the share of the prefix tokens sum to 1.

    Raises:
        ModelError: no such layer, head or query; a model whose head is not known is told what else it offers.
    """
    layout = token_layout(module, *pixels_BCHW.shape[-2:])
    readout = query_readout(layout, query, lambda: describe_readout(module, layout))
    layers = query_layers(layout, readout, query, layer)
    attention_BHK = _query_attention(module, pixels_BCHW, layers, readout, layout)
    return split_prefix(reduce_heads(attention_BHK[:, :, None], heads)[:, 0], layout)


QUERIES = ("auto", "class", "distillation", "pool")
"""Queries by name; any patch can be one, too."""


def query_readout(layout: TokenLayout, query: str | tuple[int, int], describe: Callable[[], Readout]) -> Readout:
    """What looks where a query is asked for; see :func:`attention_map`.

    Args:
        layout: of the tokens.
        query: a query's name, or a patch (row, column) from 0, or from the end with -1.
        describe: gives what the head reads; only called for a query that asks for it.

    Raises:
        ModelError: the model has no such query, or what its head reads is not known.
    """
    if isinstance(query, tuple):
        row, column = patch_on_grid(query, layout.rows, layout.columns)
        return Readout.of_token(layout.token_index(row, column), f"patch ({row}, {column})")
    if query == "class" and layout.has_class:
        return Readout.of_token(0, "[class]")
    if query == "distillation" and layout.has_distillation:
        return Readout.of_token(1, "[distillation]")
    if query not in QUERIES:
        raise ModelError(f"query = {query!r} cannot be used: expected {', '.join(QUERIES)} or ROW,COLUMN.")
    readout = describe()
    if query == "auto" or (query == "pool" and readout.is_pool):
        return readout
    raise ModelError(
        f"This model has no {'attention pool' if query == 'pool' else f'{query} token'}: "
        f"its head reads {readout.words}.\n"
        "Use --query auto, which is what the head reads, or the attention of one patch: --query ROW,COLUMN"
    )


def head_maps(
    module: nn.Module, pixels_BCHW: torch.Tensor, *, layer: int = -1, query: str | tuple[int, int] = "auto"
) -> tuple[BatchMaps, ...]:
    """:func:`attention_map` of every head, from one forward pass."""
    layout = token_layout(module, *pixels_BCHW.shape[-2:])
    readout = query_readout(layout, query, lambda: describe_readout(module, layout))
    layers = query_layers(layout, readout, query, layer)
    attention_BHK = _query_attention(module, pixels_BCHW, layers, readout, layout)
    return tuple(split_prefix(attention_BHK[:, head], layout) for head in range(attention_BHK.shape[1]))


def _query_attention(
    module: nn.Module, pixels_BCHW: torch.Tensor, layers: Sequence[int], readout: Readout, layout: TokenLayout
) -> torch.Tensor:
    """float32 (B, H, K): the attention of what a readout reads in the first of some layers, from one forward pass."""
    calls: list[AttentionCall] = []
    with (
        torch.inference_mode(),
        _unread_left_out(module, readout),
        watch_attention(module, calls.append, layers),
        watch_head_tokens(module) as tokens,
    ):
        module(pixels_BCHW)
        return readout_attention(calls, readout, layout, tokens[-1])


def query_layers(layout: TokenLayout, readout: Readout, query: str | tuple[int, int], layer: int) -> tuple[int, ...]:
    """The layers, in the order of the model, whose attention makes the map of a query; the first one's rows are shown.

    Raises:
        ModelError: there is no such layer.
    """
    number = layer_number(layer, layout.blocks)
    if not readout.is_pool:
        return (number,)
    return (POOL,) if query == "pool" or number == layout.blocks - 1 else (number, POOL)


def readout_attention(
    calls: Sequence[AttentionCall], readout: Readout, layout: TokenLayout, tokens_BND: torch.Tensor | None
) -> torch.Tensor:
    """The rows of one attention that a readout reads, each by its weight: float32 (B, H, K).

    Args:
        calls: of the layers that :func:`query_layers` names.
        readout: what reads.
        layout: of the tokens.
        tokens_BND: as the head gets them; only for a readout that depends on the picture.
    """
    call = calls[0]
    if call.layer == POOL:
        return readout.pool_row(call.rows(slice(None)), layout.tokens)
    if readout.token is not None:
        return call.rows([readout.token])[:, :, 0]
    pool_BQK = calls[-1].rows(slice(None)).mean(dim=1) if readout.is_pool else None
    weights_BN = readout.weights(call.queries, tokens_BND if readout.depends_on_picture else None, pool_BQK)
    weights_B1QN = weights_BN[:, None, None].to(call.carrier.device)
    return torch.cat([(weights_B1QN @ call.rows(slice(None), some))[:, :, 0] for some in head_slices(call)], dim=1)


def _unread_left_out(module: nn.Module, readout: Readout) -> AbstractContextManager[None]:
    """The last block need not compute what neither the map nor the head reads."""
    return class_token_alone(module) if readout.token == 0 else nullcontext()


def attention_matrices(module: nn.Module, pixels_BCHW: torch.Tensor, *, layer: int = -1) -> torch.Tensor:
    """The whole attention of one layer, every token to every token: float32 (B, H, Q, K); rows sum to 1."""
    with torch.inference_mode(), record_attention(module, (layer,), "all") as record:
        module(pixels_BCHW)
    return record.attention()


def head_count(module: nn.Module, layer: int = -1) -> int:
    """Heads of a block."""
    blocks: Sequence[nn.Module] = module.blocks  # type: ignore[assignment]
    return int(blocks[layer].attn.num_heads)  # type: ignore[union-attr, arg-type]


_MAX_ELEMENTS = 1 << 24  # of attention in memory at a time: 64 MB in float32


def head_slices(call: AttentionCall) -> list[slice]:
    """A layer's heads in groups, so few at a time that their whole matrices take little memory."""
    elements_per_head = len(call.carrier) * call.queries * call.keys
    count = max(1, min(call.heads, _MAX_ELEMENTS // max(1, elements_per_head)))
    return [slice(first, min(first + count, call.heads)) for first in range(0, call.heads, count)]


def mean_over_heads(call: AttentionCall, part_of: Callable[[slice], torch.Tensor]) -> torch.Tensor:
    """Mean over a layer's heads of a matrix a head, computed for a few heads at a time to save memory.

    Args:
        call: the layer's attention.
        part_of: a slice of heads to (B, heads, N, M), float32.

    Returns:
        float32 (B, N, M).
    """
    total_BNM: torch.Tensor | None = None
    for some in head_slices(call):
        part_BNM = part_of(some).sum(dim=1)
        total_BNM = part_BNM if total_BNM is None else total_BNM.add_(part_BNM)
    assert total_BNM is not None
    return total_BNM.div_(call.heads)


def weighted_row(matrix_BNM: torch.Tensor, weights_BN: torch.Tensor) -> torch.Tensor:
    """The rows of a matrix a picture, each by its weight: (B, M)."""
    return (weights_BN[:, None] @ matrix_BNM)[:, 0]
