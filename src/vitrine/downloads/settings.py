"""Where downloads go, and whether there may be any: settings of a process that its children inherit."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vitrine.errors import UsageError

HUB, RELEASED, PETS, DATA_SETS, CLIENT = "hub", "catr", "oxford-iiit-pet", "datasets", "xet"
"""Folders in the cache folder: of the hub's client, of the published captioner, of torchvision's pets, of what datasets
makes of downloads, and of parts of files that the hub's client keeps."""

DECODED, DECODED_FROM = "decoded", "training pictures, decoded by vitrine train"
"""The folder in the cache folder of training pictures that were decoded once, and what is said of their origin."""

CACHE, OFFLINE = "VITRINE_CACHE", "VITRINE_OFFLINE"
TURNED_OFF = "the network was turned off"

_YES = {"1", "ON", "YES", "TRUE"}
_CLIENTS = ("huggingface_hub.constants", "datasets.config")  # each keeps HF_HUB_OFFLINE as it was at its import


def cache_folder() -> Path:
    """The one folder that downloaded files go to: ``VITRINE_CACHE``, else ``~/.cache/vitrine``."""
    return Path(os.environ.get(CACHE) or Path.home() / ".cache" / "vitrine").expanduser()


def is_offline() -> bool:
    """Whether the network may not be used: ``VITRINE_OFFLINE`` or ``HF_HUB_OFFLINE`` is set."""
    if any(os.environ.get(name, "").upper() in _YES for name in (OFFLINE, "HF_HUB_OFFLINE")):
        return True
    return any(getattr(sys.modules.get(name), "HF_HUB_OFFLINE", False) for name in _CLIENTS)


@contextmanager
def downloading(*, into: Path | None = None, offline: bool = False) -> Iterator[None]:
    """Within the block, downloads go into a folder, or there are none.

    Args:
        into: the folder; None leaves it as it is.
        offline: use no network; False leaves it as it is.

    Raises:
        UsageError: ``into`` is something else than a folder.
    """
    if into is not None and into.expanduser().exists() and not into.expanduser().is_dir():
        raise UsageError(f"--cache {into} is not a folder: expected one, or the path of one to make.")
    values = {} if into is None else {CACHE: str(into.expanduser().absolute())}
    values |= {OFFLINE: "1", "HF_HUB_OFFLINE": "1"} if offline else {}
    before = {name: os.environ.get(name) for name in values}
    clients = _CLIENTS if offline else ()
    imported = {name: sys.modules[name].HF_HUB_OFFLINE for name in clients if name in sys.modules}
    os.environ.update(values)
    for name in imported:
        sys.modules[name].HF_HUB_OFFLINE = True  # type: ignore[attr-defined]
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        for name in clients:
            if name in sys.modules:  # one that was imported within the block read what holds there
                own = os.environ.get("HF_HUB_OFFLINE", "").upper() in _YES
                sys.modules[name].HF_HUB_OFFLINE = imported.get(name, own)  # type: ignore[attr-defined]


def quieten_client() -> None:
    """Let the hub's client tell nobody what runs here, and keep nothing outside of the cache folder."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ["HF_XET_CACHE"] = str(cache_folder() / CLIENT)
    constants = sys.modules.get("huggingface_hub.constants")
    if constants is not None:
        constants.HF_HUB_DISABLE_TELEMETRY = True  # type: ignore[attr-defined]
