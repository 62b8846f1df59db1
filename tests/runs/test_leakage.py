"""The result without pictures that also stand in training: counted by hand, and said as it was counted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.made_runs import made_captioner, made_run

from vitrine.compare.run import compare
from vitrine.data.training_copies import TrainingCopy
from vitrine.metrics.intervals import wilson
from vitrine.runs.folder import RunFolder
from vitrine.runs.leakage import Leakage, count_leakage
from vitrine.runs.record import RunRecord, read_record

RIGHT = {f"p{i}": i not in (2, 3, 4, 9) for i in range(10)}


def leaky_run(folder: Path, right: list[bool], exact: int, near: int = 0) -> Path:
    """A made run whose first validation pictures also stand in training, the next ones as near copies."""
    run = made_run(folder, right)
    data = json.loads((run / "data.json").read_text())
    names = [row["name"] for row in data["splits"]["validation"]]
    copies = [TrainingCopy(name, "train/0.png") for name in names[:exact]]
    copies += [TrainingCopy(name, "train/1.png", 7 + i) for i, name in enumerate(names[exact : exact + near])]
    data["training_copies"] = [copy.to_dict() for copy in copies]
    (run / "data.json").write_text(json.dumps(data))
    return run


def record_of(run: Path) -> RunRecord:
    return read_record(run.name, RunFolder(run))


def test_pictures_are_counted_by_kind_and_outcome() -> None:
    copies = [
        TrainingCopy("p0", "t"),
        TrainingCopy("p2", "t"),
        TrainingCopy("p5", "t", 12),
        TrainingCopy("p9", "t", 8),
        TrainingCopy("unreadable", "t", 1),  # was not measured
    ]
    leakage = count_leakage(copies, RIGHT, split="test")
    assert leakage == Leakage("test", "accuracy", 10, 6, 2, 1, 2, 1, 8)
    assert (leakage.without_exact.right, leakage.without_exact.n) == (5, 8)
    assert (leakage.without_any.right, leakage.without_any.n) == (4, 6)
    assert leakage.without_exact.interval == wilson(5, 8)
    assert leakage.sentences() == (
        "2 of the 10 test pictures also stand in training, byte for byte. Without them the accuracy is 0.6250 (95 % "
        f"interval over pictures {wilson(5, 8).low:.4f} to {wilson(5, 8).high:.4f}, n = 8); with all pictures it is "
        "0.6000 (n = 10).",
        "2 more look like copies of training pictures (near copies, the nearest at distance 8 of 512): a suspicion, "
        f"not a fact. Without them too the accuracy is 0.6667 (95 % interval over pictures {wilson(4, 6).low:.4f} to "
        f"{wilson(4, 6).high:.4f}, n = 6); with all pictures it is 0.6000 (n = 10).",
    )
    assert leakage.headline() == "0.6667 without 2 in training too and 2 near copies, n = 6"
    assert Leakage.from_dict(json.loads(json.dumps(leakage.to_dict()))) == leakage


def test_one_is_one_and_all_is_nothing_left() -> None:
    one = count_leakage([TrainingCopy("p1", "t")], RIGHT, split="validation")
    expected = "1 of the 10 validation pictures also stands in training, byte for byte. Without it the accuracy"
    assert one.sentences()[0].startswith(expected)
    near = count_leakage([TrainingCopy("p1", "t", 5)], RIGHT, split="validation")
    assert near.sentences()[0].startswith(
        "1 of the 10 validation pictures looks like a copy of a training picture (a near copy, at distance 5 of 512): "
    )
    every = count_leakage([TrainingCopy(name, "t") for name in RIGHT], RIGHT, split="validation")
    assert every.sentences() == (
        "10 of the 10 validation pictures also stand in training, byte for byte. Without them no picture is left.",
    )
    assert every.to_dict()["without_exact"] == {"share": None, "interval_95": None, "n": 0}


@pytest.mark.parametrize("near_checked", [True, False])
def test_no_copies_is_said_with_what_was_looked_for(near_checked: bool) -> None:
    clear = count_leakage([], RIGHT, split="validation", near_checked=near_checked)
    assert not clear and clear.sentences() == () and clear.headline() == ""
    (sentence,) = clear.verdict()
    assert sentence.startswith("None of the 10 validation pictures also stands in training, byte for byte, and n")
    assert ("looks like a copy" in sentence) == near_checked and ("were not looked for" in sentence) != near_checked


def test_a_run_of_an_older_version_shows_the_same_files_all_the_same(tmp_path: Path) -> None:
    run = made_run(tmp_path / "old", [True] * 6 + [False] * 2)
    data = json.loads((run / "data.json").read_text())
    data["splits"]["train"][4]["sha256"] = data["splits"]["validation"][1]["sha256"]
    (run / "data.json").write_text(json.dumps(data))
    leakage = record_of(run).leakage
    assert leakage is not None and (leakage.exact, leakage.exact_right, leakage.near_checked) == (1, 1, False)
    assert (leakage.without_any.right, leakage.without_any.n) == (5, 7)
    data["splits"]["train"] = "endless"
    (run / "data.json").write_text(json.dumps(data))
    assert record_of(run).leakage is None


def test_a_comparison_has_the_result_without_them_beside_the_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vitrine.runs.index._CLOCK_SECONDS", -60)  # files that were just written are indexed
    right = [True] * 6 + [False] * 4
    leaky_run(tmp_path / "runs" / "leaky", right, exact=4, near=1)
    made_run(tmp_path / "runs" / "clean", [*right[:-1], True], batch_size=8)
    for result in (compare([str(tmp_path / "runs")]), compare([str(tmp_path / "runs")])):  # the second from the index
        text = result.text()
        assert "leaky: 4 of the 10 validation pictures also stand in training, byte for byte." in text
        assert "in training too  near copies  without these" in text
        by_name = {row.name: row.leakage for row in result.rows}
        assert by_name["leaky"] == Leakage("validation", "accuracy", 10, 6, 4, 4, 1, 1, 7)
        assert not by_name["clean"]
        assert "0.2000 (n = 5)" in text
        leaks = {row["run"]: row["leakage"] for row in result.to_dict()["runs"]}
        assert leaks["leaky"]["without_exact_and_near"]["n"] == 5 and leaks["clean"]["exact"] == 0
    assert "in training too" in result.markdown() and b"in training too" in result.csv()
    clean = compare([str(tmp_path / "runs" / "clean")])
    assert "in training too" not in clean.text()


def test_a_captioner_counts_captions_that_are_word_for_word(tmp_path: Path) -> None:
    humans = [["a red star", "a star"]] * 6
    run = made_captioner(tmp_path / "runs" / "c", ["a red star"] * 4 + ["a moon"] * 2, humans, seed=0)
    data = json.loads((run / "data.json").read_text())
    names = [row["name"] for row in data["splits"]["validation"]]
    data["training_copies"] = [TrainingCopy(name, "t").to_dict() for name in names[:3]]
    (run / "data.json").write_text(json.dumps(data))
    leakage = record_of(run).leakage
    assert leakage is not None and (leakage.without_any.right, leakage.without_any.n) == (1, 3)
    assert "Without them the share of captions that are word for word a human one is 0.3333" in leakage.sentences()[0]
    text = compare([str(tmp_path / "runs")]).text()
    assert "c: 3 of the 6 validation pictures also stand in training" in text and "0.3333 (n = 3)" in text
