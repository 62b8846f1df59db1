"""What weights of other libraries mean: which model, which head, which pictures; and what is said where they misfit."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from support.format_makers import (
    CASES,
    IMAGENET,
    PETS,
    google,
    pretrained_vit,
    seeded,
    torchvision_vit,
    transformers_folder,
    transformers_model,
)
from support.models import MICRO
from torchvision.models import (
    ViT_B_16_Weights,
    ViT_B_32_Weights,
    ViT_H_14_Weights,
    ViT_L_16_Weights,
    ViT_L_32_Weights,
)

from vitrine.classify.inference import eval_transform
from vitrine.classify.model import open_classifier
from vitrine.config import TransformSpec
from vitrine.data.transforms import EvalTransform
from vitrine.errors import ModelError
from vitrine.models.checkpoints.base import ConvertedCheckpoint, explain_mismatch, group_names, group_size_mismatches
from vitrine.models.checkpoints.state_dict import StateDictFile
from vitrine.models.checkpoints.timm import Dimensions, _normalisations, plain_vit
from vitrine.models.checkpoints.torchvision_dino import describe_torchvision
from vitrine.models.finetune import select_trainable
from vitrine.models.load import load_model
from vitrine.runs.folder import RunFolder


def refused(reference: Path | str, match: str, **options: Any) -> str:
    with pytest.raises(ModelError, match=match) as caught:
        load_model(str(reference), **{"pretrained": True, **options})
    assert len(str(caught.value).splitlines()) <= 2
    return str(caught.value)


def pixels(side: int = 32) -> torch.Tensor:
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(2))


# --- which model


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
    found = Dimensions(width, depth, 4 * width, patch, side // patch, 1)
    assert plain_vit(found, tmp_path) == (name, {}, ())
    with torch.device("meta"):
        theirs = timm.create_model(name)
    assert theirs.embed_dim == width and len(theirs.blocks) == depth
    usual = plain_vit(found, tmp_path, heads=theirs.blocks[0].attn.num_heads)
    assert usual == (name, {}, ()), "the published number of heads is timm's"


def test_a_size_that_was_not_published_is_built_from_its_numbers(tmp_path: Path) -> None:
    theirs = pretrained_vit(width=192, depth=3, heads=3)
    torch.save(theirs.state_dict(), tmp_path / "w.pth")
    built = load_model(str(tmp_path / "w.pth"), pretrained=True)
    assert any("3 were taken, of 64 channels each" in note for note in built.notes)
    assert built.module.eval()(pixels()).sub(theirs(pixels())).abs().max() < 1e-5


def test_heads_that_cannot_be_known_are_asked_for(tmp_path: Path) -> None:
    theirs = pretrained_vit(width=48, heads=3)
    torch.save(theirs.state_dict(), tmp_path / "w.pth")
    message = refused(tmp_path / "w.pth", "width 48 and 2 blocks, whose number of attention heads is not in the file")
    assert "model_args.num_heads=N" in message
    built = load_model(str(tmp_path / "w.pth"), pretrained=True, model_args={"num_heads": 3})
    assert built.module.eval()(pixels()).sub(theirs(pixels())).abs().max() < 1e-5


def test_two_models_that_fit_are_listed(tmp_path: Path) -> None:
    """The tensors of vit_tiny_patch16_224 and deit_tiny_patch16_224 are the same, the pictures they want are not."""
    state = {name: torch.zeros(value.shape) for name, value in _meta("vit_tiny_patch16_224").items()}
    save_file(state, tmp_path / "w.safetensors")
    message = refused(tmp_path / "w.safetensors", "fits 2 models")
    assert re.search(r"vit_tiny_patch16_224\.\w+ \(pictures normalised with mean 0\.5\)", message)
    assert re.search(r"deit_tiny_patch16_224\.\w+ \(pictures normalised with mean 0\.485\)", message)
    for name, mean in (("vit_tiny_patch16_224", 0.5), ("deit_tiny_patch16_224", 0.485)):
        assert load_model(name, pretrained=str(tmp_path / "w.safetensors")).input.mean[0] == mean


def test_one_name_whose_tags_want_other_pictures_is_several_models() -> None:
    means = dict(_normalisations("vit_small_patch16_224"))
    assert means["vit_small_patch16_224.dino"] == IMAGENET and (0.5, 0.5, 0.5) in means.values() and len(means) == 2


def test_a_file_of_timms_names_that_no_model_fits(tmp_path: Path) -> None:
    save_file(timm.create_model("vit_tiny_patch16_224", **MICRO).state_dict(), tmp_path / "w.safetensors")
    refused(tmp_path / "w.safetensors", "a model 32 wide with 2 blocks and patches of 8 px, and no model")
    torch.save({"conv1.weight": torch.zeros(64, 3, 7, 7)}, tmp_path / "resnet.pth")
    refused(tmp_path / "resnet.pth", r"its names \(conv1\.weight \.\.\.\) do not say which model")


def test_transformers_weights_without_their_configuration(tmp_path: Path) -> None:
    theirs = transformers_model("ViTForImageClassification")
    save_file(theirs.state_dict(), tmp_path / "w.safetensors")
    refused(tmp_path / "w.safetensors", r"names of the library transformers, without the config\.json")
    named = {**MICRO, "embed_dim": 48, "num_heads": 3, "mlp_ratio": 2}
    built = load_model("vit_tiny_patch16_224", pretrained=str(tmp_path / "w.safetensors"), model_args=named)
    assert built.notes == ("Names were carried over from transformers.",)
    assert built.module.eval()(pixels()).sub(theirs(pixels()).logits).abs().max() < 1e-5


def test_weights_put_into_a_named_model_bring_their_normalisation(tmp_path: Path) -> None:
    case = torchvision_vit()(tmp_path)
    named = {**MICRO, "embed_dim": 128, "num_heads": 2, "mlp_ratio": 2}
    built = load_model("vit_tiny_patch16_224", pretrained=str(case.reference), model_args=named)
    assert built.input.mean == IMAGENET
    assert any("normalised as torchvision does (mean 0.485, 0.456, 0.406)" in note for note in built.notes)
    assert built.module.eval()(pixels()).sub(case.logits(pixels())).abs().max() < 1e-5


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
    at = EvalTransform(TransformSpec(eval_crop=cfg["crop_pct"]), size).geometry(1000, 800)
    assert (at.resized_height, at.size) == (resize, size)
    assert (list(cfg["mean"]), list(cfg["std"])) == (theirs.mean, theirs.std)


# --- heads


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
    built = load_model(str(path), pretrained=True)
    with torch.no_grad():
        torch.testing.assert_close(built.module.eval()(pixels()), ours(pixels()), rtol=1e-5, atol=1e-5)
    assert built.input.mean == IMAGENET and any("no classifier" in note for note in built.notes)
    assert any("only DINO's own training uses it: head.mlp.0.weight" in note for note in built.notes) == head
    with pytest.raises(ModelError, match="has no classification head"):
        open_classifier(str(path))
    trained = load_model(str(path), pretrained=True, num_classes=4)
    assert "The classification head is new, for 4 classes; the weights have none." in trained.notes
    assert torch.equal(trained.module.blocks[1].norm1.weight, ours.blocks[1].norm1.weight)


def test_a_transformers_model_without_head_is_for_training(tmp_path: Path) -> None:
    theirs = transformers_model("ViTModel")
    theirs.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="has no classification head"):
        open_classifier(str(tmp_path))
    built = load_model(str(tmp_path), pretrained=True, num_classes=4)
    assert any("no classifier uses it: pooler.dense" in note for note in built.notes)
    with torch.no_grad():
        found = built.module.eval().forward_features(pixels())
        torch.testing.assert_close(found, theirs(pixels()).last_hidden_state, rtol=1e-5, atol=1e-5)


OWN_HEADS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "PyTorch-Pretrained-ViT with representation": (
        CASES["PyTorch-Pretrained-ViT with representation"],
        "representation",
    ),
    "Google's .npz with representation": (CASES["Google's .npz with representation"], "representation"),
    "torchvision with representation": (CASES["torchvision with representation"], "representation"),
    "transformers Dinov2": (CASES["transformers Dinov2"], "mean of the patches too"),
}


def file_head_bias(path: Path) -> torch.Tensor:
    """The bias of the 37 classes in a file; its tensors' names are its library's."""
    if path.suffix == ".npz":
        return torch.from_numpy(np.load(path)["head/bias"])
    found = load_file(path / "model.safetensors") if path.is_dir() else torch.load(path, weights_only=True)
    return next(value for value in found.values() if value.shape == (37,))


@pytest.mark.parametrize("name", [*OWN_HEADS, "PyTorch-Pretrained-ViT", "transformers DeiT", "Google's .npz"])
@pytest.mark.parametrize("classes", [37, 5])
def test_training_starts_from_every_format_and_saves_a_model_that_timm_opens(
    name: str, classes: int, tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    case = CASES[name](tmp_path / "in")
    built = load_model(str(case.reference), pretrained=True, num_classes=classes)
    new = [note for note in built.notes if f"The classification head is new, for {classes} classes" in note]
    if name in OWN_HEADS:
        assert len(new) == 1 and OWN_HEADS[name][1] in new[0]
        if classes == 37:  # the file's head has the right size, and reads something else
            assert float(built.module.head.bias.abs().max()) < 0.2 < float(file_head_bias(case.reference).abs().max())
    else:
        assert len(new) == (classes != 37)
    labels = [str(i) for i in range(classes)]
    RunFolder(tmp_path / "run").path.mkdir()
    RunFolder(tmp_path / "run").save_model(built.module, labels, built.input)
    module = built.module.eval()
    again = timm.create_model(f"local-dir:{tmp_path / 'run'}", pretrained=True).eval()
    reopened = open_classifier(str(tmp_path / "run"), "fp32")
    with torch.no_grad():
        expected = module(pixels(case.size))
        assert torch.equal(again(pixels(case.size)), expected)
        assert torch.equal(reopened.module(pixels(case.size)), expected)
    assert reopened.labels == tuple(labels) and reopened.spec == built.input


def test_a_new_head_is_not_the_files_where_the_files_reads_a_representation(tmp_path: Path) -> None:
    case = google(tmp_path, represented=True)
    arrays = dict(np.load(case.reference))
    arrays["head/kernel"] = arrays["head/kernel"][:, :37]
    arrays |= {"pre_logits/kernel": np.eye(48, dtype=np.float32), "pre_logits/bias": np.zeros(48, np.float32)}
    arrays["head/kernel"] = np.full((48, 37), 3.0, np.float32)  # of the shape that timm's reader would take
    np.savez(case.reference, **arrays)
    built = load_model(str(case.reference), pretrained=True, num_classes=37)
    assert not (built.module.head.weight == 3).any()


def test_both_heads_of_a_distilled_model_are_trained(tmp_path: Path) -> None:
    transformers_folder("DeiTForImageClassificationWithTeacher")(tmp_path)
    module = select_trainable(load_model(str(tmp_path), pretrained=True, num_classes=4).module, "head")
    trained = {name for name, value in module.named_parameters() if value.requires_grad}
    assert trained == {"head.weight", "head.bias", "head_dist.weight", "head_dist.bias"}


def test_a_large_epsilon_is_said_where_training_does_not_keep_it(tmp_path: Path) -> None:
    transformers_folder("ViTForImageClassification", layer_norm_eps=0.01)(tmp_path)
    assert any("epsilon 0.01" in note for note in load_model(str(tmp_path), pretrained=True, num_classes=3).notes)


def test_a_folder_whose_head_is_gone_is_not_opened_with_another(tmp_path: Path) -> None:
    """Its configuration says the number of classes: a head made up from that would answer at random."""
    CASES["timm folder"](tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    save_file({n: v for n, v in weights.items() if n != "head.bias"}, tmp_path / "model.safetensors")
    refused(tmp_path, r"1 tensor is missing \(head\.bias\)")


# --- what does not fit


def test_a_tensor_that_is_missing_or_too_many_is_named(tmp_path: Path) -> None:
    state = pretrained_vit().state_dict()
    for name in ("transformer.blocks.0.attn.proj_k.bias", "transformer.blocks.1.attn.proj_k.bias"):
        del state[name]
    torch.save(state | {"extra.thing": torch.ones(1)}, tmp_path / "w.pth")
    message = refused(tmp_path / "w.pth", r"2 tensors are missing \(blocks\.\{0\.\.1\}\.attn\.qkv\.bias\)")
    assert "5 tensors are unexpected (" in message and "extra.thing" in message
    assert "blocks.{0..1}.attn.q.bias" in message and "attn.k.bias" not in message


def test_another_patch_size_is_said(tmp_path: Path) -> None:
    torch.save(pretrained_vit().state_dict(), tmp_path / "w.pth")
    args = {**MICRO, "embed_dim": 128, "num_heads": 2, "patch_size": 16}
    built = load_model("vit_tiny_patch16_224", pretrained=str(tmp_path / "w.pth"), model_args=args)
    assert built.notes[-2:] == (
        "Position embeddings were resampled from 4 x 4 to 2 x 2 patches.",
        "The patch embedding was resampled from patches of 8 x 8 pixels to 16 x 16.",
    )


def test_positions_are_resampled_for_another_size(tmp_path: Path) -> None:
    """As timm does: the same model in timm's names gives the same answers."""
    case = CASES["PyTorch-Pretrained-ViT"](tmp_path)
    built = load_model(str(case.reference), pretrained=True, image_size=48)
    assert "Position embeddings were resampled from 4 x 4 to 6 x 6 patches." in built.notes
    save_file(load_model(str(case.reference), pretrained=True).module.state_dict(), tmp_path / "timm.safetensors")
    args = dict(built.reference.model_args) | {"img_size": 48, "num_classes": 37}
    overlay = {"file": str(tmp_path / "timm.safetensors"), "num_classes": 37}
    theirs = timm.create_model("vit_base_patch16_224", pretrained=True, pretrained_cfg_overlay=overlay, **args)
    with torch.no_grad():
        assert torch.equal(built.module.eval()(pixels(48)), theirs.eval()(pixels(48)))


