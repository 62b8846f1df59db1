"""Scenes: a layout of objects is drawn at random, painted, and kept with masks and captions that are true of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from vitrine.data.scenes.background import REFERENCE_SIZE, add_distractors, background, dim, draw_colours
from vitrine.data.scenes.captions import Caption, ObjectFacts, write_captions
from vitrine.data.scenes.shapes import REACH, Family, Floats, Shape

SPLIT_CODES = {"train": 0, "validation": 1, "test": 2}

# Effective radii, in pixels of a picture of REFERENCE_SIZE. The main object's are "large", all others "small":
# 26 to 38 pixels across against at most 0.62 of the main object's.
_MAIN_RADIUS = (13.0, 19.0)
_OTHER_RADIUS = (0.45, 0.62)
_TRIES = 8

Placement = Literal["inside", "anywhere"]
"""Where the main object lies: wholly inside of the picture, and so near its middle, or anywhere: its centre comes so
near to the border that up to a fifth of it may be cut off."""

# How near to the border the main object's centre comes, in its effective radii: a bound for all shapes and turns, so
# that the place says nothing about the shape. Anywhere, the worst of them in a corner still shows 0.79 of itself.
_BORDER = {"inside": REACH, "anywhere": 0.8}


@dataclass(frozen=True)
class PlacedShape:
    """One object before it is painted.

    Attributes:
        shape: its shape.
        colour: its colour's name.
        rgb: its colour (3,), 0 to 255.
        radius: effective radius in pixels.
        x, y: centre in pixels.
        angle: clockwise turn in radians.
        mirror: whether its mirror image is drawn.
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
    mirror: bool
    shade: float
    shade_angle: float


@dataclass(frozen=True)
class Layout:
    """A scene's objects, main first, and the order they are painted in (indices, back to front)."""

    label: int
    objects: tuple[PlacedShape, ...]
    order: tuple[int, ...]


def scene_generator(family: Family, seed: int, split: str, index: int) -> np.random.Generator:
    """The random numbers of one scene, from its beginning."""
    entropy = (seed, family.code, SPLIT_CODES[split], index)
    return np.random.Generator(np.random.SFC64(np.random.SeedSequence(entropy)))


def draw_label(rng: np.random.Generator, family: Family) -> int:
    """The first draw of a scene: the shape of its main object."""
    return int(rng.random() * len(family.shapes))


