"""Files of repositories on the Hugging Face hub: from the cache folder, or downloaded into it."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from vitrine.errors import WeightsUnavailableError
from vitrine.io.hub_cache import (
    HUB,
    NETWORK_OFF,
    cache_folder,
    hash_difference,
    is_offline,
    note_use,
    quieten_client,
    remove_record,
)
from vitrine.io.network import (
    MAX_SILENT_SECONDS,
    StatusError,
    WebPageError,
    diagnose,
    is_web_page,
    retry,
    retry_after,
)
from vitrine.messages import download_report, shows_progress
from vitrine.models.checkpoints.weights_index import is_index, read_index

_CONNECT_SECONDS = 3.0
_PORTS = {"http": 80, "https": 443, "socks5": 1080, "socks5h": 1080}


@dataclass(frozen=True)
class _Absence:
    """Why a file cannot be had.

    Attributes:
        reason: for the middle of a sentence.
        is_certain: whether the hub says that the repository has no such file.
        remedy: a sentence in place of the usual one; None asks for a download elsewhere.
    """

    reason: str
    is_certain: bool = False
    remedy: str | None = None


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
    path = _find(hub_id, names)
    if isinstance(path, _Absence):
        raise _unavailable(hub_id, names[0], path, remedy)
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
    path = _find(hub_id, (name,))
    if not isinstance(path, _Absence):
        return path
    if not path.is_certain:
        raise _unavailable(hub_id, name, path, remedy)
    return None


def _unavailable(hub_id: str, name: str, absence: _Absence, remedy: str) -> WeightsUnavailableError:
    repository = hub_id.partition("@")[0]
    return WeightsUnavailableError(
        f"{name} of {repository} is needed and is not in {cache_folder() / HUB}: {absence.reason}.\n"
        + (absence.remedy or f"Download it from {_page(repository)} on another machine {remedy}")
    )


def _page(repository: str) -> str:
    from huggingface_hub import constants

    return f"{constants.ENDPOINT}/{repository}"


def _find(hub_id: str, names: tuple[str, ...]) -> Path | _Absence:
    """The first of these files that exists; else why there is none."""
    quieten_client()
    from huggingface_hub import _CACHED_NO_EXIST, constants, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    repository, _, revision = hub_id.partition("@")
    reachable = not is_offline() and _reachable(constants.ENDPOINT)
    offline = NETWORK_OFF if is_offline() else f"{constants.ENDPOINT} cannot be reached"
    reason, absent = "", 0
    for name in names:
        began = time.time()
        try:
            path = _download(repository, name, revision or None) if reachable else _look_up(repository, name, revision)
            _remove_unfinished(path, repository)
            _check_hash(path, hub_id, began)
            return path
        except WeightsUnavailableError:
            raise
        except EntryNotFoundError as error:
            if reachable and isinstance(error, LocalEntryNotFoundError):
                return _explain(error.__cause__ or error, hub_id)
            reason = f"the repository has no {' or '.join(names)}" if reachable else offline
            cache_entry = try_to_load_from_cache(
                repository, name, cache_dir=cache_folder() / HUB, revision=revision or None
            )
            absent += reachable or cache_entry is _CACHED_NO_EXIST
        except OSError as error:
            if error.strerror and not isinstance(error, ConnectionError | TimeoutError):
                raise _not_saved(hub_id, name, error) from error
            return _explain(error, hub_id)
        except Exception as error:  # the client passes on what its transport raises, which differs by its version
            return _explain(error, hub_id)
    return _Absence(reason, absent == len(names))


def _look_up(repository: str, name: str, revision: str) -> Path:
    """A file in the cache folder, without the network."""
    from huggingface_hub import hf_hub_download

    folder = cache_folder() / HUB
    return Path(hf_hub_download(repository, name, revision=revision or None, cache_dir=folder, local_files_only=True))


def _download(repository: str, name: str, revision: str | None) -> Path:
    """A file from the cache folder where the hub has no newer one, or does not answer; else downloaded into it.

    The client waits for as long as a server asks it to, asks a silent one for six minutes, and gives a download up
    where the server is out of order for a moment. So its answers are looked at as they come, and it is called anew.
    """
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    folder = cache_folder() / HUB
    is_cached = isinstance(try_to_load_from_cache(repository, name, cache_dir=folder, revision=revision), str)

    def ask() -> Path:
        with _answers_checked(name, is_cached):
            return Path(hf_hub_download(repository, name, revision=revision, cache_dir=folder, **_bar_option(name)))

    if not is_cached:
        with _answers_checked(name, is_cached):
            retry(lambda: _require_file(repository, name, revision))
    return retry(ask)


def _bar_option(name: str) -> dict[str, Any]:
    """How the client shows a download: as vitrine shows its own work; by its own bar where no work is shown, as while a
    model is opened; not at all where it shall be quiet. Clients before they could be told show theirs.
    """
    import inspect

    from huggingface_hub import hf_hub_download
    from tqdm.std import tqdm  # type: ignore[import-untyped]

    report, is_quiet = download_report(), not shows_progress()
    if (report is None and not is_quiet) or "tqdm_class" not in inspect.signature(hf_hub_download).parameters:
        return {}

    class ReportedDownload(tqdm):  # type: ignore[misc]
        """Draws nothing itself."""

        def __init__(self, *args: Any, **options: Any) -> None:
            self.size, self.done_bytes = int(options.get("total") or 0), int(options.get("initial") or 0)
            super().__init__(*args, **(options | {"disable": True}))

        def update(self, n: float | None = 1) -> bool | None:
            self.done_bytes += int(n or 0)
            if report is not None and not is_quiet:
                report(name, self.done_bytes, self.size)
            return None

    return {"tqdm_class": ReportedDownload}


def _require_file(repository: str, name: str, revision: str | None) -> None:
    """Ask the hub for a file's hash and size; that there is none is left to the client, which remembers it.

    Raises:
        WebPageError: it is not the hub that answers.
        OSError, and what the client's transport raises: there is no such repository, or no answer.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import EntryNotFoundError

    with suppress(EntryNotFoundError):
        address = hf_hub_url(repository, name, revision=revision)
        if get_hf_file_metadata(address, timeout=MAX_SILENT_SECONDS).commit_hash is None:
            raise WebPageError


