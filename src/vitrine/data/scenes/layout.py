"""What a scene holds and where: drawn before anything is painted.

A scene depends on (family, stream seed, split, index) alone: they seed a generator of their own for every scene.
Its first draw is the label, so a label costs no picture.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from vitrine.data.scenes.backdrop import REFERENCE_SIZE
from vitrine.data.scenes.distances import Floats
from vitrine.data.scenes.palette import jittered
from vitrine.data.scenes.shapes import REACH, Family, Shape

SPLIT_CODES = {"train": 0, "validation": 1, "test": 2}

# Effective radii, in pixels of a picture of REFERENCE_SIZE. The main object's are "large", all others "small":
# 26 to 38 pixels across against at most 0.62 of the main object's.
_MAIN_RADIUS = (13.0, 19.0)
_OTHER_RADIUS = (0.45, 0.62)
_TRIES = 8


@dataclass(frozen=True)
class Placed:
    """One object before it is painted.

    Attributes:
        shape: its shape.
        colour: its colour's name.
        rgb: its colour (3,), 0 to 255.
        radius: effective radius in pixels.
        x, y: centre in pixels.
        angle: clockwise turn in radians.
        mirrored: whether its mirror image is drawn.
        shade: change of brightness per radius towards (cos, sin) of ``shade_angle``, in levels.
        shade_angle: radians.
    """

    shape: Shape
    colour: str
    rgb: Floats
    radius: float
    x: float
    y: float
    angle: float
    mirrored: bool
    shade: float
    shade_angle: float


@dataclass(frozen=True)
class Layout:
    """A scene's objects, main first, and the order they are painted in (indices, back to front)."""

    label: int
    objects: tuple[Placed, ...]
    order: tuple[int, ...]


def scene_generator(family: Family, seed: int, split: str, index: int) -> np.random.Generator:
    """The random numbers of one scene, from its beginning."""
    entropy = (seed, family.code, SPLIT_CODES[split], index)
    return np.random.Generator(np.random.SFC64(np.random.SeedSequence(entropy)))


def draw_label(rng: np.random.Generator, family: Family) -> int:
    """The first draw of a scene: the shape of its main object."""
    return int(rng.random() * len(family.shapes))


def draw_layout(rng: np.random.Generator, family: Family, size: int) -> Layout:
    """Draws the objects of a scene of ``size`` pixels a side; ``rng`` must be fresh."""
    label = draw_label(rng, family)
    unit = size / REFERENCE_SIZE
    count, radius, x, y, front = rng.random(5).tolist()
    radius = unit * (_MAIN_RADIUS[0] + (_MAIN_RADIUS[1] - _MAIN_RADIUS[0]) * radius)
    margin = REACH * radius + 1
    spots = [(margin + (size - 2 * margin) * x, margin + (size - 2 * margin) * y, radius)]
    shapes = [family.shapes[label]]
    for _ in range(1 if count < 0.4 else 2 if count < 0.75 else 0):
        spot = _other_spot(rng, size, spots)
        shape = family.shapes[int(rng.random() * len(family.shapes))]
        if spot is not None:
            spots.append(spot)
            shapes.append(shape)
    names, rgb_N3 = jittered(rng, len(spots))
    details = rng.random((len(spots), 4)).tolist()
    objects = tuple(
        Placed(
            shape=shape,
            colour=name,
            rgb=rgb,
            radius=radius,
            x=x,
            y=y,
            angle=2 * math.pi * turn,
            mirrored=mirror < 0.5,
            shade=26 * shade,
            shade_angle=2 * math.pi * shade_turn,
        )
        for shape, name, rgb, (x, y, radius), (turn, mirror, shade, shade_turn) in zip(
            shapes, names, rgb_N3, spots, details, strict=True
        )
    )
    others = tuple(range(1, len(objects)))
    return Layout(label, objects, (0, *others) if front < 0.6 else (*others, 0))


def _other_spot(
    rng: np.random.Generator, size: int, taken: list[tuple[float, float, float]]
) -> tuple[float, float, float] | None:
    """Where and how large (x, y, radius) a further object is: often at the main object's edge, never far over it.

    None where no try found room.
    """
    main_x, main_y, main_radius = taken[0]
    low, high = _OTHER_RADIUS
    touching, *tries = rng.random(1 + 3 * _TRIES).tolist()
    for start in range(0, len(tries), 3):
        a, b, c = tries[start : start + 3]
        radius = main_radius * (low + (high - low) * c)
        margin = REACH * radius + 1
        if touching < 0.45:
            reach = (main_radius + radius) * (0.78 + 0.3 * a)
            x, y = main_x + reach * math.cos(2 * math.pi * b), main_y + reach * math.sin(2 * math.pi * b)
            if not (margin <= x <= size - margin and margin <= y <= size - margin):
                continue
        else:
            x, y = margin + (size - 2 * margin) * a, margin + (size - 2 * margin) * b
        gaps = (math.hypot(x - tx, y - ty) / (radius + tr) for tx, ty, tr in taken)
        if next(gaps) >= 0.78 and all(gap >= 0.95 for gap in gaps):
            return x, y, radius
    return None
