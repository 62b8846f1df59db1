"""How pictures are prepared for a model: settings that a model states and that a transform of its input carries out.

Normalisation is ``(value - mean) / std`` per channel (red, green, blue), on a scale from 0 to 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

CROP_MODES = ("center", "squash", "border")
"""How a picture comes to the shape of the input (timm's crop_mode): see :class:`InputSpec`."""

RESIZE_FILTERS = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3, "box": 4, "hamming": 5}
"""Resize filters by timm's names of them (its interpolation), with Pillow's numbers."""


@dataclass(frozen=True)
class InputSpec:
    """The input of a classifier, in the terms of timm's ``resolve_model_data_config``.

    The picture is resized to the input's size divided by ``crop``, and the centre of the result is cut out. How it is
    resized is ``crop_mode``: ``center`` keeps its shape and fills the input, so that what is too long is cut off;
    ``squash`` takes the whole picture to the input's shape; ``border`` keeps its shape and all of it (with ``crop`` 1),
    with borders in the mean colour.

    Attributes:
        size: rows and columns, in pixels.
        mean, std: normalisation per channel.
        crop: share of the resized picture that is kept (timm's crop_pct); above 1 a black border stays around it.
        crop_mode: one of :data:`CROP_MODES`.
        interpolation: one of :data:`RESIZE_FILTERS`; all but nearest are antialiased.
    """

    size: tuple[int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    crop: float
    crop_mode: str = "center"
    interpolation: str = "bicubic"

    @property
    def border_colour(self) -> tuple[int, int, int]:
        """What surrounds a picture that does not fill the input: red, green, blue, 0 to 255."""
        if self.crop_mode != "border":
            return 0, 0, 0
        red, green, blue = (round(255 * value) for value in self.mean)
        return red, green, blue

    def to_timm(self) -> dict[str, Any]:
        """As timm's configurations have it: what ``timm.data.create_transform`` takes."""
        return {
            "input_size": (3, *self.size),
            "interpolation": self.interpolation,
            "mean": self.mean,
            "std": self.std,
            "crop_pct": self.crop,
            "crop_mode": self.crop_mode,
        }


@dataclass(frozen=True)
class CaptionInput:
    """The input of a captioner that vitrine builds: the whole picture, resized to a fixed long side.

    The defaults are those of the published captioner (CATR v1 to v3).

    Attributes:
        long_side: in pixels.
        multiple: both sides are rounded to multiples of it, such as the patch of a vision transformer; 1 is any size.
        mean, std: normalisation per channel.
    """

    long_side: int = 299
    multiple: int = 1
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            object.__setattr__(self, name, tuple(getattr(self, name)))  # JSON has lists only


@dataclass(frozen=True)
class ProcessorInput:
    """The input of a captioner of transformers, as the settings of its image processor state it.

    Attributes:
        resize: (rows, columns) in pixels, whatever the picture's shape; or one number, of the short side, which keeps
            the shape.
        crop: (rows, columns) in pixels of the centre that is cut out of the resized picture, no larger than it; None
            cuts nothing.
        resample: Pillow's number of the resize filter: 2 bilinear, 3 bicubic.
        rescale: factor of the values from 0 to 255, before the normalisation.
        mean, std: normalisation per channel, on the scale that ``rescale`` gives.
    """

    resize: tuple[int, int] | int
    crop: tuple[int, int] | None
    resample: int
    rescale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def size(self) -> tuple[int, int] | None:
        """(rows, columns) of every input; None where they depend on the picture."""
        return self.crop or (None if isinstance(self.resize, int) else self.resize)
