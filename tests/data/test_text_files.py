"""Text in the encodings that people have, and lines that end at line breaks alone."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vitrine.data.text_files import EncodingError, open_text, read_lines, read_text

TEXT = "path,label\r\nimages/1.jpg,café\r\nimages/2.jpg,bøf – «né»\r\n"
PLAIN = TEXT.replace("\r\n", "\n")
CJK = "file,名\n写真/1.jpg,猫\n写真/2.jpg,犬\n"

# Encodings that need no name: the bytes say what they are.
DECIDED = {
    "UTF-8": TEXT.encode(),
    "UTF-8 with a mark": TEXT.encode("utf-8-sig"),
    "UTF-16 little, mark": TEXT.encode("utf-16"),
    "UTF-16 big, mark": b"\xfe\xff" + TEXT.encode("utf-16-be"),
    "UTF-16 little": TEXT.encode("utf-16-le"),
    "UTF-16 big": TEXT.encode("utf-16-be"),
    "UTF-32, mark": TEXT.encode("utf-32"),
    "UTF-32 big, mark": b"\0\0\xfe\xff" + TEXT.encode("utf-32-be"),
}


@pytest.mark.parametrize("kind", DECIDED)
def test_what_the_bytes_say(kind: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(DECIDED[kind])
    assert read_text(tmp_path / "t.csv") == PLAIN
    assert [number for number, _ in read_lines(tmp_path / "t.csv")] == [1, 2, 3]
    with open_text(tmp_path / "t.csv", newline="") as stream:
        assert stream.read() == TEXT


@pytest.mark.parametrize("order", ["le", "be"])
def test_utf_16_of_scripts_whose_letters_have_no_zero_byte(tmp_path: Path, order: str) -> None:
    (tmp_path / "t.csv").write_bytes(CJK.encode(f"utf-16-{order}"))
    assert read_text(tmp_path / "t.csv") == CJK


# Encodings that have to be named, and a text in each.
NAMED = {
    "cp1252": TEXT,
    "latin-1": "path,label\n1.jpg,café\n",
    "mac-roman": "path,label\n1.jpg,café\n",
    "cp1251": "path,label\n1.jpg,кот\n",
    "shift_jis": CJK,
    "gb18030": CJK,
    "utf-16-le": TEXT,
    "utf-32-le": TEXT,
    "utf-8": TEXT,
    "UTF8": TEXT,
    "windows-1252": TEXT,
}


@pytest.mark.parametrize("encoding", NAMED)
def test_what_a_person_says(encoding: str, tmp_path: Path) -> None:
    text = NAMED[encoding]
    (tmp_path / "t.csv").write_bytes(text.encode(encoding))
    assert read_text(tmp_path / "t.csv", encoding) == text.replace("\r\n", "\n")


# Bytes, the encoding that is named, and what the message says.
REFUSED = {
    "cp1252 as nothing": (TEXT.encode("cp1252"), "", ("line 2", "0xe9", r"caf\xe9", "'café'", "--encoding cp1252")),
    "in the third line": (b"a,b\n1,x\n2,\xfcber\n", "", ("line 3", "0xfc", "'über'")),
    "far into a file": (b"a,b\n" * 9_999 + b"1,\xe9\n", "", ("line 10,000",)),
    "UTF-16 cut in a letter": (TEXT.encode("utf-16")[:-1], "", ("is not UTF-16",)),
    "another name": (TEXT.encode("cp1252"), "shift_jis", ("line 2", "SHIFT_JIS", "encoding that it has")),
    "a gap of cp1252": (b"a\n\x81\n", "cp1252", ("line 2", "0x81", "CP1252")),
    "no encoding": (TEXT.encode(), "klingon", ("'klingon'", "expected utf-8")),
    "no encoding of text": (TEXT.encode(), "base64", ("'base64'",)),
    "a mark of another": (TEXT.encode("utf-8-sig"), "cp1252", ("byte-order mark of utf-8", "Leave it out")),
    "zero bytes everywhere": (b"\0" * 40, "", ("zero bytes", "utf-32-le")),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_read_is_named_with_the_remedy(kind: str, tmp_path: Path) -> None:
    data, encoding, words = REFUSED[kind]
    (tmp_path / "t.csv").write_bytes(data)
    with pytest.raises(EncodingError) as error:
        read_text(tmp_path / "t.csv", encoding)
    assert all(word in str(error.value) for word in words), str(error.value)
    assert str(error.value).count("\n") <= 1


SPLITTERS = "\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"  # at which str.splitlines breaks, and no editor does


def test_lines_end_at_line_breaks_alone(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text(f"a{SPLITTERS}b\nc\r\nd\re", "utf-8", newline="")
    assert [line for _, line in read_lines(tmp_path / "t.txt")] == [f"a{SPLITTERS}b\n", "c\n", "d\n", "e"]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    text=st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\ufeff"), min_size=1, max_size=60),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32"]),
)
def test_any_text_comes_back(tmp_path: Path, text: str, encoding: str) -> None:
    (tmp_path / "any.txt").write_bytes(text.encode(encoding))
    assert read_text(tmp_path / "any.txt") == text


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="pipe"):
        read_text(tmp_path / "pipe")
