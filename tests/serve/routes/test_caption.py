"""Captions over the API: those of the command, word by word, continued, in beams; and stopped when nobody listens."""

from __future__ import annotations

import io
import json
import shlex
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient
from support.models import MICRO
from support.serving import app_state_of, client_of, numbers, picture, run_in_thread, until
from support.tiny_captioners import save_tiny

import vitrine
from vitrine.config import CaptionSpec, Recipe
from vitrine.data.scenes import write_scenes
from vitrine.plotting.provenance import read_provenance
from vitrine.serve.captioner import Decoding
from vitrine.serve.state import AppState
from vitrine.serve.worker import Job
from vitrine.train.run import train

SENT = picture(3, (90, 60))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """BLIP with random weights, whose captions would rather go on than end."""
    folder = tmp_path_factory.mktemp("captioner")
    save_tiny("blip", folder)
    return folder


@pytest.fixture(scope="module")
def state(folder: Path) -> AppState:
    state = app_state_of(folder)
    _talkative(state)
    return state


def _talkative(state: AppState) -> None:
    """The end is no choice: every caption is as long as it can be."""
    module = state.captioner("0").model.module
    real = module.step

    def step(*arguments: Any) -> Any:
        step_result = real(*arguments)
        step_result.logits_BV[:, module.end] -= 4
        return step_result

    module.step = step


@pytest.fixture(scope="module")
def client(state: AppState) -> Iterator[TestClient]:
    with client_of(state) as client:
        yield client


def caption(client: TestClient, **params: object) -> dict[str, Any]:
    response = client.post("/api/caption", params=params, content=None if "picture" in params else SENT)
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.json()
    return body


def events(text: str) -> list[tuple[str, dict[str, Any]]]:
    messages = []
    for block in text.strip().split("\n\n"):
        name, data = block.split("\n")
        messages.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return messages


def test_a_caption_is_that_of_the_library(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "seen.png").write_bytes(SENT)
    expected = vitrine.load(str(folder)).caption(tmp_path / "seen.png")
    with client_of(app_state_of(folder)) as client:
        answer = caption(client)
    assert (answer["caption"], answer["log_probability"]) == (expected.text, pytest.approx(expected.log_probability))
    assert [word["text"] for word in answer["words"]] == [word.text for word in expected.words]
    for word, other in zip(answer["words"], expected.words, strict=True):
        assert (word["probability"], word["looked"]) == (pytest.approx(other.probability), other.is_localized)
        np.testing.assert_allclose(numbers(word["map"]), other.map, rtol=1e-5)
        assert word["box"] == [0, 0, 90, 60]


def test_a_captioner_of_ones_own_comes_with_its_pictures(tmp_path: Path) -> None:
    scenes = write_scenes(tmp_path / "scenes", "base", {"train": 24, "validation": 6, "test": 2}, size=32)
    spec = CaptionSpec(
        vocabulary_size=120, width=32, heads=2, encoder_layers=1, decoder_layers=1, feed_forward=64, longest=12
    )
    recipe = Recipe(
        name="micro", model="vit_tiny_patch16_224", model_args=MICRO, pretrained=False, image_size=32, caption=spec,
        batch_size=12, epochs=1, learning_rate=2e-3, workers=0, precision="fp32",
    )  # fmt: skip
    run = train(str(scenes), recipe, tmp_path / "run").run
    with client_of(app_state_of(run)) as client:
        info = client.get("/api/models").json()["models"][0]
        assert (info["kind"], info["has_validation"], len(info["samples"])) == ("captioner", False, 6)
        for sample in info["samples"][:2]:
            answer = client.post("/api/caption", params={"sample": sample["id"]}).json()
            expected = vitrine.load(str(run)).caption(scenes / sample["name"])
            assert answer["caption"] == expected.text
            assert answer["log_probability"] == pytest.approx(expected.log_probability, abs=1e-4)
            for word, other in zip(answer["words"], expected.words, strict=True):
                np.testing.assert_allclose(numbers(word["map"]), other.map, rtol=1e-4)
            assert client.get(f"/api/picture/0/{sample['id']}").status_code == 200
        assert client.get("/api/validation").status_code == 404


def test_words_come_as_they_are_decoded_and_add_up(client: TestClient) -> None:
    whole = caption(client)
    assert len(whole["words"]) > 3
    messages = events(client.post("/api/caption", params={"stream": True}, content=SENT).text)
    assert [name for name, _ in messages] == ["word"] * len(whole["words"]) + ["done"]
    assert messages[-1][1] == whole
    for (_, word), final in zip(messages, whole["words"], strict=False):
        assert {**word, "looked": final["looked"], "check": final["check"]} == final
    assert whole["picture"] == caption(client, picture=whole["picture"])["picture"]


def test_a_word_is_told_before_the_next_ones_are_decoded(state: AppState) -> None:
    steps, words = [0], []
    module = state.captioner("0").model.module
    real = module.step

    def count_steps(*arguments: Any) -> Any:
        steps[0] += 1
        return real(*arguments)

    captioner = state.captioner("0")
    model_input = captioner.prepare(Image.open(io.BytesIO(SENT)))
    encoding = captioner.encode("0" * 64, (90, 60), model_input)
    module.step = count_steps
    try:
        result = captioner.caption(
            encoding, Decoding(), -1, "x.png", Job(), lambda word: words.append((steps[0], word))
        )
    finally:
        module.step = real
    assert len(result.words) == len(words) > 3
    for step_count, word in words[:-1]:
        assert step_count == len(word.pieces) + 1  # one piece more, which shows that the word is whole
    assert words[-1][0] == steps[0]


