"""Image processors of transformers: how a folder's ``preprocessor_config.json`` says that pictures are prepared."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from timm.data import resolve_data_config

from vitrine.config.preprocessing import RESIZE_FILTERS, ProcessorInput
from vitrine.errors import ModelError, error_summary
from vitrine.io.limits import limit
from vitrine.io.untrusted_files import read_json as read_json_file

PROCESSOR_FILE = "preprocessor_config.json"
WHOLE_PROCESSOR_FILE = "processor_config.json"
"""Where version 5 of transformers writes the image processor beside a tokenizer, under ``image_processor``."""

TIMM_PROCESSOR = "TimmWrapperImageProcessor"
"""The image processor of transformers that lets timm prepare pictures; its settings stand in config.json."""

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)

_FILTERS = {number: name for name, number in RESIZE_FILTERS.items()}
_BICUBIC, _BILINEAR = RESIZE_FILTERS["bicubic"], RESIZE_FILTERS["bilinear"]
_BY_SHORT_SIDE = ("Bit", "CLIP", "ConvNext")  # processors whose size, as one number, is the short side
MAX_SIDE = limit("MAX_SIDE", 1 << 16)
"""Pixels a side of a picture, as a configuration of transformers asks for."""

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

_SHORT_SIDE_DEFAULTS = {
    "size": {"shortest_edge": 224}, "do_center_crop": True, "crop_size": 224,
    "image_mean": CLIP_MEAN, "image_std": CLIP_STD,
}  # fmt: skip
_DEFAULTS_BY_NAME: Mapping[str, Mapping[str, Any]] = {
    "BitImageProcessor": _SHORT_SIDE_DEFAULTS,
    "CLIPImageProcessor": _SHORT_SIDE_DEFAULTS,
    "DeiTImageProcessor": {"size": 256, "do_center_crop": True, "crop_size": 224},
    "DINOv3ViTImageProcessor": {
        "size": 224, "resample": _BILINEAR, "image_mean": IMAGENET_MEAN, "image_std": IMAGENET_STD,
    },
    "SiglipImageProcessor": {"size": 224},
    "Siglip2ImageProcessor": {"resample": _BILINEAR},
    "ViTImageProcessor": {"size": 224, "resample": _BILINEAR},
}  # fmt: skip
"""Where a processor's own settings differ from :data:`PROCESSOR_DEFAULTS`."""

_NAFLEX_PATCHES, _NAFLEX_PATCH = 256, 16  # of Siglip2ImageProcessor, where its file says nothing


@dataclass(frozen=True)
class Processor:
    """How an image processor of transformers prepares a picture.

    Attributes:
        size: rows and columns that the model sees, in pixels.
        crop: share of the resized picture that is kept.
        mean, std: per channel, on a 0-to-1 scale.
        crop_mode: center where the short side is resized, squash where the whole picture becomes a square.
        interpolation: timm's name of the resize filter.
        notes: sentences on what the folder does not say.
    """

    size: tuple[int, int]
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


def read_processor(
    folder: Path, size: tuple[int, int], usual: Processor, usual_name: str, *, is_fixed: bool = True
) -> Processor:
    """The image processor of a folder; where it has none, the usual one of such models, with a note that says so.

    Args:
        folder: with preprocessor_config.json, or processor_config.json.
        size: rows and columns that the configuration states, in pixels.
        usual: how such models' pictures are prepared where the folder does not say it.
        usual_name: the class that does so.
        is_fixed: whether the model takes pictures of this shape alone.

    Raises:
        ModelError: the file is damaged, or prepares pictures of another shape.
    """
    timm_processor = _read_timm_processor(folder / "config.json")
    if timm_processor is not None:
        return timm_processor
    file, values = _processor_values(folder)
    if file is None:
        normalisation = f"mean {_numbers(usual.mean)} and std {_numbers(usual.std)}"
        how = f"pictures are normalised with {normalisation}, as {usual_name} does"
        others = (_naflex_note(size[0], "the model's number of"),) if usual_name == "Siglip2ImageProcessor" else ()
        return replace(usual, size=size, notes=(f"There is no {PROCESSOR_FILE}: {how}.", *others))
    name = _class_name(values)
    if not values.get("do_resize", True):
        values |= {"do_resize": True, "size": {"height": size[0], "width": size[1]}, "resample": _BICUBIC}
        values |= {"size": {"shortest_edge": size[0]}} if size[0] == size[1] else {}
    notes: tuple[str, ...] = ()
    if name == "Siglip2ImageProcessor":
        values, notes = _naflex_square(values, file)
    defaults = {**PROCESSOR_DEFAULTS, "size": {"height": size[0], "width": size[1]}, **_DEFAULTS_BY_NAME.get(name, {})}
    spec = processor_input(values, file, defaults, is_square=not name.startswith(_BY_SHORT_SIDE))
    if spec.resample not in _FILTERS:
        raise ModelError(f"{file}: resample = {spec.resample} is not one of Pillow's filters, 0 to {max(_FILTERS)}.")
    sides, crop = _sides_and_crop(spec, file)
    if is_fixed and sides[0] * size[1] != sides[1] * size[0]:
        raise _unusable_size(file)
    mean, std, scale = spec.mean, spec.std, 255 * spec.rescale
    if abs(scale - 1) >= 1e-6:  # not 1/255, as files round it: mean and std are for another scale than 0 to 1
        mean, std = tuple(v / scale for v in mean), tuple(v / scale for v in std)
    crop_mode = "center" if isinstance(spec.resize, int) else "squash"
    return Processor(sides, crop, mean, std, crop_mode, _FILTERS[spec.resample], notes)


