"""One model in several formats: the verbs say the same of each; and from a hub, in the formats of two libraries."""

from __future__ import annotations

import csv
import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from support.format_makers import (
    IMAGENET,
    PETS,
    google_arrays,
    pretrained_vit,
    seeded,
    transformers_folder,
    transformers_model,
)
from support.stand_in_hub import StandInHub
from support.training import recipe
from torch import nn

import vitrine
from vitrine.classify.evaluate import evaluate
from vitrine.classify.knn import knn
from vitrine.classify.model import open_classifier
from vitrine.classify.predict import predict
from vitrine.errors import ModelError, WeightsUnavailableError
from vitrine.explain.positions import positions
from vitrine.export.run import export
from vitrine.models.load import load_model
from vitrine.train.run import train

LABELS = ("0", "1", "2")
ARGS = {"img_size": 32, "patch_size": 8, "embed_dim": 128, "depth": 2, "num_heads": 2, "num_classes": 3}
FORMATS = ("timm folder", "timm file", "PyTorch-Pretrained-ViT", "Google's .npz", "transformers")


def split_in_three(state: dict[str, torch.Tensor], name: str, targets: list[str]) -> dict[str, torch.Tensor]:
    return dict(zip(targets, state[name].chunk(3), strict=True))


def as_pretrained_vit(state: dict[str, torch.Tensor]) -> nn.Module:
    """The package's own model with these weights."""
    tensors = {
        "class_token": state["cls_token"],
        "positional_embedding.pos_embedding": state["pos_embed"],
        **{f"patch_embedding.{kind}": state[f"patch_embed.proj.{kind}"] for kind in ("weight", "bias")},
        **{f"norm.{kind}": state[f"norm.{kind}"] for kind in ("weight", "bias")},
        **{f"fc.{kind}": state[f"head.{kind}"] for kind in ("weight", "bias")},
    }
    for i in range(2):
        there, here = f"transformer.blocks.{i}.", f"blocks.{i}."
        for kind in ("weight", "bias"):
            targets = [f"{there}attn.proj_{letter}.{kind}" for letter in "qkv"]
            tensors |= split_in_three(state, f"{here}attn.qkv.{kind}", targets)
            for theirs, ours in (("proj", "attn.proj"), ("pwff.fc1", "mlp.fc1"), ("pwff.fc2", "mlp.fc2")):
                tensors[f"{there}{theirs}.{kind}"] = state[f"{here}{ours}.{kind}"]
            for norm in ("norm1", "norm2"):
                tensors[f"{there}{norm}.{kind}"] = state[f"{here}{norm}.{kind}"]
    module = pretrained_vit(classes=3)
    module.load_state_dict(tensors)
    return module


def as_transformers(state: dict[str, torch.Tensor]) -> nn.Module:
    """transformers' own model with these weights, under the names that its modules have."""
    labels = {"id2label": dict(enumerate(LABELS)), "label2id": {label: i for i, label in enumerate(LABELS)}}
    sizes = {"hidden_size": 128, "num_attention_heads": 2, "intermediate_size": 512, "layer_norm_eps": 1e-6}
    module = transformers_model("ViTForImageClassification", **labels, **sizes)
    tensors = {
        "vit.embeddings.cls_token": state["cls_token"],
        "vit.embeddings.position_embeddings": state["pos_embed"],
    }
    for kind in ("weight", "bias"):
        tensors[f"vit.embeddings.patch_embeddings.projection.{kind}"] = state[f"patch_embed.proj.{kind}"]
        tensors[f"vit.layernorm.{kind}"] = state[f"norm.{kind}"]
        tensors[f"classifier.{kind}"] = state[f"head.{kind}"]
        for i in range(2):
            there, here = f"vit.layers.{i}.", f"blocks.{i}."
            targets = [f"{there}attention.{letter}_proj.{kind}" for letter in "qkv"]
            tensors |= split_in_three(state, f"{here}attn.qkv.{kind}", targets)
            for theirs, ours in (
                ("attention.o_proj", "attn.proj"), ("layernorm_before", "norm1"), ("layernorm_after", "norm2"),
                ("mlp.fc1", "mlp.fc1"), ("mlp.fc2", "mlp.fc2"),
            ):  # fmt: skip
                tensors[f"{there}{theirs}.{kind}"] = state[f"{here}{ours}.{kind}"]
    module.load_state_dict(tensors)
    return module


