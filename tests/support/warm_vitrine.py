"""The vitrine command with its libraries already imported, for tests of scripts that call it many times.

``python warm_vitrine.py serve SOCKET`` imports them once, says ``ready``, and forks a process for every call;
``python warm_vitrine.py call SOCKET ARGUMENTS...`` is a call: it has the caller's folder, environment and streams, and
the exit status of the verb.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from importlib import import_module

_MODULES = (
    "train.run",
    "train.captioner",
    "compare.run",
    "explain.run",
    "explain.positions",
    "classify.predict",
    "caption.run",
    "check",
)


def serve(path: str) -> None:
    """Answer calls one after the other until standard input ends."""
    for name in _MODULES:
        import_module(f"vitrine.{name}")
    import_module("vitrine.cli.app")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()
        print("ready", flush=True)
        while True:
            connection, _ = server.accept()
            with connection:
                asked, streams, _, _ = socket.recv_fds(connection, 1 << 20, 3)
                child = os.fork()
                if not child:
                    _run(json.loads(asked), streams)
                for stream in streams:
                    os.close(stream)
                _, status = os.waitpid(child, 0)
                connection.sendall(bytes([os.waitstatus_to_exitcode(status) & 0xFF]))


def _run(asked: dict[str, object], streams: list[int]) -> None:
    from vitrine.cli import main

    code: object = 70
    try:
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
        os.chdir(str(asked["folder"]))
        os.environ.clear()
        os.environ.update(asked["environment"])  # type: ignore[call-overload]
        sys.argv = ["vitrine", *asked["arguments"]]  # type: ignore[misc]
        main()
    except SystemExit as end:
        code = end.code or 0
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(int(str(code)))


def call(path: str, arguments: list[str]) -> int:
    """Ask for a verb; returns its exit status."""
    asked = {"folder": os.getcwd(), "environment": dict(os.environ), "arguments": arguments}  # noqa: PTH109
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        socket.send_fds(connection, [json.dumps(asked).encode()], [0, 1, 2])
        return connection.recv(1)[0]


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(sys.argv[2])
    sys.exit(call(sys.argv[2], sys.argv[3:]))
