"""The generator of scenes: shapes, layout, masks, repeatability, and how hard the pictures are."""

from __future__ import annotations

import hashlib
import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest

from vitrine.attribution.baselines import centre_blob
from vitrine.attribution.placement import Placement
from vitrine.attribution.pointing import centres_inside, pointing_hit
from vitrine.data.scenes import BASE, FAMILIES, NEW, ScenePicture
from vitrine.data.scenes.background import COLOUR_NAMES, COLOURS, JITTER
from vitrine.data.scenes.scene import MAIN_VISIBLE, draw_layout, scene_generator
from vitrine.data.scenes.shapes import REACH, Shape
from vitrine.data.transforms import CropGeometry

SHAPES = {shape.name: shape for shape in (*BASE.shapes, *NEW.shapes)}
PICTURES = [
    ScenePicture(family, 11, split, index)
    for family in FAMILIES
    for split in ("train", "validation", "test")
    for index in range(40)
]


@pytest.fixture(scope="module")
def scenes():
    return [picture.scene for picture in PICTURES]


def test_families_are_disjoint_and_named_as_promised():
    assert len(BASE.labels) == len(set(BASE.labels)) == 12
    assert len(NEW.labels) == len(set(NEW.labels)) == 7
    assert not set(BASE.labels) & set(NEW.labels)


# Areas in each shape's own unit, from school geometry.
AREAS = {
    "circle": math.pi,
    "square": 4,
    "triangle": 3 * math.sqrt(3) / 4,
    "star": 10 * 0.5 * 0.42 * math.sin(math.pi / 5),
    "ring": math.pi * (1 - 0.5**2),
    "cross": 2 * (2 * 0.58) - 0.58**2,
    "heart": 1 + math.pi * 0.5**2,
    "bar": 4 * 0.73 * 0.27 + math.pi * 0.27**2,
    "semicircle": math.pi / 2,
    "diamond": 2 * 0.52,
    "arrow": 1.05 * 0.4 + 0.66 * 0.95,
    "bowtie": 2 * (0.1 + 0.72),
    "corner": 0.52 * 1.7 + 0.88 * 0.52,
    "pie": math.pi * (1 - 80 / 360),
    "frame": 4 * (1 - 0.56**2),
}


@pytest.mark.parametrize("name", AREAS)
def test_areas_agree_with_geometry(name):
    axis = np.arange(-1.6, 1.6, 0.004, dtype=np.float32)
    inside = SHAPES[name].distance(*np.meshgrid(axis, axis)) < 0
    assert inside.sum() * 0.004**2 == pytest.approx(AREAS[name], rel=0.01)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_distances_are_float32_never_steeper_than_one_and_within_reach(shape):
    axis = np.linspace(-1.6, 1.6, 401, dtype=np.float32)
    distance = shape.distance(*np.meshgrid(axis, axis))
    assert distance.dtype == np.float32
    step = axis[1] - axis[0]
    for steepest in (np.abs(np.diff(distance, axis=0)).max(), np.abs(np.diff(distance, axis=1)).max()):
        assert steepest <= step * 1.02
    assert shape.reach / shape.effective_radius <= REACH


def test_no_two_shapes_cover_one_another():
    """At the same effective size and in the best of 36 turns and their mirror images, overlap stays below 0.85."""
    axis = np.linspace(-1.5, 1.5, 49, dtype=np.float32)
    x, y = np.meshgrid(axis, axis)

    def mask(shape: Shape, turn: float, mirror: int):
        scale = shape.effective_radius
        along, across = math.cos(turn) * x + math.sin(turn) * y, math.cos(turn) * y - math.sin(turn) * x
        return (shape.distance(scale * along, mirror * scale * across) < 0).ravel()

    upright = np.stack([mask(shape, 0, 1) for shape in SHAPES.values()]).astype(np.float32)
    best = np.zeros((len(SHAPES), len(SHAPES)))
    for turn in np.linspace(0, 2 * math.pi, 36, endpoint=False):
        for mirror in (1, -1):
            turned = np.stack([mask(shape, turn, mirror) for shape in SHAPES.values()]).astype(np.float32)
            both = upright @ turned.T
            best = np.maximum(best, both / (upright.sum(1)[:, None] + turned.sum(1) - both))
    np.fill_diagonal(best, 0)
    assert best.max() < 0.85


