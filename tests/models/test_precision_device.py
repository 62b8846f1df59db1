"""The device that models are opened on, where one is named."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.tiny_vlms import photographs, save_tiny_vlm

import vitrine
from vitrine.classify import model as classify_model
from vitrine.data.scenes import write_scenes
from vitrine.errors import UsageError
from vitrine.models.precision import default_device, on_device
from vitrine.models.vlm.load import open_vision_language_model
from vitrine.serve.server import open_app_state
from vitrine.serve.settings import ServeSettings

Command = Callable[..., tuple[int, str, str]]


def test_a_named_device_goes_before_the_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert default_device() == torch.device("cuda")
    with on_device("cpu"):
        assert default_device() == torch.device("cpu")
        with on_device("cuda:1"):
            assert default_device() == torch.device("cuda:1")
        with on_device(None):
            assert default_device() == torch.device("cuda")
    assert default_device() == torch.device("cuda")
    with (
        pytest.raises(UsageError, match=r"--device cuda:2 cannot be used: this machine has cpu.*cuda:1"),
        on_device("cuda:2"),
    ):
        pass


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A vision-language model whose answers are short, a photograph, and scenes that say where things are."""
    folder = tmp_path_factory.mktemp("device")
    save_tiny_vlm("llava", folder / "model")
    config = json.loads((folder / "model" / "config.json").read_text())
    config["text_config"]["max_position_embeddings"] = 64  # answers of random weights hardly ever end
    (folder / "model" / "config.json").write_text(json.dumps(config))
    photographs((40, 40))[0].save(folder / "a.png")
    write_scenes(folder / "scenes", "base", {"test": 3}, size=32)
    return folder


CALLS: dict[str, tuple[str, ...]] = {
    "ask": ("ask", "model", "a.png", "What?", "-o", "answer.png", "--max-pieces", "2"),
    "caption": ("caption", "model", "a.png", "-o", "captions", "--max-pieces", "2", "--replace"),
    "evaluate": ("evaluate", "model", "scenes", "--grounding", "--readings", "attention"),
    "serve": ("serve", "model"),
}


@pytest.fixture
def call(folder: Path, vitrine_command: Command, monkeypatch: pytest.MonkeyPatch) -> Command:
    """A verb of :data:`CALLS` with more options, in the folder; the server has models and no address."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr("vitrine.serve.server.run_server", lambda state, on_ready: on_ready("served"))
    return lambda verb, *options: vitrine_command(*CALLS[verb], *options)


@pytest.mark.skipif(torch.cuda.is_available(), reason="This machine has a GPU.")
@pytest.mark.parametrize("verb", CALLS)
def test_every_verb_of_these_models_spreads_one(verb: str, call: Command) -> None:
    status, out, err = call(verb, "--device", "auto")
    assert status == 0 and out
    assert "Devices: all of this model is in memory, on the CPU; this machine has no GPU." in err


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--device", "tpu"), "--device tpu cannot be used: this machine has cpu"),
        (("--precision", "8bit"), "--precision 8bit cannot be used: expected"),
        (("--precision", "4bit"), "need the library bitsandbytes"),
    ],
    ids=["device", "precision", "library"],
)
@pytest.mark.parametrize("verb", CALLS)
def test_what_is_not_here_is_a_sentence(
    verb: str, options: tuple[str, ...], sentence: str, call: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    status, out, err = call(verb, *options)
    assert status == 2 and sentence in err and not out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("evaluate", "vitrine/scenes-tiny", "scenes"), "--precision 4bit is of vision-language models"),
        (("serve", "vitrine/scenes-tiny"), "--precision 4bit is of vision-language models"),
        (("serve", "model", "vitrine/scenes-tiny"), "vitrine/scenes-tiny is none: give fp32 or bf16."),
        (("predict", "vitrine/scenes-tiny", "a.png", "-o", "p.csv"), "--precision 4bit is of vision-language models"),
        (("predict", "model", "a.png", "-o", "p.csv"), "model is a captioner, which has no classes"),
    ],
    ids=["evaluate", "serve", "serve two", "predict", "predict by a captioner"],
)
def test_other_models_are_not_in_4_bits(
    words: tuple[str, ...], sentence: str, call: Command, vitrine_command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vitrine.caption.model.open_vision_language_model", open_in_fp32)
    status, _, err = vitrine_command(*words, "--precision", "4bit")
    assert status == 2 and sentence in err


def open_in_fp32(reference: str, precision: str, devices: Any) -> Any:
    """The model as if it were in another precision."""
    assert precision == "4bit"
    return open_vision_language_model(reference, "fp32", devices)


def test_classifiers_go_to_the_device_that_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in for two GPUs: which device was meant is written down, and the model is put on the CPU."""
    names: list[str | None] = []
    place = classify_model.place_on_device

    def place_on_cpu(*arguments: Any) -> Any:
        names.append(str(default_device()))
        with on_device("cpu"):
            return place(*arguments)

    monkeypatch.setattr(classify_model, "place_on_device", place_on_cpu)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    open_app_state(["vitrine/scenes-tiny"], ServeSettings(), device="cuda:1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    vitrine.evaluate("vitrine/scenes-tiny", folder / "scenes", device="cpu", quiet=True)
    assert names == ["cuda:1", "cpu"]


@pytest.mark.parametrize("call", ["ask", "evaluate", "caption"])
def test_a_device_is_of_a_model_that_is_opened(call: str, folder: Path) -> None:
    model = vitrine.load(folder / "model")
    more = {"ask": (folder / "a.png", "What?"), "evaluate": (folder / "scenes",), "caption": (folder / "a.png",)}
    with pytest.raises(UsageError, match="open already"):
        getattr(vitrine, call)(model, *more[call], device="cpu", quiet=True)


def test_an_open_model_keeps_its_precision(folder: Path) -> None:
    model = vitrine.load(folder / "model", precision="bf16")
    assert vitrine.evaluate(model, folder / "scenes", quiet=True).precision == "bf16"
    for other in ("fp32", "4bit"):
        with pytest.raises(UsageError, match=f"is open in bf16.*leave precision {other} out"):
            vitrine.evaluate(model, folder / "scenes", precision=other, quiet=True)
