"""Every layer scored on human captions, the choice that is written down, and the file that --layer reads."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from support.grounded_captions import perfect, random_caption
from support.tiny_vlms import save_tiny_vlm

from vitrine.attribution.grounding import grounding
from vitrine.caption.decoding import DecodedCaption
from vitrine.caption.evaluate import evaluate_captioner
from vitrine.caption.layer_grounding import CaptionMaps, ReadingTallies, map_options
from vitrine.data.scenes import write_scenes
from vitrine.errors import DataError, UsageError

Command = Callable[..., tuple[int, str, str]]


def tallies(**maps: str) -> ReadingTallies:
    """Forty captions, each with maps of chance or maps that lie on what their nouns name, by reading and layer."""
    result = ReadingTallies()
    for number, (name, kind) in enumerate(maps.items()):
        reading, _, layer = name.partition("_")
        for seed in range(40):
            points = kind == "points"
            caption = perfect(seed, hits=0.9) if points else random_caption(seed + 100 * number, name=f"{seed}.png")
            result.add_maps((reading, int(layer) if layer.isdecimal() else layer or None), caption)
    return result


def test_the_layer_that_points_is_chosen(tmp_path: Path) -> None:
    scores = tallies(attention_0="chance", attention_1="points", attention_mean="chance").scores()
    assert scores is not None
    assert (scores.best.reading, scores.best.layer) == ("attention", 1)
    assert scores.rows[1].grounding.flag in ("points", "leans")
    assert (
        scores.sentence.startswith("Layer 1 points best: --layer 1.") and "chosen on these pictures" in scores.sentence
    )
    rows = [line.split()[:2] for line in scores.table().text().splitlines()[-3:]]
    assert rows == [["attention", "0"], ["attention", "1"], ["attention", "mean"]]
    path = tmp_path / "layers.json"
    path.write_text(scores.to_json())
    assert map_options(str(path), "mean", None, False) == {"layer": 1, "heads": "mean", "reading": "attention"}
    assert map_options(str(path), 3, "gradient", False) == {"layer": 1, "heads": 3, "reading": "gradient"}


def test_the_reading_that_points_is_chosen_but_for_the_yardstick(tmp_path: Path) -> None:
    scores = tallies(attention_0="chance", gradient_0="chance", gradient_mean="points", occlusion="points").scores()
    assert scores is not None
    assert (scores.best.reading, scores.best.layer) == ("gradient", "mean")
    assert "The mean of all layers by gradient points best: --layer mean --reading gradient." in scores.sentence
    assert scores.table().text().splitlines()[-1].startswith("occlusion")
    path = tmp_path / "layers.json"
    path.write_text(scores.to_json())
    expected = {"layer": "mean", "heads": "mean", "reading": "gradient"}
    assert map_options(str(path), "mean", None, False) == expected
    assert map_options(str(path), "mean", None, True) == expected | {"reading": "relative"}


def test_nouns_with_the_next_words_map_are_beside_their_own() -> None:
    scores = tallies(attention_0="chance").scores()
    assert scores is not None
    captions = [random_caption(seed, name=f"{seed}.png") for seed in range(40)]
    assert scores.best.grounding == grounding(captions) and scores.best.next_word == grounding(captions, shift=1)
    shifted = scores.best.next_word.estimates["pointing"]["word"].mean
    assert f" {shifted:.3f} " in scores.table().text().splitlines()[-1]


def test_where_no_layer_points_that_is_said() -> None:
    scores = tallies(attention_0="chance", attention_1="chance").scores()
    assert scores is not None
    assert "none is to be believed" in scores.sentence
    assert ReadingTallies().scores() is None


def test_layers_are_averaged_before_a_map_is_divided() -> None:
    """Zhang et al. 2025: a quotient of means, and not a mean of quotients."""
    maps_TLHK = np.arange(1, 9, dtype=np.float32).reshape(1, 2, 1, 4)
    baseline_LHK = np.array([[[4.0, 3, 2, 1]], [[1.0, 2, 3, 9]]], np.float32)
    caption = DecodedCaption((5,), (-1.0,), None, maps_TLHK, (2, 2), (2, 2))
    layers = dict(CaptionMaps("relative", caption, baseline_LHK).by_layer())
    assert list(layers) == [("relative", 0), ("relative", 1), ("relative", "mean")]
    np.testing.assert_allclose(layers["relative", 1].maps_TLHK.ravel(), [5, 3, 7 / 3, 8 / 9], rtol=1e-6)
    np.testing.assert_allclose(layers["relative", "mean"].maps_TLHK.ravel(), [6 / 5, 8 / 5, 10 / 5, 12 / 10], rtol=1e-6)


@pytest.mark.parametrize(
    "content",
    [None, "[1]", '{"layer": true, "heads": "mean", "reading": "attention"}', '{"layer": 1, "heads": "mean"}',
     '{"layer": -2, "heads": "mean", "reading": "attention"}', '{"layer": 1, "heads": "all", "reading": "attention"}',
     '{"layer": 1, "heads": "mean", "reading": "occlusion"}', '{"layer": 1, "heads": "mean", "reading": ["x"]}',
     "not json"],
)  # fmt: skip
def test_other_files_are_refused(content: str | None, tmp_path: Path) -> None:
    path = tmp_path / "layers.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UsageError, match="evaluate MODEL DATA --grounding"):
        map_options(str(path), "mean", None, False)


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A model of random weights whose answers are short, and written scenes."""
    folder = tmp_path_factory.mktemp("grounding")
    save_tiny_vlm("llava", folder / "llava")
    config = json.loads((folder / "llava" / "config.json").read_text())
    config["text_config"]["max_position_embeddings"] = 64  # answers of random weights hardly ever end
    (folder / "llava" / "config.json").write_text(json.dumps(config))
    return SimpleNamespace(
        folder=folder / "llava", scenes=write_scenes(folder / "scenes", "base", {"test": 21}, size=32)
    )


