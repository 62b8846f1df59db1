"""Configurations of transformers' vision models: what a folder's ``config.json`` says, checked as it is read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vitrine.errors import ModelError
from vitrine.io.untrusted_files import read_json as read_json_file
from vitrine.models.checkpoints.image_processor import (
    CLIP_MEAN,
    CLIP_STD,
    IMAGENET_MEAN,
    IMAGENET_STD,
    Processor,
    read_json,
    read_processor,
)
from vitrine.models.checkpoints.timm import Dimensions

_HALF = (0.5,) * 3
_NO_SIZE = (0, 0)  # the configuration says it
_VIT_PROCESSOR = Processor(_NO_SIZE, 1.0, _HALF, _HALF)


@dataclass(frozen=True)
class Family:
    """Models of one ``model_type``.

    Attributes:
        architectures: classes that can be opened; the first is meant where config.json names none.
        processor_name: the image processor that such models are saved with.
        processor: what it does by itself.
        defaults: fields of the configuration that are left out where they have these values, as the library leaves
            them out of a configuration inside another.
        has_any_size: whether the model takes pictures of any size, so that its image processor says which.
    """

    architectures: tuple[str, ...]
    processor_name: str = "ViTImageProcessor"
    processor: Processor = _VIT_PROCESSOR
    defaults: Mapping[str, Any] = field(default_factory=dict)
    has_any_size: bool = False


_IMAGENET_PROCESSOR = Processor(_NO_SIZE, 1.0, IMAGENET_MEAN, IMAGENET_STD)
_CLIP_PROCESSOR = Processor(_NO_SIZE, 1.0, CLIP_MEAN, CLIP_STD)
_SQUEEZE = Processor(_NO_SIZE, 1.0, _HALF, _HALF, "squash")
_NAFLEX = Processor(_NO_SIZE, 1.0, _HALF, _HALF, "squash", "bilinear")
_BASE = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
_CLIP = _BASE | {"image_size": 224, "patch_size": 32, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5}
_ANY_SIGLIP = _BASE | {"patch_size": 16, "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6}
_SIGLIP, _SIGLIP2 = _ANY_SIGLIP | {"image_size": 224}, _ANY_SIGLIP | {"num_patches": 256}
_DINOV3 = _BASE | {
    "hidden_size": 384, "intermediate_size": 1536, "num_attention_heads": 6, "image_size": 224, "patch_size": 16,
    "layer_norm_eps": 1e-5, "num_register_tokens": 0, "rope_theta": 100.0,
}  # fmt: skip
_DINOV2_REGISTERS = {
    "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "image_size": 224, "patch_size": 16,
    "layer_norm_eps": 1e-6, "num_register_tokens": 4,
}  # fmt: skip

FAMILIES: Mapping[str, Family] = {
    "vit": Family(("ViTForImageClassification", "ViTModel")),
    "deit": Family(("DeiTForImageClassification", "DeiTForImageClassificationWithTeacher", "DeiTModel")),
    "dinov2": Family(
        ("Dinov2ForImageClassification", "Dinov2Model", "Dinov2Backbone"),
        "a processor of DINOv2", _IMAGENET_PROCESSOR, {"layer_norm_eps": 1e-6}, has_any_size=True,
    ),
    "dinov2_with_registers": Family(
        ("Dinov2WithRegistersForImageClassification", "Dinov2WithRegistersModel", "Dinov2WithRegistersBackbone"),
        "a processor of DINOv2", _IMAGENET_PROCESSOR, _DINOV2_REGISTERS, has_any_size=True,
    ),
    "dinov3_vit": Family(
        ("DINOv3ViTModel", "DINOv3ViTBackbone"), "DINOv3ViTImageProcessor",
        Processor(_NO_SIZE, 1.0, IMAGENET_MEAN, IMAGENET_STD, "squash", "bilinear"), _DINOV3, has_any_size=True,
    ),
    "clip": Family(("CLIPModel", "CLIPForImageClassification"), "CLIPImageProcessor", _CLIP_PROCESSOR, _CLIP),
    "clip_vision_model": Family(
        ("CLIPVisionModel", "CLIPVisionModelWithProjection"), "CLIPImageProcessor", _CLIP_PROCESSOR, _CLIP
    ),
    "siglip": Family(("SiglipModel", "SiglipForImageClassification"), "SiglipImageProcessor", _SQUEEZE, _SIGLIP),
    "siglip_vision_model": Family(("SiglipVisionModel",), "SiglipImageProcessor", _SQUEEZE, _SIGLIP),
    "siglip2": Family(
        ("Siglip2Model", "Siglip2ForImageClassification"), "Siglip2ImageProcessor", _NAFLEX, _SIGLIP2,
        has_any_size=True,
    ),
    "siglip2_vision_model": Family(
        ("Siglip2VisionModel",), "Siglip2ImageProcessor", _NAFLEX, _SIGLIP2, has_any_size=True
    ),
}  # fmt: skip
"""The models that can be opened, by ``model_type``."""

MULTI_LABEL_TYPE = "multi_label_classification"
PROBLEM_TYPES = ("single_label_classification", MULTI_LABEL_TYPE, "regression")
"""What ``problem_type`` says of a configuration's outputs: a choice of one class, labels one by one, or numbers."""

