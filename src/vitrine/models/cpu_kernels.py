"""Other routes to the same numbers for bf16 on a CPU that multiplies bf16 matrices itself.

Models stay as they are: a mode of PyTorch's own function overrides takes the calls of two functions. Attention becomes
:func:`~vitrine.models.plain_attention.plain_attention`; and where no gradients are wanted, large linear layers read a
bf16 copy of their weights in oneDNN's own order, which autocast would otherwise make at every call.

Letters: N rows of any number of axes, I inputs, O outputs.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack
from torch.utils.weak import WeakIdKeyDictionary, WeakTensorKeyDictionary

from vitrine.models import onednn
from vitrine.models.plain_attention import plain_attention, suits

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
            found = None if _get_current_function_mode_stack() else _attended(*args, **kwargs)
        elif func is functional.linear and not torch.is_grad_enabled():
            found = _multiplied(*args, **kwargs)
        return func(*args, **kwargs) if found is None else found


def _attended(
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
        or not onednn.packs(torch.bfloat16)
    ):
        return None
    packed = _packed(weight)
    return onednn.linear(input.to(torch.bfloat16), packed, None if bias is None else bias.to(torch.bfloat16))


def _packed(weight: nn.Parameter) -> Tensor:
    some = weight.detach().view(-1)[:: weight.numel() // _SOME] if weight.is_contiguous() else weight.detach()[:, 0]
    copy: _Copy | None = _copies.get(weight)
    if copy is None or copy.version != weight._version or not torch.equal(copy.some, some):
        packed = onednn.pack_linear(weight.to(torch.bfloat16))
        copy = _copies[weight] = _Copy(weight._version, some.clone(), packed)
    return copy.packed
