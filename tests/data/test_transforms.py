"""The one warp against torchvision's plain sequence, and every random change against its definition."""

from __future__ import annotations

import math
from collections.abc import Callable
from unittest import mock

import numpy as np
import pytest
import timm.data
import torch
from hypothesis import assume, currently_in_test_context, given, settings
from hypothesis import strategies as st
from PIL import Image
from support.inputs import square_input
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as plain

from vitrine.config import TransformSpec, available_transforms
from vitrine.data import transforms as warping
from vitrine.data.transforms import (
    Affine,
    Box,
    EvalTransform,
    TrainTransform,
    random_erasure,
    random_resized_crop,
    recolour,
    warp,
    warp_matrix,
)

BILINEAR = v2.InterpolationMode.BILINEAR

sides = st.integers(60, 500)
angles = st.one_of(st.just(0.0), st.floats(-40, 40), st.sampled_from([90.0, -180.0, 180.0, 135.0]))
seeds = st.integers(0, 2**32 - 1)
sizes = st.sampled_from([32, 64, 97, 144, 224])
few = settings(max_examples=25, deadline=None)


def plain_sequence(image: Image.Image, angle: float, box: Box, flip: bool, size: int) -> np.ndarray:
    """What a person would write: rotate, crop and resize, mirror, one after the other."""
    image = plain.rotate(image, angle, interpolation=BILINEAR)
    image = plain.resized_crop(image, box.top, box.left, box.height, box.width, [size, size], BILINEAR, antialias=True)
    return np.asarray(plain.horizontal_flip(image) if flip else image)


def smooth_picture(width: int, height: int) -> Image.Image:
    """Slow waves, different in every channel, with no symmetry."""
    y, x = np.mgrid[0:height, 0:width] / 120
    waves = [np.sin(2 * x + 0.3) * np.cos(1.7 * y), np.sin(2.2 * y + 1.1 + 0.4 * x), np.cos(1.5 * x - 2.1 * y + 2)]
    return Image.fromarray(np.uint8(np.stack([128 + 100 * wave for wave in waves], axis=-1)))


def draw_crop(width: int, height: int, seed: int) -> Box:
    return random_resized_crop(width, height, (0.15, 1.0), (3 / 4, 4 / 3), np.random.default_rng(seed))


def erode(mask_HW: np.ndarray, by: int) -> np.ndarray:
    padded_HW = np.pad(mask_HW, by)  # the border of the output does not count
    height, width = mask_HW.shape
    shifts = [padded_HW[i : i + height, j : j + width] for i in (0, by, 2 * by) for j in (0, by, 2 * by)]
    return np.logical_and.reduce(shifts)


def need(condition: bool) -> None:
    """Another example, please; outside a property test the example is mine, and must do."""
    if currently_in_test_context():
        assume(condition)
    assert condition


def mean_difference(
    ours: Callable[..., np.ndarray], width: int, height: int, angle: float, box: Box, flip: bool, size: int
) -> float:
    """Mean absolute difference in levels where neither the border nor the black corners are near."""
    image = smooth_picture(width, height)
    inside = plain_sequence(Image.new("RGB", image.size, "white"), angle, box, flip, size)[..., 0] == 255
    inside = erode(inside, 3)
    need(inside.sum() > 50)
    theirs = plain_sequence(image, angle, box, flip, size).astype(float)
    return float(np.abs(ours(image, angle, box, flip, size) - theirs)[inside].mean())


@few
@given(sides, sides, angles, seeds, st.booleans(), sizes)
def test_the_warp_is_the_plain_sequence(
    width: int, height: int, angle: float, seed: int, flip: bool, size: int
) -> None:
    box = draw_crop(width, height, seed)
    assert mean_difference(warp, width, height, angle, box, flip, size) < 1.5


