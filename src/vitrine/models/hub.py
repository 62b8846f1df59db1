"""Files of repositories on the Hugging Face hub: from the cache folder, or downloaded into it."""

from __future__ import annotations

import re
import socket
import time
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from vitrine.errors import WeightsUnavailableError
from vitrine.io.hub_cache import (
    HUB,
    NETWORK_OFF,
    cache_folder,
    is_offline,
    note_use,
    quieten_client,
    remove_record,
    short_hash,
)
from vitrine.models.checkpoints.weights_index import is_index, read_index

_CONNECT_SECONDS = 3.0
_SHA256 = re.compile("[0-9a-f]{64}")
_PORTS = {"http": 80, "https": 443, "socks5": 1080, "socks5h": 1080}


def fetch(hub_id: str, names: tuple[str, ...], remedy: str) -> Path:
    """Get one file of a hub repository from the cache folder, or download it there: the first of ``names`` that exists.

    Args:
        hub_id: owner/name, with @revision where it is not the default one.
        names: file names, the preferred one first.
        remedy: what to do with the file once it was downloaded on another machine; ends the error's sentence.

    Raises:
        WeightsUnavailableError: it is not in the cache folder and cannot be downloaded now; or what is there, or what
            came, is not what the hub says it is.
    """
    path, reason, _ = _find(hub_id, names)
    if path is None:
        raise _unavailable(hub_id, names[0], reason, remedy)
    return path


def fetch_weights(hub_id: str, names: tuple[str, ...], remedy: str) -> Path:
    """Get a weights file as :func:`fetch` does; with an index of several files, all of those that it names.

    Raises:
        ModelError: what came is no such index.
        WeightsUnavailableError: see :func:`fetch`.
    """
    path = fetch(hub_id, names, remedy)
    if is_index(path):
        for name in sorted(set(read_index(path).values())):
            fetch(hub_id, (name,), remedy)
    return path


def fetch_optional(hub_id: str, name: str, remedy: str) -> Path | None:
    """Get a file that a repository need not have, as :func:`fetch` does; None where the hub says that there is none.

    Raises:
        WeightsUnavailableError: it is not in the cache folder, and whether there is one cannot be known now.
    """
    path, reason, is_absent = _find(hub_id, (name,))
    if path is None and not is_absent:
        raise _unavailable(hub_id, name, reason, remedy)
    return path


def _unavailable(hub_id: str, name: str, reason: str, remedy: str) -> WeightsUnavailableError:
    from huggingface_hub import constants

    repository = hub_id.partition("@")[0]
    return WeightsUnavailableError(
        f"{name} of {repository} is needed and is not in {cache_folder() / 'hub'}: {reason}.\n"
        f"Download it from {constants.ENDPOINT}/{repository} on another machine {remedy}"
    )


def _find(hub_id: str, names: tuple[str, ...]) -> tuple[Path | None, str, bool]:
    """The first of these files that exists; else the reason, and whether it is that the repository has none."""
    quieten_client()
    from huggingface_hub import _CACHED_NO_EXIST, constants, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    repository, _, revision = hub_id.partition("@")
    folder = cache_folder() / HUB
    reachable = not is_offline() and _reachable(constants.ENDPOINT)
    offline = NETWORK_OFF if is_offline() else f"{constants.ENDPOINT} cannot be reached"
    reason, absent = "", 0
    for name in names:
        began = time.time()
        try:
            path = hf_hub_download(
                repository, name, revision=revision or None, cache_dir=folder, local_files_only=not reachable
            )
            _remove_unfinished(Path(path), repository)
            _check_hash(Path(path), hub_id, began)
            return Path(path), "", False
        except WeightsUnavailableError:
            raise
        except EntryNotFoundError as error:
            if reachable and isinstance(error, LocalEntryNotFoundError):
                return None, _first_line(error), False
            reason = f"the repository has no {' or '.join(names)}" if reachable else offline
            cache_entry = try_to_load_from_cache(repository, name, cache_dir=folder, revision=revision or None)
            absent += reachable or cache_entry is _CACHED_NO_EXIST
        except OSError as error:
            if error.strerror and not isinstance(error, ConnectionError | TimeoutError):
                raise _not_saved(hub_id, name, error) from error
            return None, _first_line(error), False
        except Exception as error:  # the client passes on what its transport raises, which differs by its version
            return None, _first_line(error), False
    return None, reason, absent == len(names)


def _remove_unfinished(path: Path, repository: str) -> None:
    """Delete what killed downloads of a file left, now that it is there; the client never looks at it again.

    Whoever downloads it has the client's lock of it, so that nothing is deleted while anybody does.
    """
    from filelock import FileLock, Timeout  # the client's own lock
    from huggingface_hub.file_download import repo_folder_name

    blob = path.resolve()
    parts = list(blob.parent.glob(f"{blob.name}.*incomplete"))
    if parts and blob.parent.name == "blobs":
        locks = cache_folder() / HUB / ".locks" / repo_folder_name(repo_id=repository, repo_type="model")
        with suppress(Timeout, OSError, NotImplementedError), FileLock(locks / f"{blob.name}.lock", timeout=0):
            for each in parts:
                each.unlink(missing_ok=True)


def _check_hash(path: Path, hub_id: str, began: float) -> None:
    """Record the use of a file, and refuse one whose hash is not the one that the hub gave, which names its blob.

    The client compares sizes only. What came just now is removed; what lay there already is left to its owner.
    """
    use = note_use(path, f"hf-hub:{hub_id}/{path.name}")
    blob = path.resolve()
    if use.sha256 is None or not _SHA256.fullmatch(blob.name) or blob.name == use.sha256:
        return
    fresh = blob.stat().st_mtime >= began - 1
    remove_record(cache_folder(), path.absolute().relative_to(cache_folder().absolute()).as_posix())
    if fresh:
        path.unlink()
        blob.unlink()
    what, remedy = (
        ("came from the hub is damaged", "It was not kept: try again")
        if fresh
        else (f"lies in {blob} was changed or is damaged", f"Remove it: vitrine cache --prune {hub_id.split('@')[0]}")
    )
    raise WeightsUnavailableError(
        f"What {what}: {path.name} of {hub_id} should have the sha256 {short_hash(blob.name)}... and has "
        f"{short_hash(use.sha256)}....\n{remedy}."
    )


def _not_saved(hub_id: str, name: str, error: OSError) -> WeightsUnavailableError:
    return WeightsUnavailableError(
        f"{name} of {hub_id} cannot be saved in {cache_folder() / 'hub'}: {error.strerror}.\n"
        "Make room, or choose another folder: --cache DIR, or the environment's VITRINE_CACHE."
    )


def _first_line(error: Exception) -> str:
    """The first line that says something: messages of the hub's client begin with a status and a request's number."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    texts = [line for line in lines if not re.match(r"\d{3} (Client|Server) Error|\(?Request ID", line)] or lines
    return texts[0].rstrip(".")


def _reachable(endpoint: str) -> bool:
    """Whether the hub, or the proxy before it, answers at all: the hub's client retries for half a minute."""
    hub = urlsplit(endpoint)
    proxies = {} if proxy_bypass(hub.hostname or "") else getproxies()
    proxy = proxies.get(hub.scheme) or proxies.get("all")
    address = urlsplit(proxy if "://" in proxy else f"http://{proxy}") if proxy else hub
    port = address.port or _PORTS.get(address.scheme, 443)
    try:
        with socket.create_connection((address.hostname or "", port), timeout=_CONNECT_SECONDS):
            return True
    except OSError:
        return False
