"""Maps over photographs in the browser, beside the figures' own: the same pixels, the same colours.

Axes: H, W pixel rows and columns; R, C rows and columns of patches.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from importlib import resources
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.explorer_browser import canvas_data, open_browser, open_page, until

from vitrine.attribution.placement import Placement
from vitrine.caption.figures.words import WordPanel, draw_word
from vitrine.data.transforms import CropGeometry
from vitrine.plotting.colormap import Scale, paint
from vitrine.plotting.overlay import draw_map, draw_overlay
from vitrine.plotting.style import DPI, new_figure

H, W = 60, 88
PLACEMENT = Placement(CropGeometry(W, H, W, H, 20, 6, 48, 48), 4, 6)
SCALES = {"uniform": Scale("uniform", 3.0), "lost": Scale("lost", 0.5), "own": Scale("own", 2.5, low=0.5)}
PAGE = resources.files("vitrine.report") / "page"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with open_browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def page(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A page from a file with the viewer inside, as a report has it, and a caption and a map that are mounted."""
    file = tmp_path_factory.mktemp("report") / "report.html"
    file.write_text(report_page(), encoding="utf-8")
    with open_page(browser, "file:", viewport={"width": 700, "height": 900}) as page:
        page.goto(file.as_uri())
        until(page, "window.isDrawn")
        yield page


def photograph() -> np.ndarray:
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 255, (6, 8, 3), dtype=np.uint8))
    return np.asarray(small.resize((W, H), Image.Resampling.BICUBIC))


def scores(kind: str, seed: int = 1) -> np.ndarray:
    values_RC = np.random.default_rng(seed).random((4, 6), dtype=np.float32) * 4
    return (values_RC - 2) / 3 if kind == "lost" else values_RC


def to_json_values(values: np.ndarray) -> Any:
    return [[None if np.isnan(value) else float(value) for value in row] for row in values]


def view() -> dict[str, Any]:
    left, top, right, bottom = PLACEMENT.geometry.box
    return {"size": [W, H], "grid": [4, 6], "box": [left, top, right - left, bottom - top]}


def data_url() -> str:
    buffer = io.BytesIO()
    Image.fromarray(photograph()).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def report_page() -> str:
    words = [("a", 0.4, False), ("small", 0.9996, True), ("dog.", 0.0001, True)]
    caption = view() | {"photograph": "#photograph", "scale": {"kind": "uniform", "high": 3}}
    caption["words"] = [
        {"text": text, "probability": likely, "map": to_json_values(scores("uniform", seed)), "particular": particular}
        for seed, (text, likely, particular) in enumerate(words)
    ]
    one = view() | {"photograph": "#photograph", "scale": {"kind": "uniform", "high": 3}, "described": "attention"}
    one["map"] = to_json_values(scores("uniform"))
    script = (PAGE / "viewer.js").read_text("utf-8")
    return f"""<!doctype html><html lang="en"><head><meta charset="utf-8">
<link rel="icon" href="data:,"><title>A report</title>
<style>{(PAGE / "theme.css").read_text("utf-8")}</style></head><body><img id="photograph" alt="" src="{data_url()}">
<figure data-viewer="map"><script type="application/json">{json.dumps(one)}</script></figure>
<figure data-viewer="words"><script type="application/json">{json.dumps(caption)}</script></figure>
<script type="module">{script}
window.viewer = {{ decodeArray, drawOverlay, drawMap, colourAt, paintAt, formatProbability }};
mountViewers().then(() => {{ window.isDrawn = true; }});</script></body></html>"""


def draw_in_browser(page: Any, what: str, map_RC: np.ndarray, **options: Any) -> np.ndarray:
    """An image (H, W, 3) of a canvas of the photograph's own size."""
    options = {"rows": 4, "columns": 6, "box": view()["box"], "size": [W, H]} | options
    run = """([what, map, options, w, h]) => {
      const canvas = document.createElement("canvas");
      [canvas.width, canvas.height] = [w, h];
      if (what === "map") viewer.drawMap(canvas, map, options);
      else viewer.drawOverlay(canvas, document.getElementById("photograph"), map, options);
      return [...canvas.getContext("2d").getImageData(0, 0, w, h).data];
    }"""
    return np.array(page.evaluate(run, [what, to_json_values(map_RC), options, W, H])).reshape(H, W, 4)[..., :3]


