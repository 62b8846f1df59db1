"""Answers of vision-language models over the API: those of ``ask``, word by word, of any layer; stopped on the way."""

from __future__ import annotations

import io
import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient
from support.serving import app_state_of, client_of, numbers, picture
from support.tiny_vlms import save_tiny_vlm

import vitrine
from vitrine.plotting.provenance import read_provenance
from vitrine.serve.state import AppState
from vitrine.serve.worker import Job, JobCancelled

SENT = picture(3, (90, 60))
QUESTION = "What is above the square?"
ASKED = {"prompt": QUESTION, "max_pieces": 24}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vlm") / "llava"
    save_tiny_vlm("llava", folder)
    return folder


@pytest.fixture(scope="module")
def state(folder: Path) -> AppState:
    return app_state_of(folder)


@pytest.fixture(scope="module")
def client(state: AppState) -> Iterator[TestClient]:
    with client_of(state) as client:
        yield client


@pytest.fixture(scope="module")
def opened(folder: Path) -> Any:
    return vitrine.load(str(folder))


def ask(client: TestClient, **params: object) -> dict[str, Any]:
    response = client.post("/api/caption", params={**ASKED, **params}, content=None if "picture" in params else SENT)
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.json()
    return body


@pytest.mark.parametrize(
    ("params", "how"),
    [
        ({}, {}),
        ({"layers": "0"}, {"layer": 0}),
        ({"layers": "0-1", "reading": "relative"}, {"layer": (0, 1), "relative": True}),
        ({"beams": 3, "layers": "mean"}, {"beams": 3, "layer": "mean"}),
        ({"layers": "0", "reading": "gradient"}, {"layer": 0, "reading": "gradient"}),
        ({"reading": "occlusion"}, {"reading": "occlusion"}),
    ],
    ids=["last layer", "first layer", "relative, mean of two", "beams, mean of all", "gradient", "occlusion"],
)
def test_an_answer_is_that_of_ask(client: TestClient, opened: Any, params: dict[str, Any], how: dict[str, Any]) -> None:
    answer = ask(client, **params)
    expected = opened.ask(Image.open(io.BytesIO(SENT)), QUESTION, max_pieces=24, **how)
    assert (answer["caption"], answer["prompt"]) == (expected.text, QUESTION)
    assert answer["log_probability"] == pytest.approx(expected.log_probability)
    assert [word["text"] for word in answer["words"]] == [word.text for word in expected.words]
    for word, other in zip(answer["words"], expected.words, strict=True):
        assert (word["probability"], word["looked"]) == (pytest.approx(other.probability), other.is_localized)
        np.testing.assert_allclose(numbers(word["map"]), other.map, rtol=1e-4, atol=1e-5)
    assert (
        answer["finished"]
        or answer["notes"][0] == f"Cut for its length, after {len(answer['words'][-1]['pieces'])} word pieces."
    )


def test_words_are_streamed_and_another_layer_does_not_run_the_model(client: TestClient, state: AppState) -> None:
    module = state.captioner("0").model.module
    runs: list[int] = []
    handle = module.model.register_forward_hook(lambda *_: runs.append(1))
    try:
        response = client.post("/api/caption", params={**ASKED, "prompt": "Why?", "stream": True}, content=SENT)
        count = len(runs)
        first = client.post("/api/caption", params={**ASKED, "prompt": "Why?", "layers": "0"}, content=SENT).json()
        held = ask(client, prompt="Why?", layers="mean", picture=first["picture"])
        assert len(runs) == count > 0
        ask(client, prompt="Who?")
        assert len(runs) > count  # another question is another answer
    finally:
        handle.remove()
    messages = [block.split("\n") for block in response.text.strip().split("\n\n")]
    names = [name.removeprefix("event: ") for name, _ in messages]
    bodies = [json.loads(data.removeprefix("data: ")) for _, data in messages]
    whole = bodies[-1]
    assert names == ["word"] * len(whole["words"]) + ["done"] and len(whole["words"]) > 1
    for word, final in zip(bodies, whole["words"], strict=False):
        assert {**word, "looked": final["looked"], "check": final["check"]} == final
    one, two, mean = (numbers(each["words"][1]["map"]) for each in (whole, first, held))
    assert not np.allclose(one, two) and not np.allclose(one, mean)
    assert (whole["caption"], whole["prompt"]) == (held["caption"], "Why?")


