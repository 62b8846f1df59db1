"""State dicts as training code saves them: deeper, beside other things, under other names; the transformer is found."""

from __future__ import annotations

import argparse
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from support.checkpoints import pixels
from support.format_makers import seeded
from support.readouts import require_true_readout
from torch import Tensor, nn

from vitrine.models.checkpoints.registry import convert, open_checkpoint
from vitrine.models.load import load_for_inference, load_model
from vitrine.models.reference import split_selection

State = dict[str, Tensor]
SIZES = {"img_size": 32, "patch_size": 16, "embed_dim": 32, "num_heads": 2, "depth": 3, "num_classes": 5}


def build(seed: int = 0, **settings: Any) -> nn.Module:
    torch.manual_seed(seed)
    return timm.create_model("vit_tiny_patch16_224", **SIZES | settings).eval()


def state(seed: int = 0) -> State:
    return dict(build(seed).state_dict())


def under(prefix: str, tensors: Mapping[str, Tensor]) -> State:
    return {f"{prefix}{name}": value for name, value in tensors.items()}


def in_chunks(tensors: Mapping[str, Tensor]) -> State:
    """Blocks in two chunks, as DINOv2's FSDP has them: blocks.0.0, blocks.0.1, blocks.1.2."""
    return {
        name.replace("blocks.0.", "blocks.0.0.").replace("blocks.1.", "blocks.0.1.").replace("blocks.2.", "blocks.1.2.")
        if name.startswith("blocks.")
        else name: value
        for name, value in tensors.items()
    }


NOISE = torch.ones(3)
LAYOUTS: dict[str, Callable[[State], Any]] = {
    "a loss beside it": lambda s: {"epoch": 3, "model_state_dict": s, "loss": torch.tensor(0.5)},
    "net and acc": lambda s: {"net": s, "acc": 91.2, "epoch": 7},
    "model_state": lambda s: {"model_state": s, "optimizer_state": {"state": {0: {"exp_avg": NOISE}}}},
    "DeepSpeed": lambda s: {"module": s, "buffer_names": [], "ds_version": "0.14.0", "loss_scaler": NOISE},
    "params": lambda s: {"params": s},
    "weights": lambda s: {"weights": OrderedDict(s), "args": argparse.Namespace(lr=1e-3)},
    "three deep": lambda s: {"checkpoint": {"network": {"state": s}}},
    "optimizer by name, larger": lambda s: {
        "optim": {name: value for i in range(4) for name, value in under(f"m{i}.", s).items() if "blocks" not in name},
        "net": s,
    },
    "Lightning": lambda s: {
        "state_dict": under("model.", s) | {"criterion.pos_weight": NOISE}, "pytorch-lightning_version": "2.4.0"
    },
    "Lightning and torch.compile": lambda s: {"state_dict": under("model._orig_mod.", s)},
    "backbone.0": lambda s: under("backbone.0.", s) | under("neck.", {"weight": NOISE}),
    "encoder": lambda s: {"encoder": s, "decoder": {"weight": NOISE}},
    "encoder as a prefix": lambda s: under("encoder.", s) | {"projector.0.weight": NOISE},
    "vit as a prefix": lambda s: under("vit.", s) | {"temperature": NOISE},
    "DistributedDataParallel": lambda s: under("module.", s),
    "a name of its own": lambda s: under("my_lovely_model.inner.", s),
    "DINOv2's chunks": lambda s: {"teacher": in_chunks(s)},
    "a decoder of MAE": lambda s: {
        "model": s | {"mask_token": NOISE} | under("decoder_", {"pos_embed": NOISE, "blocks.0.norm1.weight": NOISE})
    },
    "a head behind a dropout": lambda s: {
        name.replace("head.", "head.1."): value for name, value in s.items()
    },
}  # fmt: skip


