"""Options that follow a reference to data after a question mark: ``photos.csv?label=breed&encoding=cp1252``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from urllib.parse import parse_qsl, quote

from vitrine.errors import DataError


def split_options(reference: str, known_options: Sequence[str]) -> tuple[str, dict[str, str]]:
    """Split ``place?key=value&key=value``; a file whose name has a question mark in it is left whole.

    Raises:
        DataError: an option that is not known.
    """
    place, _, query = reference.partition("?")
    if not query or _exists(reference):
        return reference, {}
    options = dict(parse_qsl(query, keep_blank_values=True))
    unknown = [key for key in options if key not in known_options]
    if unknown or not options:
        raise DataError(
            f"{reference}: {unknown or [query]} is no option of data; known are {', '.join(known_options)}."
        )
    return place, options


def without_options(reference: str) -> str:
    """A reference without what follows its question mark."""
    return reference if _exists(reference) else reference.partition("?")[0]


def with_option(reference: str, key: str, value: str | None) -> str:
    """A reference with one option more; None adds nothing."""
    if value is None:
        return reference
    mark = "&" if without_options(reference) != reference else "?"
    return f"{reference}{mark}{key}={quote(value)}"


def _exists(reference: str) -> bool:
    try:
        return Path(reference).expanduser().exists()
    except (OSError, ValueError, RuntimeError):  # a name that no file can have
        return False
