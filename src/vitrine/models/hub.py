"""Files of hub repositories: from the one cache folder, or downloaded into it."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from urllib.parse import urlsplit

from vitrine.errors import WeightsUnavailableError

_CONNECT_SECONDS = 3.0


def cache_folder() -> Path:
    """The one folder that downloaded files go to: ``VITRINE_CACHE``, else ``~/.cache/vitrine``."""
    return Path(os.environ.get("VITRINE_CACHE") or Path.home() / ".cache" / "vitrine").expanduser()


def fetch(hub_id: str, names: tuple[str, ...]) -> Path:
    """One file of a hub repository, from the cache folder or downloaded into it; the first of ``names`` that exists.

    Raises:
        WeightsUnavailableError: it is not in the cache folder and cannot be downloaded now.
    """
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    repository, _, revision = hub_id.partition("@")
    reachable = not constants.HF_HUB_OFFLINE and _reachable(constants.ENDPOINT)
    reason = "the network was turned off" if constants.HF_HUB_OFFLINE else f"{constants.ENDPOINT} cannot be reached"
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
        except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
            if reachable:
                reason = str(error).splitlines()[0]
        except EntryNotFoundError:
            reason = f"the repository has no {' or '.join(names)}"
        except (HfHubHTTPError, OSError, ValueError) as error:
            reason = str(error).splitlines()[0]
    raise WeightsUnavailableError(
        f"{names[0]} of {repository} is needed and is not in {cache_folder() / 'hub'}: {reason}.\n"
        f"Download it from {constants.ENDPOINT}/{repository} on another machine and name the file: "
        "--set pretrained=FILE; or start from nothing: --set pretrained=false."
    )


def _reachable(endpoint: str) -> bool:
    """Whether the hub answers at all: its own client retries for half a minute before it says no."""
    address = urlsplit(endpoint)
    proxied = any(
        os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY")
    )
    if proxied:
        return True
    port = address.port or (443 if address.scheme == "https" else 80)
    try:
        with socket.create_connection((address.hostname or "", port), timeout=_CONNECT_SECONDS):
            return True
    except OSError:
        return False
