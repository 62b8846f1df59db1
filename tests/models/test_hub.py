"""Pretrained weights from a hub: said where from, kept in one folder, refused in two lines where they cannot be had."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import timm
import torch
from support.models import MICRO
from support.paths import TESTS
from support.stand_in_hub import Fault, StandInHub

from vitrine.data.scenes import write_scenes
from vitrine.errors import ModelError, WeightsUnavailableError
from vitrine.io.files import file_sha256
from vitrine.models.hub import _reachable
from vitrine.models.load import load_model, resolve_with_weights

REGISTERED = "test_vit.r160_in1k"  # the smallest vision transformer that timm has weights for


def save_for_hub(folder: Path, name: str, model_args: dict[str, int]) -> Path:
    """A timm model as timm itself puts it on the hub."""
    torch.manual_seed(7)
    module = timm.create_model(name, **model_args)
    timm.models.save_for_hf(module, str(folder), model_config={"model_args": model_args}, safe_serialization=True)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    base = tmp_path_factory.mktemp("hub")
    return {
        "owner/tiny": save_for_hub(base / "tiny", "vit_tiny_patch16_224", {**MICRO, "num_classes": 5}),
        f"timm/{REGISTERED}": save_for_hub(base / "registered", REGISTERED, {}),
    }


@pytest.fixture(scope="module")
def pets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Flat files {label}_{id}, as in the reference job."""
    return write_scenes(
        tmp_path_factory.mktemp("data") / "pets", "base", {"train": 24, "validation": 16}, size=32, layout="flat"
    )


