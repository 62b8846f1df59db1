"""Requests that are refused: from other pages, under other names, without the token; and headers of every answer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient
from support.serving import app_state_of, client_of, picture, record_runs

from vitrine.serve.security import COOKIE_PREFIX, SECURITY_HEADERS
from vitrine.serve.state import AppState

GOOD = picture(5)
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


@pytest.fixture(scope="module")
def state(small_run: Path) -> AppState:
    return app_state_of(small_run)


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
