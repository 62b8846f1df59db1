"""The worker: batches, a full queue, patience, and work that nobody waits for; and a server that is told to stop."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from support.paths import TESTS
from support.serving import app_state_of, client_of, picture, run_in_thread, server_process, until

from vitrine.serve.errors import ApiError
from vitrine.serve.state import AppState
from vitrine.serve.worker import Job, JobCancelled, ModelWorker

STATUS = Path("/proc/self/status")


@pytest.fixture
def worker() -> Iterator[ModelWorker]:
    worker = ModelWorker(capacity=40, max_batch=16, batch_seconds=0.05)
    worker.start()
    yield worker
    worker.stop()


class Gate:
    """A job that keeps the worker busy until it is released."""

    def __init__(self, worker: ModelWorker) -> None:
        self.running, self.release = threading.Event(), threading.Event()
        self.job = worker.submit(Job(self._run))
        assert self.running.wait(10)

    def _run(self, _: Job) -> str:
        self.running.set()
        assert self.release.wait(30)
        return "released"


def record_batches(batches: list[list[int]]) -> Callable[[Sequence[int]], list[int]]:
    def run(items: Sequence[int]) -> list[int]:
        batches.append(list(items))
        return [10 * item for item in items]

    return run


def test_what_waits_together_runs_together_in_order(worker: ModelWorker) -> None:
    batches: list[list[int]] = []
    run, gate = record_batches(batches), Gate(worker)
    jobs = [worker.submit(Job(key="one", item=i, run_batch=run)) for i in range(20)]
    others = [worker.submit(Job(key="other", item=i, run_batch=run)) for i in (100, 101)]
    gate.release.set()
    assert [job.future.result(10) for job in jobs] == [10 * i for i in range(20)]
    assert [job.future.result(10) for job in others] == [1000, 1010]
    assert batches == [list(range(16)), list(range(16, 20)), [100, 101]]  # up to 16, and of one model


def test_a_first_picture_waits_for_others_and_not_longer_than_it_may() -> None:
    batches: list[list[int]] = []
    worker = ModelWorker(capacity=40, max_batch=3, batch_seconds=20)
    worker.start()
    jobs = [worker.submit(Job(key="one", item=i, run_batch=record_batches(batches))) for i in range(3)]
    assert [job.future.result(10) for job in jobs] == [0, 10, 20]  # full: nothing is waited for
    worker.stop()
    worker = ModelWorker(capacity=40, max_batch=3, batch_seconds=0.01)
    worker.start()
    assert worker.submit(Job(key="one", item=7, run_batch=record_batches(batches))).future.result(10) == 70  # alone
    worker.stop()
    assert [sorted(each) for each in batches] == [[0, 1, 2], [7]]


def test_a_full_queue_refuses_and_those_who_left_make_room(worker: ModelWorker) -> None:
    gate = Gate(worker)
    jobs = [worker.submit(Job(lambda _: 1, is_long=i % 2 == 1)) for i in range(40)]
    assert worker.queue_length == 40
    for call in (lambda: worker.submit(Job(lambda _: 1)), worker.require_capacity):
        with pytest.raises(ApiError) as error:
            call()
        assert (error.value.status, error.value.retry_after) == (503, 1)
    jobs[3].cancel()
    assert worker.queue_length == 39
    worker.submit(Job(lambda _: 2))
    gate.release.set()
    with pytest.raises(CancelledError):
        jobs[3].future.result(10)
    assert [job.future.result(10) for job in jobs if job is not jobs[3]] == [1] * 39


def test_short_work_passes_long_work(worker: ModelWorker) -> None:
    order: list[str] = []
    gate = Gate(worker)
    is_long = worker.submit(Job(lambda _: order.append("long"), is_long=True))
    short = worker.submit(Job(lambda _: order.append("short")))
    gate.release.set()
    is_long.future.result(10), short.future.result(10)
    assert order == ["short", "long"]


def test_long_work_has_its_turn(worker: ModelWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vitrine.serve.worker._PATIENCE", -1.0)
    order: list[str] = []
    gate = Gate(worker)
    short = worker.submit(Job(lambda _: order.append("short")))
    is_long = worker.submit(Job(lambda _: order.append("long"), is_long=True))
    gate.release.set()
    is_long.future.result(10), short.future.result(10)
    assert order == ["long", "short"]


def test_errors_go_to_those_who_wait_and_the_worker_goes_on(worker: ModelWorker) -> None:
    def fail(_: Any) -> Any:
        raise ValueError("broken")

    for job in (Job(fail), Job(key="x", item=1, run_batch=fail)):
        with pytest.raises(ValueError, match="broken"):
            worker.submit(job).future.result(10)
    assert worker.submit(Job(lambda _: "alive")).future.result(10) == "alive"


def test_running_work_stops_where_it_looks(worker: ModelWorker) -> None:
    steps, running = [], threading.Event()

    def run(job: Job) -> None:
        for step in range(10_000):
            steps.append(step)
            running.set()
            job.raise_if_cancelled()
            time.sleep(0.001)

    job = worker.submit(Job(run))
    assert running.wait(10)
    job.cancel()
    with pytest.raises(JobCancelled):
        job.future.result(10)
    assert len(steps) < 10_000


def test_stopping_finishes_what_is_queued() -> None:
    worker = ModelWorker(capacity=4, max_batch=2, batch_seconds=0)
    worker.start()
    gate = Gate(worker)
    job = worker.submit(Job(lambda _: "done"))
    threading.Timer(0.05, gate.release.set).start()
    worker.stop()
    assert (gate.job.future.result(0), job.future.result(0)) == ("released", "done")
    with pytest.raises(ApiError):
        worker.submit(Job(lambda _: 1))


@pytest.fixture
def state(small_run: Path) -> AppState:
    return app_state_of(small_run, queue_capacity=3)


def post(address: str, path: str, content: bytes = b"") -> tuple[int, dict[str, str], Any]:
    host = address.removeprefix("http://")
    connection = http.client.HTTPConnection(host, timeout=60)
    connection.request("POST", path, body=content or picture(1))
    response = connection.getresponse()
    headers, body = {name.lower(): value for name, value in response.getheaders()}, response.read()
    connection.close()
    return response.status, headers, json.loads(body)


def post_and_hang_up(address: str, path: str, once: Callable[[], bool]) -> None:
    """Ask, and hang up once something is so."""
    host, _, port = address.removeprefix("http://").partition(":")
    body = picture(9)
    with socket.create_connection((host, int(port))) as connection:
        head = f"POST {path} HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)
        until(once)


def test_answers_of_a_crowd_are_those_of_one(small_run: Path) -> None:
    state = app_state_of(small_run)
    pictures = [picture(seed) for seed in range(24)]
    with run_in_thread(state) as address, ThreadPoolExecutor(24) as crowd:
        alone = [post(address, "/api/predict", each)[2]["predictions"] for each in pictures]
        together = list(crowd.map(lambda each: post(address, "/api/predict", each), pictures))
    for one, (status, _, body) in zip(alone, together, strict=True):
        assert status == 200
        for a, b in zip(one, body["predictions"], strict=True):
            assert (a["label"], a["probability"]) == (b["label"], pytest.approx(b["probability"], abs=1e-5))


def test_a_full_server_says_when_to_ask_again(state: AppState) -> None:
    with run_in_thread(state) as address, ThreadPoolExecutor(8) as crowd:
        gate = Gate(state.worker)
        answers = [crowd.submit(post, address, f"/api/explain?layer={i % 2}", picture(i)) for i in range(3)]
        until(lambda: state.worker.queue_length == 3)
        for path in ("/api/predict", "/api/explain"):
            status, headers, body = post(address, path)
            assert (status, headers["retry-after"], body["code"]) == (503, "1", "busy")
        gate.release.set()
        assert [each.result()[0] for each in answers] == [200, 200, 200]
        assert post(address, "/api/predict")[0] == 200


def test_requests_time_out(small_run: Path) -> None:
    state = app_state_of(small_run, request_seconds=0.2)
    with run_in_thread(state) as address:
        gate = Gate(state.worker)
        status, headers, body = post(address, "/api/predict")
        assert (status, body["code"]) == (503, "timeout")
        assert "retry-after" in headers
        assert state.worker.queue_length == 0  # what nobody waits for is not done
        gate.release.set()


def test_pictures_on_their_way_are_counted_and_have_to_arrive(small_run: Path) -> None:
    state = app_state_of(small_run, queue_capacity=2, upload_seconds=1.0)
    with run_in_thread(state) as address:
        host, _, port = address.removeprefix("http://").partition(":")
        slow = [socket.create_connection((host, int(port))) for _ in range(2)]
        for connection in slow:
            connection.sendall(f"POST /api/predict HTTP/1.1\r\nHost: {host}\r\nContent-Length: 999\r\n\r\nx".encode())
        until(lambda: post(address, "/api/predict")[2].get("code") == "busy")
        for connection in slow:
            assert b" 408 " in connection.recv(4096).partition(b"\r\n")[0]
            connection.close()
        assert post(address, "/api/predict")[0] == 200


def test_what_is_queued_is_dropped_when_its_client_leaves(state: AppState) -> None:
    runs: list[int] = []
    state.classifier("0").model.module.register_forward_hook(lambda *_: runs.append(1))
    with run_in_thread(state) as address:
        gate = Gate(state.worker)
        post_and_hang_up(address, "/api/explain", once=lambda: state.worker.queue_length == 1)
        until(lambda: state.worker.queue_length == 0)
        gate.release.set()
        assert gate.job.future.result(10) == "released"
        assert post(address, "/api/predict")[0] == 200
    assert len(runs) == 1


def test_what_runs_stops_when_its_client_leaves(state: AppState, monkeypatch: pytest.MonkeyPatch) -> None:
    """Occlusion runs the model many times: here each time takes a while."""
    runs: list[int] = []

    def slow(*_: Any) -> None:
        runs.append(1)
        time.sleep(0.05)

    monkeypatch.setattr("vitrine.serve.classifier.Explainer.maps", _many_runs)
    state.classifier("0").model.module.register_forward_hook(slow)
    with run_in_thread(state) as address:
        post_and_hang_up(address, "/api/explain?method=occlusion", once=lambda: len(runs) > 2)
        until(lambda: state.worker.running == () and state.worker.queue_length == 0)
        assert len(runs) < 1000
        assert post(address, "/api/predict")[0] == 200


def _many_runs(explainer: Any, pixels_BCHW: Any, _: Any) -> None:
    for _ in range(1000):
        explainer.classifier.module(pixels_BCHW)
    raise AssertionError("it ran to its end")


SLOW_SERVER = """
import sys, time
sys.path.insert(0, {tests!r})
from support.serving import app_state_of
from vitrine.serve.server import run_server
for _ in range(2):
    state = app_state_of({run!r}, port=0)
    classifier = state.classifier("0")
    def slow(inputs, real=classifier.predict):
        print("running", flush=True)
        time.sleep(0.7)
        return real(inputs)
    classifier.predict = slow
    run_server(state, on_ready=lambda address: print(address, flush=True))
    print("ended", flush=True)
