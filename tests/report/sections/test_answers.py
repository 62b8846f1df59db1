"""``vitrine report`` of captions and answers: it shows what their figures and scores say, and runs no model."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.figures import blob, photo, place_grid
from support.made_runs import made_run, run_verb

from vitrine.caption.figures.figure_file import save_caption_figure
from vitrine.caption.figures.words import CaptionPicture, WordPanel
from vitrine.cli.report import report as verb
from vitrine.errors import DataError, RunError, UsageError
from vitrine.io.figure_folder import FigureCall, claim_folder
from vitrine.io.files import to_json
from vitrine.plotting.colormap import Scale
from vitrine.plotting.provenance import Provenance
from vitrine.report.run import Report, ReportSettings, _DocumentBuilder, write_report

SHA = "cd" * 32
QUESTION = "What is in <the> picture?"


def answer(path: Path, text: str, log_probability: float, **origin: Any) -> Path:
    words = tuple(WordPanel(word, 0.5, blob(4, 6, 0.2, 0.7, 0.1), grey=word in ("a", "the")) for word in text.split())
    prompt = (WordPanel("What", None, np.ones((4, 6), np.float32)),)
    origin = {"model": "models/llava", "weights_sha256": SHA, "layer": "-1", "heads": "mean", "method": "attention",
              "precision": "fp32", "picture": f"in/{path.stem}.jpg",
              "command": f"vitrine caption models/llava in/{path.stem}.jpg -o out"} | origin  # fmt: skip
    picture = CaptionPicture(
        photo(60, 40), place_grid(60, 40, 4, 6), text, words, name=f"{path.stem}.jpg", question=QUESTION,
        log_probability=log_probability, method="self-attention, last decoder layer", notes=("Cut after 4 pieces.",),
        model="models/llava", prompt=prompt, prompt_line="The prompt: each word's own position.",
    )  # fmt: skip
    save_caption_figure(picture, Scale("uniform", 4), path, Provenance("caption", **origin).to_metadata())
    return path


def scores(folder: Path, flag: str = "points", **changes: Any) -> Path:
    def grounding(hit: float) -> dict[str, Any]:
        means = {"word": {"mean": hit, "interval_95": [hit - 0.1, hit + 0.1]}, "mean": {"mean": 0.25},
                 "centre": {"mean": 0.125}, "uniform": {"mean": 0.0625}}  # fmt: skip
        return {"flag": flag, "metrics": {"pointing": means, "inside": means}}

    rows = [{"reading": "attention", "layer": layer, "heads": "mean", "grounding": grounding(hit),
             "next_word": grounding(0.1)} for layer, hit in ((0, 0.4), (1, 0.7), ("mean", 0.6))]  # fmt: skip
    content = {"reading": "attention", "layer": 1, "heads": "mean", "sentence": "Layer 1 points best.", "rows": rows}
    folder.mkdir(parents=True)
    (folder / "layers.json").write_text(to_json(content | changes))
    metrics = {"model": "models/llava", "data": "scenes:base?test=20", "weights_sha256": SHA}
    (folder / "metrics.json").write_text(to_json(metrics))
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six captions of one call with a list of its files, one answer beside it, and scores."""
    top = tmp_path_factory.mktemp("made")
    names = [f"p{index}.png" for index in range(6)]
    claim = claim_folder(top / "caps", FigureCall("caption", ("models/llava",), ("in",)), [*names, "captions.csv"])
    claim.take()
    for index, name in enumerate(names):
        answer(top / "caps" / name, "a dog sleeps there", -float(index))
    answer(top / "answers" / "one.png", "a cat", -0.5, layer="1")
    scores(top / "scores")
    return top


@pytest.fixture(scope="module")
def page(made: Path) -> tuple[Report, str]:
    references = [str(made / "caps"), str(made / "answers" / "one.png"), str(made / "scores")]
    report = write_report(references, made / "r.html", ReportSettings(markdown=True))
    return report, (made / "r.html").read_text()


def test_answers_prompt_and_words_are_on_the_page(page: tuple[Report, str]) -> None:
    report, html = page
    assert report.document.title == "Answers of models/llava"
    assert [section.key for section in report.document.sections][:3] == ["answers-1", "limits", "origins"]
    assert "models/llava answered 7 pictures, of which 5 answers are shown." in html
    assert "16 of 26 words looked somewhere in particular" not in html  # 6 x 3 of 4, and 1 of 2
    assert "19 of 26 words looked somewhere in particular" in html
    assert "What is in &lt;the&gt; picture?" in html
    assert "<the>" not in html
    assert html.count("Cut after 4 pieces.") == 5
    views = [json.loads(each) for each in re.findall(r'data-viewer="words"><script[^>]*>(.*?)</script>', html)]
    assert len(views) == 10  # with the prompt's words
    assert [word["text"] for word in views[0]["words"]] == ["a", "cat"]
    assert [word["particular"] for word in views[0]["words"]] == [False, True]
    assert (views[1]["words"][0]["text"], views[1]["words"][0]["probability"]) == ("What", None)