def draw_layout(rng: np.random.Generator, family: Family, size: int, placement: Placement = "inside") -> Layout:
    """Draws the objects of a scene of ``size`` pixels a side; ``rng`` must be fresh.

    Wherever the main object may lie, its shape and size are the same.
    """
    label = draw_label(rng, family)
    unit = size / REFERENCE_SIZE
    count, radius, x, y, front = rng.random(5).tolist()
    radius = unit * (_MAIN_RADIUS[0] + (_MAIN_RADIUS[1] - _MAIN_RADIUS[0]) * radius)
    margin = _BORDER[placement] * radius + 1
    spots = [(margin + (size - 2 * margin) * x, margin + (size - 2 * margin) * y, radius)]
    shapes = [family.shapes[label]]
    for _ in range(1 if count < 0.4 else 2 if count < 0.75 else 0):
        spot = _other_spot(rng, size, spots)
        shape = family.shapes[int(rng.random() * len(family.shapes))]
        if spot is not None:
            spots.append(spot)
            shapes.append(shape)
    names, rgb_N3 = draw_colours(rng, len(spots))
    details = rng.random((len(spots), 4)).tolist()
    objects = tuple(
        PlacedShape(
            shape=shape,
            colour=name,
            rgb=rgb,
            radius=radius,
            x=x,
            y=y,
            angle=2 * math.pi * turn,
            mirror=mirror < 0.5,
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
    rng: np.random.Generator, size: int, spots: list[tuple[float, float, float]]
) -> tuple[float, float, float] | None:
    """Where and how large (x, y, radius) a further object is: often at the main object's edge, never far over it.

    None where no try found room.
    """
    main_x, main_y, main_radius = spots[0]
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
        gaps = (math.hypot(x - tx, y - ty) / (radius + tr) for tx, ty, tr in spots)
        if next(gaps) >= 0.78 and all(gap >= 0.95 for gap in gaps):
            return x, y, radius
    return None


MAIN_VISIBLE = 0.75  # smallest visible part of the main object, whether others or the border hide the rest
OTHER_VISIBLE = 0.6  # a further object of which less would be seen is left out


@dataclass(frozen=True)
class _Stamp:
    """One object's coverage (h, w) in 0 to 1 within the part of the picture that bounds it.

    Attributes:
        window: that part's rows and columns.
        cover_HW, inside_HW: the object there.
        across_W, down_H: pixels from its centre.
        pixels: of the whole object, what lies outside of the picture included.
    """

    window: tuple[slice, slice]
    cover_HW: Floats
    inside_HW: npt.NDArray[np.bool_]
    across_W: Floats
    down_H: Floats
    pixels: int


@dataclass(frozen=True)
class PaintedScene:
    """A painted scene.

    Attributes:
        pixels_HWC: uint8 (H, W, 3).
        owner_HW: uint8 (H, W): 0 background, i the visible part of object i - 1.
        visible: indices into the layout's objects of those that were painted, main first.
        windows: for every visible object the window that bounds it.
        insides: for every visible object its full mask within that window, which ends where the picture does.
    """

    pixels_HWC: npt.NDArray[np.uint8]
    owner_HW: npt.NDArray[np.uint8]
    visible: tuple[int, ...]
    windows: tuple[tuple[slice, slice], ...]
    insides: tuple[npt.NDArray[np.bool_], ...]


def paint(rng: np.random.Generator, layout: Layout, size: int) -> PaintedScene:
    """Paints a layout; ``rng`` goes on where the layout's draws ended."""
    stamps = [_stamp(item, size) for item in layout.objects]
    owner_HW, order = _stack(stamps, layout.order, size)
    visible = tuple(sorted(order))
    rgb_N3 = np.stack([layout.objects[index].rgb for index in visible])
    canvas_CHW = background(rng, size, rgb_N3)
    add_distractors(rng, canvas_CHW)
    dim(canvas_CHW)
    for index in order:
        _apply(canvas_CHW, layout.objects[index], stamps[index])
    strength = 6 + 24 * rng.random()
    grain_CHW = rng.integers(0, 256, canvas_CHW.shape, dtype=np.uint8)
    canvas_CHW += grain_CHW * np.float32(2 * strength / 255)
    canvas_CHW += 0.5 - strength  # the half rounds to the nearest level
    pixels_CHW = np.clip(canvas_CHW, 0, 255).astype(np.uint8)
    return PaintedScene(
        pixels_HWC=np.ascontiguousarray(pixels_CHW.transpose(1, 2, 0)),
        owner_HW=owner_HW,
        visible=visible,
        windows=tuple(stamps[index].window for index in visible),
        insides=tuple(stamps[index].inside_HW for index in visible),
    )


def _stamp(item: PlacedShape, size: int) -> _Stamp:
    scale = item.radius / item.shape.effective_radius  # pixels per unit of the shape
    reach = scale * item.shape.reach + 1
    left, right = math.floor(item.x - reach), math.floor(item.x + reach) + 1
    top, bottom = math.floor(item.y - reach), math.floor(item.y + reach) + 1
    across_W = _pixel_centres(left, right) - item.x
    down_H = _pixel_centres(top, bottom)[:, None] - item.y
    cosine, sine = math.cos(item.angle) / scale, math.sin(item.angle) / scale
    x_HW = cosine * across_W + sine * down_H
    y_HW = cosine * down_H - sine * across_W
    if item.mirror:
        np.negative(y_HW, out=y_HW)
    distance_HW = item.shape.distance(x_HW, y_HW)
    distance_HW *= -scale
    distance_HW += 0.5
    cover_HW = np.clip(distance_HW, 0, 1)
    window = (slice(max(top, 0), min(bottom, size)), slice(max(left, 0), min(right, size)))
    rows, columns = (
        slice(each.start - first, each.stop - first) for each, first in zip(window, (top, left), strict=True)
    )
    inside_HW = cover_HW > 0.5
    return _Stamp(
        window,
        cover_HW[rows, columns],
        inside_HW[rows, columns],
        across_W[columns],
        down_H[rows],
        int(np.count_nonzero(inside_HW)),
    )


def _pixel_centres(start: int, stop: int) -> Floats:
    """Of some pixels along one side, of which the picture's begin at 0."""
    return np.arange(start, stop, dtype=np.float32) + np.float32(0.5)


def _stack(stamps: list[_Stamp], order: tuple[int, ...], size: int) -> tuple[npt.NDArray[np.uint8], tuple[int, ...]]:
    """Which object is seen at every pixel, and the painting order for which that holds.

    The main object comes to the front where too little of it would be seen, what is cut off by the border included;
    then further objects of which too little is seen are left out, from the last one on.
    """
    while True:
        owner_HW = np.zeros((size, size), dtype=np.uint8)
        ranks = {index: rank for rank, index in enumerate(sorted(order), start=1)}
        for index in order:
            owner_HW[stamps[index].window][stamps[index].inside_HW] = ranks[index]
        seen_pixels = np.bincount(owner_HW.ravel(), minlength=len(stamps) + 1)
        parts = {index: seen_pixels[ranks[index]] / stamps[index].pixels for index in order}
        hidden_objects = [index for index in sorted(order)[1:] if parts[index] < OTHER_VISIBLE]
        if parts[0] < MAIN_VISIBLE and order[-1] != 0:
            order = (*(index for index in order if index != 0), 0)
        elif hidden_objects:
            order = tuple(index for index in order if index != hidden_objects[-1])
        else:
            return owner_HW, order


def _apply(canvas_CHW: Floats, item: PlacedShape, stamp: _Stamp) -> None:
    """Blends one object with its shading into the canvas, in place."""
    window_CHW = canvas_CHW[:, stamp.window[0], stamp.window[1]]
    slope = item.shade / item.radius
    light_HW = (slope * math.cos(item.shade_angle)) * stamp.across_W + (
        slope * math.sin(item.shade_angle)
    ) * stamp.down_H
    colour_CHW = light_HW + item.rgb[:, None, None]
    colour_CHW -= window_CHW
    colour_CHW *= stamp.cover_HW
    window_CHW += colour_CHW


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
        full_mask: bool (H, W), the whole object as far as it lies in the picture, parts behind others included.
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


def build_scene(layout: Layout, image: PaintedScene) -> Scene:
    """The scene of a layout and of what was painted of it."""
    objects = []
    for rank, index in enumerate(image.visible):
        shape = layout.objects[index]
        full_HW = np.zeros(image.owner_HW.shape, dtype=bool)
        full_HW[image.windows[rank]] = image.insides[rank]
        rows, columns = np.nonzero(full_HW)
        objects.append(
            SceneObject(
                shape=shape.shape.name,
                colour=shape.colour,
                size="large" if rank == 0 else "small",
                centre=(float(columns.mean()) + 0.5, float(rows.mean()) + 0.5),
                angle=math.degrees(shape.angle),
                mask=image.owner_HW == rank + 1,
                full_mask=full_HW,
            )
        )
    facts = [ObjectFacts(item.shape, item.colour, item.size, item.centre) for item in objects]
    captions = write_captions(facts, extent=image.owner_HW.shape[0])
    return Scene(image.pixels_HWC, tuple(objects), layout.label, captions)
