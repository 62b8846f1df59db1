"""The explorer's other tabs in a browser, and what goes for all of them: troubles in sentences, keys, names, contrast,
narrow screens.

Axes: R grid rows, C grid columns.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.explorer_browser import canvas_data, leave, open_browser, open_page, until
from support.serving import app_state_of, numbers, run_in_thread
from support.tiny_captioners import save_tiny
from support.tiny_vlms import save_tiny_vlm

import vitrine
from vitrine.attribution.position_metrics import NUMBER_MEANINGS
from vitrine.explain.figures.positions import SIMILARITY
from vitrine.explain.positions import positions as run_positions
from vitrine.plotting.provenance import read_provenance

TABS = ("classify", "features", "positions", "caption", "data", "api")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with open_browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def captioner(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("captioner") / "git"
    save_tiny("git", folder)
    return folder


@pytest.fixture(scope="module")
def vlm(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vlm") / "llava"
    save_tiny_vlm("llava", folder)
    return folder


@pytest.fixture(scope="module")
def home(browser: Any, small_run: Path, captioner: Path, vlm: Path) -> Iterator[str]:
    with run_in_thread(app_state_of(small_run, captioner, vlm)) as address:
        yield address


@pytest.fixture(scope="module")
def tab(browser: Any, home: str) -> Iterator[Any]:
    with open_page(browser, home) as tab:
        yield tab


@pytest.fixture
def page(tab: Any, home: str) -> Iterator[Any]:
    leave(tab, home)
    tab.mouse.move(2, 2)
    yield tab
    tab.unroute_all()


def answers(page: Any, path: str) -> Any:
    return page.request.get(path).json()


def test_positions_are_the_models(page: Any, home: str, small_run: Path, tmp_path: Path) -> None:
    page.goto(f"{home}/#/positions?cell=0,3")
    page.locator(".facts table").wait_for()
    result = run_positions(str(small_run), tmp_path / "positions.png")
    assert result.findings.sentence in page.locator(".lead").inner_text()
    rows = [row.split("\t")[1:] for row in page.locator(".facts tbody tr").all_inner_texts()]
    numbers, controls = result.findings.numbers, result.findings.controls
    for row, name in zip(rows, ("neighbour_share", "distance_correlation", "additive_share"), strict=True):
        expected = [getattr(each, name) for each in (numbers, controls.untrained_mean, controls.sine)]
        values = [None if cell == "not defined" else float(cell.replace("−", "-")) for cell in row]
        assert values == [None if value is None else pytest.approx(value, abs=6e-4) for value in expected]
    for term, meaning in zip(page.locator(".facts tbody .term").all(), NUMBER_MEANINGS.values(), strict=True):
        term.focus()  # a term is explained to whoever reaches it with the keyboard
        shown = term.evaluate("each => getComputedStyle(each, '::after').content")
        assert shown.strip('"') == meaning == term.get_attribute("aria-description")
    similarity_RCRC = result.findings.similarity_RCRC
    assert "Patch in row 0, column 3".upper() in page.locator(".large h2").inner_text().upper()
    first = canvas_data(page.locator("canvas.tile"))
    box = page.locator("canvas.tiles").bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.9 / 4, box["y"] + box["height"] * 2.5 / 4)  # over row 2, column 0
    assert "row 2, column 0" in page.locator(".large h2").inner_text().lower()
    assert canvas_data(page.locator("canvas.tile")) != first
    page.mouse.move(2, 2)
    assert canvas_data(page.locator("canvas.tile")) == first  # what was chosen comes back
    page.locator("canvas.tiles").focus()
    page.keyboard.press("ArrowDown")
    until(page, "location.hash.includes('cell=1,3')")
    other = page.locator("canvas.tile").bounding_box()
    page.mouse.move(other["x"] + other["width"] * 0.5 / 4, other["y"] + other["height"] * 3.5 / 4)
    value = float(
        re.search(r"row 3, column 0: (\S+)", page.locator(".large .readout").inner_text())[1].replace("−", "-")
    )
    assert value == pytest.approx(similarity_RCRC[1, 3, 3, 0], abs=2e-3)  # float16 on the way


def test_positions_as_figures(page: Any, home: str, tmp_path: Path) -> None:
    page.goto(f"{home}/#/positions?cell=1,2")
    commands = page.locator("pre.command")
    commands.get_by_text("--cell 1,2").wait_for()
    downloads: list[Any] = []
    page.on("download", lambda download: downloads.append(download))
    page.get_by_role("button", name="Save SVG").click()
    page.get_by_text("Saved.").wait_for()
    while len(downloads) < 2:
        page.wait_for_timeout(20)
    for download, name in zip(downloads, ("positions.svg", "positions-1-2.svg"), strict=True):
        assert download.suggested_filename == name
        download.save_as(tmp_path / name)
        assert read_provenance(tmp_path / name)["vitrine:figure"] == "positions"
    assert len(commands.inner_text().splitlines()) == 2


def test_similarities_have_the_figures_colours(page: Any, home: str) -> None:
    page.goto(f"{home}/#/positions")
    values = np.linspace(-1, 1, 401)
    ask = "values => import('/assets/positions.js').then(({ similarityColour }) => values.map(similarityColour))"
    colours = np.array(page.evaluate(ask, values.tolist()))
    assert np.abs(colours - SIMILARITY((values + 1) / 2)[:, :3] * 255).max() < 4


@pytest.fixture(scope="module")
def talkative(browser: Any, home: str) -> str:
    """A picture that the captioner says at least four words of; many it describes in one."""
    with open_page(browser, home) as page:
        for sample in answers(page, f"{home}/api/models")["models"][0]["samples"]:
            body = page.request.get(f"{home}/api/picture/0/{sample['id']}").body()
            words = page.request.post(f"{home}/api/caption?model=1", data=body).json()["words"]
            if len(words) >= 4:
                return str(sample["id"])
    raise AssertionError("the tiny captioner says little of every picture")


def words_of(page: Any) -> list[str]:
    return page.locator(".words button").all_inner_texts()


def wait_for_caption(page: Any) -> None:
    until(page, "document.querySelector('.beams h2') && !document.querySelector('.caption-area.busy')")


def test_a_caption_word_by_word(page: Any, home: str, captioner: Path, talkative: str, tmp_path: Path) -> None:
    file = tmp_path / "picture.png"
    file.write_bytes(page.request.get(f"{home}/api/picture/0/{talkative}").body())
    page.goto(f"{home}/#/caption?picture=0/{talkative}")
    wait_for_caption(page)
    expected = vitrine.load(captioner).caption(file)
    assert words_of(page) == [word.text for word in expected.words]
    stage = page.locator(".caption-area .stage canvas")
    looks = []
    for index, word in enumerate(expected.words):
        page.locator(".words button").nth(index).hover()
        looks.append(canvas_data(stage))
        assert page.locator(".caption-area .readout strong").inner_text() == word.text
        readout = page.locator(".caption-area .readout").inner_text()
        share = float(re.search(r"([\d.]+) %", readout)[1])
        assert share == pytest.approx(100 * word.probability, abs=0.6)
        heading = page.locator(".alternatives h2").inner_text()
        assert word.text.lower() in heading.lower()
    assert len(set(looks)) == len(looks)
    page.locator(".words button").nth(0).click()
    page.keyboard.press("ArrowRight")
    until(page, "location.hash.includes('word=1')")
    assert canvas_data(stage) == looks[1]


def test_an_alternative_goes_on_from_there(page: Any, home: str, talkative: str) -> None:
    page.goto(f"{home}/#/caption?picture=0/{talkative}&word=1")
    wait_for_caption(page)
    before = words_of(page)
    page.locator(".words button").nth(1).click()
    other = page.locator(".alternatives button").first
    text = other.locator(".label").inner_text()
    other.click()
    until(page, "location.hash.includes('prefix=')")
    wait_for_caption(page)
    after = words_of(page)
    assert after[0] == before[0]
    assert after[1].startswith(text)
    assert after != before
    address = page.url
    page.get_by_role("button", name="As the model would have it").click()
    until(page, "!location.hash.includes('prefix=')")
    wait_for_caption(page)
    assert words_of(page) == before
    leave(page, home)
    page.goto(address)  # a link to the continued caption
    wait_for_caption(page)
    assert words_of(page) == after


def test_beams_are_a_list(page: Any, home: str, talkative: str) -> None:
    page.goto(f"{home}/#/caption?picture=0/{talkative}")
    wait_for_caption(page)
    page.get_by_role("radio", name="3 beams").check()
    until(page, "document.querySelectorAll('.beam-list li').length > 1")
    body = page.request.get(f"{home}/api/picture/0/{talkative}").body()
    expected = page.request.post(f"{home}/api/caption?model=1&beams=3", data=body).json()["beams"]
    items = page.locator(".beam-list li").all_inner_texts()
    assert [item.split("log-probability")[0].strip() for item in items] == [beam["caption"] for beam in expected]
    assert " ".join(words_of(page)).split() == expected[0]["caption"].split()


def stream(*events: tuple[str, object]) -> str:
    return "".join(f"event: {name}\ndata: {json.dumps(data)}\n\n" for name, data in events)


def answer_with(body: str, route: Any) -> None:
    route.fulfill(body=body)


def test_captions_without_words_or_without_an_end(page: Any, home: str) -> None:
    result = {"caption": "", "log_probability": -1.5, "words": [], "beams": [], "size": [32, 32]}
    result |= {"scale": {"kind": "uniform", "high": 2}, "command": "vitrine caption", "picture": "0" * 64}
    for body, message in (
        (stream(("done", result)), "The model ended the caption before its first word."),
        (stream(("error", {"error": "The answer took too long."})), "The answer took too long."),
        ("", "The caption broke off before its end."),
    ):
        leave(page, home)
        page.route("**/api/caption?*", partial(answer_with, body))
        page.goto(f"{home}/#/caption")
        page.get_by_text(message).wait_for()
        page.unroute("**/api/caption?*")


def test_validation_pictures_wrong_and_sure_first(page: Any, home: str, small_run: Path) -> None:
    page.goto(f"{home}/#/data")
    page.locator(".thumbnails button").first.wait_for()
    pictures = answers(page, f"{home}/api/validation?model=0")["pictures"]
    lines = [line.split(",") for line in (small_run / "predictions.csv").read_text().splitlines()]
    rows = [dict(zip(lines[0], line, strict=True)) for line in lines[1:]]
    assert {each["name"]: each["predicted"] for each in pictures} == {row["filename"]: row["label"] for row in rows}
    order = sorted(pictures, key=lambda each: (each["right"], -each["probability"]))
    names = page.locator(".thumbnails button").evaluate_all("all => all.map((each) => each.ariaLabel.split(':')[0])")
    assert names == [each["name"] for each in order][: len(names)]
    page.get_by_role("radio", name="wrong").check()
    wrong = [each for each in order if not each["right"]]
    until(page, f"document.querySelector('.filter').textContent.startsWith('{len(wrong)} picture')")
    page.get_by_role("radio", name="all").check()


def test_the_confusion_matrix_is_taken_along_as_a_figure_and_as_a_command(page: Any, home: str, tmp_path: Path) -> None:
    page.goto(f"{home}/#/data")
    page.locator("pre.command").get_by_text("vitrine evaluate").wait_for()
    with page.expect_download() as download:
        page.get_by_role("button", name="Save SVG").click()
    assert download.value.suggested_filename == "confusion.svg"
    download.value.save_as(tmp_path / "confusion.svg")
    assert read_provenance(tmp_path / "confusion.svg")["vitrine:figure"] == "confusion"


def test_a_cell_of_the_confusion_matrix_opens_its_pictures_and_they_their_maps(page: Any, home: str) -> None:
    page.goto(f"{home}/#/data")
    cell = page.locator(".confusion td:not(.same) button").first
    cell.wait_for()
    truth, answer = re.search(r"pictures of (\S+) taken for (\S+)", cell.get_attribute("aria-label")).groups()
    cell.click()
    until(page, "location.hash.includes('truth=')")
    pictures = answers(page, f"{home}/api/validation?model=0")["pictures"]
    names = {each["name"] for each in pictures if (each["true"], each["predicted"]) == (truth, answer)}
    labels = page.locator(".thumbnails button").evaluate_all("all => all.map((each) => each.ariaLabel.split(':')[0])")
    assert set(labels) == names
    page.locator(".thumbnails button").first.click()
    page.locator(".predictions").wait_for()
    assert page.locator("h1").inner_text() == f"{labels[0].split('/')[-1]} · true label: {truth}"
    assert page.locator(".predictions .label").first.inner_text() == answer
    page.go_back()
    page.locator(".confusion button[aria-pressed=true]").wait_for()
    page.locator(".confusion button[tabindex='0']").focus()
    where = (
        "(({ parentElement: cell }) => [cell.parentElement.sectionRowIndex, cell.cellIndex])(document.activeElement)"
    )
    before = page.evaluate(where)
    page.keyboard.press("ArrowDown")
    below = page.evaluate(where)
    assert below[1] == before[1] and below[0] > before[0]
    page.keyboard.press("ArrowUp")
    assert page.evaluate(where) == before
    assert page.evaluate("document.querySelectorAll('.confusion button[tabindex=\"0\"]').length") == 1


def test_of_thousands_of_thumbnails_few_are_in_the_page(page: Any, home: str) -> None:
    validation = {
        "labels": ["a", "b"],
        "leakage": ["2 of the 5,000 validation pictures also stand in training, byte for byte."],
        "confusion": [[2500, 0], [0, 2500]],
        "pictures": [
            {"id": "v0", "name": f"{i:04}.png", "true": "a", "predicted": "a", "probability": 0.5, "right": True}
            for i in range(5000)
        ],
    }
    page.route("**/api/validation?*", lambda route: route.fulfill(json=validation))
    page.goto(f"{home}/#/data")
    page.locator(".thumbnails button").first.wait_for()
    page.get_by_text("2 of the 5,000 validation pictures also stand in training").wait_for()
    count = "document.querySelectorAll('.thumbnails button').length"
    assert page.evaluate(count) < 200
    # Thirty screens' way down, a screen in two frames: what is in sight is always drawn.
    page.evaluate("""async () => {
      for (let step = 0; step < 30; step += 1) {
        scrollBy(0, 900);
        await new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve)));
        const buttons = [...document.querySelectorAll(".thumbnails button")];
        const places = buttons.map((each) => each.getBoundingClientRect());
        const seen = places.filter(({ top, bottom }) => bottom > 0 && top < innerHeight);
        const first = Math.min(...seen.map(({ top }) => top));
        const last = Math.max(...seen.map(({ bottom }) => bottom));
        if (first > 20 || last < innerHeight - 20) throw new Error(`nothing is drawn at ${scrollY}`);
      }
    }""")
    assert page.evaluate(count) < 200
    page.locator(".thumbnails button").nth(5).focus()
    page.keyboard.press("End")
    assert "4999.png" in page.evaluate("document.activeElement.ariaLabel")
    page.keyboard.press("Home")
    assert "0000.png" in page.evaluate("document.activeElement.ariaLabel")
    page.keyboard.press("ArrowRight")
    assert "0001.png" in page.evaluate("document.activeElement.ariaLabel")


def test_too_many_classes_for_a_table_are_said(page: Any, home: str) -> None:
    picture = {"id": "v0", "name": "a.png", "true": "0", "predicted": "1", "probability": 0.5, "right": False}
    validation = {
        "labels": [str(i) for i in range(1001)],
        "leakage": [],
        "confusion": None,
        "pictures": [picture],
        "command": "a command",
    }
    page.route("**/api/validation?*", lambda route: route.fulfill(json=validation))
    page.goto(f"{home}/#/data")
    page.get_by_text("A table of 1001 classes would be too large").wait_for()
    page.locator(".thumbnails button").first.wait_for()


def test_patches_that_are_alike_in_every_picture(page: Any, home: str, small_run: Path) -> None:
    page.goto(f"{home}/#/features?layer=1")
    page.locator(".pairs .pair").first.wait_for()
    samples = answers(page, f"{home}/api/models")["models"][0]["samples"]
    assert page.locator(".pairs .pair").count() == len(samples) - 1
    colours = page.locator(".pair.large canvas").nth(1)
    other = page.locator(".pairs canvas").first
    before = canvas_data(other)
    colours.focus()
    page.keyboard.press("ArrowDown")
    page.locator(".readout").get_by_text("Row 2, column 2").wait_for()
    page.keyboard.press("ArrowRight")
    page.locator(".readout").get_by_text("Row 2, column 3").wait_for()
    with_keys = canvas_data(other)
    assert with_keys != before
    page.keyboard.press("Enter")
    until(page, "location.hash.includes('like=2,3')")
    box = colours.bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.1, box["y"] + box["height"] * 0.1)
    page.locator(".readout").get_by_text("Row 0, column 0").wait_for()
    assert canvas_data(other) != with_keys
    page.mouse.move(2, 2)
    page.locator(".readout").get_by_text("Row 2, column 3").wait_for()
    assert canvas_data(other) == with_keys
    # The value that is written under another picture is the highest cosine in it.
    ids = [sample["id"] for sample in samples]
    first = page.evaluate("new URLSearchParams(location.hash.split('?')[1]).get('picture')").partition("/")[2]
    others = [each for each in ids if each != first]
    query = {"sample": first, "others": ",".join(others), "layer": 1, "patch": "2,3"}
    maps = page.request.post(f"{home}/api/similarity", params=query).json()["maps"]
    caption = page.locator(".pairs figcaption").first.inner_text()
    assert float(caption.rpartition(" ")[2].replace("−", "-")) == pytest.approx(numbers(maps[1]).max(), abs=6e-3)
    page.locator('input[value="regions"]').check()
    page.locator(".swatches").get_by_text("region 3").wait_for()
    page.locator(".pair.large canvas").nth(1).focus()
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Escape")
    page.locator(".readout").get_by_text("No patch is compared.").wait_for()
    assert "like=" not in page.url


def test_a_question_is_answered_word_by_word(page: Any, home: str) -> None:
    page.goto(f"{home}/#/caption?captioner=2")
    wait_for_caption(page)
    question = page.get_by_label("Question")
    assert question.get_attribute("placeholder") == "Describe the picture."
    question.fill("What is red?")
    with page.expect_request("**/api/caption?*prompt=What+is+red*stream=true*"):
        page.keyboard.press("Enter")
    until(page, "location.hash.includes('prompt=What+is+red')")
    wait_for_caption(page)
    words = page.locator(".words button").all_inner_texts()
    last = canvas_data(page.locator(".caption-area canvas").first)
    page.locator('.page.caption [data-what="layer"]').focus()
    page.keyboard.press("ArrowLeft")
    until(page, "location.hash.includes('layers=0')")
    page.get_by_text("decoder layer 0").wait_for()
    assert page.locator(".words button").all_inner_texts() == words
    assert canvas_data(page.locator(".caption-area canvas").first) != last
    # An answer that is on its way can be stopped.
    page.route("**/api/caption?*", lambda route: None)
    question.fill("Why?")
    page.get_by_role("button", name="Ask").click()
    page.get_by_role("button", name="Stop").click()
    page.get_by_text("Stopped.").wait_for()
    page.unroute("**/api/caption?*")
    page.goto(f"{home}/#/caption?captioner=1")
    wait_for_caption(page)
    assert not question.is_visible()  # a captioner is asked nothing


def test_the_api_tab_lists_every_address(page: Any, home: str) -> None:
    page.goto(f"{home}/#/api")
    page.locator(".reference h2").first.wait_for()
    paths = answers(page, f"{home}/openapi.json")["paths"]
    assert page.locator(".reference h2 code").all_inner_texts() == list(paths)


def test_a_busy_server_is_asked_again_and_a_silent_one_is_named(browser: Any, home: str) -> None:
    with open_page(browser, home, refusals=True) as page:
        times = []

        def answer_busy_once(route: Any) -> None:
            times.append(route.request.url)
            if len(times) == 1:
                route.fulfill(status=503, headers={"Retry-After": "0.05"}, json={"error": "Busy.", "code": "busy"})
            else:
                route.continue_()

        page.route("**/api/explain?*", answer_busy_once)
        page.goto(home)
        page.locator(".predictions").wait_for()
        assert len(times) == 2
        assert page.get_by_role("alert").inner_text() == ""
        page.unroute("**/api/explain?*")
        page.route("**/api/explain?*", lambda route: route.abort())
        page.locator('[data-what="method"]').select_option("rollout")
        page.get_by_role("alert").get_by_text("The server does not answer.").wait_for()
        page.unroute("**/api/explain?*")
        page.get_by_role("alert").get_by_role("button", name="Try again").click()
        page.locator(".pane figcaption").get_by_text("rollout").wait_for()
        assert page.get_by_role("alert").inner_text() == ""


def test_a_server_that_takes_too_long_is_named(browser: Any, home: str) -> None:
    with open_page(browser, home) as page:
        page.add_init_script("AbortSignal.timeout = () => AbortSignal.abort(new DOMException('late', 'TimeoutError'));")
        page.goto(home)
        page.get_by_role("alert").get_by_text("The server took longer than 120 seconds.").wait_for()
        assert page.get_by_role("alert").get_by_role("button", name="Try again").count() == 1


UNNAMED = """() => [...document.querySelectorAll("button, select, input, a, canvas, summary, [tabindex='0']")]
  .filter((each) => each.checkVisibility() && !each.closest("[aria-hidden=true]"))
  .filter((each) => !(each.ariaLabel || each.textContent.trim() || each.closest("label")?.textContent.trim()
    || each.closest("[role=img]")?.ariaLabel))
  .map((each) => each.outerHTML.slice(0, 120))"""

FAINT = """() => {
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = (text) => {
    const linear = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    const [r, g, b] = parse(text).map((value) => linear(value / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    for (let each = element; each; each = each.parentElement) {
      const colour = getComputedStyle(each).backgroundColor;
      const parts = parse(colour);
      if (parts.length < 4 || parts[3] > 0.9) return colour;
    }
    return "rgb(255 255 255)";
  };
  const texts = [...document.querySelectorAll("body *")].filter((each) => each.checkVisibility()
    && !each.closest(":disabled, option, #announcement")
    && [...each.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim()));
  return texts.map((each) => {
    const pair = [light(getComputedStyle(each).color), light(behind(each))].sort((a, b) => b - a);
    return [(pair[0] + 0.05) / (pair[1] + 0.05), each.className || each.tagName, each.textContent.slice(0, 30)];
  }).filter(([contrast]) => contrast < 4.5);
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_tab_is_named_readable_and_fits_a_phone(browser: Any, home: str, scheme: str) -> None:
    with open_page(browser, home, viewport={"width": 390, "height": 800}, color_scheme=scheme, has_touch=True) as page:
        page.goto(home)
        page.locator(".predictions").wait_for()
        until(page, "document.querySelector('.verdict .badge').dataset.flag !== 'not checked'")
        for tab in TABS:
            page.locator(f'#tabs a[data-tab="{tab}"]').click()
            page.locator(f".page.{tab}").wait_for()
            if tab == "caption":
                wait_for_caption(page)
            if tab == "data":
                page.locator(".matrix summary").click()
            page.wait_for_timeout(150)
            wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
            assert wide <= 0, f"{tab} is {wide} pixels too wide"
            assert page.evaluate(UNNAMED) == []
            assert page.evaluate(FAINT) == []


def test_a_tap_shows_and_keeps(browser: Any, home: str, talkative: str) -> None:
    with open_page(browser, home, viewport={"width": 390, "height": 800}, has_touch=True) as page:
        page.goto(home)
        page.locator(".predictions").wait_for()
        until(page, "document.querySelector('.pane').ariaBusy === 'false'")
        page.locator(".pane .stage canvas").tap()
        until(page, "location.hash.includes('query=')")
        page.goto(f"{home}/#/caption?picture=0/{talkative}")
        wait_for_caption(page)
        page.locator(".words button").nth(2).tap()
        until(page, "location.hash.includes('word=2')")


def test_colours_of_a_persons_choice_stay(page: Any, home: str) -> None:
    page.goto(home)
    page.locator(".predictions").wait_for()
    paper = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(paper)
    for _ in range(2):
        page.locator("#theme").click()
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    dark = page.evaluate(paper)
    assert dark != light
    page.reload()
    assert page.evaluate(paper) == dark
    page.locator("#theme").click()
    assert page.evaluate(paper) == light


def test_only_the_keyboard(page: Any, home: str) -> None:
    page.goto(home)
    page.locator(".predictions").wait_for()
    page.locator(".verdict summary").wait_for()  # the verdict is there
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    focused_tags = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        kind = "document.activeElement.closest('.thumb, canvas, select, .segments, [type=range], summary, .buttons')"
        focused_tags.add(page.evaluate(f"(({kind}) || document.body).tagName.toLowerCase()"))
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        has_no_outline = page.evaluate(
            "document.activeElement.type === 'radio' || document.activeElement === document.body"
        )
        assert has_no_outline or outline != "none"
    assert {"button", "canvas", "select", "fieldset", "input", "summary", "div"} <= focused_tags


def test_a_page_without_scripts_says_so(browser: Any, home: str) -> None:
    with open_page(browser, home, java_script_enabled=False) as page:
        page.goto(home)
        assert "vitrine explain" in page.locator("noscript").inner_text()
