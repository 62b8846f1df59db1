"""Decoding: a file's bytes become upright 8-bit RGB pixels, or an error that says in one line why they cannot.

What is done with each special kind of picture is listed in :data:`TREATMENTS`. Colour profiles (ICC) are
ignored: pixel values are used as they are stored, as in the training of published weights.
"""

from __future__ import annotations

import io
import warnings
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

from vitrine.errors import PictureError, error_summary
from vitrine.io.limits import limit
from vitrine.io.untrusted_files import read_file

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


MAX_PIXELS = limit("MAX_PIXELS", 100_000_000)
"""Width × height of a picture, by its header, before it is decoded; a pixel takes 4 bytes in Pillow's memory."""

MAX_FILE_BYTES = limit("MAX_FILE_BYTES", 512 << 20)
"""Bytes of a picture's file, of a COCO file and of others that are read whole."""

_ORIENTATION = 0x0112  # EXIF tag
_BITS_PER_SAMPLE = 258  # TIFF tag
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # EXIF 2.32, tag Orientation: what undoes each value
_SWAPPING = (5, 6, 7, 8)  # of them, those that make rows of columns
_SCALES = (2, 4, 8)  # of libjpeg's decoder; others exist, but Pillow passes these on

Image.init()  # registers every format once, here, rather than in the first of many threads

# Pillow warns from 89 million pixels on. Pictures above MAX_PIXELS are refused here, so the warning says nothing new.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
# Its other warnings (damaged EXIF data and the like) name no file, and the picture itself is fine or refused.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")


_FULL_SIZE = ("vitrine", "full size")  # no text, as the keys that files bring are