@pytest.mark.parametrize("kind", LAYOUTS)
def test_the_transformer_is_found_wherever_it_lies(kind: str, tmp_path: Path) -> None:
    expected = state()
    torch.save(LAYOUTS[kind](expected), tmp_path / "w.pth")
    tensors = open_checkpoint(tmp_path / "w.pth").tensors()
    assert tensors.keys() == expected.keys()
    assert all(torch.equal(tensors[name], value) for name, value in expected.items())


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("Lightning", "criterion.pos_weight"),
        ("backbone.0", "neck.weight"),
        ("encoder as a prefix", "projector.0.weight"),
        ("a decoder of MAE", "decoder_pos_embed"),
    ],
)
def test_what_is_set_aside_is_named_in_one_line(kind: str, words: str, tmp_path: Path) -> None:
    torch.save(LAYOUTS[kind](state()), tmp_path / "w.pth")
    notes = [note for note in convert(open_checkpoint(tmp_path / "w.pth")).notes if "Left out" in note]
    assert len(notes) == 1 and words in notes[0] and "\n" not in notes[0]


PAIRS: dict[str, tuple[Callable[[State, State], Any], str]] = {
    # What is made of the state dict to take and another one that is as good; how the other one is asked for.
    "teacher and student": (lambda one, other: {"student": other, "teacher": one}, "student"),
    "ema and raw": (lambda one, other: {"model": other, "model_ema": one}, "model"),
    "timm's ema": (lambda one, other: {"state_dict": other, "state_dict_ema": one}, "state_dict"),
    "net and ema": (lambda one, other: {"net": other, "ema": one}, "net"),
    "MoCo v3": (
        lambda one, other: {
            "state_dict": under("module.momentum_encoder.", other) | under("module.base_encoder.", one)
        },
        "momentum_encoder",
    ),
    "Lightning with two": (
        lambda one, other: {"state_dict": under("student.", other) | under("teacher.", one)},
        "student",
    ),
}


@pytest.mark.parametrize("kind", PAIRS)
def test_of_two_that_are_as_good_one_is_said_to_be_taken_and_the_other_can_be(kind: str, tmp_path: Path) -> None:
    one, other, path = state(0), state(1), tmp_path / "w.pth"
    save, selection = PAIRS[kind]
    torch.save(save(one, other), path)
    file = open_checkpoint(path)
    assert torch.equal(file.tensors()["norm.weight"], one["norm.weight"])
    assert torch.equal(file.tensors()["patch_embed.proj.weight"], one["patch_embed.proj.weight"])
    notes = [note for note in file.notes if "was taken" in note]
    assert len(notes) == 1 and f"FILE#{selection}" in notes[0]
    path_again, asked = split_selection(f"{path}#{selection}")
    tensors = open_checkpoint(path_again, asked).tensors()
    assert torch.equal(tensors["patch_embed.proj.weight"], other["patch_embed.proj.weight"])


def test_a_projection_head_is_no_classifier(tmp_path: Path) -> None:
    projector = {"head.0.weight": torch.ones(8, 32), "head.2.weight": torch.ones(8, 8), "head.1.weight": torch.ones(8)}
    body = {name: value for name, value in state().items() if not name.startswith("head.")}
    save_file(body | projector, tmp_path / "w.safetensors")
    file = open_checkpoint(tmp_path / "w.safetensors")
    assert file.shapes.keys() == body.keys()
    assert "head." in " ".join(file.notes)


def test_half_a_model_is_never_loaded(tmp_path: Path) -> None:
    halved = {name: value for name, value in state().items() if not name.startswith("blocks.2.")}
    torch.save({"net": halved, "loss": NOISE}, tmp_path / "w.pth")
    with pytest.raises(Exception, match=r"blocks|missing"):
        load_model("vit_tiny_patch16_224", pretrained=str(tmp_path / "w.pth"), model_args=dict(SIZES))


