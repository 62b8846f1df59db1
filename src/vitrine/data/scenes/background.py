"""Colours of scenes, and what lies behind their objects: textured, noisy backgrounds and distractors.

Axes: C colour channel, H row, W column. Pictures under construction are float32 (3, H, W), 0 to 255.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np

from vitrine.data.scenes.shapes import Floats

# sRGB, 0 to 255. Far enough apart that JITTER does not bring two of them within a just-noticeable step, and light
# beside the dusk of the backgrounds.
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (224, 91, 97),
    "orange": (250, 168, 80),
    "yellow": (248, 235, 103),
    "green": (96, 177, 108),
    "cyan": (114, 224, 230),
    "blue": (92, 116, 218),
    "purple": (170, 100, 193),
    "white": (248, 248, 248),
}
COLOUR_NAMES = tuple(COLOURS)
JITTER = 14.0  # largest change of a channel
MIN_COLOUR_DISTANCE = 105.0  # wanted distance between an object's colour and the background's colours

_RGB = np.array(list(COLOURS.values()), dtype=np.float32)
# The eye's sensitivity by channel, roughly; squared weights sum to 3 as for the plain distance.
_WEIGHTS = np.array([math.sqrt(0.85), math.sqrt(1.5), math.sqrt(0.65)], dtype=np.float32)
_CANDIDATES = 14


def draw_colours(rng: np.random.Generator, count: int) -> tuple[list[str], Floats]:
    """Draws ``count`` different named colours; their RGB values (count, 3), 0 to 255, are jittered."""
    indices = rng.permutation(len(COLOUR_NAMES))[:count]
    rgb = _RGB[indices] + rng.uniform(-JITTER, JITTER, (count, 3)).astype(np.float32)
    return [COLOUR_NAMES[index] for index in indices.tolist()], np.clip(rgb, 0, 255)


def background_pair(rng: np.random.Generator, objects_N3: Floats) -> tuple[Floats, Floats]:
    """Draws the two colours (3,) a background mixes, so that no mixture comes near an object's colour.

    Of several random pairs, the first that keeps MIN_COLOUR_DISTANCE, else the one that is farthest away.
    """
    draws = rng.random((2, _CANDIDATES, 3), dtype=np.float32)
    first_C3 = 15 + 225 * draws[0]
    second_C3 = np.clip(first_C3 + 190 * (draws[1] - 0.5), 0, 255)
    start_C13 = (first_C3 * _WEIGHTS)[:, None]
    step_C13 = (second_C3 * _WEIGHTS)[:, None] - start_C13
    offset_CN3 = objects_N3 * _WEIGHTS - start_C13
    # Distance from every object's colour to the segment between the pair.
    along_CN = np.clip((offset_CN3 * step_C13).sum(2) / ((step_C13 * step_C13).sum(2) + 1e-6), 0, 1)
    nearest_C = np.square(offset_CN3 - along_CN[..., None] * step_C13).sum(2).min(1)
    good_C = nearest_C >= MIN_COLOUR_DISTANCE * MIN_COLOUR_DISTANCE
    index = int(good_C.argmax()) if good_C.any() else int(nearest_C.argmax())
    return first_C3[index], second_C3[index]


REFERENCE_SIZE = 64  # lengths below are in pixels of a picture of this size


@cache
def axis(size: int) -> Floats:
    """Pixel centres along one side, in pixels."""
    return np.arange(size, dtype=np.float32) + np.float32(0.5)


@cache
def _smoothing(size: int, knots: int) -> Floats:
    """Cosine interpolation from ``knots`` evenly spaced values to ``size`` pixels, as a matrix (size, knots)."""
    position = np.linspace(0, knots - 1, size)
    left = np.minimum(position.astype(int), knots - 2)
    weight = 0.5 - 0.5 * np.cos(np.pi * (position - left))
    matrix = np.zeros((size, knots), dtype=np.float32)
    matrix[np.arange(size), left] = 1 - weight
    matrix[np.arange(size), left + 1] = weight
    return matrix


def _noise(rng: np.random.Generator, size: int, knots: int, channels: int = 1) -> Floats:
    """Smooth noise (channels, size, size) in 0 to 1 that changes over size / knots pixels."""
    matrix = _smoothing(size, knots)
    return matrix @ rng.random((channels, knots, knots), dtype=np.float32) @ matrix.T


def _ramp(size: int, angle: float) -> Floats:
    """Distance (size, size) in pixels along a direction, from the centre."""
    across = (axis(size) - size / 2) * math.cos(angle)
    down = (axis(size) - size / 2) * math.sin(angle)
    return across + down[:, None]


def _pattern(rng: np.random.Generator, size: int) -> Floats:
    """How the two background colours mix, (size, size) in 0 to 1: one of six kinds."""
    kind, turn, phase, length, knots = rng.random(5).tolist()
    angle, phase = 2 * math.pi * turn, 2 * math.pi * phase
    wave = 2 * math.pi / ((6 + 20 * length) * size / REFERENCE_SIZE)
    pattern: Floats
    match int(6 * kind):
        case 0:  # gradient
            pattern = np.clip(0.5 + _ramp(size, angle) / size, 0, 1)
        case 1:  # soft stripes
            pattern = 0.5 + 0.5 * np.sin(wave * _ramp(size, angle) + phase)
        case 2:  # hard stripes
            pattern = np.clip(0.5 + 3 * np.sin(wave * _ramp(size, angle) + phase), 0, 1)
        case 3:  # checks
            other = np.sin(wave * _ramp(size, angle + math.pi / 2))
            pattern = np.clip(0.5 + 3 * other * np.sin(wave * _ramp(size, angle) + phase), 0, 1)
        case 4:  # clouds
            pattern = _noise(rng, size, 3 + int(8 * knots))[0]
        case _:  # blotches
            pattern = np.clip(5 * _noise(rng, size, 4 + int(7 * knots))[0] - 2, 0, 1)
    return pattern


def background(rng: np.random.Generator, size: int, objects_N3: Floats) -> Floats:
    """Paints a background (3, size, size) that stands off from the objects' colours (N, 3)."""
    first_C, second_C = background_pair(rng, objects_N3)
    pattern_HW = _pattern(rng, size)
    canvas_CHW = pattern_HW * (second_C - first_C)[:, None, None]
    canvas_CHW += first_C[:, None, None]
    canvas_CHW += 44 * _noise(rng, size, 5, channels=3) - 22
    return canvas_CHW


