"""A scene with all that is known of it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vitrine.data.scenes.captions import Caption, Fact, write_captions
from vitrine.data.scenes.layout import Layout
from vitrine.data.scenes.painting import Painted


@dataclass(frozen=True, eq=False)
class SceneObject:
    """One object of a scene.

    Attributes:
        shape: name of its shape.
        colour: name of its colour.
        size: "large" (the main object) or "small".
        centre: (x, y) of its full mask's centre of mass, in pixels from the top left corner.
        angle: clockwise turn, in degrees from 0 to 360.
        mask: bool (H, W), the part that is seen.
        full_mask: bool (H, W), the whole object, hidden parts included.
    """

    shape: str
    colour: str
    size: str
    centre: tuple[float, float]
    angle: float
    mask: npt.NDArray[np.bool_]
    full_mask: npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Scene:
    """A picture and the facts it was drawn from.

    Attributes:
        pixels: uint8 (H, W, 3), RGB.
        objects: the main (largest) one first.
        label: index of the main object's shape in its family.
        captions: differently worded, all true.
    """

    pixels: npt.NDArray[np.uint8]
    objects: tuple[SceneObject, ...]
    label: int
    captions: tuple[Caption, ...]

    @property
    def label_map(self) -> npt.NDArray[np.uint8]:
        """uint8 (H, W): 0 background, i the visible part of ``objects[i - 1]``."""
        result = np.zeros(self.pixels.shape[:2], dtype=np.uint8)
        for rank, item in enumerate(self.objects, start=1):
            result[item.mask] = rank
        return result


def build_scene(layout: Layout, painted: Painted) -> Scene:
    """Joins what was planned and what was painted."""
    objects = []
    for rank, index in enumerate(painted.kept):
        placed = layout.objects[index]
        full_HW = np.zeros(painted.owner_HW.shape, dtype=bool)
        full_HW[painted.windows[rank]] = painted.insides[rank]
        rows, columns = np.nonzero(full_HW)
        objects.append(
            SceneObject(
                shape=placed.shape.name,
                colour=placed.colour,
                size="large" if rank == 0 else "small",
                centre=(float(columns.mean()) + 0.5, float(rows.mean()) + 0.5),
                angle=math.degrees(placed.angle),
                mask=painted.owner_HW == rank + 1,
                full_mask=full_HW,
            )
        )
    facts = [Fact(item.shape, item.colour, item.size, item.centre) for item in objects]
    captions = write_captions(facts, extent=painted.owner_HW.shape[0])
    return Scene(painted.pixels_HWC, tuple(objects), layout.label, captions)
