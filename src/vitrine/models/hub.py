"""Files of hub repositories: from the one cache folder, or downloaded into it."""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from vitrine.errors import WeightsUnavailableError

_CONNECT_SECONDS = 3.0
_PORTS = {"http": 80, "https": 443, "socks5": 1080, "socks5h": 1080}


def cache_folder() -> Path:
    """The one folder that downloaded files go to: ``VITRINE_CACHE``, else ``~/.cache/vitrine``."""
    return Path(os.environ.get("VITRINE_CACHE") or Path.home() / ".cache" / "vitrine").expanduser()


def fetch(hub_id: str, names: tuple[str, ...], remedy: str) -> Path:
    """One file of a hub repository, from the cache folder or downloaded into it; the first of ``names`` that exists.

    Args:
        hub_id: owner/name, with @revision where it is not the default one.
        names: file names, the preferred one first.
        remedy: what to do with the file once it was downloaded on another machine; ends the error's sentence.

    Raises:
        WeightsUnavailableError: it is not in the cache folder and cannot be downloaded now.
    """
    found, reason, _ = _look(hub_id, names)
    if found is not None:
        return found
    raise _unavailable(hub_id, names[0], reason, remedy)


def fetch_if_there(hub_id: str, name: str, remedy: str) -> Path | None:
    """As :func:`fetch`, of a file that a repository need not have; None where the hub says that it has not.

    Raises:
        WeightsUnavailableError: it is not in the cache folder, and whether there is one cannot be known now.
    """
    found, reason, absent = _look(hub_id, (name,))
    if found is None and not absent:
        raise _unavailable(hub_id, name, reason, remedy)
    return found


def _unavailable(hub_id: str, name: str, reason: str, remedy: str) -> WeightsUnavailableError:
    from huggingface_hub import constants

    repository = hub_id.partition("@")[0]
    return WeightsUnavailableError(
        f"{name} of {repository} is needed and is not in {cache_folder() / 'hub'}: {reason}.\n"
        f"Download it from {constants.ENDPOINT}/{repository} on another machine {remedy}"
    )


def _look(hub_id: str, names: tuple[str, ...]) -> tuple[Path | None, str, bool]:
    """The first of these files that exists; else the reason, and whether it is that the repository has none."""
    from huggingface_hub import _CACHED_NO_EXIST, constants, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    repository, _, revision = hub_id.partition("@")
    folder = cache_folder() / "hub"
    reachable = not constants.HF_HUB_OFFLINE and _reachable(constants.ENDPOINT)
    offline = "the network was turned off" if constants.HF_HUB_OFFLINE else f"{constants.ENDPOINT} cannot be reached"
    reason, absent = "", 0
    for name in names:
        try:
            path = hf_hub_download(
                repository, name, revision=revision or None, cache_dir=folder, local_files_only=not reachable
            )
            return Path(path), "", False
        except EntryNotFoundError as error:
            if reachable and isinstance(error, LocalEntryNotFoundError):
                return None, _in_one_line(error), False
            reason = f"the repository has no {' or '.join(names)}" if reachable else offline
            known = try_to_load_from_cache(repository, name, cache_dir=folder, revision=revision or None)
            absent += reachable or known is _CACHED_NO_EXIST
        except Exception as error:  # the client passes on what its transport raises, which differs by its version
            return None, _in_one_line(error), False
    return None, reason, absent == len(names)


def _in_one_line(error: Exception) -> str:
    """The first line that says something: messages of the hub's client begin with a status and a request's number."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    told = [line for line in lines if not re.match(r"\d{3} (Client|Server) Error|\(?Request ID", line)] or lines
    return told[0].rstrip(".")


def _reachable(endpoint: str) -> bool:
    """Whether the hub, or the proxy before it, answers at all: the hub's client retries for half a minute."""
    wanted = urlsplit(endpoint)
    proxies = {} if proxy_bypass(wanted.hostname or "") else getproxies()
    proxy = proxies.get(wanted.scheme) or proxies.get("all")
    address = urlsplit(proxy if "://" in proxy else f"http://{proxy}") if proxy else wanted
    port = address.port or _PORTS.get(address.scheme, 443)
    try:
        with socket.create_connection((address.hostname or "", port), timeout=_CONNECT_SECONDS):
            return True
    except OSError:
        return False