def test_the_surest_and_the_least_sure_are_shown(page: tuple[Report, str]) -> None:
    _, html = page
    for name, why in {"p0": "surest", "p1": "surest", "p4": "least sure", "p5": "least sure"}.items():
        assert f"{why} of its words · {name}.jpg" in html
    assert "p2.jpg" in html  # of the table alone
    assert "of its words · p2.jpg" not in html


def test_scores_of_layers_and_what_the_figures_use(page: tuple[Report, str], made: Path) -> None:
    _, html = page
    assert "0.700 (0.600 to 0.800)" in html
    assert "Layer 1 points best." in html
    # the last of layers 0 and 1 is layer 1: all seven figures show it
    assert "show other maps" not in html
    assert "--grounding -o DIR, and DIR given to this report" not in html
    other = answer(made / "other" / "x.png", "a cat", -1.0, layer="0")
    html = write_html([other, made / "scores"], made / "other.html")
    assert f"vitrine caption models/llava PICTURES --layer {made}/scores/layers.json draws them" in html


def test_no_scores_are_a_doubt_and_commands_are_quoted_anew(made: Path) -> None:
    hostile = answer(made / "hostile" / "x.png", "a cat", -1.0, command="rm -rf / #")
    html = write_html([made / "caps", hostile], made / "doubt.html")
    assert "vitrine evaluate models/llava DATA --grounding -o DIR, and DIR given to this report, say so." in html
    assert "rm -rf" not in html
    assert "vitrine caption models/llava in/p0.jpg -o out" in html


def test_markdown_and_facts(page: tuple[Report, str]) -> None:
    report, _ = page
    assert len(report.paths) == 2 + 5
    text = report.paths[1].read_text()
    assert "| attention | 1 " in text
    facts = report.to_dict()
    assert "comparison" not in facts
    (model,) = facts["answers"]
    assert (model["weights_sha256"], len(model["answers"]), model["layers"][0]["layer"]) == (SHA, 7, 1)


def test_runs_and_answers_on_one_page(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_DocumentBuilder, "_model_sections", lambda _builder: [])  # the run has no weights
    made_run(made / "runs" / "good", [True] * 30, batch_size=8)
    (made / "runs" / "good" / "environment.json").write_text("{}")
    report = write_report([str(made / "runs"), str(made / "caps")], made / "both.html")
    keys = [section.key for section in report.document.sections]
    assert keys[0] == "result"
    assert "answers-1" in keys
    assert report.document.detail.startswith("1 run of classifiers · 6 answers")


def test_another_models_answers_have_a_section_of_their_own(made: Path) -> None:
    other = answer(made / "two" / "x.png", "a cat", -1.0, model="models/qwen", weights_sha256="ef" * 32)
    report = write_report([str(made / "caps"), str(other)], made / "two.html")
    assert [section.title for section in report.document.sections][:2] == [
        "Answers of models/qwen",
        "Answers of models/llava",
    ]


def write_html(references: list[Path], out: Path) -> str:
    write_report([str(each) for each in references], out)
    return out.read_text()


def test_what_cannot_be_used_is_said_in_a_sentence(made: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunError, match=r"empty has nothing to report: it is no run and holds none\.\nExpected"):
        write_report([str(tmp_path / "empty")], tmp_path / "r.html")
    (tmp_path / "x.txt").write_text("x")
    with pytest.raises(DataError, match="neither a PNG nor an SVG file"):
        write_report([str(tmp_path / "x.txt")], tmp_path / "r.html")
    with pytest.raises(UsageError, match="--score is of runs, and there is none"):
        write_report([str(made / "caps")], tmp_path / "r.html", ReportSettings(score=3))
    with pytest.raises(RunError, match="There is no folder"):
        write_report([str(tmp_path / "missing")], tmp_path / "r.html")


@pytest.mark.parametrize(
    "changes", [{"rows": []}, {"rows": [{"reading": "x"}]}, {"layer": 7}, {"sentence": None}],
    ids=["no row", "half a row", "a layer without a row", "no sentence"],
)  # fmt: skip
def test_damaged_scores_are_said(changes: dict[str, Any], tmp_path: Path) -> None:
    folder = scores(tmp_path / "scores", **changes)
    with pytest.raises(RunError, match=r"The scores in .* cannot be read: .*\nExpected layers.json and metrics.json"):
        write_report([str(folder)], tmp_path / "r.html")


def test_one_damaged_figure_of_a_folder_is_named_and_all_are_an_error(made: Path, tmp_path: Path) -> None:
    folder = tmp_path / "caps"
    claim_folder(folder, FigureCall("caption", ("m",), ("in",)), ["p0.png", "p1.png"]).take()
    (folder / "p0.png").write_bytes((made / "caps" / "p0.png").read_bytes())
    (folder / "p1.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    html = write_html([folder], tmp_path / "r.html")
    assert re.search(r"An answer: \S*p1.png is a damaged PNG file", html)
    (folder / "p0.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match="has no figure that can be read"):
        write_report([str(folder)], tmp_path / "r.html")


def test_a_figure_after_pictures_is_an_answer(made: Path, tmp_path: Path) -> None:
    """``--pictures a.jpg b.jpg``: files after the first are pictures, but figures of answers are not."""
    with pytest.raises(UsageError, match="--pictures is of runs"):
        run_verb(verb, made / "answers" / "one.png", "-o", tmp_path / "r.html", "--pictures", "a.jpg")
