"""A picture from a request: read up to a limit, recognised by its bytes, refused with a sentence where it will not do.

The server is stricter than the command line, which reads a folder that somebody has gathered and says what it did to
each file: here a person sees one picture, and what they see must be what the model got.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass

import torch
from fastapi import Request
from PIL import Image
from starlette.requests import ClientDisconnect

from vitrine.data.decode import PictureFacts, decode, describe
from vitrine.data.samples import Picture, Sample
from vitrine.errors import PictureError
from vitrine.serve.errors import ApiError
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
_TO_GIVE = "Give a JPEG, PNG, WebP, GIF, BMP, TIFF or AVIF picture."


@dataclass(frozen=True, eq=False)
class Upload:
    """A picture that was sent, or a sample, after it was decoded. The photograph itself is not kept.

    Attributes:
        sha256: of its bytes, as they came.
        size: width and height of the photograph, upright.
        prepared: what the model sees of it.
        name: what figures and commands call it.
        data: its bytes, where they are needed again; else empty.
    """

    sha256: str
    size: tuple[int, int]
    prepared: torch.Tensor
    name: str
    data: bytes = b""


@dataclass(frozen=True)
class Receiving:
    """What is made of a picture as soon as it is there.

    Attributes:
        prepare: from the photograph to what the model sees.
        name: what figures and commands call the picture.
        keep_bytes: whether its bytes are needed again.
    """

    prepare: Callable[[Image.Image], torch.Tensor]
    name: str
    keep_bytes: bool = False

    def of(self, data: bytes, photo: Image.Image) -> Upload:
        """From bytes and photograph."""
        sha256 = hashlib.sha256(data).hexdigest()
        return Upload(sha256, photo.size, self.prepare(photo), self.name, data if self.keep_bytes else b"")


async def read_body(request: Request, settings: ServeSettings) -> bytes:
    """The body of a request, never more than the limit of it.

    Raises:
        ApiError: it is longer than that, empty, or takes too long to come.
    """
    most = settings.upload_bytes
    said = request.headers.get("content-length", "")
    if said.isdecimal() and int(said) > most:
        raise _too_long(most)
    body = bytearray()
    try:
        async with asyncio.timeout(settings.upload_seconds):
            async for chunk in request.stream():
                body += chunk
                if len(body) > most:
                    raise _too_long(most)
    except TimeoutError:
        raise ApiError(408, f"The picture did not arrive within {settings.upload_seconds:g} s.", "slow") from None
    except ClientDisconnect:
        raise ApiError(400, "The connection was closed before the picture had arrived.", "closed") from None
    if not body:
        raise ApiError(400, f"The request has no picture in it: its body is empty. {_TO_GIVE}", "empty")
    return bytes(body)


def open_upload(data: bytes, settings: ServeSettings, content_type: str, receiving: Receiving) -> Upload:
    """Decode what was sent.

    Args:
        data: the bytes.
        settings: limits.
        content_type: what the request calls them; "" where it says nothing.
        receiving: what is made of it.

    Raises:
        ApiError: corrupt, truncated, too many pixels, animated, 16-bit, labelled as what it is not, or no picture.
    """
    try:
        facts = describe(data, max_pixels=settings.upload_pixels, count_frames=False)
        _require_usable(facts, content_type)
        photo = decode(data, max_pixels=settings.upload_pixels)
    except PictureError as error:
        raise _refused(str(error)) from error
    return receiving.of(data, photo)


def open_sample(picture: Picture, receiving: Receiving) -> Upload:
    """Decode a picture that comes with a model, by the rules that it was trained under.

    Raises:
        ApiError: it cannot be read any more.
    """
    try:
        return receiving.of(picture.read_bytes(), picture.decode())
    except PictureError as error:
        raise ApiError(404, f"The sample cannot be read: {error}.", "unknown") from error


def _require_usable(facts: PictureFacts, content_type: str) -> None:
    said = content_type.partition(";")[0].strip().lower()
    known = _TYPES.get(facts.format, ())
    if said.startswith("image/") and said not in known and said != "image/*":
        raise ApiError(
            415, f"The request says {said[:60]}, but this is a {facts.format} picture: label it as that.", "type"
        )
    if facts.frames > 1 and facts.format != "JPEG":  # phones put a depth map or a preview behind their one photograph
        raise ApiError(
            422, "The picture has several frames or pages: save the one that is meant by itself.", "animated"
        )
    if facts.bits > 8:
        raise ApiError(422, f"The picture has {facts.bits} bits a channel: save it with 8.", "deep")


def _refused(reason: str) -> ApiError:
    if reason.startswith("too large"):
        return ApiError(413, f"The picture is {reason}.", "large")
    if reason.startswith("not a picture"):
        return ApiError(415, f"This is {reason}. {_TO_GIVE}", "unknown")
    return ApiError(422, f"The picture cannot be used: {reason}.", "corrupt")


def _too_long(most: int) -> ApiError:
    return ApiError(413, f"The picture is longer than {most / 1e6:g} MB, which is the limit.", "long")


_EXACT = 256 * 256  # pixels up to which a picture is sent without loss
_MOST = 4096  # pixels a side of a photograph that is sent; no window shows more


@dataclass(frozen=True)
class Thumbnail:
    """An encoded picture."""

    data: bytes
    media_type: str

    @property
    def nbytes(self) -> int:
        """Bytes."""
        return len(self.data)


def thumbnail(sample: Sample, side: int) -> Thumbnail:
    """A copy of at most ``side`` pixels a side, as WebP.

    Raises:
        ApiError: the picture cannot be read.
    """
    photo = _decoded(sample)
    photo.thumbnail((side, side), Image.Resampling.BICUBIC, reducing_gap=2.0)
    return Thumbnail(_encoded(photo, "WEBP", quality=80, method=2), "image/webp")


def photograph(sample: Sample) -> Thumbnail:
    """The picture upright: PNG where it is small, else JPEG.

    Raises:
        ApiError: the picture cannot be read.
    """
    photo = _decoded(sample)
    if photo.width * photo.height <= _EXACT:
        return Thumbnail(_encoded(photo, "PNG"), "image/png")
    photo.thumbnail((_MOST, _MOST), Image.Resampling.LANCZOS, reducing_gap=2.0)
    return Thumbnail(_encoded(photo, "JPEG", quality=92, subsampling=0), "image/jpeg")


def _decoded(sample: Sample) -> Image.Image:
    try:
        return sample.picture.decode()
    except PictureError as error:
        raise ApiError(404, f"The picture cannot be read: {error}.", "unknown") from error


def _encoded(photo: Image.Image, kind: str, **how: object) -> bytes:
    written = io.BytesIO()
    bare = Image.new("RGB", photo.size)  # a picture that never had EXIF, profiles or comments
    bare.paste(photo)
    bare.save(written, kind, **how)
    return written.getvalue()
