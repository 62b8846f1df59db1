"""Training of multi-label models from end to end: what a run says, and every verb that opens it."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from sklearn.metrics import average_precision_score, f1_score
from support.multi_label import label_sets_of
from support.sweeps import TrainingHere
from support.training import FULL, recipe, same_files

import vitrine
from vitrine.classify.evaluate import evaluate
from vitrine.classify.knn import knn
from vitrine.classify.model import open_classifier
from vitrine.classify.predict import predict
from vitrine.compare.run import compare
from vitrine.config import recipe_to_toml
from vitrine.errors import DataError, RecipeError, UsageError
from vitrine.export.run import export
from vitrine.report.run import ReportSettings, build_document, write_report
from vitrine.results import MultiLabelMetrics
from vitrine.runs.folder import RunFolder
from vitrine.runs.model_card import read_card_facts
from vitrine.serve.galleries import read_recorded_validation
from vitrine.shards import write_shards
from vitrine.sweep.run import sweep
from vitrine.train.loop import StepDone
from vitrine.train.run import train
from vitrine.verify.run import verify


def reference(table: Path) -> str:
    return f"{table}?label=colours"


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_a_run_is_opened_as_multi_label_and_its_figures_are_sklearns(
    multi_label_run: Path, multi_label_data: Path, tmp_path: Path
) -> None:
    classifier = open_classifier(str(multi_label_run))
    assert classifier.is_multi_label
    result = evaluate(str(multi_label_run), reference(multi_label_data), out=tmp_path, threshold=0.4)
    assert isinstance(result.metrics, MultiLabelMetrics)
    # Everything anew: timm's own model of the folder, its own preprocessing, and the labels from the table.
    model = timm.create_model(f"local-dir:{multi_label_run}", pretrained=True).eval()
    prepare = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    true = label_sets_of(multi_label_data, "validation")
    pixels = torch.stack([prepare(Image.open(multi_label_data.parent / name).convert("RGB")) for name in true])
    with torch.inference_mode():
        probabilities = model(pixels).sigmoid().numpy()
    targets = np.array([[label in labels for label in classifier.labels] for labels in true.values()])
    assert result.metrics.mean_average_precision == pytest.approx(
        average_precision_score(targets, probabilities, average="macro"), abs=1e-6
    )
    assert result.metrics.macro_f1 == pytest.approx(
        f1_score(targets, probabilities > 0.4, average="macro", zero_division=np.nan), abs=1e-6
    )
    stored = json.loads((tmp_path / "metrics.json").read_text())
    assert stored["mean_average_precision"] == round(result.metrics.mean_average_precision, 6)
    assert stored["threshold"] == 0.4 and stored["kind"] == "multi_label"
    assert {path.name for path in tmp_path.iterdir()} == {"metrics.json", "predictions.csv", "labels.csv", "labels.png"}
    by_label = {row["label"]: row for row in rows_of(tmp_path / "labels.csv")}
    assert set(by_label) == set(classifier.labels)
    shown = result.table()
    assert f"mean average precision {result.metrics.mean_average_precision:.4f} (" in " ".join(shown.split())
    assert "macro F1 at 0.4" in shown


def test_a_run_records_what_it_predicted(multi_label_run: Path, multi_label_data: Path) -> None:
    metrics = json.loads((multi_label_run / "metrics.json").read_text())
    true = label_sets_of(multi_label_data, "validation")
    given: dict[str, set[str]] = {name: set() for name in true}
    for row in rows_of(multi_label_run / "predictions.csv"):
        given[row["filename"]] |= {row["label"]} if row["label"] else set()
        assert not row["label"] or float(row["probability"]) > 0.5
    assert metrics["exact_match"] == pytest.approx(sum(given[name] == true[name] for name in true) / len(true))
    data = json.loads((multi_label_run / "data.json").read_text())
    assert data["multi_label"] is True
    recorded = {row["name"]: {data["labels"][i] for i in row["labels"]} for row in data["splits"]["validation"]}
    assert recorded == true
    history = [json.loads(line) for line in (multi_label_run / "history.jsonl").read_text().splitlines()]
    best = max(row["validation_mean_average_precision"] for row in history)
    assert best == pytest.approx(metrics["mean_average_precision"], abs=1e-6)
    assert json.loads((multi_label_run / "config.json").read_text())["problem_type"] == "multi_label_classification"


def test_a_stopped_training_continues_to_the_same_bytes(multi_label_data: Path, tmp_path: Path) -> None:
    full = recipe(**FULL, class_weights="balanced", batch_size=8)
    train(reference(multi_label_data), full, tmp_path / "whole")

    def stop(event: object) -> None:
        if isinstance(event, StepDone) and event.step == 6:
            raise StopIteration

    short = replace(full, checkpoint_minutes=1e-9)
    with pytest.raises(StopIteration):
        train(reference(multi_label_data), short, tmp_path / "cut", report=stop)
    train(reference(multi_label_data), short, tmp_path / "cut", resume=True)
    same_files(tmp_path / "whole", tmp_path / "cut")


def test_balanced_sampling_continues_to_the_same_bytes_and_draws_alike(small_scenes: Path, tmp_path: Path) -> None:
    balanced = recipe(sampling="balanced", class_weights="balanced", epochs=2, batch_size=8, checkpoint_minutes=1e-9)
    train(str(small_scenes), balanced, tmp_path / "whole")

    def stop(event: object) -> None:
        if isinstance(event, StepDone) and event.step == 8:
            raise StopIteration

    with pytest.raises(StopIteration):
        train(str(small_scenes), balanced, tmp_path / "cut", report=stop)
    train(str(small_scenes), balanced, tmp_path / "cut", resume=True)
    same_files(tmp_path / "whole", tmp_path / "cut")
    train(str(small_scenes), replace(balanced, sampling="shuffle"), tmp_path / "shuffled")
    assert (tmp_path / "whole" / "model.safetensors").read_bytes() != (
        tmp_path / "shuffled" / "model.safetensors"
    ).read_bytes()


def test_a_linear_probe_on_cached_features_learns_several_labels(multi_label_data: Path, tmp_path: Path) -> None:
    probe = recipe(tune="head", transforms=replace(recipe().transforms, **NOT_RANDOM), epochs=1)
    result = train(reference(multi_label_data), probe, tmp_path / "probe")
    assert isinstance(result.metrics, MultiLabelMetrics)
    again = verify(tmp_path / "probe")
    assert again.same, again.text()


NOT_RANDOM = {
    "rotation": 0.0,
    "crop_scale": (1.0, 1.0),
    "flip": 0.0,
    "brightness": 0.0,
    "contrast": 0.0,
    "saturation": 0.0,
    "erase": 0.0,
}


def test_classes_can_be_trained_as_labels(small_scenes: Path, tmp_path: Path) -> None:
    result = train(str(small_scenes), recipe(loss="binary_cross_entropy", epochs=1), tmp_path / "run")
    assert isinstance(result.metrics, MultiLabelMetrics) and result.metrics.without_label == 0
    assert verify(tmp_path / "run").same
    assert isinstance(evaluate(str(tmp_path / "run"), str(small_scenes)).metrics, MultiLabelMetrics)


def test_verify_sees_a_changed_table(multi_label_run: Path, tmp_path: Path) -> None:
    result = verify(multi_label_run)
    assert result.same and "exact match" in result.text()
    copy = tmp_path / "copy"
    shutil.copytree(multi_label_run, copy)
    data = json.loads((copy / "data.json").read_text())
    rows = [f"{row['name']},{data['labels'][0]},0.9" for row in data["splits"]["validation"]]
    (copy / "predictions.csv").write_text("filename,label,probability\n" + "\n".join(rows) + "\n")
    changed = verify(copy)
    assert changed.differences == ("predictions",) and "predictions.csv gives an exact match of" in changed.text()


def test_every_verb_says_something_of_multi_label(
    multi_label_run: Path, multi_label_data: Path, tmp_path: Path
) -> None:
    labels = open_classifier(str(multi_label_run)).labels
    predicted = predict(str(multi_label_run), multi_label_data.parent / "validation", tmp_path / "p.csv", threshold=0.3)
    assert predicted.is_multi_label and predicted.table.rows >= 40
    model = vitrine.load(multi_label_run)
    picture = multi_label_data.parent / "validation" / "000.png"
    seen = model.explain(picture, method="gradcam", target=labels[3])
    assert seen.target == labels[3]
    assert any(note.startswith("Labels above 0.5: ") for note in seen._item.notes)
    with pytest.raises(DataError, match=r"multi-label data .* vitrine knn compares one label a picture"):
        knn(str(multi_label_run), reference(multi_label_data))
    with pytest.raises(DataError, match=r"multi-label data .* shards hold one label a picture"):
        pytest.importorskip("webdataset")
        write_shards(reference(multi_label_data), tmp_path / "shards")


def test_a_report_and_the_explorer_show_a_multi_label_run(multi_label_run: Path, tmp_path: Path) -> None:
    metrics = json.loads((multi_label_run / "metrics.json").read_text())
    document = build_document([str(multi_label_run)])
    assert document.title.endswith(f"validation mean average precision {metrics['mean_average_precision']:.4f}")
    report = write_report([str(multi_label_run)], tmp_path / "r.html", ReportSettings(markdown=True))
    text = (tmp_path / "r.md").read_text("utf-8")
    assert "## Label by label: colours" in text and "of each label with --target LABEL" in text
    worst = min((each for each in metrics["labels"] if each["support"]), key=lambda each: each["average_precision"])
    assert f"| {worst['label']} | {worst['average_precision']:.3f} |" in text
    assert report.paths[0].is_file()
    recorded = read_recorded_validation(RunFolder(multi_label_run))
    assert recorded.metrics is None and set(recorded.truths) == set(recorded.predictions)


def test_a_sweep_of_multi_label_runs_ends_in_their_table(multi_label_data: Path, tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text(recipe_to_toml(recipe(epochs=1)), encoding="utf-8")
    sweep_file = tmp_path / "sweep.toml"
    sweep_file.write_text(
        f'data = "{reference(multi_label_data)}"\nrecipe = "own.toml"\n[grid]\nlearning_rate = [1e-4, 1e-2]\n'
    )
    result = sweep(sweep_file, tmp_path / "out", start=TrainingHere)
    assert result.comparison is not None and len(result.comparison.multi_label) == 2
    assert "multi-label run" in result.comparison.text()


def test_runs_are_compared_in_a_table_of_their_own(
    multi_label_run: Path, multi_label_data: Path, small_run: Path, tmp_path: Path
) -> None:
    other = train(reference(multi_label_data), recipe(epochs=1, seed=1), tmp_path / "other").run
    comparison = compare([str(multi_label_run), str(other), str(small_run)], out=tmp_path / "out")
    assert [row.name for row in comparison.rows] == [small_run.name]
    scores = [row.mean_average_precision for row in comparison.multi_label]
    assert len(scores) == 2 and scores == sorted(scores, reverse=True)
    text = comparison.text()
    assert "mean average precision" in text and "gets all labels of a picture right more often than" in text
    again = compare([str(multi_label_run), str(other)])
    assert "multi_label" in again.to_dict() and again.csv().startswith(b"multi-label run,")


@pytest.mark.parametrize("to", ["hf", "timm", "onnx"])
def test_an_export_says_that_it_is_multi_label(to: str, multi_label_run: Path, tmp_path: Path) -> None:
    result = export(multi_label_run, to, tmp_path / to)
    assert result.same, result.text()
    if to in ("hf", "timm"):
        opened = open_classifier(str(tmp_path / to))
        assert opened.is_multi_label and opened.labels == open_classifier(str(multi_label_run)).labels
    if to == "hf":
        from transformers import AutoModelForImageClassification

        model = AutoModelForImageClassification.from_pretrained(tmp_path / to)
        assert model.config.problem_type == "multi_label_classification"
        targets = torch.zeros(1, model.config.num_labels)
        assert model(torch.zeros(1, 3, 32, 32), labels=targets).loss.item() == pytest.approx(
            torch.nn.functional.binary_cross_entropy_with_logits(
                model(torch.zeros(1, 3, 32, 32)).logits, targets
            ).item()
        )
    card = (tmp_path / to / "README.md").read_text("utf-8")
    assert "softmax" not in card and "argmax" not in card and "multi-label classifier" in card


def test_the_card_shows_the_figures(multi_label_run: Path) -> None:
    facts = read_card_facts(multi_label_run)
    assert facts.is_multi_label and isinstance(facts.metrics, MultiLabelMetrics)
    card = (multi_label_run / "README.md").read_text("utf-8")
    assert f"| mean average precision | {facts.metrics.mean_average_precision:.4f}" in card
    assert "says of each whether it is there" in card


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"loss": "cross_entropy"}, RecipeError, "loss = 'cross_entropy' cannot be used: expected auto or binary"),
        ({"sampling": "balanced"}, RecipeError, "has no one class"),
    ],
)
def test_what_does_not_fit_is_refused(
    changes: dict[str, str], error: type[Exception], message: str, multi_label_data: Path, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        train(reference(multi_label_data), recipe(**changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_threshold_is_for_multi_label_models(
    multi_label_run: Path, multi_label_data: Path, small_run: Path, small_scenes: Path
) -> None:
    with pytest.raises(UsageError, match="A threshold is for multi-label models"):
        evaluate(str(small_run), str(small_scenes), threshold=0.5)
    with pytest.raises(DataError, match="this model gives one label a picture"):
        evaluate(str(small_run), reference(multi_label_data))
    missed = evaluate(str(multi_label_run), reference(multi_label_data), expect=1.0)
    assert missed.missed_expectation and "Expected mean average precision 1 within 0.005: MISSED." in missed.table()
    changes = evaluate(str(multi_label_run), reference(multi_label_data), against="bf16").label_changes
    assert changes is not None and 0 <= changes.pictures <= 40
