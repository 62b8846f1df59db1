"""What libraries write to the terminal from C++ code, past Python."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def native_messages_dropped() -> Iterator[None]:
    """Drop what C++ code writes to file descriptor 2, and leave Python's own stderr as it is."""
    before, python, original = os.dup(2), sys.stderr, sys.__stderr__
    try:
        if original is not None and python is original:
            sys.stderr = os.fdopen(os.dup(2), "w", buffering=1, encoding=original.encoding, errors=original.errors)
        with Path(os.devnull).open("wb") as nothing:
            os.dup2(nothing.fileno(), 2)
        yield
    finally:
        meanwhile, sys.stderr = sys.stderr, python
        os.dup2(before, 2)
        os.close(before)
        if meanwhile is not python:
            meanwhile.close()
