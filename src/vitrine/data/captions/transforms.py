"""From a decoded picture to the pixels that a captioner sees: the whole picture, its long side fixed.

Axes: C channels (red, green, blue), H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image

from vitrine.config import TransformSpec
from vitrine.data.loader import sample_rng, to_device
from vitrine.data.samples import Sample
from vitrine.data.transforms import Box, draw_colour, random_resized_crop, recolour, warp
from vitrine.errors import PictureError

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
        mean_C11, std_C11 = (
            to_device(torch.tensor(each), pixels.device).view(3, 1, 1) for each in (self.mean, self.std)
        )
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


@dataclass(frozen=True)
class PictureBatch:
    """Decoded pictures.

    Attributes:
        pixels: uint8 (h, w, 3) each.
        indices_B: int64 positions in the samples that were given.
        unreadable: (position, reason) of pictures that belong here and could not be read.
        is_dummy: these pictures are only here so that their process can take part in a step; they count nowhere.
    """

    pixels: tuple[torch.Tensor, ...]
    indices_B: torch.Tensor
    unreadable: tuple[tuple[int, str], ...] = ()
    is_dummy: bool = False

    def __len__(self) -> int:
        """Pictures that could be read."""
        return len(self.pixels)

    def pin_memory(self) -> PictureBatch:
        """As :meth:`vitrine.data.loader.Batch.pin_memory`."""
        return replace(self, pixels=tuple(each.pin_memory() for each in self.pixels))


def load_pictures(
    samples: Sequence[Sample], indices: Sequence[int], transform: CaptionTrainTransform, *, seed: int, epoch: int
) -> PictureBatch:
    """Decode and transform ``samples``, whose positions in their data are ``indices``.

    Raises:
        RuntimeError: anything but an unreadable picture went wrong; the message names the sample.
    """
    pixels, kept, unreadable = [], [], []
    for index, sample in zip(indices, samples, strict=True):
        try:
            pixels.append(torch.from_numpy(transform(sample.picture.decode(), sample_rng(seed, epoch, index))))
        except PictureError as error:
            unreadable.append((index, str(error)))
            continue
        except Exception as error:
            raise RuntimeError(f"Loading {sample.name} failed: {type(error).__name__}: {error}") from error
        kept.append(index)
    return PictureBatch(tuple(pixels), torch.tensor(kept).long(), tuple(unreadable))
