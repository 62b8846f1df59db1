"""How pictures are prepared for a model: settings that a model states and that a transform of its input carries out.

Normalisation is ``(value - mean) / std`` per channel (red, green, blue), on a scale from 0 to 1.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class InputSpec:
    """The input of a classifier: a square, cut out of the centre of the resized picture.

    Attributes:
        size: side of the square, in pixels.
        mean, std: normalisation per channel.
        crop: share of the resized short side that the centre crop keeps (timm's crop_pct).
    """

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    crop: float


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
