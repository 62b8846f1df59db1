"""Methods of pytorch-grad-cam on the tokens of any model that vitrine opens (extra ``grad-cam``).

Axes: B pictures, C channels or classes, H, W pixels, N tokens (prefix tokens first), D channels of a token, R, S rows
and columns of the grid.
"""

from __future__ import annotations

import copy
import io
import warnings
from contextlib import redirect_stderr  # the library shows progress bars of its own
from typing import Any

import numpy as np
import torch
from torch import nn

from vitrine.attribution.foreign_methods import keep_module_state
from vitrine.attribution.gradcam import gradcam_module
from vitrine.attribution.maps import BatchMaps, TokenLayout, token_layout
from vitrine.errors import ModelError

_RIVALS = 3  # classes that FinerCAM compares a class with, where none is named: its own default


def cam_maps(
    module: nn.Module,
    pixels_BCHW: torch.Tensor,
    targets_B: torch.Tensor | None = None,
    against_B: torch.Tensor | None = None,
    *,
    variant: str,
    layer: int = -1,
) -> BatchMaps:
    """A map of pytorch-grad-cam at the tokens that vitrine's own Grad-CAM takes, in that library's range of 0 to 1.

    The prefix tokens are cut off, and the rest laid on the grid, as the model has it; nothing is enlarged. The library
    stretches every map to its own minimum and maximum.

    Args:
        module: a timm vision transformer in eval mode.
        pixels_BCHW: normalised.
        targets_B: int64, a class for each picture; None for the methods that explain no class.
        against_B: the class that it is compared with; None is none.
        variant: the name of the class in ``pytorch_grad_cam``.
        layer: a block from 0, or from the end with -1; see :func:`vitrine.attribution.gradcam.gradcam_tokens`.

    Raises:
        ModelError: the library is not installed, or cannot explain this model; or there is no such layer.
    """
    try:
        import pytorch_grad_cam
    except ImportError as error:
        raise ModelError(
            f"--method cam:{variant} needs pytorch-grad-cam, which is not installed.\n"
            "Install it: pip install 'vitrine[grad-cam]'"
        ) from error
    layout = token_layout(module, *pixels_BCHW.shape[-2:])
    maps = []
    for b in range(len(pixels_BCHW)):
        own = copy.deepcopy(module) if variant == "AblationCAM" else module  # it puts a layer of its own into the model
        index = 0 if targets_B is None else int(targets_B[b])
        rival = None if against_B is None else int(against_B[b])
        with keep_module_state(own), torch.enable_grad(), warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            try:
                target = _finer_target if variant == "FinerCAM" else _target
                logit = target(own, pixels_BCHW[b : b + 1], index, rival)
                maps.append(_run(pytorch_grad_cam, own, variant, layer, layout, pixels_BCHW[b : b + 1], logit))
            except (RuntimeError, ValueError, TypeError, AttributeError, IndexError, np.linalg.LinAlgError) as error:
                reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
                raise ModelError(
                    f"pytorch-grad-cam's {variant} cannot explain this {type(module).__name__}: {reason}"
                ) from error
    scores_BRS = torch.from_numpy(np.stack(maps)).float()
    return BatchMaps(torch.nan_to_num(scores_BRS).clamp_(min=0))


def _run(
    library: Any,
    module: nn.Module,
    variant: str,
    layer: int,
    layout: TokenLayout,
    pixels_BCHW: torch.Tensor,
    target: Any,
) -> Any:
    """The map of one picture: (rows, columns)."""

    def on_grid(tokens_BND: torch.Tensor) -> torch.Tensor:
        patches_BND = tokens_BND[:, layout.prefix :]
        return patches_BND.reshape(len(patches_BND), layout.rows, layout.columns, -1).permute(0, 3, 1, 2)

    options: dict[str, Any] = {"reshape_transform": on_grid}
    if variant == "AblationCAM":
        options["ablation_layer"] = library.AblationLayerVit()
    with getattr(library, variant)(module, [gradcam_module(module, layer)], **options) as method:
        base = getattr(method, "base_cam", method)
        method.compute_input_gradient = base.compute_input_gradient = True  # so that frozen models have a graph, too
        base.get_target_width_height = lambda _: (layout.columns, layout.rows)
        inputs_BCHW = pixels_BCHW.detach().clone().requires_grad_()
        return method(inputs_BCHW, targets=[target])[0]


def _target(_: nn.Module, __: torch.Tensor, index: int, rival: int | None) -> Any:
    """What is explained of one picture: a function of its logits."""
    return lambda logits_C: logits_C[index] if rival is None else logits_C[index] - logits_C[rival]


def _finer_target(module: nn.Module, pixels_BCHW: torch.Tensor, index: int, rival: int | None) -> Any:
    """FinerCAM's own: a class less those whose logits are nearest to its own, as the library weighs them."""
    from pytorch_grad_cam.utils.model_targets import FinerWeightedTarget

    if rival is not None:
        return FinerWeightedTarget(index, [rival], 1)
    with torch.no_grad():
        logits_C = module(pixels_BCHW)[0].float()
    nearest = (logits_C - logits_C[index]).abs().argsort().tolist()
    return FinerWeightedTarget(index, [each for each in nearest if each != index][:_RIVALS], 1)