def test_colours_stay_apart_under_jitter():
    values = np.array(list(COLOURS.values()), dtype=float)
    distance = np.linalg.norm(values[:, None] - values, axis=2) + 1e9 * np.eye(len(values))
    assert len(COLOUR_NAMES) == 8
    assert distance.min() > 2 * JITTER * math.sqrt(3) + 20


def test_masks_are_disjoint_inside_and_parts_of_their_objects(scenes):
    for scene in scenes:
        masks = np.stack([item.mask for item in scene.objects])
        assert masks.dtype == bool
        assert masks.shape[1:] == scene.pixels.shape[:2]
        assert masks.sum(0).max() == 1
        full = np.stack([item.full_mask for item in scene.objects])
        assert not (masks & ~full).any()
        assert not (full.any(0) & ~masks.any(0)).any()  # what hides an object is another object
        for edge in (full[:, 0], full[:, -1], full[:, :, 0], full[:, :, -1]):
            assert not edge.any()
        assert np.array_equal(scene.label_map > 0, masks.any(0))


def test_main_object_is_largest_well_seen_and_the_label(scenes):
    for picture, scene in zip(PICTURES, scenes, strict=True):
        main, *others = scene.objects
        assert FAMILIES[picture.family].labels[scene.label] == main.shape
        assert main.mask.sum() >= 0.75 * main.full_mask.sum()
        assert main.size == "large"
        for other in others:
            # Compared as discs of their effective radius: areas alone depend on the shape.
            sizes = [
                math.sqrt(item.full_mask.sum()) / math.sqrt(_unit_area(item.shape)) * _effective(item.shape)
                for item in (other, main)
            ]
            assert sizes[0] <= 0.67 * sizes[1]
            assert other.full_mask.sum() < main.full_mask.sum()
            assert other.mask.sum() >= 0.6 * other.full_mask.sum()
            assert other.size == "small"
            assert other.shape in FAMILIES[picture.family].labels


def _effective(name: str) -> float:
    return SHAPES[name].effective_radius


def _unit_area(name: str) -> float:
    return math.pi * (_effective(name) ** 2 / SHAPES[name].reach) ** 2


def test_objects_have_their_named_colour_and_stand_off_from_the_background(scenes):
    values = np.array(list(COLOURS.values()), dtype=float)
    for scene in scenes:
        assert len({item.colour for item in scene.objects}) == len(scene.objects)
        for item in scene.objects:
            mean = scene.pixels[item.mask].mean(0)
            nearest = np.linalg.norm(values - mean, axis=1).argmin()
            assert COLOUR_NAMES[nearest] == item.colour
        main = scene.objects[0]
        around = np.zeros_like(main.full_mask)
        for down in (-2, 0, 2):
            for along in (-2, 0, 2):
                around |= np.roll(main.full_mask, (down, along), (0, 1))
        around &= ~np.stack([item.full_mask for item in scene.objects]).any(0)
        inside, outside = scene.pixels[main.mask].mean(0), scene.pixels[around].mean(0)
        assert np.linalg.norm(inside - outside) > 50


def test_a_quarter_of_scenes_overlap_and_counts_vary(scenes):
    counts = np.bincount([len(scene.objects) for scene in scenes], minlength=4) / len(scenes)
    assert counts[0] == 0
    assert min(counts[1:]) > 0.1
    overlaps = [any(item.mask.sum() < item.full_mask.sum() for item in scene.objects) for scene in scenes]
    assert 0.1 < np.mean(overlaps) < 0.6