def test_arrays_of_googles_that_are_missing_or_left_over(tmp_path: Path) -> None:
    case = google(tmp_path)
    arrays = dict(np.load(case.reference))
    np.savez(case.reference, **{name: value for name, value in arrays.items() if "1/LayerNorm_2/bias" not in name})
    refused(case.reference, "but lacks Transformer/encoderblock_1/LayerNorm_2/bias")
    np.savez(case.reference, **arrays, extra=np.zeros(2))
    refused(case.reference, "but also has extra")
    np.savez(case.reference, **arrays, **{"conv_root/kernel": np.zeros(2)})
    refused(case.reference, "a hybrid")


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
    ("architecture", "other", "said"),
    [
        ("vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "file is of a model with a distillation token"),
        ("deit_tiny_distilled_patch16_224", "vit_tiny_patch16_224", "lacks, a distillation token"),
        ("vit_tiny_patch16_224", "vit_small_patch14_dinov2", "layer scale"),
        ("vit_tiny_patch16_224", "vit_small_patch16_224", "size mismatch"),
    ],
)
def test_weights_of_another_family_are_explained(architecture: str, other: str, said: str, tmp_path: Path) -> None:
    args = {} if said == "size mismatch" else MICRO
    if said == "size mismatch":
        state = {name: torch.zeros(1).expand(v.shape).contiguous() for name, v in _meta(other).items()}
    else:
        state = timm.create_model(other, **MICRO).state_dict()
    save_file(state, tmp_path / "w.safetensors")
    message = refused(architecture, said, pretrained=str(tmp_path / "w.safetensors"), model_args=args)
    if said == "size mismatch":
        assert "cls_token is 1 x 1 x 384 in the file and 1 x 1 x 192 in the model" in message and "more such" in message


