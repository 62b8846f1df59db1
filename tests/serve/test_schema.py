"""The OpenAPI description, driven: whatever fits it or does not, no answer is a failure of the server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance
from support.serving import app_state_of, picture, run_in_thread
from support.tiny_captioners import save_tiny

pytestmark = pytest.mark.filterwarnings("ignore:Glyph")  # names of pictures in letters that no font has
CHECKS = [not_a_server_error, content_type_conformance, response_schema_conformance]
NOTHING_TO_GET_WRONG = ("GET /api/models", "GET /healthz", "GET /metrics")
FEW = settings(max_examples=5, deadline=None, database=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def openapi(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("captioner")
    save_tiny("blip", folder)
    with run_in_thread(app_state_of(small_run, folder, upload_pixels=1_000_000)) as address:
        yield schemathesis.openapi.from_url(f"{address}/openapi.json")


def operations(openapi: Any) -> list[Any]:
    return [result.ok() for result in openapi.get_all_operations()]


def test_every_route_is_described(openapi: Any) -> None:
    labels = {operation.label for operation in operations(openapi)}
    posts = ("predict", "explain", "matrix", "verdict", "caption", "features", "similarity", "figure")
    gets = ("models", "positions", "validation", "thumbnail/{model}/{id}", "picture/{model}/{id}")
    assert labels == {
        *(f"POST /api/{name}" for name in posts), *(f"GET /api/{name}" for name in gets), "GET /healthz", "GET /metrics"
    }  # fmt: skip


@pytest.mark.parametrize("mode", list(schemathesis.GenerationMode), ids=lambda mode: mode.name.lower())
def test_nothing_fails(openapi: Any, mode: Any) -> None:
    for operation in operations(openapi):
        if mode is schemathesis.GenerationMode.NEGATIVE and operation.label in NOTHING_TO_GET_WRONG:
            continue

        @FEW
        @given(case=operation.as_strategy(generation_mode=mode))
        def drive(case: Any) -> None:
            case.validate_response(case.call(timeout=60), checks=CHECKS)

        drive()


def test_nothing_fails_with_a_picture(openapi: Any) -> None:
    ok_paths = set()
    for operation in operations(openapi):
        if operation.method.upper() != "POST":
            continue

        @FEW
        @given(case=operation.as_strategy())
        def drive(case: Any) -> None:
            case.query = {name: value for name, value in case.query.items() if name not in ("picture", "sample")}
            case.query["model"] = "1" if case.path == "/api/caption" else "0"
            case.body, case.media_type = picture(1), "application/octet-stream"
            response = case.call(timeout=60)
            case.validate_response(response, checks=CHECKS)
            if response.status_code == 200:
                ok_paths.add(case.path)

        drive()
    assert len(ok_paths) >= 4  # the picture did arrive
