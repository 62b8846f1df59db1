"""The explorer's tab Classify in a browser: every number beside the model's own, every control, every way in and out.

Axes: R grid rows, C grid columns, N tokens.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from support.explorer_browser import canvas_data, leave, open_browser, open_page, until
from support.serving import app_state_of, picture, run_in_thread

import vitrine
from vitrine.attribution.attention import attention_matrices
from vitrine.attribution.method_options import METHOD_OPTIONS
from vitrine.attribution.methods import Method
from vitrine.classify.model import open_classifier
from vitrine.config import Recipe, named_transforms
from vitrine.data.image_folder import one_picture
from vitrine.explain.explainer import Explainer
from vitrine.plotting.colormap import shared_scale
from vitrine.plotting.provenance import read_provenance
from vitrine.report.sections.maps import CAVEAT
from vitrine.results import percent
from vitrine.train.run import train

SIDE = 4  # rows and columns of the small run's grid


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with open_browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def home(browser: Any, small_run: Path) -> Iterator[str]:
    with run_in_thread(app_state_of(small_run, "vitrine/scenes-tiny")) as address:
        yield address


@pytest.fixture(scope="module")
def tab(browser: Any, home: str) -> Iterator[Any]:
    with open_page(browser, home, permissions=["clipboard-read", "clipboard-write"], accept_downloads=True) as tab:
        yield tab


@pytest.fixture
def page(tab: Any, home: str) -> Iterator[Any]:
    """The start page, as someone sees it who was not here before."""
    leave(tab, home)
    tab.mouse.move(2, 2)
    show(tab, home)
    yield tab
    tab.evaluate("sessionStorage.clear()")


@pytest.fixture(scope="module")
def model(small_run: Path) -> Any:
    return vitrine.load(small_run, precision="fp32")


def show(page: Any, address: str) -> None:
    page.goto(address)
    wait_for_maps(page)


def wait_for_maps(page: Any) -> None:
    """Until every map is there."""
    until(
        page,
        "[...document.querySelectorAll('.pane')].length"
        " && [...document.querySelectorAll('.pane')].every((pane) => pane.getAttribute('aria-busy') === 'false')",
    )


def canvas(page: Any, index: int = 0) -> Any:
    return page.locator(".pane .stage canvas").nth(index)


def point(page: Any, row: int, column: int, index: int = 0) -> tuple[float, float]:
    """Middle of a patch of a square picture on the screen."""
    box = canvas(page, index).bounding_box()
    return box["x"] + box["width"] * (column + 0.5) / SIDE, box["y"] + box["height"] * (row + 0.5) / SIDE


@pytest.fixture
def first(page: Any, home: str, tmp_path: Path) -> Path:
    """The picture that the page shows at first; it is sent without loss."""
    return save_picture(tmp_path, page.request.get(f"{home}/api/picture/0/{sample_of(page, home)['id']}").body())


def save_picture(folder: Path, content: bytes) -> Path:
    """Bytes as a file, which is what a model in Python reads."""
    file = folder / "picture.png"
    file.write_bytes(content)
    return file


def sample_of(page: Any, home: str) -> dict[str, Any]:
    return page.request.get(f"{home}/api/models").json()["models"][0]["samples"][0]


def readout(page: Any) -> str:
    return page.locator(".readout").first.inner_text()


def format_value(number: float) -> str:
    """A number as the page writes it."""
    return f"{float(f'{number:.3g}'):g} × uniform"


def choose(page: Any, what: str, value: str) -> None:
    page.locator(f'[data-what="{what}"]').first.select_option(value)
    until(page, "what => location.hash.includes(what)", f"{what}={value}")
    wait_for_maps(page)


def test_it_says_what_the_model_says(page: Any, home: str, model: Any, first: Path) -> None:
    prediction = model.predict(first)
    labels = page.locator(".predictions .label").all_inner_texts()
    shares = page.locator(".predictions .number").all_inner_texts()
    top = prediction.top(5)
    assert [label.rstrip(" ✓") for label in labels] == [label for label, _ in top]
    for share, (_, probability) in zip(shares, top, strict=True):
        assert abs(float(share.strip("<>% ")) - 100 * probability) < 0.6
    page.get_by_role("button", name="All ").click()
    assert page.locator(".predictions li").count() == len(prediction.probabilities)
    sample = sample_of(page, home)
    assert page.locator("h1").inner_text() == f"{sample['name'].split('/')[-1]} · true label: {sample['label']}"


def check_prediction(page: Any, prediction: Any) -> None:
    """The panel has this prediction's first label, with its probability."""
    label, probability = prediction.top(1)[0]
    until(page, "label => document.querySelector('.predictions .label').innerText.startsWith(label)", label)
    share = page.locator(".predictions .number").first.inner_text()
    assert abs(float(share.strip("<>% ")) - 100 * probability) < 0.6