@few
@given(sides, sides, angles, seeds, st.booleans(), sizes)
def test_the_black_corners_are_where_torchvision_has_them(
    width: int, height: int, angle: float, seed: int, flip: bool, size: int
) -> None:
    box = draw_crop(width, height, seed)
    white = Image.new("RGB", (width, height), "white")
    theirs = plain_sequence(white, angle, box, flip, size)[..., 0]
    ours = warp(white, angle, box, flip, size)[..., 0]
    reach = 2 + math.ceil(size / min(box.width, box.height))  # two source pixels or two output pixels
    assert (ours[erode(theirs == 255, reach)] == 255).all()
    assert (ours[erode(theirs == 0, reach)] == 0).all()
    assert ours.mean() == pytest.approx(theirs.mean(), abs=255 * 3 / size)


def centroid(pixels_HWC: np.ndarray) -> np.ndarray:
    """Centre of brightness, (x, y) in pixels."""
    weights = pixels_HWC.sum(axis=-1, dtype=float)
    y, x = np.mgrid[0 : weights.shape[0], 0 : weights.shape[1]] + 0.5
    return np.array([(weights * x).sum(), (weights * y).sum()]) / weights.sum()


def landmark_error(
    ours: Callable[..., np.ndarray], width: int, height: int, angle: float, box: Box, flip: bool, size: int, at: Affine
) -> float:
    """How far from each other a soft dot lands, in output pixels. ``at`` places it in the middle part of the output."""
    radius = 2.5 * max(1.0, *at.steps)
    x, y = at(0.45 * size, 0.55 * size)
    room = 4 * radius
    need(room < x < width - room and room < y < height - room and room < 0.4 * min(box.width, box.height))
    rows, columns = np.mgrid[0:height, 0:width] + 0.5
    dot = 255 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * radius**2))
    image = Image.fromarray(np.uint8(np.repeat(dot[..., None], 3, axis=-1)))
    arguments = (image, angle, box, flip, size)
    return float(np.linalg.norm(centroid(ours(*arguments)) - centroid(plain_sequence(*arguments))))


@few
@given(sides, sides, angles, seeds, st.booleans(), sizes)
def test_a_landmark_lands_where_torchvision_puts_it(
    width: int, height: int, angle: float, seed: int, flip: bool, size: int
) -> None:
    box = draw_crop(width, height, seed)
    at = warp_matrix(width, height, angle, box, flip, size)
    assert (
        landmark_error(warp, width, height, angle, box, flip, size, at) < 0.25
    )  # two roundings of bytes; the worst seen is 0.202


def _turned_the_other_way(image: Image.Image, angle: float, *rest: object) -> np.ndarray:
    return warp(image, -angle, *rest)  # type: ignore[arg-type]


def _half_a_pixel_off(image: Image.Image, *rest: object) -> np.ndarray:
    def shift_matrix(*arguments: object) -> Affine:
        right = warp_matrix(*arguments)  # type: ignore[arg-type]
        x, y = right(0.5, 0.5)
        return Affine(right.a, right.b, x, right.d, right.e, y)

    with mock.patch.object(warping, "warp_matrix", shift_matrix):
        return warp(image, *rest)  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [_turned_the_other_way, _half_a_pixel_off])
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize(("width", "height"), [(500, 375), (300, 420)])
def test_the_landmarks_find_a_wrong_sign_and_half_a_pixel(
    wrong: Callable[..., np.ndarray], flip: bool, width: int, height: int
) -> None:
    box = Box(20, 30, width - 60, height - 50)
    at = warp_matrix(width, height, 17.0, box, flip, 224)
    assert landmark_error(warp, width, height, 17.0, box, flip, 224, at) < 0.1
    assert landmark_error(wrong, width, height, 17.0, box, flip, 224, at) > 0.5


def test_a_wrong_sign_shows_in_smooth_pictures_too() -> None:
    arguments = (500, 375, 17.0, Box(20, 30, 440, 325), False, 224)
    assert mean_difference(warp, *arguments) < 1.0
    assert mean_difference(_turned_the_other_way, *arguments) > 10


