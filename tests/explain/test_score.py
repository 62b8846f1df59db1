"""``vitrine explain --score``: methods and controls ranked on data with and without masks."""

from __future__ import annotations

import csv
import json
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vitrine.attribution.baselines import centre_blob
from vitrine.attribution.gradcam import gradcam_map
from vitrine.attribution.methods import Method
from vitrine.attribution.weight_randomization import randomised_copies
from vitrine.classify.model import open_classifier
from vitrine.data.scenes import write_scenes
from vitrine.errors import DataError, ModelError
from vitrine.explain.score import ScoreSettings, _blank_notes, open_samples, score_methods, write_scores
from vitrine.plotting.provenance import read_provenance

QUICK = ScoreSettings(methods=("attention", "rollout", "gradcam"), limit=30, curves=8)


def score(model: str | Path, data: str | Path, settings: ScoreSettings = QUICK, **how: object):
    return score_methods(open_classifier(str(model)), str(model), str(data), settings, **how)


@pytest.fixture(scope="module")
def base_scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures that vitrine/scenes-tiny knows, with masks."""
    return write_scenes(tmp_path_factory.mktemp("data") / "base", "base", {"train": 40, "test": 60}, seed=5)


def test_a_trained_model_points_at_objects_and_a_shuffled_one_does_not(base_scenes: Path, tmp_path: Path) -> None:
    settings = ScoreSettings(methods=("attention",), limit=60, curves=5)
    result = score("vitrine/scenes-tiny", base_scenes, settings)
    rows = {row.name: row for row in result.ranking.rows}
    best = result.ranking.rows[0]
    assert not best.is_control
    assert best.estimates["pointing"].mean > rows["random"].estimates["pointing"].mean + 0.3
    assert best.estimates["pointing"].mean > rows[f"{best.name}, shuffled"].estimates["pointing"].mean + 0.2
    assert best.estimates["pointing"].n == 60
    assert best.estimates["gap"].n == 5
    assert result.masked == 60
    assert set(result.verdicts) == {row.name for row in result.ranking.rows if not row.is_control}
    verdict = result.verdicts[best.name]
    assert (verdict.flag, verdict.is_about_the_class) == ("believable", False)
    stages = [each.name for each in verdict.evidence.stages]
    assert stages == ["head", *(f"block {number}" for number in range(5, -1, -1)), "embedding"]
    assert verdict.evidence.stages[0].correlation.mean == pytest.approx(1)  # attention never sees the head
    assert verdict.evidence.stages[0].correlation.n == 20
    accuracy = verdict.evidence.accuracy
    assert (accuracy.pictures, accuracy.right > 50) == (60, True)
    assert verdict.evidence.right.n == accuracy.right
    assert verdict.methods == len(result.verdicts) == 1
    assert "rank correlation with the intact model's maps" in result.text()
    write_scores(result, tmp_path)
    assert json.loads((tmp_path / "methods.json").read_text())["ranked_by"] == "pointing"
    lines = list(csv.DictReader((tmp_path / "methods.csv").open()))
    assert [line["method"] for line in lines] == [row.name for row in result.ranking.rows]
    command = shlex.split(read_provenance(tmp_path / "methods.png")["vitrine:command"])
    assert command[:4] == ["vitrine", "explain", "vitrine/scenes-tiny", "--score"]
    assert command[command.index("--curves") + 1] == "5"


def test_the_centre_blobs_hits_are_counted_as_by_hand(small_run: Path, small_scenes: Path) -> None:
    settings = ScoreSettings(methods=("attention",), limit=12, curves=0)
    blob_row = {row.name: row for row in score(small_run, small_scenes, settings).ranking.rows}["centre blob"]
    strongest = np.argwhere(centre_blob(4, 4) == centre_blob(4, 4).max())
    hits = []
    for sample in open_samples(str(small_scenes), None, 12, 0).samples:
        mask = np.asarray(Image.open(small_scenes / "masks" / sample.name)) == 1
        centres = mask[4::8, 4::8]
        if centres.any() and not centres.all():  # else no map could miss, or none hit
            hits.append(np.mean([centres[row, column] for row, column in strongest]))
    assert blob_row.estimates["pointing"].n == len(hits) > 6
    assert blob_row.estimates["pointing"].mean == pytest.approx(np.mean(hits))


def test_without_masks_curves_decide(small_run: Path, tmp_path: Path) -> None:
    for index in range(24):
        pixels = np.random.default_rng(index).integers(0, 255, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{index}.png")
    result = score(small_run, tmp_path, replace(QUICK, curves=24))
    assert result.masks is None
    assert result.ranking.by.key == "gap"
    assert "read as a folder of pictures without labels" in result.notes[0]
    assert "There are no masks." in result.text()
    for verdict in result.verdicts.values():
        assert verdict.evidence.metric == "gap" and verdict.evidence.mean.n == 24
        assert verdict.evidence.accuracy is None
        assert verdict.flag != "believable"
        assert "no labels that say whether the model knows them" in verdict.sentence or verdict.flag == "doubtful"


def test_maps_of_a_model_with_a_shuffled_head_are_not_believed(base_scenes: Path) -> None:
    """Its attention is as good as ever; it is the model that does not know what it sees."""
    classifier = open_classifier("vitrine/scenes-tiny")
    _, shuffled_module = next(randomised_copies(classifier.module, seed=3))
    settings = ScoreSettings(methods=("attention",), limit=40, curves=0)
    result = score_methods(replace(classifier, module=shuffled_module), "broken", str(base_scenes), settings)
    verdict = result.verdicts["attention"]
    assert (verdict.flag, verdict.beats_controls) == ("doubtful", True)
    assert "Do not rely on these maps: the model does not know these pictures." in verdict.sentence
    assert "gap" not in result.ranking.rows[0].estimates  # no column that nothing was measured for


def test_few_pictures_are_too_few(base_scenes: Path) -> None:
    """On two pictures it was said that maps can be believed."""
    result = score("vitrine/scenes-tiny", base_scenes, ScoreSettings(methods=("attention",), limit=12, curves=4))
    verdict = result.verdicts["attention"]
    assert verdict.flag == "cannot tell"
    assert "4 pictures are too few to compare them with controls" in verdict.sentence
    assert {row.standing for row in result.ranking.rows} == {"best", "unknown"}
    assert "pointing hit, n = 12" in result.text() and "insertion − deletion, n = 4" in result.text()


def test_gradcam_names_its_layer_and_counts_maps_that_are_zero(
    small_run: Path, small_scenes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def zero_the_first(tokens_BND, gradient_BND, layout, name: str):
        made = gradcam_map(tokens_BND, gradient_BND, layout, name)
        if name.endswith(".norm1"):
            made.scores_BRC[0] = 0
        return made

    monkeypatch.setattr("vitrine.attribution.shared_passes.gradcam_map", zero_the_first)
    result = score(small_run, small_scenes, ScoreSettings(methods=("gradcam",), layers=True, limit=20, curves=0))
    last = len(open_classifier(str(small_run)).module.blocks) - 1
    names = sorted(row.name for row in result.ranking.rows if not row.is_control and row.name.startswith("gradcam"))
    assert names == [*(f"gradcam, blocks[{number}]" for number in range(last)), f"gradcam, blocks[{last}].norm1"]
    assert result.verdicts[names[-1]].evidence.blank == 2  # the first of each batch of 16
    one = _blank_notes({"gradcam": np.stack([np.zeros((2, 2)), np.ones((2, 2))])}, {"gradcam": Method("gradcam")})
    assert list(one) == ["gradcam: 1 of 2 maps is zero everywhere; it hits by chance."]
    zero = f"{names[-1]}: 2 of 20 maps are zero everywhere; they hit by chance."
    assert zero in result.notes and zero in result.text()


def test_the_same_scoring_twice_gives_the_same_numbers(small_run: Path, small_scenes: Path) -> None:
    def stable(result) -> str:
        content = result.to_dict()
        for row in content["methods"]:
            row.pop("seconds_a_picture")
            assert row["control"] or row.pop("bytes_a_picture") > 0
        return json.dumps(content)

    assert stable(score(small_run, small_scenes)) == stable(score(small_run, small_scenes))


def test_progress_ends_at_its_total(small_run: Path, small_scenes: Path) -> None:
    reports: list[tuple[int, int, str]] = []
    score(small_run, small_scenes, ScoreSettings(("attention",), limit=5), progress=lambda *at: reports.append(at))
    # Attention is made and scored, twice with the shuffled copy, and made at three stages before; three controls.
    assert reports[-1][:2] == (5 * (4 + 3 + 3), 50)
    assert [done for done, _, _ in reports] == sorted(done for done, _, _ in reports)
    assert {steps for _, steps, _ in reports} == {50}
    assert {"attention", "attention, shuffled", "centre blob"} <= {name for _, _, name in reports}


def test_what_cannot_be_scored_is_said(small_run: Path, small_scenes: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no method 'magic'"):
        score(small_run, small_scenes, ScoreSettings(("magic",)))
    with pytest.raises(DataError, match="has no nights split; it has: train, validation, test"):
        score(small_run, small_scenes, ScoreSettings(split="nights"))
    with pytest.raises(DataError):
        score(small_run, tmp_path)
    (tmp_path / "a.png").write_bytes(b"no")
    with pytest.raises(DataError, match=r"None of the 1 picture can be read, for example a\.png"):
        score(small_run, tmp_path)


def test_more_pictures_than_the_limit_are_drawn_with_the_seed(small_scenes: Path) -> None:
    opened = open_samples(str(small_scenes), "test", 20, 3)
    one, notes = opened.samples, opened.notes
    assert one == open_samples(str(small_scenes), "test", 20, 3).samples
    assert one != open_samples(str(small_scenes), "test", 20, 4).samples
    assert len(one) == 20
    assert [sample.name for sample in one] == sorted(sample.name for sample in one)
    assert "20 of 200 pictures were drawn (seed 3)." in notes