def _meta(name: str) -> dict[str, torch.Tensor]:
    with torch.device("meta"):
        return dict(timm.create_model(name).state_dict())


def test_explanations_are_few() -> None:
    assert explain_mismatch([], [], (12, 12)) == ""
    assert (
        explain_mismatch(["blocks.13.norm1.bias"], ["dist_token"], (12, 14)) == "The file has 12 blocks, the model 14."
    )
    assert group_size_mismatches("something else") is None


# --- pictures


def processed(name: str, options: dict[str, Any], folder: Path) -> Any:
    """A processor of the library itself, saved beside a model."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed (vitrine[hf])")
    processor = getattr(transformers, name)(**options)
    processor.save_pretrained(folder)
    return processor


@pytest.mark.parametrize(
    ("kind", "name", "options"),
    [
        ("ViT", "ViTImageProcessor", {"size": {"height": 32, "width": 32}, "resample": 3}),
        ("ViT", "ViTImageProcessor", {"size": {"height": 32, "width": 32}, "resample": 3, "do_normalize": False}),
        ("ViT", "ViTImageProcessor", {"size": {"height": 32, "width": 32}, "resample": 3, "rescale_factor": 1 / 127.5}),
        ("ViT", "ViTImageProcessor",
         {"size": {"height": 32, "width": 32}, "resample": 3, "image_std": [0.2, 0.3, 0.4]}),
        ("DeiT", "DeiTImageProcessor",
         {"size": {"height": 40, "width": 40}, "crop_size": {"height": 32, "width": 32}, "image_mean": IMAGENET}),
        ("Dinov2", "BitImageProcessor",
         {"size": {"shortest_edge": 64}, "crop_size": {"height": 48, "width": 48}, "image_mean": IMAGENET}),
    ],
)  # fmt: skip
def test_a_square_picture_is_prepared_as_the_processor_does(
    kind: str, name: str, options: dict[str, Any], tmp_path: Path
) -> None:
    transformers_model(f"{kind}ForImageClassification").save_pretrained(tmp_path)
    processor = processed(name, options, tmp_path)
    spec = open_classifier(str(tmp_path), "fp32").spec
    rng = np.random.default_rng(3)
    image = Image.fromarray(rng.integers(0, 256, (90, 90, 3), dtype=np.uint8)).resize((90, 90))
    theirs = processor(image, return_tensors="pt")["pixel_values"][0]
    square_HWC = torch.from_numpy(eval_transform(spec)(image)).float() / 255
    ours = ((square_HWC - torch.tensor(spec.mean)) / torch.tensor(spec.std)).permute(2, 0, 1)
    assert ours.shape == theirs.shape
    steps = ((ours - theirs) * torch.tensor(spec.std)[:, None, None]).abs() * 255  # in steps of 8 bits
    assert steps.max() <= 2 and steps.mean() < 0.3  # rounding between two resizes


def test_a_dinov2_cuts_pictures_that_are_not_square_as_its_processor(tmp_path: Path) -> None:
    transformers_model("Dinov2ForImageClassification").save_pretrained(tmp_path)
    options = {"size": {"shortest_edge": 64}, "crop_size": {"height": 48, "width": 48}}
    processor = processed("BitImageProcessor", options, tmp_path)
    built = load_model(str(tmp_path), pretrained=True)
    assert not any("squeezes" in note for note in built.notes)
    image = Image.fromarray(np.random.default_rng(3).integers(0, 256, (60, 110, 3), dtype=np.uint8))
    theirs = processor(image, return_tensors="pt")["pixel_values"][0]
    ours = torch.from_numpy(eval_transform(built.input)(image)).float() / 255
    mean, std = torch.tensor(processor.image_mean), torch.tensor(processor.image_std)
    assert (((ours - mean) / std).permute(2, 0, 1) - theirs).abs().mul(std[:, None, None]).max() <= 2 / 255


def written(folder: Path, name: str, **changes: Any) -> Path:
    """A ViT's folder with one JSON file of it changed; None leaves a key out."""
    file = folder / name
    content = {key: value for key, value in (json.loads(file.read_text()) | changes).items() if value is not None}
    file.write_text(json.dumps(content))
    return folder


