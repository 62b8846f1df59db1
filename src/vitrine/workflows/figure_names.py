"""One figure for each picture, under the picture's own name."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence


def figure_names(pictures: Sequence[str], kind: str, taken: Sequence[str] = ()) -> Mapping[str, str]:
    """A figure's path for every picture: its own with another ending, or with both where two would collide.

    Args:
        pictures: their names.
        kind: the figures' ending, without the dot.
        taken: stems that other files need.
    """
    used = set(taken)
    names = {}
    for name in pictures:
        stem = name.rpartition(".")[0] or name
        chosen = stem if stem not in used else name
        used.add(chosen)
        names[name] = f"{chosen}.{kind}"
    return names


def plain_stem(name: str) -> str:
    """A name that every file system and the address of a section take: letters, digits, and ``._-``."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name)[:60].strip("-.") or "unnamed"
