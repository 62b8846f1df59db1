"""The published captioner's released files: where they are, and where they lie. It starts no torch."""

from __future__ import annotations

from pathlib import Path

from vitrine.downloads.settings import RELEASED, cache_folder
from vitrine.errors import ModelError

_ADDRESS = "https://github.com/saahiluppal/catr/releases/download/"

# Where the published code's hubconf.py finds them. It states no hashes.
RELEASES = {
    "catr/v1": f"{_ADDRESS}0.1/weights_9348032.pth",
    "catr/v2": f"{_ADDRESS}0.2/weight389123791.pth",
    "catr/v3": f"{_ADDRESS}0.2/weight493084032.pth",
}


def release_path(name: str) -> Path:
    """Where the file of ``catr/v1``, ``catr/v2`` or ``catr/v3`` lies in the cache folder, or would lie.

    Raises:
        ModelError: there is no such release.
    """
    if name not in RELEASES:
        raise ModelError(f"There is no captioner {name!r}. Expected {', '.join(RELEASES)}, or a weights file.")
    return cache_folder() / RELEASED / RELEASES[name].rsplit("/", 1)[-1]
