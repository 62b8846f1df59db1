"""Scenes as data: streams, finite splits, references, and the layouts on disk."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
from PIL import Image

from vitrine.data.scenes import FAMILIES, ScenePicture, SceneSource, SceneStream, open_scenes, write_scenes
from vitrine.errors import DataError
from vitrine.io.process_identity import ProcessIdentity


def test_windows_of_the_stream_equal_random_access():
    stream = SceneStream(SceneSource("base", 7, "train"))
    window = stream.for_epoch(3, 10)
    assert len(window) == 10
    assert list(window) == [stream[index] for index in range(30, 40)] == list(stream[30:40])
    assert window[-1] == stream[39]
    assert list(window[2:5]) == [stream[index] for index in (32, 33, 34)]
    assert window[4].picture.read_bytes() == ScenePicture("base", 7, "train", 34).read_bytes()
    with pytest.raises(IndexError):
        window[10]


def test_the_stream_says_that_it_is_endless():
    stream = SceneStream(SceneSource("base", 7, "train"))
    assert stream.endless
    with pytest.raises(TypeError, match="for_epoch"):
        len(stream)
    with pytest.raises(IndexError, match="endless"):
        stream[-1]
    with pytest.raises(IndexError, match="endless"):
        stream[5:]
    with pytest.raises(ValueError, match="epoch_size"):
        stream.for_epoch(0, 0)


def test_samples_and_windows_are_tiny_to_send_to_another_process():
    window = open_scenes("scenes:new", seed=1).splits["train"].for_epoch(5, 100_000)
    assert len(pickle.dumps(window)) < 400
    sample = pickle.loads(pickle.dumps(window[3]))
    assert sample == window[3]
    assert len(pickle.dumps(sample)) < 400
    assert sample.picture.read_bytes() == window[3].picture.read_bytes()


def test_an_open_reference():
    data = open_scenes("scenes:base", seed=5)
    assert data.labels == FAMILIES["base"].labels
    assert data.splits["train"].endless
    assert len(data.splits["validation"]) == len(data.splits["test"]) == 2000
    assert not data.splits["test"].endless
    assert data.splits["test"].for_epoch(9, 10) is data.splits["test"]
    sample = data.splits["validation"][12]
    assert sample.name == "base/validation/000012.png"
    assert sample.label == sample.picture.scene.label
    assert any("endless" in note and "seed 5" in note for note in data.notes)


def test_finite_splits_depend_on_the_reference_alone_and_streams_on_the_seed_too():
    one, two = open_scenes("scenes:new", seed=1), open_scenes("scenes:new", seed=2)
    assert one.splits["test"][0] == two.splits["test"][0]
    assert one.splits["train"].for_epoch(0, 1)[0] != two.splits["train"].for_epoch(0, 1)[0]
    options = "scenes:new?train=30&validation=10&test=20&size=32&seed=3"
    one, two = open_scenes(options, seed=1), open_scenes(options, seed=2)
    assert {name: len(split) for name, split in one.splits.items()} == {"train": 30, "validation": 10, "test": 20}
    assert [list(split) for split in one.splits.values()] == [list(split) for split in two.splits.values()]
    assert one.splits["train"][0].picture == ScenePicture("new", 3, "train", 0, 32)


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("scenes:", "scenes:base or scenes:new"),
        ("scenes:old", "scenes:base or scenes:new"),
        ("pets", "scenes:base or scenes:new"),
        ("scenes:new?pictures=3", "unknown option 'pictures'"),
        ("scenes:new?train", "train must be a whole number"),
        ("scenes:new?train=0", "from 1 to"),
        ("scenes:new?train=-3", "whole number"),
        ("scenes:new?train=1e3", "whole number"),
        ("scenes:new?size=31", "from 32 to 512"),
        ("scenes:new?size=64&size=64", "twice"),
        ("scenes:new?seed=4294967296", "from 0 to 4294967295"),
        ("scenes:new?placement=centre", "placement must be inside or anywhere"),
        ("scenes:new?placement=anywhere&placement=inside", "twice"),
        ("scenes:new?train=3&", "unknown option ''"),
    ],
)
def test_bad_references_are_refused_in_two_lines(reference, words):
    with pytest.raises(DataError) as error:
        open_scenes(reference, seed=0)
    assert words in str(error.value)
    assert len(str(error.value).splitlines()) <= 2


COUNTS = {"train": 6, "validation": 3, "test": 2}


def test_where_main_objects_lie_may_be_asked_for(tmp_path):
    data = open_scenes("scenes:new?placement=anywhere&train=4&seed=2")
    assert "main objects anywhere" in data.layout
    sample = data.splits["train"][3]
    assert sample.picture == ScenePicture("new", 2, "train", 3, placement="anywhere")
    assert sample.picture.read_bytes() != ScenePicture("new", 2, "train", 3).read_bytes()
    assert sample.label == ScenePicture("new", 2, "train", 3).label
    inside = open_scenes("scenes:new?placement=inside&train=4&seed=2").splits["train"][3]
    assert inside == open_scenes("scenes:new?train=4&seed=2").splits["train"][3]
    folder = write_scenes(tmp_path / "out", "new", {"train": 4}, seed=2, placement="anywhere")
    (path,) = (folder / "train").rglob("000003.png")
    assert np.array_equal(np.asarray(Image.open(path)), sample.picture.pixels())


@pytest.mark.parametrize("layout", ["folders", "flat", "coco"])
def test_written_scenes_read_back(tmp_path, layout):
    folder = write_scenes(tmp_path / "out", "new", COUNTS, size=48, seed=2, layout=layout)
    lines = [json.loads(line) for line in (folder / "captions.jsonl").read_text().splitlines()]
    assert len(lines) == sum(COUNTS.values())
    pictures = [ScenePicture("new", 2, split, index, 48) for split, n in COUNTS.items() for index in range(n)]
    for line, picture in zip(lines, pictures, strict=True):
        scene = picture.scene
        with Image.open(folder / line["file"]) as image:
            assert image.mode == "RGB"
            assert np.array_equal(np.asarray(image), scene.pixels)
        with Image.open(folder / line["mask"]) as image:
            assert image.mode == "L"
            assert np.array_equal(np.asarray(image), scene.label_map)
        assert line["split"] == picture.split
        assert line["label"] == scene.objects[0].shape
        assert [item["shape"] for item in line["objects"]] == [item.shape for item in scene.objects]
        assert [each["text"] for each in line["captions"]] == [caption.text for caption in scene.captions]
        for each in line["captions"]:
            for start, end, index in each["mentions"]:
                assert each["text"][start:end] == line["objects"][index]["shape"]
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*.png")}
    assert files == {line["file"] for line in lines} | {line["mask"] for line in lines}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_layouts_on_disk(tmp_path):
    label = FAMILIES["base"].labels[ScenePicture("base", 0, "train", 0).label]
    assert (write_scenes(tmp_path / "a", "base", {"train": 1}) / "train" / label / "000000.png").is_file()
    flat = write_scenes(tmp_path / "b", "base", {"train": 1}, layout="flat")
    assert (flat / "train" / f"{label}_000000.png").is_file()
    assert (flat / "masks" / "train" / f"{label}_000000.png").is_file()


def test_coco_annotations(tmp_path):
    folder = write_scenes(tmp_path / "out", "base", COUNTS, layout="coco")
    images_so_far: set[int] = set()
    for split, name in {"train": "train2017", "validation": "val2017", "test": "test2017"}.items():
        document = json.loads((folder / "annotations" / f"captions_{name}.json").read_text())
        images = {image["id"]: image for image in document["images"]}
        assert len(images) == COUNTS[split]
        assert not images_so_far & set(images)
        images_so_far |= set(images)
        for number, image in images.items():
            assert image["file_name"] == f"{number:012d}.png"
            assert Image.open(folder / name / image["file_name"]).size == (image["width"], image["height"])
            assert sum(entry["image_id"] == number for entry in document["annotations"]) >= 4
        assert len({entry["id"] for entry in document["annotations"]}) == len(document["annotations"])


def test_a_folder_in_use_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("kept")
    with pytest.raises(DataError, match="not an empty folder"):
        write_scenes(tmp_path, "base", {"train": 1})
    with pytest.raises(DataError, match="not an empty folder"):
        write_scenes(tmp_path / "mine.txt", "base", {"train": 1})
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    (tmp_path / "empty").mkdir()
    killed = f"{ProcessIdentity.current().machine}-{2**31 - 1}-1"  # no process has such a number
    (tmp_path / f".{killed}-0123abcd.part" / "test").mkdir(parents=True)
    assert (write_scenes(tmp_path / "empty", "base", {"test": 1}) / "test").is_dir()
    assert not list(tmp_path.glob(".*.part")), "a killed call's half is gone"


def test_a_failure_leaves_nothing_behind(tmp_path, monkeypatch):
    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("vitrine.data.scenes.export._save", fail)
    with pytest.raises(OSError, match="disk full"):
        write_scenes(tmp_path / "out", "base", {"train": 1})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"family": "old"}, "there are base, new"),
        ({"layout": "zip"}, "folders, flat, coco"),
        ({"placement": "centre"}, "inside, anywhere"),
        ({"counts": {}}, "1 or more"),
        ({"counts": {"train": 0}}, "1 or more"),
        ({"counts": {"val": 3}}, "train, validation, test"),
        ({"size": 16}, "32 to 512"),
        ({"seed": -1}, "seed must be"),
    ],
)
def test_arguments_that_cannot_be_used(tmp_path, changes, words):
    arguments = {"family": "base", "counts": {"train": 1}} | changes
    with pytest.raises(DataError, match=words):
        write_scenes(tmp_path / "out", **arguments)
    assert list(tmp_path.iterdir()) == []