def draw_with_figures(draw: Any, *arguments: Any, **options: Any) -> np.ndarray:
    figure = new_figure(W / DPI, H / DPI)
    axes = draw(figure.add_axes((0, 0, 1, 1)), *arguments, **options)
    image = np.asarray(axes.images[0].get_array())
    assert image.shape[:2] == (H, W) and image.dtype == np.uint8
    return image.astype(float)


def crop_inside(image: np.ndarray) -> np.ndarray:
    """What lies well inside the grid's box, where no line is drawn."""
    return image[8:52, 22:66]


@pytest.mark.parametrize("smooth", [True, False])
@pytest.mark.parametrize("kind", SCALES)
@pytest.mark.parametrize("gap", [False, True])
def test_an_overlay_has_the_figures_look(page: Any, kind: str, smooth: bool, gap: bool) -> None:
    map_RC = scores(kind)
    if gap:
        map_RC[1, 2] = np.nan
    scale = SCALES[kind]
    image = draw_in_browser(
        page, "overlay", map_RC, smooth=smooth, scale={"kind": kind, "high": scale.high, "low": scale.low}
    )
    expected = draw_with_figures(draw_overlay, photograph(), map_RC, PLACEMENT, scale, smooth=smooth)
    # Colours are one of 256: a pixel on the edge between two may fall on the other side.
    apart = np.abs(crop_inside(image) - crop_inside(expected)).max(-1)
    assert apart.max() < 12
    assert (apart > 2).mean() < 0.02


def test_strength_leads_from_the_photograph_to_the_figure(page: Any) -> None:
    scale, map_RC = {"kind": "uniform", "high": 3}, scores("uniform")
    none, half, full = (
        draw_in_browser(page, "overlay", map_RC, scale=scale, strength=strength).astype(float)
        for strength in (0, 0.5, 1)
    )
    assert np.abs(crop_inside(none) - crop_inside(photograph())).max() <= 1
    distance = [np.abs(crop_inside(each) - crop_inside(full)).mean() for each in (none, half)]
    assert distance[0] > 1.5 * distance[1] > 0


def test_a_map_alone_has_the_figures_look(page: Any) -> None:
    map_RC = scores("uniform")
    map_RC[3, 0] = np.nan
    image = draw_in_browser(page, "map", map_RC, scale={"kind": "uniform", "high": 3})
    expected = draw_with_figures(draw_map, map_RC, PLACEMENT, SCALES["uniform"])
    assert np.abs(crop_inside(image) - crop_inside(expected)).max() <= 1


def test_a_word_that_looked_nowhere_has_no_colour(page: Any) -> None:
    map_RC = scores("uniform")
    image = draw_in_browser(page, "overlay", map_RC, scale={"kind": "uniform", "high": 3}, greyscale=True)
    word = WordPanel("a", 0.5, map_RC, grey=True)
    expected = draw_with_figures(draw_word, photograph(), word, PLACEMENT, SCALES["uniform"])
    assert (crop_inside(image).max(-1) == crop_inside(image).min(-1)).all()
    assert np.abs(crop_inside(image) - crop_inside(expected)).max() <= 12


def test_what_was_not_seen_is_fainter_and_hatched(page: Any) -> None:
    image = draw_in_browser(page, "overlay", scores("uniform"), scale={"kind": "uniform", "high": 3}).astype(float)
    outside = image[:, :18]
    expected = 255 - 0.4 * (255 - photograph()[:, :18].astype(float))
    lines = np.abs(outside - expected).max(-1) > 10
    assert 0.02 < lines.mean() < 0.5
    assert np.abs(outside - expected)[~lines].max() <= 10


@pytest.mark.parametrize("kind", SCALES)
def test_the_paint_has_the_figures_numbers(page: Any, kind: str) -> None:
    scale, values = SCALES[kind], np.linspace(-1, 4, 701)
    sent = {"kind": kind, "high": scale.high, "low": scale.low}
    painted = page.evaluate(
        "([scale, values]) => values.map((value) => viewer.paintAt(scale, value))", [sent, values.tolist()]
    )
    colours, opacity = paint(scale.distances(values))
    np.testing.assert_allclose(painted, np.concatenate([255 * colours, opacity], axis=1), atol=1e-6)
    bar = page.evaluate(
        "([scale, n]) => Array.from({ length: n }, (_, i) => viewer.colourAt(scale, i / (n - 1)))", [sent, 512]
    )
    assert np.abs(np.array(bar) - 255 * scale.colormap(np.arange(512))[:, :3]).max() < 0.6


