"""Evaluation gives timm's pixels to the bit, for every input that timm's published models have."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vitrine.config.preprocessing import CROP_MODES, RESIZE_FILTERS, InputSpec
from vitrine.data.loader import normalise
from vitrine.data.transforms import EvalTransform

SIZES = [(97, 61), (61, 97), (33, 33), (7, 10), (211, 30), (29, 173), (64, 40)]
"""Width and height: wide, tall, square, magnified, long, and one that need not be resized at all."""


@cache
def published_inputs() -> tuple[InputSpec, ...]:
    """Every distinct input of timm's published models, but for its size, which is divided by 7 here."""
    specs = set()
    for name in timm.list_pretrained():
        cfg = timm.data.resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())
        rows, columns = (side // 7 for side in cfg["input_size"][1:])
        mean, std = tuple(cfg["mean"]), tuple(cfg["std"])
        specs.add(InputSpec((rows, columns), mean, std, cfg["crop_pct"], cfg["crop_mode"], cfg["interpolation"]))
    return tuple(sorted(specs, key=repr))


def noise(width: int, height: int) -> Image.Image:
    """Independent pixels, which show the smallest shift."""
    rng = np.random.default_rng((width, height))
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def timms(spec: InputSpec, **others: Any) -> Any:
    """The transform that timm makes of the same description."""
    return timm.data.create_transform(**spec.to_timm(), is_training=False, **others)


def test_published_models_ask_for_what_is_known() -> None:
    specs = published_inputs()
    assert len(specs) > 100
    assert {spec.crop_mode for spec in specs} <= set(CROP_MODES)
    assert {"bicubic", "bilinear"} <= {spec.interpolation for spec in specs} <= set(RESIZE_FILTERS)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_every_published_input_has_timms_pixels(size: tuple[int, int]) -> None:
    image = noise(*size)
    prepared: dict[InputSpec, np.ndarray] = {}
    for spec in published_inputs():
        bare = InputSpec(spec.size, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), spec.crop, spec.crop_mode, spec.interpolation)
        bare = spec if spec.crop_mode == "border" else bare  # a mean shows in borders only
        if bare not in prepared:
            prepared[bare] = EvalTransform(spec)(image)
            theirs = timms(spec, normalize=False)(image).permute(1, 2, 0).numpy()
            np.testing.assert_array_equal(prepared[bare], theirs, err_msg=str(spec))


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.integers(1, 300), st.integers(1, 300)),
    st.tuples(st.integers(3, 70), st.integers(3, 70)),
    st.booleans(),
    st.sampled_from([0.5, 0.875, 0.9, 0.95, 1.0, 1.0, 1.15]),
    st.sampled_from(CROP_MODES),
    st.sampled_from(sorted(RESIZE_FILTERS)),
)
def test_all_modes_filters_and_shapes_have_timms_pixels(
    picture: tuple[int, int], size: tuple[int, int], is_square: bool, crop: float, mode: str, interpolation: str
) -> None:
    size = (size[0], size[0]) if is_square else size
    spec = InputSpec(size, (0.48, 0.2, 0.9), (0.5, 0.25, 0.3), crop, mode, interpolation)
    image = noise(*picture)
    try:
        theirs = timms(spec, normalize=False)(image)
    except ValueError as error:  # timm lets a strip's short side shrink to nothing, which Pillow refuses
        assert "must be > 0" in str(error)
        assert EvalTransform(spec)(image).shape == (*size, 3)
        return
    at, ours = EvalTransform(spec).geometry(*picture), EvalTransform(spec)(image)
    if at.resized_width * at.resized_height > 64 * at.visible.width * at.visible.height:
        assert ours.shape == (*size, 3), "longer strips: the test of panoramas"
        return
    np.testing.assert_array_equal(ours, theirs.permute(1, 2, 0).numpy())


def test_normalised_values_are_timms_within_rounding() -> None:
    """One multiplication and addition in place of two divisions and a subtraction: a millionth of the range."""
    for mean, std in (((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))):
        spec = InputSpec((24, 32), mean, std, 0.9, "border", "bilinear")
        ours_CHW = torch.from_numpy(EvalTransform(spec)(noise(50, 41))).permute(2, 0, 1)
        ours = normalise(ours_CHW[None], mean, std)[0]
        torch.testing.assert_close(ours, timms(spec)(noise(50, 41)), rtol=0, atol=2e-6)


def test_a_border_has_the_mean_colour_and_lies_where_the_geometry_says() -> None:
    spec = InputSpec((20, 30), (0.2, 0.4, 0.6), (0.5, 0.5, 0.5), 1.0, "border")
    white = Image.new("RGB", (40, 80), "white")
    transform = EvalTransform(spec)
    pixels_HWC, at = transform(white), transform.geometry(40, 80)
    assert (at.resized_width, at.resized_height, at.left, at.top) == (10, 20, -10, 0)
    assert (pixels_HWC[:, 10:20] == 255).all()
    assert (pixels_HWC[:, :10] == (51, 102, 153)).all() and (pixels_HWC[:, 20:] == (51, 102, 153)).all()
    assert at.box == (-40.0, 0.0, 80.0, 80.0), "a border as wide as the picture at both sides"
