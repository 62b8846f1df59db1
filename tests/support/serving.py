"""Servers for tests: inside this process with a client, or as a process of their own on a free port."""

from __future__ import annotations

import base64
import io
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from starlette.testclient import TestClient

from vitrine.serve.app import make_app
from vitrine.serve.server import make_server, open_app_state
from vitrine.serve.settings import ServeSettings
from vitrine.serve.state import AppState

HERE = "http://127.0.0.1:8000"


def app_state_of(*references: str | Path, **settings: Any) -> AppState:
    """The state of a server of these models, with these settings."""
    return open_app_state([str(each) for each in references], ServeSettings(**settings), precision="fp32")


@contextmanager
def client_of(state: AppState, base_url: str = HERE) -> Iterator[TestClient]:
    """A client of a server inside this process; exceptions of the server become answers, as over a socket."""
    with TestClient(make_app(state), base_url=base_url, raise_server_exceptions=False) as client:
        yield client


@contextmanager
def record_runs(state: AppState) -> Iterator[list[int]]:
    """A list that gets an item whenever the first model, a classifier, runs."""
    runs: list[int] = []
    handle = state.classifier("0").model.module.register_forward_hook(lambda *_: runs.append(1))
    try:
        yield runs
    finally:
        handle.remove()


def until(condition: Callable[[], bool]) -> None:
    """Wait until something is true that another thread brings about."""
    for _ in range(2000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("the condition did not become true")


@contextmanager
def run_in_thread(state: AppState) -> Iterator[str]:
    """The address of a server in a thread of this process, over sockets."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        server = make_server(state)
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            while not server.started:
                assert thread.is_alive(), "the server did not start"
                time.sleep(0.01)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def picture(seed: int = 0, size: tuple[int, int] = (40, 30), kind: str = "PNG", **options: Any) -> bytes:
    """An encoded picture of blurred noise."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 255, (6, 8, 3), dtype=np.uint8))
    buffer = io.BytesIO()
    small.resize(size, Image.Resampling.BICUBIC).save(buffer, kind, **options)
    return buffer.getvalue()


def numbers(array: dict[str, Any]) -> np.ndarray:
    """The numbers of an ``Array`` in an answer."""
    kind = np.dtype(array["dtype"]).newbyteorder("<")
    return np.frombuffer(base64.b64decode(array["data"]), kind).reshape(array["shape"]).astype(np.float64)


@contextmanager
def server_process(
    python: str, code: str, arguments: Sequence[str] = ()
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process of a Python that prints its server's address in its first line; killed at the end if it still runs."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen([python, "-c", code, *arguments], stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stdout is not None
        yield process, process.stdout.readline().strip().rstrip("/")
    finally:
        process.kill()
        process.wait()
