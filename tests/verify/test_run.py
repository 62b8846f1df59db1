"""``vitrine verify``: an untouched run passes wherever it runs; whatever is changed afterwards is named."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from support.made_runs import run_verb

from vitrine.classify.predict import predict
from vitrine.errors import DataError, RunError, UsageError
from vitrine.runs.folder import RunFolder
from vitrine.verify.checks import PredictionComparison, VerificationResult
from vitrine.verify.run import verify


@pytest.fixture
def data(small_scenes: Path, tmp_path: Path) -> Path:
    """A copy of the pictures, to be changed."""
    for split in ("train", "validation"):
        shutil.copytree(small_scenes / split, tmp_path / "data" / split)
    return tmp_path / "data"


@pytest.fixture(scope="module")
def recorded_run(small_run: Path, small_scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of a run that records its weights' hash and its probabilities."""
    copy = Path(shutil.copytree(small_run, tmp_path_factory.mktemp("recorded") / "run"))
    metrics = json.loads((copy / "metrics.json").read_text())
    metrics["weights_sha256"] = hashlib.sha256((copy / "model.safetensors").read_bytes()).hexdigest()
    (copy / "metrics.json").write_text(json.dumps(metrics))
    predict(str(copy), small_scenes / "validation", copy / "p.csv", probabilities=True, precision="fp32")
    with (copy / "p.csv").open(newline="") as stream:
        rows = list(csv.reader(stream))
    lines = [rows[0], *([f"validation/{name}", *rest] for name, *rest in rows[1:])]
    (copy / "predictions.csv").write_text("".join(",".join(line) + "\n" for line in lines))
    (copy / "p.csv").unlink()
    return copy


@pytest.fixture
def run(recorded_run: Path, data: Path, tmp_path: Path) -> Path:
    """A copy of the run, on ``data``."""
    copy = Path(shutil.copytree(recorded_run, tmp_path / "run"))
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


@pytest.fixture
def threads_put_back() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_an_untouched_run_passes(run: Path, data: Path, threads_put_back: None) -> None:
    """Whatever the batch and the number of threads."""
    environment = json.loads((run / "environment.json").read_text())
    (run / "environment.json").write_text(json.dumps(environment | {"threads": 5}))
    for threads, batch in ((1, 64), (2, 1), (3, 7)):
        torch.set_num_threads(threads)
        result = verify(run, batch_size=batch)
        assert result.same, result.text()
        assert predictions(result).changes == ()
        assert (predictions(result).n_recorded, predictions(result).n_compared) == (24, 24)
        assert (predictions(result).largest_difference or 1.0) < 2e-6, "six decimals were recorded"
        assert f"threads 5 then, {threads} now" in detail(result, "environment")
        assert predictions(result).loss_now == pytest.approx(predictions(result).loss_then, abs=2e-6)
    assert {s for what, s in statuses(result).items() if what != "environment"} == {"same"}


def test_pictures_may_lie_elsewhere(run: Path, data: Path, tmp_path: Path) -> None:
    """They are known by their content: in another place, and as a mere folder of the validation pictures."""
    new_place = data.rename(tmp_path / "moved")
    with pytest.raises(DataError, match="not where they were; say where"):
        verify(run)
    assert verify(run, str(new_place)).same
    result = verify(run, str(new_place / "validation"))
    assert result.same and predictions(result).n_compared == 24
    assert statuses(result)["training pictures"] == "not checked"
    assert "24 lie under other names" in detail(result, "validation pictures")
    assert "Not checked: training pictures." in result.text()


def test_a_changed_picture_is_named(run: Path, data: Path) -> None:
    name = sorted(path.relative_to(data).as_posix() for path in (data / "validation").rglob("*.png"))[3]
    with Image.open(data / name) as image:
        pixel = image.getpixel((0, 0))
        image.putpixel((0, 0), tuple(255 - value for value in pixel))  # type: ignore[union-attr, arg-type]
        image.save(data / name)
    result = verify(run)
    assert not result.same and result.differences == ("validation pictures",)
    (check,) = [check for check in result.checks if check.what == "validation pictures"]
    assert check.detail == "of 24: 1 has another content" and check.examples == (name,)
    assert "Not verified; what differs: validation pictures." in result.text()