@settings(max_examples=25, deadline=None)
@given(
    family=st.sampled_from(sorted(FAMILIES)),
    seed=st.integers(0, 2**32 - 1),
    split=st.sampled_from(["train", "validation", "test"]),
    index=st.integers(0, 10**12),
    size=st.sampled_from([32, 33, 64, 150]),
)
def test_any_scene_is_repeatable_and_its_cheap_label_is_right(family, seed, split, index, size):
    picture = ScenePicture(family, seed, split, index, size)
    scene = picture.scene
    assert scene.pixels.shape == (size, size, 3)
    assert scene.pixels.dtype == np.uint8
    assert scene.label == picture.label
    assert np.array_equal(np.asarray(picture.decode()), scene.pixels)
    assert picture.read_bytes() == ScenePicture(family, seed, split, index, size).read_bytes()


def test_largest_size():
    scene = ScenePicture("new", 0, "test", 0, 512).scene
    small = ScenePicture("new", 0, "test", 0, 64).scene
    assert scene.pixels.shape == (512, 512, 3)
    assert scene.label == small.label


def test_another_process_draws_the_same_bytes():
    code = (
        "import hashlib; from vitrine.data.scenes import ScenePicture as P;"
        "print(hashlib.sha256(b''.join(P('base', 3, 'train', i).read_bytes() for i in range(5))).hexdigest())"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    here = b"".join(ScenePicture("base", 3, "train", index).read_bytes() for index in range(5))
    assert other.stdout.strip() == hashlib.sha256(here).hexdigest()


def test_family_seed_split_and_index_each_give_another_scene():
    pictures = [
        ScenePicture("base", 0, "train", 0),
        ScenePicture("new", 0, "train", 0),
        ScenePicture("base", 1, "train", 0),
        ScenePicture("base", 0, "test", 0),
        ScenePicture("base", 0, "train", 1),
    ]
    assert len({picture.read_bytes() for picture in pictures}) == len(pictures)


def test_classes_are_balanced():
    for family in FAMILIES.values():
        labels = [ScenePicture(family.name, 0, "train", index).label for index in range(4000)]
        counts = np.bincount(labels, minlength=len(family.shapes))
        expected = 4000 / len(family.shapes)
        chi_square = ((counts - expected) ** 2 / expected).sum()
        assert chi_square < 35  # the 0.9997 quantile at 11 degrees of freedom


def test_a_linear_model_on_pixels_stays_below_40_percent():
    """A ridge regression with the best of three strengths: hard pictures, no shape given away by colour or place."""
    for family in FAMILIES.values():
        pixels, labels = _linear_features(family.name, "train", 1200)
        fresh, test_labels = _linear_features(family.name, "test", 400)
        targets = np.eye(len(family.shapes), dtype=np.float32)[labels] - 1 / len(family.shapes)
        kernel = pixels @ pixels.T
        best = 0.0
        for strength in (1e2, 1e3, 1e4):
            weights = np.linalg.solve(kernel + np.float32(strength) * np.eye(1200, dtype=np.float32), targets)
            best = max(best, float(np.mean((fresh @ (pixels.T @ weights)).argmax(1) == test_labels)))
        assert best < 0.4


def _linear_features(family: str, split: str, count: int):
    """Pixels averaged over 2 x 2, centred and scaled, and labels."""
    pictures = [ScenePicture(family, 5, split, index) for index in range(count)]
    pixels = np.stack([picture.pixels() for picture in pictures]).astype(np.float32)
    means = pixels.reshape(count, 32, 2, 32, 2, 3).mean((2, 4)).reshape(count, -1)
    return (means - 128) / 64, np.array([picture.label for picture in pictures])


def test_the_pictures_that_the_shipped_model_was_trained_on_have_not_changed():
    """Labels exactly; pixels to within rounding, which may differ between processors."""
    for family, labels, means in GOLDEN:
        pictures = [ScenePicture(family, 0, "train", index) for index in range(len(labels))]
        assert [picture.label for picture in pictures] == labels
        assert [float(picture.pixels().mean()) for picture in pictures] == pytest.approx(means, abs=0.3)


GOLDEN = [
    (
        "base",
        [2, 7, 6, 9, 10, 1, 10, 9, 4, 1, 4, 4],
        [85.6, 88.0, 93.0, 96.2, 76.4, 102.9, 88.1, 66.2, 107.7, 83.2, 102.7, 73.9],
    ),
    (
        "new",
        [6, 4, 1, 5, 6, 6, 6, 6, 4, 6, 6, 4],
        [73.5, 64.3, 84.2, 95.1, 89.3, 57.5, 106.4, 86.1, 104.0, 89.6, 95.9, 77.7],
    ),
]


ANYWHERE = [ScenePicture("new", 4, "test", index, placement="anywhere") for index in range(200)]


def test_centres_anywhere_are_uniform_up_to_the_border():
    """Across, down and from corner to corner; shape and size are those of the scene whose object lies inside."""
    layouts = {
        placement: [draw_layout(scene_generator(NEW, 8, "train", index), NEW, 64, placement) for index in range(2000)]
        for placement in ("inside", "anywhere")
    }
    mains = {placement: [each.objects[0] for each in some] for placement, some in layouts.items()}
    for inside, anywhere in zip(*mains.values(), strict=True):
        assert (inside.shape, inside.radius) == (anywhere.shape, anywhere.radius)
    radius, x, y = np.array([(main.radius, main.x, main.y) for main in mains["anywhere"]]).T
    across, down = ((place - 0.8 * radius - 1) / (62 - 1.6 * radius) for place in (x, y))
    for share in (across, down, (across + down) % 1, (across - down) % 1):
        assert kstest(share, "uniform").pvalue > 1e-3
    assert min(x.min(), y.min()) < 13
    assert max(x.max(), y.max()) > 51


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_three_quarters_of_every_shape_are_seen_in_a_corner_whatever_its_turn(shape):
    axis = np.arange(-1.6, 1.6, 0.02, dtype=np.float32)
    x, y = np.meshgrid(axis, axis)
    inside = shape.distance(x, y) < 0
    points = np.stack([x[inside], y[inside]]) / shape.effective_radius
    for turn in np.linspace(0, 2 * math.pi, 36, endpoint=False):
        turned = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]]) @ points
        assert (turned > -0.8).all(axis=0).mean() > MAIN_VISIBLE + 0.02


