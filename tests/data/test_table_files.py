"""Tables as people have them: encodings, ids without endings, pictures in a folder beside, and class names."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from support.layouts import draw_picture, write_tree
from typer.testing import CliRunner

from vitrine.cli.app import app
from vitrine.data.picture_finder import PictureFinder
from vitrine.data.samples import Dataset
from vitrine.data.sources import open_data
from vitrine.data.table_files import open_delimited, read_rows
from vitrine.errors import DataError


def labels_by_name(data: Dataset) -> dict[str, str | None]:
    return {sample.name: data.label_text(sample) for split in data.splits.values() for sample in split}


def draw(root: Path, *names: str) -> Path:
    write_tree(root, dict.fromkeys(names))
    return root


# Tables with the same two rows: the file's name and its bytes.
ROWS = [{"path": "1.jpg", "label": "café"}, {"path": "2.jpg", "label": "b"}]
SAME = {
    "commas": ("t.csv", "path,label\n1.jpg,café\n2.jpg,b\n".encode()),
    "semicolons": ("t.csv", "path;label\n1.jpg;café\n2.jpg;b\n".encode()),
    "tabs": ("t.tsv", "path\tlabel\n1.jpg\tcafé\n2.jpg\tb\n".encode()),
    "tabs in .csv": ("t.csv", "path\tlabel\n1.jpg\tcafé\n2.jpg\tb\n".encode()),
    "bars": ("t.csv", "path|label\n1.jpg|café\n2.jpg|b\n".encode()),
    "bars and blanks": ("t.csv", "path | label\n1.jpg | café\n2.jpg | b\n".encode()),
    "sep= of Excel": ("t.csv", "sep=;\r\npath;label\r\n1.jpg;café\r\n2.jpg;b\r\n".encode()),
    "carriage returns": ("t.csv", "path,label\r1.jpg,café\r2.jpg,b\r".encode()),
    "empty lines": ("t.csv", "path,label\n\n1.jpg,café\n\n2.jpg,b\n\n".encode()),
    "UTF-16 of Excel": ("t.csv", "path\tlabel\r\n1.jpg\tcafé\r\n2.jpg\tb\r\n".encode("utf-16")),
    "UTF-16 big": ("t.csv", "path,label\n1.jpg,café\n2.jpg,b\n".encode("utf-16-be")),
    "a mark": ("t.csv", "path,label\n1.jpg,café\n2.jpg,b\n".encode("utf-8-sig")),
    "a mark, tabs": ("t.tsv", "path\tlabel\n1.jpg\tcafé\n2.jpg\tb\n".encode("utf-8-sig")),
    "lines of JSON": ("t.jsonl", "\n".join(map(json.dumps, ROWS)).encode()),
    "lines of JSON, a mark": ("t.jsonl", "\n".join(map(json.dumps, ROWS)).encode("utf-8-sig")),
    "lines of JSON, UTF-16": ("t.jsonl", "\n".join(json.dumps(r, ensure_ascii=False) for r in ROWS).encode("utf-16")),
    "lines of JSON, Windows": ("t.jsonl", "\r\n".join(map(json.dumps, ROWS)).encode()),
    "a JSON list": ("t.json", json.dumps(ROWS, indent=1).encode()),
    "a JSON list, a mark": ("t.json", json.dumps(ROWS).encode("utf-8-sig")),
    "quotes": ("t.csv", '"path","label"\n"1.jpg","café"\n"2.jpg","b"\n'.encode()),
}


@pytest.mark.parametrize("kind", SAME)
def test_tables_of_many_kinds_say_the_same(kind: str, tmp_path: Path) -> None:
    name, data = SAME[kind]
    (draw(tmp_path, "1.jpg", "2.jpg") / name).write_bytes(data)
    assert labels_by_name(open_data(str(tmp_path / name))) == {"1.jpg": "café", "2.jpg": "b"}


@pytest.mark.parametrize("verb", ["check", "train", "evaluate", "knn", "shards", "explain --score"])
def test_every_verb_that_reads_a_table_names_the_line_and_takes_the_encoding(verb: str, tmp_path: Path) -> None:
    (draw(tmp_path, "1.jpg", "2.jpg") / "t.csv").write_bytes("path,label\n1.jpg,café\n2.jpg,b\n".encode("cp1252"))
    table, out = str(tmp_path / "t.csv"), str(tmp_path / "out")
    words = {
        "check": ["check", table],
        "train": ["train", table, "-o", out, "--recipe", "scenes-tiny"],
        "evaluate": ["evaluate", "vitrine/scenes-tiny", table],
        "knn": ["knn", "vitrine/scenes-tiny", table],
        "shards": ["shards", table, "-o", out],
        "explain --score": ["explain", "vitrine/scenes-tiny", "--score", table, "-o", out],
    }[verb]
    error = CliRunner().invoke(app, words).exception
    assert isinstance(error, DataError) and "line 2 is not UTF-8" in str(error) and "--encoding cp1252" in str(error)
    error = CliRunner().invoke(app, [*words, "--encoding", "klingon"]).exception
    assert isinstance(error, DataError) and "'klingon' is no encoding" in str(error)


def test_the_line_of_a_row_is_its_first_one(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text('path,label\n1.jpg,"a\nb"\n2.jpg,c\n')
    assert [number for number, _ in read_rows(tmp_path / "t.csv")] == [2, 4]
    (tmp_path / "t.csv").write_text("sep=,\npath,label\n1.jpg,a\n")
    with open_delimited(tmp_path / "t.csv") as (columns, rows):
        assert columns == ("path", "label") and [number for number, _ in rows] == [3]


# Files, the table's name and text, the reference's options, and the pictures that its rows mean.
FOUND_BY_NAME = {
    "beside": (["a.jpg", "b.png"], "t.csv", "id,breed\na,x\nb,y\n", "?label=breed", ["a.jpg", "b.png"]),
    "in a folder": (["train/a.jpg", "train/b.jpg"], "labels.csv", "id,breed\na,x\nb,y\n", "?image=id&label=breed",
                    ["train/a.jpg", "train/b.jpg"]),
    "with an ending, in a folder": (["images/a.jpg", "images/b.jpg"], "t.csv", "image_id,label\na.jpg,x\nb.jpg,y\n", "",
                                    ["images/a.jpg", "images/b.jpg"]),
    "numbers": (["train/7.tif", "train/07.tif"], "t.csv", "id,label\n7,x\n07,y\n", "", ["train/7.tif", "train/07.tif"]),
    "dots in an id": (["p/a.b.jpg", "p/a.c.JPG"], "t.csv", "id,label\na.b,x\na.c,y\n", "", ["p/a.b.jpg", "p/a.c.JPG"]),
    "the table's split": (["train/1.jpg", "test/1.jpg", "train/2.jpg"], "train.csv", "id,label\n1,x\n2,y\n", "",
                          ["train/1.jpg", "train/2.jpg"]),
    "folders called as splits are": (["train_images/1.jpg", "test_images/1.jpg"], "train_labels.csv", "id,label\n1,x\n",
                                     "", ["train_images/1.jpg"]),
    "the row's split": (["train/1.jpg", "val/1.jpg"], "t.csv", "id,label,split\n1,x,train\n1,y,val\n", "",
                        ["train/1.jpg", "val/1.jpg"]),
    "a folder that is named": (["a/1.jpg", "b/1.jpg"], "t.csv", "id,label\n1,x\n", "?pictures=b", ["b/1.jpg"]),
    "a folder elsewhere": (["x/photos/1.jpg", "y/0.jpg"], "y/t.csv", "id,label\n1,x\n", "?pictures=../x/photos",
                           ["../x/photos/1.jpg"]),
    "a path without its ending": (["p/q/1.jpg"], "t.csv", "path,label\np/q/1,x\n", "", ["p/q/1.jpg"]),
    "a path below a folder": (["images/q/1.jpg"], "t.csv", "path,label\nq/1.jpg,x\n", "", ["images/q/1.jpg"]),
    "lines of JSON": (["train/a.jpg"], "t.jsonl", '{"id": "a", "label": "x"}\n', "", ["train/a.jpg"]),
    "numbers in JSON": (["train/12.jpg"], "t.jsonl", '{"id": 12, "label": "x"}\n', "", ["train/12.jpg"]),
    "absolute, of another machine": (["pics/1.jpg"], "t.csv", "path,label\n/home/ann/data/pics/1.jpg,x\n", "",
                                     ["pics/1.jpg"]),
    "of another Windows": (["pics/1.jpg"], "t.csv", "path,label\nC:\\Users\\Ann\\pics\\1.jpg,x\n", "", ["pics/1.jpg"]),
    "the exact name first": (["a.jpg", "a.jpg.png"], "t.csv", "path,label\na.jpg,x\n", "", ["a.jpg"]),
}  # fmt: skip


@pytest.mark.parametrize("kind", FOUND_BY_NAME)
def test_pictures_are_found_by_their_names(kind: str, tmp_path: Path) -> None:
    files, table, text, options, names = FOUND_BY_NAME[kind]
    (draw(tmp_path, *files) / table).write_text(text)
    data = open_data(f"{tmp_path / table}{options}")
    assert set(labels_by_name(data)) == set(names)
    assert all(sample.picture.decode().size == (16, 12) for split in data.splits.values() for sample in split)


# Files, the table's text, and what the message says.
UNDECIDED = {
    "two endings": (["a.jpg", "a.png"], "id,label\na,x\n", ("row 2", "'a' may be a.jpg, a.png")),
    "two folders": (["b/a.jpg", "c/a.jpg"], "id,label\na,x\n", ("b/a.jpg, c/a.jpg", "?pictures=FOLDER")),
    "beside and in a folder": (["a.jpg", "c/a.jpg"], "id,label\na,x\n", ("a.jpg, c/a.jpg",)),
    "many": ([f"{n}/a.jpg" for n in range(9)], "id,label\na,x\n", ("and 5 more",)),
    "nothing": (["train/b.jpg"], "id,label\na,x\n", ("none of its 1 picture exists", "?pictures=FOLDER")),
}


@pytest.mark.parametrize("kind", UNDECIDED)
def test_what_is_not_decided_is_said(kind: str, tmp_path: Path) -> None:
    files, text, words = UNDECIDED[kind]
    (draw(tmp_path, *files) / "t.csv").write_text(text)
    with pytest.raises(DataError) as error:
        open_data(str(tmp_path / "t.csv"))
    assert all(word in str(error.value) for word in words), str(error.value)


def test_a_path_of_one_class_never_becomes_the_picture_of_another(tmp_path: Path) -> None:
    """What is listed as cat/1.jpg and is missing is not dog/1.jpg."""
    (draw(tmp_path, "cat/2.jpg", "dog/1.jpg") / "t.csv").write_text(
        "path,label\ncat/1.jpg,c\ndog/1.jpg,d\ncat/2.jpg,c\n"
    )
    data = open_data(str(tmp_path / "t.csv"))
    assert labels_by_name(data) == {"cat/1.jpg": "c", "dog/1.jpg": "d", "cat/2.jpg": "c"}
    assert any("1 of 3 files does not exist: cat/1.jpg" in note for note in data.notes)


def test_where_pictures_were_found_is_said_and_each_folder_is_listed_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw(tmp_path, *(f"train/{n}.jpg" for n in range(40)))
    listings: Counter[str] = Counter()
    from vitrine.data import picture_finder

    real = picture_finder.entries
    monkeypatch.setattr(picture_finder, "entries", lambda folder: (listings.update([str(folder)]), real(folder))[1])
    finder = PictureFinder(tmp_path, tmp_path / "t.csv")
    assert [finder.find(str(n), "row") for n in range(40)] == [f"train/{n}.jpg" for n in range(40)]
    assert max(listings.values()) <= 2 and "train/ 40" in finder.note()


CONTROLS = {
    "a line break": ("cat\ndog", "a line break (U+000A)"),
    "of old Macs": ("cat\rdog", "a line break"),
    "a tab": ("cat\tdog", "a tab (U+0009)"),
    "U+0085": ("cat\x85dog", "U+0085"),
    "a form feed": ("cat\x0cdog", "U+000C"),
    "an escape": ("cat\x1b[31m", "U+001B"),
    "a separator of records": ("cat\x1edog", "U+001E"),
    "delete": ("cat\x7fdog", "U+007F"),
}


@pytest.mark.parametrize("kind", CONTROLS)
@pytest.mark.parametrize("form", ["csv", "jsonl", "folder", "list of labels"])
def test_class_names_with_control_characters_are_refused_with_their_place(form: str, kind: str, tmp_path: Path) -> None:
    label, what = CONTROLS[kind]
    if form == "folder":
        write_tree(tmp_path, {f"{label}/1.jpg": None, "other/2.jpg": None})
        reference = str(tmp_path)
    else:
        draw(tmp_path, "1.jpg", "2.jpg")
        cell: object = [label, "other"] if form == "list of labels" else label
        rows = [{"path": "2.jpg", "label": "other"}, {"path": "1.jpg", "label": cell}]
        file = tmp_path / ("t.csv" if form == "csv" else "t.jsonl")
        if form == "csv":
            file.write_text(f'path,label\n2.jpg,other\n1.jpg,"{label}"\n', newline="")
        else:
            file.write_text("\n".join(map(json.dumps, rows)))
        reference = str(file)
    for words in (["check", reference], ["train", reference, "-o", str(tmp_path / "run"), "--recipe", "scenes-tiny"]):
        error = CliRunner().invoke(app, words).exception
        assert isinstance(error, DataError), error
        assert repr(label) in str(error) and what in str(error), str(error)
        assert form == "folder" or f"row {3 if form == 'csv' else 2}" in str(error)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("form", ["csv", "jsonl", "json"])
def test_other_separators_of_lines_are_letters_in_a_table(form: str, tmp_path: Path) -> None:
    draw(tmp_path, "1.jpg", "2.jpg")
    text = "x\u2028y\u2029z"
    rows = [{"path": "1.jpg", "label": "a", "note": text}, {"path": "2.jpg", "label": "b", "note": text + "\x85\x0c"}]
    file = tmp_path / f"t.{form}"
    content = {
        "csv": "path,label,note\n" + "".join(f"{row['path']},{row['label']},{row['note']}\n" for row in rows),
        "jsonl": "\n".join(json.dumps(row, ensure_ascii=False) for row in rows),
        "json": json.dumps(rows, ensure_ascii=False),
    }
    file.write_text(content[form], "utf-8", newline="")
    assert labels_by_name(open_data(str(file))) == {"1.jpg": "a", "2.jpg": "b"}


def test_metadata_in_another_encoding_are_not_passed_over(tmp_path: Path) -> None:
    draw(tmp_path, "1.jpg", "2.jpg")
    (tmp_path / "metadata.csv").write_bytes("file_name,label\n1.jpg,café\n2.jpg,b\n".encode("cp1252"))
    with pytest.raises(DataError, match="line 2 is not UTF-8"):
        open_data(str(tmp_path))
    assert open_data(f"{tmp_path}?encoding=cp1252").labels == ("b", "café")


def test_drawn_pictures_differ(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg"):
        draw_picture(tmp_path / name)
    assert (tmp_path / "a.jpg").read_bytes() != (tmp_path / "b.jpg").read_bytes()
