"""A network that fails: what a failure means, whether it passes, when to try again; and downloads that come whole.

Nothing that a server says of itself is repeated, but its status: its words would be foreign text in a sentence of ours.
"""

from __future__ import annotations

import logging
import socket
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.client import HTTPException, responses
from pathlib import Path
from typing import IO, Any, TypeVar

from vitrine.errors import error_summary
from vitrine.io.limits import limit
from vitrine.results import Progress

DOWNLOAD_ATTEMPTS = limit("DOWNLOAD_ATTEMPTS", 4)
"""Attempts of a request or a download, where a failure may pass."""

MAX_SILENT_SECONDS = limit("MAX_SILENT_SECONDS", 20)
"""Seconds without a byte from a server after which an attempt has failed."""

MAX_WAIT_SECONDS = limit("MAX_WAIT_SECONDS", 60)
"""Seconds that a server may ask to wait before the next attempt (Retry-After); more is a failure at once."""

_FIRST_WAIT_SECONDS = 1.0  # doubled after every attempt
_BLOCK = 1 << 20
_PASSING_STATUSES = (408, 425, 429, 500, 502, 503, 504)
_LOGGER = logging.getLogger(__name__)
_Result = TypeVar("_Result")


class StatusError(OSError):
    """A server's answer that refuses: its status, and the seconds that it asks to wait, if it does."""

    def __init__(self, status: int, seconds: float | None = None) -> None:
        super().__init__(f"the server answers {status}")
        self.status, self.seconds = status, seconds


class CutOffError(OSError):
    """Fewer bytes came than were announced."""


class WebPageError(OSError):
    """A web page came in place of a file."""

    def __init__(self) -> None:
        super().__init__(
            "a web page came in place of the file, as a proxy or a network's login page sends it: open a page in a "
            "browser to log in there, or set HTTPS_PROXY"
        )


@dataclass(frozen=True)
class Failure:
    """What went wrong with a request.

    Attributes:
        reason: for the middle of a sentence.
        passes: whether the same request may succeed a moment later.
        status: of the server's answer; None where there was none.
        seconds: that the server asks to wait before the next attempt; None where it says nothing.
    """

    reason: str
    passes: bool = False
    status: int | None = None
    seconds: float | None = None


def diagnose(error: BaseException) -> Failure:
    """What an error of urllib, or of the hub's client, means."""
    if (answer := _status_and_wait(error)) is not None:
        return _refusal(*answer)
    cause = getattr(error, "reason", None)
    cause = cause if isinstance(cause, BaseException) else error  # of a URLError
    kinds = {each.__name__ for each in type(cause).__mro__}  # the HTTP library of the hub's client differs by version
    if isinstance(cause, TimeoutError) or "TimeoutException" in kinds:
        return Failure("the server fell silent", passes=True)
    if isinstance(cause, socket.gaierror | ssl.SSLCertVerificationError | WebPageError):
        return Failure(error_summary(cause, 300))
    if isinstance(cause, CutOffError):
        return Failure(str(cause), passes=True)
    if isinstance(cause, ConnectionRefusedError):
        return Failure("nobody answers there (connection refused)", passes=True)
    if isinstance(cause, HTTPException | ConnectionError | ssl.SSLError) or kinds & {"NetworkError", "ProtocolError"}:
        return Failure("the connection broke", passes=True)
    return Failure(error_summary(cause))


def _status_and_wait(error: BaseException) -> tuple[int, float | None] | None:
    if isinstance(error, StatusError):
        return error.status, error.seconds
    response = error if isinstance(error, urllib.error.HTTPError) else getattr(error, "response", None)
    status = getattr(response, "status_code", None) or getattr(response, "code", None)
    return None if not isinstance(status, int) else (status, retry_after(getattr(response, "headers", None) or {}))


def _refusal(status: int, seconds: float | None) -> Failure:
    phrase = responses.get(status) or "an unknown status"
    wait = "" if seconds is None else f" and asks to wait {seconds:,.0f} s"
    return Failure(f"the server answers {status} ({phrase}){wait}", status in _PASSING_STATUSES, status, seconds)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """The seconds that an answer's header Retry-After asks to wait, given as a number or a date; else None."""
    text = headers.get("Retry-After") or ""
    if text.isascii() and text.isdecimal():
        return float(text[:9])
    try:
        date: datetime = parsedate_to_datetime(text).astimezone(UTC)
    except ValueError:
        return None
    seconds: float = (date - datetime.now(UTC)).total_seconds()
    return max(0.0, seconds)


