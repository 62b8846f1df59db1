"""The published captioner's released files: one from the cache folder, or downloaded into it."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from urllib.request import urlopen

from vitrine.downloads.records import note_use
from vitrine.downloads.settings import TURNED_OFF, is_offline
from vitrine.errors import WeightsUnavailableError
from vitrine.models.captioner.loading import load_catr
from vitrine.models.releases import RELEASES, release_path

__all__ = ["RELEASES", "fetch_release", "release_path"]

_TIMEOUT_SECONDS = 10.0
_BLOCK = 1 << 20
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.EPERM}


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
        note_use(path, RELEASES[name])
        return path
    partial = path.with_suffix(f".{os.getpid()}.part")  # another process may be downloading it, too
    try:
        if is_offline():
            raise OSError(TURNED_OFF)
        partial.parent.mkdir(parents=True, exist_ok=True)
        _download(RELEASES[name], partial, progress)
        load_catr(partial)  # an answer that is not the file is not kept
        partial.replace(path)
    except (OSError, HTTPException) as error:
        if isinstance(error, OSError) and error.errno in _DISK:
            raise WeightsUnavailableError(
                f"{name} cannot be saved in {path.parent}: {error.strerror}.\n"
                "Make room, or choose another folder: --cache DIR, or the environment's VITRINE_CACHE."
            ) from error
        raise WeightsUnavailableError(
            f"{name} is needed and is not in {path.parent}: {' '.join(str(error).split()) or type(error).__name__}.\n"
            f"Download {RELEASES[name]} on another machine and save it as {path}, or name the file with --arch catr."
        ) from error
    finally:
        if partial.parent.is_dir():
            partial.unlink(missing_ok=True)
    note_use(path, RELEASES[name])
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
