"""Device and precision: what is used, and why."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from threading import Lock
from typing import Any

import torch
from timm.layers import Attention, GluMlp, Mlp, SwiGLU
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack
from torch.utils.weak import WeakIdKeyDictionary, WeakTensorKeyDictionary


@cache
def can_pack(dtype: torch.dtype) -> bool:
    """Whether torch has these products for this type."""
    weight = torch.eye(16, dtype=dtype)
    try:
        made = packed_linear(weight, pack_linear(weight), weight[0])
    except (AttributeError, RuntimeError, TypeError):  # not built in, not for this type, or with other arguments
        return False
    return torch.equal(made, weight + weight[0])


def pack_linear(weight_OI: Tensor) -> Tensor:
    """A copy of a linear layer's weights for :func:`packed_linear`; an opaque tensor of the same size and type."""
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight_OI.detach(), None)
    return packed


def packed_linear(x_NI: Tensor, packed: Tensor, bias_O: Tensor | None) -> Tensor:
    """(..., O): what ``torch.nn.functional.linear`` gives, in the type of the three."""
    made: Tensor = torch.ops.mkldnn._linear_pointwise(x_NI, packed, bias_O, "none", [], "")
    return made


_SCORE_BYTES = 4 << 20  # of the scores that are computed at a time, a thread
_MOST_TOKENS = 2048  # one head's scores beyond that leave every cache


def suits(query: Tensor, key: Tensor, value: Tensor) -> bool:
    """Whether these can be computed so: bf16 on the CPU, as many heads each, (B, H, tokens, D), not too many tokens."""
    return (
        query.dtype == key.dtype == value.dtype == torch.bfloat16
        and query.device.type == "cpu"
        and query.ndim == 4
        and query.shape[:2] == key.shape[:2] == value.shape[:2]
        and max(query.shape[2], key.shape[2]) <= _MOST_TOKENS
        and query.numel() > 0
        and key.numel() > 0
    )


def plain_attention(query: Tensor, key: Tensor, value: Tensor, scale: float | None = None) -> Tensor:
    """``scaled_dot_product_attention`` without mask and dropout.

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
        attended: Tensor = _Attention.apply(query, key, value, scale)
    return attended


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        out = _empty_like(query, value.shape[-1])
        for part in _parts(query, key):
            weights = _weights(query[part] * scale, key[part])
            out[part] = weights @ value[part]
        ctx.save_for_backward(query, key, value, out)
        ctx.scale = scale
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        query, key, value, out = ctx.saved_tensors
        query_grad, key_grad, value_grad = (_empty_like(each, each.shape[-1]) for each in (query, key, value))
        # Of each query, the sum over keys of weight times gradient by the weight.
        sums = (grad * out).sum(-1, keepdim=True)
        for part in _parts(query, key):
            scaled = query[part] * ctx.scale
            weights = _weights(scaled, key[part])
            value_grad[part] = weights.transpose(-1, -2) @ grad[part]
            by_score = (grad[part] @ value[part].transpose(-1, -2)).sub_(sums[part]).mul_(weights)
            query_grad[part] = (by_score @ key[part]).mul_(ctx.scale)
            key_grad[part] = by_score.transpose(-1, -2) @ scaled
        return query_grad, key_grad, value_grad, None


def _weights(scaled: Tensor, key: Tensor) -> Tensor:
    return (scaled @ key.transpose(-1, -2)).softmax(-1)


def _empty_like(tensor: Tensor, channels: int) -> Tensor:
    """Empty (B, H, N, D) that lies in memory as (B, N, H, D), as the layers before and after have it."""
    batch, heads, tokens = tensor.shape[:3]
    return tensor.new_empty(batch, tokens, heads, channels).transpose(1, 2)


def _parts(query: Tensor, key: Tensor) -> Iterator[tuple[slice, slice]]:
    """Pictures and heads to take at a time: some heads of one picture, or all heads of some."""
    batch, heads = query.shape[:2]
    fit = max(1, _SCORE_BYTES * torch.get_num_threads() // (2 * query.shape[2] * key.shape[2]))
    pictures, heads_each = max(1, fit // heads), min(fit, heads)
    for first in range(0, batch, pictures):
        for head in range(0, heads, heads_each):
            yield slice(first, first + pictures), slice(head, head + heads_each)


_LARGE = 1 << 16  # weights of a layer, and
_MANY = 16  # rows, from which on a packed copy pays
_SOME = 64  # weights that are compared before a copy is used


@dataclass(frozen=True)
class _Copy:
    """A layer's weights in bf16, packed; and how to see that they have changed since."""

    version: int  # the count of in-place changes, which fused optimizers and ``.data`` pass by
    some: Tensor
    packed: Tensor


