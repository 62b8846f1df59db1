"""The pictures of a training before it begins are those that it is trained on, to the pixel."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.models import MICRO
from support.training import recipe

from vitrine.config import TransformSpec, named_transforms
from vitrine.config.preprocessing import InputSpec
from vitrine.data.transforms import EvalTransform
from vitrine.train.classifier import ClassifierTask
from vitrine.train.data import prepare_data
from vitrine.train.figures.classes import MOST_CLASSES, choose_classes
from vitrine.train.preview import Preview, describe_changes
from vitrine.train.settings import BatchSettings, DataSettings, TaskSettings
from vitrine.train.task import RuntimeConfig

SIZES = {"a": [(60, 40), (40, 40)], "b": [(40, 100), (200, 50), (12, 12), (40, 40), (41, 40)]}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes, of 2 and 5 training pictures of noise, and one validation picture each."""
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for label, sizes in SIZES.items():
        for split, some in (("train", sizes), ("validation", sizes[:1])):
            (folder / split / label).mkdir(parents=True)
            for number, (width, height) in enumerate(some):
                pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / split / label / f"{number}.png")
    return folder


def preview_of(data: Path, **changes: object) -> tuple[Preview, ClassifierTask]:
    settings = recipe(batch_size=4, **changes)
    opened = prepare_data(str(data), DataSettings.from_recipe(settings))
    task = ClassifierTask(TaskSettings.from_recipe(settings), opened)
    batches = BatchSettings.from_recipe(settings)
    return Preview(opened, batches, task.spec, task._sampling_weights_N), task


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"transforms": TransformSpec(rotation=20, erase=0.5, crop_scale=(0.3, 1.0), saturation=0.5)},
        {"transforms": TransformSpec()},
        {"views": 2},
        {"sampling": "balanced", "seed": 3},
    ],
    ids=["scenes", "turned", "not random", "views", "balanced"],
)
def test_the_first_batch_is_the_one_that_the_model_gets(changes: dict[str, object], pictures: Path) -> None:
    preview, task = preview_of(pictures, **changes)
    drawn = preview.first_batch()
    with task.batches(RuntimeConfig(torch.device("cpu"), "fp32")) as batches:
        batch = next(batches(0, 0))
    pixels_BHWC = batch.pixels_BCHW.permute(0, 2, 3, 1).numpy()
    assert len(drawn) == len(pixels_BHWC) == 4
    for each, pixels_HWC, label in zip(drawn, pixels_BHWC, batch.labels_B.tolist(), strict=True):
        assert np.array_equal(each.pixels_HWC, pixels_HWC)
        assert each.label == "ab"[label]


def test_pictures_of_unusual_shape_and_size_are_followed(pictures: Path) -> None:
    preview, task = preview_of(pictures, transforms=named_transforms("scenes"))
    views = {each.reason: each for each in preview.picture_views()}
    assert [views[why].size for why in ("the broadest", "the tallest", "the smallest")] == [
        (200, 50),
        (40, 100),
        (12, 12),
    ]
    assert len(preview.picture_views()) == 5

    broadest = views["the broadest"]  # its middle 50 x 50 pixels of 200 x 50 are evaluated
    assert broadest.evaluation_crop == pytest.approx((0.375, 0, 0.625, 1), abs=0.01)
    samples = list(preview.data.train)
    position = next(at for at, each in enumerate(samples) if preview.data.index.sizes[each.name] == (200, 50))
    assert np.array_equal(broadest.evaluated_HWC, EvalTransform(task.spec)(samples[position].picture.decode()))
    with task.batches(RuntimeConfig(torch.device("cpu"), "fp32")) as batches:
        for epoch in (0, 1):
            rows = [
                pixels
                for batch in batches(epoch, 0)
                for pixels, at in zip(batch.pixels_BCHW, batch.indices_B.tolist(), strict=True)
                if at == position
            ]
            assert np.array_equal(rows[0].permute(1, 2, 0).numpy(), broadest.trained_HWC[epoch])


def test_classes_are_counted_and_drawn_with_the_largest_first(pictures: Path, tmp_path: Path) -> None:
    preview, _ = preview_of(pictures)
    rows = preview.class_rows()
    assert [(row.label, row.train, row.validation, len(row.examples)) for row in rows] == [
        ("b", 5, 1, 3),
        ("a", 2, 1, 2),
    ]
    paths = preview.save(tmp_path, "a model")
    assert [path.name for path in paths] == ["batch.png", "classes.png", "views.png"]
    for path in paths:
        with Image.open(path) as figure:
            assert figure.info["vitrine:model"] == "a model" and figure.width == 1800
            assert len(set(figure.convert("L").resize((90, 60)).tobytes())) > 20, "it is not empty"
    assert preview.save(tmp_path / "again", "a model")[1].read_bytes() == paths[1].read_bytes()


def test_of_many_classes_the_largest_and_the_smallest_are_drawn() -> None:
    counts = [(7 * number) % 101 for number in range(100)]
    chosen = choose_classes(counts)
    ordered = sorted(counts, reverse=True)
    assert [counts[each] for each in chosen] == ordered[: MOST_CLASSES // 2] + ordered[-MOST_CLASSES // 2 :]
    assert choose_classes([3, 9, 9]) == [1, 2, 0]


@pytest.mark.parametrize(
    ("transforms", "words"),
    [
        (TransformSpec(), "no random change"),
        (named_transforms("tfm1"), "crops of 70 to 100 % of the area, turned by up to 20°, brightness by up to 30 %"),
        (
            named_transforms("small-photos"),
            "crops of 30 to 100 % of the area, mirrored in 50 %, brightness, contrast and saturation by up to 30 %",
        ),
        (TransformSpec(erase=0.25, contrast=0.1), "contrast by up to 10 %, a rectangle of noise in 25 %"),
        (
            named_transforms("dihedral"),
            "mirrored in 50 %, turned by a multiple of 90° in 75 %, brightness by up to 10 %",
        ),
    ],
)
def test_random_changes_are_said_in_words(transforms: TransformSpec, words: str) -> None:
    assert describe_changes(transforms) == words


def test_of_data_without_an_end_the_first_pictures_are_counted(tmp_path: Path) -> None:
    """Fifty a class, or an epoch where that is less; what is counted is what the stream gives first."""
    settings = recipe(batch_size=8, epoch_size=40)
    opened = prepare_data("scenes:new?validation=4&size=32", DataSettings.from_recipe(settings))
    preview = Preview(opened, BatchSettings.from_recipe(settings), InputSpec((32, 32), (0.5,) * 3, (0.5,) * 3, 1.0))
    assert [path.name for path in preview.save(tmp_path, "m")] == ["batch.png", "classes.png", "views.png"]
    labels = opened.source.labels
    counted = Counter(labels[opened.train[place].label] for place in range(40))
    assert {row.label: row.train for row in preview.class_rows()} == {label: counted[label] for label in labels}
    assert sum(row.validation for row in preview.class_rows()) == 4
    longer = replace(preview, settings=replace(preview.settings, epoch_size=10_000))
    assert sum(row.train for row in longer.class_rows()) == 50 * len(labels)
    assert MICRO["img_size"] == 32
