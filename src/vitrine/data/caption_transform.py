"""From a decoded picture to the pixels that the published captioner sees: the whole picture, its long side fixed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

LONG_SIDE = 299  # of the published captioner (CATR v1 to v3), pixels
_MEAN = _STD = 0.5


@dataclass(frozen=True)
class WholePicture:
    """Where the captioner's input lies on a picture: everywhere.

    Attributes:
        width, height: of the picture, pixels.
        resized_width, resized_height: of the captioner's input, pixels.
    """

    width: int
    height: int
    resized_width: int
    resized_height: int

    @property
    def scale(self) -> tuple[float, float]:
        """Resized pixels per picture pixel, across and down. They differ by rounding."""
        return self.resized_width / self.width, self.resized_height / self.height

    @property
    def box(self) -> tuple[float, float, float, float]:
        """What the captioner sees: left, top, right, bottom, in the picture's own pixels, continuous coordinates."""
        return 0.0, 0.0, float(self.width), float(self.height)


@dataclass(frozen=True)
class CaptionTransform:
    """Resize the long side, up or down, by Pillow's bicubic; normalise with mean 0.5 and standard deviation 0.5.

    Attributes:
        long_side: in pixels.
    """

    long_side: int = LONG_SIDE

    def __call__(self, image: Image.Image) -> torch.Tensor:
        """The captioner's input: float32 (3, h, w) from -1 to 1.

        Args:
            image: mode RGB. The published code does not turn a picture upright as its EXIF data say; whoever decodes
                decides.
        """
        at = self.geometry(*image.size)
        resized = image.resize((at.resized_width, at.resized_height), Image.Resampling.BICUBIC)
        pixels = torch.from_numpy(np.array(resized)).permute(2, 0, 1).contiguous().float().div_(255)
        return pixels.sub_(_MEAN).div_(_STD)

    def geometry(self, width: int, height: int) -> WholePicture:
        """Where the input lies on a picture of ``width`` × ``height`` pixels.

        Sides are cut off to whole pixels after multiplying by ``long_side / longest``, in that order, as published: the
        long side itself then sometimes becomes ``long_side - 1``. One pixel at least, where the published code fails.
        """
        scale = self.long_side / max(width, height)
        return WholePicture(width, height, max(1, int(width * scale)), max(1, int(height * scale)))
