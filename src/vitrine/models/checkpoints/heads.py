"""Classification heads that timm lacks, for checkpoints whose head reads more than the class token after its last norm.

Axes: B pictures, N tokens (prefix tokens first), D channels.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from vitrine.errors import ModelError, error_summary
from vitrine.models.checkpoints.base import Readout

_HEAD_MODULES = {"representation": ("head", "pre_logits"), "class and mean": ("head",)}


class ClassAndMeanTransformer(VisionTransformer):  # type: ignore[misc]
    """A vision transformer whose head reads class token and mean of the patches, as Dinov2ForImageClassification."""

    def pool(self, x: Tensor, pool_type: str | None = None) -> Tensor:  # noqa: ARG002
        """Class token beside the mean of the patches: (B, N, D) to (B, 2D)."""
        return torch.cat([x[:, 0], x[:, self.num_prefix_tokens :].mean(dim=1)], dim=1)


def head_modules(readout: Readout) -> tuple[str, ...]:
    """The modules of timm's layout whose tensors belong to a head of this kind."""
    return _HEAD_MODULES.get(readout, ("head", "pre_logits", "norm"))


def attach_head(module: nn.Module, readout: Readout, tensors: Mapping[str, Tensor]) -> None:
    """Give a timm vision transformer without head the head that its weights were trained with.

    Args:
        module: built with ``num_classes=0``.
        readout: how the head reads the tokens. "representation": class token, last norm, linear, tanh, head (the ViT
            paper's code); "representation before norm": class token, linear, tanh, last norm, head
            (pytorch_pretrained_vit); "class and mean": the class token beside the mean of the patches.
        tensors: weight and bias of ``head`` and, in the first two, of ``pre_logits`` (and ``norm``).

    Raises:
        ModelError: tensors are missing or do not follow one another.
    """
    try:
        head = _linear(tensors, "head")
        if readout == "class and mean":
            module.__class__ = ClassAndMeanTransformer
        else:
            layers: list[tuple[str, nn.Module]] = [("pre_logits", _linear(tensors, "pre_logits")), ("tanh", nn.Tanh())]
            if readout == "representation before norm":
                norm = nn.LayerNorm(tensors["norm.weight"].shape[0], eps=1e-6)
                norm.load_state_dict({kind: tensors[f"norm.{kind}"] for kind in ("weight", "bias")})
                layers.append(("norm", norm))
                module.norm = nn.Identity()
            module.fc_norm = nn.Sequential(OrderedDict(layers))
        width = int(module.embed_dim)  # type: ignore[arg-type]
        module.head = head
        module.num_classes = head.out_features  # type: ignore[assignment]
        with torch.inference_mode():
            module.forward_head(torch.zeros(1, 3, width))  # type: ignore[operator]
    except (KeyError, IndexError, RuntimeError) as error:
        raise ModelError(f"The head of the weights cannot be used: {error_summary(error)}.") from error


def _linear(tensors: Mapping[str, Tensor], name: str) -> nn.Linear:
    weight, bias = tensors[f"{name}.weight"], tensors[f"{name}.bias"]
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.load_state_dict({"weight": weight, "bias": bias})
    return layer
