"""From model references to a server that runs until it is told to stop."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import uvicorn

from vitrine.caption.model import open_captioner
from vitrine.classify.model import open_classifier
from vitrine.errors import UsageError
from vitrine.models.captioner.checkpoint import is_captioner_folder
from vitrine.models.kind import is_captioner
from vitrine.report.html import render_html
from vitrine.report.run import build_document
from vitrine.runs.find import find_runs
from vitrine.runs.folder import RunFolder
from vitrine.serve.app import make_app
from vitrine.serve.captioner import ServedCaptioner
from vitrine.serve.classifier import ServedClassifier
from vitrine.serve.galleries import open_gallery
from vitrine.serve.settings import ServeSettings
from vitrine.serve.state import AppState, Served, ServedModel, make_app_state


def open_app_state(
    references: Sequence[str],
    settings: ServeSettings,
    *,
    architecture: str | None = None,
    vocabulary: Path | None = None,
    precision: str = "auto",
    report: bool = False,
    on_open: Callable[[str], None] = lambda _reference: None,
) -> AppState:
    """Open models and their pictures.

    Args:
        references: model references, in the order that the page shows them; a folder that holds runs, such as a
            sweep's, stands for all of them.
        settings: limits and addresses.
        architecture: the timm name, or ``catr``, of those references that are weights files.
        vocabulary: of the published captioner, where it is among them.
        precision: auto, fp32 or bf16.
        report: also make the report of the runs among them.
        on_open: called with the reference of each model before it is opened.

    Raises:
        ModelError, WeightsUnavailableError: a model cannot be opened.
        RunError: a report is wanted and none of them is a finished run.
    """
    references = [each for reference in references for each in _runs_in(reference)]
    models = []
    for number, reference in enumerate(references):
        on_open(reference)
        is_file = Path(reference).expanduser().is_file()
        served = _opened(str(number), reference, architecture if is_file else None, vocabulary, precision)
        models.append(ServedModel(served, open_gallery(reference)))
    page = (
        render_html(build_document([each for each in references if Path(each).expanduser().is_dir()]))
        if report
        else None
    )
    return make_app_state(models, settings, page)


def _runs_in(reference: str) -> list[str]:
    """The finished runs of a folder that is no model itself; else the reference."""
    folder = Path(reference).expanduser()
    if not folder.is_dir() or (folder / "config.json").is_file() or RunFolder(folder).is_started:
        return [reference]
    return [str(run.path) for run in find_runs([reference]).runs.values()]


def _opened(number: str, reference: str, architecture: str | None, vocabulary: Path | None, precision: str) -> Served:
    if is_captioner(reference, architecture):
        used = "fp32" if precision == "auto" else precision
        words = None if is_captioner_folder(Path(reference).expanduser()) else vocabulary  # a run has its own
        flags = [*(["--arch", architecture] if architecture else []), *(["--vocab", str(words)] if words else [])]
        return ServedCaptioner(
            number, reference, open_captioner(reference, architecture, words, precision=used), used, flags
        )
    return ServedClassifier(number, reference, open_classifier(reference, precision, architecture), architecture)


def run_server(state: AppState, on_ready: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM; what runs then is finished.

    Args:
        state: what is served.
        on_ready: called with the address once connections to it are taken.

    Raises:
        UsageError: the address cannot be bound.
    """
    settings = state.settings
    bound = _bound(settings.host, settings.port)
    with bound:
        on_ready(_address(settings, bound.getsockname()[1]))
        _Server(server_config(state)).run(sockets=[bound])


def server_config(state: AppState) -> uvicorn.Config:
    """How uvicorn serves: quietly, and nothing of itself in its answers."""
    return uvicorn.Config(
        make_app(state),
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ws="none",
        date_header=False,
        lifespan="on",
        timeout_keep_alive=30,
        timeout_graceful_shutdown=int(state.settings.finish_seconds),
        h11_max_incomplete_event_size=16_384,
    )


class _Server(uvicorn.Server):
    """Ends by itself after a signal, instead of dying of it once everything is finished."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """SIGINT and SIGTERM stop the server; a second SIGINT does not wait for what runs."""
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _bound(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        bound = socket.socket(family, socket.SOCK_STREAM)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
        bound.listen(1024)  # from here on connections wait rather than fail
    except OSError as error:
        reason = error.strerror or str(error)
        raise UsageError(f"{host}:{port} cannot be served: {reason}. Choose another --port, or --port 0.") from error
    return bound


def _address(settings: ServeSettings, port: int) -> str:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"http://{host}:{port}/{f'?token={quote(settings.token, safe=str())}' if settings.token else ''}"
