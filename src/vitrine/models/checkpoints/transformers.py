"""Vision models of the library transformers: ViT, DeiT, DINOv2, DINOv3, CLIP and SigLIP folders, read without it.

``config.json`` says the architecture and the labels, ``model.safetensors`` has the weights under the library's names.
Each becomes a model of timm with arguments that are timm's own names for the differences.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import timm

from vitrine.errors import ModelError
from vitrine.models.checkpoints.base import ConvertedCheckpoint, ModelDescription
from vitrine.models.checkpoints.dinov3 import Dinov3Parts, dinov3_model
from vitrine.models.checkpoints.state_dict import StateDictFile
from vitrine.models.checkpoints.timm import input_cfg, plain_vit, size_args, size_word
from vitrine.models.checkpoints.transformers_config import TransformersConfig, is_transformers_config
from vitrine.models.checkpoints.transformers_names import convert_layout, transformers_layout


def is_transformers(file: StateDictFile) -> bool:
    """Whether the tensors have transformers' names."""
    return transformers_layout(file.shapes) is not None


def convert_transformers(file: StateDictFile) -> ConvertedCheckpoint:
    """Weights under transformers' names; what only the configuration says is read from the file's own folder.

    Raises:
        ModelError: the configuration beside them cannot be used.
    """
    config = TransformersConfig(file.path.parent) if is_transformers_config(file.path.parent) else None
    checkpoint = convert_layout(file)
    kernel = checkpoint.shapes.get("patch_embed.proj.weight", ())
    head = checkpoint.shapes.get("head.weight", ())
    reads_both = kernel and len(head) == 2 and head[1] == 2 * kernel[0]
    return replace(
        checkpoint,
        eps=config.eps if config else None,
        cfg=config.processor.normalisation if config else {},
        problem_type=config.problem_type if config else None,
        readout="class and mean" if reads_both else None,
    )


def describe_transformers(folder: Path) -> ModelDescription:
    """The timm model of a folder that ``save_pretrained`` wrote.

    Raises:
        ModelError: it is of another kind than can be opened, or its configuration is damaged.
    """
    config = TransformersConfig(folder)
    name, args = _timm_model(config)
    rows, columns = config.image_size
    args |= {"img_size": rows if rows == columns else (rows, columns)}
    args |= {} if config.flag("qkv_bias", default=True) else {"qkv_bias": False}
    args |= {"act_layer": config.activation} if config.activation and config.kind != "dinov3_vit" else {}
    processor = config.processor
    cfg = input_cfg(config.dimensions, len(config.labels), **processor.cfg) | {"input_size": (3, rows, columns)}
    if config.labels:
        cfg["label_names"] = config.labels
    if config.has_teacher:
        cfg["classifier"] = ("head", "head_dist")
    notes = (*processor.notes, *_left_over_notes(config))
    return ModelDescription(name, args, cfg, notes, config.problem_type)


def _left_over_notes(config: TransformersConfig) -> tuple[str, ...]:
    """A sentence where patches do not fill the picture, as those of SigLIP So400m/14 at 384 px do not."""
    patch = config.dimensions.patch
    side = max(config.image_size, key=lambda side: side % patch)
    if side % patch == 0:
        return ()
    return (
        f"{side} pixels are {side // patch} patches of {patch} pixels and {side % patch} pixels that no patch sees, at "
        "the right or below; maps are drawn as if the patches filled the picture.",
    )


def _timm_model(config: TransformersConfig) -> tuple[str, dict[str, Any]]:
    """timm's name, and its constructor's arguments but for the size of pictures, biases and activation."""
    if config.kind.startswith("dinov2"):
        return _dinov2(config)
    if config.kind == "dinov3_vit":
        return _dinov3(config)
    if config.kind.startswith("clip"):
        return _clip(config)
    return _siglip(config) if config.kind.startswith("siglip") else _vit(config)


_DISTILLED = tuple(f"deit_{size}_distilled_patch16_224" for size in ("tiny", "small", "base"))


def _vit(config: TransformersConfig) -> tuple[str, dict[str, Any]]:
    """ViT, and DeiT with its distillation token."""
    size = config.dimensions
    name, args, _ = plain_vit(size, config.file.parent, heads=config.heads)
    if config.kind == "deit" and config.has_teacher:
        deit = name.replace("vit_", "deit_").replace("_patch", "_distilled_patch")
        name = deit if deit in _DISTILLED else "deit_base_distilled_patch16_224"
        return name, args | size_args(size, config.heads)
    return name, args | ({"reg_tokens": 1} if config.kind == "deit" else {})  # the head does not read that token


