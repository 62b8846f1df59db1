"""Device and precision of a forward pass, and the faster ways that it takes.

:func:`autocast` is the entrance: models run inside of it. A last block of which only the class token is read is
computed for that token alone. On a processor that multiplies bf16 matrices but has no AMX, two calls of PyTorch are
replaced by faster ones that compute the same; processors with AMX and other devices are left to PyTorch's own kernels,
and compiled modules are left as they are. The ratios were measured in CPU time on two threads of a processor with
AVX512-BF16 and without AMX, torch 2.14.1, 8 pictures of 224 pixels, medians of 5 rounds that alternate with PyTorch's
own kernel; each stands beside its way. What brings less than 10 % in predictions or in training is not worth its code.

Axes: B pictures, H heads, N tokens, D channels, of all heads or of one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from threading import Lock
from typing import Any, Literal

import torch
from timm.layers import Attention, GluMlp, Mlp, SwiGLU
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack
from torch.utils.weak import WeakIdKeyDictionary, WeakTensorKeyDictionary

from vitrine.errors import UsageError

# ViT-Ti's. Training steps are 1.8 times as fast in bf16 from here to 768 (benchmarks/train.py --widths, AVX512-BF16);
# smaller models, which gain as much at 128, train in minutes and keep their float32.
_MIN_BF16_WIDTH = 192


_named_device: ContextVar[torch.device | Literal["auto"] | None] = ContextVar("named_device", default=None)


@contextmanager
def on_device(name: str | None) -> Iterator[None]:
    """Within the block, models are opened on the device of this name; None leaves the choice to
    :func:`default_device`.

    Args:
        name: cpu, cuda, cuda:1 and so on, or mps; auto spreads a model over all devices where it is one that can be
            spread (see :func:`spreads_over_devices`), and is as None for others.

    Raises:
        UsageError: there is no such device here.
    """
    token = _named_device.set("auto" if name == "auto" else None if name is None else _device_of(name))
    try:
        yield
    finally:
        _named_device.reset(token)


def _device_of(name: str) -> torch.device:
    names = ["cpu", *(["mps"] if torch.backends.mps.is_available() else [])]
    if torch.cuda.is_available():
        names += ["cuda", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]
    if name not in names:
        raise UsageError(f"--device {name} cannot be used: this machine has {', '.join(names)}; or auto.")
    return torch.device(name)


def default_device() -> torch.device:
    """The one that :func:`on_device` names; else CUDA, else MPS, else the CPU."""
    named_device = _named_device.get()
    if isinstance(named_device, torch.device):
        return named_device
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def spreads_over_devices() -> bool:
    """Whether :func:`on_device` asks for a model to be spread over all devices."""
    return _named_device.get() == "auto"


def refuse_four_bit(precision: str, reference: str) -> None:
    """Refuse 4 bits of a model that cannot be in them: only vision-language models can.

    Raises:
        UsageError: the precision is 4bit.
    """
    if precision == "4bit":
        raise UsageError(f"--precision 4bit is of vision-language models, and {reference} is none: give fp32 or bf16.")


def bf16_in_hardware(device: torch.device) -> bool:
    """Whether the device multiplies bf16 matrices itself: CUDA from Ampere on, CPUs with AMX or AVX512-BF16."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return False


def resolve_precision(precision: str, device: torch.device, width: int) -> str:
    """``bf16`` or ``fp32`` for a recipe's ``precision``; ``auto`` takes bf16 where it pays at this token width."""
    if precision != "auto":
        return precision
    return "bf16" if bf16_in_hardware(device) and width >= _MIN_BF16_WIDTH else "fp32"


def is_compiled(module: nn.Module) -> bool:
    """Whether ``torch.compile`` was applied to a module or to a part of it."""
    return any(getattr(each, "_compiled_call_impl", None) is not None for each in module.modules())


@contextmanager
def autocast(
    device: torch.device, precision: str, *, compiled: bool = False, logits_of: nn.Module | None = None
) -> Iterator[None]:
    """Precision of a forward pass: with "bf16", matrix products in bf16, sums and norms in float32.

    On some CPUs, bf16 products are computed by faster kernels than PyTorch's own; see the module.

    Args:
        device: where the module is.
        precision: "fp32" or "bf16".
        compiled: whether the module is compiled, so that no call of it can be replaced.
        logits_of: a model, or a module that holds it, of which nothing but its logits is read inside of the block: see
            :func:`class_token_alone`. None computes every token.
    """
    with ExitStack() as stack:
        if precision != "bf16":
            stack.enter_context(torch.autocast(device.type, enabled=False))
        else:
            stack.enter_context(torch.autocast(device.type, torch.bfloat16))
            if not compiled and device.type == "cpu" and _has_bf16_without_amx():
                stack.enter_context(_FasterKernels())
        if logits_of is not None and not compiled:
            stack.enter_context(class_token_alone(logits_of))
        yield