@pytest.fixture(scope="module")
def references(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The same weights five times."""
    base = tmp_path_factory.mktemp("formats")
    ours = seeded(timm.create_model("vit_base_patch16_224", **ARGS))
    with torch.no_grad():
        ours.head.bias.copy_(torch.tensor([0.0, 0.0, -0.7]))  # so that the pictures below are of more than one label
    state = ours.state_dict()
    data = {"mean": (0.5,) * 3, "std": (0.5,) * 3, "crop_pct": 1.0, "input_size": (3, 32, 32)}
    config = {"model_args": ARGS, "label_names": list(LABELS)}
    for name in ("folder", "file"):
        timm.models.save_for_hf(ours, str(base / name), model_config=config, data_config=data, safe_serialization=True)
    (base / "file" / "model.safetensors").unlink()
    save_file(state, base / "file" / "epoch-7.safetensors")
    torch.save({"model": as_pretrained_vit(state).state_dict()}, base / "pets.pth")
    np.savez(base / "pets.npz", **google_arrays({name: value.numpy() for name, value in state.items()}, 2))
    as_transformers(state).save_pretrained(base / "transformers")
    transformers = pytest.importorskip("transformers", reason="transformers is not installed (vitrine[hf])")
    sizes = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    half = {"image_mean": (0.5,) * 3, "image_std": (0.5,) * 3}
    transformers.BitImageProcessor(**sizes, **half).save_pretrained(base / "transformers")
    paths = (
        base / "folder",
        base / "file" / "epoch-7.safetensors",
        base / "pets.pth",
        base / "pets.npz",
        base / "transformers",
    )
    return dict(zip(FORMATS, map(str, paths), strict=True))  # fmt: skip


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders of noise, four pictures each, none of them square."""
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(4)
    for label in LABELS:
        (folder / label).mkdir()
        for i in range(4):
            noise = rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)
            Image.fromarray(noise).resize((60 + 5 * i, 44), Image.Resampling.BICUBIC).save(folder / label / f"{i}.png")
    return folder


@pytest.mark.parametrize("name", FORMATS[1:])
def test_every_verb_says_the_same_of_one_model_in_each_format(
    name: str, references: dict[str, str], pictures: Path, tmp_path: Path
) -> None:
    first, other = references[FORMATS[0]], references[name]

    for number, reference in enumerate((first, other)):
        predict(reference, pictures, tmp_path / f"{number}.csv", probabilities=True, precision="fp32")
    tables = [list(csv.reader((tmp_path / f"{number}.csv").open(encoding="utf-8"))) for number in (0, 1)]
    assert len(tables[0]) == 13 and len({row[1] for row in tables[0][1:]}) > 1
    for row, same in zip(*tables, strict=True):
        assert row[:2] == same[:2]
        assert [float(v) for v in row[2:] if v[0].isdigit()] == pytest.approx(
            [float(v) for v in same[2:] if v[0].isdigit()], abs=2e-5
        )

    metrics = [evaluate(reference, str(pictures), precision="fp32").metrics for reference in (first, other)]
    assert metrics[0].n == metrics[1].n and metrics[0].accuracy == metrics[1].accuracy

    maps = [vitrine.load(reference, precision="fp32").explain(pictures / "1" / "2.png") for reference in (first, other)]
    np.testing.assert_allclose(maps[1].map, maps[0].map, rtol=1e-4, atol=1e-6)

    figures = [positions(reference, tmp_path / f"{number}.png") for number, reference in enumerate((first, other))]
    assert figures[1].findings.sentence == figures[0].findings.sentence


