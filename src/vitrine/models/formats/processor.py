"""How an image processor of transformers prepares pictures, in the terms that vitrine prepares them in."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitrine.errors import ModelError

FILE = "preprocessor_config.json"
_BYTE = 1 / 255
_NAMED = {0: "to the nearest pixel", 1: "with Lanczos' filter", 2: "bilinearly", 4: "with a box filter", 5: "Hamming"}
_BICUBIC = 3
_BY_SHORT_SIDE = ("Bit", "CLIP", "ConvNext")  # processors whose size, as one number, is the short side


@dataclass(frozen=True)
class Processor:
    """What a processor does to a picture.

    Attributes:
        size: side of the square that the model sees, in pixels.
        crop: share of the resized short side that is kept.
        mean, std: per channel, on a 0-to-1 scale.
        notes: sentences on what is done otherwise here.
    """

    size: int
    crop: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    notes: tuple[str, ...] = ()

    @property
    def normalisation(self) -> dict[str, Any]:
        """In timm's words."""
        return {"mean": self.mean, "std": self.std}


def read_json(file: Path) -> dict[str, Any]:
    """An object from a JSON file.

    Raises:
        ModelError: there is none.
    """
    try:
        content = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{file} cannot be read ({type(error).__name__}: {str(error)[:120]}).") from error
    if not isinstance(content, dict):
        raise ModelError(f"{file} holds a {type(content).__name__}; expected a JSON object.")
    return content


def read_processor(folder: Path, size: int) -> Processor:
    """The image processor of a folder; without one, ViTImageProcessor's defaults, which is said.

    Args:
        folder: with preprocessor_config.json.
        size: the configuration's image size, in pixels.

    Raises:
        ModelError: the file is damaged.
    """
    if not (folder / FILE).is_file():
        note = f"There is no {FILE}: pictures are normalised with mean 0.5 and std 0.5, as ViTImageProcessor does."
        return Processor(size, 1.0, (0.5,) * 3, (0.5,) * 3, (note,))
    file = folder / FILE
    values = read_json(file)
    mean, std = _normalisation(values, file)
    resized, squeezed = _resize(values, size, file)
    cropped = _side(values["crop_size"], file)[0] if values.get("do_center_crop") and "crop_size" in values else resized
    differences = []
    if squeezed:
        differences.append("squeezes the whole picture into a square, where here its middle square is cut out")
    resample = values.get("resample", _BICUBIC)
    if resample != _BICUBIC and values.get("do_resize", True):
        named = _NAMED.get(resample, str(resample)) if isinstance(resample, int) else str(resample)
        differences.append(f"resizes {named}, where here it is done bicubically")
    notes: tuple[str, ...] = ()
    if differences:
        notes = (f"The image processor of transformers {', and '.join(differences)}: answers can differ a little.",)
    return Processor(min(cropped, resized), min(1.0, cropped / resized), mean, std, notes)


def _normalisation(values: Mapping[str, Any], file: Path) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std for pixels from 0 to 1, whatever the processor's own scale is."""
    try:
        scale = 255 * float(values.get("rescale_factor", _BYTE)) if values.get("do_rescale", True) else 255.0
        mean: tuple[float, ...] = (0.0,) * 3
        std: tuple[float, ...] = (1.0,) * 3
        if values.get("do_normalize", True):
            mean, std = (tuple(float(v) for v in values.get(f"image_{what}", (0.5,) * 3)) for what in ("mean", "std"))
        if len(mean) != 3 or len(std) != 3 or min(std) <= 0 or scale <= 0:
            raise ValueError("expected three numbers each")
    except (TypeError, ValueError, OverflowError) as error:
        raise ModelError(f"{file}: image_mean, image_std or rescale_factor cannot be used ({error}).") from error
    if abs(scale - 1) < 1e-6:  # 1/255, as files round it
        return mean, std
    return tuple(v / scale for v in mean), tuple(v / scale for v in std)


def _resize(values: Mapping[str, Any], size: int, file: Path) -> tuple[int, bool]:
    """The short side after the resize, and whether the picture becomes a square by it."""
    if not values.get("do_resize", True):
        return size, False
    wanted = values.get("size", size)
    if isinstance(wanted, int):
        kind = str(values.get("image_processor_type", values.get("feature_extractor_type", "")))
        return _side(wanted, file)[0], not kind.startswith(_BY_SHORT_SIDE)
    return _side(wanted, file)


def _side(wanted: Any, file: Path) -> tuple[int, bool]:
    """Pixels of a size that is one number, an edge, or height and width; and whether it is the last."""
    squeezed = False
    if isinstance(wanted, Mapping):
        squeezed = "height" in wanted
        if squeezed and wanted.get("height") != wanted.get("width"):
            wanted = None  # not a square
        else:
            wanted = wanted.get("height", wanted.get("shortest_edge"))
    if isinstance(wanted, bool) or not isinstance(wanted, int) or not 0 < wanted < 1 << 16:
        raise ModelError(f"{file} says a size of pictures that cannot be used; expected a square of pixels.")
    return wanted, squeezed