def test_missing_new_and_training_pictures(run: Path, data: Path) -> None:
    validation = sorted((data / "validation").rglob("*.png"))
    train = sorted((data / "train").rglob("*.png"))
    Image.new("RGB", (32, 32), "red").save(validation[0].with_name("extra.png"))
    validation[1].unlink()
    train[0].unlink()
    result = verify(run)
    assert result.differences == ("validation pictures", "training pictures")
    assert detail(result, "validation pictures") == "of 24: 1 is missing; 1 is new"
    assert detail(result, "training pictures") == "of 48: 1 is missing"
    assert predictions(result).n_compared == 23
    assert predictions(result).loss_now is None, "a loss of other pictures says nothing beside the recorded one"
    with (run / "predictions.csv").open(newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["filename"] != str(validation[1].relative_to(data))]
    right = sum(row["filename"].split("/")[1] == row["label"] for row in rows)
    assert predictions(result).correct_then == predictions(result).correct_now == right


@pytest.mark.parametrize("has_hash", [True, False])
def test_one_changed_weight(run: Path, has_hash: bool) -> None:
    """Found by the hash, however little it changes; without a recorded hash, that is said."""
    tensors = load_file(run / "model.safetensors")
    tensors["blocks.1.mlp.fc1.weight"][3, 5] += 1e-3
    save_file(tensors, run / "model.safetensors")
    metrics = json.loads((run / "metrics.json").read_text())
    if not has_hash:
        del metrics["weights_sha256"]
        (run / "metrics.json").write_text(json.dumps(metrics))
    result = verify(run)
    assert statuses(result)["weights"] == ("differs" if has_hash else "not checked")
    assert result.same is not has_hash
    assert (predictions(result).largest_difference or 0.0) > 0
    if has_hash:
        assert result.differences == ("weights",) and metrics["weights_sha256"][:12] in detail(result, "weights")


def test_the_largest_difference_of_a_probability(run: Path) -> None:
    """One recorded probability is 0.0128 higher than what the model gives."""
    table = run / "predictions.csv"
    lines = table.read_text().splitlines()
    name, label, probability = lines[7].split(",")
    lines[7] = f"{name},{label},{float(probability) + 0.0128:.6f}"
    table.write_text("\n".join(lines) + "\n")
    result = verify(run)
    assert predictions(result).largest_at == name
    assert predictions(result).largest_difference == pytest.approx(0.0128, abs=2e-6)
    assert f"the largest difference of a probability is 0.013 ({name})" in detail(result, "predictions")


def test_labels_that_move_are_listed(run: Path, tmp_path: Path) -> None:
    """The head's classes in another order: every label moves, and the weights are the reason that is named."""
    tensors = load_file(run / "model.safetensors")
    for name in ("head.weight", "head.bias"):
        tensors[name] = tensors[name].roll(1, 0).contiguous()
    save_file(tensors, run / "model.safetensors")
    result = verify(run)
    labels = RunFolder(run).read_labels()
    assert result.differences == ("weights", "predictions")
    assert len(predictions(result).changes) == 24 and predictions(result).share_changed == 1.0
    assert predictions(result).largest_difference is None
    for each in predictions(result).changes:
        assert labels.index(each.now) == (labels.index(each.then) + 1) % len(labels)
        assert each.true == each.name.split("/")[1]
        assert each.now_score == pytest.approx(each.then_score, abs=2e-6)
    assert "and 14 more" in result.text()
    assert statuses(verify(run, tolerance=1.0))["predictions"] == "same", "all labels may differ"


