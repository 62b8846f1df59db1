"""Figures of patch features: components as colours, regions, similarity, beside the photograph; and sheets of many.

Axes: H, W pixel rows and columns; R, C rows and columns of patches.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from vitrine.attribution.placement import Placement
from vitrine.plotting.colormap import number
from vitrine.plotting.overlay import apply_outline, draw_photo
from vitrine.plotting.style import (
    EMPTY,
    GREY,
    HAIRLINE,
    LINE,
    SHARES,
    SMALL,
    Grid,
    add_axes,
    add_text,
    arrange_panels,
    figure_style,
    panel_grid,
    save,
    shorten,
)

Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]
Pixels = npt.NDArray[np.uint8]
Patch = tuple[int, int]

# Colours of regions: light and dark by turns, from Okabe and Ito (2008) and P. Tol's bright scheme, told apart with
# common colour blindness; beyond their number they are repeated, and the figure's words say so.
REGION_COLOURS = (
    "#0072b2",
    "#e69f00",
    "#009e73",
    "#cc79a7",
    "#56b4e9",
    "#d55e00",
    "#f0e442",
    "#332288",
    "#bbbbbb",
    "#000000",
)
_COMPONENTS = (("first", "#d62728"), ("second", "#2ca02c"), ("third", "#1f77b4"))
_OUTLIER = "#8a939c"
PAIRS_OF_A_SHEET = 24


@dataclass(frozen=True, eq=False)
class FeaturePicture:
    """A photograph with what was computed of its patches.

    Attributes:
        photo_HWC: uint8 (H, W, 3), upright; or a smaller copy.
        placement: where the patches lie.
        name: of the picture.
        colours_RC3: float32, 0 to 1: red, green and blue are the first three components.
        outliers_RC: bool; drawn grey.
        foreground_RC: bool; what is not is drawn pale. None colours all.
        regions_RC: int64 from 0; None where there are none.
        similarity_RC: float32, cosine with the asked patch; None where none was asked.
        query: the patch that was asked for, where it is in this picture.
    """

    photo_HWC: Pixels
    placement: Placement
    name: str
    colours_RC3: Floats
    outliers_RC: Bools
    foreground_RC: Bools | None = None
    regions_RC: npt.NDArray[np.int64] | None = None
    similarity_RC: Floats | None = None
    query: Patch | None = None


@dataclass(frozen=True)
class FeatureWords:
    """What the figures of a call say.

    Attributes:
        detail: model, layer and what was fitted, in grey under the title.
        variance_shares: share of the variance along each component, 0 to 1.
        query: the patch that similarities are with, in words; "" without.
        lowest: where the colours of similarities begin.
    """

    detail: str
    variance_shares: tuple[float, ...]
    query: str = ""
    lowest: float = 0.0


def save_feature_figure(picture: FeaturePicture, words: FeatureWords, path: Path, metadata: Mapping[str, str]) -> None:
    """Write one picture's figure as PNG or SVG."""
    with figure_style():
        save(feature_figure(picture, words), path, metadata)


def feature_figure(picture: FeaturePicture, words: FeatureWords) -> Figure:
    """The photograph, its components as colours, and where there are any its regions and similarities."""
    panels: list[tuple[str, Callable[[Axes], object]]] = [
        ("photograph", lambda axes: _photo(axes, picture)),
        ("components as colours", lambda axes: draw_components(axes, picture)),
    ]
    if picture.regions_RC is not None:
        panels.append(("regions", lambda axes: draw_regions(axes, picture)))
    if picture.similarity_RC is not None:
        panels.append(("similarity to the asked patch", lambda axes: draw_similarity(axes, picture, words.lowest)))
    geometry = picture.placement.geometry
    names = [shorten(name, 40) for name, _ in panels]
    with figure_style():
        columns, size = arrange_panels(len(panels), geometry.width / geometry.height, len(panels), 4.2)
        grid = panel_grid(names, columns, size, title=picture.name, detail=_detail(picture, words), least=6.0)
        for (_, draw), box in zip(panels, grid.boxes, strict=True):
            draw(add_axes(grid.figure, *box))
        _keys(grid, words, has_similarity=picture.similarity_RC is not None)
        return grid.figure


def _detail(picture: FeaturePicture, words: FeatureWords) -> str:
    notes = [words.detail]
    if words.query:
        notes.append(f"The asked patch: {words.query}.")
    outliers = int(picture.outliers_RC.sum())
    if outliers:
        notes.append(f"Grey: {outliers} outlier token{'s' * (outliers > 1)}, left out of what was fitted.")
    if picture.foreground_RC is not None:
        notes.append(f"Pale: background, {100 * (1 - picture.foreground_RC.mean()):.0f} % of the patches.")
    if picture.placement.visible_share < 1 - 1e-6:
        notes.append("Hatched: not seen by the model.")
    return "\n".join([notes[0], " ".join(notes[1:])] if notes[1:] else notes)


def draw_components(axes: Axes, picture: FeaturePicture) -> Axes:
    """Patches in the colours of their components, as they are, where they lie on the photograph."""
    colours_RC3 = picture.colours_RC3.copy()
    if picture.foreground_RC is not None:
        colours_RC3[~picture.foreground_RC] = to_rgb(EMPTY)
    colours_RC3[picture.outliers_RC] = to_rgb(_OUTLIER)
    return _draw_patches(axes, picture, colours_RC3)


def draw_regions(axes: Axes, picture: FeaturePicture) -> Axes:
    """Patches in the colour of their region."""
    assert picture.regions_RC is not None
    table = np.array([to_rgb(colour) for colour in REGION_COLOURS], dtype=np.float32)
    return _draw_patches(axes, picture, table[picture.regions_RC % len(table)])


