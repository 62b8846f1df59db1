"""Classifiers of the library transformers: ViT, DeiT and DINOv2 folders, read without it.

``config.json`` says the architecture and the labels, ``model.safetensors`` has the weights under the library's names
(those of its files, and those that its modules have since version 5).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from timm.data import resolve_data_config
from torch import Tensor
from torch.nn.functional import interpolate

from vitrine.config.preprocessing import RESIZE_FILTERS, ProcessorInput
from vitrine.errors import ModelError, error_summary
from vitrine.io.untrusted_files import read_json as read_json_file
from vitrine.models.checkpoints.base import (
    ConvertedCheckpoint,
    ModelDescription,
    convert_names,
    left_out_note,
    plan_names,
)
from vitrine.models.checkpoints.state_dict import StateDictFile
from vitrine.models.checkpoints.timm import Dimensions, input_cfg, plain_vit, size_args

PROCESSOR_FILE = "preprocessor_config.json"
TIMM_PROCESSOR = "TimmWrapperImageProcessor"
"""The image processor of transformers that lets timm prepare pictures; its settings stand in config.json."""

_FILTERS = {number: name for name, number in RESIZE_FILTERS.items()}
_BICUBIC = RESIZE_FILTERS["bicubic"]
_BY_SHORT_SIDE = ("Bit", "CLIP", "ConvNext")  # processors whose size, as one number, is the short side
_LARGEST_SIDE = 1 << 16  # pixels

PROCESSOR_DEFAULTS: Mapping[str, Any] = {
    "do_resize": True,
    "resample": _BICUBIC,
    "do_center_crop": False,
    "crop_size": None,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": (0.5,) * 3,
    "image_std": (0.5,) * 3,
}
"""What an image processor does where its file says nothing, by the file's keys; beside them stands ``size``."""


@dataclass(frozen=True)
class Processor:
    """How an image processor of transformers prepares a picture.

    Attributes:
        size: side of the square that the model sees, in pixels.
        crop: share of the resized picture that is kept.
        mean, std: per channel, on a 0-to-1 scale.
        crop_mode: center where the short side is resized, squash where the whole picture becomes a square.
        interpolation: timm's name of the resize filter.
        notes: sentences on what the folder does not say.
    """

    size: int
    crop: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop_mode: str = "center"
    interpolation: str = "bicubic"
    notes: tuple[str, ...] = ()

    @property
    def cfg(self) -> dict[str, Any]:
        """All but the size, as timm's configurations name it."""
        resize = {"crop_pct": self.crop, "crop_mode": self.crop_mode, "interpolation": self.interpolation}
        return {**resize, **self.normalisation}

    @property
    def normalisation(self) -> dict[str, Any]:
        """``mean`` and ``std`` as timm's configurations name them."""
        return {"mean": self.mean, "std": self.std}


