"""A hub of our own on 127.0.0.1 that speaks as much of the protocol as huggingface_hub's client asks for.

It also sends the files of a folder as any web server does, and fails in every way that a network can.
"""

from __future__ import annotations

import hashlib
import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "c0ffee" + "0" * 34
API = b'{"id": "owner/pictures", "sha": "%s", "siblings": []}' % COMMIT.encode()
HTML = b"<!doctype html><title>Log in</title>Please log in to this network."


@dataclass(frozen=True)
class Fault:
    """How an answer goes wrong.

    Attributes:
        status: in place of 200.
        headers: beside, or in place of, the usual ones.
        body: in place of the file, with its length and type of a web page.
        sent: share of the bytes that are sent before the connection is dropped.
        is_short: the length that is announced is that of what is sent, and no connection is dropped.
        flip_at: change a bit of this byte, counted from 0, or from the end where it is negative.
        silent: seconds before the answer.
        method: of the requests that fail; empty for all.
        times: requests that fail, the first ones; then all goes well.
    """

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    sent: float = 1.0
    is_short: bool = False
    flip_at: int | None = None
    silent: float = 0.0
    method: str = ""
    times: int = 1 << 30


@dataclass
class StandInHub:
    """Repositories as folders, by "owner/name". All are at ``commit``.

    ``faults`` are those of files, by their name, and of "api", which knows of every data set; ``requests`` lists every
    request as "METHOD owner/name/file", and ``ranges`` what was asked of files' middles. ``git`` names files whose hash
    is git's and not sha256.
    """

    repositories: dict[str, Path] = field(default_factory=dict)
    faults: dict[str, Fault] = field(default_factory=dict)
    git: set[str] = field(default_factory=set)
    commit: str = COMMIT
    requests: list[str] = field(default_factory=list)
    ranges: list[str] = field(default_factory=list)
    address: str = ""

    def file_address(self, repository: str, file: str) -> str:
        """Where a file lies, for whoever is no client of a hub."""
        return f"{self.address}/{repository}/resolve/main/{file}"

    @contextmanager
    def running(self) -> Iterator[StandInHub]:
        """Serve until the block ends; ``address`` is the endpoint."""
        server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        server.daemon_threads = True
        server.block_on_close = False
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        self.address = f"http://127.0.0.1:{server.server_port}"
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()
            thread.join()

    def next_fault(self, method: str, file: str) -> Fault:
        """The fault of a request, which counts from now on as one that failed."""
        fault = self.faults.get(file)
        if fault is None or fault.method not in ("", method) or fault.times == 0:
            return Fault()
        self.faults[file] = replace(fault, times=fault.times - 1)
        return fault


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: StandInHub

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self) -> None:
        if self.path.startswith("/api/datasets/"):
            fault = self.hub.next_fault(self.command, "api")
            self.hub.requests.append(f"{self.command} {self.path}")
            self._send(fault.status, {"Content-Type": "application/json", **fault.headers}, fault.body or API)
            return
        owner, name, _, _, file = [*self.path.lstrip("/").split("?")[0].split("/", 4), *[""] * 4][:5]
        self.hub.requests.append(f"{self.command} {owner}/{name}/{file}")
        folder = self.hub.repositories.get(f"{owner}/{name}")
        if folder is None or not (folder / file).is_file():
            code = "RepoNotFound" if folder is None else "EntryNotFound"
            self._send(404, {"X-Error-Code": code, "X-Repo-Commit": self.hub.commit}, b"")
            return
        fault = self.hub.next_fault(self.command, file)
        time.sleep(fault.silent)
        if fault.body is not None or fault.status != 200:
            self._send(fault.status, {"Content-Type": "text/html", **fault.headers}, fault.body or b"")
        else:
            self._send_file(file, (folder / file).read_bytes(), fault)

    def _send_file(self, file: str, content: bytes, fault: Fault) -> None:
        start = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        first = int(start[1]) if start else 0
        etag = hashlib.sha256(content).hexdigest()
        if file in self.hub.git:
            etag = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        if self.headers.get("If-Range") not in (None, f'"{etag}"'):
            first = 0
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": self.hub.commit, "X-Linked-Size": str(len(content))}
        if first:
            self.hub.ranges.append(f"{file} from {first}")
            headers["Content-Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
        if fault.flip_at is not None and self.command == "GET":
            spoilt = bytearray(content)
            spoilt[fault.flip_at] ^= 1
            content = bytes(spoilt)
        rest = content[first:]
        body = rest[: int(len(rest) * fault.sent)]
        length = len(body) if fault.is_short and self.command == "GET" else len(rest)
        self._send(206 if first else 200, {**headers, "Content-Length": str(length), **fault.headers}, body)
        is_cut = self.command == "GET" and len(body) < length  # after HEAD a client would meet a closed connection
        self.close_connection = self.close_connection or is_cut

    def _send(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            with suppress(ConnectionError):  # a client that has seen enough
                self.wfile.write(body)
