"""From a layout to pixels and masks."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vitrine.data.scenes.backdrop import axis, background, dim, distract
from vitrine.data.scenes.distances import Floats
from vitrine.data.scenes.layout import Layout, Placed

MAIN_VISIBLE = 0.75  # smallest visible part of the main object
OTHER_VISIBLE = 0.6  # a further object of which less would be seen is left out


@dataclass(frozen=True)
class _Stamp:
    """One object's coverage (h, w) in 0 to 1 within the window that bounds it."""

    window: tuple[slice, slice]
    cover_HW: Floats
    inside_HW: npt.NDArray[np.bool_]
    across_W: Floats
    down_H: Floats


@dataclass(frozen=True)
class Painted:
    """A painted scene.

    Attributes:
        pixels_HWC: uint8 (H, W, 3).
        owner_HW: uint8 (H, W): 0 background, i the visible part of object i - 1.
        kept: indices into the layout's objects of those that were painted, main first.
        windows: for every kept object the window that bounds it.
        insides: for every kept object its full mask within that window.
    """

    pixels_HWC: npt.NDArray[np.uint8]
    owner_HW: npt.NDArray[np.uint8]
    kept: tuple[int, ...]
    windows: tuple[tuple[slice, slice], ...]
    insides: tuple[npt.NDArray[np.bool_], ...]


def paint(rng: np.random.Generator, layout: Layout, size: int) -> Painted:
    """Paints a layout; ``rng`` goes on where the layout's draws ended."""
    stamps = [_stamp(placed, size) for placed in layout.objects]
    owner_HW, order = _stack(stamps, layout.order, size)
    kept = tuple(sorted(order))
    rgb_N3 = np.stack([layout.objects[index].rgb for index in kept])
    canvas_CHW = background(rng, size, rgb_N3)
    distract(rng, canvas_CHW)
    dim(canvas_CHW)
    for index in order:
        _apply(canvas_CHW, layout.objects[index], stamps[index])
    strength = 6 + 24 * rng.random()
    grain_CHW = rng.integers(0, 256, canvas_CHW.shape, dtype=np.uint8)
    canvas_CHW += grain_CHW * np.float32(2 * strength / 255)
    canvas_CHW += 0.5 - strength  # the half rounds to the nearest level
    pixels_CHW = np.clip(canvas_CHW, 0, 255).astype(np.uint8)
    return Painted(
        pixels_HWC=np.ascontiguousarray(pixels_CHW.transpose(1, 2, 0)),
        owner_HW=owner_HW,
        kept=kept,
        windows=tuple(stamps[index].window for index in kept),
        insides=tuple(stamps[index].inside_HW for index in kept),
    )


def _stamp(placed: Placed, size: int) -> _Stamp:
    scale = placed.radius / placed.shape.effective_radius  # pixels per unit of the shape
    reach = scale * placed.shape.reach + 1
    left, right = max(int(placed.x - reach), 0), min(int(placed.x + reach) + 1, size)
    top, bottom = max(int(placed.y - reach), 0), min(int(placed.y + reach) + 1, size)
    across_W = axis(size)[left:right] - placed.x
    down_H = axis(size)[top:bottom, None] - placed.y
    cosine, sine = math.cos(placed.angle) / scale, math.sin(placed.angle) / scale
    x_HW = cosine * across_W + sine * down_H
    y_HW = cosine * down_H - sine * across_W
    if placed.mirrored:
        np.negative(y_HW, out=y_HW)
    distance_HW = placed.shape.distance(x_HW, y_HW)
    distance_HW *= -scale
    distance_HW += 0.5
    cover_HW = np.clip(distance_HW, 0, 1)
    window = (slice(top, bottom), slice(left, right))
    return _Stamp(window, cover_HW, cover_HW > 0.5, across_W, down_H)


def _stack(stamps: list[_Stamp], order: tuple[int, ...], size: int) -> tuple[npt.NDArray[np.uint8], tuple[int, ...]]:
    """Who is seen at every pixel, and the order in which that holds.

    The main object comes to the front where too little of it would be seen; then further objects of which too
    little is seen are left out, from the last one on.
    """
    while True:
        owner_HW = np.zeros((size, size), dtype=np.uint8)
        ranks = {index: rank for rank, index in enumerate(sorted(order), start=1)}
        for index in order:
            owner_HW[stamps[index].window][stamps[index].inside_HW] = ranks[index]
        seen = np.bincount(owner_HW.ravel(), minlength=len(stamps) + 1)
        parts = {index: seen[ranks[index]] / np.count_nonzero(stamps[index].inside_HW) for index in order}
        hidden = [index for index in sorted(order)[1:] if parts[index] < OTHER_VISIBLE]
        if parts[0] < MAIN_VISIBLE:
            order = (*(index for index in order if index != 0), 0)
        elif hidden:
            order = tuple(index for index in order if index != hidden[-1])
        else:
            return owner_HW, order


def _apply(canvas_CHW: Floats, placed: Placed, stamp: _Stamp) -> None:
    """Blends one object with its shading into the canvas, in place."""
    window_CHW = canvas_CHW[:, stamp.window[0], stamp.window[1]]
    slope = placed.shade / placed.radius
    light_HW = (slope * math.cos(placed.shade_angle)) * stamp.across_W + (
        slope * math.sin(placed.shade_angle)
    ) * stamp.down_H
    colour_CHW = light_HW + placed.rgb[:, None, None]
    colour_CHW -= window_CHW
    colour_CHW *= stamp.cover_HW
    window_CHW += colour_CHW
