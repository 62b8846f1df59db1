"""A map over its photograph, in axes.

Coordinates are those of :class:`vitrine.attribution.placement.Placement`. Letters: H, W pixel rows and columns; R, C
rows and columns of patches.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.patches import PathPatch, Rectangle
from matplotlib.path import Path as Outline
from matplotlib.patheffects import withStroke
from PIL import Image

from vitrine.attribution.placement import Placement
from vitrine.plotting.colormap import Scale
from vitrine.plotting.style import EMPTY, GREY, INK

Floats = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.uint8]
Patch = tuple[int, int]

_LUMA = np.array([0.2126, 0.7152, 0.0722], dtype=np.float32)  # Rec. 709


def draw_photo(axes: Axes, photo_HWC: Pixels, placement: Placement) -> Axes:
    """The photograph, with what the model did not see faded and hatched."""
    photo = _raster(axes, photo_HWC, placement)
    return _finish(axes, _with_unseen(photo, photo, placement), placement)


def draw_overlay(
    axes: Axes,
    photo_HWC: Pixels,
    map_RC: npt.ArrayLike,
    placement: Placement,
    scale: Scale,
    *,
    smooth: bool = True,
    outlines: Sequence[Patch] = (),
) -> Axes:
    """Draw a map over its photograph into any axes.

    The photograph is dimmed and nearly grey; colour covers it the more, the larger the value, so that what has none
    stays in sight. What the model did not see is faded and hatched.

    Args:
        axes: drawn into; its coordinates become the photograph's pixels.
        photo_HWC: uint8 (H, W, 3), upright; or a smaller copy of the photograph.
        map_RC: (R, C) in the scale's unit; NaN is drawn without colour.
        placement: where the patches lie.
        scale: what the colours mean.
        smooth: between the middles of patches, or patches as they are.
        outlines: patches (row, column) to outline.

    Returns:
        The axes.

    Raises:
        ValueError: map or photograph have another shape than the placement's.
    """
    photo = _raster(axes, photo_HWC, placement)
    values = placement.to_image(map_RC, smooth, photo.shape[:2])
    at = np.asarray(scale.for_map(map_RC).norm(np.nan_to_num(values)), dtype=np.float32)
    share = np.abs(2 * at - 1) if scale.kind == "lost" else at
    opacity = np.where(np.isnan(values), 0, 0.92 * share**0.7)[..., None]
    dimmed_photo = 0.05 + 0.47 * (0.7 * (photo @ _LUMA)[..., None] + 0.3 * photo)
    pixels = (1 - opacity) * dimmed_photo + opacity * scale.colormap(at)[..., :3]
    _outline(axes, placement, outlines)
    return _finish(axes, _with_unseen(pixels, photo, placement), placement)


def draw_map(
    axes: Axes, map_RC: npt.ArrayLike, placement: Placement, scale: Scale, *, outlines: Sequence[Patch] = ()
) -> Axes:
    """The map alone, patches as they are, where they lie on the photograph; arguments as :func:`draw_overlay`."""
    values = placement.to_image(map_RC, smooth=False, shape=_size(axes, placement))
    pixels = scale.colormap(scale.for_map(map_RC).norm(np.nan_to_num(values)))[..., :3]
    pixels[np.isnan(values)] = to_rgb(EMPTY)
    _outline(axes, placement, outlines)
    return _finish(axes, pixels, placement)


def _size(axes: Axes, placement: Placement) -> tuple[int, int]:
    """Pixel rows and columns of a drawing of the whole photograph that fills the axes."""
    box = axes.get_window_extent()
    width, height = placement.geometry.width, placement.geometry.height
    zoom = min(box.width / width, box.height / height)
    return max(1, round(height * zoom)), max(1, round(width * zoom))


def _raster(axes: Axes, photo_HWC: Pixels, placement: Placement) -> Floats:
    """The photograph with as many pixels as are drawn, 0 to 1; a tiny one keeps its square pixels."""
    rows, columns = photo_HWC.shape[:2]
    width, height = placement.geometry.width, placement.geometry.height
    if abs(rows * width - columns * height) > max(width, height):  # a copy's short side is rounded by half a pixel
        raise ValueError(f"The photograph has {columns} x {rows} pixels; its placement is for {width} x {height}.")
    drawn_height, drawn_width = _size(axes, placement)
    way = Image.Resampling.NEAREST if drawn_width >= 3 * columns else Image.Resampling.LANCZOS
    photo = Image.fromarray(photo_HWC).resize((drawn_width, drawn_height), way, reducing_gap=2.0)
    return np.asarray(photo, dtype=np.float32) / np.float32(255)


def _with_unseen(pixels: npt.NDArray[Any], photo: Floats, placement: Placement) -> npt.NDArray[Any]:
    is_visible = placement.visible_mask(*photo.shape[:2])[..., None]
    return np.where(is_visible, pixels, 1 - 0.4 * (1 - photo))


def _finish(axes: Axes, pixels: npt.NDArray[Any], placement: Placement) -> Axes:
    width, height = placement.geometry.width, placement.geometry.height
    axes.imshow(np.clip(pixels, 0, 1), extent=(0, width, height, 0), aspect="equal", zorder=1)
    axes.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set_visible(False)
    left, top, right, bottom = placement.visible_box
    if placement.visible_share < 1 - 1e-6:
        outer = [(0, 0), (width, 0), (width, height), (0, height), (0, 0)]
        inner = [(left, top), (left, bottom), (right, bottom), (right, top), (left, top)]  # the other way round: a hole
        around = Outline.make_compound_path(Outline(outer, closed=True), Outline(inner, closed=True))
        axes.add_patch(apply_hatching(PathPatch(around, zorder=2)))
        axes.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, ec=INK, lw=0.8, zorder=3))
    return axes


def apply_hatching(patch: Any) -> Any:
    """Give a shape the hatching of what the model did not see, and return it."""
    patch.set(facecolor="none", edgecolor=(*to_rgb(GREY), 0.55), linewidth=0, hatch="////")
    patch.set_hatch_linewidth(0.35)
    return patch


def _outline(axes: Axes, placement: Placement, outlines: Sequence[Patch]) -> None:
    for row, column in outlines:
        left, top, right, bottom = placement.patch_box(row, column)
        axes.add_patch(apply_outline(Rectangle((left, top), right - left, bottom - top, zorder=4)))


def apply_outline(patch: Any) -> Any:
    """Give a shape the outline of a marked patch, white with a dark rim to show on any colour, and return it."""
    patch.set(fill=False, edgecolor="white", linewidth=0.8, path_effects=[withStroke(linewidth=1.9, foreground=INK)])
    return patch
