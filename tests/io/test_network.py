"""What failures mean, when a request is made again, and downloads that are taken up."""

from __future__ import annotations

import http.client
import socket
import ssl
import urllib.error
from datetime import UTC, datetime, timedelta
from email.message import Message
from email.utils import format_datetime
from pathlib import Path

import pytest
from support.stand_in_hub import Fault, StandInHub

from vitrine.io import network
from vitrine.io.network import (
    CutOffError,
    StatusError,
    WebPageError,
    announced_length,
    diagnose,
    download,
    retry,
    retry_after,
)


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    seconds: list[float] = []
    monkeypatch.setattr(network, "pause", seconds.append)
    return seconds


def http_error(status: int, **headers: str) -> urllib.error.HTTPError:
    message = Message()
    for name, value in headers.items():
        message[name.replace("_", "-")] = value
    return urllib.error.HTTPError("http://there/", status, "\x1b[31mtheir words", message, None)


@pytest.mark.parametrize(
    ("error", "reason", "passes"),
    [
        (http_error(403), "the server answers 403 (Forbidden)", False),
        (http_error(502), "the server answers 502 (Bad Gateway)", True),
        (http_error(599), "the server answers 599 (an unknown status)", False),
        (http_error(429, Retry_After="12"), "the server answers 429 (Too Many Requests) and asks to wait 12 s", True),
        (StatusError(503, 4.0), "the server answers 503 (Service Unavailable) and asks to wait 4 s", True),
        (urllib.error.URLError(TimeoutError("timed out")), "the server fell silent", True),
        (TimeoutError(), "the server fell silent", True),
        (urllib.error.URLError(ConnectionRefusedError(111, "no")), "nobody answers there (connection refused)", True),
        (ConnectionResetError(104, "reset"), "the connection broke", True),
        (http.client.IncompleteRead(b"abc", 5), "the connection broke", True),
        (urllib.error.URLError(socket.gaierror(-2, "Name not known")), "[Errno -2] Name not known", False),
        (urllib.error.URLError(ssl.SSLCertVerificationError("self-signed")), "('self-signed',)", False),
        (CutOffError("the connection ended after 3 of 8 bytes"), "the connection ended after 3 of 8 bytes", True),
        (OSError(28, "No space left on device"), "[Errno 28] No space left on device", False),
        (ValueError("Something\nelse."), "Something else", False),
    ],
)
def test_what_a_failure_means(error: Exception, reason: str, passes: bool) -> None:
    failure = diagnose(error)
    assert (failure.reason, failure.passes) == (reason, passes)


def test_a_web_page_says_what_to_do() -> None:
    assert "log in there, or set HTTPS_PROXY" in diagnose(WebPageError()).reason


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        ("7", 7),
        ("", None),
        ("soon", None),
        ("-3", None),
        ("1.5", None),
        ("\u0663", None),
        ("9" * 400, 999_999_999),
    ],
)
def test_how_long_a_server_asks_to_wait(text: str, seconds: float | None) -> None:
    assert retry_after({"Retry-After": text}) == seconds


@pytest.mark.parametrize(("text", "length"), [("12", 12), ("", None), ("-1", None), ("1e3", None), ("9" * 99, None)])
def test_what_length_is_announced(text: str, length: int | None) -> None:
    assert announced_length({"Content-Length": text}) == length


def test_a_date_to_wait_for() -> None:
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=40), usegmt=True)
    assert 37 < (retry_after({"Retry-After": later}) or 0) <= 40
    assert retry_after({"Retry-After": "Mon, 01 Jan 2001 00:00:00 GMT"}) == 0


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (StatusError(503), [1, 2, 4]),
        (StatusError(429, 5.0), [5, 5, 5]),
        (StatusError(503, 0.0), [1, 2, 4]),
        (StatusError(429, 61.0), []),
        (StatusError(404), []),
        (ValueError("no"), []),
    ],
)
def test_how_often_and_when_it_is_tried_again(error: Exception, expected: list[float], waits: list[float]) -> None:
    attempts = []

    def fail() -> None:
        attempts.append(1)
        raise error

    with pytest.raises(type(error)):
        retry(fail)
    assert waits == expected and len(attempts) == len(expected) + 1


@pytest.mark.parametrize("changes", [False, True])
def test_a_download_goes_on_only_with_the_same_file(
    changes: bool, tmp_path: Path, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the file was replaced meanwhile, If-Range makes the server send the new one from its start."""
    first, second = bytes(range(256)) * 40, bytes(range(255, -1, -1)) * 40
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").write_bytes(first)
    sizes: list[tuple[int, int]] = []

    def pause(_: float) -> None:
        (tmp_path / "there" / "file").write_bytes(second if changes else first)

    monkeypatch.setattr(network, "pause", pause)
    with StandInHub({"a/b": tmp_path / "there"}, {"file": Fault(sent=0.25, times=1)}).running() as server:
        download(server.file_address("a/b", "file"), tmp_path / "here", lambda done, total: sizes.append((done, total)))
        assert server.ranges == ([] if changes else ["file from 2560"])
    assert (tmp_path / "here").read_bytes() == (second if changes else first)
    assert sizes[-1] == (len(first), len(first))
