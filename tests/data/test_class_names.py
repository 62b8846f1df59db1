"""Names for classes that are bare numbers: every form of a list, counts that do not fit, and the verbs that take it."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from vitrine.data.class_names import read_class_names, recorded_names
from vitrine.errors import DataError
from vitrine.explain.run import true_label_from_name
from vitrine.plotting.provenance import read_provenance
from vitrine.runs.folder import RunFolder
from vitrine.verify.run import verify

Command = Callable[..., tuple[int, str, str]]

THREE = {"0": "cat", "1": "dog", "2": "子猫"}
FORMS = {
    "lines": ("n.txt", "cat\ndog\n子猫\n"),
    "lines without an end": ("n.txt", "cat\ndog\n子猫"),
    "lines of Windows": ("n.txt", "\ufeffcat\r\ndog\r\n子猫\r\n"),
    "lines and empty ones after them": ("n.names", "cat\n dog \n子猫\n\n\n"),
    "a JSON list": ("n.json", json.dumps(list(THREE.values()))),
    "a JSON object": ("n.json", json.dumps(THREE)),
    "id2label": ("config.json", json.dumps({"model_type": "vit", "id2label": THREE})),
    "a table": ("n.csv", "id,name\n2,子猫\n0,cat\n1,dog\n7,unused\n"),
    "a table with other columns": (
        "n.csv",
        "\ufeffClass_ID, Class_Name,x\n0,cat,\n1,dog,\n2,子猫,\n".replace(", C", ",C"),
    ),
    "a table by tabulators": ("n.tsv", "label\tname\n0\tcat\n1\tdog\n2\t子猫\n"),
    "a quoted table": ("n.csv", 'number,category\n"0","cat"\n1,dog\n"2",子猫\n'),
}


@pytest.mark.parametrize(("file", "content"), FORMS.values(), ids=FORMS)
def test_every_form_gives_the_same_names(file: str, content: str, tmp_path: Path) -> None:
    (tmp_path / file).write_text(content, encoding="utf-8")
    assert read_class_names(tmp_path / file, ["0", "1", "2"]) == THREE


@pytest.mark.parametrize(
    ("numbers", "named"),
    [
        (["1", "2", "3"], {"1": "cat", "2": "dog", "3": "子猫"}),
        (["1", "10", "2"], None),
        (["001", "002", "003"], {"001": "cat", "002": "dog", "003": "子猫"}),
        (["0", "2"], {"0": "cat", "2": "子猫"}),
        (["2", "0", "1"], {"2": "子猫", "0": "cat", "1": "dog"}),
        (["1", "3"], {"1": "cat", "3": "子猫"}),
    ],
)
def test_a_list_counts_from_where_the_classes_do(numbers: list[str], named: object, tmp_path: Path) -> None:
    (tmp_path / "n.txt").write_text("cat\ndog\n子猫\n")
    if named is None:
        with pytest.raises(DataError, match="has 3 names, and the classes are the numbers 1 to 10: expected 10 names"):
            read_class_names(tmp_path / "n.txt", numbers)
    else:
        assert read_class_names(tmp_path / "n.txt", numbers) == named


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("n.txt", "cat\ndog\n", "has 2 names, and the classes are the numbers 0 to 2: expected 3 names"),
        ("n.txt", "a\nb\nc\nd\n", "has 4 names"),
        ("n.txt", "", "has 0 names"),
        ("n.txt", "cat\n\ndog\n", "empty name for class 1"),
        ("n.txt", "cat\ndog\ncat\n", "calls two classes 'cat': 0 and 2"),
        ("n.txt", b"\xff\xfec", "is not UTF-8"),
        ("n.json", "{", "it is no JSON"),
        ("n.json", '{"0": "cat", "1": "dog"}', "has 2 names and none for class 2"),
        ("n.json", '{"cat": "0"}', "its keys are no numbers"),
        ("n.json", '{"0": 3}', "expected a list of names"),
        ("n.json", "[1, 2, 3]", "expected a list of names"),
        ("n.json", "[" * 100_000, "cannot be read"),
        ("n.csv", "a,b\n0,cat\n", "its columns are a, b; expected id and name"),
        ("n.csv", "", "its columns are none"),
        ("n.csv", "id,name\nx,cat\n", "in line 2 the id is 'x'"),
        ("n.csv", "id,name\n0,cat\n0,dog\n", "class 0 has a second name in line 3"),
        ("n.csv", "id,name\n0,cat\n1\n2,x\n", "empty name for class 1"),
        ("n.csv", 'id,name\n0,"cat\n', "cannot be read"),
        ("gone.txt", None, "No such file"),
        ("n.txt/", None, "cannot be read"),
    ],
)
def test_what_does_not_fit_is_a_sentence(file: str, content: str | bytes | None, said: str, tmp_path: Path) -> None:
    path = tmp_path / file
    if file.endswith("/"):
        path.mkdir()
    elif content is not None:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(DataError) as wrong:
        read_class_names(path, ["0", "1", "2"])
    assert said in str(wrong.value) and len(str(wrong.value).splitlines()) <= 2


def test_classes_with_names_need_none(tmp_path: Path) -> None:
    (tmp_path / "n.txt").write_text("a\nb\n")
    with pytest.raises(DataError, match="have names already, such as 'cat'"):
        read_class_names(tmp_path / "n.txt", ["0", "cat"])


def test_a_name_cannot_act(tmp_path: Path) -> None:
    (tmp_path / "n.json").write_text(json.dumps(["a\x1b[2J", "b\nc"]))
    assert read_class_names(tmp_path / "n.json", ["0", "1"]) == {"0": "a\\x1b[2J", "1": "b\\nc"}


def test_a_folder_or_a_file_may_say_the_number() -> None:
    labels, numbers = ("rose", "tulip"), {"1": "rose", "2": "tulip"}
    for name, expected in {"2/x.png": "tulip", "1_17.png": "rose", "rose/x.png": "rose", "3/x.png": None}.items():
        assert true_label_from_name(name, labels, numbers) == expected
    assert true_label_from_name("2/x.png", labels) is None


@pytest.fixture(scope="module")
def numbered(small_scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``small_scenes`` with numbers for its classes, from 1 on, and a list of their names beside it."""
    folder = tmp_path_factory.mktemp("numbered")
    labels = sorted(path.name for path in (small_scenes / "train").iterdir())
    for split in ("train", "validation", "test"):
        for number, label in enumerate(labels, 1):
            shutil.copytree(small_scenes / split / label, folder / "data" / split / str(number))
    (folder / "names.txt").write_text("".join(f"{label}\n" for label in labels))
    return folder


