"""Picture files of every mode that vitrine reads, made here: transparent, deep, with palettes, turned, animated."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image

_WIDTH, _HEIGHT = 46, 31


def encode(image: Image.Image, format_name: str = "PNG", **options: object) -> bytes:
    """The file's bytes."""
    buffer = io.BytesIO()
    image.save(buffer, format_name, **options)
    return buffer.getvalue()


def make_png(width: int, height: int, depth: int, colour_type: int, rows: bytes, **chunks: bytes) -> bytes:
    """A PNG written without Pillow, which cannot write every kind; ``rows`` begin with a filter byte each."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    others = b"".join(chunk(kind.encode(), body) for kind, body in chunks.items())
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + others
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def make_twelve_bit_tiff(values_HW: np.ndarray) -> bytes:
    """A greyscale TIFF that states 12 bits a sample, two in three bytes; rows have an even number of samples."""
    height, width = values_HW.shape
    first, second = values_HW[:, ::2].astype(int), values_HW[:, 1::2].astype(int)
    packed = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], axis=-1).astype(np.uint8).tobytes()
    entries = [(256, width), (257, height), (258, 12), (259, 1), (262, 1), (273, 8), (277, 1), (278, height)]
    entries.append((279, len(packed)))
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", tag, 4, 1, v) for tag, v in entries)
    return b"II*\0" + struct.pack("<I", 8 + len(packed)) + packed + directory + bytes(4)


def make_deep_png(values: np.ndarray, colour_type: int, **chunks: bytes) -> bytes:
    """A PNG of 16 bits a channel from uint16 (rows, columns) or (rows, columns, channels)."""
    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values.reshape(height, -1))
    return make_png(width, height, 16, colour_type, rows, **chunks)


def _oriented(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def odd_pictures() -> dict[str, bytes]:
    """File names with their bytes: smooth colours with grain, each file in another mode."""
    rng = np.random.default_rng(5)
    coarse = Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8))
    colour = coarse.resize((_WIDTH, _HEIGHT), Image.Resampling.BICUBIC)
    alpha = Image.fromarray(rng.integers(0, 256, (3, 3), dtype=np.uint8)).resize(colour.size, Image.Resampling.BICUBIC)
    layer, grey = colour.copy(), colour.convert("L")
    layer.putalpha(alpha)
    grey_layer = grey.copy()
    grey_layer.putalpha(alpha)
    deep_HW = np.asarray(grey).astype(np.uint16) * 257 + rng.integers(0, 200, (_HEIGHT, _WIDTH)).astype(np.uint16)
    deep = Image.fromarray(deep_HW)
    deep_HWC = np.asarray(colour).astype(np.uint16) * 256 + 77
    palette = colour.quantize(16)
    turned_colour = colour.transpose(Image.Transpose.ROTATE_90)
    return {
        "rgb.jpg": encode(colour, "JPEG", quality=95),
        "turned 6.jpg": encode(colour, "JPEG", exif=_oriented(6)),
        "turned 5.png": encode(turned_colour, exif=_oriented(5)),
        "several.jpg": encode(colour, "MPO", save_all=True, append_images=[turned_colour]),
        "one bit.png": encode(colour.convert("1")),
        "grey.png": encode(grey),
        "grey, 4 bits.png": make_png(8, 4, 4, 0, b"\0\x01\x23\x45\x67" * 2 + b"\0\xfe\xdc\xba\x98" * 2),
        "grey and alpha.png": encode(grey_layer),
        "grey, one value clear.png": encode(grey, transparency=int(np.asarray(grey)[5, 5])),
        "palette.png": encode(palette),
        "palette, one colour clear.png": encode(palette, transparency=3),
        "palette, some alpha.png": encode(palette, transparency=bytes(range(0, 256, 17))),
        "palette.gif": encode(palette, "GIF"),
        "palette, one colour clear.gif": encode(palette, "GIF", transparency=3),
        "animated, clear.gif": encode(palette, "GIF", save_all=True, append_images=[palette], transparency=2),
        "rgb, one colour clear.png": encode(colour, transparency=colour.getpixel((9, 9))),
        "rgba.png": encode(layer),
        "rgba, turned 8.png": encode(layer, exif=_oriented(8)),
        "rgba.webp": encode(layer, "WEBP", lossless=True),
        "rgba.tif": encode(layer, "TIFF"),
        "rgba, turned 5.tif": encode(layer, "TIFF", exif=_oriented(5)),
        "rgba, 16 bits.png": make_deep_png(np.dstack([deep_HWC, np.asarray(alpha).astype(np.uint16) * 257]), 6),
        "cmyk.jpg": encode(colour.convert("CMYK"), "JPEG", quality=95),
        "cmyk.tif": encode(colour.convert("CMYK"), "TIFF"),
        "ycbcr.tif": encode(colour.convert("YCbCr"), "TIFF"),
        "rgb, 16 bits.png": make_deep_png(deep_HWC, 2),
        "grey, 16 bits.png": encode(deep),
        "grey, 16 bits, turned 3.png": encode(deep, exif=_oriented(3)),
        "grey, 16 bits, one value clear.png": make_deep_png(deep_HW, 0, tRNS=struct.pack(">H", int(deep_HW[4, 4]))),
        "grey and alpha, 16 bits.png": make_deep_png(np.dstack([deep_HW, deep_HW[::-1]]), 4),
        "grey, 16 bits.tif": encode(deep, "TIFF"),
        "grey, 16 bits, turned 7.tif": encode(deep, "TIFF", exif=_oriented(7)),
        "grey, 12 bits.tif": make_twelve_bit_tiff(deep_HW >> 4),
        "grey, 16 bits.pgm": f"P5 {_WIDTH} {_HEIGHT} 65535\n".encode() + deep_HW.astype(">u2").tobytes(),
        "grey, 12 bits.pgm": f"P5 {_WIDTH} {_HEIGHT} 4095\n".encode() + (deep_HW >> 4).astype(">u2").tobytes(),
    }
