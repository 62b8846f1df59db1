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
from vitrine.serve.errors import Refusal, timed_out
from vitrine.serve.routes.explain import sent
from vitrine.serve.schema import PICTURE_BODY, CaptionDone, CaptionedWord, CaptionQuery, ErrorBody
from vitrine.serve.state import Explorer, client_left
from vitrine.serve.worker import Cancelled, Job

router = APIRouter(prefix="/api", tags=["caption"])

_STREAM: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/event-stream": {}}, "description": "The caption, or its words and then itself"}
}


def prefix_ids(prefix: str | None) -> list[int]:
    """From ``7,12`` to numbers."""
    return [int(number) for number in prefix.split(",")] if prefix else []


@router.post("/caption", response_model=CaptionDone, responses=_STREAM, openapi_extra=PICTURE_BODY)
async def caption(request: Request, asked: Annotated[CaptionQuery, Query()]) -> Response:
    """A caption with a map for every word; with ``stream``, events ``word``, then ``done`` (or ``error``)."""
    explorer: Explorer = request.app.state.explorer
    served = explorer.captioner(asked.model)
    prefix = prefix_ids(asked.prefix)
    if asked.beams > 1 and prefix:
        raise Refusal(422, "A caption is continued by the likeliest words: leave beams out.")
    encoded, name, _ = await explorer.encoded(request, asked, served)
    assert isinstance(encoded, EncodedCaption)
    if not asked.stream:
        job = Job(lambda job: served.caption(encoded, asked.beams, prefix, name, job, lambda _word: None))
        return sent(await explorer.run(request, job))
    events: asyncio.Queue[CaptionedWord | None] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    def tell(word: CaptionedWord | None) -> None:
        loop.call_soon_threadsafe(events.put_nowait, word)

    job = Job(lambda job: served.caption(encoded, asked.beams, prefix, name, job, tell))
    job.future.add_done_callback(lambda _: tell(None))
    explorer.worker.submit(job)
    stream = _events(request, job, events, explorer.settings.request_seconds)
    return StreamingResponse(stream, media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})


async def _events(
    request: Request, job: Job, events: asyncio.Queue[CaptionedWord | None], seconds: float
) -> AsyncIterator[str]:
    """Words as they come, then the whole; where the client leaves, the work stops, even between words."""
    left = asyncio.ensure_future(client_left(request))
    left.add_done_callback(lambda _: job.give_up())
    deadline = asyncio.get_running_loop().time() + seconds
    try:
        while (word := await _next(events, deadline)) is not None:  # no limit spans a yield: the reader may be slow
            yield _event("word", word)
        yield _event("done", job.future.result())
    except TimeoutError:
        yield _event("error", _error(timed_out(seconds)))
    except Refusal as refusal:
        yield _event("error", _error(refusal))
    except VitrineError as error:
        yield _event("error", ErrorBody(error=" ".join(str(error).split()), code="cannot"))
    except (CancelledError, Cancelled):
        return  # nobody reads on
    finally:
        left.cancel()  # which gives the job up, too


async def _next(events: asyncio.Queue[CaptionedWord | None], deadline: float) -> CaptionedWord | None:
    async with asyncio.timeout_at(deadline):
        return await events.get()


def _error(refusal: Refusal) -> ErrorBody:
    return ErrorBody(error=refusal.sentence, code=refusal.code)


def _event(name: str, body: BaseModel | Any) -> str:
    return f"event: {name}\ndata: {body.model_dump_json()}\n\n"
