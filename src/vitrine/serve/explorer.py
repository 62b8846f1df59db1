"""What one server holds: models with their pictures, encoded pictures, the worker, and how requests wait for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import anyio
import anyio.to_thread
from fastapi import Request

from vitrine.serve.classifiers import ServedClassifier
from vitrine.serve.counters import Counters
from vitrine.serve.encoded import EncodedPicture
from vitrine.serve.galleries import Gallery
from vitrine.serve.held import Held
from vitrine.serve.refusals import Refusal, timed_out
from vitrine.serve.schema import PictureQuery
from vitrine.serve.settings import ServeSettings
from vitrine.serve.uploads import Upload, open_upload, read_body
from vitrine.serve.worker import Cancelled, Job, ModelWorker

T = TypeVar("T")

_DECODING = 2  # pictures at a time: one of 50 million pixels takes 150 MB and more
_VIEWING = 2  # views at a time, each on all the cores that torch has


@dataclass(frozen=True)
class ServedModel:
    """A model with the pictures that come with it."""

    served: ServedClassifier
    gallery: Gallery


@dataclass(eq=False)
class Explorer:
    """The state behind the routes.

    Attributes:
        models: by id.
        settings: limits.
    """

    models: dict[str, ServedModel]
    settings: ServeSettings
    counters: Counters = field(default_factory=Counters)

    def __post_init__(self) -> None:
        chosen = self.settings
        self.held: Held[EncodedPicture] = Held(chosen.held_bytes)
        self.worker = ModelWorker(chosen.queue, chosen.batch, chosen.batch_seconds, self.counters.ran)
        self.counters.watch(lambda: self.worker.waiting, lambda: self.held.nbytes)
        self._decoding = anyio.CapacityLimiter(_DECODING)
        self._viewing = anyio.CapacityLimiter(_VIEWING)

    def model(self, number: str) -> ServedModel:
        """A model by its id.

        Raises:
            Refusal: there is none.
        """
        if number not in self.models:
            raise Refusal(404, f"There is no model {number!r}: see /api/models for their ids.", "unknown")
        return self.models[number]

    def classifier(self, number: str) -> ServedClassifier:
        """A classifier by its id.

        Raises:
            Refusal: there is none, or it is a captioner.
        """
        return self.model(number).served

    async def upload(self, request: Request, asked: PictureQuery) -> Upload:
        """The picture of a request: its body, or a sample.

        Raises:
            Refusal: it cannot be used, or there is no such sample.
        """
        if asked.sample is not None:
            samples = self.model(asked.model).gallery.samples
            if asked.sample not in samples:
                raise Refusal(404, f"There is no sample {asked.sample!r} of this model.", "unknown")
            sample = samples[asked.sample]
            return await self.decoding(
                lambda: open_upload(sample.picture.encoded(), self.settings, name=asked.name or sample.name)
            )
        data = await read_body(request, self.settings)
        said = request.headers.get("content-type", "")
        return await self.decoding(lambda: open_upload(data, self.settings, said, asked.name or "picture.jpg"))

    async def encoded(self, request: Request, asked: PictureQuery) -> tuple[EncodedPicture, str]:
        """The encoding of a request's picture, from memory or by running the model, and the picture's name.

        Raises:
            Refusal: the picture cannot be used, is no longer held, or the model has no time.
        """
        served = self.classifier(asked.model)
        if asked.picture is not None:
            held = self.held.get((served.id, asked.picture))
            if held is None:
                raise Refusal(404, "This picture is not held any more: send its bytes again.", "gone")
            return held, asked.name or "picture.jpg"
        self.worker.require_room()
        upload = await self.upload(request, asked)
        key = (served.id, upload.sha256)
        held = self.held.get(key)
        if held is not None:
            return held, upload.name
        square_CHW = await self.decoding(lambda: served.square(upload.photo))

        def encode(_job: Job) -> EncodedPicture:
            held = self.held.get(key)  # another request may have sent the same picture meanwhile
            if held is None:
                held = served.encode(upload.sha256, upload.photo.size, square_CHW)
                self.held.put(key, held)
            return held

        return await self.run(request, Job(encode)), upload.name

    async def decoding(self, work: Callable[[], T]) -> T:
        """Decode in another thread, few at a time."""
        return await anyio.to_thread.run_sync(work, limiter=self._decoding)

    async def viewing(self, work: Callable[[], T]) -> T:
        """Compute a view of what is held in another thread, few at a time."""
        return await anyio.to_thread.run_sync(work, limiter=self._viewing)

    async def run(self, request: Request, job: Job, seconds: float | None = None) -> Any:
        """Queue a job and wait for it, as long as the client does.

        Raises:
            Refusal: the queue is full, or it took too long.
            Cancelled: the client has left.
        """
        self.worker.submit(job)
        most = seconds or self.settings.request_seconds
        answer = asyncio.wrap_future(job.future)
        left = asyncio.ensure_future(_left(request))
        try:
            await asyncio.wait((answer, left), timeout=most, return_when=asyncio.FIRST_COMPLETED)
            if answer.done():
                return answer.result()
            if left.done():
                raise Cancelled
            raise timed_out(most)
        finally:
            left.cancel()
            if not answer.done():
                job.give_up()


async def _left(request: Request) -> None:
    """Returns when the client has left; the body has been read before."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def make_explorer(models: Sequence[ServedModel], settings: ServeSettings) -> Explorer:
    """The state of a server of these models."""
    return Explorer({model.served.id: model for model in models}, settings)
