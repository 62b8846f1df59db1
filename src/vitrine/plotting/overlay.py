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
from vitrine.plotting.colormap import Scale, paint
from vitrine.plotting.panel_axes import PanelAxes
from vitrine.plotting.style import DPI, EMPTY, GREY, HAIRLINE, INK

Floats = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.uint8]
Patch = tuple[int, int]

RULER = 6.5  # points of the numbers of rows and columns


def draw_photo(axes: Axes, photo_HWC: Pixels, placement: Placement, *, query: Patch | None = None) -> Axes:
    """The photograph, with what the model did not see faded and hatched; ``query``: a patch that has a frame."""
    photo = _raster(axes, photo_HWC, placement)
    _outline(axes, placement, (), query)
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
    query: Patch | None = None,
    contour: bool = False,
) -> Axes:
    """Draw a map over its photograph into any axes.

    Paint covers it the more, the farther a value is from the one that favours no patch; there the photograph has its
    own colours. What the model did not see is faded and hatched.

    Args:
        axes: drawn into; its coordinates become the photograph's pixels.
        photo_HWC: uint8 (H, W, 3), upright; or a smaller copy of the photograph.
        map_RC: (R, C) in the scale's unit; NaN is drawn without colour.
        placement: where the patches lie.
        scale: what the colours mean.
        smooth: between the middles of patches, or patches as they are.
        outlines: patches (row, column) to outline.
        query: the patch that looks, which has a frame.
        contour: draw a line where the map crosses the value that favours no patch.

    Returns:
        The axes.

    Raises:
        ValueError: map or photograph have another shape than the placement's.
    """
    photo = _raster(axes, photo_HWC, placement)
    values = placement.to_image(map_RC, smooth, photo.shape[:2])
    scale = scale.for_map(map_RC)
    colours, opacity = paint(scale.distances(np.nan_to_num(values, nan=scale.neutral)))
    pixels = photo + opacity * (colours - photo)
    if contour:
        pixels = _with_contour(pixels, values, scale.neutral)
    _outline(axes, placement, outlines, query)
    return _finish(axes, _with_unseen(pixels, photo, placement), placement)


def draw_map(
    axes: Axes,
    map_RC: npt.ArrayLike,
    placement: Placement,
    scale: Scale,
    *,
    outlines: Sequence[Patch] = (),
    query: Patch | None = None,
) -> Axes:
    """The map alone on white, patches as they are, with their rows and columns numbered from 0.

    They lie where they do on the photograph; arguments as :func:`draw_overlay`.
    """
    values = placement.to_image(map_RC, smooth=False, shape=_size(axes, placement))
    pixels = scale.colormap(scale.for_map(map_RC).norm(np.nan_to_num(values)))[..., :3]
    pixels[np.isnan(values)] = to_rgb(EMPTY)
    _outline(axes, placement, outlines, query)
    _finish(axes, pixels, placement)
    _number_patches(axes, placement)
    return axes


def _number_patches(axes: Axes, placement: Placement) -> None:
    """Number rows and columns from 0 outside of the axes: all of a few, and of many what leaves room."""
    left, top, right, bottom = placement.geometry.box
    rows, columns = placement.rows, placement.columns
    box, (width, height) = axes.get_window_extent(), (placement.geometry.width, placement.geometry.height)
    for axis, count, start, end, inches in (
        (axes.xaxis, columns, left, right, box.width / DPI * (right - left) / width),
        (axes.yaxis, rows, top, bottom, box.height / DPI * (bottom - top) / height),
    ):
        step = next((step for step in (1, 2, 5, 10, 20, 50) if step * inches / count >= 0.17), 100)
        numbers = range(0, count, step)
        axis.set_ticks([start + (n + 0.5) * (end - start) / count for n in numbers], labels=[str(n) for n in numbers])
    axes.tick_params(length=0, pad=2, labelsize=RULER, labelcolor=GREY)
    axes.set(xlim=(0, width), ylim=(height, 0))
    for spine in axes.spines.values():
        spine.set(visible=True, color=HAIRLINE, linewidth=0.6)


def _with_contour(pixels: npt.NDArray[Any], values: npt.NDArray[Any], neutral: float) -> npt.NDArray[Any]:
    """Pixels with a white line, dark at its rims, where values cross neutral."""
    line, rim = contour_masks(values, neutral)
    pixels = np.where(rim[..., None], to_rgb(INK), pixels)
    return np.where(line[..., None], 1.0, pixels)


