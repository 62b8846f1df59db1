"""The published captioner's released files: where they are, and one from the cache folder or downloaded into it."""

from __future__ import annotations

from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from urllib.request import urlopen

from vitrine.errors import ModelError, WeightsUnavailableError
from vitrine.models.captioner.loading import load_catr
from vitrine.models.hub import cache_folder

_ADDRESS = "https://github.com/saahiluppal/catr/releases/download/"

# Where the published code's hubconf.py finds them. It states no hashes.
RELEASES = {
    "catr/v1": f"{_ADDRESS}0.1/weights_9348032.pth",
    "catr/v2": f"{_ADDRESS}0.2/weight389123791.pth",
    "catr/v3": f"{_ADDRESS}0.2/weight493084032.pth",
}

_TIMEOUT_SECONDS = 10.0
_BLOCK = 1 << 20


def release_path(name: str) -> Path:
    """Where the file of ``catr/v1``, ``catr/v2`` or ``catr/v3`` lies in the cache folder, or would lie.

    Raises:
        ModelError: there is no such release.
    """
    if name not in RELEASES:
        raise ModelError(f"There is no captioner {name!r}. Expected {', '.join(RELEASES)}, or a weights file.")
    return cache_folder() / "catr" / RELEASES[name].rsplit("/", 1)[-1]


def fetch_release(name: str, progress: Callable[[int, int], None] | None = None) -> Path:
    """A released file, from the cache folder or downloaded into it; there only once it was found to be the captioner's.

    Args:
        name: ``catr/v1``, ``catr/v2`` or ``catr/v3``.
        progress: called with the bytes so far and those in all (0 where the server does not say) while it downloads.

    Returns:
        where it lies, as :func:`release_path` says.

    Raises:
        ModelError: there is no such release, or what came is something else.
        WeightsUnavailableError: it is not in the cache folder and cannot be downloaded now.
    """
    path = release_path(name)
    if path.is_file():
        return path
    partial = path.with_suffix(".part")
    try:
        partial.parent.mkdir(parents=True, exist_ok=True)
        _download(RELEASES[name], partial, progress)
        load_catr(partial)  # an answer that is not the file is not kept
        partial.replace(path)
    except (OSError, HTTPException) as error:
        raise WeightsUnavailableError(
            f"{name} is needed and is not in {path.parent}: {' '.join(str(error).split()) or type(error).__name__}.\n"
            f"Download {RELEASES[name]} on another machine and save it as {path}, or name the file with --arch catr."
        ) from error
    finally:
        partial.unlink(missing_ok=True)
    return path


def _download(address: str, path: Path, progress: Callable[[int, int], None] | None) -> None:
    """Into a file, block by block.

    Raises:
        OSError: no connection, an answer that is an error, fewer bytes than announced, or no room on the disk.
    """
    with urlopen(address, timeout=_TIMEOUT_SECONDS) as answer, path.open("wb") as file:  # noqa: S310  addresses above
        total, done = int(answer.headers.get("Content-Length") or 0), 0
        while block := answer.read(_BLOCK):
            file.write(block)
            done += len(block)
            if progress is not None:
                progress(done, total)
    if total and done != total:
        raise OSError(f"the connection ended after {done} of {total} bytes")
