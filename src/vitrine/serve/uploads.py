"""A picture from a request: read up to a limit, recognised by its bytes, refused with a sentence where it will not do.

The server is stricter than the command line, which reads a folder that somebody has gathered and says what it did to
each file: here a person sees one picture, and what they see must be what the model got.
"""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass

from fastapi import Request
from PIL import Image
from starlette.requests import ClientDisconnect

from vitrine.data.decoding import decode, describe
from vitrine.data.formats import PictureFacts
from vitrine.errors import PictureError
from vitrine.serve.refusals import Refusal
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
    """A picture that was sent, or a sample.

    Attributes:
        data: its bytes, as they came.
        sha256: of them.
        photo: decoded, mode RGB, upright.
        name: what figures and commands call it.
    """

    data: bytes
    sha256: str
    photo: Image.Image
    name: str = "picture"


async def read_body(request: Request, settings: ServeSettings) -> bytes:
    """The body of a request, never more than the limit of it.

    Raises:
        Refusal: it is longer than that, empty, or takes too long to come.
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
        raise Refusal(408, f"The picture did not arrive within {settings.upload_seconds:g} s.", "slow") from None
    except ClientDisconnect:
        raise Refusal(400, "The connection was closed before the picture had arrived.", "closed") from None
    if not body:
        raise Refusal(400, f"The request has no picture in it: its body is empty. {_TO_GIVE}", "empty")
    return bytes(body)


def open_upload(data: bytes, settings: ServeSettings, content_type: str = "", name: str = "picture") -> Upload:
    """Decode what was sent.

    Args:
        data: the bytes.
        settings: limits.
        content_type: what the request calls them; "" where it says nothing, or nothing in particular.
        name: what figures and commands call the picture.

    Raises:
        Refusal: corrupt, truncated, too many pixels, animated, 16-bit, labelled as what it is not, or no picture.
    """
    try:
        facts = describe(data, max_pixels=settings.upload_pixels)
        _require_usable(facts, content_type)
        photo = decode(data, max_pixels=settings.upload_pixels)
    except PictureError as error:
        raise _refused(str(error)) from error
    return Upload(data, hashlib.sha256(data).hexdigest(), photo, name)


def _require_usable(facts: PictureFacts, content_type: str) -> None:
    said = content_type.partition(";")[0].strip().lower()
    known = _TYPES.get(facts.format, ())
    if said.startswith("image/") and said not in known and said != "image/*":
        raise Refusal(
            415, f"The request says {said[:60]}, but this is a {facts.format} picture: label it as that.", "type"
        )
    if facts.frames > 1 and facts.format != "JPEG":  # phones put a depth map or a preview behind their one photograph
        raise Refusal(
            422, f"The picture has {facts.frames} frames or pages: save the one that is meant by itself.", "animated"
        )
    if facts.bits > 8:
        raise Refusal(422, f"The picture has {facts.bits} bits a channel: save it with 8.", "deep")


def _refused(reason: str) -> Refusal:
    if reason.startswith("too large"):
        return Refusal(413, f"The picture is {reason}.", "large")
    if reason.startswith("not a picture"):
        return Refusal(415, f"This is {reason}. {_TO_GIVE}", "unknown")
    return Refusal(422, f"The picture cannot be used: {reason}.", "corrupt")


def _too_long(most: int) -> Refusal:
    return Refusal(413, f"The picture is longer than {most / 1e6:g} MB, which is the limit.", "long")
