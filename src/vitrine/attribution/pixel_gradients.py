"""Maps from gradients by the pixels: input × gradient, integrated gradients and SmoothGrad, summed over each patch.

Axes: B pictures, C channels, H, W pixels, S steps.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from vitrine.attribution.class_logit import class_logit
from vitrine.attribution.maps import BatchMaps, token_layout

_STEPS = 20  # of the path of integrated gradients
_COPIES = 16  # under noise, whose gradients SmoothGrad averages
_NOISE = 0.15  # standard deviation of the noise, as a share of a picture's range: the paper's 10 to 20 %


def input_gradient(
    module: nn.Module, pixels_BCHW: torch.Tensor, targets_B: torch.Tensor, against_B: torch.Tensor | None = None
) -> BatchMaps:
    """Input × gradient: Σ over a patch's pixels of x ∂z/∂x, z the class's logit.

    The first-order share of each patch in z(x) - z(grey): pixels are counted from the mean colour, which is 0 after
    normalisation. Source: A. Shrikumar, P. Greenside, A. Shcherbina, A. Kundaje (2016), arXiv:1605.01713.

    Args:
        module: a timm vision transformer in eval mode; its parameters' gradients are not touched.
        pixels_BCHW: normalised.
        targets_B: int64, a class for each picture.
        against_B: the class that it is compared with; None is none.
    """
    gradient_BCHW = pixel_gradient(module, pixels_BCHW, targets_B, against_B)
    return BatchMaps(sum_over_patches(module, pixels_BCHW * gradient_BCHW), unit="logit")


def integrated_gradients(
    module: nn.Module, pixels_BCHW: torch.Tensor, targets_B: torch.Tensor, against_B: torch.Tensor | None = None
) -> BatchMaps:
    """Integrated gradients from a grey picture: Σ over a patch's pixels of x ∫ ∂z/∂x(αx) dα, α from 0 to 1.

    A map sums to z(x) - z(grey), z being the class's logit. The integral is by Gauss and Legendre at 20 places, as
    captum's; how far the sum is from the difference says how good that is. Source: M. Sundararajan, A. Taly, Q. Yan
    (2017), arXiv:1703.01365. Arguments are those of :func:`input_gradient`.
    """
    total_BCHW = torch.zeros_like(pixels_BCHW, dtype=torch.float32)
    for place, weight in unit_quadrature(_STEPS):
        total_BCHW += weight * pixel_gradient(module, place * pixels_BCHW, targets_B, against_B)
    return BatchMaps(sum_over_patches(module, pixels_BCHW * total_BCHW), unit="logit")


def smoothgrad(
    module: nn.Module,
    pixels_BCHW: torch.Tensor,
    targets_B: torch.Tensor,
    against_B: torch.Tensor | None = None,
    seed: int = 0,
) -> BatchMaps:
    """SmoothGrad: the size of the mean gradient of 16 copies under noise, Σ over a patch's pixels of |mean ∂z/∂x|.

    The noise is normal, with 0.15 of the picture's range as its standard deviation, and the same for every picture of
    one size. Source: D. Smilkov, N. Thorat, B. Kim, F. Viégas, M. Wattenberg (2017), arXiv:1706.03825.

    Args:
        module: a timm vision transformer in eval mode; its parameters' gradients are not touched.
        pixels_BCHW: normalised.
        targets_B: int64, a class for each picture.
        against_B: the class that it is compared with; None is none.
        seed: of the noise.
    """
    range_B111 = (pixels_BCHW.amax((1, 2, 3)) - pixels_BCHW.amin((1, 2, 3)))[:, None, None, None]
    generator = torch.Generator().manual_seed(seed)
    total_BCHW = torch.zeros_like(pixels_BCHW, dtype=torch.float32)
    for _ in range(_COPIES):
        noise_CHW = torch.randn(pixels_BCHW.shape[1:], generator=generator).to(pixels_BCHW.device)
        total_BCHW += pixel_gradient(module, pixels_BCHW + _NOISE * range_B111 * noise_CHW, targets_B, against_B)
    return BatchMaps(sum_over_patches(module, total_BCHW.abs() / _COPIES))


def pixel_gradient(
    module: nn.Module, pixels_BCHW: torch.Tensor, targets_B: torch.Tensor, against_B: torch.Tensor | None
) -> torch.Tensor:
    """Gradient of the class's logit by the pixels: float32 (B, C, H, W)."""
    with torch.enable_grad():
        inputs_BCHW = pixels_BCHW.detach().requires_grad_()
        (gradient_BCHW,) = torch.autograd.grad(class_logit(module(inputs_BCHW), targets_B, against_B), inputs_BCHW)
    return gradient_BCHW.float()


def sum_over_patches(module: nn.Module, values_BCHW: torch.Tensor) -> torch.Tensor:
    """Sums over the pixels and channels of every patch: float32 (B, rows, columns) on the CPU."""
    height, width = values_BCHW.shape[-2:]
    layout = token_layout(module, height, width)
    embed: Any = module.patch_embed
    down, across = embed.patch_size
    values_BHW = values_BCHW.detach().float().sum(1)
    padded_BHW = functional.pad(values_BHW, (0, layout.columns * across - width, 0, layout.rows * down - height))
    return padded_BHW.reshape(-1, layout.rows, down, layout.columns, across).sum((2, 4)).cpu()


def unit_quadrature(count: int) -> list[tuple[float, float]]:
    """Places from 0 to 1 and their weights, which sum to 1: Gauss and Legendre's."""
    places_S, weights_S = np.polynomial.legendre.leggauss(count)
    return [(float(place + 1) / 2, float(weight) / 2) for place, weight in zip(places_S, weights_S, strict=True)]
