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
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    repository, _, revision = hub_id.partition("@")
    reachable = not constants.HF_HUB_OFFLINE and _reachable(constants.ENDPOINT)
    offline = "the network was turned off" if constants.HF_HUB_OFFLINE else f"{constants.ENDPOINT} cannot be reached"
    reason = ""
    for name in names:
        try:
            return Path(
                hf_hub_download(
                    repository,
                    name,
                    revision=revision or None,
                    cache_dir=cache_folder() / "hub",
                    local_files_only=not reachable,
                )
            )
        except EntryNotFoundError as error:
            if reachable and isinstance(error, LocalEntryNotFoundError):
                reason = _in_one_line(error)
                break
            reason = f"the repository has no {' or '.join(names)}" if reachable else offline
        except Exception as error:  # the client passes on what its transport raises, which differs by its version
            reason = _in_one_line(error)
            break
    raise WeightsUnavailableError(
        f"{names[0]} of {repository} is needed and is not in {cache_folder() / 'hub'}: {reason}.\n"
        f"Download it from {constants.ENDPOINT}/{repository} on another machine {remedy}"
    )


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