def _dinov2(config: TransformersConfig) -> tuple[str, dict[str, Any]]:
    """DINOv2's model: its blocks have layer scale, and in the giant one a gated MLP; with or without registers."""
    size, registers = config.dimensions, None
    if config.kind == "dinov2_with_registers":
        registers = config.count("num_register_tokens", least=0)
    names = {(384, 12, 6): "small", (768, 12, 12): "base", (1024, 24, 16): "large", (1536, 40, 24): "giant"}
    word = names.get((size.width, size.depth, config.heads))
    gated = "giant" if config.has_gated_mlp else None
    usual = size.mlp == (8192 if gated else 4 * size.width) and size.patch == 14
    ending = "patch14_dinov2" if registers is None else "patch14_reg4_dinov2"
    args = {} if registers in (None, 4) else {"reg_tokens": registers}
    if word and usual and (word == "giant") == bool(gated):
        return f"vit_{word}_{ending}", args
    return f"vit_{gated or 'base'}_{ending}", args | size_args(size, config.heads)


def _dinov3(config: TransformersConfig) -> tuple[str, dict[str, Any]]:
    """DINOv3's model: rotary positions in every block, registers, layer scale; its class token is what is read.

    Raises:
        ModelError: it has biases, or an activation, for which timm's model has no place.
    """
    biases = {name: config.flag(f"{name}_bias", default=name != "key") for name in ("query", "key", "value")}
    has_other_biases = biases["query"] == biases["value"] and not biases["key"]
    has_all_biases = config.flag("proj_bias", default=True) and config.flag("mlp_bias", default=True)
    if not has_other_biases or not has_all_biases:
        raise ModelError(
            f"{config.file}: DINOv3 with these biases cannot be opened here.\n"
            "Expected biases of queries and values alike, none of keys, and those of the projection and the MLP."
        )
    if config.activation != ("silu" if config.has_gated_mlp else None):
        expected = "silu, as use_gated_mlp is true" if config.has_gated_mlp else "gelu"
        raise ModelError(f"{config.file}: this hidden_act cannot be opened here; expected {expected}.")
    parts = Dinov3Parts(
        heads=config.heads,
        is_gated=config.has_gated_mlp,
        has_biases=biases["query"],
        registers=config.count("num_register_tokens", least=0),
        theta=config.number("rope_theta", 100.0),
    )
    return dinov3_model(config.dimensions, parts)


def _clip(config: TransformersConfig) -> tuple[str, dict[str, Any]]:
    """CLIP's image tower: the class token after a norm; its classifier reads the mean of the patches before it."""
    size = config.dimensions
    quick = "_quickgelu" if config.activation == "quick_gelu" else ""
    pooling = {"global_pool": "avg", "final_norm": False, "fc_norm": False} if config.is_classifier else {}
    word = size_word(size.width, size.depth)
    for side in (config.image_size[0], 224):
        name = f"vit_{word}_patch{size.patch}_clip{quick}_{side}"
        if word and timm.is_model(name):
            return name, pooling | size_args(size, config.heads)
    return f"vit_base_patch16_clip{quick}_224", pooling | size_args(size, config.heads)


_SIGLIP_SIZES = {(768, 12): "base", (1024, 24): "large", (1152, 27): "so400m", (1536, 40): "giantopt"}


def _siglip(config: TransformersConfig) -> tuple[str, dict[str, Any]]:
    """SigLIP's image tower: an attention pool reads the patches; its classifier reads their mean in place of it."""
    size = config.dimensions
    reads_mean = config.is_classifier or not config.flag("vision_use_head", default=True)
    gap = "_gap" if reads_mean else ""
    word = _SIGLIP_SIZES.get((size.width, size.depth))
    name = f"vit_{word}_patch{size.patch}_siglip{gap}_{config.image_size[0]}"
    name = name if word and timm.is_model(name) else f"vit_base_patch16_siglip{gap}_224"
    act = {"act_layer": "gelu"} if config.activation is None else {}
    return name, act | size_args(size, config.heads)
