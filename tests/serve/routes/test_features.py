"""Patch features over the API: those of ``vitrine features``, of pictures that were fitted jointly; and few bytes."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient
from support.serving import app_state_of, client_of, numbers, picture, record_runs

import vitrine
from vitrine.classify.model import open_classifier
from vitrine.data.picture_inputs import picture_input
from vitrine.features.patch_tokens import PatchTokens
from vitrine.plotting.provenance import read_provenance
from vitrine.serve.features import MAX_FEATURE_PICTURES
from vitrine.serve.state import AppState

LAYER = 1


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of several shapes, named so that their folder has them in the order of their sha256."""
    folder = tmp_path_factory.mktemp("pictures")
    for seed, size in enumerate([(40, 30), (32, 32), (30, 44)]):
        data = picture(seed, size)
        (folder / f"{hashlib.sha256(data).hexdigest()}.png").write_bytes(data)
    return folder


@pytest.fixture(scope="module")
def state(small_run: Path) -> AppState:
    return app_state_of(small_run)


@pytest.fixture(scope="module")
def client(state: AppState, pictures: Path) -> Iterator[TestClient]:
    with client_of(state) as client:
        for path in sorted(pictures.iterdir()):
            assert client.post("/api/features", content=path.read_bytes()).status_code == 200
        yield client


def names(pictures: Path, first: int = 0) -> dict[str, str]:
    """Parameters for all pictures, that of this number first."""
    hashes = [path.stem for path in sorted(pictures.iterdir())]
    one = hashes.pop(first)
    return {"picture": one, "others": ",".join(hashes)}


def answer(client: TestClient, path: str, **params: object) -> dict[str, Any]:
    response = client.post(path, params=params)
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.json()
    return body


@pytest.fixture(scope="module", params=[False, True], ids=["all", "foreground"])
def result(request: pytest.FixtureRequest, small_run: Path, pictures: Path, tmp_path_factory: Any) -> Any:
    """What ``vitrine features`` makes of the same pictures."""
    out = tmp_path_factory.mktemp("features")
    how = {"layer": LAYER, "regions": 3, "query": (1, 2), "foreground": request.param}
    made = vitrine.features(str(small_run), pictures, out=out, precision="fp32", controls=False, quiet=True, **how)
    return request.param, made


@pytest.mark.parametrize("first", [0, 2])
def test_numbers_are_those_of_the_command(client: TestClient, pictures: Path, result: Any, first: int) -> None:
    foreground, made = result
    records = list(made.pictures)
    order = [first, *(index for index in range(3) if index != first)]
    body = answer(client, "/api/features", **names(pictures, first), layer=LAYER, regions=3, foreground=foreground)
    assert body["variance_shares"] == pytest.approx(list(components_of(made)), abs=1e-5)
    assert body["layer"] == LAYER and made.layer == body["described"]
    for info, index in zip(body["pictures"], order, strict=True):
        record = records[index]
        assert record.name.startswith(info["picture"])
        # A byte a channel: half a step of 255 away at most.
        np.testing.assert_allclose(numbers(info["colours"]) / 255, record.colours_RC3, atol=0.5 / 255 + 1e-4)
        np.testing.assert_array_equal(numbers(info["regions"]), record.regions_RC)
        assert len(info["outliers"]) == record.outliers
        if foreground:
            assert numbers(info["foreground"]).mean() == pytest.approx(record.foreground)
        else:
            assert info["foreground"] is None
    alike = answer(client, "/api/similarity", **names(pictures, 0), layer=LAYER, patch="1,2")
    for map_RC, record in zip(alike["maps"], records, strict=True):
        np.testing.assert_allclose(numbers(map_RC), record.similarity_RC, atol=2**-11)  # float16 on the way
    assert numbers(alike["maps"][0])[1, 2] == 1


def components_of(made: Any) -> tuple[float, ...]:
    """The shares of the components that are coloured."""
    from safetensors.numpy import load_file

    tensors = load_file(made.components)
    return tuple(tensors["components.variance"] / tensors["components.total"][0])


