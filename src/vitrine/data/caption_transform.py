"""From a decoded picture to the pixels that a captioner sees: the whole picture, its long side fixed.

Axes: C channels (red, green, blue), H rows, W columns.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from vitrine.data.transfer import moved
from vitrine.data.transforms import draw_colour, random_resized_crop, recolour
from vitrine.data.warp import Box, warp
from vitrine.recipes import TransformSpec

LONG_SIDE = 299  # of the published captioner (CATR v1 to v3), pixels
_HALF = (0.5, 0.5, 0.5)


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
    """Resize the long side, up or down, by Pillow's bicubic; normalise.

    Attributes:
        long_side: in pixels.
        multiple: of which both sides are made, by rounding; a vision transformer's patch. 1 is any size.
        mean, std: per channel on a 0-to-1 scale; the published captioner's are 0.5.
    """

    long_side: int = LONG_SIDE
    multiple: int = 1
    mean: tuple[float, float, float] = _HALF
    std: tuple[float, float, float] = _HALF

    def __call__(self, image: Image.Image) -> torch.Tensor:
        """The captioner's input: float32 (3, h, w), from -1 to 1 with the published normalisation.

        Args:
            image: mode RGB. The published code does not turn a picture upright as its EXIF data say; whoever decodes
                decides.
        """
        return self.normalised(self.resized(image))

    def resized(self, image: Image.Image) -> np.ndarray:
        """The picture at the captioner's size: uint8 (h, w, 3)."""
        at = self.geometry(*image.size)
        return np.array(image.resize((at.resized_width, at.resized_height), Image.Resampling.BICUBIC))

    def normalised(self, pixels_HWC: np.ndarray | torch.Tensor) -> torch.Tensor:
        """float32 (3, h, w) of uint8 (h, w, 3)."""
        pixels = torch.as_tensor(pixels_HWC).permute(2, 0, 1).contiguous().float().div_(255)
        mean_C11, std_C11 = (moved(torch.tensor(each), pixels.device).view(3, 1, 1) for each in (self.mean, self.std))
        return pixels.sub_(mean_C11).div_(std_C11)

    def geometry(self, width: int, height: int) -> WholePicture:
        """Where the input lies on a picture of ``width`` × ``height`` pixels.

        Sides are cut off to whole pixels after multiplying by ``long_side / longest``, in that order, as published: the
        long side itself then sometimes becomes ``long_side - 1``. One pixel at least, where the published code fails.
        Where sides are multiples of a patch, they are rounded to the nearest one instead, one patch at least.
        """
        scale = self.long_side / max(width, height)
        if self.multiple == 1:
            return WholePicture(width, height, max(1, int(width * scale)), max(1, int(height * scale)))
        across, down = (max(1, round(side * scale / self.multiple)) * self.multiple for side in (width, height))
        return WholePicture(width, height, across, down)


class CaptionTrainTransform:
    """The random changes of a captioner's training picture; without any, exactly what prediction sees.

    As :class:`vitrine.data.transforms.TrainTransform`, but that a crop keeps its own shape, long side fixed, and that
    without ``crop_scale`` the whole picture is kept: a caption speaks of all of it. Nothing is erased.

    Args:
        spec: what is random. A mirror makes a caption's "left" wrong: whoever asks for one decides.
        whole: how pictures are prepared for prediction.
    """

    def __init__(self, spec: TransformSpec, whole: CaptionTransform) -> None:
        self.spec, self.whole = spec, whole

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> np.ndarray:
        """Draw the changes from ``rng`` and apply them: uint8 (h, w, 3)."""
        spec, (width, height) = self.spec, image.size
        angle = float(rng.uniform(-spec.rotation, spec.rotation)) if spec.rotation else 0.0
        box = Box(0, 0, width, height)
        if spec.crop_scale != (1.0, 1.0):
            box = random_resized_crop(width, height, spec.crop_scale, spec.crop_ratio, rng)
        flip = spec.flip > 0 and float(rng.random()) < spec.flip
        if angle or flip or box != Box(0, 0, width, height):
            at = self.whole.geometry(box.width, box.height)
            pixels_HWC = warp(image, angle, box, flip, (at.resized_width, at.resized_height))
        else:
            pixels_HWC = self.whole.resized(image)
        colour = draw_colour(spec, rng)
        return recolour(pixels_HWC, colour) if colour else pixels_HWC