def test_an_object_anywhere_is_well_seen_and_its_mask_and_captions_are_true():
    cut = 0
    for picture in ANYWHERE:
        scene, layout = picture.scene, draw_layout(scene_generator(NEW, 4, "test", picture.index), NEW, 64, "anywhere")
        main = scene.objects[0]
        whole = _unit_area(main.shape) * (layout.objects[0].radius / _effective(main.shape)) ** 2
        assert main.mask.sum() >= 0.74 * whole  # of pixels against an area
        edge = np.r_[main.full_mask[0], main.full_mask[-1], main.full_mask[:, 0], main.full_mask[:, -1]]
        cut += bool(edge.any())
        assert main.full_mask.sum() <= 1.05 * whole
        assert edge.any() or main.full_mask.sum() >= 0.95 * whole
        assert all(not np.r_[item.full_mask[0], item.full_mask[:, -1]].any() for item in scene.objects[1:])
        for caption in scene.captions:
            assert {scene.objects[each.object_index].shape for each in caption.mentions} == {
                item.shape for item in scene.objects
            }
    assert 0.2 < cut / len(ANYWHERE) < 0.8


def test_a_blob_in_the_centre_is_no_rival_where_objects_lie_anywhere():
    """Its pointing hit, by the scores that methods get; scenes with their object inside are where it is one."""
    hits = {}
    for placement in ("inside", "anywhere"):
        pictures = [ScenePicture("new", 4, "test", index, placement=placement) for index in range(len(ANYWHERE))]
        masks = [picture.scene.objects[0].mask for picture in pictures]
        at = Placement(CropGeometry(64, 64, 64, 64, 0, 0, 64, 64), 8, 8)
        scores = [pointing_hit(centre_blob(8, 8), centres_inside(mask, at)) for mask in masks]
        hits[placement] = np.mean([score for score in scores if score is not None])
    assert hits["anywhere"] < 0.45 < 0.52 < hits["inside"]
