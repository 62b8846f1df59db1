"""The application: routes, refusals, limits, and the guard in front of them."""

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
from vitrine.serve.routes import caption, explain, figures, gallery, page
from vitrine.serve.schema import ERROR_RESPONSES
from vitrine.serve.security import SecurityMiddleware
from vitrine.serve.state import AppState
from vitrine.serve.worker import JobCancelled
from vitrine.version import __version__

_CLIENT_LEFT = 499  # nobody reads it; the name is nginx's


def make_app(state: AppState) -> ASGIApp:
    """Everything that is served, guarded."""

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
    for routes in (page, explain, caption, figures, gallery):
        app.include_router(routes.router)
    app.add_exception_handler(ApiError, _refused)
    app.add_exception_handler(VitrineError, _cannot)
    app.add_exception_handler(RequestValidationError, _wrong_value)
    app.add_exception_handler(HTTPException, _no_route)
    app.add_exception_handler(JobCancelled, _left)
    app.add_exception_handler(Exception, _failed)
    return SecurityMiddleware(_Counted(app, state.metrics.answered), state.settings.host, state.settings.token)


class _Counted:
    """Tells how long each request took and how it was answered."""

    def __init__(self, app: ASGIApp, answered: Callable[[str, int, float], None]) -> None:
        self._app, self._answered = app, answered

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.monotonic(), 500

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            route = scope.get("route")
            self._answered(getattr(route, "path", "none"), status, time.monotonic() - began)


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return error.response()


async def _cannot(_: Request, error: Exception) -> Response:
    """A model or a picture cannot give what was asked of it."""
    return ApiError(422, " ".join(str(error).split()), "cannot").response()


async def _wrong_value(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    place = ".".join(str(part) for part in first.get("loc", ())[1:]) or "the request"
    return ApiError(422, f"{place[:60]} cannot be used: {first.get('msg', 'it has another form')}.", "value").response()


async def _no_route(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    sentences = {404: "There is nothing at this address: see /api.", 405: "This address has other methods: see /api."}
    refusal = ApiError(error.status_code, sentences.get(error.status_code, str(error.detail)), "address").response()
    for name, value in (error.headers or {}).items():
        refusal.headers[name] = value
    return refusal


async def _left(_: Request, __: Exception) -> Response:
    return Response(status_code=_CLIENT_LEFT)


async def _failed(_: Request, __: Exception) -> Response:
    """A mistake of the server's own; uvicorn writes it down with its traceback."""
    return ApiError(
        500, "The server made a mistake; what it was stands where the server was started.", "failed"
    ).response()
