"""Nearest neighbours in frozen features: the vote against loops, and the verb against timm alone."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from support.models import MICRO

from vitrine.classify.knn import knn, knn_votes
from vitrine.config import Recipe, named_transforms
from vitrine.errors import DataError, ModelError, UsageError
from vitrine.metrics.paired_tests import mcnemar_exact
from vitrine.models.finetune import PooledFeatures
from vitrine.train.run import train

Command = Callable[..., tuple[int, str, str]]


def slow_votes(
    train_ND: np.ndarray, labels: np.ndarray, query_QD: np.ndarray, classes: int, k: int, temperature: float
) -> np.ndarray:
    """The same by loops over Python numbers."""

    def unit(vector: np.ndarray) -> list[float]:
        length = math.sqrt(sum(float(x) ** 2 for x in vector)) or 1.0
        return [float(x) / length for x in vector]

    votes = np.zeros((len(query_QD), classes))
    for q, vector in enumerate(query_QD):
        similar = [
            (sum(a * b for a, b in zip(unit(vector), unit(other), strict=True)), n) for n, other in enumerate(train_ND)
        ]
        for s, n in sorted(similar, key=lambda pair: (-pair[0], pair[1]))[:k]:
            votes[q, labels[n]] += math.exp(s / temperature)
    return votes


@pytest.mark.parametrize(("n", "k", "temperature"), [(40, 20, 0.07), (40, 1, 0.07), (7, 20, 0.5), (1, 1, 0.07)])
def test_votes_are_those_of_loops(n: int, k: int, temperature: float, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(n + k)
    train_ND, query_QD = (rng.normal(size=(count, 5)).astype(np.float32) * 7 for count in (n, 9))
    labels = rng.integers(0, 3, n)
    expected = slow_votes(train_ND, labels, query_QD, 3, k, temperature)
    monkeypatch.setattr("vitrine.classify.knn._SIMILARITIES_AT_ONCE", 4 * n)  # four rows at a time
    votes = knn_votes(train_ND, labels, query_QD, classes=3, k=k, temperature=temperature)
    np.testing.assert_allclose(votes, expected, rtol=2e-4)
    assert (votes.argmax(1) == expected.argmax(1)).all()


def test_of_equally_similar_pictures_the_first_are_neighbours() -> None:
    """The same direction 50 times, with other lengths that cosine does not see; then a better one at the end."""
    train_ND = np.array([[2.0**i, 0] for i in range(50)] + [[1, 1]], dtype=np.float32)
    labels = np.array([0] * 3 + [1] * 47 + [2])
    votes = knn_votes(train_ND, labels, np.array([[1, 1]], dtype=np.float32), classes=3, k=4)
    np.testing.assert_allclose(votes, [[3 * math.exp(math.sqrt(0.5) / 0.07), 0, math.exp(1 / 0.07)]], rtol=1e-5)
    zeros = knn_votes(train_ND, labels, np.zeros((1, 2), np.float32), classes=3, k=4)
    np.testing.assert_allclose(zeros, [[3, 1, 0]])


def test_wrong_arguments_are_refused() -> None:
    train_ND, labels = np.ones((3, 2), np.float32), np.zeros(3, np.int64)
    for change in ({"k": 0}, {"temperature": 0.0}):
        with pytest.raises(ValueError, match="Expected k"):
            knn_votes(train_ND, labels, train_ND, classes=1, **change)  # type: ignore[arg-type]
    for wrong in ((train_ND, labels[:2], train_ND), (train_ND, labels, train_ND[:, :1])):
        with pytest.raises(ValueError, match="do not fit"):
            knn_votes(*wrong, classes=1)


@pytest.mark.parametrize("changes", [{}, {"global_pool": "avg"}, {"reg_tokens": 2, "class_token": False}])
def test_features_are_what_the_head_reads(changes: dict[str, object]) -> None:
    if changes.get("class_token") is False:
        changes = changes | {"global_pool": "avg"}
    module = timm.create_model("vit_tiny_patch16_224", num_classes=5, **MICRO, **changes).eval()
    pixels = torch.randn(3, 3, 32, 32)
    with torch.inference_mode():
        features = PooledFeatures(module)(pixels)
        torch.testing.assert_close(module.get_classifier()(features), module(pixels))
    assert features.shape == (3, 32)


@pytest.fixture(scope="module")
def finetuned_run(small_scenes: Path, small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that began with the weights of another one."""
    recipe = Recipe(
        name="tuned", model=str(small_run), batch_size=16, epochs=3, learning_rate=5e-3, workers=0,
        transforms=named_transforms("scenes"), image_size=32, precision="fp32",
    )  # fmt: skip
    return train(str(small_scenes), recipe, tmp_path_factory.mktemp("runs") / "tuned").run


