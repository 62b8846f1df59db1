"""``vitrine evaluate``: one checkpoint, the same figures, whatever the batch, the precision or the order of classes."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from vitrine.classify.evaluate import LabelChanges, evaluate
from vitrine.errors import DataError, ModelError, VitrineError

Command = Callable[..., tuple[int, str, str]]


def rows(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.reader(stream))


def test_the_same_evaluation_gives_the_same_bytes(small_run: Path, small_scenes: Path, tmp_path: Path) -> None:
    results = [evaluate(str(small_run), str(small_scenes), out=tmp_path / name) for name in ("one", "two")]
    names = {"metrics.json", "predictions.csv", "confusion.csv", "confusion.png"}
    assert {path.name for path in (tmp_path / "one").iterdir()} == names
    for name in names - {"confusion.png"}:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name
    assert (results[0].split, results[0].metrics.n) == ("test", 200)
    # The accuracy against the tables that were written: predictions.csv names every picture below its class's folder.
    table = rows(tmp_path / "one" / "predictions.csv")
    assert table[0] == ["filename", "label"]
    right = sum(name.split("/")[1] == label for name, label in table[1:])
    assert results[0].metrics.accuracy == right / 200
    assert json.loads((tmp_path / "one" / "metrics.json").read_text())["accuracy"] == pytest.approx(
        right / 200, abs=1e-6
    )


def test_batch_and_precision_move_next_to_nothing(small_run: Path, small_scenes: Path, tmp_path: Path) -> None:
    """A batch of 1 and of 64 give the same labels; bf16 may move one of 200, and says how many it moved."""
    whole = evaluate(str(small_run), str(small_scenes), batch_size=64, against="bf16", out=tmp_path / "64")
    evaluate(str(small_run), str(small_scenes), batch_size=1, out=tmp_path / "1")
    assert (tmp_path / "64" / "predictions.csv").read_bytes() == (tmp_path / "1" / "predictions.csv").read_bytes()
    coarse = evaluate(str(small_run), str(small_scenes), precision="bf16", out=tmp_path / "bf16")
    assert (whole.metrics.precision, coarse.metrics.precision) == ("fp32", "bf16")
    one, other = rows(tmp_path / "64" / "predictions.csv"), rows(tmp_path / "bf16" / "predictions.csv")
    differ = sum(a != b for a, b in zip(one, other, strict=True))
    assert whole.label_changes == LabelChanges("bf16", differ)
    assert abs(whole.metrics.accuracy - coarse.metrics.accuracy) <= differ / 200
    assert differ <= 9, "an untrained model has near ties; more than 3 % of moved labels is an error"
    assert f"{differ} of 200 labels differ in bf16." in whole.table()


def test_an_expectation_decides_the_exit_status(small_run: Path, small_scenes: Path, vitrine_command: Command) -> None:
    arguments = ("evaluate", small_run, small_scenes, "--split", "validation")
    status, out, _ = vitrine_command(*arguments, "--json")
    accuracy = json.loads(out)["accuracy"]
    assert status == 0 and "expectation" not in json.loads(out)
    status, out, _ = vitrine_command(*arguments, "--expect", accuracy, "--tolerance", 1e-5)
    assert status == 0 and out.rstrip().endswith("met.")
    status, out, _ = vitrine_command(*arguments, "--expect", min(1, accuracy + 0.2), "--tolerance", 0.1, "--json")
    assert status == 1
    assert json.loads(out)["expectation"]["met"] is False


def test_what_cannot_be_used_is_refused_before_the_work(
    small_run: Path, small_scenes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vitrine.classify import evaluate as evaluation

    monkeypatch.setattr(evaluation, "predict_samples", lambda *_, **__: pytest.fail("the work was begun"))
    with pytest.raises(VitrineError, match="expected accuracy"):
        evaluate(str(small_run), str(small_scenes), expect=95)
    with pytest.raises(ModelError, match="precision = 'fp16'"):
        evaluate(str(small_run), str(small_scenes), against="fp16")
    with pytest.raises(DataError, match="has no holiday split; it has: train, validation, test"):
        evaluate(str(small_run), str(small_scenes), split="holiday")


def test_classes_are_matched_by_name(small_run: Path, small_scenes: Path, tmp_path: Path) -> None:
    """Data that have the last three classes only, so that every position is another one than the model's."""
    labels = (small_run / "labels.txt").read_text().splitlines()[-3:]
    for label in labels:
        shutil.copytree(small_scenes / "test" / label, tmp_path / "data" / "test" / label)
    evaluate(str(small_run), str(small_scenes), out=tmp_path / "all")
    part = evaluate(str(small_run), str(tmp_path / "data"), out=tmp_path / "part")
    everything = dict(rows(tmp_path / "all" / "predictions.csv")[1:])
    labels_by_name = dict(rows(tmp_path / "part" / "predictions.csv")[1:])
    assert labels_by_name == {name: everything[name] for name in labels_by_name} and 0 < len(labels_by_name) < 200
    right = sum(name.split("/")[1] == label for name, label in labels_by_name.items())
    assert part.metrics.accuracy == pytest.approx(right / len(labels_by_name))
    assert {entry.label for entry in part.metrics.classes if entry.support} == set(labels)


