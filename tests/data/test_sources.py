"""Every layout that data may have, and what is said of those that they may not have."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import os
import shutil
import sys
import tarfile
import types
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.paths import SHARED
from support.stand_in_hub import HTML, Fault, StandInHub

from vitrine.data.image_folder import UnknownLayoutError, list_pictures, ordered_labels, read_pictures
from vitrine.data.samples import Dataset, FiniteSplit
from vitrine.data.sources import open_data, open_unlabelled
from vitrine.errors import DataError, PictureError
from vitrine.io import network

needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the real photographs of ../shared/data are not here")


def png(seed: int = 0) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def fill(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(len(name)) if path.suffix.lower() in (".png", ".jpg", ".jpeg") else b"text")
    return root


def table(data: Dataset) -> dict[str, dict[str, str]]:
    """Split to {name: class name}."""
    return {
        split: {s.name: data.labels[s.label] for s in samples if s.label is not None}
        for split, samples in data.splits.items()
    }


def has_note(data: Dataset, *words: str) -> bool:
    return any(all(word in note for word in words) for note in data.notes)


# Folders


def test_class_folders(tmp_path: Path) -> None:
    fill(tmp_path, *(f"{label}/{n}.png" for label in ("dog", "cat", "été") for n in range(5)))
    data = open_data(str(tmp_path))
    assert data.layout == "class folders"
    assert data.labels == ("cat", "dog", "été")
    assert Counter(s.label for s in data.splits["validation"]) == {0: 1, 1: 1, 2: 1}
    assert Counter(s.label for s in data.splits["train"]) == {0: 4, 1: 4, 2: 4}
    assert has_note(data, "3 of 15", "seed 0")
    assert data.splits["train"][0].picture.decode().size == (4, 4)
    assert table(open_data(str(tmp_path))) == table(data)
    assert table(open_data(str(tmp_path), seed=3)) != table(data)


@pytest.mark.parametrize("validation", ["val", "valid", "validation", "Val"])
def test_split_folders(tmp_path: Path, validation: str) -> None:
    fill(tmp_path, "train/a/1.png", "train/b/1.PNG", f"{validation}/a/2.png", "test/b/3.jpeg", "extra/a/1.png")
    data = open_data(str(tmp_path))
    assert table(data) == {
        "train": {"train/a/1.png": "a", "train/b/1.PNG": "b"},
        "validation": {f"{validation}/a/2.png": "a"},
        "test": {"test/b/3.jpeg": "b"},
    }
    assert list(data.splits) == ["train", "validation", "test"]
    assert has_note(data, "extra")


def test_flat_files(tmp_path: Path) -> None:
    fill(tmp_path, "american_bulldog_12.jpg", "american_bulldog_7.jpg", "Bengal_1.jpg", "with space_2.jpg", "x.txt")
    fill(tmp_path / "masks", "american_bulldog_12.png")
    data = open_data(str(tmp_path))
    assert data.labels == ("Bengal", "american_bulldog", "with space")
    assert data.layout == "flat files {label}_{id}"
    assert has_note(data, "masks")
    assert has_note(data, "1 file was left aside", ".txt 1")
    assert has_note(data, "2 classes with a single")


def test_flat_files_with_integer_labels_in_split_folders(tmp_path: Path) -> None:
    fill(tmp_path, *(f"train/{label}_{label}00.jpg" for label in range(12)), "val/3_1.jpg", "masks/3_1.png")
    data = open_data(str(tmp_path))
    assert data.labels == tuple(str(label) for label in range(12))
    assert data.splits["validation"][0].label == 3
    assert has_note(data, "masks")


def test_some_flat_files_have_no_label(tmp_path: Path) -> None:
    fill(tmp_path, "a_1.png", "a_2.png", "b_1.png", "cover.png")
    data = open_data(str(tmp_path))
    assert sum(map(len, data.splits.values())) == 3
    assert has_note(data, "1 picture", "{label}_{id}")


def test_integer_labels_are_in_numeric_order() -> None:
    assert ordered_labels(["10", "9", "0", "9"]) == ("0", "9", "10")
    assert ordered_labels(["10", "9", "a"]) == ("10", "9", "a")
    assert ordered_labels(["b", "B", "a"]) == ("B", "a", "b")


def test_clutter_is_ignored_and_the_rest_is_counted(tmp_path: Path) -> None:
    fill(tmp_path, "a/1.png", "a/2.png", "b/1.png", "b/2.png", "a/.hidden.png", "a/Thumbs.db", ".git/x/1.png")
    fill(tmp_path, "b/.DS_Store", "__MACOSX/a/1.png", "empty/readme.txt", "a/notes.heic", "a/deep/3.png", "cover.png")
    data = open_data(str(tmp_path))
    assert data.labels == ("a", "b")
    assert sum(map(len, data.splits.values())) == 5
    assert has_note(data, "2 files were left aside", ".heic 1", ".txt 1")
    assert has_note(data, "no classes", "empty/")
    assert has_note(data, "1 picture in folders below")
    assert has_note(data, "1 picture", "beside the class folders")


def test_one_class_only(tmp_path: Path) -> None:
    data = open_data(str(fill(tmp_path, "cat/1.png", "cat/2.png")))
    assert has_note(data, "one class")


def test_a_class_that_training_lacks_and_a_folder_called_like_a_split(tmp_path: Path) -> None:
    fill(tmp_path, "train/a/1.png", "train/b/1.png", "val/c/1.png")
    assert has_note(open_data(str(tmp_path)), "validation", "no training picture", "c")
    other = fill(tmp_path / "other", "cat/1.png", "cat/2.png", "test/1.png")
    assert has_note(open_data(str(other)), "sound like splits", "test")


def test_an_unlabelled_test_folder_is_left_aside(tmp_path: Path) -> None:
    fill(tmp_path, "train/a/1.png", "train/a/2.png", "train/b/1.png", "test/1.png", "val/a_1.png")
    data = open_data(str(tmp_path))
    assert set(data.splits) == {"train", "validation"}
    assert has_note(data, "test/ was left aside", "1 picture such as 1.png")
    assert has_note(data, "val/ was left aside", "flat files")
    assert has_note(data, "no validation split")


EIGHT = range(8)
ALIKE: dict[str, list[str]] = {
    "bus, car, train": [f"{label}/{n}.png" for label in ("bus", "car", "train") for n in EIGHT],
    "camera names": [f"{label}/IMG_{n}.png" for label in ("bus", "car", "train") for n in EIGHT],
    "two cameras": [f"{label}/{camera}_{n}.png" for label in ("bus", "car", "train") for n in EIGHT for camera in "ab"],
    "train and test of many": [f"{label}/{n}.png" for label in ("train", "test", "exam", "quiz") for n in EIGHT],
    "Dev, Val": [f"{label}/{n}.png" for label in ("Dev", "Ann", "Val", "Training") for n in EIGHT],
    "an empty folder beside": [*(f"{label}/{n}.png" for label in ("bus", "train") for n in EIGHT), "notes/a.txt"],
    "all, data, images": [f"{label}/{n}.png" for label in ("all", "data", "images", "train") for n in EIGHT],
}
SPLITS: dict[str, list[str]] = {
    "classes below": [f"{split}/{label}/{n}.png" for split in ("train", "test") for label in "ab" for n in EIGHT],
    "labels in names": [f"{split}/{label}_{n}.png" for split in ("train", "val") for label in "ab" for n in EIGHT],
    "masks beside": [f"{part}/{label}/{n}.png" for part in ("train", "test", "masks") for label in "ab" for n in EIGHT],
    "train alone": [f"train/{label}/{n}.png" for label in "ab" for n in EIGHT],
    "something else beside train": [*(f"train/{label}/{n}.png" for label in "ab" for n in EIGHT), "extra/1.png"],
    "labels in names, others beside": [*(f"train/{label}_{n}.png" for label in "ab" for n in EIGHT), "extra/1.png"],
}


@pytest.mark.parametrize("kind", ALIKE)
def test_a_class_may_be_called_like_a_split(kind: str, tmp_path: Path) -> None:
    data = open_data(str(fill(tmp_path, *ALIKE[kind])))
    folders = {name.partition("/")[0] for name in ALIKE[kind] if name.endswith(".png")}
    assert set(data.labels) == folders and set(data.splits) == {"train", "validation"}
    assert has_note(data, "classes", next(name for name in folders if name.lower() in ("train", "training")))
    try:
        labels = set(open_data(f"{tmp_path}?folders=splits").labels)
    except DataError:  # as splits they hold no labels, or those of cameras
        labels = set()
    assert not labels & folders


@pytest.mark.parametrize("kind", SPLITS)
def test_splits_are_read_as_splits(kind: str, tmp_path: Path) -> None:
    fill(tmp_path, *SPLITS[kind])
    data = open_data(str(tmp_path))
    assert data.labels == ("a", "b") and "train" in data.splits
    assert not any("folders=" in note for note in data.notes)
    if any(name.count("/") == 2 for name in SPLITS[kind]) and kind == "train alone":
        return  # one folder with all of the pictures below it is refused as a wrong level
    assert "train" in open_data(f"{tmp_path}?folders=classes").labels


def test_what_is_not_clear_is_said_with_the_word_that_decides(tmp_path: Path) -> None:
    fill(tmp_path, *(f"{part}/{label}/{n}.png" for part in ("train", "bus") for label in "ab" for n in EIGHT))
    data = open_data(str(tmp_path))
    assert data.labels == ("a", "b") and has_note(data, "Read as splits", "train/", "?folders=classes")
    assert open_data(f"{tmp_path}?folders=classes").labels == ("bus", "train")
    with pytest.raises(DataError, match="folders=classes or folders=splits"):
        open_data(f"{tmp_path}?folders=maybe")


def test_only_a_test_split(tmp_path: Path) -> None:
    data = open_data(str(fill(tmp_path, "test/a/1.png", "test/b/1.png")))
    assert set(data.splits) == {"test"}


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["1.png", "2.png"], "2 pictures such as 1.png"),
        ([], "no pictures"),
        (["a/x.txt"], "1 folder without pictures such as a/"),
        (["train/1.png"], "1 picture such as 1.png"),
        (["wrapper/cat/1.png", "wrapper/dog/1.png"], "wrapper itself"),
        (["cat/train/1.png", "dog/test/1.png"], "cat/train"),
        (["train/a/1.png", "val/a/1.png", "valid/a/1.png"], "two folders for the split validation"),
    ],
)
def test_unknown_layouts_say_what_was_found(tmp_path: Path, names: list[str], words: str) -> None:
    with pytest.raises(DataError) as error:
        open_data(str(fill(tmp_path, *names)))
    assert words in str(error.value)
    assert len(str(error.value).splitlines()) <= 2
    if isinstance(error.value, UnknownLayoutError):
        assert "class folders" in str(error.value)


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no file or folder"):
        open_data(str(tmp_path / "absent"))
    with pytest.raises(DataError, match="no manifest"):
        open_data(str(fill(tmp_path, "a.png") / "a.png"))
    with pytest.raises(DataError, match="val_fraction"):
        open_data(str(tmp_path), val_fraction=1.0)


def test_links(tmp_path: Path) -> None:
    fill(tmp_path, "a/1.png", "b/1.png")
    (tmp_path / "a" / "loop").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "b" / "self.png").symlink_to(tmp_path / "b" / "self.png")
    (tmp_path / "b" / "broken.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "b" / "good.png").symlink_to(tmp_path / "a" / "1.png")
    names = [s.name for s in list_pictures(tmp_path)]
    assert names == ["a/1.png", "b/1.png", "b/broken.png", "b/good.png", "b/self.png"]
    broken_samples = [s for s in list_pictures(tmp_path) if s.name in ("b/broken.png", "b/self.png")]
    for sample in broken_samples:
        with pytest.raises(PictureError):
            sample.picture.decode()


def test_an_unreadable_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, "a/1.png")

    def refuse(path: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match="cannot be read: Permission denied"):
        open_data(str(tmp_path))


# Pictures without labels


def test_pictures_come_in_the_order_of_their_names(tmp_path: Path) -> None:
    names = ["b.png", "a/2.png", "a/1.png", "a.png", "a-b.png", "a/z/0.png", "A.JPG", "ü.png", "1 2.png"]
    fill(tmp_path, *names, "x.txt")
    pictures = read_pictures(tmp_path)
    assert [sample.name for sample in pictures.samples] == sorted(names)
    assert pictures.aside.extensions == {".txt": 1}
    assert all(s.label is None for s in list_pictures(tmp_path))
    assert [s.name for s in list_pictures(tmp_path / "b.png")] == ["b.png"]
    assert set(open_unlabelled(str(tmp_path)).splits) == {"pictures"}


def test_no_pictures(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no pictures.*\.txt 1"):
        list_pictures(fill(tmp_path, "x.txt"))
    with pytest.raises(DataError, match="no file or folder"):
        list_pictures(tmp_path / "absent")


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS refuses file names that are not UTF-8")
def test_names_that_are_not_utf8_can_be_written(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"caf\xe9.png")).write_bytes(png())
    (sample,) = list_pictures(tmp_path)
    assert sample.name.encode("utf-8") == b"caf\\udce9.png"
    assert sample.picture.decode().size == (4, 4)


# Manifests


def write(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_csv_manifest(tmp_path: Path) -> None:
    fill(tmp_path, "p/1.png", "p/2.png", "p/3, really.png")
    text = '\ufeffImage_Path,Label,split,note\np/1.png,01,train,\np/2.png,1,TEST,x\n"p/3, really.png",2,val,\n'
    data = open_data(write(tmp_path / "m.csv", text))
    assert data.labels == ("01", "1", "2")
    assert table(data) == {
        "train": {"p/1.png": "01"},
        "validation": {"p/3, really.png": "2"},
        "test": {"p/2.png": "1"},
    }
    assert has_note(data, "Columns used: Image_Path, Label, split", "not used: note")
    assert data.splits["test"][0].picture.decode().size == (4, 4)


def test_other_delimiters_and_absolute_paths(tmp_path: Path) -> None:
    fill(tmp_path / "elsewhere", "1.png", "2.png", "3.png", "4.png")
    rows = "".join(f"{tmp_path / 'elsewhere'}/{n}.png;{'ab'[n % 2]}\n" for n in range(1, 5))
    (tmp_path / "tables").mkdir()
    data = open_data(write(tmp_path / "tables" / "m.csv", "filename;class\n" + rows))
    assert data.labels == ("a", "b")
    assert sum(map(len, data.splits.values())) == 4
    assert data.splits["train"][0].name.startswith("../elsewhere/")
    tabs = write(tmp_path / "m.tsv", "file\tcategory\nelsewhere\\1.png\ta\nelsewhere\\2.png\tb\n")
    assert open_data(tabs).splits["train"][0].picture.decode().size == (4, 4)


def test_manifest_rows_that_cannot_be_used(tmp_path: Path) -> None:
    fill(tmp_path, "1.png", "2.png")
    text = "path,label\n1.png,a\n1.png,a\n2.png,b\n3.png,a\n2.png,\n"
    data = open_data(write(tmp_path / "m.csv", text))
    assert has_note(data, "1 of 3 files does not exist: 3.png")
    assert has_note(data, "1 row with the content of a row above was left aside")
    assert has_note(data, "1 row without a label")
    for text, words in [
        ("path,label\n1.png,a\n1.png,b\n", "rows 2 and 3"),
        ("path,label,split\n1.png,a,train\n1.png,a,test\n", "rows 2 and 3"),
        ("path,label,split\n1.png,a,holdout\n", "'holdout'"),
        ("path,label\n,a\n", "row 2"),
        ("path,label\n8.png,a\n9.png,a\n", "none of its 2 pictures"),
        ("name,kind\n1.png,a\n", "it has name, kind"),
        ("path,label\n1.png,a,b\n", "line 2 has 3 cells"),
        ("path,label\n1.png,\n", "no row with a label"),
        ("", "needs the columns"),
    ]:
        with pytest.raises(DataError, match=words):
            open_data(write(tmp_path / "m.csv", text))
    (tmp_path / "m.csv").write_bytes(b"path,label\n\xff\xfe,a\n")
    with pytest.raises(DataError, match="line 2 is not UTF-8"):
        open_data(str(tmp_path / "m.csv"))


def test_columns_can_be_chosen(tmp_path: Path) -> None:
    fill(tmp_path, "1.png", "2.png")
    reference = write(tmp_path / "m.csv", "f,fine,coarse\n1.png,a,x\n2.png,b,x\n")
    assert open_data(f"{reference}?image=f&label=fine").labels == ("a", "b")
    assert open_data(f"{reference}?image=f&label=coarse").labels == ("x",)
    with pytest.raises(DataError, match="'nope'"):
        open_data(f"{reference}?image=f&label=nope")
    with pytest.raises(DataError, match="no option"):
        open_data(f"{reference}?column=f")


def test_an_option_that_nothing_reads_is_refused(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    fill(tmp_path, "cat/1.png", "cat/2.png", "dog/3.png")
    for option in ("encoding=cp1252", "pictures=x", "label=x"):
        with pytest.raises(DataError, match="no table"):
            open_data(f"{tmp_path}?{option}")
    pyarrow.parquet.write_table(pyarrow.table({"path": ["cat/1.png"], "label": ["a"]}), tmp_path / "m.parquet")
    with pytest.raises(DataError, match="encoding= is of tables in text files"):
        open_data(f"{tmp_path / 'm.parquet'}?encoding=cp1252")
    with pytest.raises(DataError, match="encoding= is of tables in text files"):
        open_data("hf:owner/name?encoding=cp1252")


def test_parquet_manifest(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    fill(tmp_path, "1.png", "2.png", "3.png")
    rows = pyarrow.table({"path": ["1.png", "2.png", "3.png"], "label": [10, 9, None], "box": [[1], [2], [3]]})
    pyarrow.parquet.write_table(rows, tmp_path / "m.parquet")
    data = open_data(str(tmp_path / "m.parquet"))
    assert data.labels == ("9", "10")
    assert has_note(data, "1 row without a label")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(DataError, match="cannot be read as a table"):
        open_data(str(tmp_path / "bad.parquet"))


def test_metadata_beside_the_pictures(tmp_path: Path) -> None:
    fill(tmp_path, "1.png", "2.png")
    write(tmp_path / "metadata.jsonl", '{"file_name": "1.png", "label": "a"}\n{"file_name": "2.png", "label": "b"}\n')
    data = open_data(str(tmp_path))
    assert (data.layout, data.labels) == ("manifest jsonl", ("a", "b"))


# Hugging Face datasets


@pytest.fixture
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setenv("VITRINE_CACHE", str(tmp_path / "cache"))
    features = datasets.Features(
        image=datasets.Image(), fine=datasets.ClassLabel(names=["z", "y"]), coarse=datasets.ClassLabel(names=["x"])
    )
    cells = [{"bytes": png(n), "path": None} for n in range(4)]
    return datasets.Dataset.from_dict(
        {"image": cells, "fine": [0, 1, 0, -1], "coarse": [0, 0, 0, 0]}, features=features
    )


def test_saved_data_set(tmp_path: Path, rows: object) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.DatasetDict(train=rows, test=rows, extra=rows).save_to_disk(tmp_path / "saved")
    with pytest.raises(DataError, match=r"several label columns .fine, coarse"):
        open_data(str(tmp_path / "saved"))
    data = open_data(f"hf:{tmp_path / 'saved'}?label=fine")
    assert data.labels == ("z", "y")
    assert [s.label for s in data.splits["test"]] == [0, 1, 0]
    assert has_note(data, "1 row of test without a label was")
    assert has_note(data, "left aside: extra")
    assert has_note(data, "Read from", "saved")
    sample = data.splits["test"][1]
    assert sample.name == "test/000001"
    assert sample.picture.read_bytes() == png(1)
    assert sample.picture.decode().size == (4, 4)
    one = rows.select_columns(["image", "fine"])  # type: ignore[attr-defined]
    one.save_to_disk(tmp_path / "one")
    assert set(open_data(str(tmp_path / "one")).splits) == {"train", "validation"}


def test_parquet_files_with_pictures(tmp_path: Path, rows: object) -> None:
    (tmp_path / "data").mkdir()
    for split in ("train", "test"):
        rows.to_parquet(tmp_path / "data" / f"{split}-00000-of-00001.parquet")  # type: ignore[attr-defined]
    data = open_data(f"{tmp_path}?label=fine")
    assert data.labels == ("z", "y")
    assert sorted(data.splits) == ["test", "train", "validation"]
    assert data.splits["test"][0].picture.read_bytes() == png(0)


def test_a_hub_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    import huggingface_hub

    def unreachable(*args: object, **options: object) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", unreachable)
    monkeypatch.setenv("VITRINE_CACHE", str(tmp_path / "cache"))
    before = huggingface_hub.constants.HF_HUB_OFFLINE
    with pytest.raises(DataError, match=r"cannot be reached(.|\n)*save_to_disk"):
        open_data("hf:nobody/nothing-of-that-name")
    assert before == huggingface_hub.constants.HF_HUB_OFFLINE
    monkeypatch.undo()
    with pytest.raises(DataError, match="expected hf:owner/name"):  # refused before anything is asked of the hub
        open_data("hf:a/b/c")


GATED = {"X-Error-Code": "GatedRepo"}
HUB_FAULTS = {
    "gated": (
        Fault(403, GATED),
        "is gated.*Accept its terms at .*/datasets/owner/pictures, log in with 'hf auth login'",
        0,
    ),
    "private": (Fault(401, {"X-Error-Code": "RepoNotFound"}), "or it is private.*hf auth login", 0),
    "no revision": (Fault(404, {"X-Error-Code": "RevisionNotFound"}), "has no revision", 0),
    "busy": (Fault(429, {"Retry-After": "5"}), r"refuses \(the server answers 429 .*asks to wait 5 s", 3),
    "busy for a day": (Fault(429, {"Retry-After": "86400"}), "asks to wait 86,400 s", 0),
    "out of order": (Fault(503), r"refuses \(the server answers 503", 3),
    "a page": (Fault(body=HTML, headers={"Content-Type": "text/html"}), "a web page came in place of the file", 0),
}


@pytest.mark.parametrize("case", HUB_FAULTS)
def test_a_hub_behind_a_bad_network(
    case: str, rows: object, hub_of_data: StandInHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    fault, expected, tries = HUB_FAULTS[case]
    waits: list[float] = []
    monkeypatch.setattr(network, "pause", waits.append)
    hub_of_data.faults["api"] = fault
    with pytest.raises(DataError, match="(?s)" + expected) as error:
        open_data("hf:owner/pictures")
    assert len(str(error.value).splitlines()) <= 2 and len(waits) == tries
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: rows)
    hub_of_data.faults["api"] = dataclasses.replace(fault, times=2 if tries else 0)
    data = open_data("hf:owner/pictures?label=fine")
    assert len(data.splits["train"]) > 0 and not has_note(data, "an earlier download is used")


@pytest.mark.parametrize(("failures", "waits"), [(2, [1, 2]), (9, [1, 2, 4])])
def test_a_download_of_a_data_set_is_taken_up(
    failures: int, waits: list[float], rows: object, hub_of_data: StandInHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    pauses: list[float] = []
    monkeypatch.setattr(network, "pause", pauses.append)
    outcomes = iter([*[503] * failures, None])

    def load(*_: object, **__: object) -> object:
        if (status := next(outcomes)) is not None:
            raise datasets.exceptions.DatasetGenerationError("failed") from network.StatusError(status)
        return rows

    monkeypatch.setattr(datasets, "load_dataset", load)
    if failures < network.DOWNLOAD_ATTEMPTS:
        assert len(open_data("hf:owner/pictures?label=fine").splits["train"]) > 0
    else:
        with pytest.raises(DataError, match=r"hf:owner/pictures cannot be loaded: the server answers 503"):
            open_data("hf:owner/pictures")
    assert pauses == waits


def test_what_the_hub_sends_of_a_data_set_has_its_hash(
    rows: object, hub_of_data: StandInHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    content = b"parquet" * 100
    folder, arrow = tmp_path / "cache" / "hub" / "datasets--owner--pictures", tmp_path / "cache" / "datasets"
    blob, pointer = folder / "blobs" / hashlib.sha256(content).hexdigest(), folder / "snapshots" / "1" / "a.parquet"

    def load(sent: bytes) -> object:
        for path in (blob, pointer, arrow / "owner___pictures" / "a.arrow"):
            path.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(sent)
        pointer.unlink(missing_ok=True)
        pointer.symlink_to(blob)
        (arrow / "owner___pictures" / "a.arrow").write_bytes(sent)
        return rows

    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: load(content[:-1] + b"?"))
    with pytest.raises(
        DataError, match=r"is damaged: a file of hf:owner/pictures should have the sha256(?s:.*)try again"
    ):
        open_data("hf:owner/pictures?label=fine")
    assert not [path for path in (tmp_path / "cache").rglob("*") if not path.is_dir()], "nothing is kept"
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: load(content))
    assert len(open_data("hf:owner/pictures?label=fine").splits["train"]) > 0


@pytest.fixture
def hub_of_data(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandInHub]:
    """A hub whose programming interface knows every data set; none can be downloaded."""
    from huggingface_hub import constants, hf_api

    with StandInHub().running() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.address)
        monkeypatch.setattr(hf_api.api, "endpoint", hub.address)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield hub


# Oxford-IIIT Pets


def fake_pets(cache: Path, per_class: int = 4) -> Path:
    folder = cache / "oxford-iiit-pet"
    (folder / "annotations").mkdir(parents=True)
    breeds = ["Abyssinian", "american_bulldog", "Bengal"]
    for part, start in (("trainval", 0), ("test", 100)):
        lines = [f"{b}_{start + n} {i + 1} 1 1" for i, b in enumerate(breeds) for n in range(per_class)]
        (folder / "annotations" / f"{part}.txt").write_text("\n".join(lines) + "\n")
        fill(folder / "images", *(f"{line.split()[0]}.jpg" for line in lines))
    return folder


def test_pets_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VITRINE_CACHE", str(tmp_path))
    folder = fake_pets(tmp_path, 20)
    data = open_data("oxford-pets")
    assert data.labels == ("Abyssinian", "American Bulldog", "Bengal")
    assert {split: len(samples) for split, samples in data.splits.items()} == {
        "train": 48,
        "validation": 12,
        "test": 60,
    }
    assert has_note(data, str(folder))
    cut = open_data("oxford-pets:reference", seed=5)
    sizes = {split: len(samples) for split, samples in cut.splits.items()}
    assert sizes == {"train": 60, "validation": round(60 * 1500 / 3669), "test": 60 - round(60 * 1500 / 3669)}
    assert table(cut) == table(open_data("oxford-pets:reference", seed=6))
    assert has_note(cut, "seed 0")
    with pytest.raises(DataError, match="known are"):
        open_data("oxford-pets:other")
    (folder / "images" / "Bengal_100.jpg").unlink()
    with pytest.raises(DataError, match=r"incomplete: 1 picture is missing, such as images/Bengal_100\.jpg"):
        open_data("oxford-pets")
    (folder / "annotations" / "test.txt").write_text("Bengal one\n")
    with pytest.raises(DataError, match="cannot be read"):
        open_data("oxford-pets")


@pytest.fixture
def pets_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandInHub]:
    """Small pets at an address with their hashes, as torchvision states them; nobody waits."""
    from torchvision.datasets import OxfordIIITPet

    folder, there = fake_pets(tmp_path / "made"), tmp_path / "there"
    there.mkdir()
    with StandInHub({"a/b": there}).running() as server:
        resources = []
        for part in ("images", "annotations"):
            with tarfile.open(there / f"{part}.tar.gz", "w:gz") as archive:
                archive.add(folder / part, part)
            checksum = hashlib.md5((there / f"{part}.tar.gz").read_bytes()).hexdigest()
            resources.append((server.file_address("a/b", f"{part}.tar.gz"), checksum))
        monkeypatch.setattr(OxfordIIITPet, "_RESOURCES", tuple(resources))
        monkeypatch.setenv("VITRINE_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(network, "pause", lambda _: None)
        yield server


def test_pets_are_downloaded_once(pets_server: StandInHub, tmp_path: Path) -> None:
    folder = tmp_path / "cache" / "oxford-iiit-pet"
    assert len(open_data("oxford-pets").splits["test"]) == 12
    assert {path.name for path in folder.iterdir()} == {
        "images", "images.tar.gz", "annotations", "annotations.tar.gz"
    }  # fmt: skip
    shutil.rmtree(folder / "images")
    pets_server.faults["images.tar.gz"] = Fault(403)
    assert len(open_data("oxford-pets").splits["test"]) == 12, "the archive is here"
    shutil.rmtree(folder / "images")
    (folder / "images.tar.gz").write_bytes(b"cut short")
    with pytest.raises(DataError, match=r"answers 403 \(Forbidden\)(?s:.*) by hand"):
        open_data("oxford-pets")
    pets_server.faults.clear()
    assert len(open_data("oxford-pets").splits["test"]) == 12


PETS_FAULTS = {
    "other bytes": (Fault(flip_at=-1), "came damaged: its md5 should be"),
    "short": (Fault(sent=0.5, is_short=True), "came damaged: its md5 should be"),
    "cut off": (Fault(sent=0.5), "the connection ended after"),
    "a page": (Fault(body=HTML, headers={"Content-Type": "text/html"}), "a web page came in place of the file"),
    "busy": (Fault(429, {"Retry-After": "2"}), "answers 429"),
    "nobody there": (Fault(), "connection refused"),
}


@pytest.mark.parametrize("case", PETS_FAULTS)
def test_pets_over_a_bad_network(
    case: str, pets_server: StandInHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision.datasets import OxfordIIITPet

    fault, expected = PETS_FAULTS[case]
    pets_server.faults["annotations.tar.gz"] = fault
    if case == "nobody there":
        images, (address, checksum) = OxfordIIITPet._RESOURCES
        away = address.replace(pets_server.address, "http://127.0.0.1:9")  # the discard port: nothing listens
        monkeypatch.setattr(OxfordIIITPet, "_RESOURCES", (images, (away, checksum)))
    folder = tmp_path / "cache" / "oxford-iiit-pet"
    with pytest.raises(DataError, match=expected) as error:
        open_data("oxford-pets")
    message = str(error.value)
    assert "annotations.tar.gz" in message and str(folder) in message and "by hand" in message
    assert len(message.splitlines()) == 2
    assert {path.name for path in folder.iterdir()} == {"images", "images.tar.gz"}, "nothing half"
    if case != "nobody there":
        times = 2 if case in ("cut off", "busy") else 0
        pets_server.faults["annotations.tar.gz"] = dataclasses.replace(fault, times=times)
        assert len(open_data("oxford-pets").splits["test"]) == 12


# Scenes and the real pictures


def test_scenes_are_delegated(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in = types.ModuleType("vitrine.data.scenes")
    expected = Dataset("scenes:base", "scenes", ("a",), {"train": FiniteSplit([])})
    calls: list[tuple[str, int]] = []

    def open_scenes(reference: str, *, seed: int) -> Dataset:
        calls.append((reference, seed))
        return expected

    stand_in.open_scenes = open_scenes  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vitrine.data.scenes", stand_in)
    assert open_data("scenes:base", seed=4) is expected
    assert calls == [("scenes:base", 4)]


@needs_shared
def test_the_real_clothing() -> None:
    data = open_data(str(SHARED / "clothing"))
    assert {split: len(samples) for split, samples in data.splits.items()} == {
        "train": 3068,
        "validation": 341,
        "test": 372,
    }
    assert (data.labels[0], data.labels[-1], len(data.labels)) == ("dress", "t-shirt", 10)


@needs_shared
def test_the_real_pets() -> None:
    data = open_data(str(SHARED / "pets37"))
    assert data.labels == tuple(str(label) for label in range(37))
    assert set(Counter(s.label for s in data.splits["train"]).values()) == {7}
    assert set(Counter(s.label for s in data.splits["validation"]).values()) == {3}
    assert has_note(data, "masks")
