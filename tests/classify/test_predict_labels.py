"""Models of transformers whose classes share names, that give several labels, or whose outputs are numbers."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from support.format_makers import transformers_folder, transformers_model
from support.models import MICRO

import vitrine
from vitrine.api.model import Model
from vitrine.classify.evaluate import evaluate
from vitrine.classify.model import open_classifier
from vitrine.classify.predict import predict
from vitrine.data.samples import Dataset
from vitrine.errors import DataError, ModelError, UsageError, VitrineError
from vitrine.models.load import load_model

Command = Callable[..., tuple[int, str, str]]
BIRDS = ("owl", "crane", "ox", "crane", "maillot", "maillot")


def write_model(folder: Path, labels: tuple[str, ...], bias: list[float], **config: Any) -> Path:
    """A ViT of transformers with these labels, whose answer is mostly its bias."""
    names = {"id2label": dict(enumerate(labels)), "label2id": {label: i for i, label in enumerate(labels)}}
    folder.mkdir()
    transformers_folder("ViTForImageClassification", **names | config)(folder)
    theirs = transformers_model("ViTForImageClassification", **names | config)
    with torch.no_grad():
        theirs.classifier.weight.mul_(0.2)
        theirs.classifier.bias.copy_(torch.tensor(bias))
    theirs.save_pretrained(folder)
    saved = json.loads((folder / "config.json").read_text())
    saved["id2label"] = {str(number): label for number, label in enumerate(labels)}
    (folder / "config.json").write_text(json.dumps(saved))
    return folder


@pytest.fixture(scope="module")
def birds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("birds") / "model", BIRDS, [0, 6.0, 1, 0, 2, 0])


@pytest.fixture(scope="module")
def tags(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A multi-label model: about 0.95, 0.5 and 0.02 for dog, ball and sea."""
    folder = tmp_path_factory.mktemp("tags") / "model"
    return write_model(folder, ("dog", "ball", "sea"), [3.0, 0, -4], problem_type="multi_label_classification")


