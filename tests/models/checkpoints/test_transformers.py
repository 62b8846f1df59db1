"""Folders of the library transformers: heads, labels, image processors, and what cannot be used."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from support.checkpoints import expect_error, pixels
from support.format_makers import (
    IMAGENET,
    PETS,
    pretrained_vit,
    transformers_folder,
    transformers_model,
)
from support.models import MICRO

from vitrine.classify.inference import eval_transform
from vitrine.classify.model import open_classifier
from vitrine.errors import ModelError
from vitrine.models.checkpoints.weights_index import weights_sha256
from vitrine.models.finetune import select_trainable
from vitrine.models.load import load_model


def test_transformers_weights_without_their_configuration(tmp_path: Path) -> None:
    theirs = transformers_model("ViTForImageClassification")
    save_file(theirs.state_dict(), tmp_path / "w.safetensors")
    expect_error(tmp_path / "w.safetensors", r"names of the library transformers, without the config\.json")
    model_args = {**MICRO, "embed_dim": 48, "num_heads": 3, "mlp_ratio": 2}
    model = load_model("vit_tiny_patch16_224", pretrained=str(tmp_path / "w.safetensors"), model_args=model_args)
    assert model.notes == ("Names were carried over from transformers.",)
    assert model.module.eval()(pixels()).sub(theirs(pixels()).logits).abs().max() < 1e-5


def test_a_transformers_model_without_head_is_for_training(tmp_path: Path) -> None:
    theirs = transformers_model("ViTModel")
    theirs.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="has no classification head"):
        open_classifier(str(tmp_path))
    model = load_model(str(tmp_path), pretrained=True, num_classes=4)
    assert any("no classifier uses it: pooler.dense" in note for note in model.notes)
    with torch.no_grad():
        features = model.module.eval().forward_features(pixels())
        torch.testing.assert_close(features, theirs(pixels()).last_hidden_state, rtol=1e-5, atol=1e-5)


def test_both_heads_of_a_distilled_model_are_trained(tmp_path: Path) -> None:
    transformers_folder("DeiTForImageClassificationWithTeacher")(tmp_path)
    module = select_trainable(load_model(str(tmp_path), pretrained=True, num_classes=4).module, "head")
    names = {name for name, value in module.named_parameters() if value.requires_grad}
    assert names == {"head.weight", "head.bias", "head_dist.weight", "head_dist.bias"}


def test_a_large_epsilon_is_said_where_training_does_not_keep_it(tmp_path: Path) -> None:
    transformers_folder("ViTForImageClassification", layer_norm_eps=0.01)(tmp_path)
    assert any("epsilon 0.01" in note for note in load_model(str(tmp_path), pretrained=True, num_classes=3).notes)


def save_processor(name: str, options: dict[str, Any], folder: Path) -> Any:
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
        ("ViT", "ViTImageProcessor", {"size": {"height": 32, "width": 32}, "resample": 2}),
        ("DeiT", "DeiTImageProcessor",
         {"size": {"height": 40, "width": 40}, "crop_size": {"height": 32, "width": 32}, "image_mean": IMAGENET}),
        ("Dinov2", "BitImageProcessor",
         {"size": {"shortest_edge": 64}, "crop_size": {"height": 48, "width": 48}, "image_mean": IMAGENET}),
    ],
)  # fmt: skip
def test_pictures_are_prepared_as_the_processor_does(
    kind: str, name: str, options: dict[str, Any], tmp_path: Path
) -> None:
    transformers_model(f"{kind}ForImageClassification").save_pretrained(tmp_path)
    processor = save_processor(name, options, tmp_path)
    spec = open_classifier(str(tmp_path), "fp32").spec
    for rows, columns in ((90, 90), (60, 120), (120, 60)):  # such that nothing is left over at half a pixel
        rng = np.random.default_rng(rows)
        image = Image.fromarray(rng.integers(0, 256, (rows, columns, 3), dtype=np.uint8))
        theirs = processor(image, return_tensors="pt")["pixel_values"][0]
        square_HWC = torch.from_numpy(eval_transform(spec)(image)).float() / 255
        ours = ((square_HWC - torch.tensor(spec.mean)) / torch.tensor(spec.std)).permute(2, 0, 1)
        assert ours.shape == theirs.shape
        steps = ((ours - theirs) * torch.tensor(spec.std)[:, None, None]).abs() * 255  # in steps of 8 bits
        assert steps.max() < 3.01 and steps.mean() < 0.3  # rounding between two resizes, of noise


def test_a_dinov2_cuts_pictures_that_are_not_square_as_its_processor(tmp_path: Path) -> None:
    transformers_model("Dinov2ForImageClassification").save_pretrained(tmp_path)
    options = {"size": {"shortest_edge": 64}, "crop_size": {"height": 48, "width": 48}}
    processor = save_processor("BitImageProcessor", options, tmp_path)
    model = load_model(str(tmp_path), pretrained=True)
    image = Image.fromarray(np.random.default_rng(3).integers(0, 256, (60, 110, 3), dtype=np.uint8))
    theirs = processor(image, return_tensors="pt")["pixel_values"][0]
    ours = torch.from_numpy(eval_transform(model.input)(image)).float() / 255
    mean, std = torch.tensor(processor.image_mean), torch.tensor(processor.image_std)
    assert (((ours - mean) / std).permute(2, 0, 1) - theirs).abs().mul(std[:, None, None]).max() <= 2 / 255


def edit_json(folder: Path, name: str, **changes: Any) -> Path:
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
    ("changes", "crop", "mode", "interpolation"),
    [
        ({"size": 32}, 1.0, "squash", "bicubic"),  # as files of 2021 write it
        ({"size": 32, "resample": 2}, 1.0, "squash", "bilinear"),
        ({"size": {"shortest_edge": 40}, "crop_size": 32, "do_center_crop": True}, 0.8, "center", "bicubic"),
        ({"size": {"shortest_edge": 32}, "resample": 1}, 1.0, "center", "lanczos"),
        ({"do_resize": False}, 1.0, "center", "bicubic"),
    ],
)
def test_processors_of_other_years(
    changes: dict[str, Any], crop: float, mode: str, interpolation: str, vit: Path
) -> None:
    spec = load_model(str(edit_json(vit, "preprocessor_config.json", **changes)), pretrained=True).input
    assert (spec.crop, spec.crop_mode, spec.interpolation, spec.size) == (crop, mode, interpolation, (32, 32))


def test_a_filter_that_pillow_lacks_is_refused(vit: Path) -> None:
    with pytest.raises(ModelError, match="resample = 9 is not one of Pillow's filters, 0 to 5"):
        load_model(str(edit_json(vit, "preprocessor_config.json", resample=9)), pretrained=True)


def test_a_folder_without_processor_says_what_was_assumed(vit: Path) -> None:
    (vit / "preprocessor_config.json").unlink()
    model = load_model(str(vit), pretrained=True)
    assert model.input.mean == (0.5, 0.5, 0.5)
    assert any("There is no preprocessor_config.json" in note for note in model.notes)


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
        (
            "config.json",
            {"image_size": [32, 48]},
            "a size of pictures that cannot be used",
        ),  # its processor's is square
        ("config.json", {"image_size": [32, 36]}, "a size of pictures that cannot be used"),
        ("config.json", {"image_size": 7}, "7 pixels are less than a patch of 8 pixels"),
        ("config.json", {"image_size": [32, 32, 32]}, r"image_size = \[32, 32, 32\] is not"),
        ("config.json", {"image_size": [32, -32]}, r"image_size = \[32, -32\] is not"),
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
    expect_error(edit_json(vit, file, **changes), match)


@pytest.mark.parametrize("kind", ["ViT", "DeiT", "Dinov2"])
def test_pictures_that_are_not_square(kind: str, tmp_path: Path) -> None:
    """Rows and columns of the configuration, and of a processor that squeezes pictures to them."""
    rows, columns = 32, 48
    options = {} if kind == "Dinov2" else {"image_size": [rows, columns]}
    theirs = transformers_model(f"{kind}ForImageClassification", **options)
    theirs.save_pretrained(tmp_path)
    processor = save_processor("ViTImageProcessor", {"size": {"height": rows, "width": columns}}, tmp_path)
    model = open_classifier(str(tmp_path), "fp32")
    assert (model.spec.size, model.spec.crop_mode, model.spec.crop) == ((rows, columns), "squash", 1.0)
    pixels_BCHW = torch.randn(2, 3, rows, columns, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(model.module(pixels_BCHW), theirs(pixels_BCHW).logits, rtol=1e-5, atol=1e-5)
    image = Image.fromarray(np.random.default_rng(3).integers(0, 256, (61, 117, 3), dtype=np.uint8))
    own = processor(image, return_tensors="pt")["pixel_values"][0]
    ours = torch.from_numpy(eval_transform(model.spec)(image)).permute(2, 0, 1).float() / 255
    assert ours.shape == own.shape and ((ours - 0.5) / 0.5 - own).abs().max() * 0.5 < 3.01 / 255


@pytest.mark.parametrize("kind", ["ViT", "Dinov2", "CLIP", "Siglip"])
def test_pixels_that_no_patch_sees_are_left_over(kind: str, tmp_path: Path) -> None:
    """As in SigLIP So400m/14 at 384 px: the convolution of the patches stops before the edge, in both libraries."""
    theirs = transformers_model(f"{kind}ForImageClassification", image_size=36)
    theirs.save_pretrained(tmp_path)
    save_processor("ViTImageProcessor", {"size": {"height": 36, "width": 36}}, tmp_path)
    model = open_classifier(str(tmp_path), "fp32")
    assert model.spec.size == (36, 36)
    with torch.no_grad():
        torch.testing.assert_close(model.module(pixels(36)), theirs(pixels(36)).logits, rtol=1e-5, atol=1e-5)
    left_over = "36 pixels are 4 patches of 8 pixels and 4 pixels that no patch sees"
    assert any(left_over in note for note in model.loaded_model.notes)


def test_labels_that_do_not_fit_the_head_are_refused(vit: Path) -> None:
    edit_json(vit, "config.json", id2label={"0": "cat", "1": "dog"})
    with pytest.raises(ModelError, match="has 37 outputs but 2 class names"):
        open_classifier(str(vit))


@pytest.mark.parametrize("safe", [True, False])
def test_weights_in_several_files_are_put_together(vit: Path, safe: bool) -> None:
    """As save_pretrained writes them; they answer as one file does, and their hash is one of all of them."""
    one = open_classifier(str(vit), "fp32")
    state = load_file(vit / "model.safetensors")
    (vit / "model.safetensors").unlink()
    ending = "safetensors" if safe else "bin"
    stem = "model" if safe else "pytorch_model"
    parts = {f"{stem}-0000{i + 1}-of-00002.{ending}": dict(list(state.items())[i::2]) for i in range(2)}
    for name, tensors in parts.items():
        save_file(tensors, vit / name) if safe else torch.save(tensors, vit / name)
    index = vit / f"{stem}.{ending}.index.json"
    weight_map = {tensor: name for name, tensors in parts.items() for tensor in tensors}
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))
    several = open_classifier(str(vit), "fp32")
    pictures = torch.randn(1, 3, *several.spec.size)
    assert torch.equal(several.module(pictures), one.module(pictures))
    before, last = weights_sha256(index), vit / sorted(parts)[-1]
    content = last.read_bytes()
    last.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert weights_sha256(index) != before
    last.unlink()
    expect_error(vit, rf"1 of the 2 files .* missing, {last.name}")


@pytest.mark.parametrize(
    "content",
    [
        "{}", "[]", '{"weight_map": {}}', '{"weight_map": {"a": 1}}', '{"weight_map": {"a": "../model.bin"}}',
        '{"weight_map": {"a": "/etc/passwd"}}', '{"weight_map": {"a": "x\\\\y"}}', "[" * 200_000,
        '{"weight_map": {"a": ""}}', '{"weight_map": {"a": "model.safetensors.index.json"}}',
        '{"weight_map": {"a": "\\u001b[2J"}}', "\x80",
    ],
)  # fmt: skip
def test_an_index_of_another_shape_is_an_error(content: str, vit: Path) -> None:
    (vit / "model.safetensors").unlink()
    (vit / "model.safetensors.index.json").write_text(content, encoding="latin-1")
    expect_error(vit, "weight_map")


def test_labels_are_in_the_order_of_their_numbers(vit: Path) -> None:
    edit_json(vit, "config.json", id2label={str(i): PETS[i] for i in reversed(range(37))})
    assert open_classifier(str(vit)).labels == PETS


def test_no_library_is_needed_to_read_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "folder").mkdir()
    folder = transformers_folder("ViTForImageClassification")(tmp_path / "folder").reference
    torch.save(pretrained_vit().state_dict(), tmp_path / "w.pth")
    for library in ("transformers", "pytorch_pretrained_vit"):
        monkeypatch.setitem(sys.modules, library, None)  # importing it fails
    for reference in (folder, tmp_path / "w.pth"):
        assert load_model(str(reference), pretrained=True).module.num_classes == 37
