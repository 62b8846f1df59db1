"""Maps on the photograph: patches to pixels and back, whole areas, and agreement with the transform itself."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image
from support.inputs import square_input

from vitrine.attribution.placement import Placement
from vitrine.data.decode import decode
from vitrine.data.transforms import CropGeometry, EvalTransform

# R, C rows and columns of patches; H, W pixel rows and columns.

some = settings(max_examples=60, deadline=None)
few = settings(max_examples=25, deadline=None)
grids = st.integers(1, 30)


def eval_geometry(width: int, height: int, size: int, crop: float) -> CropGeometry:
    return EvalTransform(square_input(size, crop)).geometry(width, height)


@st.composite
def placements(draw: st.DrawFn, longest: int = 700, most: int = 30) -> Placement:
    """Any picture, crop, input size and grid."""
    width, height = draw(st.integers(1, longest)), draw(st.integers(1, longest))
    geometry = eval_geometry(
        width, height, draw(st.integers(8, 400)), draw(st.sampled_from([0.5, 0.875, 0.9, 0.95, 1.0]))
    )
    return Placement(geometry, draw(st.integers(1, most)), draw(st.integers(1, most)))


# --- patches and points


@some
@given(placements(), st.data())
def test_a_point_of_a_patch_lies_in_it(placement: Placement, data: st.DataObject) -> None:
    row = data.draw(st.integers(0, placement.rows - 1))
    column = data.draw(st.integers(0, placement.columns - 1))
    left, top, right, bottom = placement.patch_box(row, column)
    assert left < right
    assert top < bottom
    share = data.draw(st.floats(0.001, 0.999))
    assert placement.patch_at(left + share * (right - left), top + share * (bottom - top)) == (row, column)
    assert placement.patch_at(left, top) == (row, column)  # edges belong to the patch to the right and below
    assert placement.patch_at(*placement.centre(row, column)) == (row, column)
    assert placement.centre(row, column) == pytest.approx(((left + right) / 2, (top + bottom) / 2))


@some
@given(placements(), st.floats(0, 1), st.floats(0, 1))
def test_a_point_lies_in_the_box_of_its_patch_or_in_none(placement: Placement, across: float, down: float) -> None:
    x, y = across * placement.geometry.width, down * placement.geometry.height
    patch = placement.patch_at(x, y)
    left, top, right, bottom = placement.geometry.box
    if patch is None:
        assert not (left <= x < right and top <= y < bottom)
    else:
        its_left, its_top, its_right, its_bottom = placement.patch_box(*patch)
        assert its_left <= x < its_right
        assert its_top <= y < its_bottom


@some
@given(placements())
def test_patches_tile_what_the_model_saw(placement: Placement) -> None:
    geometry = placement.geometry
    first = placement.patch_box(0, 0)
    last = placement.patch_box(placement.rows - 1, placement.columns - 1)
    assert (*first[:2], *last[2:]) == pytest.approx(geometry.box)
    areas = [
        (right - left) * (bottom - top)
        for row in range(placement.rows)
        for left, top, right, bottom in [placement.patch_box(row, column) for column in range(placement.columns)]
    ]
    assert sum(areas) == pytest.approx(placement.visible_share * geometry.width * geometry.height)
    assert 0 < placement.visible_share <= 1 + 1e-12


def test_a_patch_worked_out_by_hand() -> None:
    """200 × 100 pixels, resized to 400 × 200 and cropped to the middle 160: seen are x 60 to 140 and y 10 to 90."""
    geometry = CropGeometry(200, 100, 400, 200, 120, 20, 160, 160)
    placement = Placement(geometry, 4, 8)
    assert placement.patch_box(0, 0) == (60, 10, 70, 30)
    assert placement.patch_box(3, 7) == (130, 70, 140, 90)
    assert placement.centre(1, 2) == (85, 40)
    assert placement.patch_at(85, 40) == (1, 2)
    assert placement.patch_at(59.9, 40) is None
    assert placement.patch_at(140, 40) is None
    assert placement.patch_at(85, 9.9) is None
    assert placement.visible_share == pytest.approx(80 * 80 / 20_000)
    assert placement.visible_HW.sum() == 80 * 80


def test_what_is_no_grid_or_no_patch_is_refused() -> None:
    geometry = eval_geometry(20, 30, 16, 1.0)
    with pytest.raises(ValueError, match="0 x 4"):
        Placement(geometry, 0, 4)
    for patch in ((4, 0), (0, 4), (-1, 0)):
        with pytest.raises(IndexError, match=r"4 x 4"):
            Placement(geometry, 4, 4).patch_box(*patch)


# --- maps in pixels


@some
@given(placements(longest=120), st.integers(0, 2**32 - 1))
def test_every_pixel_has_the_score_of_its_patch(placement: Placement, seed: int) -> None:
    scores_RC = np.random.default_rng(seed).normal(size=(placement.rows, placement.columns)).astype(np.float32)
    spread_HW = placement.to_image(scores_RC, smooth=False)
    geometry = placement.geometry
    assert spread_HW.shape == (geometry.height, geometry.width)
    assert spread_HW.dtype == np.float32
    assert np.array_equal(placement.visible_HW, ~np.isnan(spread_HW))
    for y in range(0, geometry.height, 7):
        for x in range(0, geometry.width, 5):
            patch = placement.patch_at(x + 0.5, y + 0.5)
            assert np.isnan(spread_HW[y, x]) if patch is None else spread_HW[y, x] == scores_RC[patch]


@some
@given(placements(longest=80, most=12), st.integers(0, 2**32 - 1))
def test_smooth_maps_are_bilinear_between_middles(placement: Placement, seed: int) -> None:
    """Against the formula for one point at a time."""
    scores_RC = np.random.default_rng(seed).normal(size=(placement.rows, placement.columns)).astype(np.float32)
    spread_HW = placement.to_image(scores_RC, smooth=True)
    left, top, right, bottom = placement.geometry.box
    for y, x in zip(*np.nonzero(placement.visible_HW), strict=True):
        down = np.clip((y + 0.5 - top) / (bottom - top) * placement.rows - 0.5, 0, placement.rows - 1)
        across = np.clip((x + 0.5 - left) / (right - left) * placement.columns - 0.5, 0, placement.columns - 1)
        r, c = int(down), int(across)
        below, beside = min(r + 1, placement.rows - 1), min(c + 1, placement.columns - 1)
        upper = scores_RC[r, c] * (1 - across + c) + scores_RC[r, beside] * (across - c)
        lower = scores_RC[below, c] * (1 - across + c) + scores_RC[below, beside] * (across - c)
        assert spread_HW[y, x] == pytest.approx(upper * (1 - down + r) + lower * (down - r), abs=2e-5)
    assert np.array_equal(placement.visible_HW, ~np.isnan(spread_HW))


def test_smooth_maps_equal_torch() -> None:
    """A photograph that is seen whole: bilinear upsampling as torch does it, with corners not aligned."""
    scores_RC = np.random.default_rng(0).normal(size=(6, 9)).astype(np.float32)
    placement = Placement(CropGeometry(63, 63, 63, 63, 0, 0, 63, 63), 6, 9)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(scores_RC)[None, None], size=(63, 63), mode="bilinear", align_corners=False
    )[0, 0].numpy()
    assert placement.to_image(scores_RC, smooth=True) == pytest.approx(expected, abs=1e-5)


@some
@given(placements(longest=100, most=9), st.floats(-5, 5, width=32))
def test_a_constant_map_is_constant_to_the_edges(placement: Placement, value: float) -> None:
    flat_HW = placement.to_image(np.full((placement.rows, placement.columns), value), smooth=True)
    assert flat_HW[placement.visible_HW] == pytest.approx(value, abs=1e-5)


def test_a_patch_without_a_score_does_not_touch_its_neighbours() -> None:
    placement = Placement(eval_geometry(64, 64, 64, 1.0), 8, 8)
    scores_RC = np.full((8, 8), 3.0)
    scores_RC[2, 5] = np.nan
    for smooth in (False, True):
        spread_HW = placement.to_image(scores_RC, smooth)
        hole_HW = np.zeros((64, 64), dtype=bool)
        hole_HW[16:24, 40:48] = True
        assert np.array_equal(np.isnan(spread_HW), hole_HW)
        assert spread_HW[~hole_HW] == pytest.approx(3.0)


def test_a_copy_of_another_size_shows_the_same_map() -> None:
    placement = Placement(eval_geometry(300, 200, 128, 0.9), 4, 4)
    scores_RC = np.arange(16.0).reshape(4, 4)
    whole_HW = placement.to_image(scores_RC, smooth=False)
    half_HW = placement.to_image(scores_RC, smooth=False, shape=(100, 150))
    nearest_HW = whole_HW[1::2, 1::2]  # the middles of the copy's pixels lie between four of the photograph's
    same = (half_HW == nearest_HW) | (np.isnan(half_HW) & np.isnan(nearest_HW))
    assert same.mean() > 0.95
    assert placement.to_image(scores_RC, smooth=False, shape=(600, 900)).shape == (600, 900)


def test_a_map_or_mask_of_another_shape_is_refused() -> None:
    placement = Placement(eval_geometry(30, 20, 16, 1.0), 4, 5)
    with pytest.raises(ValueError, match="4 x 5"):
        placement.to_image(np.zeros((5, 4)), smooth=False)
    with pytest.raises(ValueError, match="20 x 30"):
        placement.coverage(np.zeros((30, 20), dtype=bool))


# --- areas


@some
@given(placements(longest=200), st.integers(0, 2**32 - 1))
def test_coverage_adds_up_to_the_mask(placement: Placement, seed: int) -> None:
    """Coverage times area is the mask's area within the box, pixel by pixel as overlaps of intervals."""
    geometry = placement.geometry
    rng = np.random.default_rng(seed)
    mask_HW = rng.random((geometry.height, geometry.width)) < rng.random()
    left, top, right, bottom = geometry.box
    x_W, y_H = np.arange(geometry.width), np.arange(geometry.height)
    across_W = np.clip(np.minimum(x_W + 1, right) - np.maximum(x_W, left), 0, None)
    down_H = np.clip(np.minimum(y_H + 1, bottom) - np.maximum(y_H, top), 0, None)
    area = (right - left) * (bottom - top) / placement.rows / placement.columns
    coverage_RC = placement.coverage(mask_HW)
    assert coverage_RC.dtype == np.float32
    assert coverage_RC.min() >= 0
    assert coverage_RC.max() <= 1
    assert float(coverage_RC.astype(np.float64).sum() * area) == pytest.approx(down_H @ mask_HW @ across_W, rel=1e-5)


