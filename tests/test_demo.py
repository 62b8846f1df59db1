"""``vitrine demo`` on a tenth of its pictures: everything that it promises is there, and it replaces only its own."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from vitrine.errors import RunError
from vitrine.report.provenance import read_provenance
from vitrine.workflows import demo, demo_captioning, demo_seeing
from vitrine.workflows.demo import run_demo


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "_COUNTS", {"train": 42, "validation": 14, "test": 14})
        for name, value in {"_MAPPED": 3, "_SCORED": 8, "_CURVES": 2}.items():
            patch.setattr(demo_seeing, name, value)
        patch.setattr(demo_captioning, "_DATA", "scenes:base?train=48&validation=16&test=16")
        patch.setattr(demo_captioning, "_SHOWN", 3)
        out = tmp_path_factory.mktemp("demo") / "demo"
        yield run_demo(out)


def test_everything_that_the_summary_names_is_there(made) -> None:
    text = made.text()
    for name, _ in demo._MADE:
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
    assert scores["pictures"] == scores["pictures_with_mask"] == 8
    assert scores["model"] == str(made.out / "runs" / made.final.name)
    controls = {row["name"] for row in scores["methods"] if row["control"]}
    assert {"random", "centre blob", "edges"} < controls
    assert len(list((made.out / "maps").rglob("*.png"))) == 4
    assert "before" in read_provenance(made.out / "positions.png")["vitrine:options"]
    best = made.inside.scores.ranking.rows[0]
    assert f"{best.name} does best" in made.text()
    assert "centre blob" in made.inside.text()


def test_it_captions_scenes_and_asks_whether_words_look_at_what_they_name(made) -> None:
    content = json.loads((made.out / "runs" / "captioner" / "test" / "metrics.json").read_text())
    assert content["captions"]["predicted"]["pictures"] == 16
    assert content["grounding"]["human"]["nouns"] > 16
    assert len(list((made.out / "captions").rglob("*.png"))) == len(made.captions.captions.captions) == 3
    assert "Do captions say what is there?" in made.text() and "falls by" in made.text()


def test_it_replaces_what_it_wrote_and_refuses_what_it_did_not(made, tmp_path: Path) -> None:
    (made.out / "my-notes.txt").write_text("mine")
    demo._make_room(made.out)
    assert {path.name for path in made.out.iterdir()} == {"my-notes.txt", ".vitrine-demo"}
    (tmp_path / "photo.jpg").write_bytes(b"mine")
    with pytest.raises(RunError, match="holds something that is not an earlier demo"):
        run_demo(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["photo.jpg"]
