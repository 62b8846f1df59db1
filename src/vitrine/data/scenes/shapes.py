"""The shapes of the two families, and how large each is drawn."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]  # float32 throughout
Distance = Callable[[Floats, Floats], Floats]


def _radius(x: Floats, y: Floats) -> Floats:
    """Distance from the origin."""
    result: Floats = np.hypot(x, y)
    return result


def _either(first: Floats, second: Floats) -> Floats:
    """The union of two shapes."""
    result: Floats = np.minimum(first, second)
    return result


def _both(first: Floats, second: Floats) -> Floats:
    """The intersection of two shapes."""
    result: Floats = np.maximum(first, second)
    return result


def _convex(*corners: tuple[float, float]) -> Distance:
    """A convex polygon with corners in clockwise order (y down): the largest distance to its edges."""
    edges = []
    for (x0, y0), (x1, y1) in zip(corners, corners[1:] + corners[:1], strict=True):
        length = math.hypot(x1 - x0, y1 - y0)
        nx, ny = (y1 - y0) / length, (x0 - x1) / length
        edges.append((nx, ny, nx * x0 + ny * y0))

    def distance(x: Floats, y: Floats) -> Floats:
        (nx, ny, offset), *others = edges
        result: Floats = nx * x + (ny * y - offset)
        for nx, ny, offset in others:
            result = _both(result, nx * x + (ny * y - offset))
        return result

    return distance


def _box(x: Floats, y: Floats, left: float, top: float, right: float, bottom: float) -> Floats:
    """An axis-parallel rectangle."""
    across = np.abs(x - (left + right) / 2) - (right - left) / 2
    down = np.abs(y - (top + bottom) / 2) - (bottom - top) / 2
    return _both(across, down)


def circle(x: Floats, y: Floats) -> Floats:
    """The unit disc."""
    return _radius(x, y) - 1


def square(x: Floats, y: Floats) -> Floats:
    """Half a side is one unit."""
    return _both(np.abs(x), np.abs(y)) - 1


triangle = _convex((0.0, -1.0), (0.8660254, 0.5), (-0.8660254, 0.5))  # equilateral


def star(x: Floats, y: Floats) -> Floats:
    """Five points; the inner corners lie at 0.42 of the outer radius. One edge, folded into ten sectors."""
    fold = math.pi / 5
    angle = np.abs(np.mod(np.arctan2(y, x), 2 * fold) - fold)  # 0 at an inner corner, fold at a point
    radius = _radius(x, y)
    inner = 0.42
    edge_x, edge_y = math.cos(fold) - inner, math.sin(fold)
    length = math.hypot(edge_x, edge_y)
    nx, ny = edge_y / length, -edge_x / length
    return radius * (nx * np.cos(angle) + ny * np.sin(angle)) - nx * inner


def ring(x: Floats, y: Floats) -> Floats:
    """From a half to one unit."""
    outline: Floats = np.abs(_radius(x, y) - 0.75) - 0.25
    return outline


def cross(x: Floats, y: Floats) -> Floats:
    """Two bars of equal length at right angles."""
    across, down = np.abs(x), np.abs(y)
    return _either(_both(across - 1, down - 0.29), _both(down - 1, across - 0.29))


def heart(x: Floats, y: Floats) -> Floats:
    """A square with a half disc on each of two neighbouring sides; its axis is the diagonal."""
    x, y = x + 0.13, y + 0.13
    body = _both(np.abs(x), np.abs(y)) - 0.5
    lobes = _either(_radius(x, y - 0.5), _radius(x - 0.5, y)) - 0.5
    return _either(body, lobes)


def crescent(x: Floats, y: Floats) -> Floats:
    """A disc less a smaller one."""
    x = x - 0.3
    return _both(_radius(x, y) - 1, 0.86 - _radius(x - 0.52, y))


def arrow(x: Floats, y: Floats) -> Floats:
    """A shaft and a head."""
    across = np.abs(y)
    shaft = _both(np.abs(x + 0.4) - 0.6, across - 0.2)
    slope = math.hypot(0.95, 0.66)
    head = _both(0.05 - x, (0.66 * (x - 1) + 0.95 * across) / slope)
    return _either(shaft, head)


def bar(x: Floats, y: Floats) -> Floats:
    """A rounded bar, nearly four times as long as wide."""
    return _radius(np.maximum(np.abs(x) - 0.73, 0), y) - 0.27


def semicircle(x: Floats, y: Floats) -> Floats:
    """Half a disc, about its centre of mass."""
    y = y + 0.42
    return _both(_radius(x, y) - 1, -y)


def diamond(x: Floats, y: Floats) -> Floats:
    """A rhombus twice as long as wide."""
    return (0.52 * np.abs(x) + np.abs(y) - 0.52) / math.hypot(0.52, 1)


def drop(x: Floats, y: Floats) -> Floats:
    """A disc and the two tangents to it that meet in a point."""
    x = x + 0.25
    radius, tip = 0.6, 1.3
    sine = radius / tip
    cosine = math.sqrt(1 - sine * sine)
    point = _both(sine * x + cosine * np.abs(y) - radius, radius * sine - x)
    return _either(_radius(x, y) - radius, point)


def bowtie(x: Floats, y: Floats) -> Floats:
    """Two triangles that meet in a short edge."""
    across = np.abs(x)
    return _both(across - 1, (np.abs(y) - 0.62 * across - 0.1) / math.hypot(1, 0.62))


def clover(x: Floats, y: Floats) -> Floats:
    """Three leaves on a short stem."""
    leaves = _radius(x, y + 0.52)
    leaves = _either(leaves, _radius(np.abs(x) - 0.49, y - 0.28)) - 0.43
    return _either(leaves, _box(x, y, -0.12, 0.0, 0.12, 1.0))


_BOLT_HALF = _convex((0.28, -0.98), (0.2, 0.2), (-0.7, 0.2))


def bolt(x: Floats, y: Floats) -> Floats:
    """A flash of lightning: a triangle and its half turn."""
    return _either(_BOLT_HALF(x, y), _BOLT_HALF(-x, -y))


def corner(x: Floats, y: Floats) -> Floats:
    """A right angle of two unequal arms."""
    upright, foot = _box(x, y, -0.6, -1.0, -0.08, 0.7), _box(x, y, -0.6, 0.18, 0.8, 0.7)
    return _either(upright, foot)


def pie(x: Floats, y: Floats) -> Floats:
    """A disc from which a slice of 80 degrees is gone."""
    half = math.radians(40)
    return _both(_radius(x, y) - 1, math.sin(half) * x - math.cos(half) * np.abs(y))


def frame(x: Floats, y: Floats) -> Floats:
    """A square with a square hole."""
    outline: Floats = np.abs(_both(np.abs(x), np.abs(y)) - 0.78) - 0.22
    return outline


# How far a shape may reach from its centre, in units of its effective radius. One bound for all shapes, so that
# where a scene may place an object says nothing about its shape.
REACH = 1.37


@dataclass(frozen=True)
class Shape:
    """One shape.

    Attributes:
        name: the noun that captions use.
        distance: its signed distance in its own frame.
    """

    name: str
    distance: Distance

    @property
    def reach(self) -> float:
        """Largest distance of its edge from its centre, in its own unit."""
        return _measure(self)[0]

    @property
    def effective_radius(self) -> float:
        """Geometric mean of the reach and the radius of a disc of equal area, in its own unit.

        Objects are scaled by it, so that neither their extent nor their area alone tells the shape.
        """
        reach, area = _measure(self)
        return math.sqrt(reach * math.sqrt(area / math.pi))


@cache
def _measure(shape: Shape) -> tuple[float, float]:
    """Reach and area, from a grid of 0.01 units."""
    axis = np.arange(-1.6, 1.6, 0.01, dtype=np.float32)
    x, y = np.meshgrid(axis, axis)
    inside = shape.distance(x, y) < 0
    return float(np.hypot(x, y)[inside].max()), float(inside.sum()) * 1e-4


@dataclass(frozen=True)
class Family:
    """Shapes that occur together; a label is an index into ``shapes``.

    Attributes:
        name: "base" or "new".
        code: enters the seed of its scenes.
        shapes: in label order.
    """

    name: str
    code: int
    shapes: tuple[Shape, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        """Shape names in label order."""
        return tuple(shape.name for shape in self.shapes)


BASE = Family(
    "base",
    1,
    (
        Shape("circle", circle),
        Shape("square", square),
        Shape("triangle", triangle),
        Shape("star", star),
        Shape("ring", ring),
        Shape("cross", cross),
        Shape("heart", heart),
        Shape("crescent", crescent),
        Shape("arrow", arrow),
        Shape("bar", bar),
        Shape("semicircle", semicircle),
        Shape("diamond", diamond),
    ),
)
NEW = Family(
    "new",
    2,
    (
        Shape("drop", drop),
        Shape("bowtie", bowtie),
        Shape("clover", clover),
        Shape("bolt", bolt),
        Shape("corner", corner),
        Shape("pie", pie),
        Shape("frame", frame),
    ),
)
FAMILIES = {family.name: family for family in (BASE, NEW)}