@few
@given(placements(longest=40, most=7), st.integers(0, 2**32 - 1))
def test_coverage_equals_counting_many_points(placement: Placement, seed: int) -> None:
    geometry = placement.geometry
    mask_HW = np.random.default_rng(seed).random((geometry.height, geometry.width)) < 0.5
    coverage_RC = placement.coverage(mask_HW)
    points = 240
    within = (np.arange(points) + 0.5) / points
    for row in range(placement.rows):
        for column in range(placement.columns):
            left, top, right, bottom = placement.patch_box(row, column)
            x = np.minimum((left + within * (right - left)).astype(int), geometry.width - 1)
            y = np.minimum((top + within * (bottom - top)).astype(int), geometry.height - 1)
            assert coverage_RC[row, column] == pytest.approx(mask_HW[np.ix_(y, x)].mean(), abs=0.03)


@some
@given(placements())
def test_a_full_mask_covers_every_patch_and_an_empty_one_none(placement: Placement) -> None:
    shape = (placement.geometry.height, placement.geometry.width)
    assert placement.coverage(np.ones(shape, dtype=bool)) == pytest.approx(1, abs=1e-6)
    assert not placement.coverage(np.zeros(shape, dtype=bool)).any()


def test_a_pixel_that_is_cut_counts_in_part() -> None:
    """4 × 4 pixels in 3 × 3 patches of 4/3 pixels: the pixel at (1, 1) touches four of them."""
    placement = Placement(CropGeometry(4, 4, 4, 4, 0, 0, 4, 4), 3, 3)
    mask_HW = np.zeros((4, 4), dtype=bool)
    mask_HW[1, 1] = True
    edge_3 = np.array([1 / 3, 2 / 3, 0]) / (4 / 3)
    assert placement.coverage(mask_HW) == pytest.approx(np.outer(edge_3, edge_3))


