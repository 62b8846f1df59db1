"""The captioner's image encoder: one stage of a timm model as a grid of features, convolutional or transformer.

Letters: B pictures, H, W pixel rows and columns, R, C rows and columns of the feature grid, D channels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from vitrine.errors import ModelError, error_summary
from vitrine.models.timm_model import create_timm_model


class FrozenBatchNorm2d(nn.Module):
    """Batch norm whose statistics and weights are fixed: ``(x - mean) / sqrt(var + eps) * weight + bias``.

    They are buffers, so that no optimizer sees them; there is no ``num_batches_tracked``. As in torchvision and DETR,
    but with the constructor arguments that timm gives to a norm.
    """

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, eps: float = 1e-5, device: Any = None, dtype: Any = None) -> None:
        super().__init__()
        self.eps = eps
        for name, fill in (("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)):
            self.register_buffer(name, torch.full((channels,), fill, device=device, dtype=dtype))

    def forward(self, x_BDHW: Tensor) -> Tensor:
        """Scale and shift every channel, (B, D, H, W)."""
        scale_D = self.weight * (self.running_var + self.eps).rsqrt()
        shift_D = self.bias - self.running_mean * scale_D
        return x_BDHW * scale_D[:, None, None] + shift_D[:, None, None]


class ImageEncoder(nn.Module):
    """One stage of a timm model.

    Attributes:
        body: the timm model, without what comes after the stage.
        channels: of the features, D.
        is_vision_transformer: whether it is one: all tokens attend to one another, so pixels cannot be padded.
    """

    def __init__(self, body: nn.Module, stage: int = -1) -> None:
        super().__init__()
        self.is_vision_transformer = hasattr(body, "patch_embed")
        timm_model: Any = body
        try:
            self._stage = int(timm_model.prune_intermediate_layers([stage], prune_norm=False, prune_head=True)[0])
        except (AttributeError, AssertionError, IndexError) as error:
            raise ModelError(
                f"{type(body).__name__} has no stage {stage} whose features could be captioned.\n"
                "Expected a convolutional network or vision transformer of timm, such as resnet50 or "
                "vit_small_patch16_224, and stage = -1 for its last."
            ) from error
        self.body = body
        self.channels = int(timm_model.feature_info[self._stage]["num_chs"])

    def forward(self, pixels_BHW: Tensor) -> Tensor:
        """Features (B, D, R, C) of normalised pictures of one size, (B, 3, H, W).

        Raises:
            ModelError: a transformer of fixed input size got another one.
        """
        body: Any = self.body
        embed = getattr(body, "patch_embed", None)
        size = tuple(pixels_BHW.shape[-2:])
        if embed is not None and embed.strict_img_size and size != tuple(embed.img_size):
            raise ModelError(
                f"The image encoder takes pictures of {embed.img_size[0]} x {embed.img_size[1]} pixels; got "
                f"{size[0]} x {size[1]}.\nPrepare them so, or build it with image_args = {{'dynamic_img_size': True}}."
            )
        features: list[Tensor] = body.forward_intermediates(
            pixels_BHW, indices=[self._stage], norm=self.is_vision_transformer, stop_early=True, intermediates_only=True
        )
        return features[0]


def build_image_model(name: str, args: Mapping[str, Any], frozen_norm: bool) -> nn.Module:
    """A timm model with random weights.

    Raises:
        ModelError: timm has no such model, or it does not take these arguments.
    """
    norm: dict[str, Any] = {"norm_layer": FrozenBatchNorm2d} if frozen_norm else {}
    try:
        module: nn.Module = create_timm_model(name, pretrained=False, **norm, **args)
    except Exception as error:  # names and arguments from outside: timm checks neither before it uses them
        reason = error_summary(error, 300)
        raise ModelError(f"The image encoder {name!r} cannot be built with {dict(args)}: {reason}") from error
    return module


@torch.no_grad()
def fold_frozen_norms(module: nn.Module) -> int:
    """Fold every :class:`FrozenBatchNorm2d` into the convolution before it, in place; for prediction only.

    The module computes the same up to rounding; its state dict has other names, so save before folding. A norm belongs
    to the convolution that was registered immediately before it, as in timm's ResNets (conv1, bn1; downsample.0, .1),
    or to the last one of a sequence there (a stem of three convolutions).

    Returns:
        the number of norms.
    """
    count = 0
    for parent in list(module.modules()):
        before: nn.Module | None = None
        for name, child in list(parent.named_children()):
            convolution = before[-1] if isinstance(before, nn.Sequential) and len(before) else before
            if isinstance(child, FrozenBatchNorm2d) and isinstance(convolution, nn.Conv2d):
                convolution.weight, bias = fuse_conv_bn_weights(
                    convolution.weight, convolution.bias, child.running_mean, child.running_var, child.eps,
                    child.weight, child.bias,
                )  # fmt: skip
                convolution.bias = bias
                setattr(parent, name, nn.Identity())
                count += 1
            before = child
    return count
