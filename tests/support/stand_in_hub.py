"""A hub of our own on 127.0.0.1 that speaks as much of the protocol as huggingface_hub's client asks for."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "c0ffee" + "0" * 34


@dataclass
class StandInHub:
    """Repositories as folders, by "owner/name"; ``truncated`` names files of which only half is sent, ``spoilt`` files
    whose last byte is another than the hub's hash is of. All are at ``commit``.

    ``asked`` lists every request as "METHOD owner/name/file".
    """

    repositories: dict[str, Path] = field(default_factory=dict)
    truncated: set[str] = field(default_factory=set)
    spoilt: set[str] = field(default_factory=set)
    commit: str = COMMIT
    requests: list[str] = field(default_factory=list)
    address: str = ""

    @contextmanager
    def running(self) -> Iterator[StandInHub]:
        """Serve until the block ends; ``address`` is the endpoint."""
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                self._answer(body=False)

            def do_GET(self) -> None:
                self._answer(body=True)

            def log_message(self, *_: object) -> None:
                pass

            def _answer(self, *, body: bool) -> None:
                owner, name, _, _, file = [*self.path.lstrip("/").split("?")[0].split("/", 4), *[""] * 4][:5]
                hub.requests.append(f"{self.command} {owner}/{name}/{file}")
                folder = hub.repositories.get(f"{owner}/{name}")
                if folder is None or not (folder / file).is_file():
                    self.send_response(404)
                    self.send_header("X-Error-Code", "RepoNotFound" if folder is None else "EntryNotFound")
                    self.send_header("X-Repo-Commit", hub.commit)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                content = (folder / file).read_bytes()
                sent = content[: len(content) // 2] if body and file in hub.truncated else content
                if body and file in hub.spoilt:
                    sent = content[:-1] + bytes([content[-1] ^ 1])
                self.send_response(200)
                self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
                self.send_header("X-Repo-Commit", hub.commit)
                self.send_header("X-Linked-Size", str(len(content)))
                self.send_header("Content-Length", str(len(sent)))
                self.end_headers()
                if body:
                    self.wfile.write(sent)

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        self.address = f"http://127.0.0.1:{server.server_port}"
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()
            thread.join()