def contour_masks(values_HW: npt.ArrayLike, neutral: float) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Which pixels the contour's line covers, and its wider rim: those near one with a neighbour on the other side.

    Values that are not numbers have no side.
    """
    values = np.asarray(values_HW, dtype=np.float64)
    is_above, edge = values > neutral, np.zeros(values.shape, bool)
    is_number = np.isfinite(values)
    down = (is_above[1:] != is_above[:-1]) & is_number[1:] & is_number[:-1]
    across = (is_above[:, 1:] != is_above[:, :-1]) & is_number[:, 1:] & is_number[:, :-1]
    edge[:-1] |= down
    edge[:, :-1] |= across
    reach = max(1, round(min(values.shape) / 250))
    return _grow(edge, reach - 1), _grow(edge, reach)


def _grow(mask: npt.NDArray[np.bool_], reach: int) -> npt.NDArray[np.bool_]:
    """A mask with all pixels at most ``reach`` rows and columns away."""
    for axis in (0, 1):
        wider = mask.copy()
        for step in range(1, reach + 1):
            ahead, behind = [slice(None)] * 2, [slice(None)] * 2
            ahead[axis], behind[axis] = slice(step, None), slice(None, -step)
            wider[tuple(ahead)] |= mask[tuple(behind)]
            wider[tuple(behind)] |= mask[tuple(ahead)]
        mask = wider
    return mask


def _size(axes: Axes, placement: Placement) -> tuple[int, int]:
    """Pixel rows and columns of a drawing of the whole photograph that fills the axes."""
    width, height = placement.geometry.width, placement.geometry.height
    if (whole := _filled_pixels(axes, placement)) is not None:
        return whole
    box = axes.get_window_extent()
    zoom = min(box.width / width, box.height / height)
    return max(1, round(height * zoom)), max(1, round(width * zoom))


def _filled_pixels(axes: Axes, placement: Placement) -> tuple[int, int] | None:
    """Pixel rows and columns of axes that the photograph fills, its sides rounded to whole pixels; else None."""
    whole = axes.whole_pixels() if isinstance(axes, PanelAxes) else None
    if whole is None:
        return None
    width, height = placement.geometry.width, placement.geometry.height
    return whole if abs(whole[0] * width - whole[1] * height) <= max(width, height) else None


def drawn_photo(axes: Axes, photo_HWC: Pixels, placement: Placement) -> Pixels:
    """The photograph with as many pixels as are drawn in these axes; a tiny one keeps its square pixels.

    Raises:
        ValueError: the photograph has another shape than the placement's.
    """
    rows, columns = photo_HWC.shape[:2]
    width, height = placement.geometry.width, placement.geometry.height
    if abs(rows * width - columns * height) > max(width, height):  # a copy's short side is rounded by half a pixel
        raise ValueError(f"The photograph has {columns} x {rows} pixels; its placement is for {width} x {height}.")
    drawn_height, drawn_width = _size(axes, placement)
    way = Image.Resampling.NEAREST if drawn_width >= 3 * columns else Image.Resampling.LANCZOS
    return np.asarray(Image.fromarray(photo_HWC).resize((drawn_width, drawn_height), way, reducing_gap=2.0))


def _raster(axes: Axes, photo_HWC: Pixels, placement: Placement) -> Floats:
    """The photograph with as many pixels as are drawn, 0 to 1, in memory one colour after the other."""
    levels = np.moveaxis(drawn_photo(axes, photo_HWC, placement), -1, 0)
    planes: Floats = np.ascontiguousarray(levels, dtype=np.float32) / np.float32(255)
    raster: Floats = np.moveaxis(planes, 0, -1)
    return raster


def _with_unseen(pixels: npt.NDArray[Any], photo: Floats, placement: Placement) -> npt.NDArray[Any]:
    is_visible = placement.visible_mask(*photo.shape[:2])[..., None]
    return np.where(is_visible, pixels, 1 - 0.4 * (1 - photo))


def _finish(axes: Axes, pixels: npt.NDArray[Any], placement: Placement) -> Axes:
    width, height = placement.geometry.width, placement.geometry.height
    levels = np.ascontiguousarray(np.rint(np.clip(pixels, 0, 1) * 255).astype(np.uint8))
    if isinstance(axes, PanelAxes) and _filled_pixels(axes, placement) == levels.shape[:2]:
        axes.cover(levels, (0, width, height, 0), zorder=1)
    else:
        axes.imshow(levels, extent=(0, width, height, 0), aspect="equal", zorder=1)
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


def _outline(axes: Axes, placement: Placement, outlines: Sequence[Patch], query: Patch | None) -> None:
    if query is not None:
        left, top, right, bottom = placement.patch_box(*query)
        for frame in frames(left, top, right - left, bottom - top):
            axes.add_patch(frame)
    for row, column in outlines:
        left, top, right, bottom = placement.patch_box(row, column)
        axes.add_patch(apply_outline(Rectangle((left, top), right - left, bottom - top, zorder=4)))


def frames(left: float, top: float, width: float, height: float, **look: Any) -> list[Rectangle]:
    """The frame of the patch that looks: a white one, and a dark one on it."""
    style: dict[str, Any] = {"fill": False, "zorder": 5, "joinstyle": "miter"} | look
    return [
        Rectangle((left, top), width, height, edgecolor=colour, linewidth=line, **style)
        for colour, line in (("white", 3.4), (INK, 1.5))
    ]


def apply_outline(patch: Any) -> Any:
    """Give a shape the outline of a marked patch, white with a dark rim to show on any colour, and return it."""
    patch.set(fill=False, edgecolor="white", linewidth=0.8, path_effects=[withStroke(linewidth=1.9, foreground=INK)])
    return patch
