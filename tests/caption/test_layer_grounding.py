"""Every layer scored on human captions, the choice that is written down, and the file that --layer reads."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.grounded_captions import perfect, random_caption
from support.tiny_vlms import save_tiny_vlm

from vitrine.caption.evaluate import evaluate_captioner
from vitrine.caption.layer_grounding import LayerCaptions, read_layers
from vitrine.data.scenes import write_scenes
from vitrine.errors import DataError, UsageError

Command = Callable[..., tuple[int, str, str]]


def test_the_layer_that_points_is_chosen(tmp_path: Path) -> None:
    captions = LayerCaptions()
    for seed in range(40):
        captions.append([random_caption(seed), perfect(seed, hits=0.9), random_caption(seed + 100, name=f"{seed}.png")])
    scores = captions.scores()
    assert scores is not None
    assert scores.best == 1
    assert scores.layers[1].flag in ("points", "leans")
    assert "--layer 1" in scores.sentence and "chosen on these pictures" in scores.sentence
    assert [line.split()[0] for line in scores.table().text().splitlines()[-3:]] == ["0", "1", "2"]
    path = tmp_path / "layers.json"
    path.write_text(scores.to_json())
    assert read_layers(str(path)) == 1


def test_relative_maps_are_rows_of_their_own_and_can_be_the_best() -> None:
    captions = LayerCaptions()
    for seed in range(40):
        plain = [random_caption(seed), random_caption(seed + 100, name=f"{seed}.png")]
        captions.append(plain, [perfect(seed), random_caption(seed + 200, name=f"{seed}.png")])
    scores = captions.scores()
    assert scores is not None
    assert (scores.best, scores.is_relative_best) == (0, True)
    assert "--layer 0 --relative." in scores.sentence
    rows = [line.split()[:2] for line in scores.table().text().splitlines()[-2:]]
    assert rows == [["0", "relative"], ["1", "relative"]]
    assert scores.to_dict()["relative"] is True


def test_where_no_layer_points_that_is_said() -> None:
    captions = LayerCaptions()
    for seed in range(40):
        captions.append([random_caption(seed), random_caption(seed + 100, name=f"{seed}.png")])
    scores = captions.scores()
    assert scores is not None
    assert "no layer is to be believed" in scores.sentence
    assert LayerCaptions().scores() is None


@pytest.mark.parametrize("content", [None, "[1]", '{"layer": true}', '{"layer": -2}', '{"other": 1}', "not json"])
def test_other_files_are_refused(content: str | None, tmp_path: Path) -> None:
    path = tmp_path / "layers.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UsageError, match="evaluate MODEL DATA --grounding"):
        read_layers(str(path))


def test_a_vision_language_model_is_evaluated(vitrine_command: Command, tmp_path: Path) -> None:
    model, out = tmp_path / "llava", tmp_path / "out"
    save_tiny_vlm("llava", model)
    config = json.loads((model / "config.json").read_text())
    config["text_config"]["max_position_embeddings"] = 64  # answers of random weights hardly ever end
    (model / "config.json").write_text(json.dumps(config))
    scenes = write_scenes(tmp_path / "scenes", "base", {"test": 22}, size=32)
    result = evaluate_captioner(str(model), str(scenes), by_layer=True, out=out)
    assert result.layer_grounding is not None and result.human_grounding is not None
    assert len(result.layer_grounding.layers) == 2
    # The last layer is what is scored without being asked for all of them.
    assert result.layer_grounding.layers[-1].to_dict() == result.human_grounding.to_dict()
    assert len(result.layer_grounding.relative) == 2
    rows = (*result.layer_grounding.layers, *result.layer_grounding.relative)
    best = int(np.argmax([layer.estimates["pointing"]["word"].mean for layer in rows]))
    written = json.loads((out / "layers.json").read_text())
    assert (written["layer"], written["relative"]) == (best % 2, best >= 2)
    assert "Which layer looks at what human captions name?" in result.table()
    picture = next((scenes / "test").rglob("*.png"))
    answer = ("--layer", out / "layers.json", "--max-pieces", 3)
    status, _, err = vitrine_command("ask", model, picture, "What?", "-o", tmp_path / "answer.png", *answer)
    assert status == 0, err


def test_data_without_regions_cannot_choose_a_layer(tmp_path: Path) -> None:
    from support.tiny_vlms import photographs

    save_tiny_vlm("llava", tmp_path / "llava")
    photographs((40, 40))[0].save(tmp_path / "a.png")
    (tmp_path / "captions.csv").write_text("file,caption,split\na.png,a red dog,test\n")
    with pytest.raises(DataError, match="does not say where things are"):
        evaluate_captioner(str(tmp_path / "llava"), str(tmp_path / "captions.csv"), split="test", by_layer=True)