def read_json(file: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        ModelError: the file cannot be read, or holds something else.
    """
    try:
        return read_json_file(file, dict[str, Any])
    except (OSError, ValueError) as error:
        raise ModelError(f"{file} cannot be read as a JSON object ({error_summary(error, 120)}).") from error


def read_processor(folder: Path, size: int) -> Processor:
    """The image processor of a folder; where it has none, mean 0.5 and std 0.5, with a note that says so.

    Args:
        folder: with preprocessor_config.json.
        size: the configuration's image size, in pixels.

    Raises:
        ModelError: the file is damaged.
    """
    timm_processor = _read_timm_processor(folder / "config.json")
    if timm_processor is not None:
        return timm_processor
    if not (folder / PROCESSOR_FILE).is_file():
        how = "pictures are normalised with mean 0.5 and std 0.5, as ViTImageProcessor does"
        note = f"There is no {PROCESSOR_FILE}: {how}."
        return Processor(size, 1.0, (0.5,) * 3, (0.5,) * 3, notes=(note,))
    file = folder / PROCESSOR_FILE
    values = read_json(file)
    kind = str(values.get("image_processor_type", values.get("feature_extractor_type", "")))
    if not values.get("do_resize", True):
        values |= {"do_resize": True, "size": {"shortest_edge": size}, "resample": _BICUBIC}
    defaults = {**PROCESSOR_DEFAULTS, "size": size}
    spec = processor_input(values, file, defaults, is_square=not kind.startswith(_BY_SHORT_SIDE))
    short_side, is_squeezed = _square_side(spec.resize, file), not isinstance(spec.resize, int)
    crop = short_side if spec.crop is None else _square_side(spec.crop, file)
    if spec.resample not in _FILTERS:
        raise ModelError(f"{file}: resample = {spec.resample} is not one of Pillow's filters, 0 to {max(_FILTERS)}.")
    mean, std, scale = spec.mean, spec.std, 255 * spec.rescale
    if abs(scale - 1) >= 1e-6:  # not 1/255, as files round it: mean and std are for another scale than 0 to 1
        mean, std = tuple(v / scale for v in mean), tuple(v / scale for v in std)
    crop_mode, interpolation = "squash" if is_squeezed else "center", _FILTERS[spec.resample]
    return Processor(min(crop, short_side), min(1.0, crop / short_side), mean, std, crop_mode, interpolation)


def _read_timm_processor(file: Path) -> Processor | None:
    """The processor that a folder's config.json asks timm for; None where it asks for none.

    Raises:
        ModelError: it does not say how pictures are prepared.
    """
    values = read_json(file) if file.is_file() else {}
    if values.get("image_processor_type") != TIMM_PROCESSOR:
        return None
    cfg = values.get("pretrained_cfg")
    try:
        cfg = resolve_data_config(pretrained_cfg=cfg)
        side, mean, std = int(cfg["input_size"][-1]), tuple(map(float, cfg["mean"])), tuple(map(float, cfg["std"]))
        return Processor(side, float(cfg["crop_pct"]), mean, std, str(cfg["crop_mode"]), str(cfg["interpolation"]))
    except (AssertionError, AttributeError, TypeError, ValueError, LookupError) as error:
        raise ModelError(f"{file}: pretrained_cfg does not say how pictures are prepared ({error}).") from error


def processor_input(
    values: Mapping[str, Any], file: Path, defaults: Mapping[str, Any], *, is_square: bool
) -> ProcessorInput:
    """What an image processor does to a picture, from the content of its preprocessor_config.json.

    Args:
        values: the content.
        file: where it is from, for messages.
        defaults: what the processor does where the content says nothing, or null; see :data:`PROCESSOR_DEFAULTS`.
        is_square: whether a size that is one number is both sides of the picture; else it is the short side.

    Raises:
        ModelError: a value cannot be used, or the processor does not resize pictures.
    """
    values = {key: default if values.get(key) is None else values[key] for key, default in defaults.items()}
    if not values["do_resize"]:
        raise ModelError(f"{file} does not say how pictures are prepared: it does not resize them.")
    try:
        resample, rescale = int(values["resample"]), float(values["rescale_factor"]) if values["do_rescale"] else 1.0
        mean: tuple[float, ...] = (0.0,) * 3
        std: tuple[float, ...] = (1.0,) * 3
        if values["do_normalize"]:
            mean, std = (tuple(map(float, values[f"image_{what}"])) for what in ("mean", "std"))
        if len(mean) != 3 or len(std) != 3 or min(std) <= 0 or rescale <= 0:
            raise ValueError("expected three numbers each")
    except (TypeError, ValueError, OverflowError) as error:
        names = "resample, image_mean, image_std or rescale_factor"
        raise ModelError(f"{file}: {names} cannot be used ({error}).") from error
    crop = None
    if values["do_center_crop"] and values["crop_size"] is not None:
        crop = _read_size(values["crop_size"], file, is_square=True)
    return ProcessorInput(
        resize=_read_size(values["size"], file, is_square=is_square),
        crop=(crop, crop) if isinstance(crop, int) else crop,
        resample=resample,
        rescale=rescale,
        mean=mean,
        std=std,
    )


def _read_size(value: Any, file: Path, *, is_square: bool) -> tuple[int, int] | int:
    """(rows, columns) in pixels, or one number, of the short side; ``is_square`` says what one number alone means."""
    sides: list[Any] = list(value) if isinstance(value, list | tuple) else [value]
    if isinstance(value, Mapping):
        sides = [value.get("height"), value.get("width")]
        if sides == [None, None] and value.get("longest_edge") is None:
            sides, is_square = [value.get("shortest_edge")], False
    is_usable = all(type(side) is int and 0 < side < _LARGEST_SIDE for side in sides)
    if len(sides) == 1 and is_usable:
        return (sides[0], sides[0]) if is_square else sides[0]
    if len(sides) != 2 or not is_usable:
        raise _unusable_size(file)
    return sides[0], sides[1]


def _square_side(size: tuple[int, int] | int, file: Path) -> int:
    """The side of a square, or the short side."""
    if isinstance(size, int):
        return size
    if size[0] != size[1]:
        raise _unusable_size(file)
    return size[0]


def _unusable_size(file: Path) -> ModelError:
    return ModelError(
        f"{file} does not say how pictures are prepared: it has a size of pictures that cannot be used.\n"
        "Expected a square of pixels, or the short side."
    )


_PREFIX = r"^(?:vit|deit|dinov2)\."
_RENAMES = (
    (_PREFIX, ""),
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^(?:encoder\.layer|encoder\.layers|layers)\.(\d+)\.", r"blocks.\1."),
    (r"^(blocks\.\d+)\.attention\.attention\.([qkv])(?:uery|ey|alue)\.", r"\1.attn.\2."),
    (r"^(blocks\.\d+)\.attention\.([qkv])_proj\.", r"\1.attn.\2."),
    (r"^(blocks\.\d+)\.attention\.(?:output\.dense|o_proj)\.", r"\1.attn.proj."),
    (r"^(blocks\.\d+)\.(?:intermediate\.dense|mlp\.weights_in)\.", r"\1.mlp.fc1."),
    (r"^(blocks\.\d+)\.(?:output\.dense|mlp\.weights_out|mlp\.down_proj)\.", r"\1.mlp.fc2."),
    (r"^(blocks\.\d+)\.mlp\.(gate|up)_proj\.", r"\1.mlp.\2."),
    (r"^(blocks\.\d+)\.layernorm_before\.", r"\1.norm1."),
    (r"^(blocks\.\d+)\.layernorm_after\.", r"\1.norm2."),
    (r"^(blocks\.\d+)\.layer_scale([12])\.lambda1$", r"\1.ls\2.gamma"),
    (r"^layernorm\.", "norm."),
    (r"^(?:classifier|cls_classifier)\.", "head."),
    (r"^distillation_classifier\.", "head_dist."),
)
_UNUSED = r"((vit|deit|dinov2)\.)?(embeddings\.mask_token|pooler\.dense\.(weight|bias))"
_KINDS = {"vit": "ViT", "deit": "DeiT", "dinov2": "Dinov2"}
_ENDINGS = ("ForImageClassification", "ForImageClassificationWithTeacher", "Model")
PROBLEM_TYPES = ("single_label_classification", "multi_label_classification", "regression")
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


def is_transformers(file: StateDictFile) -> bool:
    """Whether the tensors have transformers' names."""
    return any(name.endswith("embeddings.patch_embeddings.projection.weight") for name in file.shapes)


def convert_transformers(file: StateDictFile) -> ConvertedCheckpoint:
    """Weights under transformers' names; what only the configuration says is read from the file's own folder.

    Raises:
        ModelError: the configuration beside them cannot be used.
    """
    has_teacher = any(name.startswith("distillation_classifier.") for name in file.shapes)
    token = (r"^embeddings\.distillation_token$", "dist_token" if has_teacher else "reg_token")
    plan = plan_names(file, (*_RENAMES, token), _UNUSED)
    config = _Config(file.path.parent) if is_transformers_config(file.path.parent) else None
    checkpoint = convert_names(
        "transformers",
        file,
        plan,
        eps=config.eps if config else None,
        cfg=config.processor.normalisation if config else {},
        resample_positions=_resample_positions if "blocks.0.ls1.gamma" in plan.sources else None,
        notes=left_out_note(plan.left_out, "no classifier uses it"),
    )
    kernel = checkpoint.shapes.get("patch_embed.proj.weight", ())
    head = checkpoint.shapes.get("head.weight", ())
    reads_mean = kernel and len(head) == 2 and head[1] == 2 * kernel[0]
    checkpoint = replace(checkpoint, problem_type=config.problem_type if config else None)
    return replace(checkpoint, readout="class and mean") if reads_mean else checkpoint


def _resample_positions(positions_1ND: Tensor, grid: int) -> Tensor:
    """Position embeddings on another grid as Dinov2Embeddings does: bicubic, without antialiasing."""
    side = round((positions_1ND.shape[1] - 1) ** 0.5)
    patches_1DRC = positions_1ND[:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2).float()
    resized_1DRC = interpolate(patches_1DRC, size=(grid, grid), mode="bicubic", align_corners=False)
    flat_1ND = resized_1DRC.permute(0, 2, 3, 1).flatten(1, 2)
    result_1ND: Tensor = positions_1ND.new_empty(1, 1 + grid * grid, positions_1ND.shape[2])
    result_1ND[:, :1], result_1ND[:, 1:] = positions_1ND[:, :1], flat_1ND
    return result_1ND


def describe_transformers(folder: Path) -> ModelDescription:
    """The timm model of a folder that ``save_pretrained`` wrote.

    Raises:
        ModelError: it is of another kind than ViT, DeiT or DINOv2, or its configuration is damaged.
    """
    config = _Config(folder)
    size = config.dimensions
    if config.kind == "dinov2":
        name, args = _dinov2(config, size)
    else:
        name, args, _ = plain_vit(size, folder, heads=config.heads)
        args = {"img_size": size.image, **args}
        if config.kind == "deit" and config.has_teacher:
            deit = name.replace("vit_", "deit_").replace("_patch", "_distilled_patch")
            name = deit if deit in _DISTILLED else "deit_base_distilled_patch16_224"
            args |= size_args(size, config.heads)
        elif config.kind == "deit":
            args["reg_tokens"] = 1  # the distillation token, which the head does not read
    args |= {} if config.qkv_bias else {"qkv_bias": False}
    args |= {"act_layer": config.activation} if config.activation else {}
    processor = config.processor
    cfg = input_cfg(size, len(config.labels), **processor.cfg)
    if config.labels:
        cfg["label_names"] = config.labels
    if config.has_teacher:
        cfg["classifier"] = ("head", "head_dist")
    return ModelDescription(name, args, cfg, processor.notes, config.problem_type)


_DISTILLED = tuple(f"deit_{size}_distilled_patch16_224" for size in ("tiny", "small", "base"))


def _dinov2(config: _Config, size: Dimensions) -> tuple[str, dict[str, Any]]:
    """DINOv2's model: its blocks have layer scale, and in the giant one a gated MLP."""
    names = {(384, 12, 6): "small", (768, 12, 12): "base", (1024, 24, 16): "large", (1536, 40, 24): "giant"}
    word = names.get((size.width, size.depth, config.heads))
    gated = "giant" if config.has_gated_mlp else None
    usual = size.mlp == (8192 if gated else 4 * size.width) and size.patch == 14
    if word and usual and (word == "giant") == bool(gated):
        return f"vit_{word}_patch14_dinov2", {"img_size": size.image}
    return f"vit_{gated or 'base'}_patch14_dinov2", size_args(size, config.heads)


class _Config:
    """config.json and preprocessor_config.json of one folder, checked as they are read."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "config.json"
        self.values = read_json(self.file)
        self.kind = str(self.values.get("model_type"))
        names = self.values.get("architectures") or [f"{_KINDS.get(self.kind)}ForImageClassification"]
        self.name = str(names[0]) if isinstance(names, list) and names else str(names)
        architectures = [_KINDS[self.kind] + ending for ending in _ENDINGS] if self.kind in _KINDS else []
        if self.name not in architectures or (self.has_teacher and self.kind != "deit"):
            raise ModelError(
                f"{self.file} is of a {self.name} (model_type {self.kind}), which cannot be opened here.\n"
                "Expected a ViT, DeiT or Dinov2 ForImageClassification, or a timm model."
            )
        self.heads = self._count("num_attention_heads")
        self.qkv_bias = self.values.get("qkv_bias", True) is not False
        self.has_gated_mlp = self.values.get("use_swiglu_ffn") is True
        self.eps = self._number("layer_norm_eps", 1e-6 if self.kind == "dinov2" else 1e-12)
        self.processor: Processor = read_processor(folder, self._count("image_size", square=True))
        self.labels = self._labels()
        self.problem_type = self._problem_type()
        self.dimensions = self._dimensions()
        self.activation = self._activation()

    @property
    def has_teacher(self) -> bool:
        """Whether there are two heads, whose logits are averaged."""
        return self.name.endswith("WithTeacher")

    def _dimensions(self) -> Dimensions:
        if self.values.get("num_channels", 3) != 3:
            raise ModelError(f"{self.file} is of a model for {self.values['num_channels']} channels: three are needed.")
        width, patch = self._count("hidden_size"), self._count("patch_size", square=True)
        # A DINOv2 takes pictures of any size; its processor says which one it was made for.
        size = self.processor.size if self.kind == "dinov2" else self._count("image_size", square=True)
        if size % patch and self.kind != "dinov2":
            raise ModelError(f"{self.file}: {size} pixels cannot be cut into patches of {patch} pixels.")
        if self.kind == "dinov2":
            mlp = int(width * self._number("mlp_ratio", 4))
            mlp = 2 * ((int(mlp * 2 / 3) + 7) // 8 * 8) if self.has_gated_mlp else mlp
        else:
            mlp = self._count("intermediate_size")
        prefix = 2 if self.kind == "deit" else 1
        return Dimensions(width, self._count("num_hidden_layers"), mlp, patch, max(1, size // patch), prefix)

    def _labels(self) -> tuple[str, ...]:
        if self.name.endswith("Model"):
            return ()
        id2label = self.values.get("id2label")
        if not isinstance(id2label, Mapping):
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
        name = self.values.get("problem_type")
        if name is None:
            count = len(self.labels) or self.values.get("num_labels")
            return "regression" if count == 1 else "single_label_classification"
        if name not in PROBLEM_TYPES:
            raise ModelError(f"{self.file}: problem_type = {name!r} is not known; known: {', '.join(PROBLEM_TYPES)}.")
        return str(name)

    def _activation(self) -> str | None:
        name = self.values.get("hidden_act", "gelu")
        if not isinstance(name, str) or name not in _ACTIVATIONS:
            raise ModelError(f"{self.file}: hidden_act = {name!r} is not known; known: {', '.join(_ACTIVATIONS)}.")
        return None if self.has_gated_mlp else _ACTIVATIONS[name]

    def _count(self, key: str, *, square: bool = False) -> int:
        value = self.values.get(key)
        if square and isinstance(value, list) and len(value) == 2 and value[0] == value[1]:
            value = value[0]
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 1 << 20:
            raise ModelError(f"{self.file}: {key} = {value!r} is not a positive number.")
        return value

    def _number(self, key: str, default: float) -> float:
        value = self.values.get(key, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1 << 20:
            raise ModelError(f"{self.file}: {key} = {value!r} is not a positive number.")
        return float(value)
