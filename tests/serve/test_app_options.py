"""Every parameter of the explorer's requests acts or is refused: pairs of method and option, figure and parameter."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient
from support.method_options import VALUES, pairs
from support.serving import app_state_of, client_of, picture

from vitrine.attribution.method_options import METHOD_OPTIONS
from vitrine.attribution.registry import METHODS
from vitrine.serve.schema import FigureParams, ViewParams

SENT = picture(3)
NAMES = {"heads": "head"}
TEXTS = {name: str(value) for name, value in VALUES.items()} | {"query": "1,2"}


@pytest.fixture(scope="module")
def client(small_run: Path) -> Iterator[TestClient]:
    with client_of(app_state_of(small_run)) as client:
        yield client


def plain(client: TestClient, method: str) -> dict:
    return client.post("/api/explain", params={"method": method}, content=SENT).json()


@pytest.mark.parametrize(("method", "option"), [pair for pair in pairs() if pair[1] != "matrix"])
def test_a_parameter_acts_or_is_refused(client: TestClient, method: str, option: str) -> None:
    name = NAMES.get(option, option)
    params = {"method": method, name: TEXTS[option]}
    response = client.post("/api/explain", params=params, content=SENT)
    if option in METHOD_OPTIONS[method]:
        assert response.status_code == 200, response.text
        assert response.json()["map"] != plain(client, method)["map"]
    else:
        assert response.status_code == 422
        assert f"{name} is an option of" in response.json()["error"]
        for other in ("verdict", "figure"):
            assert client.post(f"/api/{other}", params=params, content=SENT).json() == response.json()


def test_the_table_reaches_the_page(client: TestClient) -> None:
    (model,) = client.get("/api/models").json()["models"]
    assert model["methods"] == list(METHODS)
    assert model["method_options"] == {name: list(options) for name, options in METHOD_OPTIONS.items()}


PARAMETERS = {
    **{NAMES.get(option, option): text for option, text in TEXTS.items() if option != "matrix"},
    "method": "attention", "name": "a.png", "sample": "s0", "picture": "0" * 64,
    "beams": "1", "prefix": "7", "cell": "1,2",
    "prompt": "What?", "max_pieces": "9", "layers": "-1", "reading": "attention",
    "others": "s1", "foreground": "true", "regions": "2", "patch": "1,2",
}  # fmt: skip
OF_FIGURES = {"map": set(ViewParams.model_fields), "positions": {"cell"}, "confusion": set[str]()}


@pytest.mark.parametrize("figure", OF_FIGURES)
def test_a_figure_refuses_what_it_would_ignore(client: TestClient, figure: str) -> None:
    assert {*PARAMETERS, "model", "figure", "kind"} == set(FigureParams.model_fields)
    for name in sorted(PARAMETERS.keys() - OF_FIGURES[figure]):
        response = client.post("/api/figure", params={"figure": figure, name: PARAMETERS[name]}, content=SENT)
        assert response.status_code == 422
        assert f"{name} is a parameter of the figure" in response.json()["error"]
        assert f"{figure} would ignore it" in response.json()["error"]


@pytest.mark.parametrize("path", ["explain", "predict", "matrix", "verdict", "figure"])
def test_two_pictures_are_not_taken_for_one(client: TestClient, path: str) -> None:
    for params, content in (
        ({"sample": "s0"}, SENT),
        ({"picture": "0" * 64}, SENT),
        ({"sample": "s0", "picture": "0" * 64}, b""),
    ):
        response = client.post(f"/api/{path}", params=params, content=content)
        assert (response.status_code, response.json()["code"]) == (422, "several"), response.text