def test_it_says_it_of_the_picture_and_the_model_that_were_chosen(
    page: Any, home: str, model: Any, tmp_path: Path
) -> None:
    for sample in page.request.get(f"{home}/api/models").json()["models"][0]["samples"][1:4]:
        page.locator(f'.thumb[data-key="0/{sample["id"]}"]').click()
        until(page, "name => document.querySelector('h1').title === name", sample["name"])
        wait_for_maps(page)
        check_prediction(
            page, model.predict(save_picture(tmp_path, page.request.get(f"{home}/api/picture/0/{sample['id']}").body()))
        )
    content = picture(5, (48, 48))
    page.set_input_files("input[type=file]", {"name": "own.png", "mimeType": "image/png", "buffer": content})
    until(page, "document.querySelector('h1').textContent === 'own.png'")
    wait_for_maps(page)
    check_prediction(page, model.predict(save_picture(tmp_path, content)))
    choose(page, "model", "1")
    check_prediction(
        page, vitrine.load("vitrine/scenes-tiny", precision="fp32").predict(save_picture(tmp_path, content))
    )


def test_where_no_map_comes_no_other_stands_in_its_place(browser: Any, home: str) -> None:
    with open_page(browser, home, refusals=True) as page:
        show(page, home)
        refusal = {"status": 422, "json": {"error": "This view cannot be had.", "code": "cannot"}}
        page.route("**/api/explain?*", lambda route: route.fulfill(**refusal))
        upload = {"name": "own.png", "mimeType": "image/png", "buffer": picture(6)}
        page.set_input_files("input[type=file]", upload)
        page.get_by_role("alert").get_by_text("This view cannot be had.").wait_for()
        assert page.locator(".thumb canvas").count() == 1  # the picture can be used: it stays
        assert not canvas(page).is_visible()
        assert page.locator(".predictions").count() == 0
        page.unroute("**/api/explain?*")
        page.get_by_role("button", name="Try again").click()
        until(page, "document.querySelector('.predictions')")
        assert canvas(page).is_visible()


