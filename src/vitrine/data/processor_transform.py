"""From a decoded picture to the pixels that a captioner of transformers sees, as its image processor does it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

_MAGNIFIED = 64  # the resized picture may have so many times the pixels of what is cut out of it


@dataclass(frozen=True)
class SeenPart:
    """Where the captioner's input lies on a picture.

    Attributes:
        width, height: of the picture, pixels.
        resized_width, resized_height: of the whole picture after the resize, pixels.
        left, top: corner of the input in the resized picture, pixels.
        seen_width, seen_height: of the input, pixels.
    """

    width: int
    height: int
    resized_width: int
    resized_height: int
    left: int
    top: int
    seen_width: int
    seen_height: int

    @property
    def scale(self) -> tuple[float, float]:
        """Resized pixels per picture pixel, across and down. They differ where the picture's shape is not kept."""
        return self.resized_width / self.width, self.resized_height / self.height

    @property
    def box(self) -> tuple[float, float, float, float]:
        """What the captioner sees: left, top, right, bottom, in the picture's own pixels, continuous coordinates."""
        across, down = self.scale
        left, top = self.left / across, self.top / down
        right, bottom = left + self.seen_width / across, top + self.seen_height / down
        return left, top, min(float(self.width), right), min(float(self.height), bottom)


@dataclass(frozen=True)
class ProcessorTransform:
    """Resize by Pillow, cut the centre out, and normalise: what image processors of BLIP, CLIP, ViT, DeiT and BEiT do.

    Attributes:
        resize: (rows, columns) in pixels, whatever the picture's shape; or one number, of the short side, which keeps
            the shape.
        crop: (rows, columns) in pixels of the centre that is cut out afterwards, no larger than what is there; None
            cuts nothing.
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

    def __call__(self, image: Image.Image) -> torch.Tensor:
        """The captioner's input: float32 (3, h, w).

        Args:
            image: mode RGB, upright.
        """
        at = self.geometry(*image.size)
        resample = Image.Resampling(self.resample)
        if at.resized_width * at.resized_height > _MAGNIFIED * at.seen_width * at.seen_height:
            # In one, so that a strip of pixels is never magnified to a gigabyte.
            seen = image.resize((at.seen_width, at.seen_height), resample, box=at.box)
        else:
            resized = image.resize((at.resized_width, at.resized_height), resample)
            seen = resized.crop((at.left, at.top, at.left + at.seen_width, at.top + at.seen_height))
        pixels = torch.from_numpy(np.array(seen)).permute(2, 0, 1).contiguous().float().mul_(self.rescale)
        return pixels.sub_(torch.tensor(self.mean)[:, None, None]).div_(torch.tensor(self.std)[:, None, None])

    def geometry(self, width: int, height: int) -> SeenPart:
        """Where the input lies on a picture of ``width`` × ``height`` pixels.

        As in transformers: the long side is cut off to whole pixels, and so is half of what the crop leaves out.
        """
        if not isinstance(self.resize, int):
            rows, columns = self.resize
        elif width <= height:
            rows, columns = int(self.resize * height / width), self.resize
        else:
            rows, columns = self.resize, int(self.resize * width / height)
        seen_rows, seen_columns = self.crop or (rows, columns)
        left, top = (columns - seen_columns) // 2, (rows - seen_rows) // 2
        return SeenPart(width, height, columns, rows, left, top, seen_columns, seen_rows)
