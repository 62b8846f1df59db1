"""Checkpoints that a file's names alone identify: PyTorch-Pretrained-ViT, ViT-pytorch, torchvision, DINO."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from vitrine.models.checkpoints.base import (
    HALF_NORMALISATION,
    IMAGENET_NORMALISATION,
    ConvertedCheckpoint,
    ModelDescription,
    convert_names,
    left_out_note,
    plan_names,
)
from vitrine.models.checkpoints.state_dict import StateDictFile
from vitrine.models.checkpoints.timm import input_cfg, plain_vit, read_dimensions

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
_OWN_HEAD = re.compile(r"heads\.(?:head\.)?(?:\d+\.)?(weight|bias)")
_VIT_PYTORCH = (
    (r"^transformer\.embeddings\.cls_token$", "cls_token"),
    (r"^transformer\.embeddings\.position_embeddings$", "pos_embed"),
    (r"^transformer\.embeddings\.patch_embeddings\.", "patch_embed.proj."),
    (r"^transformer\.encoder\.encoder_norm\.", "norm."),
    (r"^transformer\.encoder\.layer\.(\d+)\.", r"blocks.\1."),
    (r"^(blocks\.\d+)\.attention_norm\.", r"\1.norm1."),
    (r"^(blocks\.\d+)\.ffn_norm\.", r"\1.norm2."),
    (r"^(blocks\.\d+)\.ffn\.", r"\1.mlp."),
    (r"^(blocks\.\d+)\.attn\.(q|k|v)(uery|ey|alue)\.", r"\1.attn.\2."),
    (r"^(blocks\.\d+)\.attn\.out\.", r"\1.attn.proj."),
)
_DINO = ((r"^backbone\.", ""),)
_DINO_TRAINING = r"(dino_|ibot_)?head\..*|(backbone\.)?mask_token"
_TORCHVISION_RESIZE = {(1024, 16): 242}  # ViT_L_16_Weights.IMAGENET1K_V1; the others at 224 px resize to 256


def is_pretrained_vit(file: StateDictFile) -> bool:
    """Whether these are weights of the package pytorch_pretrained_vit."""
    return "positional_embedding.pos_embedding" in file.shapes


def convert_pretrained_vit(file: StateDictFile) -> ConvertedCheckpoint:
    """Weights of pytorch_pretrained_vit; its representation head comes before the last norm (its ``model.py``)."""
    plan = plan_names(file, _PRETRAINED_VIT)
    readout = "representation before norm" if "pre_logits.weight" in plan.sources else None
    return convert_names("PyTorch-Pretrained-ViT", file, plan, readout=readout, cfg=dict(HALF_NORMALISATION))


def describe_pretrained_vit(
    checkpoint: ConvertedCheckpoint, model_args: Mapping[str, Any] | None = None
) -> ModelDescription:
    """The timm model of such weights, with timm's crop for them: at 224 px nine tenths of the short side, else all."""
    size = read_dimensions(checkpoint.shapes, checkpoint.path)
    name, args, notes = plain_vit(size, checkpoint.path, model_args=model_args)
    crop = 0.9 if size.image == 224 else 1.0
    cfg = input_cfg(size, checkpoint.classes(), crop_pct=crop, **HALF_NORMALISATION)
    return ModelDescription(name, args, cfg, notes)


def is_vit_pytorch(file: StateDictFile) -> bool:
    """Whether these are weights of github.com/jeonsworld/ViT-pytorch."""
    return "transformer.embeddings.patch_embeddings.weight" in file.shapes


def convert_vit_pytorch(file: StateDictFile) -> ConvertedCheckpoint:
    """Weights that ViT-pytorch saved after a fine-tuning."""
    return convert_names("ViT-pytorch", file, plan_names(file, _VIT_PYTORCH), cfg=dict(HALF_NORMALISATION))


