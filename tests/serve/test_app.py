"""The server's answers, each beside the same thing computed in another way.

Axes: R grid rows, C grid columns, N tokens, H heads, C classes (of probabilities).
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import shlex
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from starlette.testclient import TestClient
from support.made_runs import made_run
from support.serving import app_state_of, client_of, numbers, picture, record_runs

from vitrine.attribution.attention import attention_matrices
from vitrine.attribution.baselines import centre_blob
from vitrine.attribution.methods import Method
from vitrine.attribution.registry import METHODS
from vitrine.data.decode import BytesPicture
from vitrine.data.samples import Sample
from vitrine.explain.explainer import ExplainedBatch, Explainer
from vitrine.explain.run import ExplainSettings, choose_scale
from vitrine.plotting.provenance import read_provenance
from vitrine.serve.galleries import open_gallery
from vitrine.serve.routes.gallery import make_validation
from vitrine.serve.state import AppState

SENT = picture(3)


@pytest.fixture(scope="module")
def state(small_run: Path) -> AppState:
    return app_state_of(small_run, "vitrine/scenes-tiny")


@pytest.fixture(scope="module")
def client(state: AppState) -> Iterator[TestClient]:
    with client_of(state) as client:
        yield client


def explain(client: TestClient, **params: object) -> dict:
    response = client.post("/api/explain", params=params, content=SENT)
    assert response.status_code == 200, response.text
    return response.json()


def explained_batch(state: AppState, method: Method, target: str | None = None, check: bool = False) -> ExplainedBatch:
    """As vitrine explain has the pictures of a folder."""
    explainer = Explainer(state.classifier("0").model, method, target)
    return next(explainer.run([Sample("picture.png", BytesPicture(SENT))], 1, check=check))


def test_models_say_what_their_modules_are(client: TestClient, small_run: Path, small_scenes: Path) -> None:
    ours, bundled_model = client.get("/api/models").json()["models"]
    module = timm.create_model(f"local-dir:{small_run}", pretrained=True)
    assert ours["labels"] == (small_run / "labels.txt").read_text().split()
    assert (ours["layers"], ours["heads"], ours["prefix"]) == (len(module.blocks), module.blocks[0].attn.num_heads, 1)
    assert (ours["grid"], ours["input"]) == (list(module.patch_embed.grid_size), [32, 32])
    assert ours["methods"] == list(METHODS)
    assert (ours["kind"], ours["has_positions"], ours["has_validation"]) == ("classifier", True, True)
    assert bundled_model["reference"] == "vitrine/scenes-tiny"
    assert not bundled_model["has_validation"]
    assert len(ours["samples"]) == len(bundled_model["samples"]) == 12
    for sample in ours["samples"]:
        assert (small_scenes / "validation" / sample["label"]).is_dir()
        image = Image.open(io.BytesIO(client.get(f"/api/picture/0/{sample['id']}").content))
        name = small_scenes / sample["name"]
        np.testing.assert_array_equal(np.asarray(image), np.asarray(Image.open(name).convert("RGB")))


def test_predictions_are_those_of_timm(client: TestClient, small_run: Path) -> None:
    answer = client.post("/api/predict", content=SENT).json()
    module = timm.create_model(f"local-dir:{small_run}", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_data_config(model=module))
    with torch.inference_mode():
        probabilities_C = module(transform(Image.open(io.BytesIO(SENT)))[None]).softmax(-1)[0].numpy()
    labels = (small_run / "labels.txt").read_text().split()
    assert [each["label"] for each in answer["predictions"]] == [labels[i] for i in np.argsort(-probabilities_C)]
    probabilities = [each["probability"] for each in answer["predictions"]]
    np.testing.assert_allclose(probabilities, np.sort(probabilities_C)[::-1], atol=1e-5)
    assert answer["size"] == [40, 30]
    sample = client.post("/api/predict", params={"sample": "v0"}).json()
    same_answer = client.post("/api/predict", content=client.get("/api/picture/0/v0").content).json()
    for one, same in zip(sample["predictions"], same_answer["predictions"], strict=True):
        assert (one["label"], one["probability"]) == (same["label"], pytest.approx(same["probability"], abs=1e-6))


QUERIES = {"auto": "auto", "class": "class", "0,0": (0, 0), "2,3": (2, 3)}


@pytest.mark.parametrize("query", QUERIES)
@pytest.mark.parametrize("head", ["mean", "max", "min", "0", "1"])
@pytest.mark.parametrize("layer", [-1, 0, 1])
def test_attention_is_that_of_the_command(
    state: AppState, client: TestClient, layer: int, head: str, query: str
) -> None:
    answer = explain(client, layer=layer, head=head, query=query)
    method = Method("attention", layer, int(head) if head.isdecimal() else head, QUERIES[query])
    _check_same(answer, state, method)


@pytest.mark.parametrize(
    ("method", "target"),
    [
        (method, target)
        for method in METHODS[1:]
        for target in ([None, "last"] if Method(method).for_a_class else [None])
    ],
)
def test_other_methods_are_those_of_the_command(
    state: AppState, client: TestClient, method: str, target: str | None
) -> None:
    label = None if target is None else state.classifier("0").labels[-1]
    answer = explain(client, method=method, **({} if label is None else {"target": label}))
    _check_same(answer, state, Method(method), label)
    predicted = answer["predictions"][0]["label"]
    assert answer["target"] == ((label or predicted) if Method(method).for_a_class else None)


def _check_same(answer: dict, state: AppState, method: Method, target: str | None = None) -> None:
    (expected,) = explained_batch(state, method, target).pictures
    np.testing.assert_allclose(numbers(answer["map"]), expected.display_RC, rtol=2e-5, atol=1e-6)
    scale = choose_scale([expected.display_RC], expected.unit, ExplainSettings(method))
    assert (answer["scale"]["kind"], answer["scale"]["label"]) == (scale.kind, scale.name)
    assert answer["scale"]["high"] == pytest.approx(scale.high)
    assert answer["described"] == expected.method
    share = expected.prefix_share
    assert answer["prefix_share"] == (None if share is None else pytest.approx(share, rel=1e-5))
    probabilities = {each["label"]: each["probability"] for each in answer["predictions"]}
    labels = state.classifier("0").labels
    assert probabilities == pytest.approx(dict(zip(labels, expected.probabilities_C.tolist(), strict=True)), abs=1e-6)
    # 40 x 30 pixels: the short side is brought to 32 / crop, and the middle is cut out.
    left, top, width, height = answer["box"]
    assert (left + width / 2, top + height / 2) == (pytest.approx(20, abs=0.6), pytest.approx(15, abs=0.6))
    assert width == pytest.approx(height, rel=0.03)  # the long side is cut to whole pixels


def test_one_run_of_the_model_serves_every_view(state: AppState, client: TestClient) -> None:
    content = picture(77)
    with record_runs(state) as runs:
        first = client.post("/api/explain", content=content).json()["picture"]
        assert len(runs) == 1
        for params in (
            {"layer": 0}, {"head": "1"}, {"query": "1,2"}, {"direction": "to", "query": "1,2"}, {"method": "rollout"}
        ):  # fmt: skip
            assert client.post("/api/explain", params={"picture": first, **params}).status_code == 200
        assert client.post("/api/matrix", params={"picture": first}).status_code == 200
        assert client.post("/api/predict", params={"picture": first}).status_code == 200
        assert client.post("/api/explain", content=content).status_code == 200
        assert len(runs) == 1
        for _ in range(2):  # kept once it is made
            assert client.post("/api/explain", params={"picture": first, "method": "gradcam"}).status_code == 200
            assert len(runs) == 2


@pytest.mark.parametrize("head", ["mean", "1"])
@pytest.mark.parametrize("layer", [0, -1])
def test_the_matrix_and_who_attends_to_a_patch(state: AppState, client: TestClient, layer: int, head: str) -> None:
    answer = client.post("/api/matrix", params={"layer": layer, "head": head}, content=SENT).json()
    batch = explained_batch(state, Method())
    module = state.classifier("0").model.module
    all_HNN = attention_matrices(module, batch.pixels_BCHW, layer=layer)[0].double().numpy()
    expected_NN = all_HNN.mean(0) if head == "mean" else all_HNN[int(head)]
    assert (answer["tokens"], answer["prefix"], answer["grid"]) == (17, 1, [4, 4])
    np.testing.assert_allclose(numbers(answer["matrix"]), expected_NN, rtol=1e-3, atol=1e-6)
    answer_to = explain(client, layer=layer, head=head, query="2,3", direction="to")
    to_RC = numbers(answer_to["map"])
    for row, column in np.ndindex(4, 4):  # the very number that the other direction has there
        whole = numbers(explain(client, layer=layer, head=head, query=f"{row},{column}")["map"])
        assert to_RC[row, column] == pytest.approx(whole[2, 3], rel=1e-4)
        token = 1 + 4 * row + column
        assert whole[2, 3] == pytest.approx(expected_NN[token, 1 + 11] / expected_NN[token, 1:].mean(), rel=1e-4)
    assert answer_to["described"].startswith("attention of the patches to patch (2, 3), ")
    assert answer_to["command"] is None


def test_the_command_line_draws_the_same_map(
    client: TestClient, tmp_path: Path, vitrine_command: Callable[..., tuple[int, str, str]]
) -> None:
    path = tmp_path / "my picture.png"
    path.write_bytes(SENT)
    for params in ({"layer": 0, "head": "1", "query": "1,2"}, {"method": "gradcam"}, {"method": "rollout"}):
        answer = explain(client, name=str(path), **params)
        words = shlex.split(answer["command"])
        assert words[:2] == ["vitrine", "explain"]
        words[words.index("-o") + 1] = str(tmp_path / words[words.index("-o") + 1])
        status, out, err = vitrine_command(*words[1:], "--json")
        assert status == 0, err
        map_RC = np.array(json.loads(out)["pictures"][0]["map"])
        np.testing.assert_allclose(numbers(answer["map"]), map_RC / map_RC.mean(), rtol=1e-4, atol=1e-5)


def test_a_verdict_is_that_of_the_checks(state: AppState, client: TestClient) -> None:
    for params in ({}, {"method": "relevance", "target": state.classifier("0").labels[-1]}):
        answer = client.post("/api/verdict", params=params, content=SENT).json()
        method = Method(params.get("method", "attention"))
        (expected,) = explained_batch(state, method, params.get("target"), check=True).pictures
        verdict = expected.verdict
        assert (answer["flag"], answer["sentence"]) == (verdict.flag, verdict.sentence)
        assert (answer["label"], answer["p"]) == (verdict.label, pytest.approx(verdict.p))
        for one, other in zip(answer["sets"], verdict.sets, strict=True):
            assert one["patches"] == other.patches
            assert [one[key] for key in ("answer", "random", "compact", "most_needed")] == pytest.approx(
                [other.answer, other.random, other.compact, other.most_needed], abs=1e-4
            )
        assert answer["fillings"] == list(verdict.fillings)
        assert len(answer["outliers"]) == len(expected.outlier_patches)
        controls = {each["name"]: numbers(each["map"]) for each in answer["controls"]}
        assert list(controls) == ["random", "centre blob", "edges"]
        blob_RC = centre_blob(4, 4)
        np.testing.assert_allclose(controls["centre blob"], blob_RC / blob_RC.mean(), rtol=1e-6)
        assert all(map_RC.mean() == pytest.approx(1, abs=1e-5) for map_RC in controls.values())


def test_positions_are_cosines(state: AppState, client: TestClient) -> None:
    answer = client.get("/api/positions").json()
    table_ND = state.classifier("0").model.module.pos_embed[0, 1:].detach().double().numpy()
    unit_ND = table_ND / np.linalg.norm(table_ND, axis=1, keepdims=True)
    np.testing.assert_allclose(numbers(answer["similarity"]), unit_ND @ unit_ND.T, atol=1e-3)
    assert answer["grid"] == [4, 4]
    assert len(answer["numbers"]) == 3
    assert all(each["sine"] is not None for each in answer["numbers"])
    assert answer["sentences"]


def test_figures_are_those_of_the_command(
    client: TestClient, small_run: Path, tmp_path: Path, vitrine_command: Callable[..., tuple[int, str, str]]
) -> None:
    path = tmp_path / "seen.png"
    path.write_bytes(SENT)
    assert vitrine_command("explain", small_run, path, "-o", tmp_path, "--method", "rollout", "--format", "svg")[0] == 0
    params = {"method": "rollout", "name": "seen.png"}
    for kind in ("png", "svg"):
        response = client.post("/api/figure", params={**params, "kind": kind}, content=SENT)
        assert response.status_code == 200
        (tmp_path / f"served.{kind}").write_bytes(response.content)
        origin = read_provenance(tmp_path / f"served.{kind}")
        assert origin["vitrine:method"] == "rollout"
        assert origin["vitrine:picture"] == "seen.png"
        assert shlex.split(origin["vitrine:command"])[:4] == ["vitrine", "explain", str(small_run), "seen.png"]

    def drawing(name: str) -> str:
        return (tmp_path / name).read_text().partition("</metadata>")[2]

    assert drawing("served.svg") == drawing("seen.svg")  # all but what is said of where it came from
    attention_to = {"figure": "map", "direction": "to", "query": "1,1"}
    assert client.post("/api/figure", params=attention_to, content=SENT).headers["content-type"] == "image/png"
    one = client.post("/api/figure", params={"figure": "positions", "cell": "3,3"})
    assert one.headers["content-type"] == "image/png"
    assert client.post("/api/figure", params={"figure": "positions", "cell": "4,0"}).status_code == 422


def test_the_validation_split_with_its_confusion(client: TestClient, small_run: Path) -> None:
    answer = client.get("/api/validation").json()
    rows = list(csv.DictReader((small_run / "predictions.csv").open()))
    truths = {
        row["name"]: row["label"] for row in json.loads((small_run / "data.json").read_text())["splits"]["validation"]
    }
    labels = answer["labels"]
    confusion = np.zeros((len(labels), len(labels)), dtype=int)
    for row in rows:
        confusion[truths[row["filename"]], labels.index(row["label"])] += 1
    np.testing.assert_array_equal(answer["confusion"], confusion)
    assert {each["name"]: each["predicted"] for each in answer["pictures"]} == {r["filename"]: r["label"] for r in rows}
    assert sum(each["right"] for each in answer["pictures"]) == np.trace(confusion)
    first = answer["pictures"][0]
    assert first["present"]
    assert first["probability"] == pytest.approx(float(rows[0]["probability"]))
    prediction = client.post("/api/predict", params={"sample": first["id"]}).json()["predictions"][0]
    assert prediction["label"] == first["predicted"]
    assert prediction["probability"] == pytest.approx(first["probability"], abs=1e-4)
    small = client.get(f"/api/thumbnail/0/{first['id']}?size=16&v={first['version']}")
    assert Image.open(io.BytesIO(small.content)).format == "WEBP"
    assert max(Image.open(io.BytesIO(small.content)).size) == 16
    assert "immutable" in small.headers["cache-control"]
    assert client.get("/api/thumbnail/0/v999").status_code == 404
    assert client.get("/api/validation?model=1").status_code == 404


def test_a_runs_own_pictures_are_taken_as_training_took_them(state: AppState, client: TestClient) -> None:
    """A 16-bit file is no upload, but where a run was trained on some they are shown; nothing of EXIF goes out."""
    deep, rotated_file = io.BytesIO(), io.BytesIO()
    Image.fromarray(np.arange(1200, dtype=np.uint16).reshape(30, 40) * 50).save(deep, "PNG")
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a secret place"
    Image.open(io.BytesIO(picture(1, (400, 300)))).save(rotated_file, "JPEG", exif=exif)
    samples: dict = state.models["0"].gallery.samples  # type: ignore[assignment]
    samples["deep"] = Sample("deep.png", BytesPicture(deep.getvalue()))
    samples["turned"] = Sample("turned.jpg", BytesPicture(rotated_file.getvalue()))
    samples["broken"] = Sample("broken.jpg", BytesPicture(b"nothing"))
    explainer = Explainer(state.classifier("0").model, Method())
    for name in ("deep", "turned"):
        (explanation,) = next(explainer.run([samples[name]], 1)).pictures
        answer = client.post("/api/predict", params={"sample": name}).json()
        assert answer["predictions"][0]["probability"] == pytest.approx(explanation.probability, abs=1e-5)
    for path in ("/api/picture/0/turned", "/api/thumbnail/0/turned"):
        shown_picture = Image.open(io.BytesIO(client.get(path).content))
        assert shown_picture.width < shown_picture.height
        assert not shown_picture.getexif() and b"secret" not in client.get(path).content
    for response in (client.post("/api/predict?sample=broken"), client.get("/api/picture/0/broken")):
        assert (response.status_code, response.json()["code"]) == (404, "unknown")


def test_five_thousand_pictures_whose_files_are_gone(tmp_path: Path) -> None:
    right = [place % 7 != 0 for place in range(5000)]
    gallery = open_gallery(str(made_run(tmp_path / "large", right, reference=str(tmp_path / "nowhere"))))
    assert gallery.validation is not None
    validation = make_validation(gallery.validation, gallery, "a command")
    assert [each.right for each in validation.pictures] == right
    assert len({each.id for each in validation.pictures}) == 5000
    assert not any(each.present for each in validation.pictures)
    assert "not where they were" in gallery.notes[0]
    assert np.trace(validation.confusion) == sum(right)
    classes = tuple(map(str, range(1001)))
    assert make_validation(replace(gallery.validation, labels=classes), gallery, "a command").confusion is None


def test_what_is_not_held_is_asked_for_again(client: TestClient) -> None:
    for path in ("/api/explain", "/api/matrix", "/api/verdict", "/api/predict", "/api/figure"):
        response = client.post(path, params={"picture": "0" * 64})
        assert (response.status_code, response.json()["code"]) == (404, "gone"), path
    picture_id = explain(client)["picture"]
    again = client.post("/api/figure", params={"picture": picture_id})  # the photograph itself is not kept
    assert (again.status_code, again.json()["code"]) == (404, "gone")


def test_only_so_much_is_held(small_run: Path) -> None:
    state = app_state_of(small_run, cache_bytes=90_000)
    with client_of(state) as client:
        first = client.post("/api/explain", content=picture(1)).json()["picture"]
        for seed in range(2, 12):
            assert client.post("/api/explain", content=picture(seed)).status_code == 200
            assert state.encodings.nbytes <= 90_000
        assert len(state.encodings) >= 2
        assert client.post("/api/explain", params={"picture": first}).json()["code"] == "gone"


@pytest.mark.parametrize(
    ("path", "params", "status", "words"),
    [
        ("/api/explain", {"model": "7"}, 404, "no model '7'"),
        ("/api/explain", {"sample": "v999"}, 404, "no sample 'v999'"),
        ("/api/explain", {"layer": "9"}, 422, "no layer 9"),
        ("/api/explain", {"head": "9"}, 422, "no head 9"),
        ("/api/explain", {"head": "first"}, 422, "head cannot be used"),
        ("/api/explain", {"query": "9,9"}, 422, "no patch in row 9, column 9"),
        ("/api/explain", {"query": "pool"}, 422, "no attention pool"),
        ("/api/explain", {"method": "relevance", "target": "unicorn"}, 422, "no class 'unicorn'"),
        ("/api/explain", {"method": "magic"}, 422, "method cannot be used"),
        ("/api/explain", {"method": "rollout", "direction": "to"}, 422, "rollout would ignore it"),
        ("/api/explain", {"colour": "red"}, 422, "colour cannot be used"),
        ("/api/verdict", {"direction": "to"}, 422, "not of who attends"),
        ("/api/caption", {}, 422, "is a classifier"),
        ("/api/nothing", {}, 404, "nothing at this address"),
        ("/api/models", {}, 405, "other methods"),
    ],
)  # fmt: skip
def test_wrong_questions_are_answered_with_a_sentence(
    client: TestClient, path: str, params: dict[str, str], status: int, words: str
) -> None:
    response = client.post(path, params=params, content=b"" if "sample" in params else SENT)
    assert response.status_code == status
    assert words in response.json()["error"]


def test_the_description_of_the_api_is_a_page_of_our_own(client: TestClient) -> None:
    page, openapi = client.get("/api").text, client.get("/openapi.json").json()
    assert all(f"<code>{path}</code>" in page for path in openapi["paths"])
    assert "<script" not in page and "style=" not in page and "https://" not in page
    assert client.get("/api/style.css").headers["content-type"].startswith("text/css")
    assert {"/api/predict", "/api/explain", "/api/caption", "/api/models", "/healthz", "/metrics"} <= set(
        openapi["paths"]
    )
    schema = openapi["components"]["schemas"]["Explanation"]["properties"]
    assert set(explain(client)) == set(schema)


def test_metrics_count(client: TestClient) -> None:
    def metric_value(name: str) -> float:
        lines = client.get("/metrics").text.splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))

    before = metric_value('vitrine_requests_total{path="/api/predict",status="200"}')
    assert client.post("/api/predict", content=SENT).status_code == 200
    assert metric_value('vitrine_requests_total{path="/api/predict",status="200"}') == before + 1
    assert metric_value("vitrine_held_bytes") > 0
    assert client.get("/healthz").json() == {"status": "ok"}


def test_a_sample_of_another_model_is_seen_from_its_own_file(client: TestClient, state: AppState) -> None:
    number = next(iter(state.model("1").gallery.samples))
    sample = state.model("1").gallery.samples[number].picture
    theirs = client.post("/api/explain", params={"model": "0", "sample": f"1/{number}"}).json()
    answer = client.post("/api/explain", params={"model": "0"}, content=sample.read_bytes()).json()
    assert theirs["picture"] == answer["picture"] == hashlib.sha256(sample.read_bytes()).hexdigest()
    assert theirs["map"] == answer["map"]
    assert client.post("/api/explain", params={"model": "0", "sample": "9/v0"}).status_code == 404


def test_a_kept_map_does_not_keep_the_matrix_that_it_was_cut_from(state: AppState) -> None:
    explainer = Explainer(state.classifier("0").model, Method("relevance"))
    pixels_BCHW = explained_batch(state, Method()).pixels_BCHW
    scores_BRC = explainer.maps(pixels_BCHW, torch.tensor([0])).scores_BRC
    assert scores_BRC.untyped_storage().nbytes() == scores_BRC.numel() * 4


def test_the_confusion_matrix_is_the_one_that_its_command_draws(
    client: TestClient, small_run: Path, tmp_path: Path, vitrine_command: Callable[..., tuple[int, str, str]]
) -> None:
    command = shlex.split(client.get("/api/validation", params={"model": "0"}).json()["command"])
    assert command[:3] == ["vitrine", "evaluate", str(small_run)] and command[-2:] == [
        "-o",
        f"evaluation-{small_run.name}",
    ]
    assert vitrine_command(*command[1:-1], tmp_path)[0] == 0
    figure = client.post("/api/figure", params={"figure": "confusion", "kind": "png"})
    assert figure.status_code == 200
    (tmp_path / "served.png").write_bytes(figure.content)
    assert read_provenance(tmp_path / "served.png")["vitrine:figure"] == "confusion"
    ours, theirs = (Image.open(tmp_path / name).convert("RGB") for name in ("served.png", "confusion.png"))
    assert np.array_equal(np.asarray(ours), np.asarray(theirs))
    for model in ("1", "9"):  # the bundled model is no run
        assert client.post("/api/figure", params={"model": model, "figure": "confusion"}).status_code == 404