@pytest.mark.parametrize(("width", "height"), [(900, 700), (600, 800)])
def test_large_pictures_are_averaged_not_skipped(width: int, height: int) -> None:
    """Fine noise must become grey at a strong shrink, as the antialiased sequence makes it."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))
    arguments = (noise, 12.0, Box(60, 40, width - 120, height - 100), False, 40)
    assert warp(*arguments).std() < 1.5 * plain_sequence(*arguments).std()
    assert mean_difference(warp, width, height, *arguments[1:]) < 1.5


@few
@given(sides, sides, seeds, st.booleans(), sizes)
def test_without_rotation_it_is_torchvisions_resized_crop(
    width: int, height: int, seed: int, flip: bool, size: int
) -> None:
    noise = Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))
    box = draw_crop(width, height, seed)
    ours = warp(noise, 0.0, box, flip, size).astype(int)
    assert np.abs(ours - plain_sequence(noise, 0.0, box, flip, size)).max() <= 2


@pytest.mark.parametrize("angle", [0.0, 25.0, 90.0])
@pytest.mark.parametrize(("width", "height"), [(1, 1), (3, 2), (2000, 5), (5, 2000)])
def test_pictures_of_any_shape(width: int, height: int, angle: float) -> None:
    transform = TrainTransform(TransformSpec(rotation=30, crop_scale=(0.5, 1)), (32, 32))
    image = Image.new("RGB", (width, height), (10, 20, 30))
    assert transform(image, np.random.default_rng(0)).shape == (32, 32, 3)
    box = draw_crop(width, height, 1)
    assert warp(image, angle, box, True, 32).shape == (32, 32, 3)
    assert EvalTransform(square_input(32))(image).shape == (32, 32, 3)


colours = st.lists(
    st.tuples(st.sampled_from(["brightness", "contrast", "saturation"]), st.floats(0, 2)), min_size=1, max_size=3
)


@few
@given(colours, seeds)
def test_colours_change_as_torchvision_changes_them(changes: list[tuple[str, float]], seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    theirs = Image.fromarray(pixels)
    adjust = {
        "brightness": plain.adjust_brightness,
        "contrast": plain.adjust_contrast,
        "saturation": plain.adjust_saturation,
    }
    for name, factor in changes:
        theirs = adjust[name](theirs, factor)
    np.testing.assert_array_equal(recolour(pixels, changes), np.asarray(theirs))


@pytest.mark.parametrize(("width", "height"), [(500, 375), (300, 420)])
@pytest.mark.parametrize("scale", [(0.08, 1.0), (0.7, 1.0)])
def test_crops_are_distributed_as_torchvisions(width: int, height: int, scale: tuple[float, float]) -> None:
    rng, n = np.random.default_rng(0), 1500
    ours = [random_resized_crop(width, height, scale, (3 / 4, 4 / 3), rng) for _ in range(n)]
    torch.manual_seed(0)
    theirs = []
    for _ in range(n):
        top, left, h, w = v2.RandomResizedCrop.get_params(torch.empty(3, height, width), scale, (3 / 4, 4 / 3))
        theirs.append(Box(left, top, w, h))

    def facts(boxes: list[Box]) -> np.ndarray:
        return np.array([(b.width * b.height, math.log(b.width / b.height), b.left, b.top) for b in boxes])

    a, b = facts(ours), facts(theirs)
    error = np.sqrt(a.var(axis=0) / n + b.var(axis=0) / n)
    assert (np.abs(a.mean(axis=0) - b.mean(axis=0)) < 4 * error).all()
    assert a.std(axis=0) == pytest.approx(b.std(axis=0), rel=0.1)


@pytest.mark.parametrize(("width", "height", "expected"), [
    (1000, 100, Box(433, 0, 133, 100)),
    (100, 1000, Box(0, 433, 100, 133)),
    (120, 100, Box(0, 0, 120, 100)),
])  # fmt: skip
def test_a_crop_that_never_fits_falls_back_to_the_centre(width: int, height: int, expected: Box) -> None:
    # Whole area, and every shape: a shape other than the picture's own cannot fit.
    crop = random_resized_crop(width, height, (1.0, 1.0), (3 / 4, 4 / 3), np.random.default_rng(3))
    assert crop == expected


def test_the_draw_follows_the_recipe() -> None:
    spec = TransformSpec(
        rotation=20, crop_scale=(0.7, 1.0), flip=0.25, brightness=0.3, contrast=1.5, saturation=0.1, erase=0.5
    )
    transform, n = TrainTransform(spec, (64, 64)), 4000
    rng = np.random.default_rng(5)
    draws = [transform.draw(500, 375, rng) for _ in range(n)]
    angle = np.array([draw.angle for draw in draws])
    assert np.abs(angle).max() <= 20
    assert angle.std() == pytest.approx(40 / math.sqrt(12), rel=0.05)  # of a uniform distribution
    assert np.mean([draw.flip for draw in draws]) == pytest.approx(0.25, abs=0.03)
    assert np.mean([draw.erase is not None for draw in draws]) == pytest.approx(0.5, abs=0.035)
    factors = {name: np.array([dict(draw.colour)[name] for draw in draws]) for name in dict(draws[0].colour)}
    for name, low, high in (("brightness", 0.7, 1.3), ("contrast", 0.0, 2.5), ("saturation", 0.9, 1.1)):
        assert low <= factors[name].min() < low + 0.02
        assert high - 0.02 < factors[name].max() <= high
    orders = {tuple(name for name, _ in draw.colour) for draw in draws}
    assert len(orders) == 6  # every order of three


def test_nothing_is_drawn_that_is_off() -> None:
    change = TrainTransform(TransformSpec(crop_scale=(1, 1)), (32, 32)).draw(40, 30, np.random.default_rng(0))
    assert (change.angle, change.flip, change.quarter_turns, change.colour, change.erase) == (0.0, False, 0, (), None)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        pytest.param((48, 48), (0.4, 0.2, 0.2, 0.2), id="square"),
        pytest.param((32, 48), (0.4, 0, 0.6, 0), id="not square, which a quarter turn would change"),
    ],
)
def test_turns_are_drawn_alike_and_pixels_only_change_their_places(
    size: tuple[int, int], expected: tuple[float, ...]
) -> None:
    transform = TrainTransform(TransformSpec(turn=0.6, flip=0.5), size)
    image, (rows, columns) = smooth_picture(80, 60), size
    rng = np.random.default_rng(11)
    changes = [transform.draw(80, 60, rng) for _ in range(4000)]
    turns = np.array([change.quarter_turns for change in changes])
    np.testing.assert_allclose(np.bincount(turns, minlength=4) / 4000, expected, atol=0.03)
    for change in changes[:12]:
        straight = Image.fromarray(warp(image, 0, change.crop, change.flip, (columns, rows)))
        plain_HWC = np.asarray(straight.rotate(90 * change.quarter_turns, expand=True))  # counter-clockwise
        np.testing.assert_array_equal(transform.apply(image, change), plain_HWC)


def test_erasing_is_last_and_stays_inside_its_rectangle() -> None:
    transform = TrainTransform(TransformSpec(erase=1.0, brightness=0.3), (64, 64))
    image = smooth_picture(80, 80)
    change = transform.draw(80, 80, np.random.default_rng(2))
    box = change.erase
    assert box is not None
    erased_HWC = transform.apply(image, change)
    plain_HWC = recolour(warp(image, change.angle, change.crop, change.flip, 64), change.colour)
    outside = np.ones((64, 64), dtype=bool)
    outside[box.top : box.top + box.height, box.left : box.left + box.width] = False
    np.testing.assert_array_equal(erased_HWC[outside], plain_HWC[outside])
    assert erased_HWC[~outside].std() > 60  # uniform noise has 74
    boxes = [random_erasure((64, 64), np.random.default_rng(seed)) for seed in range(400)]
    areas = [b.width * b.height / 64**2 for b in boxes if b is not None]
    assert min(areas) > 0.015
    assert max(areas) < 0.34


@pytest.mark.parametrize("name", sorted(available_transforms()))
def test_the_same_numbers_give_the_same_pixels(name: str) -> None:
    transform, image = TrainTransform(available_transforms()[name], (48, 48)), smooth_picture(90, 70)
    for seed in range(20):  # every path: mirrored, turned, recoloured
        transform(image, np.random.default_rng(seed))
    first, again, other = (transform(image, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert (first.shape, first.dtype) == ((48, 48, 3), np.uint8)
    np.testing.assert_array_equal(first, again)
    assert name == "none" or (first != other).any()


@few
@given(st.integers(20, 600), st.integers(20, 600), st.sampled_from([0.5, 0.875, 0.9, 0.95, 1.0]), sizes, seeds)
def test_evaluation_is_timms(width: int, height: int, crop: float, size: int, seed: int) -> None:
    """Equal to timm's own transform to the bit, on noise, which shows the smallest shift."""
    at = EvalTransform(square_input(size, crop)).geometry(width, height)
    assume(at.resized_width * at.resized_height <= 64 * size * size)  # longer strips: the test of panoramas
    noise = Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))
    theirs = timm.data.create_transform((3, size, size), crop_pct=crop, interpolation="bicubic", normalize=False)(noise)
    ours = EvalTransform(square_input(size, crop))(noise)
    np.testing.assert_array_equal(ours, theirs.permute(1, 2, 0).numpy())