@contextmanager
def _answers_checked(name: str, is_cached: bool) -> Iterator[None]:
    """Within a ``with`` block, answers to the hub's client that are no file raise before it goes on with them.

    Where the file is in the cache folder already, the client does without an answer to its HEAD.

    Raises:
        StatusError: the server asks to come back later, or is out of order.
        WebPageError: a web page came.
    """
    from huggingface_hub import get_session

    def check(response: Any) -> None:
        if is_cached and response.request.method == "HEAD":
            return
        if response.status_code in (408, 429) or response.status_code >= 500:
            raise StatusError(response.status_code, retry_after(response.headers))
        if response.status_code < 300 and is_web_page(response.headers, name):
            raise WebPageError

    session = get_session()
    hooks = session.event_hooks
    session.event_hooks = {**hooks, "response": [*hooks.get("response", ()), check]}
    try:
        yield
    finally:
        session.event_hooks = hooks


def _explain(error: BaseException, hub_id: str) -> _Absence:
    """Why the hub gave no file, and what a person can do about it."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    repository, _, revision = hub_id.partition("@")
    failure = diagnose(error)
    log_in = "log in with 'hf auth login' (or set HF_TOKEN)"
    if isinstance(error, GatedRepoError):
        reason = "the repository is gated, and you are not among those whom its owner lets in"
        return _Absence(reason, remedy=f"Accept its terms at {_page(repository)}, {log_in}, and try again.")
    if isinstance(error, RepositoryNotFoundError):
        reason = "the hub says: repository not found, or private"
        return _Absence(reason, remedy=f"Check the name at {_page(repository)}; for a private one, {log_in}.")
    if isinstance(error, RevisionNotFoundError):
        reason = f"the repository has no revision {revision or 'main'}"
        return _Absence(reason, remedy=f"Look for its branches, tags and commits at {_page(repository)}/tree/main.")
    if failure.status in (401, 403):
        remedy = f"Make sure that you may read {_page(repository)}, and {log_in} with a token that still holds."
        return _Absence(failure.reason, remedy=remedy)
    return _Absence(failure.reason if failure.status or failure.passes else _first_line(error))


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
    difference = None if use.sha256 is None else hash_difference(blob, use.sha256)
    if difference is None:
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
    raise WeightsUnavailableError(f"What {what}: {path.name} of {hub_id} {difference}.\n{remedy}.")


def _not_saved(hub_id: str, name: str, error: OSError) -> WeightsUnavailableError:
    return WeightsUnavailableError(
        f"{name} of {hub_id} cannot be saved in {cache_folder() / HUB}: {error.strerror}.\n"
        "Make room, or choose another folder: --cache DIR, or the environment's VITRINE_CACHE."
    )


def _first_line(error: BaseException) -> str:
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
