"""Runs are passed between people: whatever one field of a file became, every verb says it in a sentence or works."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from vitrine.classify.evaluate import evaluate
from vitrine.classify.model import open_classifier
from vitrine.compare.run import compare
from vitrine.errors import VitrineError
from vitrine.runs.folder import RunFolder
from vitrine.runs.model_card import read_card_facts
from vitrine.runs.record import read_record
from vitrine.serve.galleries import read_recorded_validation
from vitrine.train.run import train
from vitrine.verify.run import verify

JSON_FILES = ("data.json", "metrics.json", "environment.json", "config.json", "history.jsonl", "timings.jsonl")
OTHERS: tuple[Any, ...] = (None, [], {}, "x", -1, 10**30, 1e308, True, [[]], "\x1b[31m")


def read_whole(run: Path) -> None:
    """Everything that is read of a run without its pictures."""
    record = read_record(run.name, RunFolder(run))
    _ = (record.settings, record.predictions, record.leakage, record.validation, record.row({}))
    read_card_facts(run)
    read_recorded_validation(RunFolder(run))


def paths_in(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place of a JSON value, of lists the first entry only."""
    yield path
    if isinstance(value, dict):
        for key, each in list(value.items())[:40]:
            yield from paths_in(each, (*path, key))
    elif isinstance(value, list) and value:
        yield from paths_in(value[0], (*path, 0))


def with_change(value: Any, path: tuple[Any, ...], change: Callable[[Any, Any], None]) -> Any:
    value = json.loads(json.dumps(value))
    place = value
    for key in path[:-1]:
        place = place[key]
    change(place, path[-1])
    return value


def changes_of(content: Any) -> Iterator[tuple[str, Any]]:
    for path in paths_in(content):
        if not path:
            yield from ((f"whole={other!r}"[:60], other) for other in OTHERS)
            continue
        for other in OTHERS:

            def put(place: Any, key: Any, other: Any = other) -> None:
                place[key] = other

            yield f"{path}={other!r}"[:90], with_change(content, path, put)
        yield f"{path} deleted", with_change(content, path, lambda place, key: place.pop(key))


@pytest.fixture
def run(small_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small_run, tmp_path / "run"))


@pytest.mark.parametrize("name", JSON_FILES)
def test_any_field_of_any_file_may_be_anything(name: str, run: Path) -> None:
    file = run / name
    intact = file.read_text()
    lines = name.endswith(".jsonl")
    content = json.loads(intact.splitlines()[0] if lines else intact)
    failures = []
    for number, (what, changed) in enumerate(changes_of(content)):
        text = json.dumps(changed) + "\n" + "\n".join(intact.splitlines()[1:]) if lines else json.dumps(changed)
        file.write_text(text)
        opens = name == "config.json" and number % 3 == 0  # the slower reader: every third change, so of every field
        for read in (read_whole, open_classifier) if opens else (read_whole,):
            try:
                read(run if read is read_whole else str(run))  # type: ignore[operator]
            except VitrineError as error:
                if len(str(error).splitlines()) > 3:
                    failures.append((what, "a long message", str(error)))
            except Exception as error:
                failures.append((what, type(error).__name__, str(error)[:80]))
    assert not failures, f"{len(failures)}: {failures[:12]}"


def put(file: str, old: str, new: str) -> Callable[[Path], None]:
    def change(run: Path) -> None:
        text = (run / file).read_text("utf-8")
        assert old in text
        (run / file).write_text(text.replace(old, new, 1), "utf-8")

    return change


def write(file: str, content: bytes) -> Callable[[Path], None]:
    return lambda run: (run / file).write_bytes(content) and None


DAMAGES: dict[str, Callable[[Path], None]] = {
    "data of a list": write("data.json", b"[]"),
    "data too deep": write("data.json", b"[" * 200_000),
    "no accuracy": put("metrics.json", '"accuracy":', '"exactness":'),
    "no history": write("history.jsonl", b""),
    "history of lists": write("history.jsonl", b"[]\n[]\n"),
    "recipe not UTF-8": write("recipe.toml", b"name = '\xff\xfe'"),
    "recipe too deep": write("recipe.toml", b"a = " + b"[" * 200_000),
    "recipe of other types": write("recipe.toml", b"model = 3"),
    "labels not UTF-8": write("labels.txt", b"\xff\xfe\n"),
    "labels gone": lambda run: (run / "labels.txt").unlink(),
    "no mean": put("config.json", '"mean": [\n      0.5,\n      0.5,\n      0.5\n    ]', '"mean": []'),
    "patch of true": put("config.json", '"patch_size": 8', '"patch_size": true'),
    "depth of a million": put("config.json", '"depth":', '"depth": 1000000, "old":'),
    "weights of nothing": write("model.safetensors", b""),
    "weights of a huge header": write("model.safetensors", b"\xff" * 64),
    "predictions of nothing": write("predictions.csv", b""),
    "predictions of other columns": write("predictions.csv", b"a,b\n1,2\n"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_verbs_say_what_is_damaged(damage: str, run: Path, small_run: Path, small_scenes: Path, tmp_path: Path) -> None:
    DAMAGES[damage](run)
    verbs: dict[str, Callable[[], object]] = {
        "verify": lambda: verify(run),
        "compare": lambda: compare([str(run), str(small_run)], out=tmp_path / "comparison"),
        "evaluate": lambda: evaluate(str(run), str(small_scenes), split="validation"),
        "train --resume": lambda: train(str(small_scenes), RunFolder(small_run).read_recipe(), run, resume=True),
    }
    for verb, call in verbs.items():
        try:
            call()
        except VitrineError as error:
            assert 1 <= len(str(error).splitlines()) <= 3, (verb, error)
