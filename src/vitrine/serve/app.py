"""The FastAPI application: its routes, its error answers, and the middleware around them."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio
import anyio.to_thread
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vitrine.errors import VitrineError
from vitrine.serve.errors import ApiError
from vitrine.serve.routes import caption, explain, features, figures, gallery, page
from vitrine.serve.schema import ERROR_RESPONSES
from vitrine.serve.security import SecurityMiddleware
from vitrine.serve.state import AppState
from vitrine.serve.worker import JobCancelled
from vitrine.version import __version__

_CLIENT_CLOSED_REQUEST = 499  # nginx's status for a client that has left; nobody reads it


def make_app(state: AppState) -> ASGIApp:
    """The whole server as an ASGI application."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        state.worker.start()
        try:
            yield
        finally:
            await anyio.to_thread.run_sync(state.worker.stop)

    app = FastAPI(
        title="vitrine",
        version=__version__,
        description="Look inside vision transformers: predictions, maps, verdicts, captions.",
        docs_url=None,  # FastAPI's own pages load their scripts from another machine
        redoc_url=None,
        lifespan=lifespan,
        responses=ERROR_RESPONSES,
    )
    app.state.app_state = state
    for routes in (page, explain, caption, features, figures, gallery):
        app.include_router(routes.router)
    app.add_exception_handler(ApiError, _answer_api_error)
    app.add_exception_handler(VitrineError, _answer_vitrine_error)
    app.add_exception_handler(RequestValidationError, _answer_invalid_value)
    app.add_exception_handler(HTTPException, _answer_http_error)
    app.add_exception_handler(JobCancelled, _answer_cancelled)
    app.add_exception_handler(Exception, _answer_server_error)
    counting_app = _RequestCounter(app, state.metrics.record_request)
    return _HeadAsGet(SecurityMiddleware(counting_app, state.settings.host, state.settings.token))


class _HeadAsGet:
    """Middleware that answers HEAD at every address like GET, without the body; FastAPI's routes refuse it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return

        async def send_without_body(message: Message) -> None:
            await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

        await self._app({**scope, "method": "GET"}, receive, send_without_body)


class _RequestCounter:
    """Middleware that reports the route, status and seconds of each request."""

    def __init__(self, app: ASGIApp, on_answer: Callable[[str, int, float], None]) -> None:
        self._app, self._on_answer = app, on_answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started_at, status = time.monotonic(), 500

        async def send_and_note_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, send_and_note_status)
        finally:
            route = scope.get("route")
            self._on_answer(getattr(route, "path", "none"), status, time.monotonic() - started_at)


async def _answer_api_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return error.response()


async def _answer_vitrine_error(_: Request, error: Exception) -> Response:
    """An error that a person can cause: the model or picture cannot give this answer."""
    return ApiError(422, " ".join(str(error).split()), "cannot").response()


async def _answer_invalid_value(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    name = ".".join(str(part) for part in first.get("loc", ())[1:]) or "the request"
    return ApiError(422, f"{name[:60]} cannot be used: {first.get('msg', 'it has another form')}.", "value").response()


async def _answer_http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    sentences = {404: "There is nothing at this address: see /api.", 405: "This address has other methods: see /api."}
    response = ApiError(error.status_code, sentences.get(error.status_code, str(error.detail)), "address").response()
    for name, value in (error.headers or {}).items():
        response.headers[name] = value
    return response


async def _answer_cancelled(_: Request, __: Exception) -> Response:
    return Response(status_code=_CLIENT_CLOSED_REQUEST)


async def _answer_server_error(_: Request, __: Exception) -> Response:
    """A mistake of the server's own; uvicorn logs it with its traceback."""
    return ApiError(500, "The server made a mistake; its terminal shows which.", "failed").response()