@pytest.fixture(scope="module")
def pictures(small_scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for number, path in enumerate(sorted((small_scenes / "test").rglob("*.png"))[:9]):
        shutil.copyfile(path, folder / f"{number}.png")
    (folder / "4 broken.png").write_bytes(b"no picture")
    return folder


def theirs(folder: Path, model: Model, picture: Path) -> list[float]:
    """Logits by transformers itself, on the pixels that the model gets."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed (vitrine[hf])")
    from vitrine.attribution.methods import Method
    from vitrine.classify.inference import eval_batches
    from vitrine.data.image_folder import one_picture
    from vitrine.explain.explainer import Explainer

    batch = next(eval_batches([one_picture(picture, "a test")], model.classifier.spec, batch_size=1))
    pixels = Explainer(model.classifier, Method()).pixels(batch.pixels_BCHW)
    with torch.no_grad():
        logits = transformers.AutoModelForImageClassification.from_pretrained(folder).eval()(pixels).logits[0]
    numbers: list[float] = logits.tolist()
    return numbers


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_two_classes_of_one_name_are_two_classes(birds: Path, pictures: Path, tmp_path: Path) -> None:
    model = vitrine.load(birds, precision="fp32")
    assert isinstance(model, Model)
    assert model.labels == ("owl", "crane [1]", "ox", "crane [3]", "maillot [4]", "maillot [5]")
    assert any("crane [1], crane [3]; maillot [4], maillot [5]" in note for note in model.notes)
    prediction = model.predict(pictures / "0.png")
    expected = torch.tensor(theirs(birds, model, pictures / "0.png")).softmax(0)
    assert prediction.index == int(expected.argmax()) == 1 and expected[1] > 0.9
    assert prediction.label == "crane [1]" and prediction.probability == pytest.approx(float(expected[1]), abs=1e-4)
    assert list(prediction.probabilities.values()) == pytest.approx(expected.tolist(), abs=1e-4)
    assert len(prediction.top(6)) == 6 and prediction.labels == ("crane [1]",)
    predict(str(birds), pictures, tmp_path / "p.csv", probabilities=True, top=6)
    first = rows(tmp_path / "p.csv")[0]
    assert first["label"] == "crane [1]" and float(first["probability"]) == pytest.approx(float(expected[1]), abs=1e-4)
    assert len({first[f"top{rank}_label"] for rank in range(1, 7)}) == 6


@pytest.mark.parametrize(("target", "number"), [("crane [3]", 3), ("5", 5), (4, 4)])
def test_every_class_can_be_the_target(birds: Path, pictures: Path, target: str | int, number: int) -> None:
    model = vitrine.load(birds, precision="fp32")
    assert isinstance(model, Model)
    seen = model.explain(pictures / "0.png", method="relevance", target=target)
    assert seen.target == model.labels[number]
    from vitrine.attribution.relevance import relevance

    own = relevance(model.classifier.module, seen.pixels_CHW[None], torch.tensor([number])).scores_BRC[0]
    torch.testing.assert_close(torch.from_numpy(seen.map), own)


def test_a_name_that_several_classes_have_is_asked_about(
    birds: Path, pictures: Path, small_scenes: Path, tmp_path: Path, vitrine_command: Command
) -> None:
    options = ("--method", "relevance", "-o", tmp_path / "maps")
    status, _, error = vitrine_command("explain", birds, pictures / "0.png", "--target", "crane", *options)
    assert status == 2 and "2 classes called 'crane'. Give one of: crane [1], crane [3]" in error
    status, _, _ = vitrine_command("explain", birds, pictures / "0.png", "--target", "crane [3]", *options)
    assert status == 0
    assert rows(tmp_path / "maps" / "maps.csv")[0]["target"] == "crane [3]"
    for label in ("crane", "owl"):
        (tmp_path / "data" / "test" / label).mkdir(parents=True)
        for number, path in enumerate(sorted((small_scenes / "test").rglob("*.png"))[:3]):
            shutil.copyfile(path, tmp_path / "data" / "test" / label / f"{number}{label}.png")
    with pytest.raises(DataError, match=r"has a class 'crane', and the model has 2 of that name: crane \[1\]"):
        evaluate(str(birds), str(tmp_path / "data"))
    (tmp_path / "data" / "test" / "crane").rename(tmp_path / "data" / "test" / "crane [1]")
    result = evaluate(str(birds), str(tmp_path / "data"), out=tmp_path / "measured")
    assert result.metrics.accuracy == 0.5, "every picture is called crane [1]"
    assert [entry.label for entry in result.metrics.classes if entry.support] == ["owl", "crane [1]"]


def test_data_with_two_classes_of_one_name_are_refused() -> None:
    with pytest.raises(DataError, match="several classes of one name: 'crane'"):
        Dataset("photos", "shards", ("crane", "owl", "crane"), {})


def test_labels_of_a_multi_label_model_have_probabilities_of_their_own(tags: Path, pictures: Path) -> None:
    model = vitrine.load(tags, precision="fp32")
    assert isinstance(model, Model)
    logits = torch.tensor(theirs(tags, model, pictures / "0.png"))
    prediction = model.predict(pictures / "0.png")
    assert list(prediction.probabilities.values()) == pytest.approx(logits.sigmoid().tolist(), abs=1e-4)
    assert abs(sum(prediction.probabilities.values()) - 1) > 0.2, "they are no softmax"
    for threshold in (0.0, 0.3, 0.5, 0.99):
        above = {label for label, p in zip(model.labels, logits.sigmoid().tolist(), strict=True) if p > threshold}
        assert set(model.predict(pictures / "0.png", threshold=threshold).labels) == above
    assert "no label above 0.999" in repr(model.predict(pictures / "0.png", threshold=0.999))
    assert any("multi-label" in note for note in model.notes)
    with pytest.raises(UsageError, match="from 0 to 1"):
        model.predict(pictures / "0.png", threshold=2)


@pytest.mark.parametrize("threshold", [None, 0.0, 0.9, 0.999])
def test_a_row_for_every_label_above_the_threshold(
    tags: Path, pictures: Path, tmp_path: Path, threshold: float | None, vitrine_command: Command
) -> None:
    options = [] if threshold is None else ["--threshold", threshold]
    command = ("predict", tags, pictures, "-o", tmp_path / "p.csv", "--probabilities", "--precision", "fp32")
    status, _, error = vitrine_command(*command, *options)
    table = rows(tmp_path / "p.csv")
    assert status == 0 and f"{len(table)} rows, one a label," in error
    model = vitrine.load(tags, precision="fp32")
    assert isinstance(model, Model)
    for number in range(9):
        own_rows = [row for row in table if row["filename"] == f"{number}.png"]
        prediction = model.predict(pictures / f"{number}.png", threshold=threshold)
        assert tuple(row["label"] for row in own_rows) == (prediction.labels or ("",))
        for row in own_rows:
            if row["label"]:
                assert float(row["probability"]) == pytest.approx(prediction.probabilities[row["label"]], abs=2e-4)
            else:
                assert row["probability"] == ""


@pytest.mark.parametrize("cut", [0.3, 1.0])
def test_a_multi_label_table_that_was_cut_off_is_continued_to_the_same_bytes(
    tags: Path, pictures: Path, tmp_path: Path, cut: float
) -> None:
    options: dict[str, Any] = {"threshold": 0.0, "batch_size": 2, "probabilities": True}
    predict(str(tags), pictures, tmp_path / "whole.csv", **options)
    whole = (tmp_path / "whole.csv").read_bytes()

    class StoppedError(Exception):
        pass

    def stop(count: int, _: int) -> None:
        if count >= 8:
            raise StoppedError

    with pytest.raises(StoppedError):
        predict(str(tags), pictures, tmp_path / "cut.csv", progress=stop, **options)
    partial = tmp_path / "cut.csv.partial"
    content = partial.read_bytes()
    assert whole.startswith(content) and json.loads((tmp_path / "cut.csv.partial.json").read_text())["threshold"] == "0"
    partial.write_bytes(content[: round(cut * len(content))])  # in the middle of a row, or of a picture's rows
    with pytest.raises(VitrineError, match=r"threshold was 0, now 0\.5"):
        predict(str(tags), pictures, tmp_path / "cut.csv", resume=True, batch_size=2, probabilities=True)
    result = predict(str(tags), pictures, tmp_path / "cut.csv", resume=True, **options)
    assert (tmp_path / "cut.csv").read_bytes() == whole
    assert result.table.rows == 27 and len(result.table.unreadable) == 1


def test_a_threshold_is_refused_for_one_label_and_classes_have_to_be_known(
    tags: Path, birds: Path, small_scenes: Path, pictures: Path, tmp_path: Path, vitrine_command: Command
) -> None:
    status, _, error = vitrine_command("evaluate", tags, small_scenes)
    assert status == 2 and "has classes that the model does not know" in error
    status, _, error = vitrine_command("predict", birds, pictures, "-o", tmp_path / "p.csv", "--threshold", "0.4")
    assert status == 2 and "A threshold is for multi-label models" in error


@pytest.mark.parametrize("method", ["attention", "relevance", "occlusion"])
def test_maps_of_a_multi_label_model(tags: Path, pictures: Path, method: str) -> None:
    model = vitrine.load(tags, precision="fp32")
    assert isinstance(model, Model)
    seen = model.explain(pictures / "0.png", method=method, target=None if method == "attention" else "sea")
    assert seen.prediction.label == "dog" and seen.prediction.threshold == 0.5
    assert seen.picture.probability == pytest.approx(seen.prediction.probabilities["dog"])
    if method == "occlusion":  # by hand: the first patch's loss of the sigmoid, not of a softmax
        pixels, module, (index,) = seen.pixels_CHW[None], model.classifier.module, [2]
        covered = pixels.clone()
        covered[..., :8, :8] = 0
        with torch.no_grad():
            lost = module(pixels).sigmoid()[0, index] - module(covered).sigmoid()[0, index]
        assert float(seen.map[0, 0]) == pytest.approx(float(lost), abs=1e-5)


REGRESSIONS = {
    "by name": (("a", "b"), [0, 1.0], {"problem_type": "regression"}),
    "one output": (("LABEL_0",), [0.3], {}),
    "one output, by name": (("LABEL_0",), [0.3], {"problem_type": "regression"}),
}


@pytest.mark.parametrize("kind", REGRESSIONS)
def test_a_regression_is_refused_by_name(kind: str, tmp_path: Path, vitrine_command: Command, pictures: Path) -> None:
    labels, bias, config = REGRESSIONS[kind]
    folder = write_model(tmp_path / "model", labels, bias, **config)  # type: ignore[arg-type]
    with pytest.raises(ModelError, match=r"is a regression by its config\.json \(problem_type, or one") as error:
        open_classifier(str(folder))
    assert len(str(error.value).splitlines()) == 2
    status, _, message = vitrine_command("predict", folder, pictures, "-o", tmp_path / "p.csv")
    assert status == 2 and "regression" in message and not (tmp_path / "p.csv").exists()
    assert open_classifier(str(folder), features=True).labels == ()
    assert load_model(str(folder), pretrained=True, num_classes=3).module.num_classes == 3, "training can begin from it"


def test_a_choice_of_one_class_is_refused(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", ("LABEL_0",), [0.3])
    config = json.loads((folder / "config.json").read_text()) | {"problem_type": "single_label_classification"}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="has one class, which every picture would get with 100 %"):
        open_classifier(str(folder))


def test_weights_that_are_put_into_a_named_model_are_what_their_configuration_says(tags: Path, tmp_path: Path) -> None:
    args = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 3, "mlp_ratio": 2}
    timm.models.save_for_hf(
        timm.create_model("vit_tiny_patch16_224", **args, num_classes=3),
        str(tmp_path),
        model_config={"model_args": args | {"num_classes": 3}},
        safe_serialization=True,
    )
    named = open_classifier(str(tags / "model.safetensors"), "fp32", str(tmp_path))
    assert named.is_multi_label and named.loaded_model.reference.problem_type is None


def test_one_label_of_a_multi_label_model_is_a_label(tmp_path: Path, pictures: Path) -> None:
    folder = write_model(tmp_path / "model", ("defect",), [1.0], problem_type="multi_label_classification")
    model = vitrine.load(folder, precision="fp32")
    assert isinstance(model, Model)
    assert 0.5 < model.predict(pictures / "0.png").probability < 0.95


@pytest.mark.parametrize("value", ["ranking", 3])
def test_an_unknown_problem_type_is_refused(tmp_path: Path, birds: Path, value: object) -> None:
    shutil.copytree(birds, tmp_path / "model")
    config = json.loads((birds / "config.json").read_text())
    (tmp_path / "model" / "config.json").write_text(json.dumps(config | {"problem_type": value}))
    with pytest.raises(ModelError, match=f"problem_type = {value!r} is not known; known: single_label"):
        open_classifier(str(tmp_path / "model"))


def test_a_model_without_pooling_is_refused(tmp_path: Path) -> None:
    args = {**MICRO, "num_classes": 3, "global_pool": ""}
    module = timm.create_model("vit_tiny_patch16_224", **args)
    timm.models.save_for_hf(module, str(tmp_path), model_config={"model_args": args}, safe_serialization=True)
    with pytest.raises(ModelError, match=r"built without pooling \(global_pool = ''\)"):
        open_classifier(str(tmp_path))
