"""The route to captions, whole or word by word as they are decoded: /api/caption."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import CancelledError
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel
from starlette.responses import Response, StreamingResponse

from vitrine.caption.decoding import parse_layers
from vitrine.errors import VitrineError
from vitrine.results import Progress, no_progress
from vitrine.serve.captioner import Decoding, OnWord
from vitrine.serve.errors import ApiError, timeout_error
from vitrine.serve.routes.explain import json_response
from vitrine.serve.schema import (
    PICTURE_BODY,
    CaptionChoice,
    CaptionParams,
    CaptionResult,
    ErrorBody,
    ReadingProgress,
    WordInfo,
)
from vitrine.serve.state import get_state, wait_for_disconnect
from vitrine.serve.worker import Job, JobCancelled

router = APIRouter(prefix="/api", tags=["caption"])

Part = WordInfo | ReadingProgress
"""What is sent before the whole caption."""

_STREAM: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/event-stream": {}}, "description": "The caption, or its words and then itself"}
}


def parse_decoding(params: CaptionChoice) -> Decoding:
    """How the caption is decoded; the prefix is text such as ``7,12``.

    Raises:
        ApiError: beam search was asked for with a prefix, which it does not take.
    """
    prefix = tuple(int(token_id) for token_id in params.prefix.split(",")) if params.prefix else ()
    if params.beams > 1 and prefix:
        raise ApiError(422, "A caption is continued by the likeliest words: leave beams out.")
    return Decoding(params.beams, prefix, params.max_pieces)


@router.post("/caption", response_model=CaptionResult, responses=_STREAM, openapi_extra=PICTURE_BODY)
async def caption(request: Request, params: Annotated[CaptionParams, Query()]) -> Response:
    """A caption, or an answer to a question, with a map for every word; with ``stream``, events ``word``, ``progress``
    while maps are made that need the whole answer, then ``done`` (or ``error``)."""
    state = get_state(request)
    captioner = state.captioner(params.model).asking(params.prompt, params.reading)
    decoding, layers = parse_decoding(params), parse_layers(params.layers)
    captioner.settings(decoding, layers)  # refuses layers where there are none, before the picture is read
    picture = await state.encode_picture(request, params, captioner)

    def decode(job: Job, on_word: OnWord, progress: Progress = no_progress) -> CaptionResult:
        result = captioner.caption(picture.encoding, decoding, layers, picture.argument, job, on_word, progress)
        state.keep_encoding(captioner, picture.encoding)
        return result

    seconds = state.seconds_of(captioner)
    if not params.stream:
        job = Job(lambda job: decode(job, lambda _word: None), is_long=captioner.is_slow)
        return json_response(await state.run_job(request, job, seconds))
    parts: asyncio.Queue[Part | None] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    def put_part(part: Part | None) -> None:
        loop.call_soon_threadsafe(parts.put_nowait, part)

    def put_progress(done: int, total: int) -> None:
        put_part(ReadingProgress(done=done, total=total))

    job = Job(lambda job: decode(job, put_part, put_progress), is_long=captioner.is_slow)
    job.future.add_done_callback(lambda _: put_part(None))
    state.worker.submit(job)
    events = _stream_events(request, job, parts, seconds)
    return StreamingResponse(events, media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})


async def _stream_events(
    request: Request, job: Job, parts: asyncio.Queue[Part | None], seconds: float
) -> AsyncIterator[str]:
    """Words as they come, then the whole caption; when the client leaves, the job is cancelled, even between words."""
    disconnect = asyncio.ensure_future(wait_for_disconnect(request))
    disconnect.add_done_callback(lambda _: job.cancel())
    deadline = asyncio.get_running_loop().time() + seconds
    try:
        while (part := await _next_part(parts, deadline)) is not None:  # no timeout spans a yield: readers may be slow
            yield _format_event("word" if isinstance(part, WordInfo) else "progress", part)
        yield _format_event("done", job.future.result())
    except TimeoutError:
        yield _format_event("error", _error_body(timeout_error(seconds)))
    except ApiError as error:
        yield _format_event("error", _error_body(error))
    except VitrineError as error:
        yield _format_event("error", ErrorBody(error=" ".join(str(error).split()), code="cannot"))
    except (CancelledError, JobCancelled):
        return  # nobody reads on
    finally:
        disconnect.cancel()  # which cancels the job, too


async def _next_part(parts: asyncio.Queue[Part | None], deadline: float) -> Part | None:
    async with asyncio.timeout_at(deadline):
        return await parts.get()


def _error_body(error: ApiError) -> ErrorBody:
    return ErrorBody(error=error.message, code=error.code)


def _format_event(name: str, body: BaseModel) -> str:
    return f"event: {name}\ndata: {body.model_dump_json()}\n\n"
