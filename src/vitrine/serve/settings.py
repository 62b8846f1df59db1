"""Limits and addresses of a server: what it accepts, keeps in memory and waits for."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from vitrine.io.limits import limit

MAX_UPLOAD_BYTES = limit("MAX_UPLOAD_BYTES", 20_000_000)
"""Bytes of a picture's file that is sent to the explorer; a longer one is refused."""

MAX_UPLOAD_PIXELS = limit("MAX_UPLOAD_PIXELS", 50_000_000)
"""Width × height of a picture that is sent to the explorer; a larger one is refused before it is decoded."""

MAX_MEMORY_BYTES = limit("MAX_MEMORY_BYTES", 256 << 20)
"""Bytes of encoded pictures that the explorer keeps for further views, and of pictures that are arriving, counted from
their first byte."""

MAX_ARRIVING_PERCENT = limit("MAX_ARRIVING_PERCENT", 50)
"""Percent of MAX_MEMORY_BYTES that pictures arriving at the explorer may take from the encoded ones; beyond it one more
gets 503."""

MAX_THUMBNAIL_BYTES = limit("MAX_THUMBNAIL_BYTES", 32 << 20)
"""Bytes of thumbnails that the explorer keeps."""

MAX_QUEUED_JOBS = limit("MAX_QUEUED_JOBS", 64)
"""Requests that wait for the explorer's models; one more gets 503."""

MAX_BATCH = limit("MAX_BATCH", 16)
"""Pictures of the explorer in one forward pass."""

MAX_CONNECTIONS = limit("MAX_CONNECTIONS", 1_000)
"""Connections of the explorer at a time, or fewer where the process may open fewer files. One more takes the place of
the connection
that has waited the longest without a request; while all of them are busy it waits."""

MAX_HEADER_BYTES = limit("MAX_HEADER_BYTES", 16_384)
"""Bytes of the header of a request to the explorer; a longer one gets 400."""

RESERVED_DESCRIPTORS = limit("RESERVED_DESCRIPTORS", 96)
"""File descriptors that the explorer's connections leave for everything else, out of those that the process may
have."""

HEADER_SECONDS = limit("HEADER_SECONDS", 10)
"""Seconds for the header of a request to the explorer, from the connection or from the first byte of a later request;
then 408."""

UPLOAD_SECONDS = limit("UPLOAD_SECONDS", 30)
"""Seconds for the body of a request to the explorer; then 408."""

KEEP_ALIVE_SECONDS = limit("KEEP_ALIVE_SECONDS", 30)
"""Seconds that the explorer keeps a connection after an answer, for the next request."""

SEND_SECONDS = limit("SEND_SECONDS", 30)
"""Seconds that a client may take none of an answer of the explorer; then the connection is closed."""

ACCEPT_PAUSE_SECONDS = 0.1
"""Pause of the server where it cannot open another connection, for want of file descriptors or memory."""

LOG_SECONDS = limit("LOG_SECONDS", 60)
"""Seconds in which the explorer logs a message once, however often it comes."""

REQUEST_SECONDS = limit("REQUEST_SECONDS", 60)
"""Seconds of a request to the explorer, from when it waits for the model; then 503."""

CHECK_SECONDS = limit("CHECK_SECONDS", 600)
"""Seconds of the explorer's test of a map, which runs the model on about 400 changed pictures, and of an answer of a
vision-language model; then 503."""

FINISH_SECONDS = limit("FINISH_SECONDS", 30)
"""Seconds for the explorer's running requests after the signal to stop."""


@dataclass(frozen=True)
class ServeSettings:
    """Limits and addresses of one server; the constants of this module say what each limit does.

    Attributes:
        host: address to bind.
        port: port to bind; 0 lets the system choose.
        token: secret that every request must carry; None admits everyone who reaches the address.
        upload_bytes: limit of a picture's encoded size.
        upload_pixels: limit of a picture's decoded size.
        cache_bytes: limit of encoded pictures in memory, kept for further views, and of arriving ones.
        thumbnail_bytes: limit of thumbnails in memory.
        queue_capacity: jobs that may wait for the model; one more is refused.
        max_batch: pictures at most in one forward pass.
        batch_seconds: how long the first picture of a batch waits for others.
        connections: limit of connections at a time.
        header_seconds: limit of the time in which a request's header has to arrive.
        request_seconds: limit of a request's time, waiting included.
        check_seconds: the same for the test of a map, which runs the model on 400 changed pictures, and for an answer
            of a vision-language model.
        upload_seconds: limit of the time in which a picture has to arrive.
        send_seconds: limit of the time for which a client takes nothing of its answer.
        finish_seconds: time for running requests after the signal to stop.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    token: str | None = None
    upload_bytes: int = MAX_UPLOAD_BYTES
    upload_pixels: int = MAX_UPLOAD_PIXELS
    cache_bytes: int = MAX_MEMORY_BYTES
    thumbnail_bytes: int = MAX_THUMBNAIL_BYTES
    queue_capacity: int = MAX_QUEUED_JOBS
    max_batch: int = MAX_BATCH
    batch_seconds: float = 0.01
    connections: int = MAX_CONNECTIONS
    header_seconds: float = HEADER_SECONDS
    request_seconds: float = REQUEST_SECONDS
    check_seconds: float = CHECK_SECONDS
    upload_seconds: float = UPLOAD_SECONDS
    send_seconds: float = SEND_SECONDS
    finish_seconds: float = FINISH_SECONDS

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