def by_hand(run: Path, data: Path, split: str) -> dict[str, bool]:
    """Right or wrong by picture, with timm, Pillow and the loops above."""
    module = timm.create_model(f"local-dir:{run}", pretrained=True).eval()
    mean, std = (torch.tensor(module.pretrained_cfg[key]).view(3, 1, 1) for key in ("mean", "std"))
    classes = sorted(path.name for path in (data / "train").iterdir())

    def table(part: str) -> tuple[list[str], np.ndarray, np.ndarray]:
        paths = sorted((data / part).rglob("*.png"))
        tokens = []
        for path in paths:
            pixels = torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1) / 255
            with torch.inference_mode():
                tokens.append(module.forward_features(((pixels - mean) / std)[None])[0, 0].numpy())
        labels = np.array([classes.index(path.parent.name) for path in paths])
        return [path.relative_to(data).as_posix() for path in paths], np.stack(tokens), labels

    _, train_ND, train_labels = table("train")
    names, query_QD, labels = table(split)
    votes = slow_votes(train_ND, train_labels, query_QD, len(classes), 20, 0.07)
    return dict(zip(names, (votes.argmax(1) == labels).tolist(), strict=True))


def test_a_run_stands_beside_its_start_and_its_own_head(
    finetuned_run: Path, small_run: Path, small_scenes: Path
) -> None:
    result = knn(str(finetuned_run), str(small_scenes))
    assert (result.split, result.k, result.training_pictures, result.knn.n) == ("validation", 20, 48, 24)
    assert result.knn.is_right == by_hand(finetuned_run, small_scenes, "validation")
    assert result.initial_knn is not None and result.recorded_head is not None
    assert result.initial_knn.is_right == by_hand(small_run, small_scenes, "validation")
    metrics = json.loads((finetuned_run / "metrics.json").read_text())
    assert result.recorded_head.accuracy == pytest.approx(metrics["accuracy"], abs=1e-6)
    content = result.to_dict()
    first, second = content["paired"]
    assert (first["first"], second["first"]) == (result.initial_knn.name, result.initial_knn.name)
    one, other = result.initial_knn.is_right, result.recorded_head.is_right
    alone = [sum(a[n] and not b[n] for n in a) for a, b in ((one, other), (other, one))]
    assert [second["only_first_right"], second["only_second_right"]] == alone
    assert second["p"] == pytest.approx(mcnemar_exact(*alone))
    assert content["correct"] == sum(result.knn.is_right.values()) and content["majority_class"]["n"] == 24
    sizes = {path.name: len(list(path.iterdir())) for path in sorted((small_scenes / "train").iterdir())}
    most = max(sizes, key=lambda name: sizes[name])
    shares = len(list((small_scenes / "validation" / most).iterdir()))
    assert result.majority.name == f"always class {most}" and result.majority.correct == shares
    for row in result.rows:
        assert row.interval.low <= row.accuracy <= row.interval.high
        assert row.name in result.table()


