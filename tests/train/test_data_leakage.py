"""Validation and test pictures that also stand in training: a training whose data leak, and what every verb says."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import datasets
import pytest
from PIL import Image, ImageOps
from support.made_runs import LABELS
from support.training import recipe

from vitrine.check import check, render
from vitrine.classify.evaluate import evaluate
from vitrine.classify.knn import knn
from vitrine.cli.show import training_summary
from vitrine.compare.run import compare
from vitrine.data.scenes import write_scenes
from vitrine.metrics.intervals import wilson
from vitrine.report.run import ReportSettings, build_document
from vitrine.runs.folder import RunFolder
from vitrine.runs.record import read_record
from vitrine.serve.galleries import Gallery, read_recorded_validation
from vitrine.serve.routes.gallery import make_validation
from vitrine.shards import write_shards
from vitrine.train.data import prepare_captions, prepare_data
from vitrine.train.events import Event, Plan, TrainResult
from vitrine.train.run import train
from vitrine.train.settings import DataSettings
from vitrine.verify.run import verify

EXACT, NEAR = 4, 3
"""Validation pictures that are planted: training pictures as they are, and as they come out of other programs."""


def store(picture: Image.Image, path: Path, quality: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.convert("RGB").save(path, "JPEG", quality=quality)


@pytest.fixture(scope="module")
def leaky(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders of generated pictures; some of validation and test are those of training."""
    folder = write_scenes(
        tmp_path_factory.mktemp("leaky") / "scenes", "new", {"train": 48, "validation": 16, "test": 12}
    )
    shutil.rmtree(folder / "masks")
    (folder / "captions.jsonl").unlink()
    paths = sorted((folder / "train").rglob("*.png"))
    for number, path in enumerate(paths[: EXACT + NEAR]):
        to = folder / "validation" / path.parent.name / f"planted{number}.png"
        picture = Image.open(path)
        if number < EXACT:
            shutil.copy(path, to)
        elif number == EXACT:
            store(picture, to.with_suffix(".jpg"), 60)
        elif number == EXACT + 1:
            store(ImageOps.mirror(picture).resize((96, 96)), to.with_suffix(".jpg"), 90)
        else:
            store(picture.crop((2, 2, 62, 62)), to.with_suffix(".jpg"), 85)
    shutil.copy(paths[10], folder / "test" / paths[10].parent.name / "planted.png")
    store(Image.open(paths[11]), folder / "test" / paths[11].parent.name / "planted.jpg", 50)
    return folder


@pytest.fixture(scope="module")
def training(leaky: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainResult, list[Event]]:
    events: list[Event] = []
    out = tmp_path_factory.mktemp("leaky-runs") / "leaky"
    return train(str(leaky), recipe(epochs=1), out, report=events.append), events


@pytest.fixture(scope="module")
def run(training: tuple[TrainResult, list[Event]]) -> Path:
    return training[0].run


def rights(run: Path) -> dict[str, bool]:
    """Whether each validation picture is right, by what the run's files say, read plainly."""
    data = json.loads((run / "data.json").read_text())
    truth = {row["name"]: data["labels"][row["label"]] for row in data["splits"]["validation"]}
    lines = [line.split(",") for line in (run / "predictions.csv").read_text().splitlines()[1:]]
    return {name: truth[name] == label for name, label, *_ in lines}


def expected_shares(is_right: dict[str, bool]) -> list[str]:
    """The accuracies without planted files, and without near copies too, as sentences have them."""
    exact = [name for name in is_right if "planted" in name and name.endswith(".png")]
    near = [name for name in is_right if "planted" in name and name.endswith(".jpg")]
    shares = []
    for left_out in (exact, [*exact, *near]):
        rest = [right for name, right in is_right.items() if name not in left_out]
        ends = wilson(sum(rest), len(rest))
        interval = f"95 % interval over pictures {ends.low:.4f} to {ends.high:.4f}, n = {len(rest)}"
        shares.append(f"{sum(rest) / len(rest):.4f} ({interval})")
    return shares


def test_check_names_facts_and_suspicions(leaky: Path) -> None:
    report = check(str(leaky))
    assert report.serious and len(report.across_splits) == EXACT + 1
    near = {(each.copy.name.rpartition("/")[2], each.is_mirrored) for each in report.near_across_splits}
    assert near == {("planted4.jpg", False), ("planted5.jpg", True), ("planted6.jpg", False), ("planted.jpg", False)}
    assert report.near_within_splits == ()
    text = render(report)
    assert "5 pictures lie in more than one split" in text
    assert "4 pictures look like a copy of one in another split (near copies: a suspicion)" in text
    assert "of 512, mirrored)" in text and "near copy (distance " in text
    rows = json.loads(json.dumps(report.to_dict()))["near_copies"]
    assert len(rows) == 4 and all(row["across_splits"] and row["bits"] == 512 for row in rows)


def test_training_says_so_before_and_after(training: tuple[TrainResult, list[Event]]) -> None:
    result, events = training
    (plan,) = [event for event in events if isinstance(event, Plan)]
    notes = " ".join(plan.notes)
    assert "4 of the 23 validation pictures also stand in training, byte for byte (for example " in notes
    assert "3 of the 23 validation pictures look like copies of training pictures (for example " in notes
    without_exact, without_any = expected_shares(rights(result.run))
    for text in (training_summary(result, "data"), (result.run / "README.md").read_text("utf-8")):
        assert "4 of the 23 validation pictures also stand in training, byte for byte." in text
        assert f"Without them the accuracy is {without_exact}" in text
        assert "3 more look like copies of training pictures" in text
        assert f"Without them too the accuracy is {without_any}" in text
        assert "another seed" in text.lower()
    leakage = result.to_dict()["leakage"]
    assert (leakage["n"], leakage["exact"], leakage["near"]) == (23, EXACT, NEAR)


