"""AttnLRP: relevance propagated back through attention, rule by rule (Achtibat et al. 2024).

Axes: B pictures, C channels, H, W pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from vitrine.attribution.maps import BatchMaps
from vitrine.attribution.pixel_gradients import pixel_gradient, sum_over_patches


def attnlrp(
    module: nn.Module, pixels_BCHW: torch.Tensor, targets_B: torch.Tensor, against_B: torch.Tensor | None = None
) -> BatchMaps:
    """The relevance of every patch for the class's logit: Σ over its pixels of x times a gradient with other rules.

    With them, input times gradient at each step is the paper's relevance: linear layers by the ε rule with ε → 0 (the
    plain gradient), softmax by its Taylor expansion (equation 13, likewise), a product of two activations half to each
    (equation 15, both products of an attention), norms with their deviation as a constant (equation 17), and
    activations f by f(x) / x (equation 9). Biases take their part of the relevance, so that the map need not sum to the
    logit. The paper's γ rule for convolutions, a setting to be tuned for each model, is left out. Source:
    R. Achtibat, S. M. V. Hatefi, M. Dreyer, A. Jain, T. Wiegand, S. Lapuschkin, W. Samek (2024), arXiv:2402.05602.

    Args:
        module: a timm vision transformer in eval mode; its parameters' gradients are not touched.
        pixels_BCHW: normalised.
        targets_B: int64, a class for each picture.
        against_B: the class that it is compared with; None is none.
    """
    with _RelevanceRules():
        gradient_BCHW = pixel_gradient(module, pixels_BCHW, targets_B, against_B)
    return BatchMaps(sum_over_patches(module, pixels_BCHW * gradient_BCHW), unit="logit")


class _RelevanceRules(TorchFunctionMode):
    """What is computed stays the same, up to rounding; its gradients become those of the rules."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        rule = _RULES.get(func)
        return func(*args, **kwargs) if rule is None else rule(func, *args, **kwargs)


def _scale_gradient(x: torch.Tensor, share: float) -> torch.Tensor:
    """The same values; their gradient times ``share``."""
    return x.detach() + share * (x - x.detach())


def _attend(func: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
    """Half of the relevance goes to the values, and of the attention's half, half each to queries and keys."""
    return func(_scale_gradient(query, 0.25), _scale_gradient(key, 0.25), _scale_gradient(value, 0.5), *args, **kwargs)


def _multiply(func: Any, first: Any, second: Any, *args: Any, **kwargs: Any) -> Any:
    """Half to each where both come from the picture; all to the one that does where the other is a weight."""
    if _is_activation(first) and _is_activation(second):
        return func(_scale_gradient(first, 0.5), _scale_gradient(second, 0.5), *args, **kwargs)
    return func(first, second, *args, **kwargs)


def _is_activation(x: Any) -> bool:
    return isinstance(x, torch.Tensor) and x.requires_grad and not isinstance(x, nn.Parameter)


def _layer_norm(
    func: Any,
    x: torch.Tensor,
    normalized_shape: Any,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    eps: float = 1e-5,
) -> torch.Tensor:
    """A layer norm whose deviation is a constant."""
    del func
    axes = tuple(range(-len(normalized_shape), 0))
    deviation = x.float() - x.float().mean(axes, keepdim=True)
    result = deviation * (deviation.square().mean(axes, keepdim=True) + eps).rsqrt().detach()
    result = result if weight is None else result * weight
    return (result if bias is None else result + bias).to(x.dtype)


def _rms_norm(
    func: Any, x: torch.Tensor, normalized_shape: Any, weight: torch.Tensor | None = None, eps: float | None = None
) -> torch.Tensor:
    """A root-mean-square norm whose deviation is a constant."""
    del func
    axes = tuple(range(-len(normalized_shape), 0))
    size = x.float().square().mean(axes, keepdim=True) + (torch.finfo(x.dtype).eps if eps is None else eps)
    result = x.float() * size.rsqrt().detach()
    return (result if weight is None else result * weight).to(x.dtype)


def _activate(func: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    """An activation f with f(0) = 0, as x times the constant f(x) / x."""
    with torch.no_grad():
        value = func(x, *args, **kwargs)
        is_small = x.abs() < 1e-6  # there f(x) / x is the slope at 0, which is one half of GELU and of SiLU
        ratio = torch.where(is_small, torch.full_like(value, 0.5), value / torch.where(is_small, torch.ones_like(x), x))
    return x * ratio


_RULES: dict[Any, Callable[..., Any]] = {
    functional.scaled_dot_product_attention: _attend,
    functional.layer_norm: _layer_norm,
    functional.rms_norm: _rms_norm,
    functional.gelu: _activate,
    functional.silu: _activate,
    **dict.fromkeys((torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__), _multiply),
    **dict.fromkeys((torch.mul, torch.Tensor.mul, torch.Tensor.__mul__), _multiply),
}