def _numbers(values: Sequence[float]) -> str:
    """Three numbers, or the one that they all are."""
    return ", ".join(f"{value:.3g}" for value in (values if len(set(values)) > 1 else values[:1]))


def _processor_values(folder: Path) -> tuple[Path | None, dict[str, Any]]:
    """The file that describes an image processor, and what it says of it."""
    if (folder / PROCESSOR_FILE).is_file():
        return folder / PROCESSOR_FILE, read_json(folder / PROCESSOR_FILE)
    whole = folder / WHOLE_PROCESSOR_FILE
    values = read_json(whole).get("image_processor") if whole.is_file() else None
    return (whole, values) if isinstance(values, dict) else (None, {})


def _class_name(values: Mapping[str, Any]) -> str:
    """The processor's class, whichever of its backends and years: CLIPFeatureExtractor is CLIPImageProcessor."""
    name = str(values.get("image_processor_type", values.get("feature_extractor_type", "")))
    return name.removesuffix("Fast").removesuffix("Pil").replace("FeatureExtractor", "ImageProcessor")


def _naflex_square(values: Mapping[str, Any], file: Path) -> tuple[dict[str, Any], tuple[str, ...]]:
    """A NaFlex processor's settings with the size that it gives square pictures, and how it treats others."""
    patches, patch = (
        default if values.get(key) is None else values[key]
        for key, default in (("max_num_patches", _NAFLEX_PATCHES), ("patch_size", _NAFLEX_PATCH))
    )
    if any(type(number) is not int or not 0 < number < MAX_SIDE for number in (patches, patch)):
        raise _unusable_size(file)
    side = patch * math.isqrt(patches)
    return {**values, "size": {"height": side, "width": side}}, (_naflex_note(side, f"up to {patches}"),)


def _naflex_note(side: int, patches: str) -> str:
    return (
        f"Pictures are squeezed into a square of {side} x {side} pixels. Siglip2ImageProcessor (NaFlex) keeps their "
        f"shape, with {patches} patches: the answers of both are the same for square "
        f"pictures only."
    )


def _sides_and_crop(spec: ProcessorInput, file: Path) -> tuple[tuple[int, int], float]:
    """Rows and columns that the model sees, and their share of the resized picture.

    Raises:
        ModelError: what is cut out has another shape than what it is cut from.
    """
    resize = (spec.resize, spec.resize) if isinstance(spec.resize, int) else spec.resize
    crop = spec.crop or resize
    if crop[0] * resize[1] != crop[1] * resize[0]:
        raise _unusable_size(file)
    share = min(1.0, crop[0] / resize[0])
    if math.floor(crop[0] / share) < resize[0] and share < 1:  # timm would resize to a pixel less: 224 / (224 / 400)
        share = math.nextafter(share, 0)
    return (min(crop[0], resize[0]), min(crop[1], resize[1])), share


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
        size = (int(cfg["input_size"][-2]), int(cfg["input_size"][-1]))
        mean, std = tuple(map(float, cfg["mean"])), tuple(map(float, cfg["std"]))
        return Processor(size, float(cfg["crop_pct"]), mean, std, str(cfg["crop_mode"]), str(cfg["interpolation"]))
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
    is_usable = all(type(side) is int and 0 < side < MAX_SIDE for side in sides)
    if len(sides) == 1 and is_usable:
        return (sides[0], sides[0]) if is_square else sides[0]
    if len(sides) != 2 or not is_usable:
        raise _unusable_size(file)
    return sides[0], sides[1]


def _unusable_size(file: Path) -> ModelError:
    return ModelError(
        f"{file} does not say how pictures are prepared: it has a size of pictures that cannot be used.\n"
        "Expected rows and columns of the shape that the model takes, or the short side of a square."
    )