@pytest.mark.parametrize("kind", ["DINOv3ViTModel", "SiglipModel"])
def test_a_tower_without_a_head_is_for_neighbours_and_for_training(kind: str, pictures: Path, tmp_path: Path) -> None:
    tower = tmp_path / "tower"
    transformers_model(kind).save_pretrained(tower)
    assert knn(str(tower), str(pictures), precision="fp32").feature_count == 48
    with pytest.raises(ModelError, match="has no classification head"):
        vitrine.load(str(tower))
    if kind == "DINOv3ViTModel":
        with pytest.raises(ModelError, match="it has rotary position embeddings"):
            positions(str(tower), tmp_path / "positions.png")
    else:
        assert "neighbours" in positions(str(tower), tmp_path / "positions.png").sentence
    settings = {"model": str(tower), "pretrained": True, "model_args": {}, "image_size": 0, "epochs": 1}
    train(str(pictures), recipe(**settings), tmp_path / "run")
    seen = vitrine.load(str(tmp_path / "run"), precision="fp32").explain(pictures / "1" / "2.png")
    assert seen.map.shape == (4, 4)
    with pytest.raises(ModelError, match=r"transformers' ViT and DeiT cannot hold this model: .*\n.*--to timm"):
        export(tmp_path / "run", "hf", tmp_path / "exported")


# --- a hub


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[dict[str, Path]], StandInHub]]:
    """Start the stand-in with repositories; the client looks there, and nowhere else, until it is stopped."""
    from huggingface_hub import constants

    stand_in = StandInHub()
    with stand_in.running():

        def serve(repositories: dict[str, Path]) -> StandInHub:
            stand_in.repositories |= repositories
            return stand_in

        template = stand_in.address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", stand_in.address)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setenv("VITRINE_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield serve


def unplug(monkeypatch: pytest.MonkeyPatch) -> None:
    """No hub any more: an endpoint at which nobody listens."""
    from huggingface_hub import constants

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{free.getsockname()[1]}")


Serve = Callable[[dict[str, Path]], StandInHub]


def test_a_transformers_model_comes_from_the_hub_and_then_from_the_cache(
    hub: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "there").mkdir()
    case = transformers_folder("DeiTForImageClassification")(tmp_path / "there")
    requests = hub({"owner/deit": tmp_path / "there"}).requests
    first = open_classifier("hf-hub:owner/deit", "fp32")
    assert "GET owner/deit/preprocessor_config.json" in requests and "GET owner/deit/model.safetensors" in requests
    assert first.weights is not None and first.weights.origin == "hf-hub:owner/deit/model.safetensors"
    unplug(monkeypatch)
    again = open_classifier("hf-hub:owner/deit", "fp32")
    pixels = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    for one in (first, again):
        assert (one.labels, one.spec.mean, one.spec.crop) == (PETS, IMAGENET, 0.8)
        with torch.no_grad():
            torch.testing.assert_close(one.module(pixels), case.logits(pixels), rtol=1e-5, atol=1e-5)


def test_a_repository_without_processor_is_known_to_have_none(
    hub: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "there").mkdir()
    transformers_folder("ViTForImageClassification")(tmp_path / "there")
    (tmp_path / "there" / "preprocessor_config.json").unlink()
    hub({"owner/bare": tmp_path / "there"})
    for _ in range(2):  # from the hub, and from what the cache remembers of its answer
        assert any(
            "no preprocessor_config.json" in note for note in load_model("hf-hub:owner/bare", pretrained=True).notes
        )
        unplug(monkeypatch)


def test_the_processor_of_a_whole_model_comes_from_the_hub_too(
    hub: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """processor_config.json, where version 5 of transformers writes it for models of pictures and text."""
    there = tmp_path / "there"
    transformers_model("CLIPVisionModel").save_pretrained(there)
    processor = {"image_processor_type": "CLIPImageProcessor", "size": 40, "crop_size": 32}
    (there / "processor_config.json").write_text(json.dumps({"image_processor": processor}))
    hub({"owner/clip": there})
    for _ in range(2):  # from the hub, and from the cache
        assert load_model("hf-hub:owner/clip", pretrained=True).input.crop == 0.8
        unplug(monkeypatch)


def test_a_processor_that_was_never_asked_for_is_not_taken_for_absent(
    hub: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without it pictures would be normalised otherwise, in silence."""
    (tmp_path / "there").mkdir()
    transformers_folder("DeiTForImageClassification")(tmp_path / "there")
    hub({"owner/deit": tmp_path / "there"})
    load_model("hf-hub:owner/deit", pretrained=True)
    for path in (tmp_path / "cache").rglob("preprocessor_config.json"):
        path.unlink()
    unplug(monkeypatch)
    with pytest.raises(WeightsUnavailableError, match=r"preprocessor_config\.json of owner/deit is needed"):
        load_model("hf-hub:owner/deit", pretrained=True)
