"""The page, its files, and what watches the server."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response

from vitrine.report.page.html import policy
from vitrine.serve.files import INDEX, found, packaged_files
from vitrine.serve.guard import POLICY
from vitrine.serve.refusals import Refusal
from vitrine.serve.schema import Health

router = APIRouter()

_FILES = packaged_files()


@router.get("/", include_in_schema=False)
def index(request: Request) -> Response:
    """The page."""
    if INDEX not in _FILES:
        return PlainTextResponse("The explorer's API runs; see /api. Its page is not in this installation.\n")
    return found(_FILES, INDEX).response(request.headers.get("if-none-match"))


@router.get("/assets/{name:path}", include_in_schema=False)
def asset(name: Annotated[str, Path(max_length=200)], request: Request) -> Response:
    """A file of the page, from a table."""
    return found(_FILES, name).response(request.headers.get("if-none-match"))


@router.get("/report", include_in_schema=False)
def report(request: Request) -> Response:
    """The page on the runs that are served."""
    page: str | None = request.app.state.explorer.report
    if page is None:
        raise Refusal(404, "No report is served here: start with vitrine serve RUN ... --report.", "unknown")
    return HTMLResponse(page, headers={POLICY: f"{policy()}; frame-ancestors 'none'"})


@router.get("/healthz", response_model=Health, tags=["watching"])
def healthz() -> Health:
    """Whether the server answers."""
    return Health()


@router.get("/metrics", tags=["watching"], response_class=PlainTextResponse)
def metrics(request: Request) -> Response:
    """Prometheus metrics: requests, batches, the queue, and what is held."""
    response: Response = request.app.state.explorer.counters.response()
    return response
