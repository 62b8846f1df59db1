"""Files that this program may not have written: what they are is looked at before they are read, and how much is read.

A path can name a device that never ends, a pipe that waits for a writer, or gigabytes of text. JSON and TOML can be
nested deeper than a parser goes, and well-formed content can have another shape than the reader expects. Everything
here raises OSError (it cannot be read) or ValueError (its content is not what was expected), with a message that fits
into the middle of a sentence; a caller adds the file's name and what to do.
"""

from __future__ import annotations

import errno
import json
import os
import stat
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

import msgspec

from vitrine.io.limits import limit

MAX_TEXT_BYTES = limit("MAX_TEXT_BYTES", 64 << 20)
"""Bytes of a JSON file or a list of names, such as a config.json or a vocabulary."""

MAX_TOML_BYTES = limit("MAX_TOML_BYTES", 1 << 20)
"""Bytes of a recipe or a sweep."""

_KINDS = (
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)
_CHUNK = 1 << 20  # bytes that are read at a time beyond the size that a file claims

T = TypeVar("T")


def require_regular_file(path: Path) -> None:
    """Refuse what is there but is no regular file, without opening it: to open some devices does something.

    Raises:
        OSError: there is nothing, or a folder, pipe, socket or device.
    """
    try:
        facts = path.stat()
    except ValueError as error:  # a zero byte, or half of a character
        raise OSError(errno.EINVAL, "It has a name that no file can have", str(path)) from error
    _require_regular(path, facts)


def is_regular_file(path: Path) -> bool:
    """Whether there is a regular file; False too where no file can have such a name, for which pathlib raises."""
    try:
        require_regular_file(path)
    except OSError:
        return False
    return True


def open_regular_file(path: Path) -> BinaryIO:
    """Open a regular file for reading bytes; never waits for a pipe's writer.

    Raises:
        OSError: there is nothing, it may not be read, or it is a folder, pipe, socket or device.
    """
    require_regular_file(path)
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:  # once more: another file may stand there since
        _require_regular(path, os.fstat(descriptor))
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_file(path: Path, limit: int) -> bytes:
    """All bytes of a regular file.

    Args:
        path: of the file.
        limit: bytes it may have; of a longer one, no more than one byte beyond is ever read.

    Raises:
        OSError: as :func:`open_regular_file`; errno is EFBIG where it is longer than the limit.
    """
    with open_regular_file(path) as stream:
        size = os.fstat(stream.fileno()).st_size
        if size > limit:
            raise _too_long(path, f"is {size:,} bytes long", limit)
        # No more than the file claims at first: a buffer of the limit's size would be made for every small file.
        data = stream.read(size + 1)
        while len(data) > size and len(data) <= limit:  # it grows, or it claims nothing, as files of /proc do
            chunk = stream.read(min(_CHUNK, limit + 1 - len(data)))
            if not chunk:
                return data
            data += chunk
    if len(data) > limit:
        raise _too_long(path, f"goes on after {limit:,} bytes", limit)
    return data


def read_text(path: Path, limit: int = MAX_TEXT_BYTES) -> str:
    """A regular file's text: UTF-8, a byte order mark at its start dropped.

    Raises:
        OSError: as :func:`read_file`.
        ValueError: it is not UTF-8.
    """
    data = read_file(path, limit)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start + 1:,} is not UTF-8 text") from error


def read_lines(path: Path, limit: int = MAX_TEXT_BYTES) -> list[str]:
    r"""The lines of a text file, split at ``\n`` alone, a ``\r`` before it dropped.

    ``str.splitlines`` also splits at U+2028, U+0085 and others, which JSON and class names may contain.

    Raises:
        OSError, ValueError: as :func:`read_text`.
    """
    lines = [line.removesuffix("\r") for line in read_text(path, limit).split("\n")]
    return lines[:-1] if lines[-1] == "" else lines


def parse_json(text: str | bytes) -> Any:
    """What JSON says.

    Raises:
        ValueError: it is no JSON, or nested deeper than the parser goes.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("its brackets are nested too deeply") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start + 1:,} is not UTF-8 text") from error
    except ValueError as error:  # a number of thousands of digits, too
        raise ValueError(f"it is no JSON: {error}") from error


def parse_toml(text: str) -> dict[str, Any]:
    """What TOML says.

    Raises:
        ValueError: it is no TOML, or nested deeper than the parser goes.
    """
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("its brackets are nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"it is no TOML: {error}") from error


def read_json(path: Path, shape: type[T], limit: int = MAX_TEXT_BYTES) -> T:
    """A JSON file whose content has a shape.

    Args:
        path: of the file.
        shape: a type such as ``dict[str, int]`` or a TypedDict; keys that it does not name may be there, and stay.
        limit: bytes it may have.

    Raises:
        OSError: as :func:`read_file`.
        ValueError: it is no JSON, or of another shape: what was expected, what was found and where.
    """
    return require_shape(parse_json(read_file(path, limit)), shape)


def read_json_lines(path: Path, shape: type[T], limit: int = MAX_TEXT_BYTES) -> Iterator[T]:
    """A JSON file with one value a line, line by line; empty lines are skipped.

    Raises:
        OSError, ValueError: as :func:`read_json`; the message begins with the line's number.
    """
    for number, line in enumerate(read_lines(path, limit), start=1):
        if line.strip():
            try:
                yield require_shape(parse_json(line), shape)
            except ValueError as error:
                raise ValueError(f"line {number:,}: {error}") from error


def require_shape(content: object, shape: type[T]) -> T:
    """The same content, where it has a shape.

    Raises:
        ValueError: it has not: what was expected, what was found and where.
    """
    try:
        msgspec.convert(content, type=shape)
    except msgspec.ValidationError as error:
        raise ValueError(_plain(str(error))) from error
    except RecursionError:
        raise ValueError("its brackets are nested too deeply") from None
    return cast(T, content)


def _plain(message: str) -> str:
    """msgspec's message in our words: "expected int, got str, at splits.train[0].label"."""
    text, _, place = message.partition(" - at ")
    text = text.replace("`", "")
    where = place.strip("`").removeprefix("$").removeprefix(".")
    return f"{text[:1].lower()}{text[1:]}{f', at {where}' if where else ''}"


def _require_regular(path: Path, facts: os.stat_result) -> None:
    if stat.S_ISREG(facts.st_mode):
        return
    if stat.S_ISDIR(facts.st_mode):
        raise IsADirectoryError(errno.EISDIR, "Is a directory", str(path))
    kind = next((name for test, name in _KINDS if test(facts.st_mode)), "no regular file")
    raise OSError(errno.EINVAL, f"It is {kind}, not a file", str(path))


def _too_long(path: Path, what: str, limit: int) -> OSError:
    return OSError(errno.EFBIG, f"It {what}; {limit:,} is the limit", str(path))