@pytest.fixture
def vit(tmp_path: Path) -> Path:
    transformers_folder("ViTForImageClassification")(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("changes", "crop", "size", "note"),
    [
        ({"size": 32}, 1.0, 32, "squeezes"),  # as files of 2021 write it
        ({"size": 32, "resample": 2}, 1.0, 32, "squeezes .* and resizes bilinearly"),
        ({"size": {"shortest_edge": 40}, "crop_size": 32, "do_center_crop": True}, 0.8, 32, ""),
        ({"size": {"shortest_edge": 32}}, 1.0, 32, ""),
        ({"do_resize": False}, 1.0, 32, ""),
    ],
)
def test_processors_of_other_years(changes: dict[str, Any], crop: float, size: int, note: str, vit: Path) -> None:
    built = load_model(str(written(vit, "preprocessor_config.json", **changes)), pretrained=True)
    assert (built.input.crop, built.input.size) == (crop, size)
    said = [told for told in built.notes if "image processor" in told]
    assert bool(said) == bool(note) and (not note or re.search(note, said[0]))


def test_a_folder_without_processor_says_what_was_assumed(vit: Path) -> None:
    (vit / "preprocessor_config.json").unlink()
    built = load_model(str(vit), pretrained=True)
    assert built.input.mean == (0.5, 0.5, 0.5)
    assert any("There is no preprocessor_config.json" in note for note in built.notes)


