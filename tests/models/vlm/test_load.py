"""Vision-language models from a repository of the hub, and from weights in several files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors.torch import load_file
from support.stand_in_hub import StandInHub
from support.tiny_vlms import QUERIES, photographs, save_tiny_vlm

from vitrine.errors import ModelError, WeightsUnavailableError
from vitrine.models.kind import captioner_kind
from vitrine.models.vlm.load import open_vision_language_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vlm")
    model = save_tiny_vlm("idefics3", folder)  # it comes with a chat template
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="60KB")
    (folder / "modeling_stolen.py").write_text("raise SystemExit('this was run')")
    return folder


@pytest.fixture
def hub(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandInHub]:
    from huggingface_hub import constants

    with StandInHub({"owner/idefics": folder}).running() as running:
        monkeypatch.setattr(constants, "ENDPOINT", running.address)
        template = running.address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setenv("VITRINE_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield running


def test_a_repository_of_the_hub_with_its_weights_in_several_files(
    hub: StandInHub, folder: Path, tmp_path: Path
) -> None:
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    assert captioner_kind("hf-hub:owner/idefics") == "vision-language"
    opened = open_vision_language_model("hf-hub:owner/idefics")
    assert opened.weights.origin == "hf-hub:owner/idefics/model.safetensors.index.json"
    assert opened.weights.path.is_relative_to(tmp_path / "cache" / "hub")
    assert "Assistant:" in opened.transform.text, "its chat template was not fetched"
    assert not any(request.endswith(".py") for request in hub.requests)
    weights = {name: value for part in folder.glob("model-*.safetensors") for name, value in load_file(part).items()}
    own = dict(opened.module.model.named_parameters())
    assert own["lm_head.weight"].equal(weights["lm_head.weight"])


def test_a_part_of_the_weights_that_is_missing(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "model"
    copy.mkdir()
    parts = sorted(folder.glob("model-*.safetensors"))
    for path in folder.iterdir():
        if path != parts[0]:
            (copy / path.name).symlink_to(path)
    with pytest.raises(ModelError, match=r"1 of the .* files .* names is missing"):
        open_vision_language_model(str(copy))


def test_a_repository_that_is_not_there(hub: StandInHub) -> None:
    with pytest.raises(WeightsUnavailableError, match="owner/nobody"):
        open_vision_language_model("hf-hub:owner/nobody")


def test_a_type_that_is_not_known_is_refused_with_what_can_be_read(tmp_path: Path) -> None:
    """Before any weight is looked at."""
    content = {"model_type": "mllama", "vision_config": {"patch_size": 14, "model_type": "mllama_vision_model"}}
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(ModelError) as error:
        open_vision_language_model(str(tmp_path))
    for fact in ("'mllama'", "mllama_vision_model", "patches of 14 pixels", "no image token", "qwen2_5_vl"):
        assert fact in str(error.value)


def test_a_processor_with_a_folder_of_its_own_comes_from_the_hub_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """InstructBLIP has a second tokenizer, for its query tokens."""
    from huggingface_hub import constants

    save_tiny_vlm("instructblip", tmp_path / "model")
    with StandInHub({"owner/instructblip": tmp_path / "model"}).running() as running:
        monkeypatch.setattr(constants, "ENDPOINT", running.address)
        template = running.address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setenv("VITRINE_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        opened = open_vision_language_model("hf-hub:owner/instructblip")
    prompt = opened.transform(photographs((40, 30))[0])
    assert opened.transform.question == "A short image description:"
    assert prompt.tensors["qformer_input_ids"].shape[1] > 1 and len(prompt.places_N) == QUERIES