@pytest.fixture(scope="module")
def plain_run(numbered: Path, small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The micro run, whose classes have lost their names."""
    run = tmp_path_factory.mktemp("plain") / "run"
    shutil.copytree(small_run, run)
    numbers = {label: str(index) for index, label in enumerate(RunFolder(run).read_labels(), 1)}
    (run / "labels.txt").write_text("".join(f"{number}\n" for number in numbers.values()))
    config = json.loads((run / "config.json").read_text())
    config["label_names"] = list(numbers.values())
    (run / "config.json").write_text(json.dumps(config))
    return run


def test_a_model_of_bare_numbers_is_given_names(
    numbered: Path, plain_run: Path, small_run: Path, tmp_path: Path, vitrine_command: Command
) -> None:
    """The named model says of each picture what the same model says that was trained with names."""
    names, pictures = ("--names", numbered / "names.txt"), numbered / "data" / "test"
    tables = []
    for run, options in ((plain_run, names), (small_run, ()), (plain_run, ())):
        status, _, err = vitrine_command("predict", run, pictures, "-o", tmp_path / "p.csv", *options)
        assert status == 0, err
        tables.append([row["label"] for row in csv.DictReader((tmp_path / "p.csv").open())])
    assert tables[0] == tables[1] != tables[2] and all(label.isdecimal() for label in tables[2])
    results = []
    for run, data, options in ((plain_run, "data", names), (plain_run, "data", ())):
        status, out, err = vitrine_command("evaluate", run, numbered / data, "--json", *options)
        assert status == 0, err
        results.append(json.loads(out))
    assert results[0]["accuracy"] == results[1]["accuracy"]
    assert {row["label"] for row in results[0]["classes"]} == set(RunFolder(small_run).read_labels())
    one = sorted((pictures / "3").iterdir())[0]
    status, out, err = vitrine_command("explain", plain_run, one, "-o", tmp_path / "maps", "--json", *names)
    assert status == 0, err
    (picture,) = json.loads(out)["pictures"]
    label = RunFolder(small_run).read_labels()[2]
    assert picture["true"] == label and not picture["predicted"].isdecimal()
    assert "--names" in read_provenance(Path(picture["figure"]))["vitrine:command"]
    status, _, err = vitrine_command(
        "explain", plain_run, one, "-o", tmp_path / "m", "--method", "relevance", "--target", label, *names
    )
    assert status == 0, err


def test_names_that_do_not_fit_are_refused_by_every_verb(
    numbered: Path, plain_run: Path, small_run: Path, tmp_path: Path, vitrine_command: Command
) -> None:
    (tmp_path / "two.txt").write_text("a\nb\n")
    data, out = numbered / "data", ("-o", tmp_path / "out")
    for run, file, said in ((plain_run, "two.txt", "has 2 names"), (small_run, "two.txt", "have names already")):
        names = ("--names", tmp_path / file)
        for words in (("predict", run, data, *out), ("explain", run, data, *out), ("evaluate", run, data)):
            status, _, err = vitrine_command(*words, *names)
            assert status == 2 and said in err and len(err.strip().splitlines()) <= 2, words
    status, _, err = vitrine_command("train", data, "--recipe", "scratch-tiny", *out, "--names", tmp_path / "two.txt")
    assert status == 2 and "has 2 names" in err and not (tmp_path / "out").exists()


def test_a_run_keeps_the_names_that_it_was_trained_with(
    numbered: Path, small_run: Path, tmp_path: Path, vitrine_command: Command
) -> None:
    run, data = tmp_path / "run", numbered / "data"
    settings = (small_run / "recipe.toml").read_text()
    (tmp_path / "micro.toml").write_text(settings)
    names = tmp_path / "names.txt"
    shutil.copy(numbered / "names.txt", names)
    options = ("--recipe", tmp_path / "micro.toml", "--set", "epochs=1", "-o", run)
    status, _, err = vitrine_command("train", data, *options, "--names", names)
    assert status == 0, err
    names.unlink()  # from here on the run's own are read
    labels = RunFolder(small_run).read_labels()
    assert RunFolder(run).read_labels() == labels
    assert recorded_names(run) == {str(number): label for number, label in enumerate(labels, 1)}
    assert vitrine_command("train", data, *options, "--resume")[0] == 0, "and a resumed training needs them not again"
    for verb in (("evaluate", run, data), ("knn", run, data), ("verify", run, data), ("verify", run)):
        status, out, err = vitrine_command(*verb, "--json")
        assert status == 0, (verb, out, err)
    assert {check.what: check.status for check in verify(run).checks}["class names"] == "same"
    one = sorted((data / "test" / "3").iterdir())[0]
    status, out, _ = vitrine_command("explain", run, one, "-o", tmp_path / "maps", "--json")
    assert json.loads(out)["pictures"][0]["true"] == labels[2]
