"""Connections of a server: how many there are at a time, and how long each may keep it waiting.

uvicorn limits the requests that run, the size of a header and the time between two requests. It has no limit for
connections without a request, for the time of a header or of a body, or for clients that do not read their answer.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from typing import Any, Literal

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from vitrine.serve.settings import ACCEPT_PAUSE_SECONDS, RESERVED_DESCRIPTORS, ServeSettings

_LOGGER = logging.getLogger("uvicorn.error")
_GRACE_SECONDS = 2.0  # after the application answered 408 for a body, so that the answer arrives before the end

_Part = Literal["header", "body"]


class TimedProtocol(H11Protocol):
    """uvicorn's HTTP/1.1, with a time limit for all that a client has to send and to take."""

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        settings: ServeSettings,
        on_lost: Callable[[], None],
    ) -> None:
        """
        Args:
            config: of uvicorn.
            server_state: of uvicorn; lists the connections.
            app_state: of the application's lifespan.
            settings: the time limits.
            on_lost: called when the connection has ended.
        """
        super().__init__(config, server_state, app_state)
        self._settings, self._on_lost = settings, on_lost
        self._waiting_for: tuple[_Part, object] | None = None
        self._receive_timer: asyncio.TimerHandle | None = None
        self._send_timer: asyncio.TimerHandle | None = None
        self.idle_since = self.loop.time()

    @property
    def is_idle(self) -> bool:
        """Whether the connection has no request that waits for its answer."""
        return self.cycle is None or self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has connected: its header has to arrive in time."""
        super().connection_made(transport)
        self._set_timers()

    def data_received(self, data: bytes) -> None:
        """Some bytes have arrived."""
        super().data_received(data)
        self._set_timers()

    def on_response_complete(self) -> None:
        """An answer was given to the transport."""
        self.idle_since = self.loop.time()
        super().on_response_complete()
        self._set_timers()

    def timeout_keep_alive_handler(self) -> None:
        """No further request came."""
        super().timeout_keep_alive_handler()
        self._set_timers()

    def pause_writing(self) -> None:
        """The client does not take its answer as fast as it is made."""
        super().pause_writing()
        self._start_send_timer()

    def resume_writing(self) -> None:
        """The client has taken most of what waited for it."""
        super().resume_writing()
        self._stop_send_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended."""
        super().connection_lost(exc)
        self._stop_receive_timer()
        self._stop_send_timer()
        self._unset_keepalive_if_required()
        self._on_lost()

    def _set_timers(self) -> None:
        """Start the timer of what the client has to send next; one that runs for the same thing goes on."""
        if self.transport.is_closing():
            self._stop_receive_timer()
            if self.transport.get_write_buffer_size():  # closing waits for the client to take this
                self._start_send_timer()
            return
        waiting_for = self._next_part()
        if waiting_for == self._waiting_for:
            return
        self._stop_receive_timer()
        self._waiting_for = waiting_for
        if waiting_for is not None:
            is_header = waiting_for[0] == "header"
            seconds = self._settings.header_seconds if is_header else self._settings.upload_seconds + _GRACE_SECONDS
            self._receive_timer = self.loop.call_later(seconds, self._end_header if is_header else self._end_body)

    def _next_part(self) -> tuple[_Part, object] | None:
        """What the client has to send, and after which request; None if it is the server's turn, or a pause."""
        if self.conn.their_state is h11.SEND_BODY:
            return "body", self.cycle
        if self.conn.their_state is h11.IDLE and self.timeout_keep_alive_task is None:
            return "header", self.cycle
        return None

    def _end_header(self) -> None:
        if self.conn.trailing_data[0]:
            self._answer_late_header()
        self.transport.close()
        self._set_timers()

    def _answer_late_header(self) -> None:
        body = b"The request's header did not arrive in time.\n"
        headers = [("Content-Type", "text/plain"), ("Content-Length", str(len(body))), ("Connection", "close")]
        for event in (
            h11.Response(status_code=408, headers=headers, reason=b"Request Timeout"),
            h11.Data(data=body),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event) or b"")

    def _end_body(self) -> None:
        """Cut the connection: whoever waits for the body has given up before, and has answered."""
        self.transport.abort()

    def _start_send_timer(self) -> None:
        if self._send_timer is None:
            self._send_timer = self.loop.call_later(self._settings.send_seconds, self.transport.abort)

    def _stop_send_timer(self) -> None:
        if self._send_timer is not None:
            self._send_timer.cancel()
            self._send_timer = None

    def _stop_receive_timer(self) -> None:
        if self._receive_timer is not None:
            self._receive_timer.cancel()
            self._receive_timer = None


class ConnectionListener:
    """Accepts connections on a socket, up to a number, and pauses where the system has no more of them to give."""

    def __init__(
        self,
        listener: socket.socket,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        settings: ServeSettings,
    ) -> None:
        """
        Args:
            listener: socket that listens.
            config: of uvicorn.
            server_state: of uvicorn; lists the connections.
            app_state: of the application's lifespan.
            settings: limits.
        """
        self._listener = listener
        self._config, self._server_state, self._app_state = config, server_state, app_state
        self._settings, self._max_connections = settings, affordable_connections(settings.connections)
        self._connection_lost = asyncio.Event()

    async def accept_connections(self) -> None:
        """Accept connections until cancelled."""
        loop = asyncio.get_running_loop()
        self._listener.setblocking(False)
        while True:
            try:
                connection, _ = await loop.sock_accept(self._listener)
            except ConnectionError:
                continue  # this client has left before it was accepted
            except OSError as error:
                await self._pause(error)
                continue
            try:
                await self._make_room()
                await loop.connect_accepted_socket(self._make_protocol, connection)
            except OSError:
                connection.close()
            except asyncio.CancelledError:
                connection.close()
                raise

    def _make_protocol(self) -> TimedProtocol:
        return TimedProtocol(
            self._config, self._server_state, self._app_state, self._settings, self._connection_lost.set
        )

    async def _pause(self, error: OSError) -> None:
        """Wait until a further connection may succeed; trying on at once would only burn time."""
        reason = error.strerror or str(error)
        _LOGGER.warning("No further connection can be accepted: %s. Trying on; new clients wait.", reason)
        self._close_longest_idle()
        await asyncio.sleep(ACCEPT_PAUSE_SECONDS)

    async def _make_room(self) -> None:
        """Wait until there is one connection less than the limit, by closing the longest idle one if there is any."""
        while len(self._server_state.connections) >= self._max_connections:
            _LOGGER.warning(
                "%d connections are open, which is the limit: a new one closes the one that is idle the longest.",
                self._max_connections,
            )
            self._connection_lost.clear()
            self._close_longest_idle()
            await self._connection_lost.wait()

    def _close_longest_idle(self) -> None:
        idle = [each for each in self._server_state.connections if isinstance(each, TimedProtocol) and each.is_idle]
        if idle:
            min(idle, key=lambda each: each.idle_since).transport.abort()


def affordable_connections(max_connections: int) -> int:
    """As many connections as are wanted, or fewer where this process may not open so many files; at least one."""
    try:
        import resource  # not on Windows
    except ModuleNotFoundError:
        return max_connections
    soft_limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft_limit == resource.RLIM_INFINITY:
        return max_connections
    return max(1, min(max_connections, max(soft_limit - RESERVED_DESCRIPTORS, soft_limit // 2)))
