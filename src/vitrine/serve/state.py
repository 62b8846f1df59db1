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
from vitrine.serve.errors import ApiError, queue_full_error, timeout_error
from vitrine.serve.galleries import Gallery
from vitrine.serve.lru_cache import ByteLRUCache
from vitrine.serve.metrics import ServerMetrics
from vitrine.serve.schema import PictureParams
from vitrine.serve.settings import ServeSettings
from vitrine.serve.uploads import Receiving, Thumbnail, Upload, open_sample, open_upload, read_body
from vitrine.serve.views import PositionFindingsCache
from vitrine.serve.worker import Job, JobCancelled, ModelWorker

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
class AppState:
    """The state behind the routes.

    Attributes:
        models: by id.
        settings: limits.
        report: the page on the runs that are served; None without.
    """

    models: dict[str, ServedModel]
    settings: ServeSettings
    report: str | None = None
    metrics: ServerMetrics = field(default_factory=ServerMetrics)

    def __post_init__(self) -> None:
        chosen = self.settings
        self.encodings: ByteLRUCache[EncodedPicture | EncodedCaption] = ByteLRUCache(chosen.held_bytes)
        self.thumbnails: ByteLRUCache[Thumbnail] = ByteLRUCache(chosen.thumbnail_bytes)
        self.position_findings = PositionFindingsCache()
        self.worker = ModelWorker(chosen.queue, chosen.batch, chosen.batch_seconds, self.metrics.ran)
        self.metrics.watch(lambda: self.worker.queue_length, lambda: self.encodings.nbytes)
        self._arriving = 0
        self._decoding = anyio.CapacityLimiter(_DECODING)
        self._viewing = anyio.CapacityLimiter(_VIEWING)

    def model(self, number: str) -> ServedModel:
        """A model by its id.

        Raises:
            ApiError: there is none.
        """
        if number not in self.models:
            raise ApiError(404, f"There is no model {number!r}: see /api/models for their ids.", "unknown")
        return self.models[number]

    def classifier(self, number: str) -> ServedClassifier:
        """A classifier by its id.

        Raises:
            ApiError: there is none, or it is a captioner.
        """
        served = self.model(number).served
        if not isinstance(served, ServedClassifier):
            raise ApiError(422, f"{served.reference} is a captioner, which has no classes: ask /api/caption.", "kind")
        return served

    def captioner(self, number: str) -> ServedCaptioner:
        """A captioner by its id.

        Raises:
            ApiError: there is none, or it is a classifier.
        """
        served = self.model(number).served
        if not isinstance(served, ServedCaptioner):
            raise ApiError(422, f"{served.reference} is a classifier, which has no words: ask /api/predict.", "kind")
        return served

    async def upload(
        self, request: Request, params: PictureParams, served: Served, *, keep_bytes: bool = False
    ) -> Upload:
        """The picture of a request, its body or a sample, as a model sees it.

        Args:
            request: with the picture in its body.
            params: which sample, and what the picture is called.
            served: the model.
            keep_bytes: whether to keep its bytes in the result.

        Raises:
            ApiError: it cannot be used, there is no such sample, or too many are on their way.
        """
        self.worker.require_capacity()
        if self._arriving >= self.settings.queue:
            raise queue_full_error()
        self._arriving += 1
        try:
            if params.sample is not None:
                sample = self._sample(params.model, params.sample)
                receiving = Receiving(served.prepare, params.name or sample.name, keep_bytes)
                return await self.decoding(lambda: open_sample(sample.picture, receiving))
            data, said = await read_body(request, self.settings), request.headers.get("content-type", "")
            receiving = Receiving(served.prepare, params.name or _UNNAMED, keep_bytes)
            return await self.decoding(lambda: open_upload(data, self.settings, said, receiving))
        finally:
            self._arriving -= 1

    def _sample(self, model: str, reference: str) -> Sample:
        """A picture that comes with a model: of the model that is asked, or MODEL/ID of another one."""
        other, slash, number = reference.rpartition("/")
        samples = self.model(other if slash else model).gallery.samples
        if number not in samples:
            raise ApiError(
                404, f"There is no sample {reference!r}: see /api/models for those that there are.", "unknown"
            )
        return samples[number]

    async def classified(self, request: Request, params: PictureParams) -> tuple[EncodedPicture, str]:
        """A classifier's encoding of the request's picture; see :meth:`encoded`."""
        held, name, _ = await self.encoded(request, params, self.classifier(params.model))
        assert isinstance(held, EncodedPicture)
        return held, name

    async def encoded(
        self, request: Request, params: PictureParams, served: Served, *, with_photo: bool = False
    ) -> tuple[EncodedPicture | EncodedCaption, str, Upload | None]:
        """The encoding of a request's picture, from memory or by running the model, and the picture's name.

        Args:
            request: with the picture in its body, where it has any.
            params: which picture.
            served: by which model.
            with_photo: the photograph itself is needed, so that a hash is not enough.

        Raises:
            ApiError: the picture cannot be used, is no longer held, or the model has no time.
        """
        if params.picture is not None:
            held = self.encodings.get((served.id, params.picture))
            if held is None or with_photo:
                raise ApiError(404, "This picture is not held any more: send its bytes again.", "gone")
            return held, params.name or _UNNAMED, None
        upload = await self.upload(request, params, served, keep_bytes=with_photo)
        key = (served.id, upload.sha256)
        held = self.encodings.get(key)
        if held is None:

            def encode(_job: Job) -> EncodedPicture | EncodedCaption:
                held = self.encodings.get(key)  # another request may have sent the same picture meanwhile
                if held is None:
                    held = served.encode(upload.sha256, upload.size, upload.prepared)
                    self.encodings.put(key, held)
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
            ApiError: the queue is full, or it took too long.
            JobCancelled: the client has left.
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
                raise JobCancelled
            raise timeout_error(most)
        finally:
            left.cancel()
            if not answer.done():
                job.cancel()


async def client_left(request: Request) -> None:
    """Returns when the client has left; the body has been read before."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def make_app_state(models: Sequence[ServedModel], settings: ServeSettings, report: str | None = None) -> AppState:
    """The state of a server of these models, and of the page on their runs."""
    return AppState({model.served.id: model for model in models}, settings, report)