def add_distractors(rng: np.random.Generator, canvas_CHW: Floats) -> None:
    """Draws thin lines and small soft specks of random colours, in place: nothing that is a shape."""
    lines, specks = rng.integers(0, (4, 9)).tolist()
    for _ in range(lines):
        _line(rng, canvas_CHW)
    for _ in range(specks):
        _speck(rng, canvas_CHW)


def dim(canvas_CHW: Floats) -> None:
    """Turns backgrounds and distractors to dusk, in place: half the brightness and half the saturation.

    Objects then stand out by being lighter, as things in the foreground of photographs often do. Without it a small
    transformer sees nothing for tens of thousands of pictures: an edge has any colour on either side.
    """
    grey_HW = canvas_CHW.mean(0)
    canvas_CHW += grey_HW
    canvas_CHW *= 0.25


def _line(rng: np.random.Generator, canvas_CHW: Floats) -> None:
    size = canvas_CHW.shape[1]
    turn, offset, width, opacity, red, green, blue = rng.random(7).tolist()
    distance_HW = np.abs(_ramp(size, math.pi * turn) - (offset - 0.5) * size)
    half = (0.35 + 0.45 * width) * size / REFERENCE_SIZE
    cover_HW = np.clip((half + 0.5) - distance_HW, 0, 1) * (0.4 + 0.6 * opacity)
    colour_C = np.array([red, green, blue], dtype=np.float32) * 255
    canvas_CHW += cover_HW * (colour_C[:, None, None] - canvas_CHW)


def _speck(rng: np.random.Generator, canvas_CHW: Floats) -> None:
    """A soft ellipse, at most 6 reference pixels long."""
    size = canvas_CHW.shape[1]
    x, y, turn, long, wide, opacity, red, green, blue = rng.random(9).tolist()
    unit = size / REFERENCE_SIZE
    major, minor = (1.2 + 1.8 * long) * unit, (0.6 + 0.8 * wide) * unit
    reach = major + 1
    left, right = max(int(x * size - reach), 0), min(int(x * size + reach) + 1, size)
    top, bottom = max(int(y * size - reach), 0), min(int(y * size + reach) + 1, size)
    across = axis(size)[left:right] - x * size
    down = axis(size)[top:bottom, None] - y * size
    cosine, sine = math.cos(math.pi * turn), math.sin(math.pi * turn)
    along, aside = cosine * across + sine * down, cosine * down - sine * across
    cover_HW = np.clip(1.5 - 1.5 * np.hypot(along / major, aside / minor), 0, 1) * (0.5 + 0.5 * opacity)
    colour_C = np.array([red, green, blue], dtype=np.float32) * 255
    window_CHW = canvas_CHW[:, top:bottom, left:right]
    window_CHW += cover_HW * (colour_C[:, None, None] - window_CHW)