_copies: WeakIdKeyDictionary = WeakTensorKeyDictionary()


def _forget_trained(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    """Drop the copies of weights that an optimizer has just changed."""
    if len(_copies):
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                _copies.pop(parameter, None)


register_optimizer_step_post_hook(_forget_trained)


def bf16_kernels(device: torch.device) -> AbstractContextManager[Any]:
    """The mode, for the ``with`` block of a forward pass under bf16 autocast; nothing on other devices.

    Processors with AMX are left to PyTorch's own kernels, which use it.
    """
    return _Kernels() if device.type == "cpu" and _pay() else nullcontext()


@cache
def _pay() -> bool:
    return bool(torch.cpu._is_avx512_bf16_supported()) and not torch.cpu._is_amx_tile_supported()


class _Kernels(TorchFunctionMode):
    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        found = None
        if func is functional.scaled_dot_product_attention:
            # Whoever watches from further out would not see the call that is replaced.
            found = None if _get_current_function_mode_stack() else _plain_or_none(*args, **kwargs)
        elif func is functional.linear and not torch.is_grad_enabled():
            found = _multiplied(*args, **kwargs)
        return func(*args, **kwargs) if found is None else found


def _plain_or_none(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor | None:
    """The attention, or None where it is one for PyTorch."""
    if attn_mask is not None or dropout_p or is_causal or enable_gqa or not suits(query, key, value):
        return None
    return plain_attention(query, key, value, scale)


def _multiplied(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor | None:  # noqa: A002  its name
    """The product, or None where it is one for PyTorch."""
    if (
        not isinstance(weight, nn.Parameter)
        or weight.is_inference()  # such a tensor keeps no count of its changes
        or weight.device.type != "cpu"
        or weight.numel() < _LARGE
        or input.numel() < _MANY * weight.shape[1]
        or torch.get_autocast_dtype("cpu") != torch.bfloat16
        or not torch.is_autocast_enabled("cpu")  # a part of the model may have switched it off for itself
        or not can_pack(torch.bfloat16)
    ):
        return None
    packed = _packed(weight)
    return packed_linear(input.to(torch.bfloat16), packed, None if bias is None else bias.to(torch.bfloat16))


def _packed(weight: nn.Parameter) -> Tensor:
    some = weight.detach().view(-1)[:: weight.numel() // _SOME] if weight.is_contiguous() else weight.detach()[:, 0]
    copy: _Copy | None = _copies.get(weight)
    if copy is None or copy.version != weight._version or not torch.equal(copy.some, some):
        packed = pack_linear(weight.to(torch.bfloat16))
        copy = _copies[weight] = _Copy(weight._version, some.clone(), packed)
    return copy.packed


# ViT-Ti's. Training steps are 1.8 times as fast in bf16 from here to 768 (benchmarks/train.py --widths, AVX512-BF16);
# smaller models, which gain as much at 128, train in minutes and keep their float32.
_BF16_PAYS_FROM_WIDTH = 192


def default_device() -> torch.device:
    """CUDA, else MPS, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def bf16_in_hardware(device: torch.device) -> bool:
    """Whether the device multiplies bf16 matrices itself: CUDA from Ampere on, CPUs with AMX or AVX512-BF16."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return False


def resolve_precision(wanted: str, device: torch.device, width: int) -> str:
    """``bf16`` or ``fp32`` for a recipe's ``precision``; ``auto`` takes bf16 where it pays at this token width."""
    if wanted != "auto":
        return wanted
    return "bf16" if bf16_in_hardware(device) and width >= _BF16_PAYS_FROM_WIDTH else "fp32"


@contextmanager
def autocast(device: torch.device, precision: str, *, compiled: bool = False) -> Iterator[None]:
    """Mixed precision for a forward pass: matrix products in bf16, sums and norms in float32.

    On some CPUs with kernels of our own (:mod:`vitrine.models.precision`), which a compiled module does without.
    """
    if precision != "bf16":
        with torch.autocast(device.type, enabled=False):
            yield
    elif compiled:
        with torch.autocast(device.type, torch.bfloat16):
            yield
    else:
        with torch.autocast(device.type, torch.bfloat16), bf16_kernels(device):
            yield


def is_compiled(module: nn.Module) -> bool:
    """Whether ``torch.compile`` was applied to a module or to a part of it: it computes what it was compiled as."""
    return any(getattr(each, "_compiled_call_impl", None) is not None for each in module.modules())


@contextmanager
def class_token_alone(module: nn.Module) -> Iterator[None]:
    """Inside the ``with`` block, a classifier's last block computes one token where its head reads no other.

    Patches still give their keys and values. Their queries' attention, projections and feed-forward layers, of which
    the head sees nothing and which get no gradient, are left out: nine twelfths of one block's products. Logits and
    gradients are the same up to rounding; with dropout inside the block, other units are dropped. Other models than
    timm's plain ones are left as they are, and so are compiled ones and other threads.

    Args:
        module: the model, or one that holds it.
    """
    models: list[Any] = [] if is_compiled(module) else [each for each in module.modules() if _reads_one(each)]
    with ExitStack() as stack:
        for block in (model.blocks[-1] for model in models):
            stack.enter_context(_short_way(block, _one_token))
            stack.enter_context(_short_way(block.attn, _class_token_attention))
        yield


def _reads_one(model: Any) -> bool:
    """Whether the head reads the class token alone, and the last block is one that is known."""
    if type(model) is not VisionTransformer or not len(model.blocks):
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
        and all(isinstance(vars(part).get("forward"), _Forward | None) for part in (block, block.attn))
    )


_shortened: ContextVar[tuple[nn.Module, ...]] = ContextVar("_shortened", default=())
_lock = Lock()


class _Forward:
    """A part's forward pass while some thread takes the short way: that thread takes it, and nobody else does."""

    def __init__(self, part: nn.Module, short: Callable[[Any, Tensor], Tensor]) -> None:
        self.part, self.short, self.users = part, short, 0

    def __call__(self, x_BND: Tensor, *args: Any, **settings: Any) -> Any:
        if args or settings or not any(self.part is each for each in _shortened.get()):
            return type(self.part).forward(self.part, x_BND, *args, **settings)
        return self.short(self.part, x_BND)


@contextmanager
def _short_way(part: Any, short: Callable[[Any, Tensor], Tensor]) -> Iterator[None]:
    with _lock:
        own = vars(part).get("forward")
        if own is None:
            own = part.forward = _Forward(part, short)
        own.users += 1
    token = _shortened.set((*_shortened.get(), part))
    try:
        yield
    finally:
        _shortened.reset(token)
        with _lock:
            own.users -= 1
            if not own.users:
                del part.forward


def _one_token(block: Any, x_BND: Tensor) -> Tensor:
    """The last block's forward pass: (B, N, D) to (B, 1, D)."""
    token_B1D = x_BND[:, :1]
    token_B1D = token_B1D + block.drop_path1(block.ls1(block.attn(block.norm1(x_BND))))
    made_B1D: Tensor = token_B1D + block.drop_path2(block.ls2(block.mlp(block.norm2(token_B1D))))
    return made_B1D


def _class_token_attention(attention: Any, x_BND: Tensor) -> Tensor:
    """As timm's ``Attention``, for the first token's query."""
    shape = (*x_BND.shape[:2], 3, attention.num_heads, -1)
    q_BHND, k_BHND, v_BHND = attention.qkv(x_BND).reshape(shape).permute(2, 0, 3, 1, 4).unbind(0)
    q_BH1D, k_BHND = attention.q_norm(q_BHND[:, :, :1]), attention.k_norm(k_BHND)
    dropped = attention.attn_drop.p if attention.training else 0.0
    seen_BH1D = functional.scaled_dot_product_attention(q_BH1D, k_BHND, v_BHND, dropout_p=dropped)
    made_B1D: Tensor = attention.proj_drop(attention.proj(attention.norm(seen_BH1D.transpose(1, 2).flatten(2))))
    return made_B1D
