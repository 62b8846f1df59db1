"""Checkpoints of torchvision and DINO: normalisation, crop, and what a teacher is."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from support.checkpoints import expect_error, pixels
from support.format_makers import (
    IMAGENET,
    seeded,
    torchvision_vit,
)
from support.inputs import square_input
from support.models import MICRO
from torch import nn
from torchvision.models import VisionTransformer as TorchvisionTransformer
from torchvision.models import (
    ViT_B_16_Weights,
    ViT_B_32_Weights,
    ViT_H_14_Weights,
    ViT_L_16_Weights,
    ViT_L_32_Weights,
)

from vitrine.classify.model import open_classifier
from vitrine.data.transforms import EvalTransform
from vitrine.errors import ModelError
from vitrine.models.checkpoints.base import ConvertedCheckpoint
from vitrine.models.checkpoints.state_dict import StateDictFile
from vitrine.models.checkpoints.torchvision_dino import describe_torchvision
from vitrine.models.load import load_model


def test_weights_put_into_a_named_model_bring_their_normalisation(tmp_path: Path) -> None:
    case = torchvision_vit()(tmp_path)
    model_args = {**MICRO, "embed_dim": 128, "num_heads": 2, "mlp_ratio": 2}
    model = load_model("vit_tiny_patch16_224", pretrained=str(case.reference), model_args=model_args)
    assert model.input.mean == IMAGENET
    assert any("normalised as torchvision does (mean 0.485, 0.456, 0.406)" in note for note in model.notes)
    assert model.module.eval()(pixels()).sub(case.logits(pixels())).abs().max() < 1e-5


@pytest.mark.parametrize("place", ["heads", "heads.head"])
@pytest.mark.parametrize("layers", ["linear", "sequential", "dropout"])
def test_a_head_of_ones_own_in_place_of_torchvisions(layers: str, place: str, tmp_path: Path) -> None:
    theirs = TorchvisionTransformer(32, 8, 2, 2, 128, 256)
    linear = nn.Linear(128, 5)
    head = {"linear": linear, "sequential": nn.Sequential(linear), "dropout": nn.Sequential(nn.Dropout(), linear)}[
        layers
    ]
    setattr(theirs if place == "heads" else theirs.heads, place.rpartition(".")[2], head)
    seeded(theirs)
    torch.save(theirs.state_dict(), tmp_path / "vit.pth")
    module = open_classifier(str(tmp_path / "vit.pth"), "fp32").module
    with torch.no_grad():
        torch.testing.assert_close(module(pixels()), theirs(pixels()), rtol=1e-5, atol=1e-5)


def test_a_head_of_two_layers_is_an_error(tmp_path: Path) -> None:
    theirs = TorchvisionTransformer(32, 8, 2, 2, 128, 256)
    theirs.heads = nn.Sequential(nn.Linear(128, 64), nn.GELU(), nn.Linear(64, 5))
    torch.save(theirs.state_dict(), tmp_path / "vit.pth")
    expect_error(tmp_path / "vit.pth", r"unexpected \(heads\.")


@pytest.mark.parametrize(
    ("weights", "width", "patch"),
    [
        (ViT_B_16_Weights.IMAGENET1K_V1, 768, 16),
        (ViT_B_32_Weights.IMAGENET1K_V1, 768, 32),
        (ViT_L_16_Weights.IMAGENET1K_V1, 1024, 16),
        (ViT_L_32_Weights.IMAGENET1K_V1, 1024, 32),
        (ViT_B_16_Weights.IMAGENET1K_SWAG_E2E_V1, 768, 16),
        (ViT_L_16_Weights.IMAGENET1K_SWAG_E2E_V1, 1024, 16),
        (ViT_H_14_Weights.IMAGENET1K_SWAG_E2E_V1, 1280, 14),
    ],
)
def test_pictures_are_resized_and_cut_as_torchvisions_weights_say(
    weights: Any, width: int, patch: int, tmp_path: Path
) -> None:
    theirs = weights.transforms()
    size, resize = theirs.crop_size[0], theirs.resize_size[0]
    depth = {768: 12, 1024: 24, 1280: 32}[width]
    shapes = {
        "patch_embed.proj.weight": (width, 3, patch, patch), "pos_embed": (1, 1 + (size // patch) ** 2, width),
        "cls_token": (1, 1, width), **{f"blocks.{i}.mlp.fc1.weight": (4 * width, width) for i in range(depth)},
    }  # fmt: skip
    cfg = describe_torchvision(ConvertedCheckpoint("", StateDictFile(tmp_path, shapes), shapes, dict)).cfg
    transform = EvalTransform(square_input(size, cfg["crop_pct"], interpolation=cfg["interpolation"]))
    at = transform.geometry(1000, 800)
    assert (at.resized_height, at.crop_width, at.crop_height) == (resize, size, size)
    image = Image.fromarray(np.random.default_rng(size).integers(0, 256, (70, 90, 3), dtype=np.uint8))
    pixels_CHW = theirs(image) * torch.tensor(theirs.std)[:, None, None] + torch.tensor(theirs.mean)[:, None, None]
    np.testing.assert_array_equal((255 * pixels_CHW).round().byte().permute(1, 2, 0).numpy(), transform(image))
    assert (list(cfg["mean"]), list(cfg["std"])) == (theirs.mean, theirs.std)


def dino(folder: Path, head: bool = True) -> tuple[Path, Any]:
    """A checkpoint of DINO's training, as its main_dino.py writes it: both networks, and a projection head."""
    ours = seeded(
        timm.create_model("vit_tiny_patch16_224", **{**MICRO, "embed_dim": 64, "num_heads": 1}, num_classes=0)
    )
    teacher = {f"backbone.{name}": value for name, value in ours.state_dict().items()}
    if head:
        teacher |= {"head.mlp.0.weight": torch.ones(8, 64), "head.last_layer.weight_v": torch.ones(4, 8)}
    student = {f"module.{name}": torch.zeros_like(value) for name, value in teacher.items()}
    content = {"student": student, "teacher": teacher, "epoch": 100, "args": argparse.Namespace(lr=1)}
    torch.save(content, folder / "dino.pth")
    return folder / "dino.pth", ours


@pytest.mark.parametrize("head", [True, False])
def test_dinos_teacher_is_opened_without_classifier(head: bool, tmp_path: Path) -> None:
    path, ours = dino(tmp_path, head)
    model = load_model(str(path), pretrained=True)
    with torch.no_grad():
        torch.testing.assert_close(model.module.eval()(pixels()), ours(pixels()), rtol=1e-5, atol=1e-5)
    assert model.input.mean == IMAGENET and any("no classifier" in note for note in model.notes)
    assert any("only DINO's own training uses it: head.mlp.0.weight" in note for note in model.notes) == head
    with pytest.raises(ModelError, match="has no classification head"):
        open_classifier(str(path))
    trainable = load_model(str(path), pretrained=True, num_classes=4)
    assert "The classification head is new, for 4 classes; the weights have none." in trainable.notes
    assert torch.equal(trainable.module.blocks[1].norm1.weight, ours.blocks[1].norm1.weight)
