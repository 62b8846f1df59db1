"""The command line of a warm Python: ``python -IS warm_client.py PYTHON SOCKET ARGUMENTS...``.

It asks the server of ``warm_python.py`` for a process, passes signals on to it, and ends as it ends. Options other than
``-c``, ``-m`` and ``-u`` are left to a new PYTHON.
"""

import contextlib
import json
import os
import signal
import socket
import struct
import sys

_NUMBER = struct.Struct("!q")
_PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)


def pack(number):
    return _NUMBER.pack(number)


def _receive(connection, count):
    content = b""
    while len(content) < count:
        part = connection.recv(count - len(content))
        if not part:
            raise EOFError
        content += part
    return content


def receive(connection):
    """What a client asks for, and its streams."""
    head, streams, _, _ = socket.recv_fds(connection, _NUMBER.size, 3)
    return json.loads(_receive(connection, _NUMBER.unpack(head)[0])), streams


def _pass_on(process, number):
    with contextlib.suppress(ProcessLookupError):  # it has just ended
        os.kill(process, number)


def call(python, address, arguments):
    signal.pthread_sigmask(signal.SIG_BLOCK, _PASSED_ON)
    environment = dict(os.environ)
    if arguments[:1] == ["-u"]:
        arguments, environment["PYTHONUNBUFFERED"] = arguments[1:], "1"
    if not arguments or (arguments[0].startswith("-") and arguments[0] not in ("-c", "-m")):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _PASSED_ON)
        os.execv(python, [python, *arguments])
    asked = {
        "folder": os.getcwd(),  # noqa: PTH109  pathlib takes time to import
        "environment": environment,
        "arguments": arguments,
    }
    content = json.dumps(asked).encode()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(address)
        socket.send_fds(connection, [pack(len(content))], [0, 1, 2])
        connection.sendall(content)
        process = _NUMBER.unpack(_receive(connection, _NUMBER.size))[0]
        for each in _PASSED_ON:
            signal.signal(each, lambda number, _: _pass_on(process, number))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _PASSED_ON)
        nothing = os.open(os.devnull, os.O_RDWR)
        for stream in range(3):
            os.dup2(nothing, stream)  # they are the process's alone: a reader sees its end
        status = _NUMBER.unpack(_receive(connection, _NUMBER.size))[0]
    if status < 0:
        with contextlib.suppress(OSError):  # SIGKILL has nothing but its default
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status)


if __name__ == "__main__":
    call(sys.argv[1], sys.argv[2], sys.argv[3:])
