"""DINOv3 under the names of Meta's own files (``storage_tokens``), and which model of timm a DINOv3 is.

Source: O. Siméoni et al. (2025), DINOv3, arXiv:2508.10104; github.com/facebookresearch/dinov3.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import timm
import torch
from torch import Tensor

from vitrine.errors import ModelError
from vitrine.models.checkpoints.base import (
    IMAGENET_NORMALISATION,
    ConvertedCheckpoint,
    ModelDescription,
    convert_names,
    left_out_note,
    plan_names,
    rearrange_checkpoint,
)
from vitrine.models.checkpoints.state_dict import StateDictFile
from vitrine.models.checkpoints.timm import Dimensions, count_blocks, input_cfg, size_args

_IMAGE = 256  # pixels of a side: what timm gives the published ones
_SIZES = {
    (384, 12, 6, 1536, False): "small", (384, 12, 6, 1536, True): "small_plus", (768, 12, 12, 3072, False): "base",
    (1024, 24, 16, 4096, False): "large", (1280, 32, 20, 5120, True): "huge_plus", (4096, 40, 32, 8192, True): "7b",
}  # fmt: skip
_RENAMES = (
    (r"^storage_tokens$", "reg_token"),
    (r"^(blocks\.\d+)\.ls([12])\.gamma$", r"\1.gamma_\2"),
    (r"^(blocks\.\d+)\.mlp\.w1\.", r"\1.mlp.fc1_g."),
    (r"^(blocks\.\d+)\.mlp\.w2\.", r"\1.mlp.fc1_x."),
    (r"^(blocks\.\d+)\.mlp\.w3\.", r"\1.mlp.fc2."),
)
_UNUSED = r"mask_token|rope_embed\.periods|local_cls_norm\.(weight|bias)"


@dataclass(frozen=True)
class Dinov3Parts:
    """What tells one DINOv3 from another.

    Attributes:
        heads: number of attention heads.
        is_gated: whether the first layer of every MLP is multiplied by a gate.
        has_biases: whether queries and values have biases; keys never do.
        registers: number of register tokens.
        theta: base of the rotary positions.
    """

    heads: int
    is_gated: bool
    has_biases: bool
    registers: int
    theta: float = 100.0


def dinov3_model(size: Dimensions, parts: Dinov3Parts) -> tuple[str, dict[str, Any]]:
    """timm's name and constructor arguments of a DINOv3, but for the size of pictures; its class token is read."""
    args = {
        "global_pool": "token",
        "num_reg_tokens": parts.registers,
        "rope_temperature": parts.theta,
        "qkv_bias": parts.has_biases,
    }
    ending = "patch16_dinov3_qkvb" if parts.has_biases else "patch16_dinov3"
    word = _SIZES.get((size.width, size.depth, parts.heads, size.mlp, parts.is_gated))
    if word and size.patch == 16 and timm.is_model(f"vit_{word}_{ending}"):
        return f"vit_{word}_{ending}", args
    name = f"vit_{'small_plus' if parts.is_gated else 'small'}_{ending}"
    return name, args | size_args(size, parts.heads) | ({"swiglu_align_to": 1} if parts.is_gated else {})


def is_dinov3(file: StateDictFile) -> bool:
    """Whether these are weights of DINOv3's own code."""
    return "storage_tokens" in file.shapes and "blocks.0.attn.qkv.weight" in file.shapes


def convert_dinov3(file: StateDictFile) -> ConvertedCheckpoint:
    """Weights of DINOv3's own code; what its training alone used is left out."""
    plan = plan_names(file, _RENAMES, _UNUSED)
    notes = left_out_note(plan.left_out, "no classifier uses it")
    checkpoint = convert_names("DINOv3", file, plan, notes=notes, cfg=dict(IMAGENET_NORMALISATION))

    def rearrange(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Biases of queries and values apart, as timm has them; a mask says that those of keys count for nothing."""
        result: dict[str, Tensor] = {}
        for name, value in tensors.items():
            if name.endswith(".attn.qkv.bias"):
                query_bias, key_bias, value_bias = value.chunk(3)
                if not value.is_meta and f"{name}_mask" not in tensors and torch.any(key_bias != 0):
                    raise ModelError(f"{file.path}: {name} has biases of keys, which no DINOv3 has.")
                place = name.removesuffix("qkv.bias")
                result |= {f"{place}q_bias": query_bias, f"{place}v_bias": value_bias}
            elif not name.endswith(".bias_mask"):
                result[name] = value
        return result

    return rearrange_checkpoint(checkpoint, rearrange)


def describe_dinov3(checkpoint: ConvertedCheckpoint, model_args: Mapping[str, Any] | None = None) -> ModelDescription:
    """The timm model of such weights: its rotary positions say how many heads there are.

    Raises:
        ModelError: the number of heads, or another size, is not in the file.
    """
    shapes = checkpoint.shapes
    is_gated = "blocks.0.mlp.fc1_g.weight" in shapes
    try:
        width, _, patch, _ = shapes["patch_embed.proj.weight"]
        mlp = shapes[f"blocks.0.mlp.{'fc1_g' if is_gated else 'fc1'}.weight"][0]
        registers = shapes["reg_token"][1]
        periods = checkpoint.file.shapes.get("rope_embed.periods", (16,))[0]  # four numbers of a head share a period
        heads = int((model_args or {}).get("num_heads") or width // (4 * periods))
        size = Dimensions(width, count_blocks(shapes), mlp, patch, max(1, _IMAGE // patch), 1 + registers)
    except (KeyError, ValueError, IndexError, ZeroDivisionError, TypeError) as error:
        raise ModelError(
            f"{checkpoint.path} has the names of a DINOv3, without its sizes ({error}).\nName the model: --arch NAME."
        ) from error
    parts = Dinov3Parts(heads, is_gated, "blocks.0.attn.q_bias" in shapes, registers)
    name, args = dinov3_model(size, parts)
    cfg = input_cfg(size, checkpoint.classes(), crop_pct=1.0, **IMAGENET_NORMALISATION)
    return ModelDescription(name, args | {"img_size": size.image}, cfg)