@cache
def _has_bf16_without_amx() -> bool:
    return bool(torch.cpu._is_avx512_bf16_supported()) and not torch.cpu._is_amx_tile_supported()


class _FasterKernels(TorchFunctionMode):
    """Replaces two calls inside of :func:`autocast`.

    - ``linear`` without gradients reads weights that were rounded and packed once, and not at every call. Predictions
      are 1.13 times as fast with ViT-Ti, 1.08 times with ViT-B (1.05 to 1.09).
    - ``scaled_dot_product_attention`` is computed as whole matrix products, forwards and backwards. Training steps are
      1.20 times as fast with ViT-Ti, 1.08 times with ViT-B. In predictions it brings 1.13 to 1.21 times together with
      :func:`class_token_alone`, which takes the queries of one block from it.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = None
        if func is functional.scaled_dot_product_attention:
            # An outer mode that records attention would not see a call that is replaced here.
            result = None if _get_current_function_mode_stack() else _try_matmul_attention(*args, **kwargs)
        elif func is functional.linear and not torch.is_grad_enabled():
            result = _try_packed_linear(*args, **kwargs)
        return func(*args, **kwargs) if result is None else result


# The last block for the class token alone.


@contextmanager
def class_token_alone(module: nn.Module) -> Iterator[None]:
    """Inside the block, a classifier's last layer computes one token where its head reads no other.

    Patches still give their keys and values. Their queries' attention, projections and feed-forward layers, of which
    the head reads nothing and which get no gradient, are left out: nine twelfths of one block's products. Logits and
    gradients are the same up to rounding; with dropout inside the last block, a seed drops other units. Models other
    than timm's plain ones are left as they are, and so are compiled ones and other threads.

    Predictions are 1.05 to 1.13 times as fast by this alone, and 1.13 to 1.21 times together with attention as whole
    matrix products.

    Args:
        module: the model, or one that holds it.
    """
    models: list[Any] = [] if is_compiled(module) else [each for each in module.modules() if _reads_class_token(each)]
    with ExitStack() as stack:
        for block in (model.blocks[-1] for model in models):
            stack.enter_context(_replace_forward(block, _class_token_block))
            stack.enter_context(_replace_forward(block.attn, _class_token_attention))
        yield


_OWN_METHODS = {"forward", "forward_features", "forward_head", "pool"}  # that a model may have in place of its class's


def _reads_class_token(model: Any) -> bool:
    """Whether the head reads the class token and no other, and the last block is one that is known."""
    if type(model) is not VisionTransformer or not len(model.blocks) or _OWN_METHODS & vars(model).keys():
        return False
    block: Any = model.blocks[-1]
    return (
        model.global_pool == "token"
        and model.attn_pool is None
        and model.cls_token is not None
        and not model.grad_checkpointing  # whose backward pass computes the block again, outside of the with block
        and isinstance(model.norm, nn.LayerNorm | nn.Identity)
        and type(block) is Block
        and type(block.attn) is Attention
        and getattr(block.attn, "gate", None) is None
        and type(block.mlp) in (Mlp, GluMlp, SwiGLU)
        # Somebody else's forward pass on one of the two is left alone.
        and all(isinstance(vars(part).get("forward"), _ForwardByThread | None) for part in (block, block.attn))
    )


_replacing: ContextVar[tuple[nn.Module, ...]] = ContextVar("_replacing", default=())
_lock = Lock()


class _ForwardByThread:
    """A part's forward pass while some thread replaces it: that thread runs the replacement, all others their own."""

    def __init__(self, part: nn.Module, replacement: Callable[[Any, Tensor], Tensor]) -> None:
        self.part, self.replacement, self.users = part, replacement, 0

    def __call__(self, x_BND: Tensor, *args: Any, **settings: Any) -> Any:
        if args or settings or not any(self.part is each for each in _replacing.get()):
            return type(self.part).forward(self.part, x_BND, *args, **settings)
        return self.replacement(self.part, x_BND)


