"""Preparation of pictures for classifiers: random changes for training, and for evaluation what timm does."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageEnhance
from torch.nn import functional

from vitrine.config import TransformSpec
from vitrine.config.preprocessing import RESIZE_FILTERS, InputSpec
from vitrine.data.decode import full_size

_SMOOTH_BELOW = 0.75  # source pixels per output pixel: the picture is magnified, and single samples would show as steps
_LONGEST_STRIDE = 1.2  # source pixels between samples: above one, some pixels of the source go unseen
_LAST_SHRINK = 1.5  # source pixels per output pixel that block averaging leaves to the last step: see _reduce


@dataclass(frozen=True)
class Box:
    """A rectangle in whole pixels."""

    left: int
    top: int
    width: int
    height: int


@dataclass(frozen=True)
class Affine:
    """An affine map from the output to its source: ``x' = a x + b y + c``, ``y' = d x + e y + f`` (Pillow's order)."""

    a: float
    b: float
    c: float
    d: float
    e: float
    f: float

    def __call__(self, x: float, y: float) -> tuple[float, float]:
        """The source of a point."""
        return self.a * x + self.b * y + self.c, self.d * x + self.e * y + self.f

    @property
    def coefficients(self) -> tuple[float, float, float, float, float, float]:
        """As ``Image.transform`` expects them. Pillow evaluates them at pixel centres."""
        return self.a, self.b, self.c, self.d, self.e, self.f

    @property
    def steps(self) -> tuple[float, float]:
        """Source pixels per output pixel: along a row, and down a column."""
        return math.hypot(self.a, self.d), math.hypot(self.b, self.e)

    def finer(self, across: int, down: int) -> Affine:
        """The map for an output with ``across`` × ``down`` samples in place of every pixel."""
        return Affine(self.a / across, self.b / down, self.c, self.d / across, self.e / down, self.f)

    def of_scaled(self, across: float, down: float) -> Affine:
        """The map to a source of which every pixel became ``across`` × ``down`` pixels."""
        a, b, c, d, e, f = self.coefficients
        return Affine(a * across, b * across, c * across, d * down, e * down, f * down)

    def of_reduced(self, factor: int, left: int, top: int) -> Affine:
        """The map to a source that was cut at ``left``, ``top``, then reduced ``factor`` times."""
        a, b, c, d, e, f = self.coefficients
        return Affine(a / factor, b / factor, (c - left) / factor, d / factor, e / factor, (f - top) / factor)


def warp_matrix(width: int, height: int, angle: float, box: Box, flip: bool, size: int | tuple[int, int]) -> Affine:
    """Rotate a picture of ``width`` × ``height`` about its centre, cut ``box``, resize to ``size``, mirror: composed.

    ``angle`` is in degrees, counter-clockwise as seen (torchvision's sign); ``box`` lies in the rotated picture, whose
    canvas is that of the source.
    """
    columns, rows = _sides(size)
    across, down = box.width / columns, box.height / rows
    left = float(box.left)
    if flip:
        across, left = -across, left + box.width
    cosine, sine = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    # Undoing a counter-clockwise turn where y points down: (x, y) -> (x cos - y sin, x sin + y cos) about the centre.
    x, y = left - width / 2, box.top - height / 2
    return Affine(
        cosine * across,
        -sine * down,
        cosine * x - sine * y + width / 2,
        sine * across,
        cosine * down,
        sine * x + cosine * y + height / 2,
    )


def warp(image: Image.Image, angle: float, box: Box, flip: bool, size: int | tuple[int, int]) -> np.ndarray:
    """Rotate, crop, resize and mirror in one step, antialiased; what comes from outside the picture is black.

    Without a rotation this is torchvision's antialiased bilinear resize of the crop. With one, the output is sampled at
    two or three nearest source pixels per output pixel and axis, and resized by the same filter. That is about twice as
    fast as rotating the whole picture by nearest neighbour first, and nearer to the ideal result.

    Args:
        image: mode RGB, or RGBX, whose fourth channel is not used; where it is a reduced copy, angle and box are those
            of the full picture (see :func:`full_size`).
        angle: degrees, counter-clockwise.
        box: the crop, inside the rotated picture's canvas.
        flip: whether to mirror left-right.
        size: side of the output, pixels; or its width and height.

    Returns:
        uint8, (height, width, 3).
    """
    columns, rows = size = _sides(size)
    width, height = full_size(image)
    scale = image.width / width, image.height / height
    if angle == 0:
        pixels_HWC = _crop_and_resize(image, box, scale, size)
        return np.ascontiguousarray(pixels_HWC[:, ::-1]) if flip else pixels_HWC
    matrix = warp_matrix(width, height, angle, box, flip, size)
    if scale != (1.0, 1.0):
        matrix = matrix.of_scaled(*scale)
    image, matrix = _reduce(image, matrix, size)
    if min(matrix.steps) < _SMOOTH_BELOW:
        affine, smooth = Image.Transform.AFFINE, Image.Resampling.BILINEAR
        return _rgb_only(np.array(image.transform(size, affine, matrix.coefficients, smooth)))
    across, down = (max(2, math.ceil(step / _LONGEST_STRIDE)) for step in matrix.steps)
    samples = image.transform(
        (columns * across, rows * down), Image.Transform.AFFINE, matrix.finer(across, down).coefficients
    )
    return _rgb_only(_resize(np.array(samples), size))


def _crop_and_resize(image: Image.Image, box: Box, scale: tuple[float, float], size: tuple[int, int]) -> np.ndarray:
    """The crop, resized; of a reduced copy, its edges need not lie between pixels."""
    edges = (box.left, box.top, box.left + box.width, box.top + box.height)
    if scale == (1.0, 1.0):
        return _rgb_only(_resize(np.array(image.crop(edges)), size))
    (left, right), (top, bottom) = (
        (low * each, min(side, high * each))
        for low, high, each, side in zip(edges[:2], edges[2:], scale, image.size, strict=True)
    )
    return _rgb_only(np.array(image.resize(size, Image.Resampling.BILINEAR, box=(left, top, right, bottom))))


def _rgb_only(pixels_HWC: np.ndarray) -> np.ndarray:
    """The first three channels."""
    return pixels_HWC if pixels_HWC.shape[2] == 3 else np.ascontiguousarray(pixels_HWC[..., :3])


def _sides(size: int | tuple[int, int]) -> tuple[int, int]:
    """Width and height of the output."""
    return (size, size) if isinstance(size, int) else size


def _resize(pixels_HWC: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Antialiased bilinear resize to (width, height): torch's uint8 kernel, Pillow's filter within a level, faster."""
    pixels_1CHW = torch.from_numpy(pixels_HWC).permute(2, 0, 1).unsqueeze(0)
    resized_1CHW = functional.interpolate(pixels_1CHW, size[::-1], mode="bilinear", antialias=True)
    pixels: np.ndarray = resized_1CHW[0].permute(1, 2, 0).numpy()
    return pixels


def _reduce(image: Image.Image, matrix: Affine, size: tuple[int, int]) -> tuple[Image.Image, Affine]:
    """For a strong shrink: average whole blocks first, of that part of the picture alone that the output shows."""
    factor = int(min(matrix.steps) / _LAST_SHRINK)
    if factor < 2:
        return image, matrix
    corners = [matrix(x, y) for x in (0, size[0]) for y in (0, size[1])]
    left, top = (max(0, math.floor(min(c[i] for c in corners)) - factor) for i in (0, 1))
    right, bottom = (
        min(side, math.ceil(max(c[i] for c in corners)) + factor) for i, side in enumerate((image.width, image.height))
    )
    if right <= left or bottom <= top:
        return image, matrix  # all of it comes from outside
    return image.reduce(factor, (left, top, right, bottom)), matrix.of_reduced(factor, left, top)


_ENHANCERS = {
    "brightness": ImageEnhance.Brightness,
    "contrast": ImageEnhance.Contrast,
    "saturation": ImageEnhance.Color,
}

_MAX_MAGNIFICATION = 64  # times the pixels of the crop that a resized picture may have

_ATTEMPTS = 10  # as torchvision's RandomResizedCrop and RandomErasing
_ERASE_SCALE = (0.02, 0.33)  # share of the area; RandomErasing's default (arXiv:1708.04896)
_ERASE_RATIO = (0.3, 3.3)


@dataclass(frozen=True)
class TrainChange:
    """One draw of every random change.

    Attributes:
        angle: degrees, counter-clockwise.
        crop: in pixels of the rotated picture.
        flip: whether it is mirrored left-right.
        quarter_turns: counter-clockwise, after the mirror; 0 to 3.
        colour: (name, factor) in the order in which they are applied.
        erase: the rectangle that becomes noise, in output pixels, or None.
        noise_seed: seed of that noise.
    """

    angle: float
    crop: Box
    flip: bool
    quarter_turns: int
    colour: tuple[tuple[str, float], ...]
    erase: Box | None
    noise_seed: int


def short_side(spec: TransformSpec, size: int) -> int:
    """The short side that pictures may be reduced to, in pixels.

    The smallest crop that the transforms draw, of a share s of the area and of width over height r, has a shorter side
    of at least sqrt(s · min(r, 1/r)) of the picture's. Reduced to this, it still has as many pixels as the model's
    input, so that no crop is magnified which the full picture would not magnify.

    Args:
        spec: the random changes of training.
        size: the longer side of the model's input, pixels.
    """
    low, high = spec.crop_ratio
    return math.ceil(size / math.sqrt(spec.crop_scale[0] * min(low, 1 / high)))


class TrainTransform:
    """The random changes of a training picture: rotation, crop, mirror, quarter turns, colour, erasing; in this order.

    The distributions are those of torchvision's RandomRotation, RandomResizedCrop, RandomHorizontalFlip, ColorJitter
    (shuffled order) and RandomErasing (uniform noise); rotation, crop, mirror and resize are one warp.

    Args:
        spec: what is random.
        size: of the result: rows and columns, in pixels.
    """

    def __init__(self, spec: TransformSpec, size: tuple[int, int]) -> None:
        self.spec = spec
        self.size = size
        self.short = short_side(spec, max(size)) if spec.reduced_decoding else 0  # see vitrine.data.decode.decode

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> np.ndarray:
        """Draw the changes from ``rng`` and apply them.

        Args:
            image: mode RGB; or a reduced copy, for which is drawn what is drawn for the full picture.
            rng: the only source of randomness.

        Returns:
            uint8, (rows, columns, 3).
        """
        return self.apply(image, self.draw(*full_size(image), rng))

    def draw(self, width: int, height: int, rng: np.random.Generator) -> TrainChange:
        """Draw the changes of one picture of ``width`` × ``height`` pixels."""
        spec = self.spec
        angle = float(rng.uniform(-spec.rotation, spec.rotation)) if spec.rotation else 0.0
        crop = random_resized_crop(width, height, spec.crop_scale, spec.crop_ratio, rng)
        flip = spec.flip > 0 and float(rng.random()) < spec.flip
        quarter_turns = self._draw_quarter_turns(rng) if spec.turn else 0
        colour = draw_colour(spec, rng)
        erase = None
        if spec.erase > 0 and float(rng.random()) < spec.erase:
            erase = random_erasure(self.size, rng)
        noise_seed = int(rng.integers(2**63)) if erase else 0
        return TrainChange(angle, crop, flip, quarter_turns, colour, erase, noise_seed)

    def _draw_quarter_turns(self, rng: np.random.Generator) -> int:
        rows, columns = self.size
        other = int(rng.integers(1, 4)) if rows == columns else 2  # a quarter turn exchanges rows and columns
        return other if float(rng.random()) < self.spec.turn else 0

    def apply(self, image: Image.Image, change: TrainChange) -> np.ndarray:
        """Apply drawn changes: uint8, (rows, columns, 3)."""
        rows, columns = self.size
        pixels_HWC = warp(image, change.angle, change.crop, change.flip, (columns, rows))
        if change.quarter_turns:
            pixels_HWC = np.ascontiguousarray(np.rot90(pixels_HWC, change.quarter_turns))
        if change.colour:
            pixels_HWC = recolour(pixels_HWC, change.colour)
        if change.erase is None:
            return pixels_HWC
        box, pixels_HWC = change.erase, pixels_HWC.copy()
        noise = np.random.default_rng(change.noise_seed).integers(0, 256, (box.height, box.width, 3), dtype=np.uint8)
        pixels_HWC[box.top : box.top + box.height, box.left : box.left + box.width] = noise
        return pixels_HWC


def draw_colour(spec: TransformSpec, rng: np.random.Generator) -> tuple[tuple[str, float], ...]:
    """Draw what :func:`recolour` does: a factor for each change that is on, in a random order."""
    strengths = {"brightness": spec.brightness, "contrast": spec.contrast, "saturation": spec.saturation}
    colour = [
        (name, float(rng.uniform(max(0.0, 1 - strength), 1 + strength)))
        for name, strength in strengths.items()
        if strength
    ]
    order = rng.permutation(len(colour)) if len(colour) > 1 else range(len(colour))
    return tuple(colour[i] for i in order)


def recolour(pixels_HWC: np.ndarray, changes: Sequence[tuple[str, float]]) -> np.ndarray:
    """Apply (name, factor) one after the other, each as Pillow's ImageEnhance and torchvision's ``adjust_*`` do."""
    if [name for name, _ in changes] == ["brightness"]:
        # Pillow multiplies in float32 and cuts the fraction off: the same here, vectorised.
        brighter = torch.from_numpy(pixels_HWC).float().mul_(changes[0][1]).clamp_(0, 255)
        return brighter.numpy().astype(np.uint8)
    image = Image.fromarray(np.ascontiguousarray(pixels_HWC))
    for name, factor in changes:
        image = _ENHANCERS[name](image).enhance(factor)
    return np.array(image)


def random_resized_crop(
    width: int, height: int, scale: tuple[float, float], ratio: tuple[float, float], rng: np.random.Generator
) -> Box:
    """A rectangle of random area and shape (torchvision's RandomResizedCrop, arXiv:1409.4842).

    Ten tries of a uniform share of the area and a log-uniform width over height; where none fits into the picture, the
    largest centred rectangle whose shape is allowed.
    """
    low, high = math.log(ratio[0]), math.log(ratio[1])
    for _ in range(_ATTEMPTS):
        area = width * height * float(rng.uniform(*scale))
        shape = math.exp(float(rng.uniform(low, high)))
        w, h = round(math.sqrt(area * shape)), round(math.sqrt(area / shape))
        if 0 < w <= width and 0 < h <= height:
            top = int(rng.integers(height - h + 1))
            return Box(int(rng.integers(width - w + 1)), top, w, h)
    w, h = width, height
    if width / height < ratio[0]:
        h = round(w / ratio[0])
    elif width / height > ratio[1]:
        w = round(h * ratio[1])
    w, h = max(1, w), max(1, h)
    return Box((width - w) // 2, (height - h) // 2, w, h)


def random_erasure(size: tuple[int, int], rng: np.random.Generator) -> Box | None:
    """The rectangle that random erasing replaces in so many rows and columns; None where ten tries fail.

    As torchvision's RandomErasing.
    """
    rows, columns = size
    low, high = math.log(_ERASE_RATIO[0]), math.log(_ERASE_RATIO[1])
    for _ in range(_ATTEMPTS):
        area = rows * columns * float(rng.uniform(*_ERASE_SCALE))
        shape = math.exp(float(rng.uniform(low, high)))
        h, w = round(math.sqrt(area * shape)), round(math.sqrt(area / shape))
        if 0 < h < rows and 0 < w < columns:
            top = int(rng.integers(rows - h + 1))
            return Box(int(rng.integers(columns - w + 1)), top, w, h)
    return None


@dataclass(frozen=True)
class CropGeometry:
    """Where a model's input lies on a picture that was resized and cropped.

    Attributes:
        width, height: of the picture, pixels.
        resized_width, resized_height: of the whole picture after the resize, pixels.
        left, top: corner of the input in the resized picture, pixels; below 0 where the picture does not fill the
            input and has a border.
        crop_width, crop_height: of the input, pixels.
    """

    width: int
    height: int
    resized_width: int
    resized_height: int
    left: int
    top: int
    crop_width: int
    crop_height: int

    @property
    def scale(self) -> tuple[float, float]:
        """Resized pixels per picture pixel, across and down. They differ where the picture's shape is not kept."""
        return self.resized_width / self.width, self.resized_height / self.height

    @property
    def box(self) -> tuple[float, float, float, float]:
        """The input on the picture: left, top, right, bottom, in the picture's own pixels, continuous coordinates.

        Where the input has a border, this reaches beyond the picture.
        """
        (left, right), (top, bottom) = (
            (start * side / length, (start + crop) * side / length)
            for start, crop, side, length in (
                (self.left, self.crop_width, self.width, self.resized_width),
                (self.top, self.crop_height, self.height, self.resized_height),
            )
        )
        return left, top, right, bottom

    @property
    def visible(self) -> Box:
        """The part of the resized picture that the input shows."""
        left, top = max(0, self.left), max(0, self.top)
        right, bottom = (
            min(self.resized_width, self.left + self.crop_width),
            min(self.resized_height, self.top + self.crop_height),
        )
        return Box(left, top, right - left, bottom - top)

    def resize_and_crop(
        self, image: Image.Image, resample: Image.Resampling, border: tuple[int, int, int] = (0, 0, 0)
    ) -> Image.Image:
        """The input, of a picture of this width and height; ``border`` is the colour around what does not fill it."""
        at = self.visible
        if self.resized_width * self.resized_height > _MAX_MAGNIFICATION * at.width * at.height:
            # Resize and crop in one, so that a strip of pixels is never magnified to a gigabyte. Pillow may swap its
            # two passes here, which changes the rounding; below, the result is timm's to the bit.
            part = image.resize((at.width, at.height), resample, box=self._on_picture(at))
        else:
            resized_image = image.resize((self.resized_width, self.resized_height), resample)
            part = resized_image.crop((at.left, at.top, at.left + at.width, at.top + at.height))
        if part.size == (self.crop_width, self.crop_height):
            return part
        whole = Image.new(image.mode, (self.crop_width, self.crop_height), border)
        whole.paste(part, (at.left - self.left, at.top - self.top))
        return whole

    def _on_picture(self, box: Box) -> tuple[float, float, float, float]:
        """A box of the resized picture, in the picture's own pixels."""
        across, down = self.width / self.resized_width, self.height / self.resized_height
        right, bottom = (box.left + box.width) * across, (box.top + box.height) * down
        return box.left * across, box.top * down, min(self.width, right), min(self.height, bottom)


class EvalTransform:
    """Resize and crop a picture as a model wants it, exactly as timm's ``create_transform`` does for evaluation.

    Pixels are timm's to the bit, but for pictures so long that less than a 64th of the resized picture is used: of
    these the middle alone is resized, which rounds otherwise (by 2 levels of 255 on smooth pictures, by more on noise).

    Args:
        spec: the model's input.
    """

    def __init__(self, spec: InputSpec) -> None:
        self.spec = spec
        self.size = spec.size
        self._resample = Image.Resampling(RESIZE_FILTERS[spec.interpolation])

    def __call__(self, image: Image.Image, rng: np.random.Generator | None = None) -> np.ndarray:  # noqa: ARG002
        """The input of an RGB picture: uint8, (rows, columns, 3). Nothing is random; ``rng`` is not used."""
        at = self.geometry(*image.size)
        return np.array(at.resize_and_crop(image, self._resample, self.spec.border_colour))

    def geometry(self, width: int, height: int) -> CropGeometry:
        """Where the input lies on a picture of ``width`` × ``height`` pixels.

        Rounding follows timm's ``transforms_imagenet_eval``, and in it torchvision's Resize (long side truncated) and
        CenterCrop (half a pixel goes to the even one, a border's to the right and to the bottom).
        """
        rows, columns = self.size
        resized_width, resized_height = (max(1, side) for side in self._resized_size(width, height))
        left, top = _centre_offset(resized_width, columns), _centre_offset(resized_height, rows)
        return CropGeometry(width, height, resized_width, resized_height, left, top, columns, rows)

    def _resized_size(self, width: int, height: int) -> tuple[int, int]:
        """Width and height of a picture after the resize."""
        rows, columns = (math.floor(side / self.spec.crop) for side in self.size)
        if self.spec.crop_mode == "squash":
            return columns, rows
        if self.spec.crop_mode == "center" and rows == columns:
            return (rows, int(rows * height / width)) if width <= height else (int(rows * width / height), rows)
        choose = min if self.spec.crop_mode == "center" else max
        ratio = choose(height / rows, width / columns)
        return round(width / ratio), round(height / ratio)


def _centre_offset(length: int, crop: int) -> int:
    """Where a crop begins in the middle of a length; below 0 where it is longer."""
    return round((length - crop) / 2) if length >= crop else -((crop - length) // 2)