def test_occlusion_streams_attention_and_its_progress_and_is_kept(client: TestClient, state: AppState) -> None:
    params = {**ASKED, "prompt": "How?", "max_pieces": 4, "reading": "occlusion"}
    response = client.post("/api/caption", params={**params, "stream": True}, content=SENT)
    messages = [block.split("\n") for block in response.text.strip().split("\n\n")]
    names = [name.removeprefix("event: ") for name, _ in messages]
    bodies = [json.loads(data.removeprefix("data: ")) for _, data in messages]
    words = names.count("word")
    assert names == ["word"] * words + ["progress", "done"]
    assert bodies[words] == {"done": 16, "total": 16}
    whole, attention = bodies[-1], ask(client, prompt="How?", max_pieces=4)
    np.testing.assert_array_equal(numbers(bodies[0]["map"]), numbers(attention["words"][0]["map"]))
    assert not np.allclose(numbers(whole["words"][0]["map"]), numbers(attention["words"][0]["map"]))
    assert whole["described"].startswith("fall of each word's log-probability")
    runs: list[int] = []
    handle = state.captioner("0").model.module.model.register_forward_hook(lambda *_: runs.append(1))
    try:
        again = client.post("/api/caption", params=params, content=SENT).json()
        figure = client.post("/api/figure", params={**params, "kind": "png"}, content=SENT)
    finally:
        handle.remove()
    assert (again["words"], figure.status_code, runs) == (whole["words"], 200, [])


def test_the_command_and_the_figure_ask_the_same(client: TestClient, folder: Path, tmp_path: Path) -> None:
    params = {**ASKED, "layers": "0-1", "reading": "relative", "name": "seen.png"}
    command = ask(client, **params)["command"]
    words = shlex.split(command)
    assert words[:4] == ["vitrine", "caption", str(folder), "seen.png"]
    options = {"--prompt": QUESTION, "--layer": "0-1", "--max-pieces": "24"}
    assert {name: words[words.index(name) + 1] for name in options} == options and "--relative" in words
    figure = client.post("/api/figure", params={**params, "kind": "png"}, content=SENT)
    assert figure.status_code == 200, figure.text
    (tmp_path / "figure.png").write_bytes(figure.content)
    provenance = read_provenance(tmp_path / "figure.png")
    assert provenance["vitrine:command"] == command


def test_what_can_be_asked_is_in_the_list_of_models(client: TestClient) -> None:
    (info,) = client.get("/api/models").json()["models"]
    assert (info["kind"], info["layers"], info["readings"]) == (
        "captioner",
        2,
        ["attention", "relative", "gradient", "occlusion"],
    )
    assert info["prompt"] == "Describe the picture."
    answer = client.post("/api/caption", params={"max_pieces": 3}, content=SENT).json()
    assert answer["prompt"] == info["prompt"]


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"prompt": " "}, "The prompt is empty"),
        ({"prompt": "Is <image> red?"}, "The prompt holds <image>"),
        ({"prompt": "why " * 400}, "give a shorter prompt"),
        ({"prompt": "x" * 2001}, "prompt cannot be used"),
        ({"layers": "2"}, "There is no decoder layer 2: expected 0 to 1"),
        ({"layers": "1-2"}, "There are no decoder layers 1 to 2"),
        ({"layers": "all"}, "layers cannot be used"),
        ({"reading": "rollout"}, "reading cannot be used"),
        ({"reading": "occlusion", "layers": "0"}, "Maps by occlusion have neither layers nor heads"),
        ({"max_pieces": 0}, "max_pieces cannot be used"),
        ({"max_pieces": 5000}, "does not fit"),
    ],
)
def test_questions_that_cannot_be_asked(client: TestClient, params: dict[str, object], words: str) -> None:
    response = client.post("/api/caption", params={**ASKED, **params}, content=SENT)
    assert response.status_code == 422
    assert words in response.json()["error"]


def test_reading_a_prompt_stops_when_nobody_waits(state: AppState) -> None:
    captioner = state.captioner("0").asking(QUESTION)
    model_input = captioner.prepare(Image.open(io.BytesIO(SENT)))
    job, blocks = Job(), captioner.module.model.model.language_model.layers
    blocks[0].register_forward_hook(lambda *_: job.cancel())
    with pytest.raises(JobCancelled), captioner.stop_when_cancelled(job):
        captioner.encode("0" * 64, (90, 60), model_input)
    blocks[0]._forward_hooks.clear()
    assert not any(module._forward_pre_hooks for module in captioner.module.modules())