@contextmanager
def _replace_forward(part: Any, replacement: Callable[[Any, Tensor], Tensor]) -> Iterator[None]:
    with _lock:
        forward = vars(part).get("forward")
        if forward is None:
            forward = part.forward = _ForwardByThread(part, replacement)
        forward.users += 1
    token = _replacing.set((*_replacing.get(), part))
    try:
        yield
    finally:
        _replacing.reset(token)
        with _lock:
            forward.users -= 1
            if not forward.users:
                del part.forward


def _class_token_block(block: Any, x_BND: Tensor) -> Tensor:
    """The last block's forward pass: (B, N, D) to (B, 1, D)."""
    token_B1D = x_BND[:, :1]
    token_B1D = token_B1D + block.drop_path1(block.ls1(block.attn(block.norm1(x_BND))))
    output_B1D: Tensor = token_B1D + block.drop_path2(block.ls2(block.mlp(block.norm2(token_B1D))))
    return output_B1D


def _class_token_attention(attention: Any, x_BND: Tensor) -> Tensor:
    """As timm's ``Attention``, for the first token's query."""
    shape = (*x_BND.shape[:2], 3, attention.num_heads, -1)
    q_BHND, k_BHND, v_BHND = attention.qkv(x_BND).reshape(shape).permute(2, 0, 3, 1, 4).unbind(0)
    q_BH1D, k_BHND = attention.q_norm(q_BHND[:, :, :1]), attention.k_norm(k_BHND)
    dropout = attention.attn_drop.p if attention.training else 0.0
    output_BH1D = functional.scaled_dot_product_attention(q_BH1D, k_BHND, v_BHND, dropout_p=dropout)
    output_B1D = attention.norm(output_BH1D.transpose(1, 2).flatten(2))
    result_B1D: Tensor = attention.proj_drop(attention.proj(output_B1D))
    return result_B1D


# Linear layers from packed weights.

_MIN_WEIGHTS = 1 << 16  # of a layer, and
_MIN_ROWS = 16  # of its input, from which on a packed copy pays
_SAMPLE = 64  # weights that are compared before a copy is used


@cache
def can_pack(dtype: torch.dtype) -> bool:
    """Whether this torch has oneDNN's packed products for this type."""
    weight = torch.eye(16, dtype=dtype)
    try:
        product = packed_linear(weight, pack_linear(weight), weight[0])
    except (AttributeError, RuntimeError, TypeError):  # not built in, not for this type, or with other arguments
        return False
    return torch.equal(product, weight + weight[0])


def pack_linear(weight_OI: Tensor) -> Tensor:
    """A copy of a linear layer's weights for :func:`packed_linear`; an opaque tensor of the same size and type."""
    packed_weight: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight_OI.detach(), None)
    return packed_weight


def packed_linear(x_NI: Tensor, packed_weight: Tensor, bias_O: Tensor | None) -> Tensor:
    """(..., O): what ``torch.nn.functional.linear`` gives, in the type of the three."""
    product: Tensor = torch.ops.mkldnn._linear_pointwise(x_NI, packed_weight, bias_O, "none", [], "")
    return product


@dataclass(frozen=True)
class _PackedCopy:
    """A layer's weights in bf16, packed; and what shows that they have changed since.

    Attributes:
        version: PyTorch's count of in-place changes, which fused optimizers and ``.data`` do not raise.
        sample: some of the weights.
        packed_weight: as :func:`pack_linear` gives it.
    """

    version: int
    sample: Tensor
    packed_weight: Tensor


_packed_copies: WeakIdKeyDictionary = WeakTensorKeyDictionary()


