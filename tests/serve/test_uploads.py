"""Uploads that are refused: damaged, huge and mislabelled ones."""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient
from support.serving import app_state_of, client_of, picture, record_runs

from vitrine.data.decode import _frames
from vitrine.serve.state import AppState

GOOD = picture(5)


@pytest.fixture(scope="module")
def state(small_run: Path) -> AppState:
    return app_state_of(small_run, upload_bytes=300_000, upload_pixels=200_000)


@pytest.fixture(scope="module")
def client(state: AppState) -> Iterator[TestClient]:
    with client_of(state) as client:
        yield client


@pytest.fixture
def model_did_not_run(state: AppState) -> Iterator[None]:
    """Fails if the model ran."""
    with record_runs(state) as runs:
        yield
    assert not runs


def png(width: int, height: int, depth: int = 8, colour: int = 2, rows: bytes = b"") -> bytes:
    """A PNG by hand: its header promises what it likes."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def frames(kind: str, **options: object) -> bytes:
    each = [Image.new("RGB", (20, 20), colour) for colour in ("red", "green", "blue")]
    return encode(each[0], kind, save_all=True, append_images=each[1:], **options)


def grey16(kind: str) -> bytes:
    return encode(Image.fromarray(np.arange(400, dtype=np.uint16).reshape(20, 20) * 100), kind)


def damaged_uploads() -> Iterator[tuple[str, bytes, int]]:
    """(what is wrong, bytes, status)."""
    for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"):
        whole = picture(1, (64, 48), kind)
        for percent in (1, 3, 5, 10, 20, 30, 50, 60, 75, 90):
            yield f"{kind} cut to {percent} %", whole[: max(3, len(whole) * percent // 100)], 0
        for seed in range(3):
            rng = np.random.default_rng(seed)
            yield f"{kind} with a random head {seed}", rng.bytes(64) + whole[64:], 0
        yield f"{kind} with a head of zeros", bytes(64) + whole[64:], 415
    for seed in range(60):
        rng = np.random.default_rng(100 + seed)
        yield f"random bytes {seed}", rng.bytes(int(rng.integers(1, 5000))), 415
    for width, height in ((100_000, 100_000), (2**31 - 1, 2**31 - 1), (1, 2**30), (600, 400), (0, 0), (0, 5)):
        yield f"PNG of {width} x {height}", png(width, height, rows=bytes(10)), 413 if width * height else 0
    yield "PGM of 60,000 x 60,000", b"P5 60000 60000 255\n" + bytes(100), 413
    yield (
        "BMP of 30,000 x 30,000",
        b"BM" + struct.pack("<IHHIIiiHHIIIIII", 154, 0, 0, 54, 40, 30000, 30000, 1, 24, *[0] * 6),
        413,
    )
    yield "GIF of 65,535 x 65,535", b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0, 0, 0) + bytes(40), 0
    yield "a bomb of zeros", png(1000, 1000, rows=bytes(3_001_000)), 413
    yield "nothing", b"", 400
    yield "more bytes than allowed", bytes(300_001), 413
    yield "a good picture with megabytes behind it", GOOD + bytes(400_000), 413
    for kind in ("GIF", "PNG", "WEBP", "TIFF"):
        yield f"animated {kind}", frames(kind), 422
    yield "16-bit PNG", grey16("PNG"), 422
    yield "16-bit TIFF", grey16("TIFF"), 422
    yield "16-bit PGM", grey16("PPM"), 422
    yield "16-bit colour PNG", png(4, 4, depth=16, rows=bytes(4 * (1 + 4 * 6))), 422
    yield "floating-point TIFF", encode(Image.fromarray(np.ones((8, 8), np.float32)), "TIFF"), 422
    texts = ("hello", "<html><script>alert(1)</script></html>", "<svg xmlns='http://www.w3.org/2000/svg'/>", "%PDF-1.7",
             "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "PK\x03\x04", "#!/bin/sh\n", "{}",
             "../../etc/passwd")  # fmt: skip
    for text in texts:
        yield f"text {text[:12]!r}", text.encode(), 415


TYPES = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp", "GIF": "image/gif", "BMP": "image/bmp"}


def mislabelled_uploads() -> Iterator[tuple[str, str, bytes]]:
    """(what is wrong, Content-Type, bytes)."""
    for kind in TYPES:
        for other, label in {**TYPES, "SVG": "image/svg+xml", "HEIC": "image/heic"}.items():
            if other != kind:
                yield f"{kind} as {label}", label, picture(2, kind=kind)


def test_two_hundred_malformed_uploads(client: TestClient, model_did_not_run: None) -> None:
    count = 0
    for what, content, status in damaged_uploads():
        count += 1
        path = ("/api/explain", "/api/predict", "/api/matrix", "/api/verdict", "/api/figure")[count % 5]
        response = client.post(path, content=content)
        assert 400 <= response.status_code < 500, (what, response.status_code, response.text)
        assert not status or response.status_code == status, (what, response.status_code, response.text)
        _is_a_sentence(response, what)
    for what, label, content in mislabelled_uploads():
        count += 1
        response = client.post("/api/explain", content=content, headers={"Content-Type": label})
        assert response.status_code == 415, (what, response.text)
        _is_a_sentence(response, what)
    assert count >= 200


def _is_a_sentence(response, what: str) -> None:  # type: ignore[no-untyped-def]
    body = response.json()
    assert set(body) == {"error", "code"}
    assert re.fullmatch(r"[A-Z].{10,}\.", body["error"]), (what, body)
    assert "/" not in body["error"].replace("image/", "").replace("/api", "")  # no path of the machine


def test_too_much_is_refused_before_it_is_read(client: TestClient, model_did_not_run: None) -> None:
    bytes_read = 0

    def endless() -> Iterator[bytes]:
        nonlocal bytes_read
        while bytes_read < 100_000_000:
            bytes_read += 65_536
            yield bytes(65_536)

    response = client.post("/api/predict", content=endless())  # chunked: no length is said
    assert response.status_code == 413
    response_to_length = client.post("/api/predict", content=b"x", headers={"Content-Length": "300001"})
    assert response_to_length.status_code == 413


def test_a_labelled_picture_gets_through(client: TestClient) -> None:
    for kind, label in TYPES.items():
        for content_type in (label, "application/octet-stream", ""):
            response = client.post(
                "/api/predict", content=picture(2, kind=kind), headers={"Content-Type": content_type}
            )
            assert response.status_code == 200, (kind, content_type, response.text)


def test_turned_by_exif_and_nothing_of_it_comes_back(client: TestClient) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a secret place"
    photo = Image.open(io.BytesIO(picture(4, (60, 40))))
    rotated_file = encode(photo, "PNG", exif=exif)
    upright = encode(photo.transpose(Image.Transpose.ROTATE_270), "PNG")
    one, other = (client.post("/api/explain", content=each) for each in (rotated_file, upright))
    assert one.json()["size"] == other.json()["size"] == [40, 60]
    assert one.json()["map"] == other.json()["map"]
    figure = client.post("/api/figure", content=rotated_file)
    assert b"a secret place" in rotated_file
    assert b"a secret place" not in figure.content + one.content


def test_pages_of_a_picture_are_not_counted() -> None:
    """A file may claim so many that counting them takes minutes."""

    class Counted(Image.Image):
        is_animated = True

        @property
        def n_frames(self) -> int:
            raise AssertionError("it was counted")

    assert _frames(Counted(), count=False) == 2
    assert _frames(Image.new("RGB", (1, 1)), count=False) == _frames(Image.new("RGB", (1, 1)), count=True) == 1


def test_a_form_is_refused_with_what_to_send_instead(client: TestClient) -> None:
    answer = client.post("/api/explain", files={"file": ("cat.png", picture(1), "image/png")})
    assert (answer.status_code, answer.json()["code"]) == (415, "form")
    assert "curl --data-binary @picture.jpg" in answer.json()["error"]
