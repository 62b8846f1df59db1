"""Rotation, crop, mirror and resize of a picture as one affine warp.

Coordinates are continuous: pixel ``i`` covers ``[i, i + 1)``, its centre is at ``i + 0.5``, ``y`` points down.

Axes: H rows, W columns, C channels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch.nn import functional

_SMOOTH_BELOW = 0.75  # source pixels per output pixel: the picture is magnified, and single samples would show as steps
_LONGEST_STRIDE = 1.2  # source pixels between samples: above one, some pixels of the source go unseen
_MEANT = 1.5  # where a strong shrink leaves the last step: see _reduced
_FULL_SIZE = ("vitrine", "full size")  # no text, as the keys that files bring are


@dataclass(frozen=True)
class Box:
    """A rectangle in whole pixels."""

    left: int
    top: int
    width: int
    height: int


@dataclass(frozen=True)
class Affine:
    """Takes a point of the output to its source: ``x' = a x + b y + c``, ``y' = d x + e y + f`` (Pillow's order)."""

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
        """For an output with ``across`` × ``down`` samples in place of every pixel."""
        return Affine(self.a / across, self.b / down, self.c, self.d / across, self.e / down, self.f)

    def of_scaled(self, across: float, down: float) -> Affine:
        """For a source of which every pixel became ``across`` × ``down`` pixels."""
        a, b, c, d, e, f = self.coefficients
        return Affine(a * across, b * across, c * across, d * down, e * down, f * down)

    def of_reduced(self, factor: int, left: int, top: int) -> Affine:
        """For a source cut at ``left``, ``top``, then made smaller ``factor`` times."""
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


def with_full_size(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The image itself, marked as a reduced copy of a picture of this width and height."""
    image.info[_FULL_SIZE] = size  # type: ignore[index]
    return image


def full_size(image: Image.Image) -> tuple[int, int]:
    """Width and height of the picture that an image is a reduced copy of; of others its own."""
    size: tuple[int, int] = image.info.get(_FULL_SIZE, image.size)  # type: ignore[arg-type]
    return size


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
        pixels_HWC = _cut(image, box, scale, size)
        return np.ascontiguousarray(pixels_HWC[:, ::-1]) if flip else pixels_HWC
    matrix = warp_matrix(width, height, angle, box, flip, size)
    if scale != (1.0, 1.0):
        matrix = matrix.of_scaled(*scale)
    image, matrix = _reduced(image, matrix, size)
    if min(matrix.steps) < _SMOOTH_BELOW:
        affine, smooth = Image.Transform.AFFINE, Image.Resampling.BILINEAR
        return _three(np.array(image.transform(size, affine, matrix.coefficients, smooth)))
    across, down = (max(2, math.ceil(step / _LONGEST_STRIDE)) for step in matrix.steps)
    samples = image.transform(
        (columns * across, rows * down), Image.Transform.AFFINE, matrix.finer(across, down).coefficients
    )
    return _three(_resized(np.array(samples), size))


def _cut(image: Image.Image, box: Box, scale: tuple[float, float], size: tuple[int, int]) -> np.ndarray:
    """The crop, resized; of a reduced copy, its edges need not lie between pixels."""
    edges = (box.left, box.top, box.left + box.width, box.top + box.height)
    if scale == (1.0, 1.0):
        return _three(_resized(np.array(image.crop(edges)), size))
    (left, right), (top, bottom) = (
        (low * each, min(side, high * each))
        for low, high, each, side in zip(edges[:2], edges[2:], scale, image.size, strict=True)
    )
    return _three(np.array(image.resize(size, Image.Resampling.BILINEAR, box=(left, top, right, bottom))))


def _three(pixels_HWC: np.ndarray) -> np.ndarray:
    """Without a fourth channel."""
    return pixels_HWC if pixels_HWC.shape[2] == 3 else np.ascontiguousarray(pixels_HWC[..., :3])


def _sides(size: int | tuple[int, int]) -> tuple[int, int]:
    """Width and height of the output."""
    return (size, size) if isinstance(size, int) else size


def _resized(pixels_HWC: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Antialiased bilinear resize to (width, height): torch's uint8 kernel, Pillow's filter within a level, faster."""
    pixels_1CHW = torch.from_numpy(pixels_HWC).permute(2, 0, 1).unsqueeze(0)
    resized_1CHW = functional.interpolate(pixels_1CHW, size[::-1], mode="bilinear", antialias=True)
    pixels: np.ndarray = resized_1CHW[0].permute(1, 2, 0).numpy()
    return pixels


def _reduced(image: Image.Image, matrix: Affine, size: tuple[int, int]) -> tuple[Image.Image, Affine]:
    """For a strong shrink: average whole blocks first, of that part of the picture alone that the output shows."""
    factor = int(min(matrix.steps) / _MEANT)
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
