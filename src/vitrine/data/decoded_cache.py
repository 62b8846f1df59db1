"""A cache of decoded training pictures, in the cache folder, as the bytes that Pillow works on.

A file holds one picture, named after the sha256 of its encoded bytes, in a folder for the short side that large
pictures were reduced to. It is written whole or not at all, by whichever process comes first; what cannot be read, or
was damaged, is decoded again. What training sees never depends on what was there: a picture that has to be decoded now
is reduced alike.
"""

from __future__ import annotations

import hashlib
import math
import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from vitrine.data.decode import decode, with_full_size
from vitrine.data.samples import Picture
from vitrine.io.file_names import temporary_path
from vitrine.io.files import remove_unfinished as remove_unfinished_files
from vitrine.io.hub_cache import DECODED, cache_folder

_MAGIC = b"VITRDEC1"
_FACTS = struct.Struct("<IIII")  # width, height, and those of the picture before it was reduced
_CHECK = struct.Struct("<I")  # crc32 of facts and pixels
_HEADER = len(_MAGIC) + _FACTS.size + _CHECK.size
_CHANNELS = 4  # red, green, blue and one that is not used: Pillow's own layout, so that nothing is copied
_MAX_REDUCED_SCALE = math.sqrt(0.5)  # pictures are reduced where that leaves half of their pixels or fewer

_verified_paths: set[str] = set()  # files whose bytes this process has added up


def reduced_size(width: int, height: int, short: int) -> tuple[int, int]:
    """Width and height of a picture in the cache: its own, unless reducing it leaves half of its pixels or fewer."""
    scale = short / min(width, height)
    if scale > _MAX_REDUCED_SCALE:
        return width, height
    return max(short, round(width * scale)), max(short, round(height * scale))


def bytes_for(sizes: Iterable[tuple[int, int]], short: int) -> int:
    """Bytes that pictures of these sizes take in the cache."""
    reduced_sizes = (reduced_size(*size, short) for size in sizes)
    return sum(_HEADER + width * height * _CHANNELS for width, height in reduced_sizes)


def folder_for(short: int) -> Path:
    """The folder of pictures that are reduced to one short side."""
    return cache_folder().absolute() / DECODED / f"{short}px"


def remove_unfinished(folder: Path) -> None:
    """Remove what writers that were killed left, and leave what others are writing now."""
    remove_unfinished_files(*folder.glob("*"))


@dataclass(frozen=True)
class DecodedPicture:
    """A picture that is decoded once and read from the cache afterwards.

    Attributes:
        picture: the picture itself.
        sha256: of its bytes, when the training began.
        folder: see :func:`folder_for`.
        short: the short side that it is reduced to.
    """

    picture: Picture
    sha256: str
    folder: Path
    short: int

    @property
    def path(self) -> Path:
        """The file that keeps it."""
        return self.folder / self.sha256[:2] / f"{self.sha256}.rgbx"

    def read_bytes(self) -> bytes:
        """The picture's own bytes."""
        return self.picture.read_bytes()

    def decode(self) -> Image.Image:
        """Upright, 8 bits a channel, mode "RGBX", perhaps reduced: see :func:`vitrine.data.decode.full_size`.

        Raises:
            PictureError: it is not kept yet and cannot be read.
        """
        cached_image = _read(self.path)
        if cached_image is not None:
            return cached_image
        data = self.picture.read_bytes()
        image = decode(data)
        full, size = image.size, reduced_size(*image.size, self.short)
        if size != full:
            image = image.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
        content = _content(image.convert("RGBX"), full)
        if hashlib.sha256(data).hexdigest() == self.sha256:  # else it has changed since: that is another picture
            _write(self.path, content)
        return _image(memoryview(content))


def _content(image: Image.Image, full: tuple[int, int]) -> bytes:
    facts, pixels = _FACTS.pack(*image.size, *full), image.tobytes()
    return b"".join((_MAGIC, facts, _CHECK.pack(zlib.crc32(pixels, zlib.crc32(facts))), pixels))


def _image(content: memoryview) -> Image.Image:
    """The picture in a file's bytes, which it goes on using."""
    width, height, *full = _FACTS.unpack_from(content, len(_MAGIC))
    pixels: Any = content[_HEADER:]  # Pillow takes any buffer, whatever its types say
    image = Image.frombuffer("RGBX", (width, height), pixels, "raw", "RGBX", 0, 1)
    return with_full_size(image, (full[0], full[1]))


def _read(path: Path) -> Image.Image | None:
    """The picture that a file keeps; None where there is none, or it is damaged."""
    try:
        content = memoryview(
            path.read_bytes()
        )  # faster than mapping it: the warp reads across, and finds it in the cache
    except OSError:
        return None
    if not _is_whole(content):
        return None
    if str(path) not in _verified_paths:
        facts, pixels = content[len(_MAGIC) :][: _FACTS.size], content[_HEADER:]
        if zlib.crc32(pixels, zlib.crc32(facts)) != _CHECK.unpack_from(content, _HEADER - _CHECK.size)[0]:
            return None
        _verified_paths.add(str(path))
    return _image(content)


def _is_whole(content: memoryview) -> bool:
    if len(content) < _HEADER or content[: len(_MAGIC)] != _MAGIC:
        return False
    width, height, *_ = _FACTS.unpack_from(content, len(_MAGIC))
    return bool(width and height and len(content) == _HEADER + width * height * _CHANNELS)


def _write(path: Path, content: bytes) -> None:
    """Put a file in its place in one step; where that cannot be, as on a full disk, there is none."""
    temporary = temporary_path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError:
        try:
            temporary.unlink(missing_ok=True)
        except OSError:
            return