def _drop_updated_copies(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    """Drop the copies of weights that an optimizer has just changed."""
    if len(_packed_copies):
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                _packed_copies.pop(parameter, None)


register_optimizer_step_post_hook(_drop_updated_copies)


def _try_packed_linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor | None:  # noqa: A002  its name
    """The product from a packed copy, or None where PyTorch's own is to be used."""
    if (
        not isinstance(weight, nn.Parameter)
        or weight.is_inference()  # such a tensor keeps no count of its changes
        or weight.device.type != "cpu"
        or weight.numel() < _MIN_WEIGHTS
        or input.numel() < _MIN_ROWS * weight.shape[1]
        or torch.get_autocast_dtype("cpu") != torch.bfloat16
        or not torch.is_autocast_enabled("cpu")  # a part of the model may have switched it off for itself
        or not can_pack(torch.bfloat16)
    ):
        return None
    bias = None if bias is None else bias.to(torch.bfloat16)
    return packed_linear(input.to(torch.bfloat16), _packed_weight(weight), bias)


def _packed_weight(weight: nn.Parameter) -> Tensor:
    """The packed copy of a layer's weights: made at the first use, and again after they have changed."""
    sample = weight.detach()
    sample = sample.view(-1)[:: weight.numel() // _SAMPLE] if weight.is_contiguous() else sample[:, 0]
    copy: _PackedCopy | None = _packed_copies.get(weight)
    if copy is None or copy.version != weight._version or not torch.equal(copy.sample, sample):
        packed_weight = pack_linear(weight.to(torch.bfloat16))
        copy = _packed_copies[weight] = _PackedCopy(weight._version, sample.clone(), packed_weight)
    return copy.packed_weight


# Attention as whole matrix products.

_SCORE_BYTES = 4 << 20  # of the scores that are computed at a time, a thread
_MAX_TOKENS = 2048  # with more, one head's scores fit into no cache


def _try_matmul_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor | None:
    """The attention as whole matrix products, or None where PyTorch's kernel is to be used."""
    if attn_mask is not None or dropout_p or is_causal or enable_gqa or not _fits_matmul(query, key, value):
        return None
    return matmul_attention(query, key, value, scale)


def _fits_matmul(query: Tensor, key: Tensor, value: Tensor) -> bool:
    """Whether all are bf16 (B, H, tokens, D) on the CPU, with the same number of heads and not too many tokens."""
    return (
        query.dtype == key.dtype == value.dtype == torch.bfloat16
        and query.device.type == "cpu"
        and query.ndim == 4
        and query.shape[:2] == key.shape[:2] == value.shape[:2]
        and max(query.shape[2], key.shape[2]) <= _MAX_TOKENS
        and query.numel() > 0
        and key.numel() > 0
    )


def matmul_attention(query: Tensor, key: Tensor, value: Tensor, scale: float | None = None) -> Tensor:
    """``scaled_dot_product_attention`` without mask and dropout, as two matrix products and a softmax.

    Args:
        query: bf16, (B, H, Q, D).
        key: bf16, (B, H, K, D).
        value: as ``key``.
        scale: of the scores; None is 1 / √D.

    Returns:
        bf16, (B, H, Q, D). Scores are rounded to bf16 once more than PyTorch's kernel does.
    """
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    with torch.autocast("cpu", enabled=False):
        output: Tensor = _MatmulAttention.apply(query, key, value, scale)
    return output


class _MatmulAttention(torch.autograd.Function):
    """Scores are not kept for the backward pass, which computes them again, a few heads at a time."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        output = _empty_like(query, value.shape[-1])
        for part in _parts(query, key):
            weights = _softmax_scores(query[part] * scale, key[part])
            output[part] = weights @ value[part]
        ctx.save_for_backward(query, key, value, output)
        ctx.scale = scale
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        query, key, value, output = ctx.saved_tensors
        query_grad, key_grad, value_grad = (_empty_like(each, each.shape[-1]) for each in (query, key, value))
        # Of each query, the sum over keys of weight times gradient by the weight.
        sums = (grad * output).sum(-1, keepdim=True)
        for part in _parts(query, key):
            scaled_query = query[part] * ctx.scale
            weights = _softmax_scores(scaled_query, key[part])
            value_grad[part] = weights.transpose(-1, -2) @ grad[part]
            score_grad = (grad[part] @ value[part].transpose(-1, -2)).sub_(sums[part]).mul_(weights)
            query_grad[part] = (score_grad @ key[part]).mul_(ctx.scale)
            key_grad[part] = score_grad.transpose(-1, -2) @ scaled_query
        return query_grad, key_grad, value_grad, None


def _softmax_scores(scaled_query: Tensor, key: Tensor) -> Tensor:
    return (scaled_query @ key.transpose(-1, -2)).softmax(-1)


def _empty_like(tensor: Tensor, channels: int) -> Tensor:
    """Empty (B, H, N, D) that lies in memory as (B, N, H, D), as the layers before and after have it."""
    batch, heads, tokens = tensor.shape[:3]
    return tensor.new_empty(batch, tokens, heads, channels).transpose(1, 2)


def _parts(query: Tensor, key: Tensor) -> Iterator[tuple[slice, slice]]:
    """Pictures and heads to take at a time: some heads of one picture, or all heads of some pictures."""
    batch, heads = query.shape[:2]
    fit = max(1, _SCORE_BYTES * torch.get_num_threads() // (2 * query.shape[2] * key.shape[2]))
    pictures, heads_each = max(1, fit // heads), min(fit, heads)
    for first in range(0, batch, pictures):
        for head in range(0, heads, heads_each):
            yield slice(first, first + pictures), slice(head, head + heads_each)