def test_an_alternative_continues_the_caption(client: TestClient) -> None:
    whole = caption(client)
    word = whole["words"][2]
    other = word["alternatives"][0]
    before = whole["words"][1]["pieces"]
    assert other["pieces"][:-1] == before
    continuation = caption(client, picture=whole["picture"], prefix=",".join(map(str, other["pieces"])))
    assert continuation["words"][-1]["pieces"][: len(before) + 1] == other["pieces"]
    assert continuation["command"] is None
    assert continuation["words"][2]["probability"] == pytest.approx(other["probability"], rel=1e-4) or len(
        continuation["words"][2]["pieces"]
    ) > len(other["pieces"])
    # What lost was less likely than what won, and both are of the same distribution.
    chances = [each["probability"] for each in word["alternatives"]]
    assert chances == sorted(chances, reverse=True) and sum(chances) <= 1
    same = caption(client, prefix=",".join(map(str, whole["words"][3]["pieces"])))
    assert same["caption"] == whole["caption"]
    assert same["log_probability"] == pytest.approx(whole["log_probability"])


def test_beams_are_listed_and_the_first_is_the_caption(
    folder: Path, tmp_path: Path, vitrine_command: Callable[..., tuple[int, str, str]]
) -> None:
    path = tmp_path / "a picture.png"
    path.write_bytes(SENT)
    with client_of(app_state_of(folder)) as client:
        answer = caption(client, beams=3, name=str(path))
        messages = events(client.post("/api/caption", params={"beams": 3, "stream": True}, content=SENT).text)
    assert answer["beams"][0]["caption"] == answer["caption"]
    assert 1 < len(answer["beams"]) <= 3
    assert [each["score"] for each in answer["beams"]] == sorted((e["score"] for e in answer["beams"]), reverse=True)
    assert messages[-1][0] == "done"
    words = shlex.split(answer["command"])
    words[words.index("-o") + 1] = str(tmp_path / "out")
    status, out, err = vitrine_command(*words[1:], "--json")
    assert status == 0, err
    command_caption = json.loads(out)["captions"][0]
    assert command_caption["caption"] == answer["caption"]
    assert command_caption["log_probability"] == pytest.approx(answer["log_probability"], abs=1e-4)


def test_the_figure_is_that_of_the_command(
    folder: Path, tmp_path: Path, vitrine_command: Callable[..., tuple[int, str, str]]
) -> None:
    (tmp_path / "seen.png").write_bytes(SENT)
    assert vitrine_command("caption", folder, tmp_path / "seen.png", "-o", tmp_path / "out", "--format", "svg")[0] == 0
    with client_of(app_state_of(folder)) as client:
        figure = client.post("/api/figure", params={"kind": "svg", "name": "seen.png"}, content=SENT)
    (tmp_path / "served.svg").write_bytes(figure.content)
    command_figure, served_figure = (
        path.read_text() for path in (tmp_path / "out" / "seen.svg", tmp_path / "served.svg")
    )
    assert command_figure.partition("</metadata>")[2] == served_figure.partition("</metadata>")[2]
    assert read_provenance(tmp_path / "served.svg")["vitrine:figure"] == "caption"


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"prefix": "999999"}, "no piece of a word"),
        ({"prefix": "3"}, "no piece of a word"),
        ({"prefix": ",".join(["10"] * 500)}, "cannot be continued"),
        ({"prefix": "1;2"}, "prefix cannot be used"),
        ({"prefix": "10", "beams": "3"}, "leave beams out"),
        ({"beams": "0"}, "beams cannot be used"),
        ({"beams": "1000"}, "beams cannot be used"),
    ],
)
def test_wrong_beginnings(client: TestClient, params: dict[str, str], words: str) -> None:
    response = client.post("/api/caption", params=params, content=SENT)
    assert response.status_code == 422
    assert words in response.json()["error"]
    for path in ("/api/explain", "/api/predict", "/api/verdict", "/api/matrix"):
        assert client.post(path, content=SENT).json()["code"] == "kind"


def test_an_error_on_the_way_is_told_in_the_stream(client: TestClient) -> None:
    messages = events(client.post("/api/caption", params={"stream": True, "prefix": "999999"}, content=SENT).text)
    assert [name for name, _ in messages] == ["error"]
    assert messages[0][1]["code"] == "cannot"


def test_decoding_stops_when_nobody_listens(folder: Path) -> None:
    state = app_state_of(folder)
    module = state.captioner("0").model.module
    steps, real = [0], module.step

    def slow(*arguments: Any) -> Any:
        steps[0] += 1
        time.sleep(0.3)
        step_result = real(*arguments)
        step_result.logits_BV[:, module.end] = -100
        return step_result

    module.step = slow
    longest = module.max_length - 1
    with run_in_thread(state) as address:
        host, _, port = address.removeprefix("http://").partition(":")
        with socket.create_connection((host, int(port))) as connection:
            head = (
                f"POST /api/caption?stream=true HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Length: {len(SENT)}\r\n\r\n"
            )
            connection.sendall(head.encode() + SENT)
            assert b"text/event-stream" in connection.recv(4096)
            until(lambda: steps[0] > 0)
        until(lambda: state.worker.running == ())
    assert steps[0] < longest