def test_the_contour_and_the_frame_are_drawn_where_figures_have_them(page: Any) -> None:
    map_RC, scale = scores("uniform"), {"kind": "uniform", "high": 3}
    image = draw_in_browser(page, "overlay", map_RC, scale=scale, contour=True)
    expected = draw_with_figures(draw_overlay, photograph(), map_RC, PLACEMENT, SCALES["uniform"], contour=True)
    apart = np.abs(crop_inside(image) - crop_inside(expected)).max(-1)
    assert (crop_inside(expected).min(-1) > 254).sum() > 20  # a white line is there
    assert (apart > 20).mean() < 0.03
    framed = draw_in_browser(page, "overlay", map_RC, scale=scale, query=[1, 2])
    left, top, right, bottom = (round(each) for each in PLACEMENT.patch_box(1, 2))
    plain = draw_in_browser(page, "overlay", map_RC, scale=scale)
    changed = np.abs(framed.astype(int) - plain).max(-1) > 20
    assert changed[top : bottom + 1, left].all()
    assert changed[top, left : right + 1].all()
    assert not changed[: top - 6].any()
    assert not changed[bottom + 6 :].any()


@pytest.mark.parametrize("kind", ["float16", "float32"])
def test_arrays_come_off_the_wire_as_they_were(page: Any, kind: str) -> None:
    values = np.array([0, -0.0, 1, -2.5, 65504, 6e-5, 6e-8, 1 / 3, np.inf, -np.inf, np.nan], dtype=kind)
    array = {"shape": [11], "dtype": kind, "data": base64.b64encode(values.tobytes()).decode()}
    texts = page.evaluate("array => [...viewer.decodeArray(array)].map(String)", array)
    numbers = [float(text.replace("Infinity", "inf")) for text in texts]
    np.testing.assert_array_equal(np.array(numbers, dtype=kind), values)


def test_probabilities_never_say_certain_or_impossible(page: Any) -> None:
    texts = page.evaluate("[0, 0.0004, 0.004, 0.5, 0.996, 0.9996, 1].map(viewer.formatProbability)")
    assert texts == ["<0.1 %", "<0.1 %", "0.4 %", "50 %", "99.6 %", ">99.9 %", ">99.9 %"]


def test_words_switch_the_map_by_pointer_and_keys(page: Any) -> None:
    words = page.locator(".words button")
    stage = page.locator("[data-viewer=words] .stage canvas")
    assert words.all_inner_texts() == ["a", "small", "dog."]
    images = []
    for index in range(3):
        words.nth(index).hover()
        images.append(canvas_data(stage))
        assert page.locator("[data-viewer=words] .readout strong").inner_text() == words.nth(index).inner_text()
    assert images[0] != images[1] != images[2] != images[0]
    words.nth(0).focus()
    assert "did not look anywhere in particular" in page.locator("[data-viewer=words] .readout").inner_text()
    page.keyboard.press("ArrowRight")
    assert canvas_data(stage) == images[1]
    page.keyboard.press("End")
    assert canvas_data(stage) == images[2]
    assert words.nth(2).get_attribute("aria-pressed") == "true"
    assert words.evaluate_all("buttons => buttons.map((each) => each.tabIndex)") == [-1, -1, 0]
    page.mouse.move(1, 1)
    assert canvas_data(stage) == images[2]  # what was chosen comes back when the pointer leaves


def test_a_map_reads_out_its_values(page: Any) -> None:
    root = page.locator("[data-viewer=map]")
    root.locator("canvas").first.focus()
    page.keyboard.press("ArrowDown")  # to the middle first
    page.keyboard.press("ArrowLeft")
    value = float(scores("uniform")[2, 2])
    assert f"row 2, column 2: {value:.3g} × uniform" in root.locator(".readout").inner_text()
    before = canvas_data(root.locator("canvas").first)
    root.locator("input[type=range]").fill("0")
    assert canvas_data(root.locator("canvas").first) != before
    assert root.locator(".stage canvas").get_attribute("aria-label") == "attention"


def test_nothing_is_loaded_from_elsewhere() -> None:
    for file in (PAGE / "viewer.js", PAGE / "theme.css"):
        text = file.read_text("utf-8")
        assert "http://" not in text
        assert "https://" not in text
        assert "import " not in text.replace("without imports", "")
