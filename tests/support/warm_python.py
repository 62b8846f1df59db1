"""A Python for tests of processes: it starts in a moment, because its libraries are already imported.

Importing torch and what stands on it takes a process seconds. Once its tests are collected, pytest's own process has
imported it all; it forks a *server* then, before any test has run, and the server forks itself for every process that
is asked for. What asks is a *client* with the command line of a Python (``warm_python -m vitrine ...``): the forked
process gets its arguments, folder, environment and streams, signals reach it, and it ends when the client is killed.

Left to a cold Python: what is decided by the environment when a library is imported, and what an import costs or shows.
"""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import gc
import importlib
import logging
import os
import random
import runpy
import selectors
import signal
import socket
import struct
import sys
import tempfile
import threading
import types
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from support import warm_client
from support.paths import CHECKOUT, TESTS

IS_POSSIBLE = sys.platform == "linux"  # elsewhere a process that has loaded this much cannot be forked safely


class WarmPython:
    """The server, forked from this process; ``executable`` stands for ``sys.executable`` where it cannot be.

    Args:
        folder: of its socket; its path has to be short.
    """

    def __init__(self, folder: Path) -> None:
        self.executable = sys.executable
        if not IS_POSSIBLE:
            return
        address = folder / "socket"
        executable = folder / "python"
        client = f"exec {sys.executable} -IS {warm_client.__file__} {sys.executable} {address} "
        executable.write_text(f'#!/bin/sh\n{client}"$@"\n')
        executable.chmod(0o755)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(address))
        listener.listen(64)
        alive, self._alive = os.pipe()
        self._pid = os.fork()
        if not self._pid:
            _serve(listener, alive, str(executable))
        listener.close()
        os.close(alive)
        self.executable = str(executable)

    def stop(self) -> None:
        """End the server, and what it has forked."""
        if self.executable != sys.executable:
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
            os.close(self._alive)


def process_of(client: int) -> int:
    """The process that was forked for a client, by their numbers: to be killed, as it would be without a client."""
    names = ((file, f"warm {client}") for file in Path("/proc").glob("[0-9]*/comm"))
    for file, name in names:
        with contextlib.suppress(OSError):
            if file.read_text().strip() == name:
                return int(file.parent.name)
    return client


def _serve(listener: socket.socket, alive: int, executable: str) -> NoReturn:
    """Fork a process for every client, until pytest's process ends."""
    try:
        _forget_pytest(keep=(listener.fileno(), alive))
        sys.executable = executable  # processes of processes are warm, too
        gc.collect()
        gc.freeze()
        selector = selectors.DefaultSelector()
        selector.register(listener, selectors.EVENT_READ)
        selector.register(alive, selectors.EVENT_READ)
        children: dict[int, tuple[socket.socket, int, int]] = {}  # by process: its client, and the files to watch both
        while True:
            for key, _ in selector.select():
                if key.fd == alive:
                    os._exit(0)
                elif key.fileobj is listener:
                    client, _ = listener.accept()
                    try:
                        pid = _fork(client)
                    except (EOFError, OSError):  # it was killed before it had asked
                        client.close()
                        continue
                    process = os.pidfd_open(pid)
                    children[pid] = (client, client.fileno(), process)
                    for file in children[pid][1:]:
                        selector.register(file, selectors.EVENT_READ, pid)
                elif key.data in children:
                    client, asked, process = children[key.data]
                    if key.fd == asked:  # the client has ended, and its process with it
                        os.kill(key.data, signal.SIGKILL)
                    _, status = os.waitpid(key.data, 0)
                    with contextlib.suppress(OSError):
                        client.sendall(warm_client.pack(os.waitstatus_to_exitcode(status)))
                    for file in (asked, process):
                        selector.unregister(file)
                    os.close(process)
                    client.close()
                    del children[key.data]
    finally:
        os._exit(70)


