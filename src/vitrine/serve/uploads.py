"""A picture from a request: read up to a limit, its format told from its bytes, refused with a sentence if unusable.

The server is stricter than the command line, which reads a folder that somebody has gathered and says what it did to
each file: here a person sees one picture, and what they see must be what the model got.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fastapi import Request
from PIL import Image
from starlette.requests import ClientDisconnect

from vitrine.data.decode import PictureFacts, decode, describe
from vitrine.data.samples import Picture, Sample
from vitrine.errors import PictureError
from vitrine.serve.errors import ApiError, memory_full_error
from vitrine.serve.settings import ServeSettings

_TYPES = {
    "JPEG": ("image/jpeg", "image/jpg", "image/pjpeg"),
    "PNG": ("image/png", "image/apng", "image/vnd.mozilla.apng"),
    "WEBP": ("image/webp",),
    "GIF": ("image/gif",),
    "BMP": ("image/bmp", "image/x-ms-bmp", "image/x-bmp"),
    "TIFF": ("image/tiff",),
    "AVIF": ("image/avif",),
    "JPEG2000": ("image/jp2", "image/jpx", "image/jpm", "image/j2k"),
    "PPM": (
        "image/x-portable-pixmap",
        "image/x-portable-graymap",
        "image/x-portable-bitmap",
        "image/x-portable-anymap",
    ),
}
_ACCEPTED = "Give a JPEG, PNG, WebP, GIF, BMP, TIFF or AVIF picture."


@dataclass(frozen=True, eq=False)
class Upload:
    """A picture of a request, decoded and prepared for a model; the decoded photograph itself is dropped.

    Attributes:
        sha256: of the file's bytes.
        size: width and height of the photograph, upright.
        model_input: the photograph as the model's input.
        name: what figures and commands call it.
        data: the file's bytes, if they are needed again; else empty.
        true: the true label; None where it is not known.
        argument: the picture as a command line takes it; None where it has no file of its own.
    """

    sha256: str
    size: tuple[int, int]
    model_input: Any
    name: str
    data: bytes = b""
    true: str | None = None
    argument: str | None = None


@dataclass(frozen=True)
class UploadOptions:
    """How an :class:`Upload` is made from a picture.

    Attributes:
        prepare: turns the photograph into the model's input.
        name: what figures and commands call the picture.
        keep_bytes: whether the file's bytes are needed again.
        true: the true label; None where it is not known.
        argument: the picture as a command line takes it; None where it has no file of its own.
    """

    prepare: Callable[[Image.Image], Any]
    name: str
    keep_bytes: bool = False
    true: str | None = None
    argument: str | None = None

    def make_upload(self, data: bytes, photo: Image.Image) -> Upload:
        """From the file's bytes and the decoded photograph.

        Raises:
            ApiError: the model cannot take it: with its question it is longer than the model's context, for example.
        """
        sha256 = hashlib.sha256(data).hexdigest()
        content = data if self.keep_bytes else b""
        try:
            model_input = self.prepare(photo)
        except PictureError as error:
            raise ApiError(422, f"The picture cannot be used: {error}.", "cannot") from error
        return Upload(sha256, photo.size, model_input, self.name, content, self.true, self.argument)


def refuse_form(content_type: str) -> None:
    """Refuse a form, in which a picture lies between headers of its own.

    Raises:
        ApiError: the request is one, as ``curl -F`` sends it.
    """
    label = content_type.partition(";")[0].strip().lower()
    if label == "multipart/form-data":
        raise ApiError(
            415, "This is a form (curl -F). Send the picture's bytes alone: curl --data-binary @picture.jpg.", "form"
        )


async def read_body(request: Request, settings: ServeSettings, reserve: Callable[[int], bool]) -> bytes:
    """The body of a request, read only up to the limit.

    Args:
        request: whose body it is.
        settings: limits.
        reserve: called with the size of each part that arrives; says whether there is memory for it.

    Raises:
        ApiError: it is longer than the limit, empty, takes too long to arrive, or there is no memory for it.
    """
    limit = settings.upload_bytes
    content_length = request.headers.get("content-length", "")
    if content_length.isdecimal() and int(content_length) > limit:
        raise _too_long_error(limit)
    body = bytearray()
    try:
        async with asyncio.timeout(settings.upload_seconds):
            async for chunk in request.stream():
                if len(body) + len(chunk) > limit:
                    raise _too_long_error(limit)
                if not reserve(len(chunk)):
                    raise memory_full_error()
                body += chunk
    except TimeoutError:
        raise ApiError(408, f"The picture did not arrive within {settings.upload_seconds:g} s.", "slow") from None
    except ClientDisconnect:
        raise ApiError(400, "The connection was closed before the picture had arrived.", "closed") from None
    if not body:
        raise ApiError(400, f"The request has no picture in it: its body is empty. {_ACCEPTED}", "empty")
    return bytes(body)


def open_upload(data: bytes, settings: ServeSettings, content_type: str, options: UploadOptions) -> Upload:
    """Decode the picture in a request's body.

    Args:
        data: the picture's bytes.
        settings: limits.
        content_type: the request's Content-Type; "" without one.
        options: how the result is made.

    Raises:
        ApiError: corrupt, truncated, too many pixels, animated, 16-bit, labelled as what it is not, or no picture.
    """
    try:
        facts = describe(data, max_pixels=settings.upload_pixels, count_frames=False)
        _require_usable(facts, content_type)
        photo = decode(data, max_pixels=settings.upload_pixels)
    except PictureError as error:
        raise _unusable_error(str(error)) from error
    return options.make_upload(data, photo)


def open_sample(picture: Picture, options: UploadOptions) -> Upload:
    """Decode a picture that comes with a model, by the rules of training: 16-bit and animated files are allowed.

    Raises:
        ApiError: it cannot be read any more.
    """
    try:
        return options.make_upload(picture.read_bytes(), picture.decode())
    except PictureError as error:
        raise ApiError(404, f"The sample cannot be read: {error}.", "unknown") from error


def _require_usable(facts: PictureFacts, content_type: str) -> None:
    """Refuse a picture with a wrong label, several frames or more than 8 bits a channel."""
    label = content_type.partition(";")[0].strip().lower()
    if label.startswith("image/") and label not in (*_TYPES.get(facts.format, ()), "image/*"):
        raise ApiError(
            415, f"The request says {label[:60]}, but this is a {facts.format} picture: label it as that.", "type"
        )
    if facts.frames > 1 and facts.format != "JPEG":  # phones put a depth map or a preview behind their one photograph
        raise ApiError(
            422, "The picture has several frames or pages: save the one that is meant by itself.", "animated"
        )
    if facts.bits > 8:
        raise ApiError(422, f"The picture has {facts.bits} bits a channel: save it with 8.", "deep")


def _unusable_error(reason: str) -> ApiError:
    if reason.startswith("too large"):
        return ApiError(413, f"The picture is {reason}.", "large")
    if reason.startswith("not a picture"):
        return ApiError(415, f"This is {reason}. {_ACCEPTED}", "unknown")
    return ApiError(422, f"The picture cannot be used: {reason}.", "corrupt")


def _too_long_error(limit: int) -> ApiError:
    return ApiError(413, f"The picture is longer than {limit / 1e6:g} MB, which is the limit.", "long")


_MAX_LOSSLESS = 256 * 256  # pixels up to which a picture is sent as PNG
_MAX_SIDE = 4096  # pixels a side of a photograph that is sent; no window shows more


@dataclass(frozen=True)
class Thumbnail:
    """An encoded picture to send, small or whole."""

    data: bytes
    media_type: str

    @property
    def nbytes(self) -> int:
        """Bytes of the file."""
        return len(self.data)


def make_thumbnail(sample: Sample, side: int) -> Thumbnail:
    """A small copy of a sample, at most ``side`` pixels a side, as WebP.

    Raises:
        ApiError: the picture cannot be read.
    """
    photo = _decode_sample(sample)
    photo.thumbnail((side, side), Image.Resampling.BICUBIC, reducing_gap=2.0)
    return Thumbnail(_encode_photo(photo, "WEBP", quality=80, method=2), "image/webp")


def make_photograph(sample: Sample) -> Thumbnail:
    """A sample's picture upright and without metadata: PNG if it is small, else JPEG of at most 4096 pixels a side.

    Raises:
        ApiError: the picture cannot be read.
    """
    photo = _decode_sample(sample)
    if photo.width * photo.height <= _MAX_LOSSLESS:
        return Thumbnail(_encode_photo(photo, "PNG"), "image/png")
    photo.thumbnail((_MAX_SIDE, _MAX_SIDE), Image.Resampling.LANCZOS, reducing_gap=2.0)
    return Thumbnail(_encode_photo(photo, "JPEG", quality=92, subsampling=0), "image/jpeg")


def _decode_sample(sample: Sample) -> Image.Image:
    try:
        return sample.picture.decode()
    except PictureError as error:
        raise ApiError(404, f"The picture cannot be read: {error}.", "unknown") from error


def _encode_photo(photo: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    clean = Image.new("RGB", photo.size)  # a new picture has no EXIF, profiles or comments
    clean.paste(photo)
    clean.save(buffer, kind, **options)
    return buffer.getvalue()