def retry(work: Callable[[], _Result]) -> _Result:
    """Do some work up to :data:`DOWNLOAD_ATTEMPTS` times, as long as its failures may pass, with growing waits between.

    Raises:
        whatever the last attempt raised.
    """
    attempt = 1
    while True:
        try:
            return work()
        except Exception as error:
            seconds = _seconds_to_wait(error, attempt)
            if seconds is None:
                raise
        attempt += 1
        pause(seconds)


def retry_stream(work: Callable[[], Iterator[_Result]]) -> Iterator[_Result]:
    """Like :func:`retry`, of work that yields; each attempt has to go on where the one before it broke.

    Raises:
        whatever the last attempt raised.
    """
    attempt = 1
    while True:
        try:
            yield from work()
            return
        except Exception as error:
            seconds = _seconds_to_wait(error, attempt)
            if seconds is None:
                raise
        attempt += 1
        pause(seconds)


def _seconds_to_wait(error: Exception, attempt: int) -> float | None:
    """How long to wait after a failed attempt, which is logged; None where there is to be no further one."""
    failure = diagnose(error)
    seconds = max(_FIRST_WAIT_SECONDS * 2.0 ** (attempt - 1), failure.seconds or 0.0)
    if not failure.passes or attempt >= DOWNLOAD_ATTEMPTS or seconds > MAX_WAIT_SECONDS:
        return None
    reason = f"{failure.reason[:1].upper()}{failure.reason[1:]}"
    _LOGGER.warning("%s: attempt %d of %d in %.0f s.", reason, attempt + 1, DOWNLOAD_ATTEMPTS, seconds)
    return seconds


def pause(seconds: float) -> None:
    """Wait before the next attempt."""
    time.sleep(seconds)


@contextmanager
def open_address(address: str, headers: Mapping[str, str] | None = None) -> Iterator[Any]:
    """Ask for what lies at an address, once; the answer is read like a file.

    Raises:
        WebPageError: a web page came, where the address is of none.
        OSError, http.client.HTTPException: no answer, or one that refuses; see :func:`diagnose`.
    """
    request = urllib.request.Request(address, headers={"User-Agent": "vitrine", **(headers or {})})  # noqa: S310
    with urllib.request.urlopen(request, timeout=MAX_SILENT_SECONDS) as answer:  # noqa: S310  callers check the scheme
        if is_web_page(answer.headers, address):
            raise WebPageError
        yield answer


def is_web_page(headers: Mapping[str, str], address: str) -> bool:
    """Whether an answer says that it is a web page, where the address is of none."""
    kind = (headers.get("Content-Type") or "").partition(";")[0].strip().lower()
    return kind == "text/html" and not address.partition("?")[0].lower().endswith((".html", ".htm"))


def announced_length(headers: Mapping[str, str]) -> int | None:
    """The bytes that an answer's header Content-Length announces; None where it says no such number."""
    text = headers.get("Content-Length") or ""
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 20 else None


def download(address: str, path: Path, progress: Progress | None = None) -> None:
    """Save what lies at an address. A connection that breaks is taken up where it broke, if the server can do that.

    Args:
        address: of a file.
        path: to write to; half a file is left there where it fails.
        progress: called with the bytes so far and those in all (0 where the server does not say).

    Raises:
        WebPageError: a web page came in its place.
        CutOffError: fewer bytes came than the server announced.
        OSError, http.client.HTTPException: see :func:`diagnose`; or it cannot be written.
    """
    with path.open("wb") as file:
        transfer = _Transfer(address, file, progress)
        retry(transfer.go_on)


@dataclass
class _Transfer:
    """A download that knows which version of the file its first bytes are of, so that others are not joined to them."""

    address: str
    file: IO[bytes]
    progress: Progress | None
    version: str = ""

    def go_on(self) -> None:
        done = self.file.tell()
        headers = {"Range": f"bytes={done}-", "If-Range": self.version} if done and self.version else {}
        with open_address(self.address, headers) as answer:
            if not _continues(answer, done):
                self.file.seek(0)
                self.file.truncate()
                done = 0
            etag = answer.headers.get("ETag") or ""
            self.version = "" if etag.startswith("W/") else etag  # a weak one is no promise of equal bytes
            length = announced_length(answer.headers)
            total = 0 if length is None else done + length
            while block := answer.read(_BLOCK):
                self.file.write(block)
                done += len(block)
                if self.progress is not None:
                    self.progress(done, total)
        if total and done != total:
            raise CutOffError(f"the connection ended after {done:,} of {total:,} bytes")


def _continues(answer: Any, done: int) -> bool:
    """Whether an answer is the rest of a file of which there are some bytes."""
    return getattr(answer, "status", None) == 206 and answer.headers.get("Content-Range", "").startswith(
        f"bytes {done}-"
    )
