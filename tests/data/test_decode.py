"""Decoding: every kind of picture comes out as promised, and nothing but PictureError comes out of bad bytes."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, features

from vitrine.data import decode as decoding
from vitrine.data.decode import (
    EXTENSIONS,
    FORMATS,
    TREATMENTS,
    BytesPicture,
    FilePicture,
    decode,
    describe,
    promised_format,
)
from vitrine.errors import PictureError

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # pytest drops the filter that decoding sets

RNG = np.random.default_rng(7)
COLOURS_HWC = RNG.integers(0, 256, (6, 9, 3), dtype=np.uint8)


def encode(image: Image.Image, format_name: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format_name, **options)
    return buffer.getvalue()


def pixels(data: bytes) -> np.ndarray:
    image = decode(data)
    assert image.mode == "RGB"
    return np.asarray(image)


def hand_made_png(width: int, height: int, depth: int, colour_type: int, rows: bytes) -> bytes:
    """A PNG written without Pillow, which cannot write every kind."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_plain_pictures_keep_their_pixels() -> None:
    image = Image.fromarray(COLOURS_HWC)
    for format_name in ("PNG", "BMP", "TIFF", "PPM"):
        assert (pixels(encode(image, format_name)) == COLOURS_HWC).all()
    assert (pixels(encode(image, "WEBP", lossless=True)) == COLOURS_HWC).all()
    jpeg = encode(image, "JPEG", quality=90)
    assert (pixels(jpeg) == np.asarray(Image.open(io.BytesIO(jpeg)))).all()


def test_animated_pictures_give_their_first_frame() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "green", "blue")]
    for format_name in ("GIF", "PNG", "WEBP", "TIFF"):
        options = {"lossless": True} if format_name == "WEBP" else {}
        data = encode(frames[0], format_name, save_all=True, append_images=frames[1:], **options)
        assert describe(data).frames == 3
        assert "animated" in describe(data).kinds
        assert (pixels(data) == (255, 0, 0)).all()


@pytest.mark.parametrize("format_name", ["PNG", "TIFF"])
def test_sixteen_bits_of_grey_are_scaled_over_their_range(format_name: str) -> None:
    levels_HW = np.array([[0, 128, 129, 257 * 100], [257 * 101 - 128, 40_000, 65_534, 65_535]], dtype=np.uint16)
    data = encode(Image.fromarray(levels_HW), format_name)
    grey_HW = pixels(data)[..., 0]
    assert grey_HW.tolist() == [[0, 0, 1, 100], [101, 156, 255, 255]]  # level / 257 to the nearest, by hand
    assert {"16-bit", "greyscale"} <= set(describe(data).kinds)
    assert describe(data).bits == 16


def test_sixteen_bits_of_colour_keep_their_upper_eight() -> None:
    row = struct.pack(">6H", 0x12FF, 0x8000, 0xFFFF, 0x0000, 0x7FFF, 0x0101)
    data = hand_made_png(2, 1, 16, 2, b"\0" + row)
    assert describe(data).kinds == ("16-bit",)
    assert pixels(data).tolist() == [[[0x12, 0x80, 0xFF], [0x00, 0x7F, 0x01]]]


def test_pixels_without_a_range_are_refused() -> None:
    for values in (np.ones((4, 4), np.float32), np.ones((4, 4), np.int32)):
        with pytest.raises(PictureError, match="no stated range"):
            decode(encode(Image.fromarray(values), "TIFF"))


def test_cmyk_is_converted() -> None:
    inks_HWC = RNG.integers(0, 256, (4, 4, 4), dtype=np.uint8)
    wanted_HWC = (255 - inks_HWC[..., :3].astype(float)) * (255 - inks_HWC[..., 3:].astype(float)) / 255
    data = encode(Image.fromarray(inks_HWC, "CMYK"), "TIFF")
    assert describe(data).kinds == ("CMYK",)
    assert np.abs(pixels(data) - wanted_HWC).max() <= 1
    # Adobe's JPEGs hold inverted inks; flat ink, because JPEG loses detail
    flat = encode(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=100)
    assert b"Adobe" in flat
    assert np.abs(pixels(flat).astype(int) - (255, 0, 0)).max() <= 4


