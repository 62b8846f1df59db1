"""Limits and addresses of a server: what it accepts, keeps in memory and waits for."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass


@dataclass(frozen=True)
class ServeSettings:
    """Limits and addresses of one server.

    Attributes:
        host: address to bind.
        port: port to bind; 0 lets the system choose.
        token: secret that every request must carry; None admits everyone who reaches the address.
        upload_bytes: limit of a picture's encoded size.
        upload_pixels: limit of a picture's decoded size.
        cache_bytes: limit of encoded pictures in memory, kept for further views.
        thumbnail_bytes: limit of thumbnails in memory.
        queue_capacity: jobs that may wait for the model; one more is refused.
        max_batch: pictures at most in one forward pass.
        batch_seconds: how long the first picture of a batch waits for others.
        request_seconds: limit of a request's time, waiting included.
        check_seconds: the same for the test of a map, which runs the model on 400 changed pictures.
        upload_seconds: limit of the time in which a picture has to arrive.
        finish_seconds: time for running requests after the signal to stop.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    token: str | None = None
    upload_bytes: int = 20_000_000
    upload_pixels: int = 50_000_000
    cache_bytes: int = 256 * 1024 * 1024
    thumbnail_bytes: int = 32 * 1024 * 1024
    queue_capacity: int = 64
    max_batch: int = 16
    batch_seconds: float = 0.01
    request_seconds: float = 60.0
    check_seconds: float = 600.0
    upload_seconds: float = 30.0
    finish_seconds: float = 30.0

    @property
    def is_private(self) -> bool:
        """Whether only this machine reaches the address."""
        return is_loopback(self.host)


def is_loopback(host: str) -> bool:
    """Whether an address or name is this machine's own, which no other machine reaches."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
