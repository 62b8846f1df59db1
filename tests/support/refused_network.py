"""A network that refuses whatever leaves this machine."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable

import pytest

LOOPBACK = ("127.0.0.1", "::1", "localhost")


def refuse_the_network(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let no connection leave this machine, and no name be looked up; returns what was tried."""
    attempts: list[str] = []
    connect, connect_ex, look_up = socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo

    def guard(reach: Callable[..., object], address_of: Callable[..., object]) -> Callable[..., object]:
        def reach_loopback(*arguments: object, **options: object) -> object:
            address = address_of(*arguments)
            host = address[0] if isinstance(address, tuple) else address
            if isinstance(address, str | bytes) and os.sep in os.fsdecode(address):  # a socket of this machine's files
                return reach(*arguments, **options)
            if host in LOOPBACK or host is None:
                return reach(*arguments, **options)
            attempts.append(repr(address))
            raise OSError(f"refused: {address!r}")

        return reach_loopback

    monkeypatch.setattr(socket.socket, "connect", guard(connect, lambda _, address: address))
    monkeypatch.setattr(socket.socket, "connect_ex", guard(connect_ex, lambda _, address: address))
    monkeypatch.setattr(socket, "getaddrinfo", guard(look_up, lambda host, *_: (host,)))
    return attempts
