"""What one server holds: models with their pictures, encoded pictures, the worker, and how requests wait for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import anyio
import anyio.to_thread
from fastapi import Request

from vitrine.data.samples import Sample
from vitrine.serve.captioner import EncodedCaption, ServedCaptioner
from vitrine.serve.classifier import EncodedPicture, ServedClassifier
from vitrine.serve.errors import Refusal, busy, timed_out
from vitrine.serve.galleries import Gallery
from vitrine.serve.lru_cache import Held
from vitrine.serve.metrics import Counters
from vitrine.serve.schema import PictureQuery
from vitrine.serve.settings import ServeSettings
from vitrine.serve.uploads import Receiving, Thumbnail, Upload, open_sample, open_upload, read_body
from vitrine.serve.views import PlaceNumbers
from vitrine.serve.worker import Cancelled, Job, ModelWorker

T = TypeVar("T")
Served = ServedClassifier | ServedCaptioner

_UNNAMED = "picture.jpg"
_DECODING = 2  # pictures at a time: one of 50 million pixels takes 150 MB and more
_VIEWING = 2  # views at a time, each on all the cores that torch has


@dataclass(frozen=True)
class ServedModel:
    """A model with the pictures that come with it."""

    served: Served
    gallery: Gallery


@dataclass(eq=False)
class Explorer:
    """The state behind the routes.

    Attributes:
        models: by id.
        settings: limits.
        report: the page on the runs that are served; None without.
    """

    models: dict[str, ServedModel]
    settings: ServeSettings
    report: str | None = None
    counters: Counters = field(default_factory=Counters)

    def __post_init__(self) -> None:
        chosen = self.settings
        self.held: Held[EncodedPicture | EncodedCaption] = Held(chosen.held_bytes)
        self.thumbnails: Held[Thumbnail] = Held(chosen.thumbnail_bytes)
        self.places = PlaceNumbers()
        self.worker = ModelWorker(chosen.queue, chosen.batch, chosen.batch_seconds, self.counters.ran)
        self.counters.watch(lambda: self.worker.waiting, lambda: self.held.nbytes)
        self._arriving = 0
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
        served = self.model(number).served
        if not isinstance(served, ServedClassifier):
            raise Refusal(422, f"{served.reference} is a captioner, which has no classes: ask /api/caption.", "kind")
        return served

    def captioner(self, number: str) -> ServedCaptioner:
        """A captioner by its id.

        Raises:
            Refusal: there is none, or it is a classifier.
        """
        served = self.model(number).served
        if not isinstance(served, ServedCaptioner):
            raise Refusal(422, f"{served.reference} is a classifier, which has no words: ask /api/predict.", "kind")
        return served

    async def upload(self, request: Request, asked: PictureQuery, served: Served, *, keep: bool = False) -> Upload:
        """The picture of a request, its body or a sample, as a model sees it.

        Args:
            request: with the picture in its body.
            asked: which sample, and what the picture is called.
            served: the model.
            keep: keep its bytes.

        Raises:
            Refusal: it cannot be used, there is no such sample, or too many are on their way.
        """
        self.worker.require_room()
        if self._arriving >= self.settings.queue:
            raise busy()
        self._arriving += 1
        try:
            if asked.sample is not None:
                sample = self._sample(asked.model, asked.sample)
                receiving = Receiving(served.prepare, asked.name or sample.name, keep)
                return await self.decoding(lambda: open_sample(sample.picture, receiving))
            data, said = await read_body(request, self.settings), request.headers.get("content-type", "")
            receiving = Receiving(served.prepare, asked.name or _UNNAMED, keep)
            return await self.decoding(lambda: open_upload(data, self.settings, said, receiving))
        finally:
            self._arriving -= 1

    def _sample(self, model: str, asked: str) -> Sample:
        """A picture that comes with a model: of the model that is asked, or MODEL/ID of another one."""
        other, slash, number = asked.rpartition("/")
        samples = self.model(other if slash else model).gallery.samples
        if number not in samples:
            raise Refusal(404, f"There is no sample {asked!r}: see /api/models for those that there are.", "unknown")
        return samples[number]

    async def classified(self, request: Request, asked: PictureQuery) -> tuple[EncodedPicture, str]:
        """A classifier's encoding of the request's picture; see :meth:`encoded`."""
        held, name, _ = await self.encoded(request, asked, self.classifier(asked.model))
        assert isinstance(held, EncodedPicture)
        return held, name

    async def encoded(
        self, request: Request, asked: PictureQuery, served: Served, *, with_photo: bool = False
    ) -> tuple[EncodedPicture | EncodedCaption, str, Upload | None]:
        """The encoding of a request's picture, from memory or by running the model, and the picture's name.

        Args:
            request: with the picture in its body, where it has any.
            asked: which picture.
            served: by which model.
            with_photo: the photograph itself is needed, so that a hash is not enough.

        Raises:
            Refusal: the picture cannot be used, is no longer held, or the model has no time.
        """
        if asked.picture is not None:
            held = self.held.get((served.id, asked.picture))
            if held is None or with_photo:
                raise Refusal(404, "This picture is not held any more: send its bytes again.", "gone")
            return held, asked.name or _UNNAMED, None
        upload = await self.upload(request, asked, served, keep=with_photo)
        key = (served.id, upload.sha256)
        held = self.held.get(key)
        if held is None:

            def encode(_job: Job) -> EncodedPicture | EncodedCaption:
                held = self.held.get(key)  # another request may have sent the same picture meanwhile
                if held is None:
                    held = served.encode(upload.sha256, upload.size, upload.prepared)
                    self.held.put(key, held)
                return held

            held = await self.run(request, Job(encode))
        return held, upload.name, upload

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
        answer.add_done_callback(lambda done: done.cancelled() or done.exception())  # seen, also where nobody waits
        left = asyncio.ensure_future(client_left(request))
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


async def client_left(request: Request) -> None:
    """Returns when the client has left; the body has been read before."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def make_explorer(models: Sequence[ServedModel], settings: ServeSettings, report: str | None = None) -> Explorer:
    """The state of a server of these models, and of the page on their runs."""
    return Explorer({model.served.id: model for model in models}, settings, report)
