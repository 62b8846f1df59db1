"""Checkpoints that a file's names alone identify: PyTorch-Pretrained-ViT, torchvision, DINO."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vitrine.models.checkpoints.base import (
    HALF,
    IMAGENET,
    ConvertedCheckpoint,
    Described,
    Readout,
    convert_names,
    converted_shapes,
    left_out_note,
    tensor_loader,
)
from vitrine.models.checkpoints.state_dict import StoredWeights
from vitrine.models.checkpoints.timm import dimensions, input_cfg, plain_vit

_PRETRAINED_VIT = (
    (r"^class_token$", "cls_token"),
    (r"^positional_embedding\.pos_embedding$", "pos_embed"),
    (r"^patch_embedding\.", "patch_embed.proj."),
    (r"^fc\.", "head."),
    (r"^transformer\.blocks\.(\d+)\.", r"blocks.\1."),
    (r"^(blocks\.\d+)\.attn\.proj_([qkv])\.", r"\1.attn.\2."),
    (r"^(blocks\.\d+)\.proj\.", r"\1.attn.proj."),
    (r"^(blocks\.\d+)\.pwff\.", r"\1.mlp."),
)
_TORCHVISION = (
    (r"^class_token$", "cls_token"),
    (r"^encoder\.pos_embedding$", "pos_embed"),
    (r"^conv_proj\.", "patch_embed.proj."),
    (r"^encoder\.ln\.", "norm."),
    (r"^heads\.head\.", "head."),
    (r"^heads\.pre_logits\.", "pre_logits."),
    (r"^encoder\.layers\.encoder_layer_(\d+)\.", r"blocks.\1."),
    (r"^(blocks\.\d+)\.ln_([12])\.", r"\1.norm\2."),
    (r"^(blocks\.\d+)\.self_attention\.in_proj_", r"\1.attn.qkv."),
    (r"^(blocks\.\d+)\.self_attention\.out_proj\.", r"\1.attn.proj."),
    (r"^(blocks\.\d+)\.mlp\.(0|linear_1)\.", r"\1.mlp.fc1."),
    (r"^(blocks\.\d+)\.mlp\.(3|linear_2)\.", r"\1.mlp.fc2."),
)
_DINO = ((r"^backbone\.", ""),)
_DINO_TRAINING = r"(dino_|ibot_)?head\..*|(backbone\.)?mask_token"
_TORCHVISION_RESIZE = {(1024, 16): 242}  # ViT_L_16_Weights.IMAGENET1K_V1; the others at 224 px resize to 256


def is_pretrained_vit(stored: StoredWeights) -> bool:
    """Whether these are weights of the package pytorch_pretrained_vit."""
    return "positional_embedding.pos_embedding" in stored.shapes


def convert_pretrained_vit(stored: StoredWeights) -> ConvertedCheckpoint:
    """Weights of pytorch_pretrained_vit; its representation head comes before the last norm (its ``model.py``)."""
    plan, _ = convert_names(stored, _PRETRAINED_VIT)
    represented: Readout | None = "representation before norm" if "pre_logits.weight" in plan else None
    shapes = converted_shapes(stored, plan)
    return ConvertedCheckpoint(
        "PyTorch-Pretrained-ViT", stored.path, shapes, tensor_loader(stored, plan), represented, cfg=dict(HALF)
    )


def describe_pretrained_vit(carried: ConvertedCheckpoint, given: Mapping[str, Any] | None = None) -> Described:
    """Its model. The crop is timm's for the same weights: at 224 px nine tenths of the short side, else all of it."""
    found = dimensions(carried.shapes, carried.path)
    name, args, notes = plain_vit(found, carried.path, given=given)
    crop = 0.9 if found.image == 224 else 1.0
    return Described(name, args, input_cfg(found, carried.classes(), crop_pct=crop, **HALF), notes)


def is_torchvision(stored: StoredWeights) -> bool:
    """Whether these are weights of torchvision's VisionTransformer."""
    return "conv_proj.weight" in stored.shapes and "encoder.pos_embedding" in stored.shapes


def convert_torchvision(stored: StoredWeights) -> ConvertedCheckpoint:
    """Weights of torchvision's ``vit_b_16`` and its sisters, whose queries, keys and values are packed already."""
    plan, _ = convert_names(stored, _TORCHVISION)
    represented: Readout | None = "representation" if "pre_logits.weight" in plan else None
    shapes = converted_shapes(stored, plan)
    return ConvertedCheckpoint(
        "torchvision", stored.path, shapes, tensor_loader(stored, plan), represented, cfg=dict(IMAGENET)
    )


def describe_torchvision(carried: ConvertedCheckpoint, given: Mapping[str, Any] | None = None) -> Described:
    """Its model, cropped as the transforms of torchvision's weights do, whose resize is bilinear at 224 px."""
    found = dimensions(carried.shapes, carried.path)
    name, args, notes = plain_vit(found, carried.path, given=given)
    resize = _TORCHVISION_RESIZE.get((found.width, found.patch), 256) if found.image == 224 else found.image
    if found.image == 224:
        notes = (*notes, "torchvision resizes pictures bilinearly for this model; here they are resized bicubically.")
    cfg = input_cfg(found, carried.classes(), crop_pct=found.image / resize, **IMAGENET)
    return Described(name, args, cfg, notes)


def is_dino(stored: StoredWeights) -> bool:
    """Whether these are weights of DINO's training: a teacher, or a backbone beside a projection head."""
    names = stored.shapes
    return (
        any(key in stored.wrapper for key in ("teacher", "student"))
        or any(name.startswith("backbone.") for name in names)
        or any(name.startswith(("head.mlp.", "head.last_layer.")) for name in names)
    ) and any(name.endswith("patch_embed.proj.weight") for name in names)


def convert_dino(stored: StoredWeights) -> ConvertedCheckpoint:
    """The backbone that DINO trained (Caron et al. 2021), in timm's names; the teacher's where both are there."""
    plan, dropped = convert_names(stored, _DINO, _DINO_TRAINING)
    return ConvertedCheckpoint(
        "DINO",
        stored.path,
        converted_shapes(stored, plan),
        tensor_loader(stored, plan),
        cfg=dict(IMAGENET),
        notes=left_out_note(dropped, "only DINO's own training uses it"),
    )


def describe_dino(carried: ConvertedCheckpoint, given: Mapping[str, Any] | None = None) -> Described:
    """Its model, cropped as DINO evaluates: 256 px, of which the middle 224."""
    found = dimensions(carried.shapes, carried.path)
    name, args, notes = plain_vit(found, carried.path, given=given)
    return Described(name, args, input_cfg(found, 0, crop_pct=224 / 256, **IMAGENET), notes)
