"""Names of files that are written: none is longer than file systems allow, whatever name it is derived from."""

from __future__ import annotations

import hashlib
import re
import uuid
from pathlib import Path

from vitrine.io.process_identity import ProcessIdentity

MAX_BYTES = 255
"""Bytes of one name on the file systems of Linux and macOS; it is bytes that count, of which 文 has three."""

_TEMPORARY = re.compile(r"\.(.+)-[0-9a-f]{8}\.part")
_HASH = 12  # hexadecimal digits that tell shortened names apart


def fit_name(stem: str, ending: str = "") -> str:
    """``stem`` with ``ending`` as a file name: as it is where it fits, else its beginning, ``~`` and a hash of it all.

    The same stem always gives the same name, and different stems give different ones. A character is never cut apart.

    >>> fit_name("cat", "-heads.png")
    'cat-heads.png'
    """
    room = MAX_BYTES - len(_encode(ending))
    name_bytes = _encode(stem)
    if len(name_bytes) <= room:
        return stem + ending
    digest = hashlib.sha256(name_bytes).hexdigest()[:_HASH]
    end = room - len(digest) - 1
    while name_bytes[end] & 0xC0 == 0x80:  # inside of a character
        end -= 1
    beginning = name_bytes[:end].decode("utf-8", "surrogatepass")
    return f"{beginning}~{digest}{ending}"


def fit_path(path: str, ending: str = "") -> str:
    """A relative POSIX path whose every part fits; ``ending`` is added to the last."""
    *folders, stem = path.split("/")
    return "/".join((*(fit_name(folder) for folder in folders), fit_name(stem, ending)))


def beside(path: Path, suffix: str, *, keep_ending: bool = True) -> Path:
    """The path beside ``path`` whose name goes on with ``suffix``; without ``keep_ending`` in place of its ending."""
    return path.with_name(fit_name(path.name if keep_ending else path.stem, suffix))


def temporary_path(path: Path) -> Path:
    """A new hidden name in the folder of ``path``, for a file that will take its place.

    It is short whatever the other is called, since a name that a file system just holds cannot be made longer; it is
    each call's own, so that processes and threads that write one file do not meet; and it says which process writes.
    """
    return path.with_name(f".{ProcessIdentity.current().tag}-{uuid.uuid4().hex[:8]}.part")


def writer_of(path: Path) -> ProcessIdentity | None:
    """The process that writes to a :func:`temporary_path`; None of any other path."""
    match = _TEMPORARY.fullmatch(path.name)
    return None if match is None else ProcessIdentity.from_tag(match[1])


def _encode(text: str) -> bytes:
    """Bytes as a file system has them; a text that none can hold still has a length and a hash."""
    return text.encode("utf-8", "surrogatepass")