@pytest.fixture
def hub(folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandInHub]:
    from huggingface_hub import constants

    with StandInHub(dict(folders)).running() as running:
        monkeypatch.setattr(constants, "ENDPOINT", running.address)
        template = running.address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setenv("VITRINE_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield running


@pytest.fixture
def no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An endpoint at which nobody listens; and a client that must not be entered, because it retries."""
    from huggingface_hub import constants, file_download

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("the hub's client was asked although the hub cannot be reached")

    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(file_download, "get_hf_file_metadata", fail)
    monkeypatch.setattr(file_download, "http_get", fail)
    monkeypatch.setenv("VITRINE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return address


def test_without_network_the_reference_job_says_what_is_missing(
    no_network: str, pets: Path, tmp_path: Path, vitrine_command: Callable[..., tuple[int, str, str]]
) -> None:
    status, out, error = vitrine_command("train", pets, "--recipe", "pets-b16-224-bs16", "-o", tmp_path / "run")
    message = error[error.index("vitrine: ") :].strip()
    assert (status, out) == (2, "")
    assert len(message.splitlines()) == 2 and "Traceback" not in error
    assert "model.safetensors of timm/vit_base_patch16_224.orig_in21k is needed" in message  # which file
    assert str(tmp_path / "cache" / "hub") in message and f"{no_network} cannot be reached" in message  # looked where
    assert "--set pretrained=FILE" in message and "--set pretrained=false" in message  # what to do
    assert "--set model=vitrine/scenes-tiny" in message and "--recipe scratch-tiny" in message  # and how to go on
    assert not (tmp_path / "run" / "recipe.toml").exists(), "nothing was begun"
    status, _, error = vitrine_command("train", pets, "-o", tmp_path / "default")
    name = "vit_small_patch16_224.augreg_in21k_ft_in1k"
    assert status == 2 and f"model.safetensors of timm/{name} is needed" in error and len(error.splitlines()) == 2


def test_without_network_a_hub_id_asks_for_the_whole_folder(no_network: str) -> None:
    with pytest.raises(WeightsUnavailableError, match=r"config\.json of owner/tiny .*(?s:.*)give that folder as the"):
        load_model("hf-hub:owner/tiny", pretrained=True)
    with pytest.raises(WeightsUnavailableError, match=r"model\.safetensors of timm/test_vit"):
        resolve_with_weights(REGISTERED, pretrained=True)
    resolve_with_weights(REGISTERED, pretrained=False)


def test_a_network_that_was_turned_off_is_named(no_network: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsUnavailableError, match="the network was turned off"):
        load_model(REGISTERED, pretrained=True)


def test_a_dead_proxy_is_no_network(no_network: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "")
    monkeypatch.setenv("https_proxy", no_network.removeprefix("http://"))
    assert not _reachable("https://hub.example")
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("https_proxy", f"http://user:secret@127.0.0.1:{server.getsockname()[1]}")
        assert _reachable("https://hub.example")


# The command line, without figures beside the run.
COMMAND = """
import vitrine.train.run
from support.card_figures import without_card_figures
from vitrine.cli import main
with without_card_figures():
    main()
"""


def test_the_same_command_succeeds_with_a_hub_and_then_from_the_cache(
    folders: dict[str, Path],
    no_network: str,
    pets: Path,
    tmp_path: Path,
    vitrine_command: Callable[..., tuple[int, str, str]],
) -> None:
    """First in a new Python, so that the endpoint is read as huggingface_hub reads it, then where there is none."""
    settings = "model=hf-hub:owner/tiny image_size=32 epochs=1 workers=0 precision=fp32"
    command = ("train", pets, "--recipe", "pets-b16-224-bs16", "--set", settings, "-o")
    paths = os.pathsep.join(filter(None, (str(TESTS), os.environ.get("PYTHONPATH"))))
    with StandInHub(dict(folders)).running() as hub:
        done = subprocess.run(
            [sys.executable, "-c", COMMAND, *command, tmp_path / "first"],
            env={**os.environ, "PYTHONPATH": paths, "HF_ENDPOINT": hub.address, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert "GET owner/tiny/model.safetensors" in hub.requests
    path = next((tmp_path / "cache" / "hub").rglob("model.safetensors"))
    assert f"Starting weights: {path} (hf-hub:owner/tiny/model.safetensors)." in done.stderr
    assert "The classification head is new, for 12 classes; the one in the weights, for 5 classes, is left out." in (
        done.stderr
    )
    weights = json.loads((tmp_path / "first" / "environment.json").read_text())["starting_weights"]
    assert weights["origin"] == "hf-hub:owner/tiny/model.safetensors"
    assert weights["sha256"] == file_sha256(folders["owner/tiny"] / "model.safetensors")

    status, _, error = vitrine_command(*command, tmp_path / "second")
    assert status == 0, error
    for name in ("history.jsonl", "model.safetensors"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()


def test_a_registered_name_is_fetched_from_its_own_repository(hub: StandInHub, folders: dict[str, Path]) -> None:
    model = load_model(REGISTERED, pretrained=True)
    assert f"GET timm/{REGISTERED}/model.safetensors" in hub.requests
    assert model.weights is not None and model.weights.origin == f"hf-hub:timm/{REGISTERED}/model.safetensors"
    there = timm.create_model(f"local-dir:{folders[f'timm/{REGISTERED}']}", pretrained=True).state_dict()
    assert all(torch.equal(there[name], tensor) for name, tensor in model.module.state_dict().items())


def test_a_revision_is_asked_for(hub: StandInHub) -> None:
    assert load_model("hf-hub:owner/tiny@v2", pretrained=True).module.num_classes == 5


def test_a_repository_that_does_not_exist(hub: StandInHub) -> None:
    with pytest.raises(
        WeightsUnavailableError, match=r"config\.json of owner/nobody .*(?i:repository not found)"
    ) as error:
        load_model("hf-hub:owner/nobody", pretrained=True)
    assert len(str(error.value).splitlines()) == 2


def test_a_repository_without_weights(hub: StandInHub, folders: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "config.json").write_bytes((folders["owner/tiny"] / "config.json").read_bytes())
    hub.repositories["owner/bare"] = tmp_path / "bare"
    with pytest.raises(WeightsUnavailableError, match=r"has no model\.safetensors or pytorch_model\.bin"):
        load_model("hf-hub:owner/bare", pretrained=True)


def test_a_download_that_is_cut_off_is_not_kept(hub: StandInHub, tmp_path: Path) -> None:
    hub.faults["model.safetensors"] = Fault(sent=0.5, is_short=True)
    with pytest.raises(WeightsUnavailableError, match="should be of size") as error:
        load_model("hf-hub:owner/tiny", pretrained=True)
    assert len(str(error.value).splitlines()) == 2
    assert "HEAD owner/tiny/pytorch_model.bin" not in hub.requests, "the reason would be lost behind another file's"
    hub.faults.clear()
    assert load_model("hf-hub:owner/tiny", pretrained=True).weights is not None


@pytest.mark.parametrize("content", [b"", b"<html>log in</html>", b"\xff" * 64, b"\x02\0\0\0\0\0\0\0{}"])
def test_what_is_no_weights_file(content: bytes, hub: StandInHub, folders: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_bytes((folders["owner/tiny"] / "config.json").read_bytes())
    (tmp_path / "broken" / "model.safetensors").write_bytes(content)
    hub.repositories["owner/broken"] = tmp_path / "broken"
    with pytest.raises(ModelError, match=r"model\.safetensors") as error:
        load_model("hf-hub:owner/broken", pretrained=True)
    assert len(str(error.value).splitlines()) == 2


def test_a_repository_of_another_library(hub: StandInHub, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text('{"architectures": ["ViTForImageClassification"]}')
    hub.repositories["owner/other"] = tmp_path / "other"
    with pytest.raises(ModelError, match="is not a timm model description"):
        load_model("hf-hub:owner/other", pretrained=True)