def _fork(client: socket.socket) -> int:
    asked, streams = warm_client.receive(client)
    pid = os.fork()
    if not pid:
        number, _, _ = struct.unpack("3i", client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        Path("/proc/self/comm").write_text(f"warm {number}")
        _run(asked, streams)
    for stream in streams:
        os.close(stream)
    client.sendall(warm_client.pack(pid))
    return pid


def _forget_pytest(keep: Sequence[int]) -> None:
    """Let go of the files, hooks and settings of pytest's process, which a new Python has not."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    faulthandler.disable()
    nothing = os.open(os.devnull, os.O_RDWR)
    for file in map(int, os.listdir("/proc/self/fd")):  # noqa: PTH208  names, not paths
        if file not in (*keep, nothing):
            with contextlib.suppress(OSError):
                os.dup2(nothing, file, inheritable=file <= 2)
    atexit._clear()
    sys.excepthook, sys.unraisablehook = sys.__excepthook__, sys.__unraisablehook__
    threading.excepthook = threading.__excepthook__
    root = logging.getLogger()
    root.handlers.clear()
    root.setLevel(logging.WARNING)
    importlib.reload(warnings)
    warnings.resetwarnings()
    for category in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
        warnings.simplefilter("ignore", category)
    warnings.filterwarnings("ignore", category=RuntimeWarning, module="runpy")  # the module is imported already
    own = {str(TESTS), str(CHECKOUT / "benchmarks")}
    sys.path[:] = [path for path in sys.path if path not in own]


def _run(asked: dict[str, Any], streams: Sequence[int]) -> NoReturn:
    """Be the process that was asked for."""
    code: object = 1
    try:
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        os.chdir(asked["folder"])
        os.environ.clear()
        os.environ.update(asked["environment"])
        for handled in (signal.SIGINT, signal.SIGTERM):
            signal.signal(handled, signal.default_int_handler if handled == signal.SIGINT else signal.SIG_DFL)
        sys.stdin, sys.stdout, sys.stderr = open(0, closefd=False), _writer(1), _writer(2)  # noqa: SIM115
        sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr
        tempfile.tempdir = None
        random.seed()
        sys.path[:0] = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
        _run_program(asked["arguments"])
        code = 0
    except SystemExit as end:
        code = end.code
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        code = 130 if isinstance(error, KeyboardInterrupt) else 1
    if not isinstance(code, int | None):
        print(code, file=sys.stderr)
        code = 1
    _end(int(code or 0))


def _writer(number: int) -> Any:
    unbuffered = bool(os.environ.get("PYTHONUNBUFFERED"))
    errors = "backslashreplace" if number == 2 else "strict"
    stream = open(number, "w", encoding="utf-8", errors=errors, closefd=False)  # noqa: SIM115
    stream.reconfigure(line_buffering=number == 2, write_through=unbuffered)
    return stream


def _run_program(arguments: Sequence[str]) -> None:
    """As ``python ARGUMENTS`` runs a program."""
    kind, *rest = arguments
    if kind == "-c":
        code, *rest = rest
        main = types.ModuleType("__main__")
        main.__dict__["__builtins__"] = __builtins__
        sys.modules["__main__"], sys.argv = main, ["-c", *rest]
        sys.path.insert(0, "")
        exec(compile(code, "<string>", "exec"), main.__dict__)
    elif kind == "-m":
        sys.argv = rest
        sys.path.insert(0, os.getcwd())  # noqa: PTH109  a text
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv = list(arguments)
        sys.path.insert(0, os.path.dirname(os.path.abspath(kind)))  # noqa: PTH100, PTH120  a text
        runpy.run_path(kind, run_name="__main__")


def _end(code: int) -> NoReturn:
    """As an interpreter ends."""
    with contextlib.suppress(BaseException):
        threading._shutdown()  # type: ignore[attr-defined]
        from multiprocessing.util import _exit_function

        _exit_function()
        atexit._run_exitfuncs()
        logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(BaseException):
            stream.flush()
    os._exit(code)