def test_palette_alpha_and_greyscale() -> None:
    palette = Image.fromarray(np.array([[0, 1], [2, 1]], np.uint8), "P")
    palette.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    assert pixels(encode(palette)).tolist() == [[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [0, 255, 0]]]
    assert describe(encode(palette)).kinds == ("palette",)
    clear = encode(palette, "PNG", transparency=1)
    assert pixels(clear)[0, 1].tolist() == [255, 255, 255]
    assert describe(clear).kinds == ("palette", "alpha")

    layer = Image.fromarray(np.array([[[200, 100, 0, 51], [1, 2, 3, 255], [9, 9, 9, 0]]], np.uint8), "RGBA")
    expected = [[[244, 224, 204], [1, 2, 3], [255, 255, 255]]]  # 255 + (c - 255) * alpha / 255, by hand
    assert np.abs(pixels(encode(layer)).astype(int) - expected).max() <= 1
    assert describe(encode(layer)).kinds == ("alpha",)
    opaque_colour = encode(Image.new("RGB", (2, 2), "red"), "PNG", transparency=(255, 0, 0))
    assert (pixels(opaque_colour) == 255).all()

    for mode, value in (("L", 77), ("1", 1), ("LA", (77, 255))):
        data = encode(Image.new(mode, (3, 2), value))
        assert (pixels(data) == (255 if mode == "1" else 77)).all()
        assert "greyscale" in describe(data).kinds


def test_every_exif_orientation_is_turned_upright() -> None:
    upright_HWC = np.repeat(np.repeat(COLOURS_HWC, 8, 0), 8, 1)
    stored_pixels = {  # what a camera stores so that the orientation's transform gives the upright picture (EXIF 2.32)
        1: upright_HWC,
        2: upright_HWC[:, ::-1],
        3: upright_HWC[::-1, ::-1],
        4: upright_HWC[::-1],
        5: upright_HWC.transpose(1, 0, 2),
        6: np.rot90(upright_HWC, 1),
        7: upright_HWC[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright_HWC, -1),
    }
    for orientation, stored_HWC in stored_pixels.items():
        for format_name in ("PNG", "TIFF"):
            exif = Image.Exif()
            exif[0x0112] = orientation
            data = encode(Image.fromarray(np.ascontiguousarray(stored_HWC)), format_name, exif=exif)
            assert describe(data).orientation == orientation
            assert ("EXIF-rotated" in describe(data).kinds) == (orientation != 1)
            assert (pixels(data) == upright_HWC).all(), (orientation, format_name)


def test_a_turned_deep_grey_picture() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encode(Image.fromarray(np.full((2, 5), 65_535, np.uint16)), "PNG", exif=exif)
    assert pixels(data).shape == (5, 2, 3)
    assert (pixels(data) == 255).all()


def test_an_impossible_orientation_is_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 99
    assert describe(encode(Image.new("RGB", (4, 2)), "JPEG", exif=exif)).orientation == 1


def test_colour_profiles_are_ignored() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    data = encode(Image.fromarray(COLOURS_HWC), "PNG", icc_profile=profile)
    assert describe(data).kinds == ("colour profile",)
    assert (pixels(data) == COLOURS_HWC).all()


def test_several_jpegs_in_one_file_are_a_jpeg() -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    data = encode(frames[0], "MPO", save_all=True, append_images=frames[1:])
    assert describe(data).format == "JPEG"
    assert np.abs(pixels(data).astype(int) - (255, 0, 0)).max() <= 4


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow is built without AVIF")
def test_avif_is_read() -> None:
    data = encode(Image.new("RGB", (16, 16), "red"), "AVIF")
    assert describe(data).format == "AVIF"
    assert np.abs(pixels(data).astype(int) - (255, 0, 0)).max() <= 6


@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "TIFF", "WEBP", "BMP"])
def test_truncated_files_are_refused(format_name: str) -> None:
    data = encode(Image.fromarray(RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)), format_name)
    for length in (len(data) // 2, len(data) // 10, 3):
        with pytest.raises(PictureError) as error:
            decode(data[:length])
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"<html><body>404 Not Found</body></html>", "not a picture"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n", "not a picture"),
        (b"\0" * 100, "not a picture"),
    ],
)
def test_what_is_no_picture_is_refused(data: bytes, reason: str) -> None:
    for read in (decode, describe):
        with pytest.raises(PictureError, match=reason):
            read(data)


