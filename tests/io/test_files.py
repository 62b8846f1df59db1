"""Files that are not whole yet: whose they are, and when they are deleted."""

from __future__ import annotations

import json
import os
import time
from enum import IntEnum
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitrine.io.file_names import temporary_path, writer_of
from vitrine.io.files import atomic_path, remove_unfinished, to_json, write_atomically
from vitrine.io.process_identity import ProcessIdentity

HERE = ProcessIdentity.current().machine
DEAD, ALIVE, FAR = f"{HERE}-{2**31 - 1}-1", ProcessIdentity.current().tag, "000000-1-1"


@pytest.mark.parametrize(
    ("writer", "age", "stays"),
    [(ALIVE, 0, True), (ALIVE, 1e6, True), (DEAD, 0, False), (FAR, 0, True), (FAR, 3500, True), (FAR, 3700, False)],
    ids=["alive", "alive and old", "dead", "far", "far, nearly an hour old", "far, an hour old"],
)
def test_what_a_killed_process_left_is_deleted(writer: str, age: float, stays: bool, tmp_path: Path) -> None:
    file = tmp_path / f".{writer}-0123abcd.part"
    file.write_bytes(b"half")
    os.utime(file, (time.time() - age,) * 2)
    remove_unfinished(tmp_path)
    assert file.exists() == stays


@pytest.mark.parametrize(
    "name", [".notes.part", ".a.1.part", "a.part", f"{DEAD}-0123abcd.part", f".{DEAD}.part", f".{DEAD}-0123abcd"]
)
def test_other_files_are_none_of_its_business(name: str, tmp_path: Path) -> None:
    (tmp_path / name).touch()
    os.utime(tmp_path / name, (0, 0))
    remove_unfinished(tmp_path, tmp_path / "missing", tmp_path / name)
    assert (tmp_path / name).exists()


def test_folders_are_deleted_and_links_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").touch()
    (tmp_path / f".{DEAD}-0123abcd.part").mkdir()
    (tmp_path / f".{DEAD}-0123abcd.part" / "file").touch()
    (tmp_path / f".{DEAD}-0123abce.part").symlink_to(tmp_path / "precious")
    remove_unfinished(tmp_path)
    assert [path.name for path in tmp_path.rglob("*")] == ["precious", "file"]


def test_names_say_who_writes(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    with atomic_path(path) as temporary:
        temporary.write_bytes(b"1")
        assert writer_of(temporary) == ProcessIdentity.current() and writer_of(path) is None
        pid = os.fork()
        if not pid:
            temporary_path(path).write_bytes(b"2")
            os._exit(0)
        os.waitpid(pid, 0)
        assert len(list(tmp_path.iterdir())) == 2
        remove_unfinished(tmp_path)
        assert list(tmp_path.iterdir()) == [temporary]
    write_atomically(path, "3")
    assert [(each.name, each.read_text()) for each in tmp_path.iterdir()] == [("a.csv", "3")]


class Colour(IntEnum):
    RED = 1


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just(Colour.RED)
KEYS = st.text(max_size=4) | st.integers() | st.booleans() | st.none() | st.floats()
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.tuples(inner, inner) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=20,
)


@given(VALUES)
def test_json_is_that_of_python_s_own_indentation(value: object) -> None:
    assert to_json(value) == json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def test_json_of_what_it_cannot_hold_is_refused() -> None:
    for value in ({"a": {1, 2}}, [object()], {"a": [], ("b",): 1}):
        with pytest.raises(TypeError):
            to_json(value)
