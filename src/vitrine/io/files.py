"""Atomic writes: a file is written whole or not at all; and the one form of JSON that vitrine writes."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from vitrine.io.file_names import temporary_path, writer_of
from vitrine.results import Unreadable

_STALE_SECONDS = 3600.0  # seconds without a change after which a file of another machine's process belongs to nobody


@contextmanager
def atomic_path(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """Yield a temporary path to write to, which replaces ``path`` at the end: a reader never sees half a file.

    ``durable`` waits until the bytes are on the disk, so that a machine that loses power keeps the old file or the new
    one.
    """
    temporary = temporary_path(path)
    try:
        with writing(path, temporary):
            yield temporary
            temporary.chmod(0o666 & ~_umask())  # safetensors writes files that only their owner may read
            if durable:
                with temporary.open("rb") as stream:
                    os.fsync(stream.fileno())
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_unfinished(*folders: Path) -> None:
    """Delete what processes that were killed left directly in some folders, at a :func:`temporary_path`.

    What is being written stays. Whether another machine's process is running is not known: its file counts until an
    hour after its last change.
    """
    for folder in folders:
        with suppress(OSError):  # there is no such folder
            for path in [Path(entry.path) for entry in os.scandir(folder) if entry.name.endswith(".part")]:
                with suppress(OSError):  # its writer has just finished, or another process was here first
                    if not _is_being_written(path):
                        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _is_being_written(path: Path) -> bool:
    writer = writer_of(path)
    if writer is None:  # somebody's own file
        return True
    is_running = writer.is_running()
    return time.time() - path.lstat().st_mtime < _STALE_SECONDS if is_running is None else is_running


@contextmanager
def writing(path: Path, temporary: Path | None = None) -> Iterator[None]:
    """Around whatever writes a file: where a disk is full, or a folder gone or read-only, that is what is raised.

    Libraries have errors of their own for it (safetensors, ``torch.save``, onnx), and Python's do not name a file that
    is open already.

    Args:
        path: as a person knows it; errors name it.
        temporary: what is written in its place.

    Raises:
        OSError: it cannot be written.
    """
    try:
        yield
    except OSError as error:
        if error.errno is not None and _is_of(error, path, temporary):
            raise OSError(error.errno, os.strerror(error.errno), str(path)) from error
        raise
    except Exception as error:
        number = _errno_in(str(error)) or _find_obstacle(path)
        if number is None:
            raise
        raise OSError(number, os.strerror(number), str(path)) from error


def _is_of(error: OSError, path: Path, temporary: Path | None) -> bool:
    """Whether an error is of this file, or names none; and not of another that is read meanwhile."""
    if error.filename is None or str(error.filename) == str(path):
        return True
    return temporary is not None and str(error.filename).startswith(str(temporary))


_PROBE = bytes(1 << 16)  # more than a file system keeps in the file's entry


_OBSTACLES = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)


def _errno_in(message: str) -> int | None:
    """The number of the system's error that a library's message tells of; None where it tells of none."""
    if match := re.search(r"\bos error (\d+)\b", message):
        return int(match[1])
    return next((number for number in _OBSTACLES if os.strerror(number).lower() in message.lower()), None)


def _find_obstacle(path: Path) -> int | None:
    """The number of the error with which nothing can be written beside a file; None where something can."""
    probe = temporary_path(path)
    try:
        with probe.open("wb") as stream:
            stream.write(_PROBE)
            os.fsync(stream.fileno())
    except OSError as error:
        return error.errno
    finally:
        with suppress(OSError):
            probe.unlink(missing_ok=True)
    return None


def _umask() -> int:
    current = os.umask(0o077)
    os.umask(current)
    return current


def write_atomically(path: Path, content: bytes | str, *, durable: bool = True) -> None:
    """Write ``content`` (text as UTF-8) to ``path``, whole or not at all; ``durable`` as for :func:`atomic_path`."""
    with atomic_path(path, durable=durable) as temporary:
        temporary.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)


_OF_ONE_NAME = frozenset(
    (errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ, errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENOENT)
)


def concerns_one_file(error: OSError) -> bool:
    """Whether it is this one name that cannot be read or written, so that other files still can.

    A full disk, or a folder that may not be written to, would end every other file in the same way.
    """
    return error.errno in _OF_ONE_NAME


def unwritten_picture(name: str, error: OSError) -> Unreadable:
    """A picture whose own figure cannot be written, with the reason, so that the others go on.

    Raises:
        OSError: ``error``, where it would end every other figure, too.
    """
    if not concerns_one_file(error):
        raise error
    return name, f"its figure cannot be written: {error.strerror or error}"


def to_json(value: object) -> str:
    """JSON with two spaces of indentation, keys as given, and a final newline."""
    return _with_indent(value, "\n") + "\n"


def _with_indent(value: object, line: str) -> str:
    """The text of ``json.dumps(value, indent=2)`` at a depth, whose line ends and indentation are ``line``.

    With ``indent``, the encoder is Python code; without, it is C. So flat parts are encoded with separators that
    hold line ends and indentation: a hundred thousand tests take a fraction of the time.
    """
    inner = f"{line}  "
    if isinstance(value, dict) and value and all(type(key) is str for key in value):
        return f"{{{inner}{f',{inner}'.join(_entries(value, inner))}{line}}}"
    if isinstance(value, list | tuple) and value:
        if _is_flat(value):
            return f"[{inner}{_encoder(inner).encode(value)[1:-1]}{line}]"
        return f"[{inner}{f',{inner}'.join(_with_indent(each, inner) for each in value)}{line}]"
    return json.dumps(value, indent=2, ensure_ascii=False).replace("\n", line)  # no text has a bare line's end


def _entries(content: dict[str, Any], line: str) -> Iterator[str]:
    """The entries of a dictionary: those between two that hold others are one text."""
    flat: dict[str, Any] = {}
    for key, value in content.items():
        if not isinstance(value, dict | list | tuple):
            flat[key] = value
            continue
        if flat:
            yield _encoder(line).encode(flat)[1:-1]
            flat = {}
        yield f"{json.dumps(key, ensure_ascii=False)}: {_with_indent(value, line)}"
    if flat:
        yield _encoder(line).encode(flat)[1:-1]


def _is_flat(values: Iterable[object]) -> bool:
    return not any(isinstance(each, dict | list | tuple) for each in values)


@lru_cache(maxsize=64)
def _encoder(line: str) -> json.JSONEncoder:
    return json.JSONEncoder(ensure_ascii=False, separators=(f",{line}", ": "))


def file_sha256(path: Path) -> str:
    """sha256 of a file, in hexadecimal, read in blocks."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
