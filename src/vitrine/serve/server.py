"""Load the models of ``vitrine serve`` and run the server until a signal stops it."""

from __future__ import annotations

import asyncio
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import uvicorn

from vitrine.caption.model import Captioner
from vitrine.errors import UsageError
from vitrine.models.captioner_folder import is_captioner_folder
from vitrine.models.precision import on_device
from vitrine.open_model import open_model
from vitrine.report.html import render_html
from vitrine.report.run import build_document
from vitrine.runs.find import find_runs
from vitrine.runs.folder import RunFolder
from vitrine.serve.app import make_app
from vitrine.serve.captioner import ServedCaptioner
from vitrine.serve.classifier import ServedClassifier
from vitrine.serve.connections import ConnectionListener
from vitrine.serve.galleries import open_gallery
from vitrine.serve.log_limit import log_config
from vitrine.serve.model import ServedModel
from vitrine.serve.settings import KEEP_ALIVE_SECONDS, MAX_CONNECTIONS, MAX_HEADER_BYTES, ServeSettings
from vitrine.serve.state import AppState, make_app_state


def open_app_state(
    references: Sequence[str],
    settings: ServeSettings,
    *,
    architecture: str | None = None,
    vocabulary: Path | None = None,
    precision: str = "auto",
    device: str | None = None,
    report: bool = False,
    on_open: Callable[[str], None] = lambda _reference: None,
) -> AppState:
    """Load models and the pictures that come with them.

    Args:
        references: model references, in the order that the page shows them; a folder that holds runs, such as a
            sweep's, stands for all of them.
        settings: limits and addresses.
        architecture: timm name, or ``catr``, of the references that are weights files.
        vocabulary: vocabulary file of the published captioner, if it is among them.
        precision: auto, fp32 or bf16; 4bit of vision-language models.
        device: cpu, cuda, cuda:1 or mps; None takes a GPU where there is one. auto spreads vision-language models, each
            over what the ones before it have left.
        report: whether to make a report on the runs among them.
        on_open: called with the reference of each model before it is loaded.

    Raises:
        ModelError, WeightsUnavailableError: a model cannot be loaded.
        UsageError: a device that is not here, or 4 bits of another model.
        RunError: a report was asked for and none of them is a finished run.
    """
    references = [each for reference in references for each in _expand_folder(reference)]
    models: list[ServedModel[Any]] = []
    for index, reference in enumerate(references):
        on_open(reference)
        is_file = Path(reference).expanduser().is_file()
        with on_device(device):
            models.append(_load_model(str(index), reference, architecture if is_file else None, vocabulary, precision))
    page = None
    if report:
        page = render_html(build_document([each for each in references if Path(each).expanduser().is_dir()]))
    return make_app_state(models, settings, page)


def _expand_folder(reference: str) -> list[str]:
    """The finished runs in a folder that is no model itself; any other reference alone."""
    folder = Path(reference).expanduser()
    if not folder.is_dir() or (folder / "config.json").is_file() or RunFolder(folder).is_started:
        return [reference]
    return [str(run.path) for run in find_runs([reference]).runs.values()]


def _load_model(
    model_id: str, reference: str, architecture: str | None, vocabulary: Path | None, precision: str
) -> ServedModel[Any]:
    gallery = open_gallery(reference)
    vocabulary = None if is_captioner_folder(Path(reference).expanduser()) else vocabulary  # a run has its own
    model = open_model(reference, precision, architecture, vocabulary)
    if not isinstance(model, Captioner):
        return ServedClassifier(model_id, reference, model, architecture, gallery)
    flags = [*(["--arch", architecture] if architecture else []), *(["--vocab", str(vocabulary)] if vocabulary else [])]
    return ServedCaptioner(model_id, reference, model, model.precision, flags, gallery)


def run_server(state: AppState, on_ready: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM; requests that are running then are finished.

    Args:
        state: models and settings.
        on_ready: called with the server's address once it accepts connections.

    Raises:
        UsageError: the address cannot be bound.
    """
    settings = state.settings
    with _bind(settings.host, settings.port) as listener:
        on_ready(_address(settings, listener.getsockname()[1]))
        make_server(state).run(sockets=[listener])


def make_server(state: AppState) -> uvicorn.Server:
    """The server of these models, for sockets that it gets when it runs."""
    return _Server(_server_config(state), state.settings)


def _server_config(state: AppState) -> uvicorn.Config:
    """Settings of uvicorn: no access log, and no headers that name the server."""
    return uvicorn.Config(
        make_app(state),
        log_config=log_config(),
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ws="none",
        date_header=False,
        lifespan="on",
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=int(state.settings.finish_seconds),
        h11_max_incomplete_event_size=MAX_HEADER_BYTES,
    )


class _Server(uvicorn.Server):
    """A uvicorn server with limits for connections; returns after a signal, instead of raising the signal again."""

    def __init__(self, config: uvicorn.Config, settings: ServeSettings) -> None:
        super().__init__(config)
        self._settings = settings
        self._accepting: list[asyncio.Task[None]] = []

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the application, then accept connections on the sockets."""
        await super().startup(sockets=[])  # with none of its own: asyncio accepts without a limit
        for each in sockets or ():
            listener = ConnectionListener(each, self.config, self.server_state, self.lifespan.state, self._settings)
            self._accepting.append(asyncio.create_task(listener.accept_connections()))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept no more connections, then let running requests finish."""
        for task in self._accepting:
            task.cancel()
        await asyncio.gather(*self._accepting, return_exceptions=True)
        await super().shutdown(sockets)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop the server on SIGINT and SIGTERM; a second SIGINT does not wait for running requests."""
        if threading.current_thread() is not threading.main_thread():
            yield  # only the main thread gets signals
            return
        old_handlers = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in old_handlers.items():
                signal.signal(number, handler)


def _bind(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(MAX_CONNECTIONS)  # from here on connections wait rather than fail
    except OSError as error:
        reason = error.strerror or str(error)
        raise UsageError(f"{host}:{port} cannot be served: {reason}. Choose another --port, or --port 0.") from error
    return listener


def _address(settings: ServeSettings, port: int) -> str:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"http://{host}:{port}/{f'?token={quote(settings.token, safe=str())}' if settings.token else ''}"
