"""Google's .npz files of the ViT and AugReg releases: recognised by their keys, read by timm's own reader."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vitrine.errors import ModelError
from vitrine.models.checkpoints.base import HALF_NORMALISATION, ConvertedCheckpoint, ModelDescription
from vitrine.models.checkpoints.state_dict import Shape, StateDictFile
from vitrine.models.checkpoints.timm import input_cfg, plain_vit, read_dimensions
from vitrine.results import and_n_more

_PREFIXES = ("opt/target/", "params/", "")
_FIRST = "Transformer/encoderblock_0/LayerNorm_0/scale"
_OUTSIDE = (
    "embedding/kernel", "embedding/bias", "cls", "Transformer/posembed_input/pos_embedding",
    "Transformer/encoder_norm/scale", "Transformer/encoder_norm/bias",
)  # fmt: skip
_HEAD = ("head/kernel", "head/bias")
_REPRESENTATION = ("pre_logits/kernel", "pre_logits/bias")
_ATTENTION, _MLP = "MultiHeadDotProductAttention_1", "MlpBlock_3"
_INSIDE = (
    *(f"LayerNorm_{n}/{kind}" for n in (0, 2) for kind in ("scale", "bias")),
    *(f"{_ATTENTION}/{part}/{kind}" for part in ("query", "key", "value", "out") for kind in ("kernel", "bias")),
    *(f"{_MLP}/Dense_{n}/{kind}" for n in (0, 1) for kind in ("kernel", "bias")),
)


def is_google(file: StateDictFile) -> bool:
    """Whether these are arrays of Google's ViT code."""
    return file.path.suffix == ".npz" and any(prefix + _FIRST in file.shapes for prefix in _PREFIXES)


def convert_google(file: StateDictFile) -> ConvertedCheckpoint:
    """Shapes of the arrays in timm's names; timm's own reader takes the values when the model is built.

    Raises:
        ModelError: arrays are missing or left over.
    """
    prefix = next(one for one in _PREFIXES if one + _FIRST in file.shapes)
    shapes = {name.removeprefix(prefix): shape for name, shape in file.shapes.items()}
    _check_names(shapes, file.path)
    return ConvertedCheckpoint(
        "Google's .npz",
        file,
        _timm_shapes(shapes, file.path),
        lambda: _load_heads(file.path, prefix),
        readout="representation" if _REPRESENTATION[0] in shapes else None,
        cfg=dict(HALF_NORMALISATION),
        is_npz=True,
    )


def _check_names(shapes: Mapping[str, Shape], path: Path) -> None:
    if any(name.startswith(("conv_root", "block1/")) for name in shapes):
        raise ModelError(
            f"{path} is of a hybrid with a convolutional stem, whose blocks see no patches of the picture."
        )
    depth = len({match[1] for name in shapes if (match := re.match(r"Transformer/encoderblock_(\d+)/", name))})
    required_names = {*_OUTSIDE, *(f"Transformer/encoderblock_{i}/{name}" for i in range(depth) for name in _INSIDE)}
    missing, strange = required_names - set(shapes), set(shapes) - required_names - set(_HEAD) - set(_REPRESENTATION)
    for what, names in (("lacks", missing), ("also has", strange)):
        if names:
            raise ModelError(
                f"{path} has the names of Google's ViT but {what} {and_n_more(sorted(names), 3)}.\n"
                "Expected the .npz of a ViT or AugReg release."
            )


def _timm_shapes(shapes: Mapping[str, Shape], path: Path) -> dict[str, Shape]:
    try:
        side, other, channels, width = shapes["embedding/kernel"]
        timm_shapes: dict[str, Shape] = {
            "patch_embed.proj.weight": (width, channels, side, other),
            "pos_embed": shapes["Transformer/posembed_input/pos_embedding"],
            "cls_token": shapes["cls"],
        }
        depth = sum(name.endswith("/LayerNorm_0/scale") for name in shapes)
        for i in range(depth):
            inner, outer = shapes[f"Transformer/encoderblock_{i}/{_MLP}/Dense_0/kernel"]
            timm_shapes[f"blocks.{i}.mlp.fc1.weight"] = (outer, inner)
            timm_shapes[f"blocks.{i}.attn.heads"] = shapes[f"Transformer/encoderblock_{i}/{_ATTENTION}/query/kernel"]
        for theirs, ours in (("head", "head"), ("pre_logits", "pre_logits")):
            if f"{theirs}/kernel" in shapes:
                inner, outer = shapes[f"{theirs}/kernel"]
                timm_shapes[f"{ours}.weight"], timm_shapes[f"{ours}.bias"] = (outer, inner), shapes[f"{theirs}/bias"]
    except (ValueError, KeyError) as error:
        raise ModelError(f"{path} has arrays of Google's ViT with other shapes than a ViT's ({error}).") from error
    return timm_shapes


def describe_google(checkpoint: ConvertedCheckpoint, model_args: Mapping[str, Any] | None = None) -> ModelDescription:
    """The timm model of such weights; the number of heads is in the shapes of the queries."""
    size = read_dimensions(checkpoint.shapes, checkpoint.path)
    queries = checkpoint.shapes["blocks.0.attn.heads"]
    heads = queries[1] if len(queries) == 3 else None
    name, args, notes = plain_vit(size, checkpoint.path, heads=heads, model_args=model_args)
    crop = 0.9 if size.image == 224 else 1.0
    cfg = input_cfg(size, checkpoint.classes(), crop_pct=crop, **HALF_NORMALISATION)
    return ModelDescription(name, args, cfg, notes)


def _load_heads(path: Path, prefix: str) -> dict[str, Tensor]:
    """The tensors of the head and of the representation before it, in torch's orientation."""
    tensors = {}
    with np.load(path, allow_pickle=False) as arrays:
        for name in (*_HEAD, *_REPRESENTATION):
            if prefix + name in arrays.files:
                value = torch.from_numpy(np.asarray(arrays[prefix + name], dtype=np.float32))
                part, _, kind = name.partition("/")
                tensors[f"{part}.{'weight' if kind == 'kernel' else 'bias'}"] = value.T if kind == "kernel" else value
    return tensors
