"""Labelled pictures in memory are measured as the same pictures in class folders are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch.utils.data import DataLoader, TensorDataset

import vitrine
from vitrine.api.model import Model
from vitrine.data.scenes import write_scenes
from vitrine.errors import DataError, UsageError

Labelled = list[tuple[Image.Image, str]]


@pytest.fixture(scope="module")
def model() -> Model:
    opened_model = vitrine.load("vitrine/scenes-tiny", precision="fp32")
    assert isinstance(opened_model, Model)
    return opened_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scenes(
        tmp_path_factory.mktemp("data") / "scenes", "base", {"train": 24, "validation": 12, "test": 12}, seed=3
    )


def read(folder: Path, split: str) -> Labelled:
    """Pictures of class folders, by a loop of its own."""
    files = sorted((folder / split).glob("*/*.png"))
    return [(Image.open(file).convert("RGB"), file.parent.name) for file in files]


def as_rows(pairs: Labelled, names: list[str]) -> Any:
    """A ``datasets`` split whose classes are numbered in an order of its own."""
    mixed = names[::-1]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=mixed)})
    rows = {"image": [picture for picture, _ in pairs], "label": [mixed.index(label) for _, label in pairs]}
    return datasets.Dataset.from_dict(rows, features)


KINDS: dict[str, Callable[[Labelled, list[str]], Any]] = {
    "pairs": lambda pairs, _: pairs,
    "numbers": lambda pairs, names: [(np.asarray(picture), np.int64(names.index(label))) for picture, label in pairs],
    "datasets split": as_rows,
    "DataLoader": lambda pairs, names: DataLoader(
        TensorDataset(
            torch.stack([torch.from_numpy(np.array(picture)).permute(2, 0, 1) for picture, _ in pairs]),
            torch.tensor([names.index(label) for _, label in pairs]),
        ),
        batch_size=5,
    ),
    "rows of a dictionary": lambda pairs, _: {"test": [{"image": picture, "class": name} for picture, name in pairs]},
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_as_in_folders(kind: str, model: Model, folder: Path) -> None:
    data = KINDS[kind](read(folder, "test"), list(model.labels))
    result = vitrine.evaluate(model, data, quiet=True)
    expected = vitrine.evaluate(model, folder, split="test", quiet=True)
    assert result.metrics.accuracy == expected.metrics.accuracy and result.metrics.n == 12
    assert result.metrics.negative_log_likelihood == pytest.approx(expected.metrics.negative_log_likelihood, abs=1e-5)
    assert {each.label: each.support for each in result.metrics.classes if each.support} == {
        each.label: each.support for each in expected.metrics.classes if each.support
    }
    assert (result.split, result.data) == ("test", "pictures in memory")


def test_tensors_that_are_normalised_already(model: Model, folder: Path) -> None:
    pairs = read(folder, "test")
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model.classifier.module))
    numbers = torch.tensor([model.labels.index(label) for _, label in pairs])
    loader = DataLoader(TensorDataset(torch.stack([transform(picture) for picture, _ in pairs]), numbers), batch_size=4)
    result = vitrine.evaluate(model, loader, normalised=True, quiet=True)
    assert result.metrics.negative_log_likelihood == pytest.approx(
        vitrine.evaluate(model, pairs, quiet=True).metrics.negative_log_likelihood, abs=1e-4
    )


def test_neighbours_and_scores_in_memory(model: Model, folder: Path) -> None:
    splits = {split: read(folder, split) for split in ("train", "test")}
    expected = vitrine.knn(model, folder, k=3, split="test", quiet=True)
    assert vitrine.knn(model, splits, k=3, quiet=True).knn.accuracy == expected.knn.accuracy
    pictures = [picture for picture, _ in splits["test"]]
    scores = vitrine.score(model, pictures, method="attention", limit=4, curves=1, quiet=True)
    assert scores.data == "pictures in memory" and scores.ranking.pictures == 4


WRONG: dict[str, tuple[Any, str]] = {
    "nothing": (None, "NoneType is no labelled data: expected a folder, a table"),
    "a number": (5, "int is no labelled data"),
    "paths": (["a.jpg", "b.jpg"], r"str is no picture with its label: expected pairs \(picture, label\)"),
    "no split": ({"a": []}, "'a' is no split: expected train, validation or test"),
    "a row without a label": ([{"image": 1}], "expected a label in one called label, class"),
    "another class": ([(Image.new("RGB", (8, 8)), "walrus")], "classes that the model does not know: 'walrus'"),
    "a number too high": ([(Image.new("RGB", (8, 8)), 12)], "The label 12 is none of the 12 classes"),
    "half a label": ([(Image.new("RGB", (8, 8)), 0.5)], "type float: expected a class's name, or its number"),
    "several labels": ([(torch.zeros(2, 3, 8, 8), torch.zeros(2, 4))], "not one label a picture"),
    "no pictures": ([], "has no finite split"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_labelled_data_gets_a_sentence(name: str, model: Model) -> None:
    value, words = WRONG[name]
    with pytest.raises(DataError, match=words) as caught:
        vitrine.evaluate(model, value, quiet=True)
    assert len(str(caught.value).splitlines()) <= 2


def test_options_of_files_are_refused(model: Model, folder: Path) -> None:
    with pytest.raises(UsageError, match="encoding is of a table"):
        vitrine.evaluate(model, [], encoding="latin-1", quiet=True)
    with pytest.raises(UsageError, match="normalised is of tensors in memory"):
        vitrine.evaluate(model, folder, normalised=True, quiet=True)


@pytest.mark.parametrize("make", [list, lambda _: iter(())], ids=["list", "generator"])
@pytest.mark.parametrize("ask", ["predict", "explain"])
def test_no_pictures_are_refused_everywhere(ask: str, make: Callable[[Any], Any], model: Model) -> None:
    """An empty answer would hide a search for files that met nothing."""
    with pytest.raises(DataError, match="There are no pictures"):
        list(getattr(model, ask)(make([])))
    with pytest.raises(DataError, match="There are no pictures"):
        getattr(vitrine, ask)(model, make([]), quiet=True)
