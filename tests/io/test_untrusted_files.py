"""Files of other people: what is no file, too long, too deep or of another shape is said, and read no further."""

from __future__ import annotations

import os
import resource
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import pytest

from vitrine.io.untrusted_files import (
    open_regular_file,
    parse_json,
    parse_toml,
    read_file,
    read_json,
    read_json_lines,
    read_lines,
    read_text,
    require_shape,
)


@pytest.fixture(autouse=True)
def _no_waiting() -> Iterator[None]:
    signal.signal(signal.SIGALRM, lambda *_: (_ for _ in ()).throw(TimeoutError("it waits")))
    signal.alarm(10)
    yield
    signal.alarm(0)


def make_pipe(path: Path) -> None:
    os.mkfifo(path)


def make_socket(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # a socket's path has 107 bytes at most
    try:
        socket.socket(socket.AF_UNIX).bind(path.name)
    finally:
        os.chdir(here)


KINDS = {
    "a pipe": make_pipe,
    "a socket": make_socket,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a device that ends at once": lambda path: path.symlink_to("/dev/null"),
    "a directory": Path.mkdir,
    "nothing": lambda path: None,
    "a link to nothing": lambda path: path.symlink_to("absent"),
    "a link to itself": lambda path: path.symlink_to(path.name),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("read", [open_regular_file, lambda path: read_file(path, 1 << 40), read_text, read_lines])
def test_what_is_no_file_is_refused_at_once(kind: str, read: Any, tmp_path: Path) -> None:
    KINDS[kind](tmp_path / "x")
    with pytest.raises(OSError) as error:
        read(tmp_path / "x")
    if kind in ("a pipe", "a socket", "a device"):
        assert error.value.strerror == f"It is {kind}, not a file"


@pytest.mark.parametrize("name", ["a\0b", "a\ud800b"])
def test_names_that_no_file_can_have(name: str, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="name that no file can have"):
        read_file(tmp_path / name, 10)


def test_a_file_that_becomes_a_pipe_is_refused_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"x")
    facts = (tmp_path / "file").stat()
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.setattr(Path, "stat", lambda self: facts)
    with pytest.raises(OSError, match="pipe"):
        open_regular_file(tmp_path / "pipe")


def test_a_limit_is_of_bytes_and_inclusive(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(bytes(1000))
    assert read_file(path, 1000) == bytes(1000)
    with pytest.raises(OSError, match=r"1,000 bytes long; 999 is the limit"):
        read_file(path, 999)
    assert read_file(Path("/proc/self/status"), 1 << 20).startswith(b"Name:")  # a file that claims no bytes
    with pytest.raises(OSError, match="goes on after 10 bytes"):
        read_file(Path("/proc/self/status"), 10)


def test_a_sparse_file_of_a_terabyte_is_never_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "x"
    with path.open("wb") as stream:
        stream.truncate(1 << 40)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(OSError, match="limit"):
        read_text(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 10_000  # KiB


@pytest.mark.parametrize("text", ["[" * 200_000, '{"a":' * 200_000, "[" * 200_000 + "]" * 200_000])
def test_depth_is_said_of_json_and_toml(text: str) -> None:
    with pytest.raises(ValueError, match="nested too deeply"):
        parse_json(text)
    with pytest.raises(ValueError):
        parse_toml(f"a = {text}")


@pytest.mark.parametrize("data", [b"\xff\xfe\x00", b"", b"{", b"1" * 5000, b'{"a": 1}}', b"\x00"])
def test_what_is_no_json_is_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError):
        parse_json(data)


class Row(TypedDict):
    name: str
    count: int
    parts: NotRequired[list[dict[str, float]]]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([], "expected object, got array"),
        (None, "expected object, got null"),
        ({"name": "a"}, "missing required field count"),
        ({"name": 1, "count": 1}, "expected str, got int, at name"),
        ({"name": "a", "count": True}, "expected int, got bool, at count"),
        ({"name": "a", "count": 1.5}, "expected int, got float, at count"),
        ({"name": "a", "count": 1, "parts": [{}, {"x": "y"}]}, "expected float, got str, at parts"),
    ],
)
def test_another_shape_is_said_with_its_place(content: object, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        require_shape(content, Row)


def test_content_of_the_right_shape_comes_back_whole(tmp_path: Path) -> None:
    content = {"name": "a", "count": 1, "another": [None]}
    assert require_shape(content, Row) is content
    (tmp_path / "rows.jsonl").write_text(
        '{"name": "a\u2028b\x85c", "count": 1}\r\n\n{"name": "d", "count": 2}', "utf-8"
    )
    assert [row["name"] for row in read_json_lines(tmp_path / "rows.jsonl", Row)] == ["a\u2028b\x85c", "d"]
    (tmp_path / "rows.jsonl").write_text('{"name": "a", "count": 1}\n{"name": []}\n')
    with pytest.raises(ValueError, match=r"^line 2: expected str, got array, at name$"):
        list(read_json_lines(tmp_path / "rows.jsonl", Row))
    (tmp_path / "x.json").write_bytes(b"\xef\xbb\xbf{}")
    assert read_json(tmp_path / "x.json", dict[str, Any]) == {}


def test_lines_end_at_line_feeds_alone(tmp_path: Path) -> None:
    odd = "a\x0bb\x0cc\x1cd\x85e\u2028f\u2029g"
    cases = {f"{odd}\nb\n": [odd, "b"], "a\r\nb": ["a", "b"], "": [], "\n": [""], "a\n\n": ["a", ""]}
    for text, lines in cases.items():
        (tmp_path / "x").write_bytes(text.encode())
        assert read_lines(tmp_path / "x") == lines