def test_files_that_share_a_storage_open_and_say_the_same(tmp_path: Path) -> None:
    """Views and ties of every kind: the file is shorter than its tensors together."""
    expected = state()
    flat = torch.cat([value.flatten() for value in expected.values()])
    views, start = {}, 0
    for name, value in expected.items():
        views[name] = flat[start : start + value.numel()].view(value.shape)
        start += value.numel()
    packed = torch.randn(96, 32)
    cases = {
        "tied": expected | {"lm_head.weight": expected["head.weight"]},
        "a view of it": expected | {"again": expected["head.weight"].view_as(expected["head.weight"])},
        "one flat buffer": views,
        "chunks": expected | dict(zip(("q", "k", "v"), packed.chunk(3), strict=True)),
        "an expanded row": expected | {"row": torch.ones(1, 32).expand(7, 32)},
        "transposed": expected | {"t": expected["head.weight"].t()},
        "buffer and parameter": expected | {"p": nn.Parameter(expected["head.weight"])},
    }
    for name, tensors in cases.items():
        for zipped in (True, False):
            path = tmp_path / f"{name} {zipped}.pth"
            torch.save(tensors, path, _use_new_zipfile_serialization=zipped)
            file = open_checkpoint(path)
            assert file.shapes.keys() == tensors.keys(), name
            assert all(torch.equal(value, tensors[key]) for key, value in file.tensors().items()), name


@pytest.mark.parametrize("how", ["the file says it", "a person says it"])
def test_a_mean_pooled_model_answers_as_it_did(how: str, tmp_path: Path) -> None:
    module = build(global_pool="avg")
    assert "fc_norm.weight" in module.state_dict()
    torch.save({"model": module.state_dict()}, tmp_path / "mae.pth")
    args = SIZES | ({} if how == "the file says it" else {"global_pool": "avg"})
    args.pop("num_classes")
    text = "vit_tiny_patch16_224:" + ",".join(f"{name}={value}" for name, value in args.items())
    loaded = load_for_inference(tmp_path / "mae.pth", text)
    pixels = torch.randn(2, 3, 32, 32)
    assert torch.equal(loaded.module(pixels), module(pixels))
    assert any("mean of the patches" in note for note in loaded.notes) == (how == "the file says it")
    with pytest.raises(Exception, match="key=value"):
        load_for_inference(tmp_path / "mae.pth", "vit_tiny_patch16_224:global_pool")


def test_the_linear_classifier_of_dinov2_reads_class_token_and_mean(tmp_path: Path) -> None:
    """As DINOv2's _LinearClassifierWrapper computes it from one block; the one on four blocks is left out, by name."""
    args = {"img_size": 28, "embed_dim": 48, "depth": 2, "num_heads": 3}
    backbone = seeded(timm.create_model("vit_small_patch14_dinov2", num_classes=0, **args))
    head = seeded(nn.Linear(96, 5))
    tensors = under("backbone.", backbone.state_dict()) | under("linear_head.", head.state_dict())
    tensors |= {"backbone.mask_token": torch.zeros(1, 48)}
    torch.save(tensors, tmp_path / "lc.pth")
    arch = "vit_small_patch14_dinov2:img_size=28,embed_dim=48,depth=2,num_heads=3"
    model = load_for_inference(tmp_path / "lc.pth", arch)
    pixels_BCHW = pixels(28)
    with torch.no_grad():
        tokens = backbone.forward_features(pixels_BCHW)
        expected = head(torch.cat([tokens[:, 0], tokens[:, 1:].mean(dim=1)], dim=1))
        torch.testing.assert_close(model.module(pixels_BCHW), expected, rtol=1e-5, atol=1e-5)
    require_true_readout(model.module, pixels_BCHW)
    torch.save(tensors | {"linear_head.weight": torch.zeros(5, 5 * 48)}, tmp_path / "lc4.pth")
    model = load_for_inference(tmp_path / "lc4.pth", arch)
    assert model.module.num_classes == 0 and any("linear_head.{weight,bias}" in note for note in model.notes)