def test_evaluation_looks_among_the_training_pictures_of_the_run(run: Path, leaky: Path, tmp_path: Path) -> None:
    result = evaluate(str(run), str(leaky), split="test", out=tmp_path)
    assert {each.name.rpartition("/")[2]: each.is_exact for each in result.copies} == {
        "planted.png": True,
        "planted.jpg": False,
    }
    leakage = result.leakage
    assert leakage is not None and (leakage.n, leakage.exact, leakage.near) == (14, 1, 1)
    content = json.loads((tmp_path / "metrics.json").read_text())
    assert content["leakage"]["without_exact_and_near"]["n"] == 12 and len(content["training_copies"]) == 2
    lines = (tmp_path / "predictions.csv").read_text().splitlines()[1:]
    is_right = {line.split(",")[0]: line.split(",")[0].split("/")[1] == line.split(",")[1] for line in lines}
    for share in expected_shares(is_right):
        assert share in result.table()
    assert "planted.png: the same file as " in result.table()
    again = evaluate(str(run), str(leaky), split="validation").leakage
    assert again == read_record("leaky", RunFolder(run)).leakage
    assert evaluate(str(run), str(leaky), split="train").leakage is None


def test_the_verbs_that_read_runs_carry_it(run: Path, leaky: Path) -> None:
    without_exact, _ = expected_shares(rights(run))
    finding = "4 of the 23 validation pictures also stand in training, byte for byte"
    sentence = f"{finding}. Without them the accuracy is {without_exact}"
    assert f"leaky: {sentence}" in compare([str(run)]).text()
    (noted,) = [each for each in verify(run).checks if each.what == "training copies"]
    assert noted.status == "noted" and sentence in noted.detail
    validation = read_recorded_validation(RunFolder(run))
    answer = make_validation(validation, Gallery({}, ()), "")
    assert sentence in answer.leakage[0]
    copies = {each.name: each.training_copy for each in answer.pictures if each.training_copy}
    assert len(copies) == EXACT + NEAR and sum("the same file as" in each for each in copies.values()) == EXACT
    neighbours = knn(str(run), str(leaky))
    assert (neighbours.leakage.exact, neighbours.leakage.near) == (EXACT, NEAR)
    assert "also stands in training is its own nearest neighbour" in neighbours.table()
    assert neighbours.to_dict()["leakage"]["without_exact"]["n"] == 19


def test_the_headline_of_a_report_carries_it(run: Path, leaky: Path) -> None:
    document = build_document([str(run)], ReportSettings(pictures=(next((leaky / "train").rglob("*.png")),)))
    leakage = read_record("leaky", RunFolder(run)).leakage
    assert document.title.endswith(f"({leakage.headline()})")
    assert "without 4 in training too and 3 near copies, n = 16" in document.title
    named = build_document([str(run)], ReportSettings(title="mine", pictures=(next((leaky / "train").rglob("*.png")),)))
    assert leakage.headline() in named.detail
    assert document.facts["final"]["leakage"]["validation"]["exact"] == EXACT


def settings() -> DataSettings:
    return DataSettings.from_recipe(recipe())


def test_shards_tell_the_same_as_the_files_that_they_were_made_of(leaky: Path, tmp_path: Path) -> None:
    pytest.importorskip("webdataset")
    write_shards(str(leaky), tmp_path / "shards", megabytes=0.1)
    of_shards = prepare_data(str(tmp_path / "shards"), settings()).copies
    assert of_shards is not None
    assert set(of_shards) == set(prepare_data(str(leaky), settings()).copies or ())
    assert len(check(str(tmp_path / "shards")).near_across_splits) == 4


def test_shards_of_other_writers_say_that_nothing_is_known(leaky: Path, tmp_path: Path) -> None:
    wds = pytest.importorskip("webdataset")
    for split in ("train", "validation"):
        with wds.TarWriter(str(tmp_path / f"{split}-000000.tar")) as tar:
            for number, path in enumerate(sorted((leaky / split).rglob("*.png"))):
                tar.write({"__key__": f"{split}{number}", "png": path.read_bytes(), "cls": str(number % 2).encode()})
    assert prepare_data(str(tmp_path), settings()).copies is None


def test_splits_of_a_data_set_of_datasets_leak_too(leaky: Path, tmp_path: Path) -> None:
    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=list(LABELS)))
    splits = {}
    for split in ("train", "validation"):
        cells = [{"bytes": path.read_bytes(), "path": None} for path in sorted((leaky / split).rglob("*.*"))]
        labels = [number % 2 for number in range(len(cells))]
        splits[split] = datasets.Dataset.from_dict({"image": cells, "label": labels}, features=features)
    datasets.DatasetDict(**splits).save_to_disk(tmp_path / "saved")
    copies = prepare_data(str(tmp_path / "saved"), settings()).copies
    assert copies is not None and sum(each.is_exact for each in copies) == EXACT and len(copies) == EXACT + NEAR


def test_captioned_pictures_leak_too(leaky: Path, tmp_path: Path) -> None:
    table = io.StringIO()
    table.write("path,caption,split\n")
    for split in ("train", "validation"):
        for path in sorted((leaky / split).rglob("*.*")):
            table.write(f"{path.relative_to(leaky)},a shape,{split}\n")
    folder = tmp_path / "captioned"
    shutil.copytree(leaky, folder)
    (folder / "captions.csv").write_text(table.getvalue())
    data = prepare_captions(str(folder / "captions.csv"), settings())
    assert data.copies is not None and len(data.copies) == EXACT + NEAR
    assert any("4 of the 23 validation pictures also stand in training" in note for note in data.notes)
    assert len(data.record["training_copies"]) == EXACT + NEAR