_ACTIVATIONS = {
    "gelu": None,
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}


def is_transformers_config(folder: Path) -> bool:
    """Whether a folder's config.json is of the library transformers, not of timm."""
    try:
        config = read_json_file(folder / "config.json", dict[str, Any])
    except (OSError, ValueError):
        return False
    return isinstance(config.get("model_type"), str) and "architecture" not in config


class TransformersConfig:
    """config.json and preprocessor_config.json of one folder.

    Attributes:
        file: config.json.
        kind: its ``model_type``, one of :data:`FAMILIES`.
        name: the class that was saved.
        heads: number of attention heads.
        eps: of the layer norms.
        processor: how pictures are prepared.
        labels: class names, in the order of the outputs; none of a model without a classifier.
        problem_type: one of :data:`PROBLEM_TYPES`.
        image_size: rows and columns of a picture, in pixels.
        dimensions: width, depth and so on; of a picture that is not square, with the rows of its grid.
        activation: timm's name; None for its own.
    """

    def __init__(self, folder: Path) -> None:
        self.file = folder / "config.json"
        self._values = read_json(self.file)
        self.kind = str(self._values.get("model_type"))
        self.family, self.name = self._class()
        part = self._values.get("vision_config") if self.kind in ("clip", "siglip", "siglip2") else self._values
        self._tower: Mapping[str, Any] = {**self.family.defaults, **(part if isinstance(part, dict) else {})}
        self.heads = self.count("num_attention_heads")
        self.eps = self.number("layer_norm_eps", 1e-12)
        self.processor: Processor = self._processor()
        self.labels = self._labels()
        self.problem_type = self._problem_type()
        self.image_size = self.processor.size if self.family.has_any_size else self._sides("image_size")
        self.dimensions = self._dimensions()
        self.activation = self._activation()

    @property
    def is_classifier(self) -> bool:
        """Whether it has a head for classes."""
        return "ForImageClassification" in self.name

    @property
    def has_teacher(self) -> bool:
        """Whether there are two heads, whose logits are averaged."""
        return self.name.endswith("WithTeacher")

    @property
    def has_gated_mlp(self) -> bool:
        """Whether a gate multiplies the first layer of every MLP."""
        return self.flag("use_gated_mlp" if self.kind == "dinov3_vit" else "use_swiglu_ffn", default=False)

    def flag(self, key: str, *, default: bool) -> bool:
        """A field that is true or false."""
        return bool(self._tower.get(key, default))

    def count(self, key: str, *, least: int = 1) -> int:
        """A whole number.

        Raises:
            ModelError: it is none, or below ``least``.
        """
        value = self._tower.get(key)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 1 << 20:
            raise ModelError(f"{self.file}: {key} = {value!r} is not a positive number.")
        return value

    def number(self, key: str, default: float) -> float:
        """A positive number.

        Raises:
            ModelError: it is none.
        """
        value = self._tower.get(key, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1 << 20:
            raise ModelError(f"{self.file}: {key} = {value!r} is not a positive number.")
        return float(value)

    def _class(self) -> tuple[Family, str]:
        """The family, and the class that was saved.

        Raises:
            ModelError: it cannot be opened.
        """
        family = FAMILIES.get(self.kind)
        names = self._values.get("architectures") or (family.architectures if family else ())
        name = str(names[0]) if isinstance(names, list | tuple) and names else str(names or None)
        if family is None or name not in family.architectures:
            raise ModelError(
                f"{self.file} is of a {name} (model_type {self.kind}), which cannot be opened here.\n"
                "Expected a ViT, DeiT, Dinov2, DINOv3ViT, or an image tower of CLIP or SigLIP, its Model or "
                "ForImageClassification; or a timm model."
            )
        return family, name

    def _processor(self) -> Processor:
        if "num_patches" in self._tower:
            sides = (self._side("patch_size") * math.isqrt(self.count("num_patches")),) * 2
        else:
            sides = self._sides("image_size")
        family, folder = self.family, self.file.parent
        is_fixed = not family.has_any_size
        return read_processor(folder, sides, family.processor, family.processor_name, is_fixed=is_fixed)

    def _dimensions(self) -> Dimensions:
        channels = self._tower.get("num_channels", 3)
        if channels != 3:
            raise ModelError(f"{self.file} is of a model for {channels} channels: three are needed.")
        width, patch = self.count("hidden_size"), self._side("patch_size")
        if min(self.image_size) < patch:
            raise ModelError(f"{self.file}: {min(self.image_size)} pixels are less than a patch of {patch} pixels.")
        if self.kind.startswith("dinov2"):
            mlp = int(width * self.number("mlp_ratio", 4))
            mlp = 2 * ((int(mlp * 2 / 3) + 7) // 8 * 8) if self.has_gated_mlp else mlp
        else:
            mlp = self.count("intermediate_size")
        prefix = 2 if self.kind == "deit" else 1
        grid = max(1, self.image_size[0] // patch)
        return Dimensions(width, self.count("num_hidden_layers"), mlp, patch, grid, prefix)

    def _labels(self) -> tuple[str, ...]:
        id2label = self._values.get("id2label")
        if not self.is_classifier or not isinstance(id2label, Mapping):
            return ()
        try:
            labels = {int(number): str(label) for number, label in id2label.items()}
        except ValueError:
            labels = {}
        if sorted(labels) != list(range(len(id2label))):
            raise ModelError(f"{self.file}: id2label does not number its classes 0, 1, 2 ...")
        return tuple(labels[number] for number in range(len(labels)))

    def _problem_type(self) -> str:
        """What the outputs are. One output without a word on it is a regression, as transformers trains it."""
        name = self._values.get("problem_type")
        if name is None:
            count = len(self.labels) or self._values.get("num_labels")
            return "regression" if count == 1 else "single_label_classification"
        if name not in PROBLEM_TYPES:
            raise ModelError(f"{self.file}: problem_type = {name!r} is not known; known: {', '.join(PROBLEM_TYPES)}.")
        return str(name)

    def _activation(self) -> str | None:
        name = self._tower.get("hidden_act", "gelu")
        if not isinstance(name, str) or name not in _ACTIVATIONS:
            raise ModelError(f"{self.file}: hidden_act = {name!r} is not known; known: {', '.join(_ACTIVATIONS)}.")
        return None if self.has_gated_mlp and self.kind.startswith("dinov2") else _ACTIVATIONS[name]

    def _side(self, key: str) -> int:
        """The side of a square, which may be written as two numbers."""
        value = self._tower.get(key)
        if isinstance(value, list) and len(value) == 2 and value[0] == value[1]:
            value = value[0]
        return self._whole(key, value)

    def _sides(self, key: str) -> tuple[int, int]:
        """Rows and columns; one number is both."""
        value = self._tower.get(key)
        if isinstance(value, list) and len(value) == 2:
            return self._whole(key, value[0]), self._whole(key, value[1])
        side = self._whole(key, value)
        return side, side

    def _whole(self, key: str, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 1 << 20:
            raise ModelError(f"{self.file}: {key} = {self._tower.get(key)!r} is not a positive number.")
        return value
