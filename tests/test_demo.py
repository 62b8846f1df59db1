"""``vitrine demo`` on a tenth of its pictures: everything that it promises is there, and it replaces only its own."""

from __future__ import annotations

import csv
import html
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Self

import pytest
from support.refused_network import refuse_the_network
from support.sweeps import TrainingHere

from vitrine import demo
from vitrine.attribution.patch_hiding import PatchHiding
from vitrine.config import load_recipe, recipe_to_toml
from vitrine.demo import run_demo
from vitrine.errors import RunError
from vitrine.plotting.provenance import read_provenance


class Deferred:
    """Stands in for a pool of one thread: what is submitted runs when its result is asked for."""

    def __init__(self, threads: int) -> None:
        assert threads == 1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def submit(self, work: Callable[[], None]) -> SimpleNamespace:
        return SimpleNamespace(result=work)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "_COUNTS", {"train": 42, "validation": 14, "test": 14})
        for name, value in {"_MAPPED_PICTURES": 2, "_SCORED_PICTURES": 4, "_CURVE_PICTURES": 1}.items():
            patch.setattr(demo, name, value)
        patch.setattr(demo, "_DATA", "scenes:base?train=48&validation=16&test=16")
        patch.setattr(demo, "_CAPTIONED_PICTURES", 2)
        patch.setattr(demo, "_SWEEP", demo._SWEEP.replace("[set]\n", "[set]\nepochs = 1\n").replace("= 20", "= 2"))
        patch.setattr(demo, "RunProcess", TrainingHere)  # one after the other, as one process has one random state:
        patch.setattr(demo, "_JOBS", 1)
        patch.setattr(demo, "ThreadPoolExecutor", Deferred)
        patch.setitem(PatchHiding.__init__.__kwdefaults__, "draws", 5)
        short = tmp_path_factory.mktemp("recipe") / "scenes-captioner.toml"
        short.write_text(recipe_to_toml(replace(load_recipe(demo._RECIPE), epochs=2, epoch_size=128)))
        patch.setattr(demo, "_RECIPE", str(short))
        out = tmp_path_factory.mktemp("demo") / "demo"
        attempts = refuse_the_network(patch)
        said: list[str] = []
        result = run_demo(out, report=said.append)
        assert attempts == [], "it reaches out"
        for run, of in {"captioner": 2, "pretrained": 1, "from-scratch": 1, "linear-probe": 2}.items():
            assert any(re.match(rf" +{run}\S*: epoch {of} of {of}, validation ", line) for line in said), (run, said)
        yield result


def test_everything_that_the_summary_names_is_there(made) -> None:
    text = made.text()
    for name, _ in demo._CONTENTS:
        first = name.split(",")[0].rstrip("/")
        assert (made.out / first).exists(), name
        assert name in text
    assert {path.name for path in made.out.iterdir()} == {*demo._FILES, ".vitrine-demo"}
    assert sum(made.seconds.values()) > 0


def test_one_setting_is_final_and_its_test_result_is_stated(made) -> None:
    assert len(made.comparison.rows) == 3
    assert made.final.accuracy == max(row.accuracy for row in made.comparison.rows)
    assert f"accuracy is {made.test.metrics.accuracy:.4f}" in made.text()
    rows = list(csv.DictReader((made.out / "predictions.csv").open()))
    assert len(rows) == 14


def test_it_looks_inside_the_final_model(made) -> None:
    scores = json.loads((made.out / "runs" / made.final.name / "methods" / "methods.json").read_text())
    assert scores["pictures"] == scores["pictures_with_mask"] == 4
    assert scores["model"] == str(made.out / "runs" / made.final.name)
    controls = {row["name"] for row in scores["methods"] if row["control"]}
    assert {"random", "centre blob", "edges"} < controls
    assert len(list((made.out / "maps").rglob("*.png"))) == 3
    assert "before" in read_provenance(made.out / "positions.png")["vitrine:options"]
    best = made.inside.scores.ranking.rows[0]
    assert f"{best.name} does best" in made.text()
    assert "centre blob" in made.inside.text()


