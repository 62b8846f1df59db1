"""What does not get through: damaged, huge and mislabelled uploads, other pages, other names, no token."""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient
from support.serving import app_state_of, client_of, picture

from vitrine.data.decode import _frames
from vitrine.serve.security import COOKIE_PREFIX, SECURITY_HEADERS
from vitrine.serve.server import _address
from vitrine.serve.settings import ServeSettings
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
    """Fails where the model ran."""
    runs: list[int] = []
    handle = state.classifier("0").model.module.register_forward_hook(lambda *_: runs.append(1))
    yield
    handle.remove()
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
    rotated = encode(photo, "PNG", exif=exif)
    upright = encode(photo.transpose(Image.Transpose.ROTATE_270), "PNG")
    one, other = (client.post("/api/explain", content=each) for each in (rotated, upright))
    assert one.json()["size"] == other.json()["size"] == [40, 60]
    assert one.json()["map"] == other.json()["map"]
    figure = client.post("/api/figure", content=rotated)
    assert b"a secret place" in rotated
    assert b"a secret place" not in figure.content + one.content


PATHS = (
    "/",
    "/api/models",
    "/api/predict",
    "/api/explain",
    "/metrics",
    "/healthz",
    "/openapi.json",
    "/api/picture/0/v0",
)
ORIGINS = ("https://evil.example", "http://127.0.0.1:9000", "http://localhost:8000", "http://127.0.0.1", "null", "",
           "https://127.0.0.1:8000.evil.example", "http://127.0.0.1:8000@evil.example", "file://", "http://\xe9.example",
           "chrome-extension://abc", "http://[::1]:8000")  # fmt: skip
NAMES = ("evil.example", "evil.example:8000", "127.0.0.1.evil.example", "localhost.evil.example:8000", "10.0.0.1:8000",
         "0.0.0.0:8000", "", "127.0.0.1:8000:8000", "127.0.0.1:x", "[::1", "169.254.169.254", "user@127.0.0.1",
         "2130706433", "127.0.0.1, evil.example", "[fe80::1]:8000")  # fmt: skip


def send(client: TestClient, path: str, headers: dict[str, str]):  # type: ignore[no-untyped-def]
    method = "POST" if path in ("/api/predict", "/api/explain") else "GET"
    raw = {name: value.encode("latin-1") for name, value in headers.items()}
    return client.request(method, path, content=GOOD if method == "POST" else None, headers=raw)


def test_other_pages_do_not_get_through(client: TestClient, model_did_not_run: None) -> None:
    for path in PATHS:
        for origin in ORIGINS:
            response = send(client, path, {"Origin": origin})
            assert response.status_code == 403, (path, origin)
        for site in ("cross-site", "same-site", "cross-origin", "nonsense"):
            response = send(client, path, {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "no-cors"})
            assert response.status_code == 403, (path, site)
        frame = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"}
        assert send(client, path, frame).status_code == 403


def test_other_names_do_not_get_through(client: TestClient, model_did_not_run: None) -> None:
    for path in PATHS:
        for name in NAMES:
            assert send(client, path, {"Host": name}).status_code == 403, (path, name)


def test_its_own_page_and_a_link_to_it_get_through(client: TestClient) -> None:
    for host in ("127.0.0.1:8000", "localhost:8000", "[::1]:8000", "LOCALHOST:8000", "127.0.0.1"):
        for site in ({}, {"Origin": f"http://{host}"}, {"Sec-Fetch-Site": "same-origin"}, {"Sec-Fetch-Site": "none"}):
            assert send(client, "/api/predict", {"Host": host, **site}).status_code == 200, (host, site)
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    assert send(client, "/", link).status_code == 200
    assert send(client, "/api/models", link).status_code == 403


@pytest.mark.parametrize(
    "origin", ["http://[::1", "http://[abc]", "null", "//127.0.0.1:8000", "http://127.0.0.1:8000/x"]
)
def test_an_origin_that_is_none_is_refused_like_another(client: TestClient, origin: str) -> None:
    assert client.get("/api/models", headers={"Host": "127.0.0.1:8000", "Origin": origin}).status_code == 403


