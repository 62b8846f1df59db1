"""Captioned pictures from every layout, and from files that nobody vouches for."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from support.paths import SHARED

from vitrine.data import decode as decoding
from vitrine.data.captions.datasets import open_captions
from vitrine.data.samples import Dataset, Sample
from vitrine.data.scenes import ScenePicture, write_scenes
from vitrine.data.splits import hold_out
from vitrine.errors import DataError

COCO = SHARED / "coco"
needs_coco = pytest.mark.skipif(not COCO.is_dir(), reason="the real captions of ../shared/data/coco are not here")

Table = dict[str, dict[str, tuple[str, ...]]]


def png(seed: int = 0) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def fill(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(png(len(name)))
    return root


def write(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def table(data: Dataset) -> Table:
    """Split to {name: captions}."""
    return {
        split: {sample.name: tuple(sample.captions) for sample in samples} for split, samples in data.splits.items()
    }


def has_note(data: Dataset, *words: str) -> bool:
    return any(all(word in note for word in words) for note in data.notes)


def coco(images: dict[int, str], captions: list[tuple[int, str | None]]) -> dict[str, Any]:
    return {
        "images": [{"id": number, "file_name": name} for number, name in images.items()],
        "annotations": [{"id": i, "image_id": number, "caption": text} for i, (number, text) in enumerate(captions)],
    }


# --- COCO


def coco_folder(root: Path) -> Path:
    fill(root, "train2017/1.png", "train2017/2.png", "val2017/3.png")
    train = coco({1: "1.png", 2: "2.png"}, [(2, "two dogs\n"), (1, " a  cat"), (2, "dogs, two")])
    write(root / "annotations" / "captions_train2017.json", train)
    write(root / "annotations" / "captions_val2017.json", coco({3: "3.png"}, [(3, "a\tcow")]))
    return root


COCO_TABLE: Table = {
    "train": {"train2017/1.png": ("a cat",), "train2017/2.png": ("two dogs", "dogs, two")},
    "validation": {"val2017/3.png": ("a cow",)},
}


def test_cocos_layout(tmp_path: Path) -> None:
    data = open_captions(str(coco_folder(tmp_path)))
    assert data.layout == "COCO captions"
    assert table(data) == COCO_TABLE
    assert data.notes == ()
    sample = data.splits["train"][1]
    assert sample == Sample("train2017/2.png", sample.picture, captions=("two dogs", "dogs, two"))
    assert sample.picture.read_bytes() == png(len("train2017/2.png"))
    assert data.splits["train"].for_epoch(3, 1) is data.splits["train"]
    assert not data.splits["train"].endless
    assert data.splits["train"][:1] == (data.splits["train"][0],)


def test_one_of_cocos_files_is_a_split_of_its_own(tmp_path: Path) -> None:
    file = coco_folder(tmp_path) / "annotations" / "captions_val2017.json"
    assert table(open_captions(str(file))) == {"validation": COCO_TABLE["validation"]}


@pytest.mark.parametrize("place", ["images/train2017", "images", "."])
def test_cocos_pictures_may_be_elsewhere(tmp_path: Path, place: str) -> None:
    fill(tmp_path / place, "1.png", "2.png", "3.png", "4.png", "5.png")
    images = {number: f"{number}.png" for number in range(1, 6)}
    captions = coco(images, [(number, f"caption {number}") for number in images])
    write(tmp_path / "annotations" / "captions_train2017.json", captions)
    data = open_captions(str(tmp_path))
    names = {name for split in table(data).values() for name in split}
    prefix = "" if place == "." else f"{place}/"
    assert names == {f"{prefix}{name}" for name in images.values()}
    assert has_note(data, "its pictures are in", place) == (place != ".")
    assert has_note(data, "1 of 5 training pictures was held out", "seed 0")


@needs_coco
def test_coco_as_it_is() -> None:
    data = open_captions(str(COCO))
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 26, "validation": 112}
    for split, part in (("train", "train2017"), ("validation", "val2017")):
        document = json.loads((COCO / "annotations" / f"captions_{part}.json").read_text(encoding="utf-8"))
        names = {image["id"]: f"{part}/{image['file_name']}" for image in document["images"]}
        slow: dict[str, list[str]] = {}
        for entry in document["annotations"]:
            slow.setdefault(names[entry["image_id"]], []).append(" ".join(entry["caption"].split()))
        assert table(data)[split] == {name: tuple(texts) for name, texts in slow.items()}
        assert {len(texts) for texts in slow.values()} == {5}
    assert data.notes == ()
    assert data.splits["validation"][0].picture.decode().mode == "RGB"


# --- Karpathy's splits


def karpathy(*images: tuple[str, str, str, list[Any]]) -> dict[str, Any]:
    return {
        "dataset": "coco",
        "images": [
            {"filename": name, "split": split, "sentences": sentences} | ({"filepath": folder} if folder else {})
            for folder, name, split, sentences in images
        ],
    }


def test_karpathys_splits(tmp_path: Path) -> None:
    fill(tmp_path, "train2014/1.png", "val2014/1.png", "val2014/2.png", "val2014/3.png")
    document = karpathy(
        ("train2014", "1.png", "train", [{"raw": "a cat", "tokens": ["a", "cat"]}, {"raw": "One cat."}]),
        ("val2014", "1.png", "restval", [{"raw": "a dog"}]),
        ("val2014", "2.png", "val", [{"raw": "a cow"}]),
        ("val2014", "3.png", "test", [{"raw": "a fish"}]),
    )
    expected = {
        "train": {"train2014/1.png": ("a cat", "One cat."), "val2014/1.png": ("a dog",)},
        "validation": {"val2014/2.png": ("a cow",)},
        "test": {"val2014/3.png": ("a fish",)},
    }
    for file in (tmp_path / "dataset_coco.json", tmp_path / "annotations" / "dataset_coco.json"):
        write(file, document)
        data = open_captions(str(file))
        assert data.layout == "Karpathy's splits"
        assert table(data) == expected
        assert has_note(data, "1 picture of restval counts as a training")
    assert table(open_captions(str(tmp_path))) == expected


def test_karpathys_pictures_may_be_in_a_folder_of_their_own(tmp_path: Path) -> None:
    fill(tmp_path, "Images/1.png", "Images/2.png", "other/9.png")
    sentences = [{"raw": "a cat"}]
    write(
        tmp_path / "dataset_flickr8k.json", karpathy(("", "1.png", "train", sentences), ("", "2.png", "val", sentences))
    )
    data = open_captions(str(tmp_path))
    assert table(data) == {"train": {"Images/1.png": ("a cat",)}, "validation": {"Images/2.png": ("a cat",)}}
    assert has_note(data, "its pictures are in Images/")


def test_of_two_kinds_of_files_one_is_read_and_that_is_said(tmp_path: Path) -> None:
    write(coco_folder(tmp_path) / "dataset_coco.json", karpathy(("val2017", "3.png", "test", [{"raw": "a cow"}])))
    data = open_captions(str(tmp_path))
    assert data.layout == "COCO captions"
    assert has_note(data, "Not used: dataset_coco.json")
    assert set(table(open_captions(str(tmp_path / "dataset_coco.json")))) == {"test"}


# --- Flickr8k


@pytest.mark.parametrize("header", ["image,caption\n", ""])
def test_flickr8ks_captions(tmp_path: Path, header: str) -> None:
    fill(tmp_path, "Images/1.png", "Images/2.png")
    lines = '1.png,A child on stairs .\n1.png,"A dog , and a ""red"" ball"\n2.png,A cat, a cow\n2.png,"Stop sign\n'
    write(tmp_path / "captions.txt", header + lines)
    data = open_captions(str(tmp_path))
    assert data.layout == "Flickr8k captions"
    both = {name: texts for split in table(data).values() for name, texts in split.items()}
    assert both == {
        "Images/1.png": ("A child on stairs .", 'A dog , and a "red" ball'),
        "Images/2.png": ("A cat, a cow", '"Stop sign'),
    }
    assert has_note(data, "1 of 2 training pictures was held out for it with all their captions, seed 0")


# --- tables


def rows_as(kind: str, columns: list[str], rows: list[list[Any]]) -> str:
    if kind == "jsonl":
        return "".join(json.dumps(dict(zip(columns, row, strict=True))) + "\n" for row in rows)
    stream = io.StringIO()
    table_writer = csv.writer(stream, delimiter="\t" if kind == "tsv" else ",")
    table_writer.writerows([columns, *rows])
    return stream.getvalue()


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl"])
def test_a_table_of_captions(tmp_path: Path, kind: str) -> None:
    fill(tmp_path, "a/1.png", "b 2.png")
    rows = [["a/1.png", "two, three\nfour", "train"], ["b 2.png", "été", "val"], ["a/1.png", "five", "train"]]
    write(tmp_path / f"captions.{kind}", rows_as(kind, ["Path", "caption", "split"], rows))
    for reference in (tmp_path, tmp_path / f"captions.{kind}"):
        data = open_captions(str(reference))
        assert data.layout == f"captions in {kind}"
        assert table(data) == {
            "train": {"a/1.png": ("two, three four", "five")},
            "validation": {"b 2.png": ("été",)},
        }
        assert data.notes == ("Columns used: Path, caption, split.",)


def test_lines_of_json_may_hold_several_captions(tmp_path: Path) -> None:
    fill(tmp_path, "1.png", "2.png")
    lines = [
        {"file_name": "1.png", "captions": ["a", "b"], "source": "x", "split": "train"},
        {"file_name": "2.png", "captions": [{"text": "c"}], "source": "x", "split": "val"},
    ]
    write(tmp_path / "metadata.jsonl", "\n\n".join(map(json.dumps, lines)))
    data = open_captions(str(tmp_path))
    assert table(data) == {"train": {"1.png": ("a", "b")}, "validation": {"2.png": ("c",)}}
    assert has_note(data, "Columns used: file_name, captions, split; not used: source.")


def test_paths_may_be_absolute_or_of_windows_if_they_stay_inside(tmp_path: Path) -> None:
    fill(tmp_path, "a/1.png", "a/2.png")
    rows = [
        [str(tmp_path / "a" / "1.png"), "one", "train"],
        ["a\\2.png", "two", "val"],
        ["x/../a/1.png", "uno", "train"],
    ]
    data = open_captions(str(write(tmp_path / "captions.csv", rows_as("csv", ["path", "caption", "split"], rows))))
    assert table(data) == {"train": {"a/1.png": ("one", "uno")}, "validation": {"a/2.png": ("two",)}}


# --- scenes


@pytest.mark.parametrize(
    ("layout", "expected_layout"),
    [("folders", "written scenes"), ("flat", "written scenes"), ("coco", "COCO captions")],
)
def test_written_scenes_have_the_captions_they_were_drawn_with(
    tmp_path: Path, layout: Any, expected_layout: str
) -> None:
    counts = {"train": 3, "validation": 2, "test": 1}
    data = open_captions(str(write_scenes(tmp_path / "scenes", "new", counts, size=32, layout=layout)))
    assert data.layout == expected_layout
    assert {name: len(split) for name, split in data.splits.items()} == counts
    for split, count in counts.items():
        pictures = [ScenePicture("new", 0, split, index, 32) for index in range(count)]
        expected = {p.read_bytes(): tuple(caption.text for caption in p.scene.captions) for p in pictures}
        captions_by_pixels = {
            Image.open(io.BytesIO(s.picture.read_bytes())).tobytes(): s.captions for s in data.splits[split]
        }
        assert captions_by_pixels == {Image.open(io.BytesIO(data)).tobytes(): texts for data, texts in expected.items()}


def test_generated_scenes_bring_their_captions() -> None:
    data = open_captions("scenes:new?train=4&validation=2&test=1&size=32&seed=3")
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 4, "validation": 2, "test": 1}
    sample = data.splits["validation"][1]
    assert sample.name == "new/validation/000001.png" and sample.label is None and data.labels == ()
    scene = ScenePicture("new", 3, "validation", 1, 32).scene
    assert tuple(sample.captions) == tuple(caption.text for caption in scene.captions)
    assert len(sample.captions) >= 4
    assert np.array_equal(np.asarray(sample.picture.decode()), scene.pixels)


def test_an_endless_stream_gives_another_window_each_epoch() -> None:
    train = open_captions("scenes:base", seed=5).splits["train"]
    assert train.endless
    with pytest.raises(TypeError, match="no length"):
        len(train)
    first, second = train.for_epoch(0, 3), train.for_epoch(1, 3)
    assert [len(first), len(second)] == [3, 3]
    assert not first.endless
    assert [s.name for s in first] == [f"base/train/{i:06d}.png" for i in range(3)]
    assert second[0] == train[3]
    assert [*open_captions("scenes:base", seed=6).splits["train"][0].captions] != [*train[0].captions]


# --- splits


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(count=st.integers(2, 12), captions=st.integers(1, 3), seed=st.integers(0, 99), share=st.floats(0.05, 0.95))
def test_a_picture_and_all_its_captions_are_in_one_split(
    tmp_path: Path, count: int, captions: int, seed: int, share: float
) -> None:
    names = [f"{number}.png" for number in range(count)]
    fill(tmp_path, *names)
    rows = [[name, f"caption {i} of {name}"] for i in range(captions) for name in names]
    reference = str(write(tmp_path / "captions.csv", rows_as("csv", ["path", "caption"], rows)))
    data = open_captions(reference, seed=seed, val_fraction=share)
    train, validation = table(data)["train"], table(data)["validation"]
    assert set(train) | set(validation) == set(names)
    assert not set(train) & set(validation)
    assert {len(texts) for texts in (train | validation).values()} == {captions}
    assert len(validation) == min(max(round(count * share), 1), count - 1)
    write(tmp_path / "captions.csv", rows_as("csv", ["path", "caption"], rows[::-1]))
    again = table(open_captions(reference, seed=seed, val_fraction=share))
    assert {split: set(pictures) for split, pictures in again.items()} == {
        "train": set(train),
        "validation": set(validation),
    }
    _, held_out = hold_out(
        [Sample(name, data.splits["train"][0].picture) for name in names], round(count * share), seed=seed
    )
    assert set(validation) == {sample.name for sample in held_out}


def test_one_picture_cannot_be_split(tmp_path: Path) -> None:
    fill(tmp_path, "1.png")
    data = open_captions(str(write(tmp_path / "captions.csv", "path,caption\n1.png,a cat\n")))
    assert set(data.splits) == {"train"}
    assert has_note(data, "no validation split", "no two training pictures")
    for share in (0, 1, float("nan")):
        with pytest.raises(DataError, match="val_fraction"):
            open_captions(str(tmp_path), val_fraction=share)


# --- what is left out


def test_pictures_that_are_missing_are_counted_and_named(tmp_path: Path) -> None:
    root = coco_folder(tmp_path)
    (root / "train2017" / "1.png").unlink()
    write(
        root / "annotations" / "captions_val2017.json",
        coco({3: "3.png", 4: "4.png"}, [(3, "a cow"), (3, " \n"), (3, None), (77, "lost"), (4, "")]),
    )
    data = open_captions(str(root))
    assert table(data)["validation"] == {"val2017/3.png": ("a cow",)}
    assert has_note(data, "1 of 3 pictures that are listed does not exist", "train2017/1.png")
    assert has_note(data, "3 captions were left out, as nothing is in them")
    assert has_note(data, "1 picture without a caption was left out", "val2017/4.png")
    assert has_note(data, "captions_val2017.json: 1 caption is of pictures that it does not list")
    (root / "train2017" / "2.png").unlink()
    (root / "val2017" / "3.png").unlink()
    with pytest.raises(DataError, match=r"none of its 3 pictures exists(.|\n)*Paths are relative to"):
        open_captions(str(root))


def test_control_characters_and_halves_of_letters_are_not_passed_on(tmp_path: Path) -> None:
    fill(tmp_path, "1.png")
    write(tmp_path / "captions.jsonl", '{"path": "1.png", "caption": "a\\u001b[31m red\\u0000 cat \\ud83d"}\n')
    caption = open_captions(str(tmp_path)).splits["train"][0].captions[0]
    assert caption == "a [31m red cat \\ud83d"
    caption.encode("utf-8")


# --- files that nobody vouches for

OUTSIDE = ["../../secret.png", "/etc/passwd", "a/../../../secret.png", "..\\..\\secret.png", "a\\..\\../../../x"]
WRITERS: dict[str, Callable[[Path, Any], Path]] = {
    "coco": lambda root, name: write(
        root / "annotations" / "captions_train2017.json", coco({1: "1.png", 2: name}, [(1, "x"), (2, "a cat")])
    ),
    "karpathy": lambda root, name: write(root / "dataset.json", karpathy(("", name, "train", [{"raw": "a cat"}]))),
    "csv": lambda root, name: write(root / "captions.csv", rows_as("csv", ["path", "caption"], [[name, "a cat"]])),
    "jsonl": lambda root, name: write(root / "captions.jsonl", {"path": name, "caption": "a cat"}),
    "flickr8k": lambda root, name: write(root / "captions.txt", f"image,caption\n{name},a cat\n"),
}  # fmt: skip


@pytest.mark.parametrize("path_text", OUTSIDE)
@pytest.mark.parametrize("layout", WRITERS)
def test_no_path_leads_out_of_the_data_folder(tmp_path: Path, layout: str, path_text: str) -> None:
    fill(tmp_path, "secret.png", "data/train2017/1.png", "data/a/1.png")
    file = WRITERS[layout](tmp_path / "data", path_text)
    for reference in (tmp_path / "data", file):
        with pytest.raises(DataError, match="is not in the data folder"):
            open_captions(str(reference))


@pytest.mark.parametrize("path_text", ["../secret.png", "..\\secret.png", ".", "..", "../data", "../data-too/1.png"])
def test_nor_does_one_that_leads_just_beside_it(tmp_path: Path, path_text: str) -> None:
    fill(tmp_path, "secret.png", "data-too/1.png", "data/1.png")
    WRITERS["csv"](tmp_path / "data", path_text)
    with pytest.raises(DataError, match=r"line 2: the picture .* is not in the data folder"):
        open_captions(str(tmp_path / "data"))


@pytest.mark.parametrize("path_text", ["", "  ", None, 5, ["a"], {"a": 1}, "a\0b"])
@pytest.mark.parametrize("layout", ["coco", "karpathy", "jsonl"])
def test_what_is_no_path_is_refused(tmp_path: Path, layout: str, path_text: Any) -> None:
    fill(tmp_path, "train2017/1.png")
    WRITERS[layout](tmp_path, path_text)
    with pytest.raises(DataError, match="expected the path of a picture"):
        open_captions(str(tmp_path))


@pytest.mark.parametrize("path_text", ["x" * 5000 + ".png", "\ud800.png", "a\nb.png", "C:\\x.png"])
def test_a_path_that_no_file_can_have_is_a_missing_picture(tmp_path: Path, path_text: str) -> None:
    fill(tmp_path, "1.png")
    rows = [["1.png", "a cat"], [path_text, "a dog"]]
    data = open_captions(str(write(tmp_path / "captions.jsonl", rows_as("jsonl", ["path", "caption"], rows))))
    assert has_note(data, "1 of 2 pictures that are listed does not exist")


def test_links_are_followed_as_in_other_folders(tmp_path: Path) -> None:
    fill(tmp_path, "elsewhere/1.png", "elsewhere/2.png", "data/x.png")
    (tmp_path / "data" / "train2017").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    write(
        tmp_path / "data" / "annotations" / "captions_train2017.json",
        coco({1: "1.png", 2: "2.png"}, [(1, "x"), (2, "y")]),
    )
    assert len(open_captions(str(tmp_path / "data")).splits["train"]) == 1


BROKEN = {
    "cut off": '{"images": [{"id": 1',
    "empty": "",
    "nested deeply": "[" * 200_000,
    "a long number": f'{{"images": [], "annotations": {"9" * 10_000}}}',
    "another kind": "[1, 2]",
    "text": '"images"',
    "no list": '{"images": {"a": 1}, "annotations": []}',
    "a list of numbers": '{"images": [1], "annotations": [2]}',
    "no pictures": '{"images": [], "annotations": []}',
    "a caption that is a number": json.dumps(coco({1: "1.png"}, [(1, 7)])),  # type: ignore[list-item]
    "no id": '{"images": [{"file_name": "1.png"}], "annotations": []}',
    "an id twice": json.dumps(
        {"images": [{"id": 1, "file_name": "1.png"}, {"id": 1, "file_name": "2.png"}], "annotations": []}
    ),
    "an unknown split": json.dumps(karpathy(("", "1.png", "holdout", [{"raw": "x"}]))),
    "a split that is a list": json.dumps(karpathy(("", "1.png", [], [{"raw": "x"}]))),  # type: ignore[arg-type]
    "a sentence without text": json.dumps(karpathy(("", "1.png", "train", [{"tokens": ["x"]}]))),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_json_is_an_error_that_names_the_file(tmp_path: Path, kind: str) -> None:
    fill(tmp_path, "1.png", "2.png")
    file = write(tmp_path / "captions_train2017.json", BROKEN[kind])
    for reference in (file, tmp_path):
        with pytest.raises(DataError, match=r"captions_train2017\.json") as error:
            open_captions(str(reference))
        assert len(str(error.value)) < 900
        assert str(error.value).count("\n") <= 1


@pytest.mark.parametrize("content", [b"\xff\xfe\x00\xd8", b'{"images": "\xff"}'])
def test_json_that_is_no_text(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "captions_val2017.json").write_bytes(content)
    with pytest.raises(DataError, match=r"cannot be read as captions|line 1 is not UTF-8"):
        open_captions(str(tmp_path))


def test_a_file_beyond_the_limit_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "MAX_FILE_BYTES", 100)
    with pytest.raises(DataError, match="100 is the limit"):
        open_captions(str(coco_folder(tmp_path)))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("captions.csv", "path,caption\n1.png,a,b\n", "3 cells, the header 2"),
        ("captions.csv", 'path,caption\n1.png,"a\n', "cannot be read"),
        ("captions.csv", f"path,caption\n1.png,{'a' * 200_000}\n", "field larger"),
        ("captions.csv", "path,label\n1.png,cat\n", "expected columns such as path and caption"),
        ("captions.csv", "path,caption,split\n1.png,a,somewhere\n", "'somewhere' is none of"),
        ("captions.csv", "path,caption,split\n1.png,a,train\n1.png,b,test\n", "two splits, train and test"),
        ("captions.csv", "path,caption\n", "no caption for any picture"),
        ("captions.csv", "", "no caption for any picture"),
        ("captions.csv", "path,caption\n1.png, \n", "no caption for any picture"),
        ("captions.jsonl", '{"path": "1.png", "caption": "a"}\n{"path"\n', "line 2"),
        ("captions.jsonl", "[1]\n", "line 1 is not a JSON object"),
        ("captions.jsonl", '{"path": "1.png", "caption": 4}\n', "expected a caption as text; got 4"),
        ("captions.jsonl", '{"path": "1.png", "captions": [{"mentions": []}]}\n', "neither text nor raw"),
        ("captions.jsonl", "[" * 200_000 + "\n", "line 1"),
        ("captions.jsonl", "x" * 10_000_002, "line 1 has more than 10,000,000"),
        ("captions.txt", "1.png#0\tA child\n1.png A dog\n", "line 2: expected a picture, # and a number"),
        ("captions.txt", "A child\n", "does not begin with image,caption"),
        ("captions.txt", "", "no caption for any picture"),
        ("dataset_dict.json", "{}", "no captions in a known layout"),
    ],
)  # fmt: skip
def test_broken_tables_are_errors_with_a_place(tmp_path: Path, name: str, content: str, message: str) -> None:
    fill(tmp_path, "1.png")
    write(tmp_path / name, content)
    with pytest.raises(DataError, match=message) as error:
        open_captions(str(tmp_path))
    assert len(str(error.value)) < 900


def test_nothing_there_and_files_of_another_kind(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no file or folder(.|\n)*COCO"):
        open_captions(str(tmp_path / "nothing"))
    fill(tmp_path, "1.png")
    with pytest.raises(DataError, match=r"is no file of captions(.|\n)*COCO"):
        open_captions(str(tmp_path / "1.png"))
    with pytest.raises(DataError, match="known layout"):
        open_captions(str(tmp_path))
    with pytest.raises(DataError, match="scenes:base or scenes:new"):
        open_captions("scenes:old")


_WORDS = st.sampled_from(["", "1.png", "../x", "train", "a cat"])
_KEYS = st.sampled_from(["id", "image_id", "file_name", "filename", "filepath", "caption", "sentences", "raw", "split"])
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(0, 3) | st.floats() | _WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(images=st.lists(_JSON, max_size=3) | _JSON, annotations=st.lists(_JSON, max_size=3) | _JSON)
def test_whatever_a_file_holds_is_data_or_a_plain_error(tmp_path: Path, images: Any, annotations: Any) -> None:
    fill(tmp_path, "1.png")
    file = write(tmp_path / "captions_x.json", {"images": images, "annotations": annotations})
    lines = write(tmp_path / "x.jsonl", "\n".join(json.dumps(each) for each in (images, annotations)))
    for reference in (file, lines):
        try:
            data = open_captions(str(reference))
        except DataError:
            continue
        assert [sample.name for split in data.splits.values() for sample in split] == ["1.png"]
