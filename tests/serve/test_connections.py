"""Connections that send or take too little, too late or too often: what becomes of them, and of everybody else."""

from __future__ import annotations

import errno
import http.client
import itertools
import os
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from typing import Any

import pytest
from support.serving import app_state_of, client_of, picture, run_in_thread, until

from vitrine.serve import connections
from vitrine.serve.connections import affordable_connections
from vitrine.serve.settings import ServeSettings
from vitrine.serve.state import AppState

LIMITS = {"header_seconds": 0.4, "upload_seconds": 0.5, "send_seconds": 0.5}
HEAD = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n"
POST = b"POST /api/predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9000\r\n\r\n"
CHUNKED = b"POST /api/predict HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.fixture(scope="module")
def state() -> AppState:
    return app_state_of("vitrine/scenes-tiny", **LIMITS)


@pytest.fixture(scope="module")
def address(state: AppState) -> Iterator[tuple[str, int]]:
    with run_in_thread(state) as address:
        yield host_and_port(address)


def replace_settings(state: AppState, **settings: Any) -> AppState:
    """The same models under other limits, with a worker of their own."""
    return AppState(state.models, ServeSettings(**settings))


def host_and_port(address: str) -> tuple[str, int]:
    host, _, port = address.removeprefix("http://").partition(":")
    return host, int(port)


def is_healthy(address: tuple[str, int]) -> bool:
    connection = http.client.HTTPConnection(*address, timeout=10)
    connection.request("GET", "/healthz")
    status = connection.getresponse().status
    connection.close()
    return status == 200


def drip(address: tuple[str, int], start: bytes, drop: bytes, seconds: float) -> tuple[bytes, float]:
    """Send a start, then a few bytes again and again: what came back, and after how long the connection ended."""
    received, began = b"", time.monotonic()
    with socket.create_connection(address) as connection:
        connection.settimeout(0.05)
        try:
            connection.sendall(start)
            while time.monotonic() - began < seconds:
                try:
                    part = connection.recv(4096)
                    if not part:
                        break
                    received += part
                except TimeoutError:
                    connection.sendall(drop)
        except ConnectionError:
            pass
    return received, time.monotonic() - began


WITHHELD = [
    (b"", b"", b""),
    (b"\r\n", b"\r\n", b""),
    (b"G", b"", b" 408 "),
    (HEAD, b"A: b\r\n", b" 408 "),
    (HEAD + b"Cookie: ", b"a", b" 408 "),
    (HEAD + b"\r\n" + HEAD, b"A: b\r\n", b" 200 "),  # the second request of a connection
    (HEAD + b"\r\n", HEAD[:1], b" 200 "),
    (POST, b"", b" 408 "),
    (POST, b"x", b" 408 "),
    (CHUNKED, b"1\r\nx\r\n", b" 408 "),
    (CHUNKED, b"", b" 408 "),
    (POST.replace(b"/api/predict", b"/nothing"), b"x", b" 404 "),  # answered at once, the body goes on
    (POST.replace(b"/api/predict", b"/api/predict?sample=v0"), b"x", b" 422 "),  # a sample, and a body besides
    (POST.replace(b"POST /api/predict", b"GET /healthz"), b"x", b" 200 "),
    (POST.replace(b"POST /api/predict", b"GET /healthz"), b"", b" 200 "),
]  # what is sent first, what is sent again and again, and the status of the first answer


@pytest.fixture(scope="module")
def endings(address: tuple[str, int]) -> list[tuple[bytes, float]]:
    """How each of these connections ends; all at the same time."""
    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(len(WITHHELD)) as crowd:
        patch.setattr(connections, "_GRACE_SECONDS", 0.6)
        return list(crowd.map(lambda case: drip(address, case[0], case[1], 8), WITHHELD))


@pytest.mark.parametrize("index", range(len(WITHHELD)), ids=[repr(case[0][-30:]) for case in WITHHELD])
def test_what_a_client_withholds_ends_its_connection(endings: list[tuple[bytes, float]], index: int) -> None:
    received, seconds = endings[index]
    assert seconds < 5, "the connection lives on"
    assert WITHHELD[index][2] in received.partition(b"\r\n")[0]


