"""What a server may take, hold and wait for."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass


@dataclass(frozen=True)
class ServeSettings:
    """Limits and addresses of one server.

    Attributes:
        host: address that is bound.
        port: of it; 0 lets the system choose.
        token: what every request must carry; None lets everyone in who reaches the address.
        upload_bytes: of a picture as it is sent.
        upload_pixels: of a picture as it is decoded.
        held_bytes: of encoded pictures that are kept in memory for further views.
        thumbnail_bytes: of small copies of validation pictures, likewise.
        queue: jobs that wait for the model; one more is refused.
        batch: pictures that one forward pass takes at most.
        batch_seconds: how long the first picture of a batch waits for others.
        request_seconds: how long a request may take, the wait included.
        check_seconds: the same for checks of a map, which run the model a hundred times.
        upload_seconds: how long a picture may take to arrive.
        finish_seconds: how long running requests have after the signal to stop.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    token: str | None = None
    upload_bytes: int = 20_000_000
    upload_pixels: int = 50_000_000
    held_bytes: int = 256 * 1024 * 1024
    thumbnail_bytes: int = 32 * 1024 * 1024
    queue: int = 64
    batch: int = 16
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
    """Whether an address is the machine's own and nobody else's."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