def test_pages_of_a_picture_are_not_counted() -> None:
    """A file may claim so many that counting them takes minutes."""

    class Counted(Image.Image):
        is_animated = True

        @property
        def n_frames(self) -> int:
            raise AssertionError("it was counted")

    assert _frames(Counted(), count=False) == 2
    assert _frames(Image.new("RGB", (1, 1)), count=False) == _frames(Image.new("RGB", (1, 1)), count=True) == 1


def test_the_printed_address_carries_any_token() -> None:
    for token in ("ab+cd/e==", "a&b", "a#b", "a%41", "ü ö"):
        address = urlsplit(_address(ServeSettings(token=token), 8000))
        assert parse_qsl(address.query, keep_blank_values=True) == [("token", token)] and not address.fragment


def test_a_server_for_others_knows_its_names(small_run: Path) -> None:
    with client_of(app_state_of(small_run, host="0.0.0.0")) as client:
        for name in ("192.168.1.5:8000", "localhost:8000", "[fe80::1]:8000"):  # an address in digits is nobody's name
            assert client.get("/healthz", headers={"Host": name}).status_code == 200, name
        assert client.get("/healthz", headers={"Host": "evil.example"}).status_code == 403
    with client_of(app_state_of(small_run, host="vit.lab")) as client:
        assert client.get("/healthz", headers={"Host": "vit.lab:8000"}).status_code == 200
        assert client.get("/healthz", headers={"Host": "evil.example"}).status_code == 403


def test_the_token(small_run: Path) -> None:
    with client_of(app_state_of(small_run, token="a secret ü")) as client:
        assert client.get("/healthz").status_code == 200
        for path in ("/api/models", "/metrics", "/openapi.json", "/api", "/assets/x.js"):
            for headers in (
                {},
                {"Authorization": "Bearer wrong"},
                {"Authorization": "Basic a"},
                {"Cookie": f"{COOKIE_PREFIX}-8000=zz"},
            ):
                assert client.get(path, headers=headers).status_code == 401, (path, headers)
        assert client.get("/").status_code == 401
        assert client.get("/?token=wrong").status_code == 401
        bearer = {"Authorization": "Bearer a secret ü".encode()}
        assert client.get("/api/models", headers=bearer).status_code == 200
        visit = client.get("/", params={"token": "a secret ü", "layer": "3"}, follow_redirects=False)
        assert (visit.status_code, visit.headers["location"]) == (303, "/?layer=3")
        assert "HttpOnly" in visit.headers["set-cookie"] and "SameSite=lax" in visit.headers["set-cookie"]
        assert client.get("/api/models").status_code == 200  # the client has kept the cookie
        cookie = visit.headers["set-cookie"].partition(";")[0]
        assert "secret" not in cookie and "a secret ü".encode().hex() not in cookie, "other servers here see cookies"
        for before in ('prefs={"a": 1}', "x=a b", "foo", "vitrine-9000=zz"):  # of other servers on this machine
            client.cookies.clear()
            assert client.get("/api/models", headers={"Cookie": f"{before}; {cookie}"}).status_code == 200, before
        assert client.get("/api/models", headers={"Origin": "https://evil.example"}).status_code == 403


def test_every_answer_is_closed_to_scripts_and_frames(client: TestClient) -> None:
    for method, path in (
        ("GET", "/"),
        ("GET", "/api/models"),
        ("GET", "/nothing"),
        ("POST", "/api/predict"),
        ("GET", "/api"),
    ):
        response = client.request(method, path)
        for name, value in SECURITY_HEADERS.items():
            assert response.headers[name] == value, (path, name)
        assert "unsafe" not in response.headers["Content-Security-Policy"]


def test_no_path_reaches_the_file_system(client: TestClient, small_run: Path) -> None:
    paths = ("../schema.py", "..%2f..%2fschema.py", "%2e%2e/schema.py", "/etc/passwd", "//etc/passwd", "..\\schema.py",
             f"{small_run}/model.safetensors", "index.html%00.png", ".", "", "page/../schema.py")  # fmt: skip
    for name in paths:
        response = client.get(f"/assets/{name}")
        assert response.status_code == 404, (name, response.text[:100])
        for path in (f"/api/thumbnail/0/{name}", f"/api/picture/{name}/v0", f"/api/picture/0/{name}"):
            assert client.get(path).status_code in (404, 422), path
        assert client.post("/api/predict", params={"sample": name}).status_code in (404, 422)