def describe_vit_pytorch(
    checkpoint: ConvertedCheckpoint, model_args: Mapping[str, Any] | None = None
) -> ModelDescription:
    """The timm model of such weights, with pictures squeezed into its square, as ViT-pytorch's evaluation does."""
    size = read_dimensions(checkpoint.shapes, checkpoint.path)
    name, args, notes = plain_vit(size, checkpoint.path, model_args=model_args)
    cfg = input_cfg(size, checkpoint.classes(), crop_pct=1.0, crop_mode="squash", **HALF_NORMALISATION)
    return ModelDescription(name, args, cfg | {"interpolation": "bilinear"}, notes)


def is_torchvision(file: StateDictFile) -> bool:
    """Whether these are weights of torchvision's VisionTransformer."""
    return "conv_proj.weight" in file.shapes and "encoder.pos_embedding" in file.shapes


def convert_torchvision(file: StateDictFile) -> ConvertedCheckpoint:
    """Weights of torchvision's ``vit_b_16`` and its sisters, whose queries, keys and values are packed already."""
    plan = plan_names(file, (*_own_head(file.shapes), *_TORCHVISION))
    readout = "representation" if "pre_logits.weight" in plan.sources else None
    return convert_names("torchvision", file, plan, readout=readout, cfg=dict(IMAGENET_NORMALISATION))


def _own_head(names: Iterable[str]) -> tuple[tuple[str, str], ...]:
    """Renames for a head that a person put in torchvision's place: one linear layer, alone or behind a dropout.

    Two layers are left under their own names, which are an error: what lies between them is not in the file.
    """
    parts = {name: match[1] for name in names if (match := _OWN_HEAD.fullmatch(name))}
    is_one_layer = sorted(parts.values()) == ["bias", "weight"]
    return tuple((f"^{re.escape(name)}$", f"head.{kind}") for name, kind in parts.items()) if is_one_layer else ()


def describe_torchvision(
    checkpoint: ConvertedCheckpoint, model_args: Mapping[str, Any] | None = None
) -> ModelDescription:
    """The timm model of such weights, with the resize and the crop of torchvision's transforms, bilinear at 224 px."""
    size = read_dimensions(checkpoint.shapes, checkpoint.path)
    name, args, notes = plain_vit(size, checkpoint.path, model_args=model_args)
    resize = _TORCHVISION_RESIZE.get((size.width, size.patch), 256) if size.image == 224 else size.image
    interpolation = "bilinear" if size.image == 224 else "bicubic"
    preparation = {"crop_pct": size.image / resize, "interpolation": interpolation, **IMAGENET_NORMALISATION}
    cfg = input_cfg(size, checkpoint.classes(), **preparation)
    return ModelDescription(name, args, cfg, notes)


def is_dino(file: StateDictFile) -> bool:
    """Whether these are weights of DINO's training: a teacher, or a backbone beside a projection head."""
    names = file.shapes
    return (
        any(key in file.wrapper for key in ("teacher", "student"))
        or any(name.startswith("backbone.") for name in names)
        or any(name.startswith(("head.mlp.", "head.last_layer.")) for name in names)
    ) and (
        any(name.endswith("patch_embed.proj.weight") for name in names)
        and not any(name.endswith(".ls1.gamma") for name in names)  # DINOv2's, which timm's own loader knows
    )


def convert_dino(file: StateDictFile) -> ConvertedCheckpoint:
    """The backbone that DINO trained (Caron et al. 2021), in timm's names; the teacher's where both are there."""
    plan = plan_names(file, _DINO, _DINO_TRAINING)
    notes = left_out_note(plan.left_out, "only DINO's own training uses it")
    return convert_names("DINO", file, plan, cfg=dict(IMAGENET_NORMALISATION), notes=notes)


def describe_dino(checkpoint: ConvertedCheckpoint, model_args: Mapping[str, Any] | None = None) -> ModelDescription:
    """The timm model of such weights, with the crop of DINO's evaluation: 256 px, of which the middle 224."""
    size = read_dimensions(checkpoint.shapes, checkpoint.path)
    name, args, notes = plain_vit(size, checkpoint.path, model_args=model_args)
    return ModelDescription(name, args, input_cfg(size, 0, crop_pct=224 / 256, **IMAGENET_NORMALISATION), notes)
