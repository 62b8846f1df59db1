"""A caption's figure: every word has its own map, grey means what the figure says, nothing clipped or overlapping.

The golden picture is a figure at half its size in ``tests/golden``. After a change of looks that is wanted, write it
again with ``VITRINE_WRITE_GOLDEN=1 pytest tests/test_word_figures.py`` and look at it before committing it.
"""

from __future__ import annotations

import csv
import io
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image
from support.figures import GOLDEN, axes_pixels, blob, differs, half_size, photo, place_grid, require_tidy, words_of

from vitrine.caption.figures.figure_file import save_caption_figure
from vitrine.caption.figures.words import (
    IN_A_ROW,
    IN_A_ROW_OF_MANY,
    MANY,
    CaptionPicture,
    WordGrid,
    WordPanel,
    caption_figure,
    draw_word,
    sheet_width,
)
from vitrine.caption.run import CAPTION_HEADER, caption_row
from vitrine.plotting.colormap import Scale
from vitrine.plotting.overlay import draw_overlay
from vitrine.plotting.provenance import Provenance, read_provenance
from vitrine.plotting.style import GAP, GREY, INK, MARGIN, WIDTH, add_axes, figure_style, new_figure

METHOD = "cross-attention, last of 6 layers, mean of 8 heads"
SENTENCE = "a small dog sleeps on the warm stones of an old garden wall."
SMALL_WORDS = ("a", "on", "the", "of", "an")
SCALE = Scale("uniform", 6)

# H, W pixel rows and columns; R, C rows and columns of patches.


def words(text: str, rows: int = 10, columns: int = 14) -> tuple[WordPanel, ...]:
    """A blob a word, from the upper left to the lower right; small words look nowhere."""
    tokens = text.split()
    return tuple(
        WordPanel(
            token,
            0.97 - 0.9 * i / max(1, len(tokens)),
            np.ones((rows, columns), dtype=np.float32) if token in SMALL_WORDS else blob(rows, columns, at, at, 0.12),
            grey=token in SMALL_WORDS,
        )
        for i, (token, at) in enumerate(zip(tokens, np.linspace(0.15, 0.85, len(tokens)), strict=True))
    )


def picture(text: str = SENTENCE, width: int = 300, height: int = 200, crop: float | None = None) -> CaptionPicture:
    placement = place_grid(width, height, 10, 14, crop or 1.0)
    if crop is None:  # captioners look at the whole picture
        whole = {"resized_width": 96, "resized_height": 96, "left": 0, "top": 0, "crop_width": 96, "crop_height": 96}
        geometry = replace(placement.geometry, **whole)
        placement = replace(placement, geometry=geometry)
    return CaptionPicture(
        photo(width, height),
        placement,
        text,
        words(text),
        name="girl.jpg",
        true=("A dog asleep on a wall.", "a puppy rests"),
        log_probability=-11.27,
        method=METHOD,
    )


def panels_of(figure: Figure, count: int) -> list[Axes]:
    """The words' panels: the last axes of a figure."""
    return figure.axes[len(figure.axes) - count :]


def colours_of(figure: Figure, word: str) -> list[str]:
    return [to_hex(text.get_color()) for text in figure.findobj(Text) if text.get_text() == word]  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def plain_figure() -> Figure:
    """The figure of ``picture()``."""
    return caption_figure(picture(), SCALE)


# --- words and their panels


@pytest.mark.parametrize("count", [1, 7, 40, 61])
def test_every_word_has_a_panel_in_reading_order(count: int) -> None:
    text = " ".join(f"w{i}" for i in range(count))
    figure = caption_figure(picture(text), SCALE)
    require_tidy(figure)
    panels = panels_of(figure, count)
    boxes = [axes.get_position() for axes in panels]
    in_order = sorted(boxes, key=lambda box: (-round(box.y0, 3), box.x0))
    assert boxes == in_order
    rows = [round(box.y0, 3) for box in boxes]
    assert max(rows.count(row) for row in rows) <= (IN_A_ROW if count <= MANY else IN_A_ROW_OF_MANY)
    across, up = figure.get_size_inches()
    for axes, box, i in zip(panels, boxes, range(count), strict=True):
        assert axes.images, "a panel without a map"
        *_, label = (text for text in figure.findobj(Text) if text.get_text() == f"w{i}")  # the first is the caption's
        left, foot = label.get_position()  # type: ignore[attr-defined]
        assert left == pytest.approx(box.x0, abs=0.002)
        assert 0 < (foot - box.y1) * up < 0.3  # right above its panel
        assert box.width * across > (1.2 if count <= MANY else 0.9)  # to be recognised at README width
    assert across == WIDTH
    assert up < 13


