"""What the folders of a sweep's runs are called."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Any

from vitrine.errors import RecipeError

Changes = tuple[tuple[str, Any], ...]
"""(recipe field, value), as ``--set`` would have them."""

Named = tuple[str, Changes]
"""A setting: its own name, "" without one, and what it changes."""

_LONGEST = 100  # characters of a folder's name, without its seed


def folder_names(settings: Sequence[Named]) -> list[str]:
    """A folder's name for every setting, readable and safe: no part of a path comes from a value.

    What would be the same, or too long, ends in a hash of the setting.

    Raises:
        RecipeError: two settings are the same.
    """
    plain = [
        _slug(name) if name else ",".join(f"{key}={_slug(value)}" for key, value in changes) or "base"
        for name, changes in settings
    ]
    marks = [hashlib.sha256(repr(setting).encode()).hexdigest()[:8] for setting in settings]
    if len(set(marks)) != len(marks):
        twice = next(setting for i, setting in enumerate(settings) if marks[i] in marks[:i])
        raise RecipeError(f"the setting {dict(twice[1]) or twice[0]} is there twice.")
    folded = [name.casefold() for name in plain]  # some file systems do not tell A from a
    return [
        f"{name[:_LONGEST]},{mark}" if folded.count(fold) > 1 or len(name) > _LONGEST else name
        for name, fold, mark in zip(plain, folded, marks, strict=True)
    ]


def _slug(value: object) -> str:
    """A value in letters, digits and ``.+-``; of a path the last part."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return "-".join(_slug(each) for each in value)
    words = re.sub(r"[^A-Za-z0-9.+-]+", "-", re.split(r"[/\\]", str(value).rstrip("/\\"))[-1])
    return words.strip(".-")[:40] or "value"
