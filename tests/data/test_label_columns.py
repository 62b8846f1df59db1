"""Tables of multi-label data: several labels in a cell, lists, and a column of 0 and 1 for every label."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import datasets
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from vitrine.check import check, render
from vitrine.data.samples import Dataset
from vitrine.data.sources import open_data
from vitrine.errors import DataError

NAMES = ("a.png", "b.png", "c.png", "d.png")
WANTED = {"a.png": {"cat", "dog"}, "b.png": {"dog"}, "c.png": set(), "d.png": {"bird"}}


def write_pictures(folder: Path) -> None:
    for number, name in enumerate(NAMES):
        Image.new("RGB", (8, 8), (60 * number, 20, 200)).save(folder / name)


def csv(text: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / "labels.csv").write_text(text, encoding="utf-8")
        return folder / "labels.csv"

    return write


def jsonl(*rows: dict[str, object]) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / "labels.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return folder / "labels.jsonl"

    return write


def parquet(**columns: list[object]) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        pyarrow.parquet.write_table(pyarrow.table(columns), folder / "labels.parquet")
        return folder / "labels.parquet"

    return write


LISTS: list[object] = [["cat", "dog"], ["dog"], [], ["bird"]]
FLAGS = "path,bird,cat,dog\na.png,0,1,1\nb.png,0,0,1\nc.png,0,0,0\nd.png,1,0,0\n"

CASES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "bars": (csv("path,label\na.png,cat|dog\nb.png,dog\nc.png,\nd.png,bird\n"), ""),
    "bars and blanks, a label twice": (
        csv("path,labels\na.png, cat | dog |cat\nb.png,dog|\nc.png,|\nd.png,bird\n"),
        "",
    ),
    "spaces": (csv("path,label\na.png,cat dog\nb.png,dog\nc.png,\nd.png,bird\n"), "?separator=space"),
    "spaces, written out": (csv("path,label\na.png,cat dog\nb.png,dog\nc.png,\nd.png,bird\n"), "?separator=%20"),
    "semicolons": (csv("path\tlabel\na.png\tcat;dog\nb.png\tdog\nc.png\t\nd.png\tbird\n"), "?separator=%3B"),
    "commas in quotes": (csv('path,label\na.png,"cat, dog"\nb.png,dog\nc.png,\nd.png,bird\n'), "?separator=comma"),
    "two characters": (csv("path,label\na.png,cat::dog\nb.png,dog\nc.png,\nd.png,bird\n"), "?separator=::"),
    "another column": (csv("path,seen\na.png,cat|dog\nb.png,dog\nc.png,\nd.png,bird\n"), "?label=seen"),
    "lists in JSON": (jsonl(*({"path": n, "labels": v} for n, v in zip(NAMES, LISTS, strict=True))), ""),
    "lists and a missing one": (
        jsonl(
            {"path": "a.png", "label": ["dog", "cat"]},
            {"path": "b.png", "label": ["dog"]},
            {"path": "c.png"},
            {"path": "d.png", "label": "bird"},
        ),
        "",
    ),
    "lists in parquet": (parquet(path=list(NAMES), labels=LISTS), ""),
    "bars in parquet": (parquet(path=list(NAMES), label=["cat|dog", "dog", None, "bird"]), ""),
    "0 and 1": (csv(FLAGS), ""),
    "0 and 1, all columns": (csv(FLAGS), "?labels=*"),
    "0 and 1, named": (csv(FLAGS.replace("dog\n", "dog\n", 1)), "?labels=dog,cat,bird"),
    "-1 and 1": (csv(FLAGS.replace(",0", ",-1")), ""),
    "0.0 and 1.0": (csv(FLAGS.replace(",0", ",0.0").replace(",1", ",1.0")), ""),
    "true and false": (csv(FLAGS.replace(",0", ",False").replace(",1", ",True")), ""),
    "0 and 1 in parquet": (
        parquet(path=list(NAMES), bird=[0, 0, 0, 1], cat=[1.0, 0, 0, 0], dog=[True, True, False, False]),
        "",
    ),
    "0 and 1 beside a number": (
        csv("path,age,bird,cat,dog\na.png,3,0,1,1\nb.png,4,0,0,1\nc.png,1,0,0,0\nd.png,9,1,0,0\n"),
        "",
    ),
    "0 and 1 beside a class": (
        csv("path,class,bird,cat,dog\na.png,x,0,1,1\nb.png,y,0,0,1\nc.png,x,0,0,0\nd.png,y,1,0,0\n"),
        "?labels=bird,cat,dog",
    ),
}


def label_sets(data: Dataset) -> dict[str, set[str]]:
    samples = [sample for split in data.splits.values() for sample in split]
    return {sample.name: {data.labels[index] for index in sample.labels or ()} for sample in samples}


@pytest.mark.parametrize("case", CASES)
def test_every_picture_has_its_labels(case: str, tmp_path: Path) -> None:
    write, options = CASES[case]
    write_pictures(tmp_path)
    data = open_data(f"{write(tmp_path)}{options}")
    assert data.is_multi_label and "multi-label" in data.layout
    assert label_sets(data) == WANTED
    assert set(data.labels) == {"bird", "cat", "dog"}
    assert any(note.startswith("Multi-label: ") for note in data.notes)
    samples = [sample for split in data.splits.values() for sample in split]
    assert all(sample.label is None and sample.labels is not None for sample in samples)


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        (FLAGS.replace("b.png,0", "b.png,"), "?labels=*", "row 3: the column bird is read as a label, and holds ''"),
        (FLAGS.replace("b.png,0", "b.png,2"), "?labels=bird,cat", "holds '2': expected 1"),
        (FLAGS.replace("b.png,0", "b.png,-1"), "", "-1 beside 0"),
        (FLAGS, "?labels=bird,wolf", "no column 'wolf'; it has path, bird, cat, dog"),
        (FLAGS, "?labels=bird,bird", "one column named twice"),
        (FLAGS, "?labels=bird&label=cat", "labels= names columns of 0 and 1"),
        ("path,x\na.png,3\nb.png,4\n", "", "needs the columns path and label"),
        ("path,label\na.png,cat|dog\na.png,cat\n", "", "name the same picture, a.png, with different labels"),
    ],
)
def test_what_cannot_be_read_as_labels_is_said(text: str, options: str, message: str, tmp_path: Path) -> None:
    write_pictures(tmp_path)
    with pytest.raises(DataError) as error:
        open_data(f"{csv(text)(tmp_path)}{options}")
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("text", "options", "labels"),
    [
        ("path,label\na.png,cat|dog\nb.png,dog\n", "?separator=", ("cat|dog", "dog")),
        ("path,label\na.png,cat dog\nb.png,dog\n", "", ("cat dog", "dog")),
        ("path,label,x,y\na.png,cat,0,1\nb.png,dog,1,0\n", "", ("cat", "dog")),
    ],
)
def test_one_class_in_each_cell_stays_one_class(
    text: str, options: str, labels: tuple[str, ...], tmp_path: Path
) -> None:
    write_pictures(tmp_path)
    data = open_data(f"{csv(text)(tmp_path)}{options}")
    assert not data.is_multi_label and data.labels == labels


def test_lists_of_hugging_face_data_sets(tmp_path: Path) -> None:
    features = datasets.Features(
        {"image": datasets.Image(), "objects": datasets.List(datasets.ClassLabel(names=["bird", "cat", "dog"]))}
    )
    pictures = [Image.new("RGB", (8, 8), (60 * number, 20, 200)) for number in range(4)]
    rows = {"image": pictures, "objects": [[1, 2], [2], [], [0]]}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(str(tmp_path / "saved"))
    data = open_data(str(tmp_path / "saved"))
    assert data.is_multi_label and list(label_sets(data).values()) != []
    assert sorted(map(sorted, label_sets(data).values())) == [[], ["bird"], ["cat", "dog"], ["dog"]]


def test_check_says_what_multi_label_data_are(tmp_path: Path) -> None:
    write_pictures(tmp_path)
    text = FLAGS.replace("path,", "path,split,").replace(".png,", ".png,train,").replace("d.png,train", "d.png,test")
    report = check(str(csv(text)(tmp_path)), workers=0)
    assert report.is_multi_label and not report.majority
    training = next(split for split in report.splits if split.name == "train")
    validation = next(split for split in report.splits if split.name == "validation")
    assert training.pictures + validation.pictures == 3
    both = {label: training.by_class[label] + validation.by_class[label] for label in report.labels}
    assert both == {"bird": 0, "cat": 1, "dog": 2}  # counted by hand
    assert training.by_labels.get(0, 0) + validation.by_labels.get(0, 0) == 1
    shown = render(report)
    assert "3 labels (multi-label)" in shown and "1 picture without any label, which is allowed" in shown
    assert "labels a picture in train" in shown and "in training and in validation, fewest first: bird 0 and 0" in shown
    plain = report.to_dict()
    assert plain["is_multi_label"] is True and "by_labels" in plain["splits"][0]  # type: ignore[index]