def test_a_few_kilobytes_and_no_further_run(client: TestClient, pictures: Path, state: AppState) -> None:
    params = {**names(pictures), "layer": 0}
    answer(client, "/api/features", **params)
    with record_runs(state) as runs:
        for patch in ("0,0", "3,3", "-1,0"):
            response = client.post("/api/similarity", params={**params, "patch": patch})
            assert len(response.content) < 300 + 3 * 150
        answer(client, "/api/features", **params, regions=2)
    assert not runs


def test_one_scale_serves_every_patch(client: TestClient, small_run: Path, pictures: Path) -> None:
    """Where colours begin is the lowest hundredth of the cosines of evenly spaced patches with all others."""
    body = answer(client, "/api/features", **names(pictures), layer=LAYER)
    classifier = open_classifier(str(small_run), "fp32", None, features=True)
    batches = list(PatchTokens(classifier, picture_input(pictures).samples, LAYER))
    tokens_ND = np.concatenate([batch.tokens_BRCD[~batch.outliers_BRC] for batch in batches]).astype(np.float64)
    tokens_ND /= np.linalg.norm(tokens_ND, axis=1, keepdims=True)
    assert len(tokens_ND) <= 64
    lowest = np.quantile(tokens_ND @ tokens_ND.T, 0.01)
    assert body["lowest"] == pytest.approx(min(0.9, max(0, lowest)), abs=0.0051)


def test_samples_are_read_by_their_ids(client: TestClient) -> None:
    (info,) = client.get("/api/models").json()["models"]
    ids = [sample["id"] for sample in info["samples"]]
    body = answer(client, "/api/features", sample=ids[0], others=",".join([f"0/{ids[1]}", *ids[:3]]))
    assert len({each["picture"] for each in body["pictures"]}) == len(body["pictures"]) <= 3
    assert body["command"] is None  # of several pictures from several places


def test_the_figure_and_the_command_of_one_picture(client: TestClient, pictures: Path, tmp_path: Path) -> None:
    data = min(pictures.iterdir()).read_bytes()
    params = {"name": "seen.png", "layer": LAYER, "regions": 2, "foreground": True}
    command = client.post("/api/features", params=params, content=data).json()["command"]
    assert shlex.split(command)[3] == "seen.png" and "--foreground" in command and "--regions 2" in command
    figure = client.post("/api/figure", params={**params, "figure": "features", "patch": "0,1"}, content=data)
    assert figure.status_code == 200, figure.text
    (tmp_path / "figure.png").write_bytes(figure.content)
    provenance = read_provenance(tmp_path / "figure.png")
    assert "--query 0,1" in provenance["vitrine:command"]


@pytest.mark.parametrize(
    ("path", "params", "status", "words"),
    [
        ("features", {"picture": "a" * 64}, 404, "not held any more"),
        ("features", {"others": "b" * 64}, 404, "not held any more"),
        ("features", {"others": "v999999"}, 404, "no sample"),
        ("features", {"others": "../../etc"}, 422, "others cannot be used"),
        ("features", {"others": ",".join(f"v{i}" for i in range(MAX_FEATURE_PICTURES))}, 422, "too many at once"),
        ("features", {"regions": 1}, 422, "1 region cannot be drawn"),
        ("features", {"regions": 11}, 422, "regions cannot be used"),
        ("features", {"layer": 99}, 422, "layer"),
        ("similarity", {"patch": "4,0"}, 422, "There is no patch in row 4"),
        ("similarity", {"patch": "4"}, 422, "patch cannot be used"),
        ("similarity", {}, 422, "patch cannot be used"),
        ("figure", {"patch": "0,0"}, 422, "patch is a parameter of the figure features"),
    ],
)
def test_what_cannot_be_asked(
    client: TestClient, path: str, params: dict[str, object], status: int, words: str
) -> None:
    content = None if "picture" in params else picture(0)
    response = client.post(f"/api/{path}", params=params, content=content)
    assert (response.status_code, words in response.json()["error"]) == (status, True), response.text