def test_decompression_bombs_are_refused_by_their_header() -> None:
    for side in (12_000, 60_000):  # 144 and 3,600 million pixels; below and above Pillow's own limit
        bomb = hand_made_png(side, side, 8, 2, b"")  # nothing to decode: only the header can be what is refused
        for read in (decode, describe):
            with pytest.raises(PictureError, match="too large"):
                read(bomb)
    small = encode(Image.new("RGB", (20, 20)))
    with pytest.raises(PictureError, match=r"20 × 20"):
        decode(small, max_pixels=399)
    assert decode(small, max_pixels=400).size == (20, 20)


def test_files_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PictureError, match="does not exist"):
        FilePicture(tmp_path / "absent.jpg").decode()
    with pytest.raises(PictureError, match="folder"):
        FilePicture(tmp_path).read_bytes()
    path = tmp_path / "a.png"
    path.write_bytes(encode(Image.fromarray(COLOURS_HWC)))
    assert FilePicture(path).read_bytes() == path.read_bytes()
    assert (np.asarray(FilePicture(path).decode()) == COLOURS_HWC).all()
    monkeypatch.setattr(decoding, "MAX_FILE_BYTES", 10)
    with pytest.raises(PictureError, match="10 is the limit"):
        FilePicture(path).read_bytes()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="permissions do not bind this user")
def test_no_permission(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"x")
    path.chmod(0)
    with pytest.raises(PictureError, match="permission"):
        FilePicture(path).decode()


def test_permission_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "a.png").write_bytes(b"x")
    monkeypatch.setattr("os.open", refuse)
    with pytest.raises(PictureError, match="no permission"):
        FilePicture(tmp_path / "a.png").decode()


def test_every_kind_has_a_treatment_and_every_extension_a_format() -> None:
    assert set(EXTENSIONS.values()) <= set(FORMATS)
    assert promised_format("a/b.JPG") == "JPEG"
    assert promised_format("b.txt") is None
    everything = decoding.PictureFacts("TIFF", "CMYK", 1, 1, 16, 2, 3, True, True)
    assert set(everything.kinds) | {"palette", "greyscale"} == set(TREATMENTS)


def small_files() -> list[bytes]:
    image = Image.fromarray(COLOURS_HWC)
    files = [encode(image, name) for name in ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM")]
    files.append(encode(image.convert("P"), "PNG"))
    files.append(encode(image, "TIFF", compression="tiff_lzw"))
    if features.check("jpg_2000"):
        files.append(encode(image, "JPEG2000"))
    exif = Image.Exif()
    exif[0x0112] = 6
    files.append(encode(image, "JPEG", exif=exif))
    return files


def survives(data: bytes) -> None:
    for read in (lambda: decode(data, max_pixels=1_000_000), lambda: describe(data, max_pixels=1_000_000)):
        try:
            result = read()
        except PictureError as error:
            assert str(error)
            assert "\n" not in str(error)
        else:
            assert not isinstance(result, Image.Image) or result.mode == "RGB"


@given(st.binary(max_size=400))
@settings(max_examples=150, deadline=None)
def test_any_bytes_decode_or_are_refused(data: bytes) -> None:
    survives(data)


@given(st.sampled_from(small_files()), st.data())
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_damaged_files_decode_or_are_refused(data: bytes, draw: st.DataObject) -> None:
    damaged_bytes = bytearray(data)
    for _ in range(draw.draw(st.integers(1, 6))):
        damaged_bytes[draw.draw(st.integers(0, len(damaged_bytes) - 1))] = draw.draw(st.integers(0, 255))
    survives(bytes(damaged_bytes[: draw.draw(st.integers(1, len(damaged_bytes)))]))
    survives(bytes(damaged_bytes))


def test_pictures_in_memory() -> None:
    picture = BytesPicture(encode(Image.fromarray(COLOURS_HWC)))
    assert picture.read_bytes() == picture.data
    assert (np.asarray(picture.decode()) == COLOURS_HWC).all()
