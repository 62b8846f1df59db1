"""How pictures are prepared for a captioner of transformers, read from its image processor's file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitrine.errors import ModelError
from vitrine.models.formats.processor import read_json

_PROCESSORS = (
    "BeitImageProcessor",
    "BlipImageProcessor",
    "CLIPImageProcessor",
    "DeiTImageProcessor",
    "ViTImageProcessor",
)


@dataclass(frozen=True)
class ImageSettings:
    """Plain settings; :class:`vitrine.data.processor_transform.ProcessorTransform` has the same fields and does it.

    Attributes:
        resize: (rows, columns) in pixels, whatever the picture's shape; or one number, of the short side, which keeps
            the shape.
        crop: (rows, columns) in pixels of the centre that is cut out afterwards; None cuts nothing.
        resample: Pillow's number of the filter: 2 bilinear, 3 bicubic.
        rescale: what values from 0 to 255 are multiplied by.
        mean, std: of red, green and blue, subtracted and divided by after that.
    """

    resize: tuple[int, int] | int
    crop: tuple[int, int] | None
    resample: int
    rescale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def size(self) -> tuple[int, int] | None:
        """(rows, columns) of what comes out; None where that depends on the picture."""
        return self.crop or (None if isinstance(self.resize, int) else self.resize)


def read_image_settings(library: Any, path: Path, wanted: tuple[int, int]) -> ImageSettings:
    """Read a preprocessor_config.json or a processor_config.json; what it leaves out is as the library has it.

    Args:
        library: transformers.
        path: of the file.
        wanted: (rows, columns) in pixels that the model takes.

    Raises:
        ModelError: an image processor of another kind, or one that gives pictures of another size.
    """
    content = read_json(path)
    content = content.get("image_processor") or content
    named = str(content.get("image_processor_type") or content.get("feature_extractor_type"))
    name = named.removesuffix("Fast").removesuffix("Pil").replace("FeatureExtractor", "ImageProcessor")
    if name not in _PROCESSORS:
        raise ModelError(
            f"{path} prepares pictures by {named}, which is not known here.\n"
            f"Expected one of these image processors of transformers: {', '.join(_PROCESSORS)}."
        )
    try:
        processor = getattr(library, f"{name}Pil").from_dict(content)
        settings = _settings(processor)
    except (TypeError, ValueError, KeyError) as error:
        raise ModelError(f"{path} does not say how pictures are prepared: {_one_line(error)}.") from error
    smallest = settings.resize if isinstance(settings.resize, int) else min(settings.resize)
    if settings.size != wanted or (settings.crop and smallest < max(settings.crop)):
        raise ModelError(
            f"{path} prepares pictures of {_pixels(settings.size)}; the model takes {_pixels(wanted)}.\n"
            "Give the preprocessor_config.json that belongs to these weights."
        )
    return settings


def _settings(processor: Any) -> ImageSettings:
    if not processor.do_resize:
        raise ValueError("it does not resize them")
    if getattr(processor, "do_pad", None):
        raise ValueError("it pads them")
    size, crop = processor.size, processor.crop_size
    if size.shortest_edge and not size.longest_edge:
        resize: tuple[int, int] | int = int(size.shortest_edge)
    elif size.height and size.width:
        resize = (int(size.height), int(size.width))
    else:
        raise ValueError(f"it resizes them to {dict(size)}")
    normalises = processor.do_normalize
    return ImageSettings(
        resize=resize,
        crop=(int(crop.height), int(crop.width)) if processor.do_center_crop else None,
        resample=int(processor.resample),
        rescale=float(processor.rescale_factor) if processor.do_rescale else 1.0,
        mean=tuple(map(float, processor.image_mean)) if normalises else (0.0,) * 3,
        std=tuple(map(float, processor.image_std)) if normalises else (1.0,) * 3,
    )


def _pixels(size: tuple[int, int] | None) -> str:
    return f"{size[0]} x {size[1]} pixels" if size else "different sizes"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:160].rstrip(".") or type(error).__name__
