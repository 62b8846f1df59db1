"""``vitrine verify`` of captioners: an untouched run passes; whatever is changed afterwards is named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from support.made_runs import run_verb

from vitrine.caption.evaluate import evaluate_captioner
from vitrine.cli.compare import verify as verb
from vitrine.config import CaptionSpec, Recipe
from vitrine.data.scenes import write_scenes
from vitrine.errors import DataError
from vitrine.train.run import train
from vitrine.verify.checks import PredictionComparison, VerificationResult
from vitrine.verify.run import verify

RECIPE = Recipe(
    name="micro",
    model="vit_tiny_patch16_224",
    model_args={"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 2},
    pretrained=False,
    image_size=32,
    caption=CaptionSpec(
        vocabulary_size=100, width=32, heads=2, encoder_layers=1, decoder_layers=1, feed_forward=64, longest=20
    ),
    batch_size=16,
    epochs=3,
    learning_rate=3e-3,
    clip_norm=0.1,
    workers=0,
    precision="fp32",
)


@pytest.fixture(scope="module")
def captioner_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(run, data)."""
    folder = tmp_path_factory.mktemp("captioner")
    data = write_scenes(folder / "data", "base", {"train": 60, "validation": 15}, size=32)
    return train(str(data), RECIPE, folder / "run").run, data


@pytest.fixture
def data(captioner_run: tuple[Path, Path], tmp_path: Path) -> Path:
    """A copy of the pictures, to be changed."""
    return Path(shutil.copytree(captioner_run[1], tmp_path / "data"))


@pytest.fixture
def run(captioner_run: tuple[Path, Path], data: Path, tmp_path: Path) -> Path:
    """A copy of the run, on ``data``."""
    copy = Path(shutil.copytree(captioner_run[0], tmp_path / "run"))
    content = json.loads((copy / "data.json").read_text())
    (copy / "data.json").write_text(json.dumps(content | {"reference": str(data)}))
    return copy


def statuses(result: VerificationResult) -> dict[str, str]:
    return {check.what: check.status for check in result.checks}


def predictions(result: VerificationResult) -> PredictionComparison:
    assert result.predictions is not None
    return result.predictions


def detail(result: VerificationResult, what: str) -> str:
    return next(check.detail for check in result.checks if check.what == what)


@pytest.mark.parametrize("batch", [64, 1, 4])
def test_an_untouched_run_passes(run: Path, batch: int) -> None:
    result = verify(run, batch_size=batch)
    assert result.same, result.text()
    predictions = result.predictions
    assert predictions is not None
    assert (predictions.n_recorded, predictions.n_compared, predictions.changes) == (15, 15, ())
    assert predictions.largest_difference is not None and predictions.largest_difference < 1e-4
    metrics = json.loads((run / "metrics.json").read_text())
    assert predictions.token_accuracy_now == pytest.approx(metrics["piece_accuracy"], abs=1e-6)
    assert predictions.loss_now == pytest.approx(metrics["negative_log_likelihood"], abs=1e-5)
    assert predictions.correct_then == predictions.correct_now == metrics["captions"]["predicted"]["exact"]["n"]
    assert statuses(result) | {"environment": "same"} == dict.fromkeys(
        ("weights", "vocabulary", "validation pictures", "training pictures", "captions", "word pieces", "environment"),
        "same",
    )
    assert "all 15 have the recorded content and captions" in result.text()


def test_it_says_what_an_evaluation_says(run: Path, data: Path) -> None:
    """The captions made again are those of vitrine evaluate."""
    evaluate_captioner(str(run), str(data), split="validation", out=run / "again")
    lines = (run / "captions.csv").read_text().splitlines()
    again = (run / "again" / "captions.csv").read_text().splitlines()
    assert [line.rpartition(",")[0] for line in lines] == [line.rpartition(",")[0] for line in again]


def test_a_changed_picture_is_named(run: Path, data: Path) -> None:
    name = json.loads((run / "data.json").read_text())["splits"]["validation"][3]["name"]
    with Image.open(data / name) as image:
        image.putpixel((0, 0), (1, 2, 3))
        image.save(data / name)
    result = verify(run)
    assert not result.same and result.differences == ("validation pictures",)
    (check,) = [check for check in result.checks if check.what == "validation pictures"]
    assert check.detail == "of 15: 1 has another content" and check.examples == (name,)


def test_other_human_captions_are_named(run: Path, data: Path) -> None:
    """Those of a picture that the data say now, and those of the record."""
    content = json.loads((run / "data.json").read_text())
    row = content["splits"]["validation"][0]
    row["captions"][0] = "something that nobody said"
    (run / "data.json").write_text(json.dumps(content))
    result = verify(run)
    assert "validation pictures" in result.differences
    assert "1 has other human captions" in detail(result, "validation pictures")