"""


def test_a_signal_lets_what_runs_finish(small_run: Path, warm_python: str) -> None:
    """A process serves twice; each server ends by another signal, and the process lives on after the first."""
    code = SLOW_SERVER.format(tests=str(TESTS), run=str(small_run))
    with server_process(warm_python, code) as (process, address), ThreadPoolExecutor(1) as crowd:
        assert process.stdout is not None
        for number in (signal.SIGTERM, signal.SIGINT):
            if number == signal.SIGINT:
                address = process.stdout.readline().strip().rstrip("/")
            answer = crowd.submit(post, address, "/api/predict")
            assert process.stdout.readline() == "running\n"
            process.send_signal(number)
            assert answer.result(30)[0] == 200
            assert process.stdout.readline() == "ended\n"
        assert process.wait(30) == 0
        assert process.stdout.read() == ""


def resident() -> int:
    """Resident memory of this process, in KiB."""
    lines = STATUS.read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))


@pytest.mark.skipif(not STATUS.exists(), reason="wants /proc/self/status, which tells how much memory is resident")
def test_memory_stays_flat(small_run: Path) -> None:
    """A small version of ``benchmarks/serve.py --requests 10000``: every picture is another one."""
    state = app_state_of(small_run, cache_bytes=2_000_000, thumbnail_bytes=100_000)
    with client_of(state) as client:

        def ask(first: int, last: int) -> int:
            for seed in range(first, last):
                assert client.post("/api/explain", content=picture(seed, (400, 300), "JPEG")).status_code == 200
                assert client.post("/api/predict", content=picture(seed, (400, 300), "JPEG")).status_code == 200
            return resident()

        before = ask(0, 20)
        after = ask(20, 80)
    assert state.encodings.nbytes <= 2_000_000
    assert after - before < 25_000  # KiB at the most; 120 photographs of 360 kB each would be 43 MB
