"""COCO's instances as multi-label data, against counts made by hand and by pycocotools."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from support.paths import SHARED

from vitrine.data.sources import open_data
from vitrine.errors import DataError

CATEGORIES = [{"id": 18, "name": "dog"}, {"id": 1, "name": "person"}, {"id": 90, "name": "toothbrush"}]


def document(names: list[str], annotations: list[tuple[int, int]]) -> dict[str, Any]:
    return {
        "images": [{"id": number, "file_name": name} for number, name in enumerate(names, start=1)],
        "annotations": [{"id": i, "image_id": image, "category_id": c} for i, (image, c) in enumerate(annotations)],
        "categories": CATEGORIES,
    }


def write(root: Path, part: str, content: dict[str, Any], folder: str | None = None) -> Path:
    pictures = root / (part if folder is None else folder)
    pictures.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(content["images"]):
        Image.new("RGB", (8, 8), (40 * number, len(part), 9)).save(pictures / image["file_name"])
    (root / "annotations").mkdir(exist_ok=True)
    path = root / "annotations" / f"instances_{part}.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


@pytest.mark.parametrize("folder", [None, "images/train2017", ""])
def test_categories_of_a_picture_are_its_labels(folder: str | None, tmp_path: Path) -> None:
    content = document(["a.jpg", "b.jpg", "c.jpg"], [(1, 18), (1, 18), (1, 1), (2, 90)])
    write(tmp_path, "train2017", content, folder)
    write(tmp_path, "val2017", document(["v.jpg"], [(1, 1)]))
    data = open_data(str(tmp_path))
    assert data.is_multi_label and data.labels == ("dog", "person", "toothbrush")
    assert [sample.labels for sample in data.splits["train"]] == [(0, 1), (2,), ()]
    assert [sample.labels for sample in data.splits["validation"]] == [(1,)]
    assert all(sample.picture.decode().size == (8, 8) for split in data.splits.values() for sample in split)


def test_one_file_of_instances_is_enough(tmp_path: Path) -> None:
    path = write(tmp_path, "objects", document(["a.jpg", "b.jpg"], [(1, 18)]))
    data = open_data(str(path))
    assert data.is_multi_label and sum(map(len, data.splits.values())) == 2
    assert "instances_objects.json names no split: its pictures count as training pictures." in data.notes


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"annotations": [{"image_id": 1, "category_id": 7}]}, "there is no category 7"),
        ({"images": [{"id": 1, "file_name": "../a.jpg"}]}, "has no path below"),
        ({"images": [{"id": 1, "file_name": "/etc/passwd"}]}, "has no path below"),
        ({"images": [{"id": 1}]}, "has no path below"),
        ({"images": [{"id": 1, "file_name": "gone.jpg"}]}, "none of its 1 picture exists"),
        ({"categories": [{"id": 18}]}, "a category has no name"),
        ({"categories": 3}, "no list of objects called categories"),
        ({"images": [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "a.jpg"}]}, "is listed twice"),
    ],
)
def test_what_is_wrong_with_instances_is_said(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = write(tmp_path, "train2017", document(["a.jpg"], [(1, 18)]))
    path.write_text(json.dumps(document(["a.jpg"], [(1, 18)]) | change), encoding="utf-8")
    with pytest.raises(DataError) as error:
        open_data(str(tmp_path))
    assert message in str(error.value)


@pytest.mark.skipif(not (SHARED / "coco").is_dir(), reason="the real photographs of ../shared/data are not here")
def test_real_instances_are_those_of_pycocotools() -> None:
    from pycocotools.coco import COCO

    folder = SHARED / "coco"
    data = open_data(str(folder))
    with contextlib.redirect_stdout(io.StringIO()):
        peer = COCO(str(folder / "annotations" / "instances_val2017.json"))
    wanted = {
        f"val2017/{image['file_name']}": {
            peer.cats[each["category_id"]]["name"] for each in peer.loadAnns(peer.getAnnIds(imgIds=[number]))
        }
        for number, image in peer.imgs.items()
    }
    shown = {sample.name: {data.labels[index] for index in sample.labels or ()} for sample in data.splits["validation"]}
    assert shown == wanted