@pytest.mark.parametrize(("width", "height"), [(1200, 90), (90, 1200), (5000, 70), (70, 5000)])
def test_a_panorama_is_evaluated_alike(width: int, height: int) -> None:
    """To the bit up to 64 squares long; of longer ones only the middle is resized, which rounds otherwise."""
    image = smooth_picture(width, height)
    theirs = plain.resize(image, [64], v2.InterpolationMode.BICUBIC)
    ours = EvalTransform(square_input(64))(image).astype(int)
    largest = np.abs(ours - np.asarray(plain.center_crop(theirs, [64, 64]))).max()
    assert largest <= (2 if max(width, height) > 64 * min(width, height) else 0)


@few
@given(st.integers(20, 600), st.integers(20, 600), st.sampled_from([0.5, 0.875, 1.0]), sizes)
def test_the_geometry_leads_back_to_the_photograph(width: int, height: int, crop: float, size: int) -> None:
    geometry = EvalTransform(square_input(size, crop)).geometry(width, height)
    left, top, right, bottom = geometry.box
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height
    # Centred: what is left over at both sides differs by at most one resized pixel.
    across, down = geometry.scale
    assert abs(left - (width - right)) * across <= 1 + 1e-9
    assert abs(top - (height - bottom)) * down <= 1 + 1e-9
    assert (right - left) * across == pytest.approx(size)


def test_a_ramp_shows_that_the_evaluation_box_is_right() -> None:
    ramp = np.repeat(np.linspace(0, 250, 500)[None, :, None], 375, axis=0)
    image = Image.fromarray(np.uint8(np.rint(np.repeat(ramp, 3, axis=-1))))
    transform = EvalTransform(square_input(224, 0.875))
    pixels = transform(image)[112, :, 0].astype(float)
    left, _, right, _ = transform.geometry(500, 375).box
    columns = left + (np.arange(224) + 0.5) * (right - left) / 224
    np.testing.assert_allclose(pixels, (columns - 0.5) * 250 / 499, atol=0.8)