def test_the_tolerance_is_a_share_of_the_labels(run: Path) -> None:
    """One label of 24 in the record is another one: 4.2 %. Nothing else differs, and that is said."""
    table = run / "predictions.csv"
    lines = table.read_text().splitlines()
    wrong = next(i for i, line in enumerate(lines[1:], 1) if line.split("/")[1] != line.split(",")[1])
    name, label, rest = lines[wrong].split(",")
    other = next(each for each in RunFolder(run).read_labels() if each not in (label, name.split("/")[1]))
    lines[wrong] = ",".join((name, other, rest))  # still wrong, so that the accuracy is the recorded one
    table.write_text("\n".join(lines) + "\n")
    result = verify(run)
    assert result.differences == ("predictions",)
    assert "nothing else differs, so that versions, hardware or precision moved them" in detail(result, "predictions")
    assert [each.name for each in predictions(result).changes] == [name]
    assert verify(run, tolerance=0.05).same and not verify(run, tolerance=0.04).same


def test_a_renamed_class(run: Path, data: Path) -> None:
    """In the run, and in the data."""
    first, *others = RunFolder(run).read_labels()
    (run / "labels.txt").write_text("\n".join(["renamed", *others]) + "\n")
    result = verify(run)
    assert "class names" in result.differences
    assert detail(result, "class names") == f"labels.txt was changed: '{first}' gone; 'renamed' new"
    (run / "labels.txt").write_text("\n".join([first, *others]) + "\n")
    assert verify(run).same
    for split in ("train", "validation"):
        (data / split / first).rename(data / split / "renamed")
    result = verify(run)
    assert result.differences == ("class names", "validation pictures", "training pictures")
    assert detail(result, "class names") == f"the data have other classes: '{first}' gone; 'renamed' new"
    count = len(list((data / "validation" / "renamed").iterdir()))
    assert f"{count} of class {first} are now of class renamed" in detail(result, "validation pictures")
    assert predictions(result).changes == (), "the pictures are the same, and what is said of them"


def test_versions_are_noted(run: Path) -> None:
    content = json.loads((run / "environment.json").read_text())
    content["packages"]["timm"] = "0.0.1"
    (run / "environment.json").write_text(json.dumps(content))
    result = verify(run, precision="bf16")
    assert "timm 0.0.1 then, " in detail(result, "environment")
    assert "precision fp32 then, bf16 now" in detail(result, "environment")
    assert statuses(result)["environment"] == "noted" and "environment" not in result.differences


def test_a_record_that_contradicts_itself(run: Path) -> None:
    metrics = json.loads((run / "metrics.json").read_text())
    metrics["accuracy"] += 0.1
    (run / "metrics.json").write_text(json.dumps(metrics))
    result = verify(run)
    assert not result.same and "one of them was changed" in detail(result, "predictions") and result.predictions is None


def test_damaged_weights(run: Path) -> None:
    path = run / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    result = verify(run)
    assert result.differences == ("weights", "predictions") and result.predictions is None
    assert len(result.text().splitlines()) < 30


def test_what_cannot_be_verified(run: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="not a run"):
        verify(tmp_path)
    with pytest.raises(UsageError, match="--precision fp16"):
        verify(run, precision="fp16")
    (run / "metrics.json").rename(tmp_path / "metrics.json")
    with pytest.raises(RunError, match="has not ended"):
        verify(run)
    (tmp_path / "metrics.json").rename(run / "metrics.json")
    (run / "config.json").write_text('{"architecture": "vitrine-captioner"}')
    with pytest.raises(RunError, match="does not list validation pictures with captions"):
        verify(run)


def test_json_has_everything(run: Path) -> None:
    content = json.loads(json.dumps(verify(run).to_dict()))
    assert content["verified"] is True and content["differs"] == []
    assert content["predictions"]["compared"] == 24 and content["predictions"]["moved_labels"] == 0
    assert {check["what"] for check in content["checks"]} >= {"weights", "validation pictures", "environment"}


def test_the_verb_exits_1_where_something_differs(run: Path, data: Path, tmp_path: Path) -> None:
    from vitrine.cli.compare import verify as verb

    status, out = run_verb(verb, run)
    assert status == 0 and out.rstrip().endswith("Verified: this run still says what it was recorded to say.")
    next((data / "validation").rglob("*.png")).unlink()
    status, out = run_verb(verb, run, data, "--batch-size", 5, "--json")
    assert status == 1 and json.loads(out)["differs"] == ["validation pictures"]
