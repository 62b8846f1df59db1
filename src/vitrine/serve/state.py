"""The state of one server: its models with their pictures, cached encodings, the worker, and how requests wait."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar, cast

import anyio
import anyio.to_thread
from fastapi import Request

from vitrine.data.samples import Sample
from vitrine.serve.captioner import ServedCaptioner
from vitrine.serve.classifier import ServedClassifier
from vitrine.serve.errors import ApiError, gone_error, queue_full_error, timeout_error
from vitrine.serve.features import JointFit
from vitrine.serve.galleries import file_of
from vitrine.serve.lru_cache import ByteLRUCache
from vitrine.serve.metrics import ServerMetrics
from vitrine.serve.model import E, Encoding, ServedModel
from vitrine.serve.schema import PictureParams
from vitrine.serve.settings import MAX_ARRIVING_PERCENT, ServeSettings
from vitrine.serve.uploads import Thumbnail, Upload, UploadOptions, open_sample, open_upload, read_body, refuse_form
from vitrine.serve.views import PositionFindingsCache
from vitrine.serve.worker import Job, JobCancelled, ModelWorker

T = TypeVar("T")

_UNNAMED = "picture.jpg"
_MAX_DECODING = 2  # pictures at a time: one of 50 million pixels takes 150 MB and more
_FITS_BYTES = 8 << 20  # of the last joint fits: three vectors and some regions each
_MAX_VIEWING = 2  # views at a time, each on all the cores that torch has


@dataclass(frozen=True, eq=False)
class EncodedPicture(Generic[E]):
    """The picture of a request as a model encoded it.

    Attributes:
        encoding: from which views are made.
        name: what figures call the picture.
        argument: the picture as a command line takes it; None where it has no file of its own.
        upload: the picture itself; None if the encoding was found by its sha256.
    """

    encoding: E
    name: str
    argument: str | None
    upload: Upload | None


@dataclass(eq=False)
class AppState:
    """What the routes share.

    Attributes:
        models: by id.
        settings: limits.
        report: HTML page of a report on the served runs; None without.
        metrics: of this server.
    """

    models: dict[str, ServedModel[Any]]
    settings: ServeSettings
    report: str | None = None
    metrics: ServerMetrics = field(default_factory=ServerMetrics)

    def __post_init__(self) -> None:
        limits = self.settings
        self.encodings: ByteLRUCache[Encoding] = ByteLRUCache(limits.cache_bytes)
        self.thumbnails: ByteLRUCache[Thumbnail] = ByteLRUCache(limits.thumbnail_bytes)
        self.position_findings = PositionFindingsCache()
        self.joint_fits: ByteLRUCache[JointFit] = ByteLRUCache(_FITS_BYTES)
        self.worker = ModelWorker(
            limits.queue_capacity, limits.max_batch, limits.batch_seconds, self.metrics.record_batch
        )
        self.metrics.add_gauges(lambda: self.worker.queue_length, lambda: self.encodings.nbytes)
        self._uploads_in_progress = 0
        self._decode_limiter = anyio.CapacityLimiter(_MAX_DECODING)
        self._view_limiter = anyio.CapacityLimiter(_MAX_VIEWING)

    def model(self, model_id: str) -> ServedModel[Any]:
        """A model by its id.

        Raises:
            ApiError: there is none.
        """
        if model_id not in self.models:
            raise ApiError(404, f"There is no model {model_id!r}: see /api/models for their ids.", "unknown")
        return self.models[model_id]

    def classifier(self, model_id: str) -> ServedClassifier:
        """A classifier by its id.

        Raises:
            ApiError: there is none, or it is a captioner.
        """
        model = self.model(model_id)
        if not isinstance(model, ServedClassifier):
            raise ApiError(422, f"{model.reference} is a captioner, which has no classes: ask /api/caption.", "kind")
        return model

    def captioner(self, model_id: str) -> ServedCaptioner:
        """A captioner by its id.

        Raises:
            ApiError: there is none, or it is a classifier.
        """
        model = self.model(model_id)
        if not isinstance(model, ServedCaptioner):
            raise ApiError(422, f"{model.reference} is a classifier, which has no words: ask /api/predict.", "kind")
        return model

    async def receive_picture(
        self, request: Request, params: PictureParams, model: ServedModel[Any], *, keep_bytes: bool = False
    ) -> Upload:
        """Read and decode the picture of a request, its body or a sample, and prepare it for a model.

        Args:
            request: with the picture in its body, unless ``params`` names a sample.
            params: which sample, and what the picture is called.
            model: that gets the picture.
            keep_bytes: whether to keep the file's bytes in the result.

        Raises:
            ApiError: the picture cannot be used, there is no such sample, or too many are arriving.
        """
        require_one_picture(request, params)
        self.worker.require_capacity()
        if self._uploads_in_progress >= self.settings.queue_capacity:
            raise queue_full_error()
        self._uploads_in_progress += 1
        try:
            if params.sample is not None:
                return await self.read_sample(params.sample, params.model, model, params.name, keep_bytes=keep_bytes)
            name = params.name or _UNNAMED
            options = UploadOptions(model.prepare, name, keep_bytes, argument=name)
            return await self._receive_body(request, options)
        finally:
            self._uploads_in_progress -= 1

    async def read_sample(
        self,
        reference: str,
        model_id: str,
        model: ServedModel[Any],
        name: str | None = None,
        *,
        keep_bytes: bool = False,
    ) -> Upload:
        """Decode a picture that comes with a model, and prepare it for a model.

        Args:
            reference: the sample's id, of another model than ``model_id`` as MODEL/ID.
            model_id: whose sample it is.
            model: that gets the picture.
            name: what figures call it; None takes the sample's own.
            keep_bytes: whether to keep the file's bytes in the result.

        Raises:
            ApiError: there is no such sample, or it cannot be read.
        """
        sample, true = self._sample(model_id, reference)
        file = file_of(sample.picture)
        argument = None if file is None else str(file)
        options = UploadOptions(model.prepare, name or sample.name, keep_bytes, true, argument)
        return await self.run_decoding(lambda: open_sample(sample.picture, options))

    async def _receive_body(self, request: Request, options: UploadOptions) -> Upload:
        """Read and decode the picture in a request's body; its bytes count as memory until they are dropped."""
        limits, content_type = self.settings, request.headers.get("content-type", "")
        refuse_form(content_type)
        max_bytes = max(limits.upload_bytes, limits.cache_bytes * MAX_ARRIVING_PERCENT // 100)
        memory = self.encodings.reserve(max_bytes)
        try:
            data = await read_body(request, limits, memory.grow)
            upload = await self.run_decoding(lambda: open_upload(data, limits, content_type, options))
        except BaseException:
            memory.release()
            raise
        if upload.data:
            weakref.finalize(upload, memory.release)
        else:
            memory.release()
        return upload

    def _sample(self, model_id: str, reference: str) -> tuple[Sample, str | None]:
        """A sample of a model, or of another model, which the reference names as MODEL/ID; and its true label."""
        other_model, slash, picture_id = reference.rpartition("/")
        gallery = self.model(other_model if slash else model_id).gallery
        if picture_id not in gallery.samples:
            raise ApiError(
                404, f"There is no sample {reference!r}: see /api/models for those that there are.", "unknown"
            )
        return gallery.samples[picture_id], gallery.label(picture_id)

    async def encode_picture(
        self, request: Request, params: PictureParams, model: ServedModel[E], *, with_photo: bool = False
    ) -> EncodedPicture[E]:
        """Get the encoding of a request's picture, from the cache or by running the model.

        Args:
            request: with the picture in its body, unless ``params`` names one.
            params: which picture.
            model: that encodes it.
            with_photo: whether the photograph itself is needed, so that its sha256 is not enough.

        Raises:
            ApiError: the picture cannot be used, is no longer cached, or the model has no time.
        """
        require_one_picture(request, params)
        if params.picture is not None:
            encoding = self._cached_encoding(model, params.picture)
            if encoding is None or with_photo:
                raise gone_error()
            name = params.name or _UNNAMED
            return EncodedPicture(encoding, name, name, None)
        upload = await self.receive_picture(request, params, model, keep_bytes=with_photo)
        encoding = self._cached_encoding(model, upload.sha256)
        if encoding is None:

            def encode(job: Job) -> E:
                encoding = self._cached_encoding(model, upload.sha256)  # another request may have sent it meanwhile
                if encoding is None:
                    with model.stop_when_cancelled(job):
                        encoding = model.encode(upload.sha256, upload.size, upload.model_input)
                    self.keep_encoding(model, encoding)
                return encoding

            job = Job(encode, is_long=model.is_slow)
            encoding = cast(E, await self.run_job(request, job, self.seconds_of(model)))
        return EncodedPicture(encoding, upload.name, upload.argument, upload)

    def _cached_encoding(self, model: ServedModel[E], sha256: str) -> E | None:
        return cast("E | None", self.encodings.get((model.encoding_key, sha256)))

    def keep_encoding(self, model: ServedModel[E], encoding: E) -> None:
        """Keep an encoding for further views, or count its bytes anew after more was kept with it."""
        self.encodings.put((model.encoding_key, encoding.sha256), encoding)

    def seconds_of(self, model: ServedModel[Any]) -> float:
        """The limit of the time of one answer of a model."""
        return self.settings.check_seconds if model.is_slow else self.settings.request_seconds

    async def run_decoding(self, function: Callable[[], T]) -> T:
        """Run a function that decodes pictures in another thread, few at a time."""
        return await anyio.to_thread.run_sync(function, limiter=self._decode_limiter)

    async def run_view(self, function: Callable[[], T]) -> T:
        """Run a function that computes a view of an encoding in another thread, few at a time."""
        return await anyio.to_thread.run_sync(function, limiter=self._view_limiter)

    async def run_job(self, request: Request, job: Job, seconds: float | None = None) -> Any:
        """Queue a job and wait for its result; cancel it when the client leaves or the time is over.

        Args:
            request: whose client waits.
            job: to run.
            seconds: limit of the time; None takes the one of every request.

        Raises:
            ApiError: the queue is full, or the job took too long.
            JobCancelled: the client has left.
        """
        self.worker.submit(job)
        timeout = seconds or self.settings.request_seconds
        result = asyncio.wrap_future(job.future)
        # Looking at the exception keeps asyncio from logging it where nobody waits any more.
        result.add_done_callback(lambda future: future.cancelled() or future.exception())
        disconnect = asyncio.ensure_future(wait_for_disconnect(request))
        try:
            await asyncio.wait((result, disconnect), timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            if result.done():
                return result.result()
            if disconnect.done():
                raise JobCancelled
            raise timeout_error(timeout)
        finally:
            disconnect.cancel()
            if not result.done():
                job.cancel()


def require_one_picture(request: Request, params: PictureParams) -> None:
    """Refuse a request that names or sends several pictures, of which all but one would be ignored.

    Raises:
        ApiError: there are two of a body, ``sample`` and ``picture``.
    """
    has_body = request.headers.get("content-length", "0") != "0" or "transfer-encoding" in request.headers
    sources = {"?sample=": params.sample is not None, "?picture=": params.picture is not None, "a body": has_body}
    several = [name for name, is_there in sources.items() if is_there]
    if len(several) > 1:
        raise ApiError(422, f"The request has {' and '.join(several)}: give one picture.", "several")


async def wait_for_disconnect(request: Request) -> None:
    """Return when the client has left; the request's body must have been read before."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def get_state(request: Request) -> AppState:
    """The state of the server that answers a request."""
    state: AppState = request.app.state.app_state
    return state


def make_app_state(models: Sequence[ServedModel[Any]], settings: ServeSettings, report: str | None = None) -> AppState:
    """The state of a server of these models, with an HTML report on their runs."""
    return AppState({model.id: model for model in models}, settings, report)
