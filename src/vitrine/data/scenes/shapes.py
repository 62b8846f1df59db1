"""The shapes of the two families, and how large each is drawn."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np

from vitrine.data.scenes import distances

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
    distance: distances.Distance

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
        Shape("circle", distances.circle),
        Shape("square", distances.square),
        Shape("triangle", distances.triangle),
        Shape("star", distances.star),
        Shape("ring", distances.ring),
        Shape("cross", distances.cross),
        Shape("heart", distances.heart),
        Shape("crescent", distances.crescent),
        Shape("arrow", distances.arrow),
        Shape("bar", distances.bar),
        Shape("semicircle", distances.semicircle),
        Shape("diamond", distances.diamond),
    ),
)
NEW = Family(
    "new",
    2,
    (
        Shape("drop", distances.drop),
        Shape("bowtie", distances.bowtie),
        Shape("clover", distances.clover),
        Shape("bolt", distances.bolt),
        Shape("corner", distances.corner),
        Shape("pie", distances.pie),
        Shape("frame", distances.frame),
    ),
)
FAMILIES = {family.name: family for family in (BASE, NEW)}