# --- agreement with the transform


@few
@given(
    st.integers(40, 400),
    st.integers(40, 400),
    st.sampled_from([0.7, 0.875, 0.9, 1.0]),
    st.sampled_from([(64, 8), (96, 6), (112, 7), (60, 12)]),
    st.data(),
)
def test_what_is_bright_for_the_model_is_bright_where_patch_at_says(
    width: int, height: int, crop: float, grid: tuple[int, int], data: st.DataObject
) -> None:
    """One bright patch of the photograph lights up that patch of the model's input, and hardly any other."""
    size, cells = grid
    transform = EvalTransform(square_input(size, crop))
    placement = Placement(transform.geometry(width, height), cells, cells)
    row, column = data.draw(st.integers(0, cells - 1)), data.draw(st.integers(0, cells - 1))
    x_W, y_H = np.arange(width) + 0.5, np.arange(height) + 0.5
    left, top, right, bottom = placement.patch_box(row, column)
    assume(right - left > 3)  # pixels; below that the edges of the region are as broad as the region
    assume(bottom - top > 3)
    bright_HW = ((y_H >= top) & (y_H < bottom))[:, None] & ((x_W >= left) & (x_W < right))
    assert all(placement.patch_at(x_W[x], y_H[y]) == (row, column) for y, x in zip(*np.nonzero(bright_HW), strict=True))
    photo_HWC = np.repeat(np.where(bright_HW, 255, 0).astype(np.uint8)[..., None], 3, axis=2)
    square_HW = transform(Image.fromarray(photo_HWC))[..., 0].astype(float)
    side = size // cells
    brightness_RC = square_HW.reshape(cells, side, cells, side).mean(axis=(1, 3)) / 255
    assert np.unravel_index(brightness_RC.argmax(), brightness_RC.shape) == (row, column)
    expected_RC = placement.coverage(bright_HW)
    assert np.abs(brightness_RC - expected_RC).max() < 0.12  # bicubic edges overshoot and are a few pixels broad


def test_a_turned_photograph_is_seen_upright() -> None:
    """EXIF orientation 6: stored lying, seen standing; the map's first row is the top of what a person sees."""
    lying = Image.new("RGB", (120, 80))
    lying.paste((255, 255, 255), (0, 0, 30, 80))  # the left of the stored pixels is the top of the picture
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    lying.save(file, "PNG", exif=exif)
    upright = decode(file.getvalue())
    assert upright.size == (80, 120)
    transform = EvalTransform(square_input(64))
    placement = Placement(transform.geometry(*upright.size), 8, 8)
    seen_RC = transform(upright)[..., 0].reshape(8, 8, 8, 8).mean(axis=(1, 3)) / 255
    spread_HW = placement.to_image(seen_RC, smooth=False)
    assert spread_HW.shape == (120, 80)
    first, last = spread_HW[20:29], spread_HW[40:100]  # the crop keeps rows 20 to 100; rows 0 to 30 are white
    assert first.min() > 0.9
    assert last.max() < 0.1
