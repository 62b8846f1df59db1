"""Captions as people have them: every layout, the same pictures and captions; and what check says of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from support.layouts import write_tree
from typer.testing import CliRunner

from vitrine.check import check, render
from vitrine.cli.app import app
from vitrine.config import load_recipe
from vitrine.data.captions.datasets import is_captioned_data, open_captions
from vitrine.errors import DataError
from vitrine.shards import write_shards

Table = dict[str, tuple[str, ...]]
CAPTIONS: Table = {"1.jpg": ("A dog runs .", "A dog, and a ball"), "2.jpg": ("Two boats",)}
PAIRS = [(name, text) for name, texts in CAPTIONS.items() for text in texts]


def read(reference: str) -> Table:
    """The captions of every picture, by the last part of its name."""
    splits = open_captions(reference).splits.values()
    return {sample.name.rpartition("/")[2]: tuple(sample.captions) for split in splits for sample in split}


def token_lines() -> str:
    return "".join(f"{name}#{n}\t{text}\n" for name, texts in CAPTIONS.items() for n, text in enumerate(texts))


def flickr30k(delimiter: str = "|", blank: str = " ") -> str:
    rows = [(name, str(n), text) for name, texts in CAPTIONS.items() for n, text in enumerate(texts)]
    rows = [("image_name", "comment_number", "comment"), *rows]
    return "".join(f"{delimiter}{blank}".join(row) + "\n" for row in rows)


LAVIS = [{"image": name, "caption": text, "image_id": f"id_{name}"} for name, text in PAIRS]
LAVIS_LISTS = [{"image": name, "caption": list(texts), "image_id": name} for name, texts in CAPTIONS.items()]
QUOTED = "image,caption\n" + "".join(f'{name},"{text}"\n' for name, text in PAIRS)

# Where the pictures are, the file of captions, and its bytes; DATA is the folder that holds both.
LAYOUTS: dict[str, tuple[str, str, bytes]] = {
    "Flickr8k, tokens": ("Flicker8k_Dataset", "Flickr8k.token.txt", token_lines().encode()),
    "Flickr8k, tokens, below": ("Flicker8k_Dataset", "Flickr8k_text/Flickr8k.token.txt", token_lines().encode()),
    "tokens in captions.txt": ("Images", "captions.txt", token_lines().encode()),
    "tokens and blanks": ("Images", "captions.txt", token_lines().replace("\t", "  ").encode()),
    "Flickr30k, tokens": ("flickr30k-images", "results_20130124.token", token_lines().encode()),
    "Flickr30k, results.csv": ("flickr30k_images", "results.csv", flickr30k().encode()),
    "Flickr30k, of Windows": ("flickr30k_images", "results.csv", flickr30k().replace("\n", "\r\n").encode()),
    "Flickr30k, captions.txt of Kaggle": ("flickr30k_images", "captions.txt", flickr30k(",", "").encode()),
    "Flickr30k, bars in captions.txt": ("images", "captions.txt", flickr30k().encode()),
    "Flickr30k, UTF-16": ("images", "results.csv", flickr30k().encode("utf-16")),
    "captions.txt of Kaggle": ("Images", "captions.txt", QUOTED.encode()),
    "captions.txt, tabs, no header": ("Images", "captions.txt", "".join(f"{n}\t{t}\n" for n, t in PAIRS).encode()),
    "captions.csv": ("photos", "captions.csv", QUOTED.encode()),
    "captions.csv among the pictures": ("", "captions.csv", QUOTED.encode()),
    "captions.csv, a mark": ("photos", "captions.csv", QUOTED.encode("utf-8-sig")),
    "captions.csv, UTF-16": ("photos", "captions.csv", QUOTED.encode("utf-16-be")),
    "captions.tsv": ("photos", "captions.tsv", ("file\ttext\n" + "".join(f"{n}\t{t}\n" for n, t in PAIRS)).encode()),
    "metadata.jsonl of datasets": ("", "metadata.jsonl", "\n".join(
        json.dumps({"file_name": name, "text": text}) for name, text in PAIRS).encode()),
    "metadata.jsonl, a mark": ("", "metadata.jsonl", "\n".join(
        json.dumps({"file_name": name, "text": text}) for name, text in PAIRS).encode("utf-8-sig")),
    "LAVIS": ("images", "annotations/flickr30k_train.json", json.dumps(LAVIS).encode()),
    "LAVIS, lists": ("images", "annotations/flickr30k_train.json", json.dumps(LAVIS_LISTS).encode()),
    "LAVIS beside the pictures": ("", "coco_karpathy_train.json", json.dumps(LAVIS).encode()),
    "LAVIS, a mark": ("", "train.json", json.dumps(LAVIS).encode("utf-8-sig")),
    "LAVIS, caption first, indented": ("", "caps.json", json.dumps(
        [{"caption": text, "image": name} for name, text in PAIRS], indent=2).encode()),
    "tokens in captions.tsv": ("photos", "captions.tsv", token_lines().encode()),
    "tokens in captions.csv": ("photos", "captions.csv", token_lines().encode()),
    "tokens, UTF-16": ("photos", "captions.txt", token_lines().encode("utf-16")),
    "an object of captions by picture": ("", "captions.json", json.dumps(CAPTIONS).encode()),
    "an object of captions, pictures in a folder": ("photos", "captions.json", json.dumps(CAPTIONS).encode()),
    "COCO's form in captions.json": ("", "captions.json", json.dumps({
        "images": [{"id": name, "file_name": name} for name in CAPTIONS],
        "annotations": [{"image_id": name, "caption": text} for name, text in PAIRS]}).encode()),
    "ids without an ending": ("photos", "captions.csv", QUOTED.replace(".jpg", "").encode()),
}  # fmt: skip


@pytest.mark.parametrize("kind", LAYOUTS)
def test_every_layout_says_the_same(kind: str, tmp_path: Path) -> None:
    folder, name, data = LAYOUTS[kind]
    write_tree(tmp_path, {f"{folder}/{picture}".lstrip("/"): None for picture in CAPTIONS} | {name: data})
    assert is_captioned_data(str(tmp_path))
    assert read(str(tmp_path)) == CAPTIONS
    if "/" not in name:
        assert read(str(tmp_path / name)) == CAPTIONS
    report = check(str(tmp_path))
    assert report.captions is not None and (report.pictures, report.captions.captions) == (2, 3)
    assert report.captions.absent == report.captions.without_captions == () and not report.labels


@pytest.mark.parametrize("kind", [kind for kind in LAYOUTS if LAYOUTS[kind][0] and "/" not in LAYOUTS[kind][1]])
def test_captions_beside_the_folder_of_pictures(kind: str, tmp_path: Path) -> None:
    folder, name, data = LAYOUTS[kind]
    write_tree(tmp_path, {f"{folder}/{picture}": None for picture in CAPTIONS} | {name: data})
    data_set = open_captions(str(tmp_path / folder))
    assert {s.name: tuple(s.captions) for split in data_set.splits.values() for s in split} == CAPTIONS
    assert any(f"in {name} beside {folder}/" in note for note in data_set.notes)
    assert is_captioned_data(str(tmp_path / folder))


def test_captions_beside_are_of_this_folder_alone(tmp_path: Path) -> None:
    write_tree(tmp_path, {"a/1.jpg": None, "b/2.jpg": None, "c/3.jpg": None})
    (tmp_path / "captions.csv").write_text("path,caption\na/1.jpg,one\nb/2.jpg,two\n")
    assert read(str(tmp_path / "a")) == {"1.jpg": ("one",)}
    assert any("1 picture of other folders" in note for note in open_captions(str(tmp_path / "a")).notes)
    with pytest.raises(DataError, match="beside it has none of its pictures"):
        open_captions(str(tmp_path / "c"))
    assert not is_captioned_data(str(tmp_path / "c"))


def test_flickr8ks_lists_are_its_splits(tmp_path: Path) -> None:
    names = [f"{n}.jpg" for n in range(5)]
    write_tree(tmp_path, {f"Images/{name}": None for name in names})
    (tmp_path / "Flickr8k.token.txt").write_text("".join(f"{name}#0\tcaption\n" for name in names))
    for part, lines in (("train", "0.jpg\n1.jpg\n"), ("dev", "2.jpg\n"), ("test", "3.jpg\n")):
        (tmp_path / f"Flickr_8k.{part}Images.txt").write_text(lines)
    data = open_captions(str(tmp_path))
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 2, "validation": 1, "test": 1}
    assert any("1 caption of pictures that no list of a split has" in note for note in data.notes)


def test_lists_of_lavis_name_their_split(tmp_path: Path) -> None:
    write_tree(tmp_path, {f"images/{n}.jpg": None for n in range(3)})
    for n, part in enumerate(("train", "val", "test")):
        file = tmp_path / f"coco_karpathy_{part}.json"
        file.write_text(json.dumps([{"image": f"{n}.jpg", "caption": ["a", "b"]}]))
    splits = open_captions(str(tmp_path)).splits
    assert {name: [s.name for s in split] for name, split in splits.items()} == {
        "train": ["images/0.jpg"], "validation": ["images/1.jpg"], "test": ["images/2.jpg"]}  # fmt: skip


def test_columns_can_be_named(tmp_path: Path) -> None:
    write_tree(tmp_path, {"1.jpg": None, "2.jpg": None})
    rows = "".join(f"{name},x,{text.replace(',', '')}\n" for name, text in PAIRS)
    (tmp_path / "t.csv").write_text("pic,path,words\n" + rows)
    assert set(read(f"{tmp_path}/t.csv?image=pic&caption=words")) == {"1.jpg", "2.jpg"}
    with pytest.raises(DataError, match="no column 'nope'"):
        open_captions(f"{tmp_path}/t.csv?image=pic&caption=nope")
    with pytest.raises(DataError, match=r"\?image=COLUMN&caption=COLUMN"):
        open_captions(f"{tmp_path}/t.csv")


NO_CAPTIONS: dict[str, Callable[[Path], object]] = {
    "class folders": lambda root: None,
    "a table of labels": lambda root: (root / "metadata.csv").write_text("file_name,label\ncat/1.jpg,cat\n"),
    "a list of labels": lambda root: (root / "list.json").write_text('[{"image": "cat/1.jpg", "label": "cat"}]'),
    "other JSON": lambda root: (root / "config.json").write_text('{"caption": "none"}'),
    "results of something": lambda root: (root / "results.csv").write_text("epoch,accuracy\n1,0.5\n"),
    "COCO's instances": lambda root: (root / "instances_train2017.json").write_text(
        '{"images": [], "annotations": [], "categories": []}'
    ),
}


@pytest.mark.parametrize("kind", NO_CAPTIONS)
def test_what_has_no_captions_is_not_taken_for_captioned(kind: str, tmp_path: Path) -> None:
    write_tree(tmp_path, {f"{label}/{n}.jpg": None for label in ("cat", "dog") for n in (1, 2)})
    NO_CAPTIONS[kind](tmp_path)
    assert not is_captioned_data(str(tmp_path))


def test_a_table_in_another_encoding_names_the_line_and_opens_with_its_name(tmp_path: Path) -> None:
    files = {"captions.csv": "image,caption\n1.jpg,a\n1.jpg,un café\n", "captions.txt": "1.jpg#0\tun café\n",
             "list_train.json": '[{"image": "1.jpg", "caption": "un café"}]',
             "captions_train.json": '{"images": [{"id": 1, "file_name": "1.jpg"}], "annotations": '
                                    '[{"image_id": 1, "caption": "un café"}]}'}  # fmt: skip
    for name, text in files.items():
        root = tmp_path / name.replace(".", "-")
        write_tree(root, {"1.jpg": None, name: text.encode("cp1252")})
        with pytest.raises(DataError, match="is not UTF-8") as error:
            open_captions(str(root))
        assert "--encoding cp1252" in str(error.value)
        assert read(f"{root}?encoding=cp1252")["1.jpg"][-1] == "un café"


def test_check_counts_captions_and_names_what_is_missing(tmp_path: Path) -> None:
    write_tree(tmp_path, {f"photos/{n}.jpg": None for n in range(5)} | {"other/9.jpg": None})
    lines = ["0.jpg,a dog", "0.jpg,a big brown dog", "0.jpg,dog!", "1.jpg,A boat", "2.jpg,", "7.jpg,not there"]
    (tmp_path / "captions.csv").write_text("image,caption\n" + "\n".join(lines) + "\n")
    report = check(str(tmp_path))
    counts = report.captions
    assert counts is not None and counts.per_picture is not None and counts.words is not None
    assert (report.pictures, counts.captions) == (2, 4)
    assert (counts.per_picture.smallest, counts.per_picture.median, counts.per_picture.largest) == (1, 2, 3)
    assert (counts.words.smallest, counts.words.median, counts.words.largest) == (1, 2, 4)
    assert counts.different_words == len({"a", "dog", "big", "brown", "boat"})
    assert counts.absent == ("7.jpg",)
    assert set(counts.without_captions) == {"photos/2.jpg", "photos/3.jpg", "photos/4.jpg"}
    assert report.serious
    text = render(report)
    for words in (
        *("2 pictures", "4 captions", "1 picture has captions and does not exist", "7.jpg", "3 pictures have no"),
        *("1 to 3, median 2", "1 to 4, median 2 a caption; 5 different"),
    ):
        assert words in text, words
    assert f"vitrine train {tmp_path} --recipe captioner -o runs/captioner" in text
    assert f"vitrine evaluate runs/captioner {tmp_path}" in text
    assert json.loads(json.dumps(report.to_dict()))["captions"]["absent"] == ["7.jpg"]
    assert load_recipe("captioner").caption is not None


def test_check_takes_classes_where_it_is_asked_to(tmp_path: Path) -> None:
    write_tree(tmp_path, {f"{label}/{n}.jpg": None for label in ("cat", "dog") for n in (1, 2)})
    (tmp_path / "captions.csv").write_text("image,caption\ncat/1.jpg,a cat\ndog/1.jpg,a dog\n")
    assert check(str(tmp_path)).captions is not None
    assert check(str(tmp_path), captions=False).labels == ("cat", "dog")
    result = CliRunner().invoke(app, ["check", str(tmp_path), "--labels"])
    assert "2 classes" in result.output
    assert "2 captions" in CliRunner().invoke(app, ["check", str(tmp_path), "--captions"]).output


def test_check_counts_captions_in_shards(tmp_path: Path) -> None:
    pytest.importorskip("webdataset")
    write_tree(tmp_path / "data", {f"{n}.jpg": None for n in range(6)})
    lines = "".join(f"{n}.jpg,caption of {n}\n" for n in range(6))
    (tmp_path / "data" / "captions.csv").write_text(f"image,caption\n{lines}")
    write_shards(str(tmp_path / "data"), tmp_path / "shards")
    report = check(str(tmp_path / "shards"))
    assert report.captions is not None and (report.pictures, report.captions.captions) == (6, 6)
    assert "6 captions" in render(report)
