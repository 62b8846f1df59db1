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
from vitrine.models.checkpoints.base import HALF, ConvertedCheckpoint, Described, Readout
from vitrine.models.checkpoints.state_dict import Shape, StoredWeights
from vitrine.models.checkpoints.timm import dimensions, input_cfg, plain_vit

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


def is_google(stored: StoredWeights) -> bool:
    """Whether these are arrays of the published ViT code."""
    return stored.path.suffix == ".npz" and any(prefix + _FIRST in stored.shapes for prefix in _PREFIXES)


def convert_google(stored: StoredWeights) -> ConvertedCheckpoint:
    """The arrays; their shapes in timm's names. timm reads the values when the model is built.

    Raises:
        ModelError: arrays are missing or left over.
    """
    prefix = next(one for one in _PREFIXES if one + _FIRST in stored.shapes)
    shapes = {name.removeprefix(prefix): shape for name, shape in stored.shapes.items()}
    _check_names(shapes, stored.path)
    represented: Readout | None = "representation" if _REPRESENTATION[0] in shapes else None
    return ConvertedCheckpoint(
        "Google's .npz",
        stored.path,
        _timm_shapes(shapes, stored.path),
        lambda: _heads(stored.path, prefix),
        represented,
        cfg=dict(HALF),
        npz=True,
    )


def _check_names(shapes: Mapping[str, Shape], path: Path) -> None:
    if any(name.startswith(("conv_root", "block1/")) for name in shapes):
        raise ModelError(
            f"{path} is of a hybrid with a convolutional stem, whose blocks see no patches of the picture."
        )
    depth = len({match[1] for name in shapes if (match := re.match(r"Transformer/encoderblock_(\d+)/", name))})
    wanted = {*_OUTSIDE, *(f"Transformer/encoderblock_{i}/{name}" for i in range(depth) for name in _INSIDE)}
    missing, strange = wanted - set(shapes), set(shapes) - wanted - set(_HEAD) - set(_REPRESENTATION)
    for what, names in (("lacks", missing), ("also has", strange)):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise ModelError(
                f"{path} has the names of Google's ViT but {what} {', '.join(sorted(names)[:3])}{more}.\n"
                "Expected the .npz of a ViT or AugReg release."
            )


def _timm_shapes(shapes: Mapping[str, Shape], path: Path) -> dict[str, Shape]:
    try:
        side, other, channels, width = shapes["embedding/kernel"]
        found: dict[str, Shape] = {
            "patch_embed.proj.weight": (width, channels, side, other),
            "pos_embed": shapes["Transformer/posembed_input/pos_embedding"],
            "cls_token": shapes["cls"],
        }
        depth = sum(name.endswith("/LayerNorm_0/scale") for name in shapes)
        for i in range(depth):
            inner, outer = shapes[f"Transformer/encoderblock_{i}/{_MLP}/Dense_0/kernel"]
            found[f"blocks.{i}.mlp.fc1.weight"] = (outer, inner)
            found[f"blocks.{i}.attn.heads"] = shapes[f"Transformer/encoderblock_{i}/{_ATTENTION}/query/kernel"]
        for theirs, ours in (("head", "head"), ("pre_logits", "pre_logits")):
            if f"{theirs}/kernel" in shapes:
                inner, outer = shapes[f"{theirs}/kernel"]
                found[f"{ours}.weight"], found[f"{ours}.bias"] = (outer, inner), shapes[f"{theirs}/bias"]
    except (ValueError, KeyError) as error:
        raise ModelError(f"{path} has arrays of Google's ViT with other shapes than a ViT's ({error}).") from error
    return found


def describe_google(carried: ConvertedCheckpoint, given: Mapping[str, Any] | None = None) -> Described:
    """Its model; the number of heads is in the shapes."""
    found = dimensions(carried.shapes, carried.path)
    queries = carried.shapes["blocks.0.attn.heads"]
    name, args, notes = plain_vit(found, carried.path, heads=queries[1] if len(queries) == 3 else None, given=given)
    crop = 0.9 if found.image == 224 else 1.0
    return Described(name, args, input_cfg(found, carried.classes(), crop_pct=crop, **HALF), notes)


def _heads(path: Path, prefix: str) -> dict[str, Tensor]:
    """The tensors of the head and of the representation before it, in torch's orientation."""
    found = {}
    with np.load(path, allow_pickle=False) as arrays:
        for name in (*_HEAD, *_REPRESENTATION):
            if prefix + name in arrays.files:
                value = torch.from_numpy(np.asarray(arrays[prefix + name], dtype=np.float32))
                part, _, kind = name.partition("/")
                found[f"{part}.{'weight' if kind == 'kernel' else 'bias'}"] = value.T if kind == "kernel" else value
    return found