@pytest.mark.parametrize(
    ("file", "changes", "match"),
    [
        (
            "config.json",
            {"model_type": "swin", "architectures": ["SwinForImageClassification"]},
            "of a SwinForImageClass",
        ),
        ("config.json", {"architectures": ["ViTForMaskedImageModeling"]}, "of a ViTForMaskedImageModeling"),
        ("config.json", {"hidden_size": "big"}, "hidden_size = 'big' is not a positive number"),
        ("config.json", {"num_attention_heads": None}, "num_attention_heads = None"),
        ("config.json", {"image_size": [32, 48]}, r"image_size = \[32, 48\]"),
        ("config.json", {"hidden_act": "tanhshrink"}, "hidden_act = 'tanhshrink' is not known"),
        ("config.json", {"num_channels": 1}, "for 1 channels"),
        ("config.json", {"id2label": {"a": "b"}}, "id2label does not number"),
        ("config.json", {"hidden_size": 40, "num_attention_heads": 4}, "size mismatch"),
        ("config.json", {"num_hidden_layers": 3}, "The file has 2 blocks, the model 3"),
        ("preprocessor_config.json", {"size": {"height": 32, "width": 48}}, "a size of pictures that cannot be used"),
        ("preprocessor_config.json", {"image_mean": [0.5]}, "image_mean, image_std or rescale_factor"),
        ("preprocessor_config.json", {"image_std": [0, 1, 1]}, "image_mean, image_std or rescale_factor"),
        ("preprocessor_config.json", {"rescale_factor": "x"}, "image_mean, image_std or rescale_factor"),
    ],
)
def test_configurations_that_cannot_be_used(file: str, changes: dict[str, Any], match: str, vit: Path) -> None:
    refused(written(vit, file, **changes), match)


def test_labels_that_do_not_fit_the_head_are_refused(vit: Path) -> None:
    written(vit, "config.json", id2label={"0": "cat", "1": "dog"})
    with pytest.raises(ModelError, match="has 37 outputs but 2 class names"):
        open_classifier(str(vit))


def test_weights_in_several_files_are_refused(vit: Path) -> None:
    (vit / "model.safetensors").rename(vit / "model-00001-of-00002.safetensors")
    (vit / "model.safetensors.index.json").write_text("{}")
    refused(vit, "in several files")


def test_labels_are_in_the_order_of_their_numbers(vit: Path) -> None:
    written(vit, "config.json", id2label={str(i): PETS[i] for i in reversed(range(37))})
    assert open_classifier(str(vit)).labels == PETS


def test_no_library_is_needed_to_read_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "folder").mkdir()
    folder = transformers_folder("ViTForImageClassification")(tmp_path / "folder").reference
    torch.save(pretrained_vit().state_dict(), tmp_path / "w.pth")
    for library in ("transformers", "pytorch_pretrained_vit"):
        monkeypatch.setitem(sys.modules, library, None)  # importing it fails
    for reference in (folder, tmp_path / "w.pth"):
        assert load_model(str(reference), pretrained=True).module.num_classes == 37