def test_classes_that_the_model_does_not_know(
    small_run: Path, small_scenes: Path, tmp_path: Path, vitrine_command: Command
) -> None:
    data = Path(shutil.copytree(small_scenes, tmp_path / "data"))
    (data / "test" / "unicorn").mkdir()
    Image.new("RGB", (32, 32)).save(data / "test" / "unicorn" / "1.png")
    status, out, error = vitrine_command("evaluate", small_run, data)
    assert (status, out) == (2, "")
    assert "'unicorn' (1 in all)" in error and len(error.strip().splitlines()) == 2


def test_unreadable_pictures_count_in_no_figure(small_run: Path, small_scenes: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(small_scenes, tmp_path / "data"))
    unreadable = sorted((data / "validation").rglob("*.png"))[::6]
    for path in unreadable:
        path.write_bytes(b"no picture")
    result = evaluate(str(small_run), str(data), split="validation")
    assert result.metrics.n == 24 - len(unreadable)
    assert [name for name, _ in result.unreadable] == [path.relative_to(data).as_posix() for path in unreadable]
    assert f"{len(unreadable)} pictures could not be read" in result.table()
    for path in (data / "validation").rglob("*.png"):
        path.write_bytes(b"no picture")
    with pytest.raises(DataError, match="None of the 24 pictures can be read"):
        evaluate(str(small_run), str(data), split="validation")


def test_a_run_is_evaluated_on_the_pictures_it_was_not_trained_on(
    small_run: Path, small_scenes: Path, tmp_path: Path
) -> None:
    """Where the data have no validation split, the one of the training is made again, however the run is named."""
    from dataclasses import replace

    from vitrine.runs.folder import RunFolder
    from vitrine.train.run import train

    data = Path(shutil.copytree(small_scenes / "train", tmp_path / "data"))
    recipe = replace(RunFolder(small_run).read_recipe(), seed=11, val_fraction=0.4, epochs=1)
    train(str(data), recipe, tmp_path / "run")
    held_out = [row[0] for row in rows(tmp_path / "run" / "predictions.csv")]
    for number, reference in enumerate((tmp_path / "run", f"local-dir:{tmp_path / 'run'}")):
        evaluate(str(reference), str(data), out=tmp_path / str(number))
        assert [row[0] for row in rows(tmp_path / str(number) / "predictions.csv")] == held_out
    evaluate(str(tmp_path / "run"), str(data), seed=0, out=tmp_path / "asked")
    assert [row[0] for row in rows(tmp_path / "asked" / "predictions.csv")] != held_out


def test_a_weights_file_with_its_architecture(tmp_path: Path, vitrine_command: Command) -> None:

    import timm
    import torch

    module = timm.create_model("test_vit", num_classes=2)
    torch.save({"model": module.state_dict()}, tmp_path / "w.pth")
    for label in "01":
        (tmp_path / "data" / label).mkdir(parents=True)
        Image.new("RGB", (40, 40), (255 * int(label), 0, 0)).save(tmp_path / "data" / label / "a.png")
    arguments = ("evaluate", tmp_path / "w.pth", tmp_path / "data", "--split", "train", "--json")
    status, out, _ = vitrine_command(*arguments, "--arch", "test_vit")
    assert status == 0 and {entry["label"] for entry in json.loads(out)["classes"]} == {"0", "1"}
    status, _, error = vitrine_command(*arguments)
    assert status == 2 and "--arch NAME" in error
    torch.save({k: v for k, v in module.state_dict().items() if "head" not in k}, tmp_path / "w.pth")
    status, _, error = vitrine_command(*arguments, "--arch", "test_vit")
    assert status == 2 and "has no classification head" in error


def test_a_changed_list_of_labels_is_noticed(small_run: Path, small_scenes: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(small_run, tmp_path / "run"))
    (run / "labels.txt").write_text("one\n")
    with pytest.raises(ModelError, match=r"outputs but 1 class name; labels\.txt was changed"):
        evaluate(str(run), str(small_scenes))


def test_a_training_that_has_not_ended_is_said_to(small_run: Path, small_scenes: Path, tmp_path: Path) -> None:
    assert "has not ended" not in evaluate(str(small_run), str(small_scenes), split="validation").table()
    run = Path(shutil.copytree(small_run, tmp_path / "run"))
    (run / "metrics.json").unlink()
    (run / "state").mkdir()
    (run / "state" / "training.pt").write_bytes(b"")
    result = evaluate(str(run), str(small_scenes), split="validation")
    assert "has not ended" in result.table()
    assert result.to_dict()["unfinished_run"] is True