@pytest.fixture(scope="module")
def mean_run(small_scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a micro model without a class token: it reads out the mean of its patches."""
    shape = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
    recipe = Recipe(
        name="mean",
        model="vit_tiny_patch16_224",
        model_args=shape | {"global_pool": "avg", "class_token": False},
        pretrained=False,
        image_size=32,
        transforms=named_transforms("scenes"),
        batch_size=16,
        epochs=1,
        workers=0,
        precision="fp32",
    )
    return train(str(small_scenes), recipe, tmp_path_factory.mktemp("runs") / "mean").run


def test_a_model_is_asked_only_for_what_it_can_give(browser: Any, mean_run: Path, tmp_path: Path) -> None:
    with run_in_thread(app_state_of(mean_run)) as home, open_page(browser, home) as page:  # nothing is refused
        show(page, home)
        content = picture(7)
        page.set_input_files("input[type=file]", {"name": "own.png", "mimeType": "image/png", "buffer": content})
        until(page, "document.querySelector('h1').textContent === 'own.png'")
        wait_for_maps(page)
        until(page, "document.querySelector('.pane figcaption').textContent.includes('the mean of the patches')")
        assert page.locator(".thumb canvas").count() == 1
        check_prediction(page, vitrine.load(mean_run, precision="fp32").predict(save_picture(tmp_path, content)))
        page.goto(f"{page.url}&method=gradcam&target=of+another+model")
        until(page, "document.querySelector('.pane figcaption').textContent.includes('Grad-CAM')")
        models = page.request.get(f"{home}/api/models").json()
        models["models"][0]["methods"] = ["rollout"]
        page.route("**/api/models", lambda route: route.fulfill(json=models))
        leave(page, home)
        request_count = len(page.requested_urls)
        show(page, f"{home}/#/classify?method=attention")
        until(page, "location.hash.includes('method=rollout')")
        wait_for_maps(page)
        assert not [url for url in page.requested_urls[request_count:] if "/api/" in url and "method=attention" in url]


@pytest.mark.parametrize(("layer", "head"), [(-1, "mean"), (0, 1)])
def test_the_map_has_the_models_values(page: Any, model: Any, first: Path, layer: int, head: Any) -> None:
    if layer == 0:
        page.locator("[data-what=layer]").focus()
        page.keyboard.press("Home")
        choose(page, "head", "1")
        assert "layer=0" in page.url
    page.get_by_role("radio", name="the map’s values").check()
    map_RC = model.explain(first, method="attention", layer=layer, heads=head).map
    canvas(page).focus()
    page.keyboard.press("ArrowUp")  # to the middle of the grid
    for key, at in (("", (2, 2)), ("ArrowUp", (1, 2)), ("ArrowLeft", (1, 1)), ("ArrowDown", (2, 1))):
        if key:
            page.keyboard.press(key)
        expected = format_value(float(map_RC[at] / map_RC.mean()))
        assert f"row {at[0]}, column {at[1]}: {expected}" in readout(page)


def test_moving_shows_who_attends_to_whom_without_asking(page: Any, small_run: Path, first: Path) -> None:
    classifier = open_classifier(str(small_run), "fp32")
    batch = next(Explainer(classifier, Method()).run([one_picture(first, "")], 1))
    attention_NN = attention_matrices(classifier.module, batch.pixels_BCHW)[0].mean(0).double().numpy()[1:, 1:]
    relative_NN = attention_NN / attention_NN.mean(1, keepdims=True)
    page.mouse.move(*point(page, 0, 0))
    until(page, "document.querySelector('.readout strong')")  # the matrix is there
    page.mouse.move(2, 2)
    before, request_count = canvas_data(canvas(page)), len(page.requested_urls)
    other_map = page.locator(".verdict .other-map")
    for name, over in (("what a patch attends to", "from"), ("who attends to it", "to")):
        page.get_by_role("radio", name=name).check()
        for row, column in ((0, 0), (1, 2), (3, 3)):
            page.mouse.move(*point(page, row, column))
            self_attention = relative_NN[SIDE * row + column, SIDE * row + column]
            assert f"itself {format_value(self_attention)}" in readout(page)
            # The verdict that still stands there is of another map, and says so.
            assert f"of the patch in row {row}, column {column}: maps of single patches" in other_map.inner_text()
        maps = [each.reshape(SIDE, SIDE) for each in (relative_NN if over == "from" else relative_NN.T)]
        bar = page.locator(".bars .colour-bar").get_attribute("aria-label")
        # All patches share one scale; the page takes it from float16.
        assert f"to {shared_scale(maps):g};" in bar
        assert canvas_data(canvas(page)) != before
    assert [url for url in page.requested_urls[request_count:] if "/api/" in url and "/api/verdict" not in url] == []
    page.mouse.move(2, 2)
    assert canvas_data(canvas(page)) == before
    assert not other_map.is_visible()
    page.get_by_role("radio", name="the map").check()  # its values are read: the verdict is of this very map
    page.mouse.move(*point(page, 1, 2))
    assert not other_map.is_visible()


def test_a_patch_is_kept_and_a_link_shows_it_again(page: Any, browser: Any, home: str) -> None:
    page.mouse.click(*point(page, 1, 2))
    until(page, "location.hash.includes('query=1,2')")
    page.mouse.move(2, 2)
    wait_for_maps(page)
    until(page, "document.querySelector('.pane figcaption').textContent.includes('patch (1, 2)')")
    page.locator("[type=range]").last.fill("0.5")
    page.get_by_label("patches as they are").check()
    until(page, "location.hash.includes('patches=1')")
    image, address = canvas_data(canvas(page)), page.url
    assert "strength=0.5" in address
    with open_page(browser, home) as other:
        show(other, address)
        until(other, "document.querySelector('.pane figcaption').textContent.includes('patch (1, 2)')")
        assert canvas_data(canvas(other)) == image
        assert other.get_by_label("patches as they are").is_checked()
        other.get_by_role("button", name="Back to the model’s own map").click()
        wait_for_maps(other)
        assert "[class]" in other.locator(".pane figcaption").inner_text()
    page.go_back()
    until(page, "!location.hash.includes('query')")


@pytest.mark.parametrize("method", ["rollout", "relevance", "gradcam", "occlusion"])
def test_every_method_is_shown_in_its_own_unit(page: Any, model: Any, first: Path, method: str) -> None:
    choose(page, "method", method)
    for option in ("layer", "heads"):
        control = page.locator(f'[data-what="{option.removesuffix("s")}"]')
        assert control.is_disabled() == (option not in METHOD_OPTIONS[method])
    bar = page.locator(".bars .colour-bar").get_attribute("aria-label")
    assert ("probability lost" if method == "occlusion" else "multiple of uniform") in bar
    target = None
    if method in ("relevance", "gradcam"):  # another class than the predicted one
        button = page.locator(".predictions button").nth(1)
        target = button.locator(".label").inner_text().rstrip(" ✓")
        button.click()
        until(page, "location.hash.includes('target=')")
        wait_for_maps(page)
    expected_RC = model.explain(first, method=method, target=target).map
    page.mouse.move(*point(page, 2, 1))
    value = expected_RC[2, 1] if method == "occlusion" else expected_RC[2, 1] / max(expected_RC.mean(), 1e-12)
    value_on_page = float(re.search(r"column 1: (\S+)", readout(page))[1].replace("−", "-"))
    assert value_on_page == pytest.approx(float(value), rel=0.02, abs=2e-3)


def test_the_verdict_and_its_controls(page: Any, home: str) -> None:
    badge = page.locator(".verdict .badge")
    flags = ["depends", "not shown", "cannot tell"]
    until(page, f"{flags}.includes(document.querySelector('.verdict .badge').dataset.flag)")
    sample = sample_of(page, home)["id"]
    answer = page.request.post(f"{home}/api/verdict?model=0&method=attention&sample={sample}").json()
    assert badge.inner_text() == answer["flag"]
    assert answer["sentence"] in page.locator(".verdict").inner_text()
    assert page.locator(".verdict .caveat").inner_text().replace("’", "'") == CAVEAT
    page.locator(".verdict summary").click()
    assert page.locator(".controls figcaption").all_inner_texts() == [each["name"] for each in answer["controls"]]
    until(page, "[...document.querySelectorAll('.controls canvas')].every((each) => each.width > 20)")
    assert len({canvas_data(each) for each in page.locator(".controls canvas").all()}) == len(answer["controls"])
    rows = page.locator(".evidence tbody tr")
    assert rows.count() == 4
    cells = rows.nth(0).locator("td").all_inner_texts()
    assert cells[:-1] == [f"{each['answer']:.2f}" for each in answer["sets"]]
    assert float(cells[-1]) == pytest.approx(answer["p"], abs=0.005)
    assert "controls=1" in page.url


def test_two_models_side_by_side_on_one_scale(page: Any, home: str) -> None:
    page.get_by_role("button", name="Compare side by side").click()
    until(page, "document.querySelectorAll('.pane').length === 2")
    wait_for_maps(page)
    until(page, "document.querySelectorAll('.answers ol').length === 2")
    sample = sample_of(page, home)["id"]
    high = page.request.post(f"{home}/api/explain?model=0&sample={sample}").json()["scale"]["high"]
    other_high = page.request.post(f"{home}/api/explain?model=1&sample=0/{sample}").json()["scale"]["high"]
    assert page.locator(".bars .colour-bar").count() == 1
    assert f"to {max(high, other_high):g};" in page.locator(".bars .colour-bar").get_attribute("aria-label")
    second = page.locator(".pane").nth(1)
    second.locator('[data-what="model"]').select_option("0")  # two layers of one model
    until(page, "location.hash.includes('beside=0')")
    wait_for_maps(page)
    second.locator('[data-what="layer"]').focus()
    page.keyboard.press("Home")
    wait_for_maps(page)
    until(page, "location.hash.includes('layer2=0')")
    assert "layer 0 of 0 to 1" in second.locator("figcaption").inner_text()
    assert canvas_data(canvas(page, 0)) != canvas_data(canvas(page, 1))
    first, second_line = page.locator("pre.command").inner_text().splitlines()
    assert "--layer" not in first
    assert "--layer 0" in second_line
    second.locator('[data-what="method"]').select_option("occlusion")
    until(page, "document.querySelectorAll('.bars .colour-bar').length === 2")  # two units, two scales
    page.get_by_role("button", name="One map").click()
    until(page, "document.querySelectorAll('.pane').length === 1")


COPIED = """async () => {
  const [item] = await navigator.clipboard.read();
  const bytes = new Uint8Array(await (await item.getType("image/png")).arrayBuffer());
  return btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(""));
}"""


def pixels(png: bytes) -> bytes:
    return Image.open(io.BytesIO(png)).convert("RGB").tobytes()


def test_each_of_two_maps_has_its_own_verdict_and_copy(page: Any, home: str) -> None:
    show(page, f"{home}/#/classify?beside=1&method2=rollout")
    is_checked = ":is([data-flag=depends], [data-flag='not shown'], [data-flag='cannot tell'])"
    until(page, "which => document.querySelectorAll(`.verdict .badge${which}`).length === 2", is_checked)
    sample = sample_of(page, home)["id"]
    params = (
        {"model": 0, "method": "attention", "sample": sample},
        {"model": 1, "method": "rollout", "sample": f"0/{sample}"},
    )
    verdicts = [page.request.post(f"{home}/api/verdict", params=each).json() for each in params]
    assert verdicts[0]["sentence"] != verdicts[1]["sentence"]
    for which, answer in zip(("first", "second"), verdicts, strict=True):
        panel = page.get_by_role("region", name=f"Verdict on the {which} map")
        assert panel.locator("h2").text_content() == f"Does the answer depend on what the {which} map marks?"
        assert panel.locator(".badge").inner_text() == answer["flag"] and answer["sentence"] in panel.inner_text()
        assert panel.locator(".evidence tbody tr").count() == 4
    copies = []
    for which, each in zip(("first", "second"), params, strict=True):
        page.get_by_role("button", name=f"Copy {which} figure").click()
        page.get_by_text("The figure is in the clipboard.").wait_for()
        page.evaluate("document.querySelector('#announcement').textContent = ''")  # the next one is another
        copies.append(pixels(base64.b64decode(page.evaluate(COPIED))))
        figure = page.request.post(f"{home}/api/figure", params=each | {"figure": "map", "kind": "png"})
        assert copies[-1] == pixels(figure.body()), which
    assert copies[0] != copies[1]
    page.get_by_role("button", name="One map").click()
    until(page, "document.querySelectorAll('.verdict').length === 1")
    assert page.locator(".verdict h2").text_content() == "Does the answer depend on what this map marks?"
    assert page.locator(".verdict .badge").inner_text() == verdicts[0]["flag"]
    assert page.get_by_role("button", name="Copy figure", exact=True).count() == 1
    assert page.get_by_role("button", name="Copy second figure").count() == 0


GIVE = """([way, base64]) => {
  const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  const data = new DataTransfer();
  data.items.add(new File([bytes], `${way}.png`, { type: "image/png" }));
  const kinds = { dragover: ["dragover", "drop"], paste: ["paste"] }[way];
  for (const kind of kinds) {
    const drag = { dataTransfer: data, cancelable: true };
    const paste = { clipboardData: data };
    window.dispatchEvent(kind === "paste" ? new ClipboardEvent(kind, paste) : new DragEvent(kind, drag));
  }
}"""


@pytest.mark.parametrize("way", ["pick", "dragover", "paste"])
def test_a_picture_of_ones_own(page: Any, model: Any, tmp_path: Path, way: str) -> None:
    content = picture({"pick": 1, "dragover": 2, "paste": 3}[way], (48, 32))
    if way == "pick":
        page.set_input_files("input[type=file]", {"name": "pick.png", "mimeType": "image/png", "buffer": content})
    else:
        page.evaluate(GIVE, [way, base64.b64encode(content).decode()])
    until(page, "way => document.querySelector('h1').textContent === `${way}.png`", way)
    wait_for_maps(page)
    assert (
        page.locator(".predictions .label").first.inner_text() == model.predict(save_picture(tmp_path, content)).label
    )
    box = canvas(page).bounding_box()
    assert box["width"] / box["height"] == pytest.approx(1.5, rel=0.02)
    assert "sha256:" in page.url
    before = canvas_data(canvas(page))
    page.reload()  # the tab keeps it, the server does not
    wait_for_maps(page)
    assert page.locator("h1").inner_text() == f"{way}.png"
    assert canvas_data(canvas(page)) == before
    assert page.locator("pre.command").inner_text().count(f"{way}.png") == 1


def test_what_is_no_picture_is_refused_in_a_sentence(browser: Any, home: str) -> None:
    with open_page(browser, home, refusals=True) as page:
        show(page, home)
        bad = {"name": "notes.png", "mimeType": "image/png", "buffer": b"not a picture at all"}
        page.set_input_files("input[type=file]", bad)
        alert = page.get_by_role("alert")
        alert.get_by_text("not a picture").wait_for()
        until(page, "!location.hash.includes('sha256')")
        wait_for_maps(page)
        assert page.locator(".thumb canvas").count() == 0  # it is not among the pictures
        page.set_input_files("input[type=file]", {"name": "empty.png", "mimeType": "image/png", "buffer": b""})
        alert.get_by_text("empty.png is empty.").wait_for()
        alert.get_by_role("button", name="Close").click()
        assert alert.inner_text() == ""
        page.goto(f"{home}/#/classify?picture=sha256:{'0' * 64}")
        page.get_by_text("Drop it here, and the view comes back.").wait_for()


@pytest.mark.parametrize("kind", ["png", "svg"])
def test_a_figure_with_its_provenance(page: Any, tmp_path: Path, kind: str) -> None:
    choose(page, "method", "relevance")
    with page.expect_download() as download:
        page.get_by_role("button", name=f"Save {kind.upper()}").click()
    file = tmp_path / download.value.suggested_filename
    download.value.save_as(file)
    assert file.name == f"000000-relevance.{kind}" or file.name.endswith(f"-relevance.{kind}")
    provenance = read_provenance(file)
    assert provenance["vitrine:method"].startswith("relevance")
    assert provenance["vitrine:command"].startswith("vitrine explain")


def test_the_command_and_the_link_are_copied(page: Any) -> None:
    page.get_by_role("button", name="Copy command").click()
    page.get_by_text("The command is in the clipboard.").wait_for()
    command = page.evaluate("navigator.clipboard.readText()")
    assert command.startswith("vitrine explain ")
    assert command == page.locator("pre.command").inner_text()
    page.get_by_role("button", name="Copy link").click()
    page.get_by_text("The link is in the clipboard.").wait_for()
    assert page.evaluate("navigator.clipboard.readText()") == page.url
    page.get_by_role("button", name="Copy figure").click()
    page.get_by_text("The figure is in the clipboard.").wait_for()
    kinds = page.evaluate("navigator.clipboard.read().then((items) => items[0].types)")
    assert kinds == ["image/png"]


def test_percentages_are_written_as_figures_write_them(page: Any) -> None:
    texts = page.evaluate(
        "import('/assets/viewer.js').then(({ formatProbability }) => [0.05, 0.5, 0.937].map(formatProbability))"
    )
    assert texts == [percent(share, 0) for share in (0.05, 0.5, 0.937)]