def draw_similarity(axes: Axes, picture: FeaturePicture, lowest: float = 0.0) -> Axes:
    """Patches dark where they are like the asked one, which is framed where it is in this picture."""
    assert picture.similarity_RC is not None
    colours_RC4 = SHARES(Normalize(lowest, 1, clip=True)(picture.similarity_RC))
    _draw_patches(axes, picture, np.asarray(colours_RC4[..., :3], dtype=np.float32))
    _frame(axes, picture)
    return axes


def _photo(axes: Axes, picture: FeaturePicture) -> Axes:
    draw_photo(axes, picture.photo_HWC, picture.placement)
    _frame(axes, picture)
    return axes


def _frame(axes: Axes, picture: FeaturePicture) -> None:
    if picture.query is not None:
        left, top, right, bottom = picture.placement.patch_box(*picture.query)
        axes.add_patch(apply_outline(Rectangle((left, top), right - left, bottom - top, zorder=4)))


def _draw_patches(axes: Axes, picture: FeaturePicture, colours_RC3: Floats) -> Axes:
    """Colours of patches where they lie; the photograph, faded and hatched, where the model saw nothing."""
    placement = picture.placement
    draw_photo(axes, picture.photo_HWC, placement)
    shape = (max(1, placement.geometry.height), max(1, placement.geometry.width))
    scale = min(1.0, 900 / max(shape))
    shape = (max(1, round(shape[0] * scale)), max(1, round(shape[1] * scale)))
    channels = [placement.to_image(colours_RC3[..., channel], smooth=False, shape=shape) for channel in range(3)]
    pixels = np.stack(channels, axis=-1)
    opaque = np.concatenate([np.nan_to_num(pixels), (~np.isnan(pixels[..., :1])).astype(np.float32)], axis=-1)
    axes.imshow(
        opaque,
        extent=(0, placement.geometry.width, placement.geometry.height, 0),
        aspect="equal",
        interpolation="nearest",
        zorder=1.5,
    )
    axes.set(xlim=(0, placement.geometry.width), ylim=(placement.geometry.height, 0))
    return axes


def _keys(grid: Grid, words: FeatureWords, *, has_similarity: bool) -> None:
    """What the colours mean, to the right of the panels."""
    left, foot = grid.bar
    top = foot + grid.bar_length
    add_text(grid.figure, left, top + 0.07, "components", fontsize=SMALL, color=GREY)
    for index, ((name, colour), share) in enumerate(zip(_COMPONENTS, words.variance_shares, strict=False)):
        up = top - 0.12 - LINE * index
        _swatch(grid.figure, left, up, colour)
        add_text(grid.figure, left + 0.15, up, f"{name}, {100 * share:.0f} %", fontsize=SMALL, color=GREY)
    if has_similarity:
        length = max(0.3, grid.bar_length - LINE * len(words.variance_shares) - 0.55)
        _similarity_bar(grid, words, (left, foot), length)


def _swatch(figure: Figure, left: float, up: float, colour: str) -> None:
    width, height = figure.get_size_inches()
    box = Rectangle(
        (left / width, up / height),
        0.09 / width,
        0.09 / height,
        transform=figure.transFigure,
        facecolor=colour,
        linewidth=0,
    )
    figure.add_artist(box)


def _similarity_bar(grid: Grid, words: FeatureWords, at: tuple[float, float], length: float) -> None:
    axes = add_axes(grid.figure, *at, 0.13, length)
    add_text(grid.figure, at[0], at[1] + length + 0.09, "cosine similarity", fontsize=SMALL, color=GREY)
    bar = grid.figure.colorbar(ScalarMappable(Normalize(words.lowest, 1), SHARES), cax=axes)
    bar.outline.set(edgecolor=HAIRLINE, linewidth=0.8)
    bar.set_ticks([words.lowest, (1 + words.lowest) / 2, 1])
    axes.set_yticklabels([number(value) for value in (words.lowest, (1 + words.lowest) / 2, 1)])
    axes.tick_params(length=0, pad=4, labelsize=SMALL, labelcolor=GREY)


def save_feature_sheet(
    pictures: Sequence[FeaturePicture], words: FeatureWords, path: Path, metadata: Mapping[str, str], *, title: str
) -> None:
    """Write a sheet of pictures, each with its components as colours beside it, or its similarities where asked."""
    with figure_style():
        save(feature_sheet(pictures, words, title=title), path, metadata)


def feature_sheet(pictures: Sequence[FeaturePicture], words: FeatureWords, *, title: str) -> Figure:
    """Pairs of photograph and components (and similarity to the asked patch), in rows.

    Raises:
        ValueError: there is no picture.
    """
    if not pictures:
        raise ValueError("A sheet needs a picture at least.")
    has_similarity = pictures[0].similarity_RC is not None
    each = 3 if has_similarity else 2
    across = min(len(pictures), 4 if each == 2 else 2)
    names = [name for picture in pictures for name in [shorten(picture.name, 16), *[""] * (each - 1)]]
    side = min(1.6, (9.0 - 1.7) / (across * each) - 0.12)
    with figure_style():
        detail = (
            words.detail if not words.query else f"{words.detail}\nThird of each: similarity to {words.query}, framed."
        )
        grid = panel_grid(names, across * each, (side, side), title=title, detail=detail)
        boxes = iter(grid.boxes)
        for picture in pictures:
            _photo(add_axes(grid.figure, *next(boxes)), picture)
            draw_components(add_axes(grid.figure, *next(boxes)), picture)
            if has_similarity:
                draw_similarity(add_axes(grid.figure, *next(boxes)), picture, words.lowest)
        _keys(grid, words, has_similarity=has_similarity)
        return grid.figure
