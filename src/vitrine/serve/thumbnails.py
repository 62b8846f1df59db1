"""Small copies of pictures, and pictures made anew without what their files say beside the pixels."""

from __future__ import annotations

import io
from dataclasses import dataclass

from PIL import Image

from vitrine.data.samples import Sample
from vitrine.errors import PictureError
from vitrine.serve.refusals import Refusal

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
        Refusal: the picture cannot be read.
    """
    photo = _decoded(sample)
    photo.thumbnail((side, side), Image.Resampling.BICUBIC, reducing_gap=2.0)
    return Thumbnail(_encoded(photo, "WEBP", quality=80, method=2), "image/webp")


def photograph(sample: Sample) -> Thumbnail:
    """The picture upright: PNG where it is small, else JPEG.

    Raises:
        Refusal: the picture cannot be read.
    """
    photo = _decoded(sample)
    if photo.width * photo.height <= _EXACT:
        return Thumbnail(_encoded(photo, "PNG"), "image/png")
    photo.thumbnail((_MOST, _MOST), Image.Resampling.LANCZOS, reducing_gap=2.0)
    return Thumbnail(_encoded(photo, "JPEG", quality=92, subsampling=0), "image/jpeg")


def _decoded(sample: Sample) -> Image.Image:
    try:
        return sample.picture.decoded()
    except PictureError as error:
        raise Refusal(404, f"The picture cannot be read: {error}.", "unknown") from error


def _encoded(photo: Image.Image, kind: str, **how: object) -> bytes:
    written = io.BytesIO()
    bare = Image.new("RGB", photo.size)  # a picture that never had EXIF, profiles or comments
    bare.paste(photo)
    bare.save(written, kind, **how)
    return written.getvalue()
