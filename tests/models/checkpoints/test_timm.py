"""Weights in timm's names: which model they are of, by their shapes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from support.checkpoints import expect_error, meta_tensors, pixels
from support.format_makers import (
    CASES,
    IMAGENET,
    pretrained_vit,
)
from support.models import MICRO

from vitrine.models.checkpoints.timm import Dimensions, _normalisations, plain_vit
from vitrine.models.load import load_model


@pytest.mark.parametrize(
    ("width", "depth", "patch", "side", "name"),
    [
        (192, 12, 16, 224, "vit_tiny_patch16_224"),
        (384, 12, 16, 384, "vit_small_patch16_384"),
        (768, 12, 32, 224, "vit_base_patch32_224"),
        (768, 12, 8, 224, "vit_base_patch8_224"),
        (1024, 24, 16, 384, "vit_large_patch16_384"),
        (1024, 24, 32, 384, "vit_large_patch32_384"),
        (1280, 32, 14, 224, "vit_huge_patch14_224"),
    ],
)
def test_published_sizes_are_recognised_by_shapes(
    width: int, depth: int, patch: int, side: int, name: str, tmp_path: Path
) -> None:
    """Against timm's own models: the same tensors and the same number of heads, which no shape tells."""
    size = Dimensions(width, depth, 4 * width, patch, side // patch, 1)
    assert plain_vit(size, tmp_path) == (name, {}, ())
    with torch.device("meta"):
        theirs = timm.create_model(name)
    assert theirs.embed_dim == width and len(theirs.blocks) == depth
    usual = plain_vit(size, tmp_path, heads=theirs.blocks[0].attn.num_heads)
    assert usual == (name, {}, ()), "the published number of heads is timm's"


def test_a_size_that_was_not_published_is_built_from_its_numbers(tmp_path: Path) -> None:
    theirs = pretrained_vit(width=192, depth=3, heads=3)
    torch.save(theirs.state_dict(), tmp_path / "w.pth")
    model = load_model(str(tmp_path / "w.pth"), pretrained=True)
    assert any("3 were taken, of 64 channels each" in note for note in model.notes)
    assert model.module.eval()(pixels()).sub(theirs(pixels())).abs().max() < 1e-5


def test_heads_that_cannot_be_known_are_asked_for(tmp_path: Path) -> None:
    theirs = pretrained_vit(width=48, heads=3)
    torch.save(theirs.state_dict(), tmp_path / "w.pth")
    message = expect_error(
        tmp_path / "w.pth", "width 48 and 2 blocks, whose number of attention heads is not in the file"
    )
    assert "model_args.num_heads=N" in message
    model = load_model(str(tmp_path / "w.pth"), pretrained=True, model_args={"num_heads": 3})
    assert model.module.eval()(pixels()).sub(theirs(pixels())).abs().max() < 1e-5


def test_two_models_that_fit_are_listed(tmp_path: Path) -> None:
    """The tensors of vit_tiny_patch16_224 and deit_tiny_patch16_224 are the same, the pictures they want are not."""
    state = {name: torch.zeros(value.shape) for name, value in meta_tensors("vit_tiny_patch16_224").items()}
    save_file(state, tmp_path / "w.safetensors")
    message = expect_error(tmp_path / "w.safetensors", "fits 2 models")
    assert re.search(r"vit_tiny_patch16_224\.\w+ \(pictures normalised with mean 0\.5\)", message)
    assert re.search(r"deit_tiny_patch16_224\.\w+ \(pictures normalised with mean 0\.485\)", message)
    for name, mean in (("vit_tiny_patch16_224", 0.5), ("deit_tiny_patch16_224", 0.485)):
        assert load_model(name, pretrained=str(tmp_path / "w.safetensors")).input.mean[0] == mean


def test_the_name_in_a_checkpoint_of_timms_training_decides_between_models_that_fit(tmp_path: Path) -> None:
    """As timm's CheckpointSaver writes it; a name that none of them has, or that says no normalisation, does not."""
    state = {name: torch.zeros(value.shape) for name, value in meta_tensors("vit_tiny_patch16_224").items()}
    for name, mean in (("vit_tiny_patch16_224", 0.5), ("deit_tiny_patch16_224", 0.485)):
        torch.save({"epoch": 1, "arch": name, "state_dict": state, "version": 2}, tmp_path / "model_best.pth.tar")
        model = load_model(str(tmp_path / "model_best.pth.tar"), pretrained=True)
        assert (model.reference.architecture, model.input.mean[0]) == (name, mean)
        assert f"Of several models that fit, the file names {name} (arch)." in model.notes
    for arch in ("vit_small", "vit_base_patch16_224", 7, ["vit_tiny_patch16_224"], "\x1b[2J"):
        torch.save({"arch": arch, "state_dict": state}, tmp_path / "other.pth")
        expect_error(tmp_path / "other.pth", "fits 2 models")


def test_one_name_whose_tags_want_other_pictures_is_several_models() -> None:
    means = dict(_normalisations("vit_small_patch16_224"))
    assert means["vit_small_patch16_224.dino"] == IMAGENET and (0.5, 0.5, 0.5) in means.values() and len(means) == 2


def test_a_file_of_timms_names_that_no_model_fits(tmp_path: Path) -> None:
    save_file(timm.create_model("vit_tiny_patch16_224", **MICRO).state_dict(), tmp_path / "w.safetensors")
    expect_error(tmp_path / "w.safetensors", "a model 32 wide with 2 blocks and patches of 8 px, and no model")
    torch.save({"conv1.weight": torch.zeros(64, 3, 7, 7)}, tmp_path / "resnet.pth")
    expect_error(tmp_path / "resnet.pth", r"its names \(conv1\.weight \.\.\.\) do not say which model")


def test_a_folder_whose_head_is_gone_is_not_opened_with_another(tmp_path: Path) -> None:
    """Its configuration says the number of classes: a head made up from that would answer at random."""
    CASES["timm folder"](tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    save_file({n: v for n, v in weights.items() if n != "head.bias"}, tmp_path / "model.safetensors")
    expect_error(tmp_path, r"1 tensor is missing \(head\.bias\)")