@pytest.mark.parametrize("aspect", [0.4, 0.75, 1.0, 1.5, 4.0])
def test_many_panels_are_a_sheet_of_a_papers_proportions(aspect: float) -> None:
    for count in (MANY + 1, 90, 120, 256, 600):
        with figure_style():
            grid = WordGrid.of(words("w " * count, 4, 4), aspect)
        width = sheet_width(count, aspect)
        assert grid.columns >= IN_A_ROW_OF_MANY
        assert 2 * MARGIN + grid.columns * (grid.cell + GAP) - GAP <= width + 0.01  # nothing reaches over its edge
        head = 3 * width / WIDTH
        assert grid.height + head < 1.5 * width
        narrower = width * (grid.columns - 1) / grid.columns
        if grid.columns > IN_A_ROW_OF_MANY:  # a column less would be too high
            assert -(-count // (grid.columns - 1)) * (grid.panel[1] + 0.4) + head > 1.3 * narrower
    assert sheet_width(MANY, aspect) == WIDTH


def test_an_answer_whose_every_word_looked_somewhere_has_every_panel_on_a_sheet() -> None:
    text = " ".join(f"w{i}" for i in range(120))
    figure = caption_figure(picture(text), SCALE)
    require_tidy(figure)
    across, up = figure.get_size_inches()
    assert WIDTH < across < 2 * WIDTH and up < 1.5 * across
    boxes = [axes.get_position() for axes in panels_of(figure, 120)]
    assert boxes == sorted(boxes, key=lambda box: (-round(box.y0, 3), box.x0))
    assert all(box.width * across > 0.9 for box in boxes)
    texts = [text.get_text() for text in figure.findobj(Text)]  # type: ignore[attr-defined]
    assert all(texts.count(f"w{i}") == 2 for i in range(120))


def test_of_a_long_caption_grey_words_have_no_panel() -> None:
    shown = {f"w{i}" for i in range(0, MANY + 1, 20)}
    long = picture(" ".join(f"w{i}" for i in range(MANY + 1)))
    long = replace(long, words=tuple(replace(word, grey=word.text not in shown) for word in long.words))
    figure = caption_figure(long, SCALE)
    require_tidy(figure)
    texts = [text.get_text() for text in figure.findobj(Text)]  # type: ignore[attr-defined]
    # In the caption every word, above panels once more those that looked somewhere.
    assert all(texts.count(word.text) == 1 + (word.text in shown) for word in long.words)
    assert "only the other words have panels" in " ".join(texts)
    short = replace(long, words=long.words[:MANY], caption=" ".join(word.text for word in long.words[:MANY]))
    texts = [text.get_text() for text in caption_figure(short, SCALE).findobj(Text)]  # type: ignore[attr-defined]
    assert texts.count("w1") == 2 and "only the other words" not in " ".join(texts)


def test_every_panel_shows_the_map_of_its_own_word() -> None:
    """Each word looks at another patch: a shift by one word would show."""
    base = picture("zero one two three four five six")
    hot = [(r, c) for r, c in zip((0, 9, 4, 2, 7, 5, 1), (0, 13, 6, 11, 3, 9, 12), strict=True)]
    maps = np.zeros((7, 10, 14), dtype=np.float32)
    for index, at in enumerate(hot):
        maps[(index, *at)] = 140
    caption_picture = replace(
        base,
        words=tuple(replace(word, map_RC=map_RC) for word, map_RC in zip(base.words, maps, strict=True)),
        smooth=False,
    )
    for axes, at in zip(panels_of(caption_figure(caption_picture, SCALE), 7), hot, strict=True):
        green_HW = axes_pixels(axes)[..., 1]  # which purple has least of
        y, x = np.unravel_index(green_HW.argmin(), green_HW.shape)
        height, width = green_HW.shape
        assert caption_picture.placement.patch_at((x + 0.5) * 300 / width, (y + 0.5) * 200 / height) == at


@pytest.mark.parametrize(
    ("probability", "words"),
    [(0.84, "84 %"), (0.0123, "1 %"), (0.004, "0.4 %"), (0.0, "<0.1 %"), (1.0, ">99.9 %"), (0.9961, "99.6 %")],
)
def test_a_probability_never_says_certain_or_impossible(probability: float, words: str) -> None:
    caption_picture = picture("dog")
    figure = caption_figure(
        replace(caption_picture, words=(replace(caption_picture.words[0], probability=probability),)), SCALE
    )
    assert words in words_of(figure)


def test_the_scale_is_shared_and_marks_uniform(plain_figure: Figure) -> None:
    caption_picture = picture()
    figure = plain_figure
    bars = [axes for axes in figure.axes if axes.get_xlim() == (0, 6) and axes.get_xticklabels()]
    assert len(bars) == 1
    assert {label.get_text() for label in bars[0].get_xticklabels() if label.get_weight() == "bold"} == {"1"}
    assert "multiple of uniform" in words_of(figure)
    largest = max(word.map_RC.max() for word in caption_picture.words)
    assert largest > 3
    assert not any(word.startswith("up to") for word in words_of(figure))
    assert f"up to {largest:.3g}" in words_of(caption_figure(caption_picture, Scale("uniform", 3)))
    own_scale_figure = caption_figure(picture("dog sleeps"), Scale("own"))
    assert "Every map is stretched to its own minimum and maximum." in " ".join(words_of(own_scale_figure))


# --- grey


def test_a_grey_word_is_drawn_without_colour(plain_figure: Figure) -> None:
    caption_picture, figure = picture(), plain_figure
    for axes, word in zip(panels_of(figure, len(caption_picture.words)), caption_picture.words, strict=True):
        image = axes_pixels(axes)
        assert (np.ptp(image, axis=2).max() < 1e-6) == word.grey
        label = colours_of(figure, word.text)
        assert set(label) == {GREY if word.grey else INK}
    assert "Grey: a word that did not look anywhere in particular." in " ".join(words_of(figure))


def test_grey_is_the_lightness_of_what_colour_would_be() -> None:
    caption_picture = picture()
    word = replace(caption_picture.words[1], grey=True)
    with figure_style():
        axes = [add_axes(new_figure(1.5, 1), 0, 0, 1.5, 1) for _ in range(2)]
        colour = axes_pixels(
            draw_overlay(axes[0], caption_picture.photo_HWC, word.map_RC, caption_picture.placement, SCALE)
        )
        grey = axes_pixels(draw_word(axes[1], caption_picture.photo_HWC, word, caption_picture.placement, SCALE))
    for y, x in ((3, 5), (60, 70), (150, 250), (199, 299)):
        red, green, blue = colour[y, x]
        assert grey[y, x] == pytest.approx(0.25 + 0.75 * (0.2126 * red + 0.7152 * green + 0.0722 * blue), abs=0.6 / 255)
    luma = colour @ np.array([0.2126, 0.7152, 0.0722])
    assert np.corrcoef(luma.ravel(), grey[..., 0].ravel())[0, 1] > 0.999


def test_a_word_in_colour_is_an_overlay_as_elsewhere() -> None:
    caption_picture = picture()
    with figure_style():
        axes = [add_axes(new_figure(1.5, 1), 0, 0, 1.5, 1) for _ in range(2)]
        first = axes_pixels(
            draw_overlay(
                axes[0],
                caption_picture.photo_HWC,
                caption_picture.words[1].map_RC,
                caption_picture.placement,
                SCALE,
                smooth=False,
            )
        )
        second = axes_pixels(
            draw_word(
                axes[1],
                caption_picture.photo_HWC,
                caption_picture.words[1],
                caption_picture.placement,
                SCALE,
                smooth=False,
            )
        )
    assert np.array_equal(first, second)


def test_without_grey_words_nothing_is_said_of_grey() -> None:
    figure = caption_figure(picture("dogs sleep"), SCALE)
    assert not any("Grey" in word for word in words_of(figure))


def test_the_captions_words_are_grey_only_where_it_is_known_which_they_are() -> None:
    caption_picture = picture("a dog")
    assert colours_of(caption_figure(replace(caption_picture, caption="A DOG"), SCALE), "A") == [GREY]
    other = caption_figure(replace(caption_picture, caption="adog !"), SCALE)
    assert colours_of(other, "adog") == [INK]
    assert colours_of(other, "a") == [GREY]  # above its panel


# --- what is written


def test_a_figure_says_caption_truth_name_and_method() -> None:
    caption_picture = replace(picture(), notes=("Words were joined by their mean.",))
    words = words_of(caption_figure(caption_picture, SCALE))
    assert [word for word in words if word in SENTENCE.split()][: len(SENTENCE.split())] == SENTENCE.split()
    for line in (
        "girl.jpg · log-probability −11.3",
        METHOD,
        "written by people",
        *caption_picture.true,
        *caption_picture.notes,
    ):
        assert line in words
    caption_picture = replace(caption_picture, words=caption_picture.words[:1])
    alone = words_of(
        caption_figure(replace(caption_picture, true=caption_picture.true[:1], log_probability=None), SCALE)
    )
    assert "written by a person" in alone
    assert "girl.jpg" in alone
    assert not any("written" in line for line in words_of(caption_figure(replace(caption_picture, true=()), SCALE)))


def test_what_the_model_did_not_see_is_hatched_and_said(plain_figure: Figure) -> None:
    figure = caption_figure(picture("dog", crop=0.9), SCALE)
    require_tidy(figure)
    assert "Hatched: not seen by the model." in words_of(figure)
    assert "Hatched: not seen by the model." not in words_of(plain_figure)


LONG = "pneumonoultramicroscopicsilicovolcanoconiosis"


def with_notes(caption_picture: CaptionPicture) -> CaptionPicture:
    note = "no different from the mean map of all words in this caption, and not from uniform either"
    return replace(
        caption_picture, words=tuple(replace(word, note=note if word.grey else "") for word in caption_picture.words)
    )


CASES: dict[str, CaptionPicture] = {
    "stretched": picture(),
    "portrait": picture(width=120, height=200),
    "panorama": picture(width=1600, height=160),
    "tower, many words": picture(" ".join(["dog"] * 25), width=40, height=2000),
    "one pixel high": picture(width=300, height=1),
    "eight pixels": picture(width=8, height=8),
    "no words": picture(""),
    "notes under a tower": with_notes(picture(width=40, height=2000)),
    "long words": replace(
        picture(f"a {LONG} {LONG[::-1]} {LONG * 4} sits"),
        name=f"{LONG}.jpg",
        method=METHOD * 3,
        notes=(METHOD * 4,),
        true=(SENTENCE * 4, LONG * 4),
    ),
    "odd letters": picture("$x_1$ été\u00a0l'eau A&B <b> 100% \\frac"),
    "seen in part": picture(crop=0.7, width=200, height=300),
    "no score at all": replace(picture("dog"), words=(WordPanel("dog", 0.5, np.full((10, 14), np.nan)),)),
}


@pytest.mark.parametrize("case", CASES)
def test_a_caption_figure_is_tidy(case: str) -> None:
    case_picture = CASES[case]
    figure = caption_figure(case_picture, Scale("own") if case == "stretched" else SCALE)
    require_tidy(figure)
    panels = panels_of(figure, len(case_picture.words))
    aspect = case_picture.placement.geometry.width / case_picture.placement.geometry.height
    for axes in panels:
        box = axes.get_window_extent()
        assert box.x0 >= 0
        assert box.x1 <= figure.get_size_inches()[0] * figure.dpi + 0.5
        if min(box.width, box.height) > 20:  # of whole pixels
            assert box.width / box.height == pytest.approx(aspect, rel=0.06)


@settings(max_examples=60)
@given(st.integers(0, 130), st.floats(0.02, 60), st.lists(st.integers(1, 30), min_size=1, max_size=5))
def test_panels_fit_the_page(count: int, aspect: float, lengths: list[int]) -> None:
    map_RC = np.ones((2, 2))
    with figure_style():
        grid = WordGrid.of(
            [WordPanel("w" * lengths[i % len(lengths)], 0.5, map_RC) for i in range(min(count, 5))], aspect
        )
    assert 1 <= grid.columns <= IN_A_ROW
    assert grid.columns * (grid.cell + 0.12) <= WIDTH - 0.36 + 0.13
    assert grid.panel[0] <= grid.cell + 1e-9
    rows = -(-len(grid.words) // grid.columns)
    assert (grid.height > 0) == (rows > 0)
    assert rows * grid.panel[1] < grid.height + 1e-9


def test_maps_and_photographs_of_another_shape_are_refused() -> None:
    caption_picture = picture("dog sleeps")
    wrong = replace(caption_picture.words[1], map_RC=np.ones((14, 10)))
    with pytest.raises(ValueError, match="10 x 14 patches"):
        caption_figure(replace(caption_picture, words=(caption_picture.words[0], wrong)), SCALE)
    turned_HWC = np.ascontiguousarray(caption_picture.photo_HWC.transpose(1, 0, 2))
    with pytest.raises(ValueError, match="200 x 300 pixels; its placement is for 300 x 200"):
        caption_figure(replace(caption_picture, photo_HWC=turned_HWC), SCALE)


def test_a_lighter_picture_is_drawn_alike() -> None:
    caption_picture = picture("dog sleeps", 900, 600)
    light = caption_picture.with_smaller_photo(100)
    assert light.photo_HWC.shape == (67, 100, 3)
    assert light.with_smaller_photo(100) is light
    images = [axes_pixels(panels_of(caption_figure(each, SCALE), 2)[0]) for each in (caption_picture, light)]
    assert np.abs(images[0] - images[1]).mean() < 0.01


# --- files


def test_a_record_is_read_back_as_it_was() -> None:
    caption_picture = replace(picture('a "dog",\nété'), name="odd, name\udcff.jpg")
    caption_picture = replace(
        caption_picture, words=(replace(caption_picture.words[0], note="as uniform"), *caption_picture.words[1:])
    )
    bare = CaptionPicture(caption_picture.photo_HWC, caption_picture.placement, "", ())
    text = (CAPTION_HEADER + caption_row(caption_picture) + caption_row(bare)).decode("utf-8", "surrogateescape")
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert rows[0]["filename"] == caption_picture.name
    assert rows[0]["caption"] == caption_picture.caption
    assert float(rows[0]["log_probability"]) == caption_picture.log_probability
    assert json.loads(rows[0]["words"]) == ["a", '"dog",', "été"]
    assert json.loads(rows[0]["verdicts"]) == [
        "nowhere in particular: as uniform", "looked somewhere", "looked somewhere"
    ]  # fmt: skip
    assert list(rows[1].values()) == ["", "", "", "[]", "[]"]


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_a_caption_figure_carries_its_origin_and_is_the_same_twice(ending: str, tmp_path: Path) -> None:
    metadata = Provenance("word maps", model="catr-v3.pth", options={"join": "mean"}).to_metadata()
    for name in ("a", "b"):
        save_caption_figure(picture("a dog sleeps", 90, 60), SCALE, tmp_path / f"{name}.{ending}", metadata)
    first, second = ((tmp_path / f"{name}.{ending}").read_bytes() for name in "ab")
    assert first == second
    assert metadata.items() <= read_provenance(tmp_path / f"a.{ending}").items()


def golden() -> CaptionPicture:
    return picture("a small dog on stones.")


def test_a_caption_figure_looks_as_it_did() -> None:
    drawing, path = half_size(caption_figure(golden(), SCALE)), GOLDEN / "words.png"
    if os.environ.get("VITRINE_WRITE_GOLDEN"):
        Image.fromarray(drawing).save(path, optimize=True)
    with Image.open(path) as golden_image:
        difference = differs(drawing, np.asarray(golden_image.convert("RGB")))
    assert not difference, f"{path}: {difference}; see the top of this file for how to write it again"
    assert path.stat().st_size < 150_000


def test_the_golden_picture_would_notice() -> None:
    """Maps one word aside, the scale's end halved, a word no longer grey: each is more than the tolerance."""
    golden_picture = golden()
    before = half_size(caption_figure(golden_picture, SCALE))
    maps = [word.map_RC for word in golden_picture.words]
    aside = tuple(
        replace(word, map_RC=map_RC) for word, map_RC in zip(golden_picture.words, maps[1:] + maps[:1], strict=True)
    )
    assert differs(half_size(caption_figure(replace(golden_picture, words=aside), SCALE)), before)
    assert differs(half_size(caption_figure(golden_picture, Scale("uniform", 3))), before)
    colourful = tuple(replace(word, grey=word.grey and word.text != "on") for word in golden_picture.words)
    assert differs(half_size(caption_figure(replace(golden_picture, words=colourful), SCALE)), before)