def read_answer(connection: socket.socket) -> bytes:
    """The status line of one answer, read to the end of its body, which may come in pieces."""
    with connection.makefile("rb") as answer:
        status, size = answer.readline(), 0
        while line := answer.readline().strip():
            if line.lower().startswith(b"content-length:"):
                size = int(line.partition(b":")[2])
        answer.read(size)
    return status


def test_a_client_that_takes_time_but_not_too_much_is_served(address: tuple[str, int]) -> None:
    body = picture(1)
    with socket.create_connection(address) as connection:
        for part in (
            b"POST /api/predict HTTP/1.1\r\n",
            b"Host: 127.0.0.1\r\n",
            b"Content-Length: %d\r\n\r\n" % len(body),
        ):
            connection.sendall(part)
            time.sleep(0.1)
        connection.sendall(body[:10])
        time.sleep(0.2)
        connection.sendall(body[10:])
        assert b" 200 " in read_answer(connection)
        time.sleep(LIMITS["header_seconds"] * 1.5)  # a pause between two requests is no late header
        connection.sendall(HEAD + b"\r\n")
        assert b" 200 " in read_answer(connection)


def test_a_client_that_does_not_read_its_answers_loses_them(state: AppState, address: tuple[str, int]) -> None:
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    with connection:
        connection.connect(address)
        connection.setblocking(False)
        began = time.monotonic()
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            while time.monotonic() - began < 20:
                try:
                    connection.send(b"GET /api HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 50)
                except BlockingIOError:
                    time.sleep(0.05)
    assert is_healthy(address)


def test_beyond_the_limit_the_longest_idle_connection_makes_room(state: AppState) -> None:
    state = replace_settings(state, connections=4)
    with ExitStack() as stack:
        address = host_and_port(stack.enter_context(run_in_thread(state)))
        busy = stack.enter_context(socket.create_connection(address))
        busy.sendall(POST + b"x")  # has a request, and keeps its place
        time.sleep(0.1)
        idle = [stack.enter_context(socket.create_connection(address)) for _ in range(40)]
        assert all(is_healthy(address) for _ in range(5))
        for each in idle[:30]:
            each.settimeout(5)
            assert not receive(each), "an idle connection was kept"
        busy.sendall(b"x" * 8999)
        assert b" 415 " in receive(busy)


def receive(connection: socket.socket) -> bytes:
    """What comes next; nothing from a connection that the other side ended."""
    try:
        return connection.recv(4096)
    except ConnectionResetError:
        return b""


def test_while_all_connections_are_busy_new_ones_wait(state: AppState) -> None:
    state = replace_settings(state, connections=2)
    with ExitStack() as stack:
        address = host_and_port(stack.enter_context(run_in_thread(state)))
        busy = [stack.enter_context(socket.create_connection(address)) for _ in range(2)]
        for each in busy:
            each.sendall(POST + b"x")
        time.sleep(0.2)
        waiting = stack.enter_context(socket.create_connection(address))
        waiting.sendall(HEAD + b"\r\n")
        waiting.settimeout(0.3)
        with pytest.raises(TimeoutError):
            waiting.recv(100)
        busy[0].close()
        waiting.settimeout(5)
        assert b" 200 " in waiting.recv(100)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
def test_without_descriptors_the_server_pauses_and_says_so_once(
    number: int, state: AppState, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    attempts: list[float] = []
    accept = socket.socket.accept

    def fail_at_first(listener: socket.socket) -> tuple[socket.socket, object]:
        accepted = accept(listener)  # raises while nobody is there
        if len(attempts) < 5:
            attempts.append(time.monotonic())
            accepted[0].close()
            raise OSError(number, os.strerror(number))
        return accepted

    monkeypatch.setattr(socket.socket, "accept", fail_at_first)
    monkeypatch.setattr(connections, "ACCEPT_PAUSE_SECONDS", 0.05)
    with run_in_thread(replace_settings(state)) as text:
        address = host_and_port(text)
        crowd = [socket.create_connection(address) for _ in range(6)]
        until(lambda: len(attempts) == 5)
        assert is_healthy(address)
        for each in crowd:
            each.close()
    pauses = [later - earlier for earlier, later in itertools.pairwise(attempts)]
    assert min(pauses) >= 0.045
    assert capfd.readouterr().err.count("No further connection can be accepted") == 1


@pytest.mark.parametrize(
    ("soft", "wanted", "expected"), [(1024, 1000, 928), (65536, 1000, 1000), (100, 1000, 50), (1, 9, 1)]
)
def test_connections_leave_descriptors_for_files(
    soft: int, wanted: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    resource = pytest.importorskip("resource", reason="wants the module resource, which Windows has not")
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, soft))
    assert affordable_connections(wanted) == expected


def test_withheld_uploads_count_as_memory_from_their_first_byte(state: AppState) -> None:
    """Many clients send half a picture: what they take stays under the limit, and is free again when they leave."""
    state = replace_settings(state, cache_bytes=4_000_000, upload_bytes=1_000_000)
    with ExitStack() as stack:
        address = host_and_port(stack.enter_context(run_in_thread(state)))
        crowd = [stack.enter_context(socket.create_connection(address)) for _ in range(20)]
        for each in crowd:
            each.sendall(POST.replace(b"9000", b"900000") + b"x" * 450_000)
        until(lambda: state.encodings.reserved_bytes == 4 * 450_000)
        refused = 0
        for each in crowd:
            each.settimeout(0.3)
            with suppress(TimeoutError):
                refused += b" 503 " in each.recv(4096)
            assert state.encodings.reserved_bytes <= 2_000_000
        assert refused == 16
        for each in crowd:
            each.close()
        until(lambda: state.encodings.reserved_bytes == 0)
        assert is_healthy(address)


@pytest.mark.parametrize("path", ["/api/predict", "/api/explain", "/api/figure", "/api/matrix?layer=0"])
@pytest.mark.parametrize("body", [picture(2), b"no picture", b""])
def test_no_upload_leaves_memory_reserved(path: str, body: bytes, state: AppState) -> None:
    with client_of(replace_settings(state)) as client:
        client.post(path, content=body)
        until(lambda: state.encodings.reserved_bytes == 0)


@pytest.mark.parametrize(
    "path",
    ["/", "/?token=x", "/healthz", "/metrics", "/api", "/api/models", "/openapi.json", "/api/style.css", "/report",
     "/assets/index.html", "/assets/nothing.js", "/api/thumbnail/0/v0?size=64", "/api/picture/0/v0", "/api/positions",
     "/api/validation", "/api/predict", "/nothing"],
)  # fmt: skip
def test_head_answers_like_get_without_the_body(address: tuple[str, int], path: str) -> None:
    answers = []
    connection = http.client.HTTPConnection(*address, timeout=30)
    for method in ("GET", "HEAD", "GET"):  # the last finds the connection in order
        connection.request(method, path)
        answer = connection.getresponse()
        headers = {name.lower(): value for name, value in answer.getheaders()}
        answers.append((answer.status, {**headers, "content-length": "any"} if path == "/metrics" else headers))
        assert bool(answer.read()) == (method == "GET")
    connection.close()
    assert answers[0] == answers[1] == answers[2]
    assert "content-length" in answers[1][1]


def test_a_flood_of_bad_requests_is_one_line(state: AppState, capfd: pytest.CaptureFixture[str]) -> None:
    with run_in_thread(replace_settings(state)) as text:
        for _ in range(30):
            with socket.create_connection(host_and_port(text)) as connection:
                connection.sendall(b"nonsense\r\n\r\n")
                assert b" 400 " in connection.recv(200)
    assert capfd.readouterr().err.count("\n") == 1