def with_full_size(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The image itself, marked as a reduced copy of a picture of this width and height."""
    image.info[_FULL_SIZE] = size  # type: ignore[index]
    return image


def full_size(image: Image.Image) -> tuple[int, int]:
    """Width and height of the picture that an image is a reduced copy of; of others its own."""
    size: tuple[int, int] = image.info.get(_FULL_SIZE, image.size)  # type: ignore[arg-type]
    return size


class EncodedPicture(ABC):
    """A picture that is decoded from bytes, so that its decoder may leave out what nobody will see."""

    @abstractmethod
    def read_bytes(self) -> bytes:
        """The file's bytes, unchanged.

        Raises:
            PictureError: they cannot be read.
        """

    def decode(self, short: int = 0) -> Image.Image:
        """Upright 8-bit RGB, perhaps reduced where ``short`` allows it; see :func:`decode`."""
        return decode(self.read_bytes(), short=short)


@dataclass(frozen=True)
class FilePicture(EncodedPicture):
    """A picture in a file."""

    path: Path

    def read_bytes(self) -> bytes:
        """The file's bytes.

        Raises:
            PictureError: it is absent, unreadable, not a file, or larger than :data:`MAX_FILE_BYTES`.
        """
        try:
            return read_file(self.path, MAX_FILE_BYTES)
        except (OSError, MemoryError) as error:
            raise PictureError(_reason(error)) from error


@dataclass(frozen=True)
class BytesPicture(EncodedPicture):
    """A picture in memory, encoded."""

    data: bytes

    def read_bytes(self) -> bytes:
        """The bytes themselves."""
        return self.data


@dataclass(frozen=True, eq=False)
class ImagePicture:
    """A picture in memory, as an image of Pillow's."""

    image: Image.Image

    def read_bytes(self) -> bytes:
        """A PNG of its upright pixels."""
        file = io.BytesIO()
        self.decode().save(file, "PNG")
        return file.getvalue()

    def decode(self) -> Image.Image:
        """Upright 8-bit RGB, as :func:`decode` makes it of a file.

        Raises:
            PictureError: it cannot be used, or has more than :data:`MAX_PIXELS`.
        """
        try:
            _require_size(self.image, MAX_PIXELS)
            return upright_rgb(self.image)
        except PictureError:
            raise
        except Exception as error:  # Pillow reads the rest of an opened file now
            raise PictureError(_reason(error)) from error


@dataclass(frozen=True)
class UnreadablePicture:
    """A picture of which nothing is left but the reason why it cannot be read."""

    reason: str

    def read_bytes(self) -> bytes:
        """Raises PictureError."""
        raise PictureError(self.reason)

    def decode(self) -> Image.Image:
        """Raises PictureError."""
        raise PictureError(self.reason)


def decode(data: bytes, *, max_pixels: int = MAX_PIXELS, short: int = 0) -> Image.Image:
    """Decode one picture.

    Args:
        data: the encoded file.
        short: of a JPEG, the least short side in pixels at which it may be decoded: its decoder leaves out high
            frequencies of its 8 × 8 blocks, so that the picture comes at a half, a quarter or an eighth of its size,
            in a fraction of the time; the image knows its :func:`full_size`. 0 decodes all of it.
        max_pixels: width × height above which the picture is refused by its header alone. Pillow's own limit of
            178,956,970 holds beside it.

    Returns:
        A Pillow image of mode "RGB", 8 bits a channel, upright.

    Raises:
        PictureError: empty, truncated, corrupt, too large or not a picture; the message is one line.
    """
    if not data:
        raise PictureError("the file is empty")
    # Parsers of foreign bytes raise far more than they document: OSError, ValueError, SyntaxError, struct.error,
    # zlib.error, EOFError, KeyError, MemoryError. One bad file must never stop a training, whatever it provokes.
    try:
        image = _open(data, max_pixels)
        width, height = image.size
        if short > 0 and isinstance(image, JpegImageFile):
            _reduce_in_decoder(image, short)
        upright = upright_rgb(image)
        if image.size == (width, height):
            return upright
        return with_full_size(upright, (height, width) if _orientation(image) in _SWAPPING else (width, height))
    except PictureError:
        raise
    except Exception as error:
        raise PictureError(_reason(error)) from error


def _reduce_in_decoder(image: JpegImageFile, short: int) -> None:
    """Have the rest of a JPEG decoded at the smallest scale at which its short side is at least ``short``."""
    scale = max((each for each in _SCALES if min(image.size) >= each * short), default=1)
    if scale > 1:
        image.draft(None, (image.width // scale, image.height // scale))


def upright_rgb(image: Image.Image) -> Image.Image:
    """An image of Pillow's as :func:`decode` gives it: upright, mode "RGB", 8 bits a channel.

    Raises:
        PictureError: 32-bit pixels, which have no stated range.
        Exception: whatever Pillow raises where the image's file is damaged.
    """
    image.load()
    turn = _TURNS.get(_orientation(image))  # after loading: Pillow turns TIFFs itself then, and drops the tag
    upright = _rgb(image)
    return upright if turn is None else upright.transpose(turn)


def describe(data: bytes, *, max_pixels: int = MAX_PIXELS, count_frames: bool = True) -> PictureFacts:
    """Read one picture's header.

    Args:
        data: the file.
        max_pixels: that it may have.
        count_frames: without it, 2 stands for more than one: to count those of a TIFF takes time that grows with the
            square of their number.

    Raises:
        PictureError: empty, too large or not a picture; the message is one line. A file that is truncated or
            corrupt after its header is found by :func:`decode` only.
    """
    if not data:
        raise PictureError("the file is empty")
    try:
        image = _open(data, max_pixels)
        return PictureFacts(
            format="JPEG" if image.format == "MPO" else str(image.format),
            mode=image.mode,
            width=image.width,
            height=image.height,
            bits=_bits(image, data),
            frames=_frames(image, count_frames),
            orientation=_orientation(image),
            has_alpha=image.has_transparency_data,
            has_profile="icc_profile" in image.info,
        )
    except PictureError:
        raise
    except Exception as error:  # see decode
        raise PictureError(_reason(error)) from error


def _frames(image: Image.Image, count: bool) -> int:
    if count:
        return int(getattr(image, "n_frames", 1))
    return 2 if getattr(image, "is_animated", False) else 1


def _open(data: bytes, max_pixels: int) -> Image.Image:
    image = Image.open(io.BytesIO(data), formats=FORMATS)
    _require_size(image, max_pixels)
    return image


def _require_size(image: Image.Image, max_pixels: int) -> None:
    pixels = image.width * image.height
    if pixels > max_pixels:
        raise PictureError(
            f"too large: {image.width} × {image.height} is {pixels / 1e6:.0f} million pixels; "
            f"the limit is {max_pixels / 1e6:.0f} million"
        )


def _orientation(image: Image.Image) -> int:
    orientation = image.getexif().get(_ORIENTATION, 1)
    return orientation if orientation in range(1, 9) else 1


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        return _from_deep_grey(image)
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")


def _from_deep_grey(image: Image.Image) -> Image.Image:
    """Greyscale of 9 to 16 bits to RGB, white to white. Pillow's own conversion clips at 255."""
    if image.mode == "F" or (image.mode == "I" and image.format not in ("PNG", "PPM", None)):
        raise PictureError("32-bit pixels have no stated range: convert the file to 8 or 16 bits")
    values_HW = np.asarray(image, dtype=np.float32)
    depth = _tiff_bits(image) or 16
    grey_HW = np.rint(values_HW * (255.0 / (2**depth - 1))).clip(0, 255).astype(np.uint8)
    return Image.fromarray(grey_HW).convert("RGB")


def _tiff_bits(image: Image.Image) -> int:
    tags = getattr(image, "tag_v2", None)
    return max(tags.get(_BITS_PER_SAMPLE, (8,))) if tags is not None else 0


def _bits(image: Image.Image, data: bytes) -> int:
    if image.format == "PNG":
        return data[24]  # IHDR: width and height of 4 bytes each from byte 16 on, then the bit depth
    depth = _tiff_bits(image)
    if depth:
        return depth
    return 16 if image.mode.startswith("I") else 8


def _reason(error: BaseException) -> str:
    """One line for a person: what is wrong with the file."""
    if isinstance(error, UnidentifiedImageError):
        return "not a picture of a known format, or its header is corrupt"
    if isinstance(error, Image.DecompressionBombError):
        return "too large: its header promises more pixels than Pillow's limit of 179 million"
    if isinstance(error, FileNotFoundError):
        return "the file does not exist"
    if isinstance(error, PermissionError):
        return "no permission to read the file"
    if isinstance(error, IsADirectoryError):
        return "it is a folder, not a file"
    if isinstance(error, MemoryError):
        return "not enough memory to read it"
    if "truncated" in str(error).lower():
        return "truncated: the file ends before its picture does"
    detail = error_summary(error, 120)
    return f"corrupt: {detail}"