def test_it_captions_scenes_and_asks_whether_words_look_at_what_they_name(made) -> None:
    content = json.loads((made.out / "runs" / "captioner" / "test" / "metrics.json").read_text())
    assert content["captions"]["predicted"]["pictures"] == 16
    assert content["grounding"]["human"]["nouns"] > 16
    assert len(list((made.out / "captions").rglob("*.png"))) == len(made.captions.captions.captions) == 2
    assert "Do captions say what is there?" in made.text() and "falls by" in made.text()


def test_it_ends_with_a_report_whose_numbers_are_those_of_the_runs(made) -> None:
    page = (made.out / "report.html").read_text("utf-8")
    assert len(page) < 5_000_000
    facts = json.loads(re.search(r'id="facts">(.*?)</script>', page, re.DOTALL)[1])
    text = " ".join(html.unescape(re.sub(r"<[^>]+>", " ", page[: page.index('id="facts"')])).split())
    runs = {path.parent.name: json.loads(path.read_text()) for path in (made.out / "runs").glob("*/metrics.json")}
    captioner = runs.pop("captioner")
    assert len(runs) == len(facts["comparison"]["runs"]) == 3
    for row in facts["comparison"]["runs"]:
        said = runs[row["run"]]
        assert (row["accuracy"], row["n"]) == (said["accuracy"], said["n"])
        assert row["accuracy_interval_95"] == said["accuracy_interval_95"]
        low, high = said["accuracy_interval_95"]
        assert f"{row['run']} {said['accuracy']:.4f} {low:.4f} to {high:.4f} {said['n']}" in text
    test = json.loads((made.out / "runs" / made.final.name / "test" / "metrics.json").read_text())
    assert f"test accuracy {test['accuracy']:.4f} 95 % interval" in text and f"n = {test['n']}" in text
    assert f"{captioner['piece_accuracy']:.4f} after the human ones" in text
    scored = json.loads((made.out / "runs" / "captioner" / "test" / "metrics.json").read_text())
    assert f"{scored['captions']['predicted']['exact']['share']:.3f}" in text
    assert scored["grounding"]["human"]["sentence"][1:] in text
    assert page.count('<div data-viewer="words">') == 4


def test_the_report_opens_from_disk_without_an_error_or_a_request(made) -> None:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright comes with the extra [test]")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("There is no Chromium to open the page with: apt install chromium.")
    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
    said: list[str] = []
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=[*flags, "--no-first-run", "--disable-sync"])
        page = browser.new_page(viewport={"width": 390, "height": 844})
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: request.url.startswith("data:") or said.append(request.url))
        address = (made.out / "report.html").resolve().as_uri()
        page.goto(address)
        page.wait_for_function("document.querySelectorAll('.words button').length > 0")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, "the page scrolls sideways on a phone"
        assert page.evaluate("[...document.images].every((image) => image.alt)")
        assert page.evaluate("[...document.querySelectorAll('canvas')].every((c) => c.closest('[aria-label]'))")
        words = page.locator(".words").first.locator("button")
        page.wait_for_function("document.querySelector('.words .shown') !== null")
        before = page.locator(".view .stage canvas").last.evaluate("(canvas) => canvas.toDataURL()")
        last = page.locator(".words").last.locator("button")
        last.nth(0).focus()
        page.keyboard.press("ArrowRight")
        assert last.nth(1).get_attribute("aria-pressed") == "true"
        after = page.locator(".view .stage canvas").last.evaluate("(canvas) => canvas.toDataURL()")
        assert before != after, "another word shows another map"
        assert words.count() > 1
        page.locator("#theme").click()
        assert page.evaluate("document.documentElement.dataset.theme") in ("light", "dark")
        browser.close()
    assert said == [address]


def test_it_replaces_what_it_wrote_and_refuses_what_it_did_not(made, tmp_path: Path) -> None:
    (made.out / "my-notes.txt").write_text("mine")
    demo._make_room(made.out)
    assert {path.name for path in made.out.iterdir()} == {"my-notes.txt", ".vitrine-demo"}
    (tmp_path / "photo.jpg").write_bytes(b"mine")
    with pytest.raises(RunError, match="holds something that is not an earlier demo"):
        run_demo(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["photo.jpg"]
