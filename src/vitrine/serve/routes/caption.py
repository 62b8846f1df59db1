"""Captions: whole, or word by word as they are decoded."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import CancelledError
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel
from starlette.responses import Response, StreamingResponse

from vitrine.errors import VitrineError
from vitrine.serve.captioner import EncodedCaption
from vitrine.serve.errors import ApiError, timeout_error
from vitrine.serve.routes.explain import json_response
from vitrine.serve.schema import PICTURE_BODY, CaptionParams, CaptionResult, ErrorBody, WordInfo
from vitrine.serve.state import AppState, client_left
from vitrine.serve.worker import Job, JobCancelled

router = APIRouter(prefix="/api", tags=["caption"])

_STREAM: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/event-stream": {}}, "description": "The caption, or its words and then itself"}
}


def prefix_ids(prefix: str | None) -> list[int]:
    """From ``7,12`` to numbers."""
    return [int(number) for number in prefix.split(",")] if prefix else []


@router.post("/caption", response_model=CaptionResult, responses=_STREAM, openapi_extra=PICTURE_BODY)
async def caption(request: Request, params: Annotated[CaptionParams, Query()]) -> Response:
    """A caption with a map for every word; with ``stream``, events ``word``, then ``done`` (or ``error``)."""
    state: AppState = request.app.state.app_state
    served = state.captioner(params.model)
    prefix = prefix_ids(params.prefix)
    if params.beams > 1 and prefix:
        raise ApiError(422, "A caption is continued by the likeliest words: leave beams out.")
    encoded, name, _ = await state.encoded(request, params, served)
    assert isinstance(encoded, EncodedCaption)
    if not params.stream:
        job = Job(lambda job: served.caption(encoded, params.beams, prefix, name, job, lambda _word: None))
        return json_response(await state.run(request, job))
    events: asyncio.Queue[WordInfo | None] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    def tell(word: WordInfo | None) -> None:
        loop.call_soon_threadsafe(events.put_nowait, word)

    job = Job(lambda job: served.caption(encoded, params.beams, prefix, name, job, tell))
    job.future.add_done_callback(lambda _: tell(None))
    state.worker.submit(job)
    stream = _events(request, job, events, state.settings.request_seconds)
    return StreamingResponse(stream, media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})


async def _events(
    request: Request, job: Job, events: asyncio.Queue[WordInfo | None], seconds: float
) -> AsyncIterator[str]:
    """Words as they come, then the whole; where the client leaves, the work stops, even between words."""
    left = asyncio.ensure_future(client_left(request))
    left.add_done_callback(lambda _: job.cancel())
    deadline = asyncio.get_running_loop().time() + seconds
    try:
        while (word := await _next(events, deadline)) is not None:  # no limit spans a yield: the reader may be slow
            yield _event("word", word)
        yield _event("done", job.future.result())
    except TimeoutError:
        yield _event("error", _error(timeout_error(seconds)))
    except ApiError as refusal:
        yield _event("error", _error(refusal))
    except VitrineError as error:
        yield _event("error", ErrorBody(error=" ".join(str(error).split()), code="cannot"))
    except (CancelledError, JobCancelled):
        return  # nobody reads on
    finally:
        left.cancel()  # which gives the job up, too


async def _next(events: asyncio.Queue[WordInfo | None], deadline: float) -> WordInfo | None:
    async with asyncio.timeout_at(deadline):
        return await events.get()


def _error(refusal: ApiError) -> ErrorBody:
    return ErrorBody(error=refusal.sentence, code=refusal.code)


def _event(name: str, body: BaseModel | Any) -> str:
    return f"event: {name}\ndata: {body.model_dump_json()}\n\n"
