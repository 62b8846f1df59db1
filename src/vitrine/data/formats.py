"""The picture formats that are read, their special kinds, and what is done with each kind."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM")
"""Formats that are read. A closed list: Pillow also knows formats that start other programs (EPS)."""

EXTENSIONS = {
    **dict.fromkeys((".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"), "JPEG"),
    **dict.fromkeys((".png", ".apng"), "PNG"),
    **dict.fromkeys((".tif", ".tiff"), "TIFF"),
    **dict.fromkeys((".jp2", ".j2k", ".jpx", ".j2c"), "JPEG2000"),
    **dict.fromkeys((".ppm", ".pgm", ".pbm", ".pnm"), "PPM"),
    ".webp": "WEBP",
    ".gif": "GIF",
    ".bmp": "BMP",
    ".avif": "AVIF",
}
"""File name extensions (lower case) of pictures, and the format each one promises."""

TREATMENTS = {
    "animated": "the first frame is used",
    "16-bit": "scaled to 8 bits over the full range of the file's bit depth",
    "CMYK": "converted to RGB without its colour profile",
    "palette": "colours looked up",
    "alpha": "laid on white",
    "greyscale": "repeated in all three channels",
    "EXIF-rotated": "turned upright",
    "colour profile": "ignored: pixel values are used as stored",
}
"""Every special kind of picture and what is done with it."""


@dataclass(frozen=True)
class PictureFacts:
    """What a file's header says, without decoding it.

    Attributes:
        format: Pillow's name; "JPEG" also for files that hold several JPEGs (MPO).
        mode: Pillow's pixel mode as stored ("RGB", "L", "P", "CMYK", "I;16" ...).
        width, height: pixels as stored, before turning upright.
        bits: bits a channel as stored; 8 where the format does not say otherwise.
        frames: pictures in the file; above 1 is an animation or several pages.
        orientation: EXIF orientation, 1 to 8; 1 is upright.
        has_alpha: whether some pixels may be transparent.
        has_profile: whether a colour profile is embedded.
    """

    format: str
    mode: str
    width: int
    height: int
    bits: int = 8
    frames: int = 1
    orientation: int = 1
    has_alpha: bool = False
    has_profile: bool = False

    @property
    def kinds(self) -> tuple[str, ...]:
        """Keys of :data:`TREATMENTS` that apply."""
        applies = {
            "animated": self.frames > 1,
            "16-bit": self.bits > 8,
            "CMYK": self.mode == "CMYK",
            "palette": self.mode in ("P", "PA"),
            "alpha": self.has_alpha,
            "greyscale": self.mode in ("1", "L", "LA", "La", "I", "F") or self.mode.startswith("I;16"),
            "EXIF-rotated": self.orientation != 1,
            "colour profile": self.has_profile,
        }
        return tuple(kind for kind, yes in applies.items() if yes)


def promised_format(name: str) -> str | None:
    """The format that a file name's extension promises; None where it is no picture's extension."""
    return EXTENSIONS.get(PurePosixPath(name).suffix.lower())
