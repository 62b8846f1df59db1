"""Patches lie on the photograph where the model's input took them from, however it was resized and cropped."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vitrine.attribution.placement import Placement
from vitrine.attribution.pointing import centres_inside
from vitrine.config.preprocessing import CROP_MODES, InputSpec
from vitrine.data.transforms import EvalTransform
from vitrine.plotting.overlay import draw_photo

ROWS, COLUMNS, PATCH = 6, 8, 8


def transform_of(mode: str, crop: float = 1.0) -> EvalTransform:
    return EvalTransform(InputSpec((ROWS * PATCH, COLUMNS * PATCH), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), crop, mode))


@settings(max_examples=40, deadline=None)
@given(
    st.integers(60, 400),
    st.integers(60, 400),
    st.sampled_from([0.875, 1.0]),
    st.sampled_from(CROP_MODES),
    st.integers(0, ROWS - 1),
    st.integers(0, COLUMNS - 1),
)
def test_what_is_bright_in_a_patch_of_the_photograph_is_bright_in_that_patch_of_the_input(
    width: int, height: int, crop: float, mode: str, row: int, column: int
) -> None:
    transform = transform_of(mode, crop)
    placement = Placement(transform.geometry(width, height), ROWS, COLUMNS)
    left, top, right, bottom = placement.patch_box(row, column)
    x_W, y_H = np.arange(width) + 0.5, np.arange(height) + 0.5
    bright_HW = ((y_H >= top) & (y_H < bottom))[:, None] & ((x_W >= left) & (x_W < right))
    photo_HWC = np.repeat(np.where(bright_HW, 255, 0).astype(np.uint8)[..., None], 3, axis=2)
    input_HW = transform(Image.fromarray(photo_HWC))[..., 0].astype(float)
    brightness_RC = input_HW.reshape(ROWS, PATCH, COLUMNS, PATCH).mean(axis=(1, 3)) / 255
    expected_RC = placement.coverage(bright_HW)
    assert np.abs(brightness_RC - expected_RC).max() < 0.2  # bicubic edges overshoot, and are a few pixels broad
    if right <= 0 or bottom <= 0 or left >= width or top >= height:
        assert not bright_HW.any() and expected_RC.max() == 0, "a patch on the border"
    elif min(right - left, bottom - top) > 3 and expected_RC[row, column] > 0.5:
        assert np.unravel_index(brightness_RC.argmax(), brightness_RC.shape) == (row, column)
        x, y = (max(0.1, left) + min(width, right)) / 2, (max(0.1, top) + min(height, bottom)) / 2
        assert placement.patch_at(x, y) == (row, column)


@pytest.mark.parametrize(
    ("mode", "share", "visible_box"),
    [
        ("squash", 1.0, (0, 0, 300, 100)),
        ("border", 1.0, (0, 0, 300, 100)),
        ("center", 0.44, (84, 0, 216, 100)),
    ],
)
def test_how_much_of_a_photograph_is_seen(mode: str, share: float, visible_box: tuple[float, ...]) -> None:
    placement = Placement(transform_of(mode).geometry(300, 100), ROWS, COLUMNS)
    assert placement.visible_share == pytest.approx(share, abs=0.02)
    assert placement.visible_box == pytest.approx(visible_box, abs=2)
    assert placement.visible_HW.mean() == pytest.approx(share, abs=0.02)


def test_patches_on_the_border_hold_nothing_of_the_photograph() -> None:
    placement = Placement(transform_of("border").geometry(80, 240), ROWS, COLUMNS)
    full_HW = np.ones((240, 80), dtype=bool)
    in_picture_RC = placement.coverage(full_HW)
    assert in_picture_RC[:, 0].max() == 0 and in_picture_RC[:, -1].max() == 0 and in_picture_RC[:, 3:5].min() == 1
    np.testing.assert_allclose(placement.photo_share_RC, in_picture_RC, atol=1e-6)
    hit_RC = centres_inside(full_HW, placement)
    assert not hit_RC[:, [0, 1, -2, -1]].any() and hit_RC[:, 3:5].all()
    spread_HW = placement.to_image(np.arange(ROWS * COLUMNS).reshape(ROWS, COLUMNS), smooth=False)
    assert spread_HW.shape == (240, 80) and not np.isnan(spread_HW).any(), "every pixel was seen"
    assert set(np.unique(spread_HW % COLUMNS)) <= {2, 3, 4, 5}, "none takes the value of a patch on the border"


def test_a_photograph_that_was_seen_whole_is_drawn_without_hatching() -> None:
    photo_HWC = np.full((60, 180, 3), 128, dtype=np.uint8)
    for mode, patches in (("border", 0), ("squash", 0), ("center", 2)):
        figure, axes = plt.subplots()
        draw_photo(axes, photo_HWC, Placement(transform_of(mode).geometry(180, 60), ROWS, COLUMNS))
        assert len(axes.patches) == patches, mode
        plt.close(figure)
