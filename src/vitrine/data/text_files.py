"""Text files as people have them: UTF-8 with a byte-order mark or without, UTF-16, or another encoding that is named.

Lines end where every spreadsheet and editor ends them: at a line feed, a carriage return, or both. The other characters
at which Python's ``splitlines`` breaks (U+0085, U+2028 and the like) are text.
"""

from __future__ import annotations

import codecs
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from vitrine.errors import DataError, error_summary
from vitrine.io.limits import limit
from vitrine.io.untrusted_files import open_regular_file

MAX_LINE_LENGTH = limit("MAX_LINE_LENGTH", 10_000_000)
"""Characters of a line of a table."""

_MARKS = (  # of 32 bits first: that of UTF-16 begins as the one of UTF-32 does
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_HEAD = 4096  # bytes that are looked at
_LEAST_ZEROS = 50  # of so many bytes, one is 0 in UTF-16: every letter of a file name has one
_CLEAR = 4  # times as many zeros at one place of the pairs as at the other
_GUESS = "cp1252"  # what Excel on Windows writes in most of Europe and America


class EncodingError(DataError):
    """A text file whose bytes are none in the encoding that it is read with."""


@contextmanager
def open_text(file: Path, encoding: str = "", newline: str | None = None) -> Iterator[TextIO]:
    """Open a text file to read it.

    Args:
        file: the file.
        encoding: its name; empty goes by the byte-order mark, else tells UTF-16 from UTF-8 by its zero bytes.
        newline: as of :func:`open`: None makes every line end in a line feed, "" leaves them.

    Raises:
        EncodingError: there is no such encoding, or what is read while the file is open is none in it; the message
            names the line and how to name an encoding.
        OSError: the file cannot be read.
    """
    name = _choose_encoding(file, encoding)
    with io.TextIOWrapper(open_regular_file(file), encoding=name, newline=newline) as stream:
        try:
            if stream.read(1) != "\ufeff":
                stream.seek(0)
            yield stream
        except UnicodeError as error:
            raise EncodingError(_describe_problem(file, name, is_named=bool(encoding))) from error


def read_text(file: Path, encoding: str = "") -> str:
    """The whole of a text file; see :func:`open_text`."""
    with open_text(file, encoding) as stream:
        return stream.read()


def read_lines(file: Path, encoding: str = "") -> Iterator[tuple[int, str]]:
    """Yield the lines of a text file as (number from 1, text with its line feed).

    Raises:
        DataError: the file cannot be read as text, or a line is too long.
    """
    try:
        with open_text(file, encoding) as stream:
            number = 0
            while line := stream.readline(MAX_LINE_LENGTH + 1):
                number += 1
                if len(line) > MAX_LINE_LENGTH:
                    raise DataError(f"{file}, line {number} has more than {MAX_LINE_LENGTH:,} characters.")
                yield number, line
    except OSError as error:
        raise DataError(f"{file} cannot be read as text: {error_summary(error, 160)}.") from error


def _choose_encoding(file: Path, encoding: str) -> str:
    with open_regular_file(file) as stream:
        head = stream.read(_HEAD)
    marked_encoding = next((name for mark, name in _MARKS if head.startswith(mark)), "")
    if not encoding:
        return marked_encoding or _guess_from_zeros(file, head)
    try:
        name = codecs.lookup(encoding).name
        "".encode(name)  # codecs such as base64 are of bytes, and raise here
    except (LookupError, ValueError) as error:
        raise EncodingError(
            f"{encoding!r} is no encoding of text that is known here: expected utf-8, utf-16, cp1252, latin-1, "
            "shift_jis, gb18030, mac-roman or another name of Python's."
        ) from error
    family = marked_encoding.removesuffix("-sig")
    if family and not name.startswith(family):
        raise EncodingError(f"{file} begins with the byte-order mark of {family}, and is not {encoding}. Leave it out.")
    return "utf-8-sig" if name == "utf-8" else name


def _guess_from_zeros(file: Path, head: bytes) -> str:
    even, odd = head[0::2].count(0), head[1::2].count(0)
    if _LEAST_ZEROS * (even + odd) < len(head) or not head:
        return "utf-8"
    if odd >= _CLEAR * even:
        return "utf-16-le"
    if even >= _CLEAR * odd:
        return "utf-16-be"
    raise EncodingError(
        f"{file} holds zero bytes, and is neither UTF-8 nor clearly UTF-16.\n"
        "If it is text, name its encoding, as in --encoding utf-32-le; in a reference, DATA?encoding=utf-32-le."
    )


def _describe_problem(file: Path, encoding: str, *, is_named: bool) -> str:
    number, line, at = _first_problem(file, encoding)
    start = max(line.rfind(mark, 0, at) for mark in (b",", b";", b"\t", b"|", b'"', b" ", b"\n")) + 1
    part = re.split(rb"[,;\t|\"\n]", line[max(start, at - 20) : at + 12])[0].strip()
    name = encoding.removesuffix("-sig").upper()
    what = f"{file}, line {number:,} is not {name}: the byte 0x{line[at]:02x} in {part!r}"
    if is_named:
        return f"{what}.\nName the encoding that it has; without --encoding, UTF-8 and UTF-16 are told by themselves."
    reading = part.decode(_GUESS, "replace")
    return (
        f"{what}.\nIn {_GUESS}, which Excel on Windows writes, it reads {reading!r}: if that is right, give "
        f"--encoding {_GUESS} (in a reference, DATA?encoding={_GUESS}), else the encoding that it has."
    )


def _first_problem(file: Path, encoding: str) -> tuple[int, bytes, int]:
    """Number and bytes of the first line that is none in an encoding, and where in it."""
    if encoding.startswith(("utf-16", "utf-32")):
        data = file.read_bytes()
        try:
            data.decode(encoding)
        except UnicodeError as error:
            at = getattr(error, "start", len(data) - 1)
            number = data[:at].decode(encoding, "ignore").count("\n") + 1
            return number, data[max(0, at - 40) : at + 20], min(at, 40)
    with open_regular_file(file) as stream:
        for number, line in enumerate(stream, start=1):
            try:
                line.decode("utf-8" if encoding == "utf-8-sig" and number > 1 else encoding)
            except UnicodeError as error:
                return number, line, getattr(error, "start", 0)
    return 1, b"?", 0  # only a codec whose lines depend on one another
