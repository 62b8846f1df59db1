"""Figures of maps: where colour lands, what the scale says, nothing clipped or overlapping, and golden pictures.

A golden picture is a figure at half its size in ``tests/golden``. After a change of looks that is wanted, write them
again with ``VITRINE_WRITE_GOLDEN=1 pytest tests/test_map_figures.py`` and look at every one before committing it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image
from support.figures import (
    GOLDEN,
    axes_pixels,
    blob,
    differs,
    half_size,
    lightness,
    photo,
    place_grid,
    require_tidy,
    words_of,
)
from support.inputs import square_input

from vitrine.attribution.placement import Placement
from vitrine.data.transforms import EvalTransform
from vitrine.explain.figures import contact_sheet as sheets
from vitrine.explain.figures.contact_sheet import contact_sheet, save_contact_sheets
from vitrine.explain.figures.map import (
    MapPicture,
    border_notes,
    draw_overlay,
    map_figure,
    save_map_figure,
    wrong_answer_notes,
)
from vitrine.plotting.colormap import Scale, number, paint, shared_scale
from vitrine.plotting.heads import heads_figure, matrices_figure
from vitrine.plotting.overlay import contour_masks, draw_map, draw_photo
from vitrine.plotting.provenance import Provenance, read_provenance
from vitrine.plotting.style import BAR, GAP, MARGIN, WIDTH, add_axes, arrange_panels, figure_style, new_figure

METHOD = "attention of [class] to patches, last layer, mean of 12 heads"

# H, W pixel rows and columns; R, C rows and columns of patches; N tokens.


def picture(width: int = 300, height: int = 200, rows: int = 14, columns: int = 14, crop: float = 0.9) -> MapPicture:
    return MapPicture(
        photo(width, height),
        blob(rows, columns),
        place_grid(width, height, rows, columns, crop),
        name="10_1107.jpg",
        predicted="Basenji",
        probability=0.938,
        true="Basenji",
        method=METHOD,
        notes=("12 % of the attention went to prefix tokens, which are not drawn.",),
        flag="Doubtful",
        verdict="Sensitive to the weights, but no better than a blob in the centre: deletion 0.31 (0.28 to 0.35) "
        "beside 0.30 of the blob; carried by 2 outlier tokens, which hold 9 % of it.",
    )


def with_outliers(plain: MapPicture) -> MapPicture:
    map_RC = plain.map_RC.copy()
    map_RC[1, 2] = map_RC[12, 12] = 14.0
    masked_RC = map_RC.copy()
    masked_RC[1, 2] = masked_RC[12, 12] = np.nan
    return replace(plain, map_RC=map_RC, masked_RC=masked_RC, outlier_patches=((1, 2), (12, 12)))


def axes_of(width: int, height: int) -> Axes:
    """Axes of as many pixels, so that nothing is resampled."""
    with figure_style():
        return add_axes(new_figure(width / 200, height / 200), 0, 0, width / 200, height / 200)


# --- the scale


def test_a_shared_scale_worked_out_by_hand() -> None:
    assert shared_scale([np.ones((8, 8))]) == 2
    assert shared_scale([np.full((8, 8), 2.6), np.ones((8, 8))]) == 3
    assert shared_scale([np.full((8, 8), 8.0)]) == 8
    assert shared_scale([np.full((8, 8), 83.0)]) == 100
    assert shared_scale([np.full((2, 2), -0.031)], minimum=0.02) == 0.04
    outlier = np.ones((24, 24))
    outlier[3, 4] = 300
    assert shared_scale([outlier]) == 2  # one patch of 576 does not decide
    assert shared_scale([]) == 2
    assert shared_scale([np.full((3, 3), np.nan)]) == 2


@given(st.lists(st.floats(1e-3, 1e4), min_size=1, max_size=50))
def test_a_shared_scale_is_the_percentile_or_somewhat_more(values: list[float]) -> None:
    percentile = max(2.0, float(np.quantile(values, 0.98)))
    end = shared_scale([np.array(values[:1]), np.array(values[1:])])
    assert percentile * (1 - 1e-6) <= end <= percentile * 1.36
    assert len(f"{end:g}".replace(".", "").strip("0")) <= 2  # a number to read


def on_white(distance: float) -> np.ndarray:
    colour, opacity = paint(distance)
    return 1 - opacity * (1 - colour)


def test_paint_grows_evenly_and_is_not_there_where_nothing_is_said() -> None:
    assert paint(0.0)[1] == 0
    opacities = paint(np.linspace(-1, 1, 41))[1][:, 0]
    assert opacities == pytest.approx(0.85 * np.abs(np.linspace(-1, 1, 41)))
    for sign, most in ((1, 40), (-1, 20)):  # on white, each arm darkens all the way, the upper one farther
        steps = -np.diff([lightness(tuple(on_white(sign * share))) for share in np.linspace(0, 1, 21)])
        assert steps.min() > 0.4 * steps.mean() > 0.4 * most / 20
    assert lightness(tuple(on_white(-1))) - lightness(tuple(on_white(1))) > 25  # in grey print too


@pytest.mark.parametrize(
    ("scale", "values", "distances"),
    [
        (Scale("uniform", 5), [0, 1, 3, 5, 50], [-0.25, 0, 0.5, 1, 1]),
        (Scale("uniform", 2), [0, 1, 1.5], [-1, 0, 0.5]),
        (Scale("lost", 0.2), [-1, -0.1, 0, 0.05], [-1, -0.5, 0, 0.25]),
        (Scale("log", 10), [0, 0.1, 1, 10, 99], [-1, -1, 0, 1, 1]),
        (Scale("own", 6, low=2), [2, 4, 6], [0, 0.5, 1]),
    ],
)
def test_distances_from_neutral_by_hand(scale: Scale, values: list[float], distances: list[float]) -> None:
    assert scale.distances(values) == pytest.approx(distances)


def test_one_outlier_among_five_pictures_leaves_colour_to_the_others() -> None:
    maps = [1 + blob(8, 8, shift / 10) for shift in range(5)]
    calm = shared_scale(maps)
    maps[2] = maps[2].copy()
    maps[2][0, 0] = 200
    assert shared_scale(maps) == calm
    figure = map_figure(replace(picture(64, 64, 8, 8), map_RC=maps[2]), Scale("uniform", calm))
    assert any(word.startswith(f"Colours end at {calm:g}: ") and "of 64 beyond" in word for word in words_of(figure))
    assert "up to 200" in words_of(figure)


def test_a_contour_parts_above_from_below_and_gaps_have_no_side() -> None:
    values = np.full((9, 9), 0.5)
    values[3:6, 3:6] = 2.0
    values[4, 6] = np.nan
    line, rim = contour_masks(values, 1.0)
    expected = {
        (y, x)
        for y in range(9)
        for x in range(9)
        for v, u in ((y + 1, x), (y, x + 1))
        if v < 9 and u < 9 and (values[y, x] - 1) * (values[v, u] - 1) < 0
    }
    assert set(zip(*np.nonzero(line), strict=True)) == expected
    assert (4, 5) not in expected  # beside the gap
    near = {(y + i, x + j) for y, x in expected for i in (-1, 0, 1) for j in (-1, 0, 1)}
    assert set(zip(*np.nonzero(rim), strict=True)) == near


def test_the_patch_that_looks_is_framed_on_every_panel_and_rows_are_numbered_to_ask_by() -> None:
    looking = replace(picture(), query=(3, 4), contour=True)
    figure = map_figure(looking, Scale("uniform", 4))
    require_tidy(figure)
    left, top, right, bottom = looking.placement.patch_box(3, 4)
    for axes in figure.axes[:3]:
        boxes = [
            (*each.get_xy(), each.get_width(), each.get_height())
            for each in axes.patches
            if isinstance(each, Rectangle)
        ]
        assert boxes.count(pytest.approx((left, top, right - left, bottom - top))) == 2
    alone = figure.axes[2]
    for ticks, axis in ((alone.get_xticklabels(), 0), (alone.get_yticklabels(), 1)):
        for label in ticks:
            place = label.get_position()[axis]
            patch = (0, int(label.get_text())) if axis == 0 else (int(label.get_text()), 0)
            assert place == pytest.approx(looking.placement.centre(*patch)[axis])
    assert "the patch that looks: row 3, column 4" in words_of(figure)
    heads_words = words_of(
        heads_figure(looking.photo_HWC, heads(2, 14), looking.placement, Scale("uniform", 4), title="", query=(3, 4))
    )
    assert any("framed: the patch that looks, row 3, column 4" in word.lower() for word in heads_words)


def test_the_same_value_has_the_same_colour_in_every_picture() -> None:
    placement = place_grid(40, 40, 4, 4, 1.0)
    maps = [np.full((4, 4), 0.5), np.full((4, 4), 0.5)]
    maps[1][0, 0] = 3.5
    for kind, same in (("uniform", True), ("lost", True), ("own", False)):
        colours = [axes_pixels(draw_map(axes_of(40, 40), each, placement, Scale(kind, 4)))[35, 35] for each in maps]  # type: ignore[arg-type]
        if same:
            assert np.array_equal(*colours)
    assert np.array_equal(colours[1], Scale("own").colormap(0.0)[:3])  # stretched: the least value is white


def test_colours_are_those_of_the_bar() -> None:
    placement = place_grid(40, 40, 2, 2, 1.0)
    scale = Scale("uniform", 5)
    image = axes_pixels(draw_map(axes_of(40, 40), np.array([[0, 1], [2.5, 9]]), placement, scale))
    for (y, x), share in {(10, 10): 0.0, (10, 30): 0.2, (30, 10): 0.5, (30, 30): 1.0}.items():
        assert image[y, x] == pytest.approx(scale.colormap(share)[:3], abs=0.01)


@pytest.mark.parametrize(
    ("value", "text"), [(0.30000000000000004, "0.3"), (-2, "−2"), (19.6857, "19.7"), (0, "0"), (1234.5, "1230")]
)
def test_numbers_are_short(value: float, text: str) -> None:
    assert number(value) == text


def bar_of(figure: Figure, name: str) -> Axes:
    """The colour bar: the axes below the words that name it."""
    assert words_of(figure).count(name) == 1
    return figure.axes[-1]


def test_the_bar_marks_no_preference_and_says_what_is_beyond() -> None:
    outliers = with_outliers(picture())
    bar = bar_of(map_figure(outliers, Scale("uniform", 6)), "multiple of uniform")
    labels = {label.get_text(): label.get_weight() for label in bar.get_yticklabels()}
    assert labels == {"0": "normal", "1": "bold", "2": "normal", "4": "normal", "6": "normal"} | {
        str(each): "normal" for each in (3, 5) if str(each) in labels
    }
    assert bar.get_ylim() == (0, 6)
    assert "up to 14" in words_of(bar.figure)  # type: ignore[arg-type]
    assert len(bar.findobj(PolyCollection)) + len(bar.patches) > 0
    calm = map_figure(picture(), Scale("uniform", 20))
    assert not any(word.startswith("up to") for word in words_of(calm))
    assert [label.get_text() for label in bar_of(calm, "multiple of uniform").get_yticklabels()] == [
        "1", "5", "10", "15", "20",
    ]  # fmt: skip


def test_the_bar_of_lost_probability_is_symmetric_about_zero() -> None:
    drop_picture = replace(picture(), map_RC=(blob(14, 14) - 1.5) / 10)
    bar = bar_of(map_figure(drop_picture, Scale("lost", 0.2)), "probability lost")
    assert bar.get_ylim() == (-0.2, 0.2)
    assert {label.get_text() for label in bar.get_yticklabels() if label.get_weight() == "bold"} == {"0"}
    assert {"−0.1", "0.1"} <= {label.get_text() for label in bar.get_yticklabels()}


def test_stretching_is_written_on_every_kind_of_figure() -> None:
    own_scale, sentence = Scale("own"), "Every map is stretched to its own minimum and maximum."
    plain = picture()
    maps_HRC = np.stack([plain.map_RC, plain.map_RC * 2])
    for scale, count in ((own_scale, 1), (Scale("uniform", 4), 0)):
        for figure in (
            map_figure(plain, scale),
            heads_figure(plain.photo_HWC, maps_HRC, plain.placement, scale, title="heads"),
            contact_sheet([plain, plain], scale, title="sheet"),
        ):
            assert words_of(figure).count(sentence) == count
    bar = map_figure(plain, own_scale).axes[-1]
    assert bar.get_ylim() == pytest.approx((plain.map_RC.min(), plain.map_RC.max()))


# --- where colour lands


@settings(max_examples=12, deadline=None)
@given(st.integers(60, 160), st.integers(60, 160), st.integers(2, 9), st.integers(2, 9), st.data())
def test_colour_lands_in_the_patch_and_nowhere_else(
    width: int, height: int, rows: int, columns: int, data: st.DataObject
) -> None:
    placement = place_grid(width, height, rows, columns, data.draw(st.sampled_from([0.6, 0.9, 1.0])))
    row, column = data.draw(st.integers(0, rows - 1)), data.draw(st.integers(0, columns - 1))
    grey_HWC = np.full((height, width, 3), 128, dtype=np.uint8)
    map_RC = np.zeros((rows, columns))
    map_RC[row, column] = 4
    axes = draw_overlay(axes_of(width, height), grey_HWC, map_RC, placement, Scale("uniform", 4), smooth=False)
    hot_HW = axes_pixels(axes)[..., 1] < 0.3  # the last colour is purple, without green; the photograph has 0.5
    assert hot_HW.any()
    for y in range(height):
        for x in range(0, width, 3):
            assert hot_HW[y, x] == (placement.patch_at(x + 0.5, y + 0.5) == (row, column))


def test_axes_have_the_photographs_own_pixels() -> None:
    plain = picture()
    with figure_style():
        figure = new_figure(3, 2)
        axes = figure.add_subplot()
    returned_axes = draw_overlay(
        axes, plain.photo_HWC, plain.map_RC, plain.placement, Scale("uniform", 4), outlines=[(3, 4)]
    )
    assert returned_axes is axes
    assert (axes.get_xlim(), axes.get_ylim()) == ((0, 300), (200, 0))
    assert axes.get_aspect() == 1  # nothing is stretched
    assert axes.images[0].get_extent() == [0, 300, 200, 0]
    boxes = [
        (*patch.get_xy(), patch.get_width(), patch.get_height())
        for patch in axes.patches
        if isinstance(patch, Rectangle)
    ]
    left, top, right, bottom = plain.placement.patch_box(3, 4)
    assert pytest.approx((left, top, right - left, bottom - top)) in boxes
    left, top, right, bottom = plain.placement.geometry.box
    assert pytest.approx((left, top, right - left, bottom - top)) in boxes  # what the model saw


@pytest.mark.parametrize(("kind", "neutral"), [("uniform", 1.0), ("lost", 0.0)])
def test_where_nothing_is_said_the_photograph_has_its_own_colours(kind: Any, neutral: float) -> None:
    plain = picture(crop=1.0)
    visible_HW = plain.placement.visible_HW
    calm = draw_overlay(axes_of(300, 200), plain.photo_HWC, np.full((14, 14), neutral), plain.placement, Scale(kind, 4))
    assert axes_pixels(calm)[visible_HW] == pytest.approx(plain.photo_HWC[visible_HW] / 255, abs=1e-6)
    none = draw_overlay(axes_of(300, 200), plain.photo_HWC, np.zeros((14, 14)), plain.placement, Scale("uniform", 4))
    before, after = (
        each @ np.array([0.2126, 0.7152, 0.0722])
        for each in (plain.photo_HWC[visible_HW] / 255, axes_pixels(none)[visible_HW])
    )
    assert np.corrcoef(before, after)[0, 1] > 0.999
    assert abs(before.mean() - after.mean()) < 0.08  # and is not made dark


def test_what_was_not_seen_is_faded_and_has_no_colour() -> None:
    plain = picture(crop=0.7)
    hot_RC = np.full((14, 14), 9.0)
    overlay = axes_pixels(
        draw_overlay(axes_of(300, 200), plain.photo_HWC, hot_RC, plain.placement, Scale("uniform", 4))
    )
    plainly = axes_pixels(draw_photo(axes_of(300, 200), plain.photo_HWC, plain.placement))
    visible_HW = plain.placement.visible_HW
    assert np.allclose(overlay[~visible_HW], plainly[~visible_HW])
    assert np.allclose(plainly[~visible_HW], 1 - 0.4 * (1 - plain.photo_HWC[~visible_HW] / 255), atol=0.01)
    assert np.allclose(plainly[visible_HW], plain.photo_HWC[visible_HW] / 255, atol=0.01)
    assert np.abs(overlay[visible_HW] - plainly[visible_HW]).mean() > 0.2


def test_tiny_pictures_keep_square_pixels_and_large_ones_are_not_drawn_whole() -> None:
    tiny = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    image = axes_pixels(draw_photo(axes_of(80, 80), tiny, place_grid(8, 8, 2, 2, 1.0)))
    assert np.allclose(image, tiny.repeat(10, axis=0).repeat(10, axis=1) / 255, atol=1e-6)
    large = draw_photo(axes_of(100, 75), photo(2000, 1500), place_grid(2000, 1500, 4, 4))
    assert axes_pixels(large).shape == (75, 100, 3)
    assert (large.get_xlim(), large.get_ylim()) == ((0, 2000), (1500, 0))


def test_a_photograph_of_another_shape_is_refused() -> None:
    plain = picture()
    turned_HWC = np.ascontiguousarray(plain.photo_HWC.transpose(1, 0, 2))  # what forgetting EXIF orientation gives
    with pytest.raises(ValueError, match="200 x 300 pixels; its placement is for 300 x 200"):
        map_figure(replace(plain, photo_HWC=turned_HWC), Scale("uniform", 4))
    with pytest.raises(ValueError, match="14 x 14 patches"):
        map_figure(replace(plain, map_RC=np.zeros((14, 13))), Scale("uniform", 4))


def test_a_lighter_picture_is_drawn_in_the_same_place() -> None:
    plain = picture(900, 600)
    light = plain.with_smaller_photo(100)
    assert light.photo_HWC.shape == (67, 100, 3)
    assert light.with_smaller_photo(100) is light
    scale = Scale("uniform", 4)
    images = [
        axes_pixels(draw_overlay(axes_of(90, 60), p.photo_HWC, p.map_RC, p.placement, scale)) for p in (plain, light)
    ]
    assert np.abs(images[0] - images[1]).mean() < 0.01


# --- words


@pytest.mark.parametrize(
    ("true", "judgement", "not_said"),
    [("Basenji", "✓ right", "✗"), ("Bengal", "✗ true label: Bengal", "✓"), (None, "predicted, 93.8 %", "true")],
)
def test_right_and_wrong_are_said_in_words(true: str | None, judgement: str, not_said: str) -> None:
    words = words_of(map_figure(replace(picture(), true=true), Scale("uniform", 4)))
    assert "Basenji" in words
    assert judgement in words
    assert not any(not_said in word for word in words)


def test_a_figure_says_method_notes_and_verdict() -> None:
    plain = picture()
    words = words_of(map_figure(replace(plain, model="runs/pets"), Scale("uniform", 4)))
    assert "10_1107.jpg · model runs/pets" in words
    assert METHOD in words
    assert plain.notes[0] in words
    assert "Doubtful" in words
    start = next(index for index, word in enumerate(words) if word.startswith("Sensitive"))
    assert " ".join(words[start : start + 2]) == plain.verdict
    assert "not seen by the model" in words
    assert "map alone, 14 × 14 patches" in words


def test_panels_of_heads_and_matrices_say_what_a_map_figure_says() -> None:
    wrong = replace(picture(), true="Bengal", model="runs/pets")
    assert wrong.headline == "Basenji · predicted, 93.8 % · ✗ true label: Bengal"
    assert wrong.origin == f"10_1107.jpg · model runs/pets\n{METHOD}"
    figure = matrices_figure(attention(4, 17, 1), 1, title=wrong.headline, detail=wrong.origin)
    assert {wrong.headline, *wrong.origin.split("\n")} <= set(words_of(figure))


def test_the_masked_map_stands_beside_the_raw_one() -> None:
    outliers = with_outliers(picture())
    figure = map_figure(outliers, Scale("uniform", 6))
    titles = [
        word for word in words_of(figure) if word in ("photograph", "overlay, smoothed", "outlier patches masked")
    ]
    assert titles == ["photograph", "overlay, smoothed", "outlier patches masked"]
    _, raw, alone, masked, _ = figure.axes
    left, top, right, bottom = outliers.placement.patch_box(1, 2)
    height, width = axes_pixels(raw).shape[:2]
    at = round((top + bottom) / 2 / 200 * height), round((left + right) / 2 / 300 * width)
    for axes in (raw, alone):  # the outlier is purple in the raw map: without green
        assert axes_pixels(axes)[at][1] < 0.25
    assert axes_pixels(masked)[at] == pytest.approx(axes_pixels(figure.axes[0])[at], abs=0.3)
    assert "outlier patch" in words_of(figure)
    for axes in (raw, alone, masked):
        assert sum(isinstance(patch, Rectangle) for patch in axes.patches) == 3  # two outlines, and what was seen


LONG = "a_class_with_a_very_long_name_that_nobody_would_want_to_read_in_full"
CASES: dict[str, tuple[MapPicture, Scale]] = {
    "landscape": (picture(), Scale("uniform", 6)),
    "outliers": (with_outliers(picture()), Scale("uniform", 6)),
    "outliers, tall": (with_outliers(picture(120, 400)), Scale("uniform", 6)),
    "square, whole, 8 × 8": (picture(64, 64, 8, 8, 1.0), Scale("uniform", 2)),
    "panorama": (replace(picture(1600, 120, 24, 24), map_RC=blob(24, 24) - 1), Scale("lost", 0.5)),
    "tower": (picture(40, 2000), Scale("uniform", 6)),
    "one pixel high": (picture(300, 1, 4, 4, 1.0), Scale("uniform", 6)),
    "nothing said": (MapPicture(photo(90, 90), blob(6, 6), place_grid(90, 90, 6, 6)), Scale("own")),
    "long words": (
        replace(
            picture(), predicted=LONG, true=f"{LONG}_2", name=f"{LONG}.jpg", method=METHOD * 4, notes=(METHOD * 5,) * 2,
            flag="Not to be trusted", verdict="Spread evenly. " * 40,
        ),
        Scale("uniform", 100, "a unit with a name that is long"),
    ),
    "flat": (replace(picture(), map_RC=np.ones((14, 14))), Scale("own")),
    "no score at all": (replace(picture(), map_RC=np.full((14, 14), np.nan)), Scale("uniform", 4)),
    "far beyond on both sides": (replace(picture(), map_RC=100 * (blob(14, 14) - 1)), Scale("lost", 0.3)),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_map_figure_is_tidy(case: str) -> None:
    case_picture, scale = CASES[case]
    figure = map_figure(case_picture, scale)
    require_tidy(figure)
    width, height = figure.get_size_inches()
    assert width <= WIDTH + 0.05
    assert height < (9 if case != "long words" else 11)


@given(st.integers(1, 30), st.floats(0.02, 50), st.integers(1, 6), st.floats(2, 8))
def test_panels_fit_the_page(count: int, aspect: float, most: int, tallest: float) -> None:
    columns, (width, height) = arrange_panels(count, aspect, most, tallest, max_panel_width=3.3)
    rows = -(-count // columns)
    assert 1 <= columns <= max(most, 1)
    assert width <= 3.3
    assert columns * (width + GAP) <= WIDTH - 2 * MARGIN - BAR + 1e-6
    assert width / height == pytest.approx(aspect)
    assert rows * (height + 0.34) <= max(tallest + 0.34, rows * 0.44) + 1e-6  # 0.1 inches, if need be


# --- heads and matrices


def heads(count: int, rows: int = 8) -> np.ndarray:
    return np.stack([blob(rows, rows, 0.2 + 0.6 * i / count, 0.7 - 0.4 * i / count, 0.1) for i in range(count)])


@pytest.mark.parametrize("count", [1, 7, 12])
def test_heads_are_panels_on_one_scale(count: int) -> None:
    plain = picture(rows=8, columns=8)
    figure = heads_figure(
        plain.photo_HWC, heads(count), plain.placement, Scale("uniform", 4), title="Basenji", detail=METHOD
    )
    require_tidy(figure)
    assert [word for word in words_of(figure) if word.startswith("head ")] == [f"head {i}" for i in range(count)]
    *panels, bar = figure.axes
    assert len(panels) == count
    assert bar.get_ylim() == (0, 4)
    tops = [round(axes.get_position().y1, 3) for axes in panels]
    assert max(tops.count(top) for top in tops) <= 6
    assert "Hatched: not seen by the model." in words_of(figure)


def test_heads_may_have_numbers_of_their_own() -> None:
    plain = picture(rows=8, columns=8)
    arguments = (plain.photo_HWC, heads(2), plain.placement, Scale("uniform", 4))
    words = words_of(heads_figure(*arguments, title="", heads=[3, 11], outlines=[(0, 0)]))
    assert [word for word in words if word.startswith("head ")] == ["head 3", "head 11"]
    assert "Hatched: not seen by the model; outlined: outlier patches." in words
    with pytest.raises(ValueError, match="each of the 2 heads"):
        heads_figure(*arguments, title="", heads=[3])
    with pytest.raises(ValueError, match="one head at least"):
        heads_figure(plain.photo_HWC, heads(1)[:0], plain.placement, Scale("uniform", 4), title="")


def attention(count: int, tokens: int, prefix: int) -> np.ndarray:
    """Rows that sum to 1: near tokens, and the more of the first ones, the later the head."""
    at = np.arange(tokens)
    logits = -np.abs(at[:, None] - at)[None] / (1 + np.arange(count))[:, None, None]
    logits = logits + np.where(at < prefix, np.arange(count)[:, None, None], 0)
    weights = np.exp(logits)
    return weights / weights.sum(-1, keepdims=True)


def test_matrices_are_multiples_of_uniform_with_prefix_tokens_apart() -> None:
    matrices_HNN = attention(3, 66, 2)
    figure = matrices_figure(matrices_HNN, 2, title="Attention matrices", detail="layer 11")
    require_tidy(figure)
    *panels, bar = figure.axes
    for axes, matrix_NN in zip(panels, matrices_HNN, strict=True):
        assert np.allclose(axes_pixels(axes), 66 * matrix_NN, rtol=1e-5)
        assert sorted(line.get_xdata()[0] for line in axes.lines) == [0, 2]  # type: ignore[index]
    assert bar.get_yscale() == "log"
    assert {label.get_text() for label in bar.get_yticklabels() if label.get_weight() == "bold"} == {"1"}
    assert "Dark lines part 2 prefix tokens from 64 patches" in " ".join(words_of(figure))


def test_few_prefix_tokens_among_many_patches_are_drawn_broader_and_that_is_said() -> None:
    matrix_NN = attention(1, 197, 1)[0]
    figure = matrices_figure(matrix_NN[None], 1, title="")
    image = axes_pixels(figure.axes[0])
    assert image.shape == (202, 202)
    assert np.allclose(image[:6, 6:], np.tile(197 * matrix_NN[0, 1:], (6, 1)), rtol=1e-5)
    assert np.allclose(image[6:, 6:], 197 * matrix_NN[1:, 1:], rtol=1e-5)
    assert "1 prefix token, drawn 6 times as broad, from 196 patches" in " ".join(words_of(figure))


def test_uniform_attention_is_one_everywhere_and_no_prefix_needs_no_line() -> None:
    figure = matrices_figure(np.full((2, 64, 64), 1 / 64), 0, title="")
    require_tidy(figure)
    assert np.allclose(axes_pixels(figure.axes[0]), 1)
    assert not figure.axes[0].lines
    assert not any("Dark lines" in word for word in words_of(figure))
    for wrong, prefix in ((np.ones((2, 4, 5)), 0), (np.ones((2, 4, 4)), 4), (np.ones((4, 4)), 0)):
        with pytest.raises(ValueError, match="Expected"):
            matrices_figure(wrong, prefix, title="")


# --- contact sheets


def many(count: int) -> list[MapPicture]:
    sizes = [(64, 64), (90, 60), (60, 110), (200, 40)]
    truths = [None, "heart", "star", "Basenji"]
    return [
        replace(
            picture(*sizes[i // 2 % 4], 8, 8), name=f"{i:06d}.png", true=truths[i % 4], map_RC=blob(8, 8, (i % 5) / 5)
        )
        for i in range(count)
    ]


@pytest.mark.parametrize(("count", "each"), [(1, 1), (2, 2), (9, 1), (14, 2)])
def test_a_contact_sheet_is_tidy_and_shows_every_picture(count: int, each: int) -> None:
    pictures = many(count)
    pictures[0] = replace(pictures[0], predicted=LONG, true=LONG[::-1], outlier_patches=((0, 0),))
    figure = contact_sheet(pictures, Scale("uniform", 4), title=f"{count} pictures", detail=METHOD, maps_each=each)
    require_tidy(figure)
    bar, *panels = figure.axes
    assert len(panels) == count // each * (each + 1)  # the photograph once, then its maps
    assert bar.get_xlim() == (0, 4)
    rows = [round(axes.get_position().y0, 3) for axes in panels]
    assert max(rows.count(row) for row in rows) <= 8
    assert sum(word.startswith("Basenji") for word in words_of(figure)) == count - 1
    for axes, first in zip(panels[:: each + 1], pictures[::each], strict=True):
        box, geometry = axes.get_window_extent(), first.placement.geometry
        apart = abs(box.width * geometry.height - box.height * geometry.width)
        assert apart <= max(geometry.width, geometry.height)  # sides are whole pixels


def test_labels_on_a_sheet_say_right_and_wrong_without_colour() -> None:
    words = words_of(contact_sheet(many(4), Scale("uniform", 4), title=""))
    assert words.count("Basenji  93.8 %") == 1
    assert words.count("Basenji  93.8 %  ✗") == 2
    assert words.count("Basenji  93.8 %  ✓") == 1
    assert "true: heart" in words
    assert "true: star" in words
    assert {f"{i:06d}.png" for i in range(4)} <= set(words)  # the file is named where the answer is wrong, too
    assert words.count("Doubtful") == 4


def test_many_pictures_take_several_sheets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sheets, "A_SHEET", 3)
    pictures = many(7)
    pictures[6] = replace(pictures[6], map_RC=9 * pictures[6].map_RC / pictures[6].map_RC.max())
    metadata = Provenance("contact sheet", model="runs/pets").to_metadata()
    paths = save_contact_sheets(pictures, Scale("uniform", 4), tmp_path / "new" / "maps.svg", metadata, detail=METHOD)
    assert [path.name for path in paths] == ["maps.svg", "maps-2.svg", "maps-3.svg"]
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == sorted(path.name for path in paths)
    assert all(read_provenance(path)["vitrine:model"] == "runs/pets" for path in paths)
    with pytest.raises(ValueError, match="one picture at least"):
        save_contact_sheets([], Scale("uniform", 4), tmp_path / "a.png", {})


def test_sheets_of_one_call_have_the_same_bar(tmp_path: Path) -> None:
    pictures = many(2)
    pictures[1] = replace(pictures[1], map_RC=9 * pictures[1].map_RC / pictures[1].map_RC.max())
    for sheet in (pictures[:1], pictures[1:]):
        figure = contact_sheet(sheet, Scale("uniform", 4), title="", all_maps=pictures)
        assert "up to 9" in words_of(figure)


# --- files


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_a_map_figure_carries_its_origin_and_is_the_same_twice(ending: str, tmp_path: Path) -> None:
    metadata = Provenance("attention map", model="runs/pets", options={"stretch": False}).to_metadata()
    for name in ("a", "b"):
        save_map_figure(picture(90, 60), Scale("uniform", 6), tmp_path / f"{name}.{ending}", metadata)
    first, second = ((tmp_path / f"{name}.{ending}").read_bytes() for name in "ab")
    assert first == second
    assert metadata.items() <= read_provenance(tmp_path / f"a.{ending}").items()


# --- golden pictures


def matrices() -> Figure:
    return matrices_figure(
        attention(4, 65, 1), 1, title="Attention matrices", detail="10_1107.jpg · layer 11 of 0 to 11"
    )


def head_panels() -> Figure:
    plain = picture(rows=8, columns=8)
    return heads_figure(plain.photo_HWC, heads(3), plain.placement, Scale("uniform", 6), title="Basenji", detail=METHOD)


def signed_figure() -> Figure:
    drop_picture = replace(
        picture(64, 64, 8, 8, 1.0), map_RC=(blob(8, 8) - 1.2) / 8, method="occlusion", smooth=False, true="Bengal"
    )
    return map_figure(drop_picture, Scale("lost", 0.2))


FIGURES: dict[str, Callable[[], Figure]] = {
    "map": lambda: map_figure(with_outliers(picture()), Scale("uniform", 6)),
    "signed": signed_figure,
    "heads": head_panels,
    "matrices": matrices,
    "sheet": lambda: contact_sheet(many(6), Scale("uniform", 4), title="6 pictures", detail=METHOD),
}


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_looks_as_it_did(name: str) -> None:
    drawing, path = half_size(FIGURES[name]()), GOLDEN / f"{name}.png"
    if os.environ.get("VITRINE_WRITE_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(drawing).save(path, optimize=True)
    with Image.open(path) as golden:
        difference = differs(drawing, np.asarray(golden.convert("RGB")))
    assert not difference, f"{path}: {difference}; see the top of this file for how to write it again"


def test_golden_pictures_would_notice() -> None:
    """A map one patch aside, the scale's end halved, the crop forgotten: each is more than the tolerance."""
    golden_picture, scale = with_outliers(picture()), Scale("uniform", 6)
    golden = half_size(map_figure(golden_picture, scale))
    assert not differs(golden, golden)
    aside = replace(golden_picture, map_RC=np.roll(golden_picture.map_RC, 1, axis=1), masked_RC=None)
    aside = replace(aside, masked_RC=np.roll(golden_picture.masked_RC, 1, axis=1))  # type: ignore[arg-type]
    assert differs(half_size(map_figure(aside, scale)), golden)
    assert differs(half_size(map_figure(golden_picture, Scale("uniform", 3))), golden)
    whole = replace(golden_picture, placement=place_grid(300, 200, 14, 14, 1.0))
    assert differs(half_size(map_figure(whole, scale)), golden)


