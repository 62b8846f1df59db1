"""Methods of captum on the patches of any model that vitrine opens (extra ``captum``).

Axes: B pictures, C channels or classes, H, W pixels.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from vitrine.attribution.foreign_methods import keep_module_state
from vitrine.attribution.maps import BatchMaps, token_layout
from vitrine.attribution.pixel_gradients import sum_over_patches
from vitrine.errors import ModelError

_SAMPLES = 200  # of the methods that fit or average over random sets of patches
_BATCH = 64  # changed pictures at a time
_BY_PATCH = ("FeatureAblation", "KernelShap", "Lime", "Occlusion", "ShapleyValueSampling")
_WITH_BASELINE = ("DeepLift", "IntegratedGradients", *_BY_PATCH)


def captum_maps(
    module: nn.Module,
    pixels_BCHW: torch.Tensor,
    targets_B: torch.Tensor,
    against_B: torch.Tensor | None = None,
    *,
    variant: str,
    seed: int = 0,
) -> BatchMaps:
    """captum's attribution of the class's logit, a number a patch: summed over its pixels, or of it as one feature.

    What captum hides is the mean colour, which is 0 after normalisation.

    Args:
        module: a timm vision transformer in eval mode.
        pixels_BCHW: normalised.
        targets_B: int64, a class for each picture.
        against_B: the class that it is compared with; None is none.
        variant: the name of the class in ``captum.attr``.
        seed: of what it draws, the same for each picture.

    Raises:
        ModelError: captum is not installed, or cannot explain this model.
    """
    try:
        import captum.attr
    except ImportError as error:
        raise ModelError(
            f"--method captum:{variant} needs captum, which is not installed.\n"
            "Install it: pip install 'vitrine[captum]'"
        ) from error
    maps = []
    for b in range(len(pixels_BCHW)):
        logit_module = _Logit(module, None if against_B is None else int(against_B[b]))
        with keep_module_state(module), _fork_seed(seed), torch.enable_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                method = getattr(captum.attr, variant)(logit_module)
                maps.append(_attribute(method, module, pixels_BCHW[b : b + 1], int(targets_B[b]), variant))
            except (RuntimeError, ValueError, AssertionError, TypeError, AttributeError) as error:
                reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
                raise ModelError(f"captum's {variant} cannot explain this {type(module).__name__}: {reason}") from error
    return BatchMaps(torch.cat(maps), unit="logit")


@contextmanager
def _fork_seed(seed: int) -> Iterator[None]:
    """The generators that captum draws from, torch's and numpy's, seeded for a while."""
    state = np.random.get_state()  # noqa: NPY002  captum draws from this one
    try:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            np.random.seed(seed % 2**32)  # noqa: NPY002
            yield
    finally:
        np.random.set_state(state)  # noqa: NPY002


def _attribute(method: Any, module: nn.Module, pixels_BCHW: torch.Tensor, target: int, variant: str) -> torch.Tensor:
    """The map of one picture: float32 (1, rows, columns)."""
    layout = token_layout(module, *pixels_BCHW.shape[-2:])
    embed: Any = module.patch_embed
    down, across = embed.patch_size
    options: dict[str, Any] = {"baselines": 0} if variant in _WITH_BASELINE else {}
    if variant in _BY_PATCH:
        options["perturbations_per_eval"] = _BATCH
    if variant == "GradientShap":
        options = {"baselines": torch.zeros_like(pixels_BCHW), "n_samples": 20, "stdevs": 0.1}
    elif variant == "Occlusion":
        window = (pixels_BCHW.shape[1], down, across)
        options |= {"sliding_window_shapes": window, "strides": window}
    elif variant in _BY_PATCH:
        options["feature_mask"] = _patch_numbers(layout.rows, layout.columns, down, across, pixels_BCHW)
        if variant in ("KernelShap", "Lime"):
            options["n_samples"] = _SAMPLES
        elif variant == "ShapleyValueSampling":
            options["n_samples"] = max(1, _SAMPLES // layout.patches)
    inputs_BCHW = (
        pixels_BCHW.detach().clone(memory_format=torch.contiguous_format).requires_grad_(variant not in _BY_PATCH)
    )
    attribution_BCHW = method.attribute(inputs_BCHW, target=target, **options).detach()
    if variant == "Saliency":
        attribution_BCHW = attribution_BCHW.abs()
    sums_BRC = sum_over_patches(module, attribution_BCHW)
    # A patch that is one feature has its number at each of its pixels.
    return sums_BRC / (down * across * pixels_BCHW.shape[1]) if variant in _BY_PATCH else sums_BRC


def _patch_numbers(rows: int, columns: int, down: int, across: int, pixels_BCHW: torch.Tensor) -> torch.Tensor:
    """The number of the patch that each pixel is in: int64 (1, C, H, W)."""
    height, width = pixels_BCHW.shape[-2:]
    numbers_RC = torch.arange(rows * columns, device=pixels_BCHW.device).reshape(rows, columns)
    numbers_HW = numbers_RC.repeat_interleave(down, 0).repeat_interleave(across, 1)[:height, :width]
    return numbers_HW.expand(1, pixels_BCHW.shape[1], -1, -1).contiguous()  # captum views it


class _Logit(nn.Module):
    """The model's logits, less that of one class where it is compared with it."""

    def __init__(self, module: nn.Module, against: int | None) -> None:
        super().__init__()
        self.module, self.against = module, against
        self.eval()

    def forward(self, pixels_BCHW: torch.Tensor) -> torch.Tensor:
        """Logits (B, C)."""
        logits_BC: torch.Tensor = self.module(pixels_BCHW).float()
        return logits_BC if self.against is None else logits_BC - logits_BC[:, self.against, None]
