"""Weights that do not fit: which tensors, why, and what is resampled where they do."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from support.checkpoints import expect_error, meta_tensors, pixels
from support.format_makers import (
    CASES,
    pretrained_vit,
)
from support.models import MICRO

from vitrine.models.checkpoints.base import explain_mismatch, group_names, group_size_mismatches
from vitrine.models.load import load_model


def test_a_tensor_that_is_missing_or_too_many_is_named(tmp_path: Path) -> None:
    state = pretrained_vit().state_dict()
    for name in ("transformer.blocks.0.attn.proj_k.bias", "transformer.blocks.1.attn.proj_k.bias"):
        del state[name]
    torch.save(state | {"extra.thing": torch.ones(1)}, tmp_path / "w.pth")
    message = expect_error(tmp_path / "w.pth", r"2 tensors are missing \(blocks\.\{0\.\.1\}\.attn\.qkv\.bias\)")
    assert "5 tensors are unexpected (" in message and "extra.thing" in message
    assert "blocks.{0..1}.attn.q.bias" in message and "attn.k.bias" not in message


def test_another_patch_size_is_said(tmp_path: Path) -> None:
    torch.save(pretrained_vit().state_dict(), tmp_path / "w.pth")
    args = {**MICRO, "embed_dim": 128, "num_heads": 2, "patch_size": 16}
    model = load_model("vit_tiny_patch16_224", pretrained=str(tmp_path / "w.pth"), model_args=args)
    assert model.notes[-2:] == (
        "Position embeddings were resampled from 4 x 4 to 2 x 2 patches.",
        "The patch embedding was resampled from patches of 8 x 8 pixels to 16 x 16.",
    )


def test_positions_are_resampled_for_another_size(tmp_path: Path) -> None:
    """As timm does: the same model in timm's names gives the same answers."""
    case = CASES["PyTorch-Pretrained-ViT"](tmp_path)
    model = load_model(str(case.reference), pretrained=True, image_size=48)
    assert "Position embeddings were resampled from 4 x 4 to 6 x 6 patches." in model.notes
    save_file(load_model(str(case.reference), pretrained=True).module.state_dict(), tmp_path / "timm.safetensors")
    args = dict(model.reference.model_args) | {"img_size": 48, "num_classes": 37}
    overlay = {"file": str(tmp_path / "timm.safetensors"), "num_classes": 37}
    theirs = timm.create_model("vit_base_patch16_224", pretrained=True, pretrained_cfg_overlay=overlay, **args)
    with torch.no_grad():
        assert torch.equal(model.module.eval()(pixels(48)), theirs.eval()(pixels(48)))


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ([f"blocks.{i}.attn.qkv.weight" for i in range(12)], ["blocks.{0..11}.attn.qkv.weight"]),
        (["norm.weight", "norm.bias"], ["norm.{weight,bias}"]),
        (["blocks.3.norm1.bias"], ["blocks.3.norm1.bias"]),
        (["blocks.1.ls1.gamma", "blocks.4.ls1.gamma"], ["blocks.{1,4}.ls1.gamma"]),
        ([f"blocks.{i}.t{j}.weight" for i in (2, 3) for j in range(12)], ["blocks.{2..3}.*"]),
        (["cls_token", "blocks.0.a.weight", "blocks.0.a.bias"], ["cls_token", "blocks.0.a.{weight,bias}"]),
    ],
)
def test_names_are_grouped_by_block(names: list[str], expected: list[str]) -> None:
    assert group_names(names) == expected


@pytest.mark.parametrize(
    ("architecture", "other", "explanation"),
    [
        ("vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "file is of a model with a distillation token"),
        ("deit_tiny_distilled_patch16_224", "vit_tiny_patch16_224", "lacks, a distillation token"),
        ("vit_tiny_patch16_224", "vit_small_patch14_dinov2", "layer scale"),
        ("vit_tiny_patch16_224", "vit_small_patch16_224", "size mismatch"),
    ],
)
def test_weights_of_another_family_are_explained(
    architecture: str, other: str, explanation: str, tmp_path: Path
) -> None:
    args = {} if explanation == "size mismatch" else MICRO
    if explanation == "size mismatch":
        state = {name: torch.zeros(1).expand(v.shape).contiguous() for name, v in meta_tensors(other).items()}
    else:
        state = timm.create_model(other, **MICRO).state_dict()
    save_file(state, tmp_path / "w.safetensors")
    message = expect_error(architecture, explanation, pretrained=str(tmp_path / "w.safetensors"), model_args=args)
    if explanation == "size mismatch":
        assert "cls_token is 1 x 1 x 384 in the file and 1 x 1 x 192 in the model" in message and "more such" in message


def test_explanations_are_few() -> None:
    assert explain_mismatch([], [], (12, 12)) == ""
    assert (
        explain_mismatch(["blocks.13.norm1.bias"], ["dist_token"], (12, 14)) == "The file has 12 blocks, the model 14."
    )
    assert group_size_mismatches("something else") is None