def test_golden_pictures_are_small() -> None:
    assert {path.name for path in GOLDEN.iterdir()} >= {f"{name}.png" for name in FIGURES}
    assert sum((GOLDEN / f"{name}.png").stat().st_size for name in FIGURES) < 400_000


@pytest.mark.parametrize(
    ("predicted", "true", "target", "words"),
    [
        ("cat", "cat", None, None),
        ("cat", None, None, None),  # nobody knows
        ("cat", "cat", "dog", None),  # right, whatever the map is for
        ("cat", "dog", None, "explains a wrong answer: cat, where the true label is dog"),
        ("cat", "dog", "cat", "explains a wrong answer: cat, where the true label is dog"),
        ("cat", "dog", "dog", "The answer cat is wrong, and this map is not for it: it is for dog"),
    ],
)
def test_a_map_of_a_wrong_answer_says_so(
    predicted: str, true: str | None, target: str | None, words: str | None
) -> None:
    notes = wrong_answer_notes(predicted, true, target)
    assert len(notes) == (words is not None)
    assert words is None or words in notes[0]


def test_what_lies_on_the_border_is_said_and_only_there() -> None:
    """A tall picture fills a quarter of the input, so that an even map has three quarters of itself on the border."""
    for mode, notes in (
        ("border", ("75.0 % of the map lies on the border around the photograph and is not drawn.",)),
        ("center", ()),
        ("squash", ()),
    ):
        transform = EvalTransform(square_input(64, size=(48, 64), crop_mode=mode))
        placement = Placement(transform.geometry(80, 240), 6, 8)
        assert border_notes(np.ones((6, 8)), placement) == notes
    on_the_photograph = np.where(placement.photo_share_RC > 0, 1, 0)
    assert border_notes(np.zeros((6, 8)), placement) == border_notes(on_the_photograph, placement) == ()
