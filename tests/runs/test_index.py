"""The index of a folder of runs: only what changed is read again, and what is said is always what the folders say."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.made_runs import made_captioner, made_run

from vitrine.compare.run import compare
from vitrine.runs import index as run_index
from vitrine.runs.find import find_runs
from vitrine.runs.folder import RunFolder
from vitrine.runs.index import INDEX_FILE, RunSummary, read_summaries, read_summary
from vitrine.runs.record import RecordReader

AN_HOUR_AGO = 3600.0


def aged(folder: Path) -> None:
    """As if all files were written an hour ago: what was written just now is not kept."""
    for path in folder.rglob("*"):
        if path.is_file():
            then = path.stat().st_mtime - AN_HOUR_AGO
            os.utime(path, (then, then))


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Names of the runs whose files are read."""
    names: list[str] = []

    def record_read(name: str, run: RunFolder, read: RecordReader) -> RunSummary:
        names.append(run.path.name)
        return read_summary(name, run, read)

    monkeypatch.setattr(run_index, "read_summary", record_read)
    yield names
    names.clear()


def summaries(folder: Path) -> dict[str, dict[str, object]]:
    return {each.name: each.to_dict() for each in read_summaries(find_runs([str(folder)]).runs)}


def by_hand(folder: Path) -> dict[str, dict[str, object]]:
    """What the folders say, without an index."""
    return {name: read_summary(name, run).to_dict() for name, run in find_runs([str(folder)]).runs.items()}


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Three classifiers and two captioners."""
    for i in range(3):
        made_run(tmp_path / "runs" / f"classifier-{i}", [j > i for j in range(12)], seed=i)
    for i in range(2):
        made_captioner(tmp_path / "runs" / f"captioner-{i}", ["a cat", "a dog"], [["a cat"], ["a cat", "two"]], seed=i)
    aged(tmp_path / "runs")
    return tmp_path / "runs"


def test_five_hundred_runs(tmp_path: Path, read: list[str]) -> None:
    """A second call reads nothing; after one run changed, one is new and one is gone, it reads two."""
    store = tmp_path / "runs"
    first = made_run(store / "run-000", [j % 7 > 0 for j in range(30)], seed=0)
    for i in range(1, 500):
        shutil.copytree(first, store / f"run-{i:03}")
    aged(store)
    first_summaries = summaries(store)
    assert sorted(read) == sorted(first_summaries) == [f"run-{i:03}" for i in range(500)]
    read.clear()
    assert summaries(store) == first_summaries and read == []
    shutil.rmtree(store / "run-007")
    made_run(store / "run-400", [j % 2 > 0 for j in range(30)], seed=4)
    made_run(store / "run-900", [True] * 30, seed=9)
    aged(store / "run-400")
    again = summaries(store)
    assert read == ["run-400", "run-900"] and len(again) == 500 and "run-007" not in again
    assert (
        again["run-400"]
        == read_summary("run-400", RunFolder(store / "run-400")).to_dict()
        != first_summaries["run-400"]
    )
    assert "run-007" not in json.loads((store / INDEX_FILE).read_text())["runs"]


def test_a_comparison_is_the_same_with_and_without_an_index(runs: Path, read: list[str]) -> None:
    first = compare([str(runs)]).to_dict()
    assert len(read) == 5
    again = compare([str(runs)]).to_dict()
    assert len(read) == 5 and again == first
    (runs / INDEX_FILE).unlink()
    assert compare([str(runs)]).to_dict() == first and len(read) == 10


@pytest.mark.parametrize("file", ["predictions.csv", "metrics.json", "recipe.toml", "timings.jsonl", "data.json"])
def test_any_file_that_changed_is_read(runs: Path, file: str, read: list[str]) -> None:
    """Also where it has the same size and is said to be as old as it was."""
    summaries(runs)
    path, before = runs / "classifier-1" / file, (runs / "classifier-1" / file).stat()
    old, new = {
        "predictions.csv": ("0005.png,dog", "0005.png,cat"),
        "metrics.json": ('"precision": "fp32"', '"precision": "bf16"'),
        "recipe.toml": ("batch_size = 32", "batch_size = 64"),
        "timings.jsonl": ('"peak_memory_mib": 300', '"peak_memory_mib": 301'),
        "data.json": ('"cat", "dog"', '"pig", "dog"'),
    }[file]
    content = path.read_text()
    assert content.count(old) >= 1
    path.write_text(content.replace(old, new))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    read.clear()
    if file in ("predictions.csv", "data.json"):  # which now contradict the other files: the index does not hide it
        with pytest.raises(Exception, match=r"one of them was changed"):
            summaries(runs)
    else:
        assert summaries(runs) == by_hand(runs)
    assert read == ["classifier-1"]


def test_what_is_half_written_is_left_out_and_read_when_it_is_whole(runs: Path, read: list[str]) -> None:
    summaries(runs)
    whole = (runs / "classifier-2" / "metrics.json").read_text()
    (runs / "classifier-2" / "metrics.json").unlink()
    assert "classifier-2" not in summaries(runs)
    (runs / "classifier-2" / "metrics.json").write_text(whole)
    read.clear()
    assert summaries(runs) == by_hand(runs) and read == ["classifier-2"]


def test_what_was_written_a_moment_ago_is_not_kept(runs: Path, read: list[str]) -> None:
    """Two writes within the step of a file system's clock may have one time."""
    made_run(runs / "new", [True] * 12)
    for expected in (6, 1, 1):
        summaries(runs)
        assert len(read) == expected and read[-1] == "new"
        read.clear()


@pytest.mark.parametrize(
    "damage",
    [
        "",
        "{",
        "[]",
        '{"format": 1}',
        "torn",
        "emptied",
        "other version",
    ],
)
def test_a_damaged_index_is_made_anew(runs: Path, damage: str, read: list[str]) -> None:
    first_summaries = summaries(runs)
    index = runs / INDEX_FILE
    content = json.loads(index.read_text())
    if damage == "torn":
        damage = index.read_text()[:-40]
    elif damage == "emptied":
        entries = {name: {**entry, "summary": {}} for name, entry in content["runs"].items()}
        damage = json.dumps(content | {"runs": entries})
    elif damage == "other version":
        damage = json.dumps(content | {"vitrine": "0.0.0"})
    index.write_text(damage)
    read.clear()
    assert summaries(runs) == first_summaries and len(read) == 5
    read.clear()
    assert summaries(runs) == first_summaries and read == []


def test_names_are_those_of_the_call(runs: Path) -> None:
    """The index knows folders, not what a comparison calls them; runs of two folders have an index each."""
    shutil.copytree(runs, runs.parent / "more")
    aged(runs.parent / "more")
    for _ in range(2):
        rows = compare([str(runs), str(runs.parent / "more")]).rows
        assert {row.name for row in rows} == {f"{a}/classifier-{i}" for a in ("runs", "more") for i in range(3)}
    assert {row.name for row in compare([str(runs)]).rows} == {f"classifier-{i}" for i in range(3)}


def test_one_run_alone_writes_nothing_beside_itself(runs: Path) -> None:
    compare([str(runs / "classifier-0")])
    assert not (runs / INDEX_FILE).exists()


def test_a_folder_that_cannot_be_written(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError("read only")

    monkeypatch.setattr(run_index, "write_atomically", refuse)
    assert len(compare([str(runs)]).rows) == 3 and not (runs / INDEX_FILE).exists()
