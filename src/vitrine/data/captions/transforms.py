"""Preparation of pictures for captioners: a fixed long side, or what an image processor of transformers does.

Axes: C channels (red, green, blue), H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from vitrine.config import TransformSpec
from vitrine.config.preprocessing import CaptionInput, ProcessorInput
from vitrine.data.loader import to_device
from vitrine.data.transforms import Box, CropGeometry, draw_colour, random_resized_crop, recolour, warp


@dataclass(frozen=True)
class WholeGeometry:
    """Placement of a captioner's input that shows the whole picture.

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
    """Resize the whole picture to a fixed long side, up or down, by Pillow's bicubic filter; then normalise.

    Attributes:
        spec: size and normalisation of the captioner's input.
    """

    spec: CaptionInput

    @property
    def mean_colour(self) -> tuple[int, int, int]:
        """The colour that becomes 0: red, green, blue, 0 to 255."""
        return colour_of(self.spec.mean, 1 / 255)

    def __call__(self, image: Image.Image) -> torch.Tensor:
        """The captioner's input: float32 (3, h, w), from -1 to 1 with the published normalisation.

        Args:
            image: mode RGB. The published code does not turn a picture upright as its EXIF data say; whoever decodes
                decides.
        """
        return self.normalise(self.resize(image))

    def resize(self, image: Image.Image) -> np.ndarray:
        """The picture at the captioner's size: uint8 (h, w, 3)."""
        at = self.geometry(*image.size)
        return np.array(image.resize((at.resized_width, at.resized_height), Image.Resampling.BICUBIC))

    def normalise(self, pixels_HWC: np.ndarray | torch.Tensor) -> torch.Tensor:
        """float32 (3, h, w) of uint8 (h, w, 3)."""
        pixels = torch.as_tensor(pixels_HWC).permute(2, 0, 1).contiguous().float().div_(255)
        mean_C11, std_C11 = (
            to_device(torch.tensor(values), pixels.device).view(3, 1, 1) for values in (self.spec.mean, self.spec.std)
        )
        return pixels.sub_(mean_C11).div_(std_C11)

    def geometry(self, width: int, height: int) -> WholeGeometry:
        """Where the input lies on a picture of ``width`` × ``height`` pixels.

        Sides are cut off to whole pixels after multiplying by ``long_side / longest``, in that order, as published: the
        long side itself then sometimes becomes ``long_side - 1``. One pixel at least, where the published code fails.
        Where sides are multiples of a patch, they are rounded to the nearest one instead, one patch at least.
        """
        scale, multiple = self.spec.long_side / max(width, height), self.spec.multiple
        if multiple == 1:
            return WholeGeometry(width, height, max(1, int(width * scale)), max(1, int(height * scale)))
        across, down = (max(1, round(side * scale / multiple)) * multiple for side in (width, height))
        return WholeGeometry(width, height, across, down)


def colour_of(mean: Sequence[float], rescale: float) -> tuple[int, int, int]:
    """A normalisation's mean as a colour: red, green, blue, 0 to 255.

    Args:
        mean: per channel, or one for all.
        rescale: that pixels of 0 to 255 are multiplied by before it is taken off.
    """
    values = list(mean) * 3 if len(mean) == 1 else list(mean)
    red, green, blue = (min(255, max(0, round(value / rescale))) for value in values)
    return red, green, blue


class CaptionTrainTransform:
    """The random changes of a captioner's training picture; without any, exactly what prediction sees.

    As :class:`vitrine.data.transforms.TrainTransform`, but that a crop keeps its own shape, long side fixed, and that
    without ``crop_scale`` the whole picture is kept: a caption speaks of all of it. Nothing is erased.

    Args:
        spec: what is random. A mirror makes a caption's "left" wrong: whoever asks for one decides.
        predict: how pictures are prepared for prediction.
    """

    size = None  # it depends on the picture's shape

    def __init__(self, spec: TransformSpec, predict: CaptionTransform) -> None:
        self.spec, self.predict = spec, predict

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> np.ndarray:
        """Draw the changes from ``rng`` and apply them: uint8 (h, w, 3)."""
        spec, (width, height) = self.spec, image.size
        angle = float(rng.uniform(-spec.rotation, spec.rotation)) if spec.rotation else 0.0
        box = Box(0, 0, width, height)
        if spec.crop_scale != (1.0, 1.0):
            box = random_resized_crop(width, height, spec.crop_scale, spec.crop_ratio, rng)
        flip = spec.flip > 0 and float(rng.random()) < spec.flip
        if angle or flip or box != Box(0, 0, width, height):
            at = self.predict.geometry(box.width, box.height)
            pixels_HWC = warp(image, angle, box, flip, (at.resized_width, at.resized_height))
        else:
            pixels_HWC = self.predict.resize(image)
        colour = draw_colour(spec, rng)
        return recolour(pixels_HWC, colour) if colour else pixels_HWC


@dataclass(frozen=True)
class ProcessorTransform:
    """Resize, crop the centre and normalise, as image processors of transformers do (BLIP, CLIP, ViT, DeiT, BEiT).

    Attributes:
        spec: sizes, filter and normalisation, as the processor's settings state them.
    """

    spec: ProcessorInput

    @property
    def mean_colour(self) -> tuple[int, int, int]:
        """The colour that becomes 0: red, green, blue, 0 to 255."""
        return colour_of(self.spec.mean, self.spec.rescale)

    def __call__(self, image: Image.Image) -> torch.Tensor:
        """The captioner's input: float32 (3, h, w).

        Args:
            image: mode RGB, upright.
        """
        at = self.geometry(*image.size)
        crop = at.resize_and_crop(image, Image.Resampling(self.spec.resample))
        pixels = torch.from_numpy(np.array(crop)).permute(2, 0, 1).contiguous().float().mul_(self.spec.rescale)
        mean_C11, std_C11 = (torch.tensor(values)[:, None, None] for values in (self.spec.mean, self.spec.std))
        return pixels.sub_(mean_C11).div_(std_C11)

    def geometry(self, width: int, height: int) -> CropGeometry:
        """Where the input lies on a picture of ``width`` × ``height`` pixels.

        As in transformers: the long side is cut off to whole pixels, and so is half of what the crop leaves out.
        """
        resize = self.spec.resize
        if not isinstance(resize, int):
            rows, columns = resize
        elif width <= height:
            rows, columns = int(resize * height / width), resize
        else:
            rows, columns = resize, int(resize * width / height)
        crop_rows, crop_columns = self.spec.crop or (rows, columns)
        left, top = (columns - crop_columns) // 2, (rows - crop_rows) // 2
        return CropGeometry(width, height, columns, rows, left, top, crop_columns, crop_rows)