def test_missing_pictures(run: Path, data: Path) -> None:
    name = json.loads((run / "data.json").read_text())["splits"]["validation"][0]["name"]
    content = json.loads((run / "data.json").read_text())
    (data / name).unlink()
    result = verify(run)
    assert result.differences == ("validation pictures",) and "1 is missing" in detail(result, "validation pictures")
    assert statuses(result)["word pieces"] == "not checked", (
        "a share of other pieces says nothing beside the recorded one"
    )
    assert predictions(result).n_compared == 14
    assert len(content["splits"]["validation"]) == 15


def test_one_changed_weight(run: Path) -> None:
    """Found by the hash, however little it changes."""
    tensors = load_file(run / "model.safetensors")
    name = next(name for name, value in tensors.items() if value.ndim == 2 and "backbone" not in name)
    tensors[name][0, 0] += 1e-6
    save_file(tensors, run / "model.safetensors")
    result = verify(run)
    assert result.differences == ("weights",) and statuses(result)["captions"] == "same"


def test_a_captioner_that_says_otherwise(run: Path) -> None:
    """Its last layer moved: captions and word pieces differ, and the weights are the reason that is named."""
    tensors = load_file(run / "model.safetensors")
    name = next(name for name, value in reversed(tensors.items()) if value.ndim == 1 and len(value) > 60)
    tensors[name] += 3 * torch.randn(len(tensors[name]), generator=torch.Generator().manual_seed(0))
    save_file(tensors, run / "model.safetensors")
    result = verify(run)
    assert result.differences == ("weights", "captions", "word pieces")
    assert "nothing else differs" not in detail(result, "captions")
    recorded_captions = dict(line.split(",")[:2] for line in (run / "captions.csv").read_text().splitlines()[1:])
    for each in predictions(result).changes:
        assert each.then == recorded_captions[each.name] != each.now and each.now_score < 0
    assert predictions(result).changes[0].now in result.text()
    assert statuses(verify(run, tolerance=1.0))["captions"] == "same", "all captions may differ"


def test_a_changed_record(run: Path) -> None:
    """One caption of the table is another one: nothing else differs, and that is said."""
    table = run / "captions.csv"
    lines = table.read_text().splitlines()
    name, _, likely = lines[1].split(",")
    lines[1] = f"{name},nobody said this,{likely}"
    table.write_text("\n".join(lines) + "\n")
    result = verify(run)
    assert result.differences == ("captions",)
    assert detail(result, "captions").startswith("1 of 15 captions differ (allowed: 0.5 %)")
    assert "nothing else differs, so that versions, hardware or precision moved them" in detail(result, "captions")
    assert verify(run, tolerance=0.07).same and not verify(run, tolerance=0.06).same


def test_other_word_pieces(run: Path) -> None:
    words = run / "tokenizer.json"
    words.write_text(words.read_text() + " ")
    result = verify(run)
    assert result.differences == ("vocabulary",)
    metrics = json.loads((run / "metrics.json").read_text())
    del metrics["vocabulary_sha256"]
    (run / "metrics.json").write_text(json.dumps(metrics))
    assert statuses(verify(run))["vocabulary"] == "not checked", "an older run recorded none"


def test_a_record_that_contradicts_itself(run: Path) -> None:
    metrics = json.loads((run / "metrics.json").read_text())
    metrics["captions"]["predicted"]["exact"]["n"] += 1
    (run / "metrics.json").write_text(json.dumps(metrics))
    result = verify(run)
    assert result.differences == ("captions",) and result.predictions is None
    assert "one of them was changed" in detail(result, "captions")


def test_damaged_weights_and_data_elsewhere(run: Path, data: Path, tmp_path: Path) -> None:
    new_place = data.rename(tmp_path / "moved")
    with pytest.raises(DataError, match="not where they were; say where"):
        verify(run)
    assert verify(run, str(new_place)).same
    path = run / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    result = verify(run, str(new_place))
    assert result.differences == ("weights", "captions") and result.predictions is None


def test_json_has_everything(run: Path) -> None:
    content = json.loads(json.dumps(verify(run).to_dict()))
    assert content["verified"] is True and content["differs"] == []
    assert content["predictions"]["moved_captions"] == 0 and content["predictions"]["compared"] == 15
    assert content["predictions"]["piece_accuracy"]["now"] > 0


def test_the_verb_exits_1_where_something_differs(run: Path, data: Path) -> None:
    status, out = run_verb(verb, run)
    assert status == 0 and out.rstrip().endswith("Verified: this run still says what it was recorded to say.")
    name = json.loads((run / "data.json").read_text())["splits"]["train"][0]["name"]
    (data / name).unlink()
    status, out = run_verb(verb, run, data, "--batch-size", 5, "--json")
    assert status == 1 and json.loads(out)["differs"] == ["training pictures"]