def test_what_the_run_recorded_is_left_out_where_it_is_of_other_pictures(
    finetuned_run: Path, small_scenes: Path, tmp_path: Path
) -> None:
    assert knn(str(finetuned_run), str(small_scenes), split="test").recorded_head is None
    data = Path(shutil.copytree(small_scenes, tmp_path / "data"))
    rotated_path = sorted((data / "validation").rglob("*.png"))[0]
    with Image.open(rotated_path) as image:
        image.rotate(90).save(rotated_path)
    assert knn(str(finetuned_run), str(data)).recorded_head is None


def test_starting_weights_that_are_gone_are_told_of(finetuned_run: Path, small_scenes: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(finetuned_run, tmp_path / "run"))
    text = (run / "recipe.toml").read_text()
    start = next(line for line in text.splitlines() if line.startswith("model = "))
    (run / "recipe.toml").write_text(text.replace(start, f'model = "{tmp_path / "gone"}"'))
    result = knn(str(run), str(small_scenes))
    assert result.initial_knn is None and result.recorded_head is not None
    assert any("cannot be had" in note for note in result.notes)
    (run / "recipe.toml").write_text(text.replace(start, 'model = "vitrine/scenes-tiny"'))
    other = knn(str(run), str(small_scenes))
    assert other.initial_knn is None and any("is not the file that it began with" in note for note in other.notes)


def test_weights_without_a_head_have_neighbours(
    small_run: Path, small_scenes: Path, tmp_path: Path, vitrine_command: Command
) -> None:
    weights = {n: t for n, t in load_file(small_run / "model.safetensors").items() if not n.startswith("head.")}
    config = json.loads((small_run / "config.json").read_text())
    config |= {"num_classes": 0, "pretrained_cfg": {**config["pretrained_cfg"], "num_classes": 0}}
    config["model_args"]["num_classes"] = 0
    config.pop("label_names", None)
    folder = tmp_path / "features"
    folder.mkdir()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))
    status, out, _ = vitrine_command("knn", folder, small_scenes, "--json", "--precision", "fp32", "--k", "20")
    assert status == 0
    content = json.loads(out)
    assert content["correct"] == knn(str(small_run), str(small_scenes), precision="fp32").knn.correct
    assert "recorded_head" not in content and content["paired"] == []


def test_the_verb_prints_a_table_and_says_what_is_wrong(
    small_run: Path, small_scenes: Path, vitrine_command: Command
) -> None:
    status, out, err = vitrine_command("knn", small_run, small_scenes, "--k", "1000")
    assert status == 0 and "neighbours" in out and "Weights:" in err
    assert "48 nearest of 48 training pictures" in out and "fewer than 1000: all of them vote" in err
    assert "began with random weights" in err
    assert vitrine_command("knn", small_run, small_scenes, "--split", "train")[0] == 2
    with pytest.raises(UsageError, match="neighbours are training pictures"):
        knn(str(small_run), str(small_scenes), split="train")
    with pytest.raises(DataError, match="no nowhere split"):
        knn(str(small_run), str(small_scenes), split="nowhere")
    with pytest.raises(ModelError, match="precision"):
        knn(str(small_run), str(small_scenes), precision="int8")


def test_unreadable_pictures_count_in_no_figure(small_run: Path, small_scenes: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(small_scenes, tmp_path / "data"))
    for part in ("train", "validation"):
        unreadable = sorted((data / part).rglob("*.png"))[2]
        unreadable.write_bytes(unreadable.read_bytes()[:60])
    result = knn(str(small_run), str(data))
    assert (result.training_pictures, result.knn.n, len(result.unreadable)) == (47, 23, 2)
    assert result.recorded_head is None and "could not be read" in result.table()
    for path in (data / "validation").rglob("*.png"):
        path.write_bytes(b"nothing")
    with pytest.raises(DataError, match="None of the 24 pictures can be read"):
        knn(str(small_run), str(data))