def test_a_vision_language_model_is_evaluated(
    opened: SimpleNamespace, vitrine_command: Command, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    result = evaluate_captioner(str(opened.folder), str(opened.scenes), by_layer=True, out=out)
    assert result.layer_grounding is not None and result.human_grounding is not None
    rows = result.layer_grounding.rows
    readings = ("attention", "relative", "gradient")
    assert [(row.reading, row.layer) for row in rows] == [(r, layer) for r in readings for layer in (0, 1, "mean")]
    # The last layer's attention is what is scored without being asked for more.
    assert rows[1].grounding.to_dict() == result.human_grounding.to_dict()
    best = rows[int(np.argmax([row.grounding.estimates["pointing"]["word"].mean for row in rows]))]
    written = json.loads((out / "layers.json").read_text())
    assert (written["layer"], written["reading"]) == (best.layer, best.reading)
    assert "Which maps look at what human captions name?" in result.table()
    picture = next((opened.scenes / "test").rglob("*.png"))
    answer = ("--layer", out / "layers.json", "--max-pieces", 3)
    status, _, err = vitrine_command("ask", opened.folder, picture, "What?", "-o", tmp_path / "answer.png", *answer)
    assert status == 0, err
    with Image.open(tmp_path / "answer.png") as figure:
        command = figure.text["vitrine:command"]
    assert f"--layer {best.layer}" in command or best.layer == -1
    option = {"attention": "", "relative": "--relative"}.get(best.reading, f"--reading {best.reading}")
    assert option in command


def test_readings_can_be_chosen(opened: SimpleNamespace) -> None:
    few, readings = "scenes:base?test=2&size=32", ["occlusion", "attention"]
    result = evaluate_captioner(str(opened.folder), few, by_layer=True, readings=readings)
    assert result.layer_grounding is not None
    assert [row.reading for row in result.layer_grounding.rows] == ["attention"] * 3 + ["occlusion"]
    with pytest.raises(UsageError, match="--reading magic"):
        evaluate_captioner(str(opened.folder), few, by_layer=True, readings=["magic"])


def test_data_without_regions_cannot_choose_a_layer(tmp_path: Path) -> None:
    from support.tiny_vlms import photographs

    save_tiny_vlm("llava", tmp_path / "llava")
    photographs((40, 40))[0].save(tmp_path / "a.png")
    (tmp_path / "captions.csv").write_text("file,caption,split\na.png,a red dog,test\n")
    with pytest.raises(DataError, match="does not say where things are"):
        evaluate_captioner(str(tmp_path / "llava"), str(tmp_path / "captions.csv"), split="test", by_layer=True)
