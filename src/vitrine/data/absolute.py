"""References to data as they are written from any folder."""

from __future__ import annotations

from pathlib import Path

from vitrine.data import pets
from vitrine.data.shards.opening import is_remote
from vitrine.data.shards.places import expanded

_HUB = "hf:"
_NO_PATHS = ("scenes:", "oxford-pets:")


def absolute_reference(reference: str, folder: Path) -> str:
    """A reference whose paths are relative to ``folder``, with absolute ones; one without paths stays as it is."""
    if reference in pets.NAMES or reference.startswith(_NO_PATHS):
        return reference
    if "::" in reference:  # several patterns of shards
        return "::".join(absolute_reference(part, folder) for part in reference.split("::"))
    if reference.startswith(_HUB):
        place = reference.removeprefix(_HUB)
        return f"{_HUB}{folder}/{place}" if place.startswith(".") else reference
    if is_remote(reference) or reference.startswith("~") or Path(reference).is_absolute():
        return reference
    return f"{folder}/{reference}"


def is_there(reference: str) -> bool:
    """Whether the file or folder that an absolute reference means exists; of shards by name, the first."""
    place = reference.removeprefix(_HUB).partition("::")[0]
    names = (place, place.partition("?")[0], expanded(place)[0])  # what follows a question mark are options
    return any(Path(name).exists() for name in names)
