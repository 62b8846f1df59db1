"""Exports: the same function in the tool that they are for, or a refusal; nothing half made is left behind."""

from __future__ import annotations

import copy
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import timm
import torch
import transformers
import typer
from PIL import Image
from safetensors.torch import load_file, save_file
from support.format_makers import seeded
from support.models import MICRO
from torch import nn
from typer.testing import CliRunner

from vitrine.config.preprocessing import InputSpec
from vitrine.data.transforms import EvalTransform
from vitrine.errors import ModelError, RunError, UsageError, VitrineError
from vitrine.export import compare as export_compare
from vitrine.export import run as export_run
from vitrine.export import transformers as transformers_folder
from vitrine.export.compare import compare_logits, compare_preprocessing, comparison_pictures, describe_difference
from vitrine.export.run import export
from vitrine.export.transformers import as_transformers
from vitrine.models.load import load_for_inference
from vitrine.runs import model_card
from vitrine.runs.folder import RunFolder

SPEC = InputSpec((32, 32), (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), 0.8)
KINDS = [("hf", "fp32"), ("hf", "bf16"), ("timm", "fp32"), ("timm", "bf16"), ("onnx", "fp32"), ("pt2", "fp32")]
KINDS.append(("pt2", "bf16"))


def made_run(small_run: Path, folder: Path, name: str = "vit_tiny_patch16_224", **arguments: Any) -> Path:
    """``small_run`` with another model in it, whose weights leave nothing without effect."""
    shutil.copytree(small_run, folder)
    labels = RunFolder(folder).read_labels()
    module = seeded(timm.create_model(name, **{**MICRO, **arguments}, num_classes=len(labels)))
    RunFolder(folder).save_model(module, labels, SPEC)
    return folder


@pytest.fixture(scope="module")
def run(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_run(small_run, tmp_path_factory.mktemp("runs") / "my run")


@pytest.fixture(scope="module")
def export_folder(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """The run's export for a target in a precision, made once."""
    folder = tmp_path_factory.mktemp("exports")

    def export_once(to: str, precision: str) -> Path:
        out = folder / f"{to} {precision}"
        if not out.exists():
            assert export(run, to, out, precision=precision).same
        return out

    return export_once


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cards without figures, which take most of the time of a small export."""
    monkeypatch.setattr(model_card, "_draw_figures", lambda *_: ())


def pixels(count: int = 5) -> torch.Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(3))


def open_with_tool(
    to: str, folder: Path, dtype: torch.dtype
) -> tuple[Callable[[torch.Tensor], torch.Tensor], list[str]]:
    """An export opened as its tool's own documentation does it: logits and labels."""
    if to == "hf":
        model, info = transformers.AutoModelForImageClassification.from_pretrained(
            folder, dtype=dtype, output_loading_info=True
        )
        assert not any(info.values()), info
        return lambda x: model(x.to(dtype)).logits, [model.config.id2label[i] for i in range(model.config.num_labels)]
    if to == "timm":
        module = timm.create_model(f"local-dir:{folder}", pretrained=True).eval().to(dtype)
        return lambda x: module(x.to(dtype)), json.loads((folder / "config.json").read_text())["label_names"]
    if to == "onnx":
        session = onnxruntime.InferenceSession(folder / "model.onnx")
        labels = json.loads(session.get_modelmeta().custom_metadata_map["labels"])
        return lambda x: torch.from_numpy(session.run(None, {"pixels": x.numpy()})[0]), labels
    extra = {"vitrine.json": ""}
    program = torch.export.load(folder / "model.pt2", extra_files=extra).module()
    return program, json.loads(extra["vitrine.json"])["labels"]


@pytest.mark.parametrize(("to", "precision"), KINDS)
def test_an_export_is_the_run_in_its_own_tool(
    to: str, precision: str, run: Path, export_folder: Callable[[str, str], Path]
) -> None:
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    reference = load_for_inference(run).module.to(dtype)
    logits, labels = open_with_tool(to, export_folder(to, precision), dtype)
    assert labels == list(RunFolder(run).read_labels())
    with torch.inference_mode():
        for count in (1, 2, 7):  # other numbers of pictures than those that export compares
            ours = reference(pixels(count).to(dtype)).float()
            theirs = logits(pixels(count)).float()
            torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-5 if precision == "fp32" else 0.03)
            assert ours.std() > 0.3, "logits that differ from picture to picture"


@pytest.mark.parametrize(("to", "precision"), KINDS)
def test_an_export_holds_nothing_of_this_machine(
    to: str, precision: str, run: Path, export_folder: Callable[[str, str], Path]
) -> None:
    folder = export_folder(to, precision)
    places = [str(run.parent), str(folder.parent), str(Path.cwd()), "site-packages", str(Path(timm.__file__).parent)]
    for file in (each for each in folder.rglob("*") if each.is_file()):
        assert oct(file.stat().st_mode)[-3:] == oct(0o666 & ~umask())[-3:], "others may read it"
        for place in places:
            assert place.encode() not in file.read_bytes(), (file, place)


def umask() -> int:
    current = os.umask(0o077)
    os.umask(current)
    return current


@pytest.mark.parametrize("to", ["hf", "timm"])
def test_bf16_is_how_weights_are_stored(to: str, export_folder: Callable[[str, str], Path]) -> None:
    sizes = []
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        file = export_folder(to, precision) / "model.safetensors"
        assert {tensor.dtype for tensor in load_file(file).values()} == {dtype}
        sizes.append(file.stat().st_size)
    assert sizes[1] < 0.6 * sizes[0]
    config = json.loads((export_folder("hf", "bf16") / "config.json").read_text())
    assert config["dtype"] == "bfloat16"


def test_onnx_in_bf16_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ModelError, match=r"onnxruntime on the CPU cannot run this model in bf16[\s\S]*--precision fp32"
    ):
        export(run, "onnx", tmp_path / "out", precision="bf16")
    assert not list(tmp_path.iterdir())


def test_an_onnx_file_is_valid_and_says_what_it_wants(export_folder: Callable[[str, str], Path]) -> None:
    file = export_folder("onnx", "fp32") / "model.onnx"
    onnx.checker.check_model(file, full_check=True)
    model = onnx.load(file)
    (example,), (answer,) = model.graph.input, model.graph.output
    assert [d.dim_param or d.dim_value for d in example.type.tensor_type.shape.dim] == ["batch", 3, 32, 32]
    assert (example.name, answer.name) == ("pixels", "logits")
    description = json.loads({entry.key: entry.value for entry in model.metadata_props}["input"])
    assert {**SPEC.to_timm(), "colours": "RGB, divided by 255, less mean, divided by std"} == {
        name: tuple(value) if isinstance(value, list) else value for name, value in description.items()
    }


# --- transformers: what it can hold, exactly, and what it cannot

HELD: dict[str, tuple[str, dict[str, Any], str]] = {
    "plain": ("vit_tiny_patch16_224", {}, "ViTForImageClassification"),
    "no biases of queries, keys, values": ("vit_tiny_patch16_224", {"qkv_bias": False}, "ViTForImageClassification"),
    "another activation": ("vit_tiny_patch16_224", {"act_layer": "gelu_tanh"}, "ViTForImageClassification"),
    "quick_gelu": ("vit_tiny_patch16_224", {"act_layer": "quick_gelu"}, "ViTForImageClassification"),
    "narrow MLP": ("vit_tiny_patch16_224", {"mlp_ratio": 1.5}, "ViTForImageClassification"),
    "DeiT": ("deit_tiny_patch16_224", {}, "ViTForImageClassification"),
    "DeiT, distilled": ("deit_tiny_distilled_patch16_224", {}, "DeiTForImageClassificationWithTeacher"),
    "a token beside the class token": ("vit_tiny_patch16_224", {"reg_tokens": 1}, "DeiTForImageClassification"),
}


@pytest.mark.parametrize("case", HELD)
def test_transformers_holds_it_exactly(case: str, tmp_path: Path) -> None:
    name, arguments, architecture = HELD[case]
    labels = ("a", 'b "quoted": x', "c")
    module = seeded(timm.create_model(name, **{**MICRO, **arguments}, num_classes=3))
    transformers_folder.write_transformers(tmp_path, module, labels, SPEC, "fp32")
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["architectures"] == [architecture]
    assert config["layer_norm_eps"] == 1e-6, "too small a difference for logits to show"
    assert config["label2id"] == {label: i for i, label in enumerate(labels)}
    logits, labels_read = open_with_tool("hf", tmp_path, torch.float32)
    again = load_for_inference(tmp_path)  # as vitrine opens what others trained
    with torch.inference_mode():
        ours = module(pixels())
        torch.testing.assert_close(logits(pixels()), ours, rtol=0, atol=1e-5)
        torch.testing.assert_close(again.module(pixels()), ours, rtol=0, atol=1e-5)
    assert tuple(labels_read) == labels and again.reference.pretrained_cfg["label_names"] == labels
    assert again.input == SPEC


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "registers": ("vit_tiny_patch16_224", {"reg_tokens": 4}, "it has 4 register tokens"),
    "layer scale": ("vit_tiny_patch16_224", {"init_values": 0.1}, "its blocks have layer scale"),
    "mean of patches": ("vit_tiny_patch16_224", {"global_pool": "avg"}, "its head reads the mean of the patches"),
    "no class token": (
        "vit_tiny_patch16_224",
        {"global_pool": "avg", "class_token": False},
        "it has no class token",
    ),
    "attention pooling": ("vit_tiny_patch16_224", {"global_pool": "map"}, "its head reads an attention pooling"),
    "norm after pooling": ("vit_tiny_patch16_224", {"fc_norm": True}, "layers of its own before its head"),
    "no last norm": ("vit_tiny_patch16_224", {"final_norm": False}, "it has no layer norm"),
    "normalised queries": ("vit_tiny_patch16_224", {"qk_norm": True}, r"queries and keys are normalised \(qk_norm\)"),
    "norm in attention": ("vit_tiny_patch16_224", {"scale_attn_norm": True}, "attention is normalised"),
    "norm in MLP": ("vit_tiny_patch16_224", {"scale_mlp_norm": True}, "its MLP is normalised inside"),
    "no biases": ("vit_tiny_patch16_224", {"proj_bias": False}, "its MLP has no biases"),
    "norm before blocks": ("vit_tiny_patch16_224", {"pre_norm": True}, "it has a norm before its blocks"),
    "class token without position": (
        "vit_tiny_patch16_224",
        {"no_embed_class": True},
        "its class token has no position embedding",
    ),
    "no positions": ("vit_tiny_patch16_224", {"pos_embed": "none"}, "it has no position embeddings"),
    "RMS norm": ("vit_tiny_patch16_224", {"norm_layer": "rmsnorm"}, "its norms are RmsNorm"),
    "gated MLP": ("vit_tiny_patch16_224", {"mlp_layer": timm.layers.SwiGLUPacked}, "its MLP is a GluMlp"),
    "other activation": ("vit_tiny_patch16_224", {"act_layer": "mish"}, "its activation is Mish"),
    "other blocks": (
        "vit_tiny_patch16_224",
        {"block_fn": timm.models.vision_transformer.ParallelScalingBlock},
        "its blocks are ParallelScalingBlock",
    ),
    "other attention": ("vit_tiny_patch16_224", {"attn_layer": "diff"}, "its attention is a DiffAttention"),
    "rotary positions": ("eva02_tiny_patch14_224", {}, "timm's Eva, not its plain VisionTransformer"),
    "BEiT": ("beit_base_patch16_224", {}, "timm's Beit, not its plain VisionTransformer"),
    "no head": ("vit_tiny_patch16_224", {"num_classes": 0}, "its head is not one linear layer"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_transformers_cannot_hold_is_refused_by_name(case: str) -> None:
    name, arguments, message = REFUSED[case]
    module = timm.create_model(name, **{**MICRO, "num_classes": 3, **arguments})
    with pytest.raises(ModelError, match=f"transformers' ViT and DeiT cannot hold this model: .*{message}") as error:
        as_transformers(module, ("a", "b", "c"))
    assert str(error.value).endswith("Export it with --to timm, onnx or pt2.")


def changed_eps(module: Any) -> None:
    module.blocks[1].norm2.eps = 1e-3


def changed_heads(module: Any) -> None:
    module.blocks[1].attn.num_heads = 4


def no_patch_bias(module: Any) -> None:
    module.patch_embed.proj.bias = None


def added_tensor(module: Any) -> None:
    module.extra = nn.Linear(2, 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (changed_eps, "its norms have several epsilons"),
        (changed_heads, "its blocks differ in heads"),
        (no_patch_bias, "its patch embedding has no bias"),
        (added_tensor, r"no place for vit.extra.weight, vit.extra.bias \(2 tensors\)"),
    ],
)
def test_a_model_that_was_changed_by_hand_is_refused(change: Callable[[Any], None], message: str) -> None:
    module = timm.create_model("vit_tiny_patch16_224", **MICRO, num_classes=3)
    change(module)
    with pytest.raises(ModelError, match=message):
        as_transformers(module, ("a", "b", "c"))


@pytest.mark.usefixtures("no_figures")
def test_a_model_that_transformers_cannot_hold_goes_into_the_other_formats(small_run: Path, tmp_path: Path) -> None:
    arguments = {"reg_tokens": 4, "init_values": 0.1, "qk_norm": True, "global_pool": "avg", "fc_norm": True}
    run = made_run(small_run, tmp_path / "run", **arguments)
    with pytest.raises(ModelError, match=r"4 register tokens; .*layer scale; .*normalised"):
        export(run, "hf", tmp_path / "hf")
    for to in ("timm", "pt2"):
        assert export(run, to, tmp_path / to).same
    reference = load_for_inference(run).module
    with torch.inference_mode():
        for to in ("timm", "pt2"):
            torch.testing.assert_close(
                open_with_tool(to, tmp_path / to, torch.float32)[0](pixels()), reference(pixels())
            )


# --- pictures


def photograph(width: int, height: int) -> Image.Image:
    rng = np.random.default_rng((width, height))
    return Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8)).resize((width, height))


PREPARATIONS = {
    "center": replace(SPEC, crop=0.9),
    "center, bilinear": replace(SPEC, crop=0.875, interpolation="bilinear"),
    "squash": replace(SPEC, crop=1.0, crop_mode="squash"),
    "squash and crop": replace(SPEC, crop=0.9, crop_mode="squash", interpolation="lanczos"),
    "border": replace(SPEC, crop=1.0, crop_mode="border"),
}


@pytest.fixture(scope="module", params=PREPARATIONS)
def transformers_export(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A folder of transformers for each way of preparing pictures, and that way."""
    folder, spec = tmp_path_factory.mktemp("hf"), PREPARATIONS[request.param]
    module = timm.create_model("vit_tiny_patch16_224", **MICRO, num_classes=2)
    transformers_folder.write_transformers(folder, module, ("a", "b"), spec, "fp32")
    return folder, spec


def test_transformers_prepares_pictures_as_the_run_does_to_the_bit(transformers_export: tuple[Path, Any]) -> None:
    folder, spec = transformers_export
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    mean, std = (torch.tensor(each)[:, None, None] for each in (spec.mean, spec.std))
    for width in range(60, 72):  # half a pixel is left over in each of its ways
        for image in (photograph(width, 41), photograph(41, width), photograph(11, width)):
            theirs = processor(image, return_tensors="pt").pixel_values[0] * std + mean
            ours = torch.from_numpy(EvalTransform(spec)(image)).permute(2, 0, 1)
            assert torch.equal((255 * theirs).round().byte(), ours)


def test_vitrine_opens_a_folder_of_transformers_with_the_runs_preparation(
    transformers_export: tuple[Path, Any],
) -> None:
    folder, spec = transformers_export
    assert load_for_inference(folder).input == spec


def test_programs_without_timm_find_a_processor_that_comes_near(transformers_export: tuple[Path, Any]) -> None:
    """Transformers' own resize rounds otherwise and its crop may lie one pixel further left or up."""
    folder, spec = transformers_export
    assert (folder / "preprocessor_config.json").exists() == (spec.crop_mode != "border"), "it cannot do borders"
    if spec.crop_mode == "border":
        return
    processor = transformers.BitImageProcessor.from_pretrained(folder)
    image = photograph(64, 64)  # smooth: a pixel more or less shows little
    mean, std = (torch.tensor(each)[:, None, None] for each in (spec.mean, spec.std))
    theirs = processor(image, return_tensors="pt").pixel_values[0] * std + mean
    ours = torch.from_numpy(EvalTransform(spec)(image)).permute(2, 0, 1) / 255
    shifted = theirs[:, 1:, 1:] - ours[:, :-1, :-1]
    assert min((255 * each).abs().mean() for each in (theirs - ours, shifted)) < 1


def test_a_processor_that_prepares_pictures_otherwise_is_not_the_same() -> None:
    spec = replace(SPEC, crop=1.0)
    normal = {"image_mean": SPEC.mean, "image_std": SPEC.std, "resample": 3}
    cropping = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    others = {
        "squeezing": transformers.ViTImageProcessor(size={"height": 32, "width": 32}, **normal),
        "another mean": transformers.BitImageProcessor(**cropping, **(normal | {"image_mean": (0.5, 0.4, 0.31)})),
        "bilinear": transformers.BitImageProcessor(**cropping, **(normal | {"resample": 2})),
        "another rounding": transformers.BitImageProcessor(**cropping, **normal),
    }
    for name, processor in others.items():

        def prepare(image: Image.Image, processor: Any = processor) -> torch.Tensor:
            pixels: torch.Tensor = processor(image, return_tensors="pt").pixel_values[0]
            return pixels

        assert not compare_preprocessing(prepare, spec).same, name
    assert compare_preprocessing(lambda image: prepare(image)[:, :16], spec).largest == float("inf")
    timms = timm.data.create_transform(**spec.to_timm(), is_training=False)
    assert compare_preprocessing(timms, spec).same


# --- the comparison


def test_compared_pictures_are_always_the_same_and_not_alike() -> None:
    first, again = comparison_pictures(SPEC), comparison_pictures(SPEC)
    assert [len(each) for each in first] == [1, 3, 4]
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))
    output = torch.cat(first) * torch.tensor(SPEC.std)[:, None, None] + torch.tensor(SPEC.mean)[:, None, None]
    assert output.min() >= 0 and output.max() <= 1 + 1e-6
    flat = output.flatten(1)
    assert torch.cdist(flat, flat).add(torch.eye(8) * 99).min() > 1


@pytest.mark.parametrize(
    ("change", "same"), [(0.0, True), (5e-5, True), (2e-3, False), (float("nan"), False), (float("inf"), False)]
)
def test_a_difference_of_logits_beyond_rounding_is_seen(change: float, same: bool) -> None:
    def logits(x: torch.Tensor) -> torch.Tensor:
        return torch.stack([x.mean((1, 2, 3)), x.std((1, 2, 3))], 1)

    def other(x: torch.Tensor) -> torch.Tensor:
        return logits(x) + torch.tensor([0, change])

    other = compare_logits(logits, other, SPEC, "fp32")
    assert other.same == same and other.pictures == 8
    if same:
        assert other.largest == pytest.approx(change, abs=1e-6) and other.agreeing == 8


def test_labels_that_differ_are_counted() -> None:
    def logits(x: torch.Tensor) -> torch.Tensor:
        return torch.tensor([[0.0, 1.0]]).repeat(len(x), 1)

    other = compare_logits(logits, lambda x: logits(x).flip(1) if len(x) == 3 else logits(x), SPEC, "fp32")
    assert (other.agreeing, other.largest, other.same) == (5, 1.0, False)
    assert "5 labels agree" in str(other)
    assert not compare_logits(logits, lambda x: logits(x)[:, :1], SPEC, "fp32").same, "another number of classes"


def test_other_names_or_another_input_are_seen() -> None:
    back = export_compare.LoadedExport(lambda x: x, ("a", "b"), spec=SPEC)
    assert describe_difference(back, ("a", "b"), SPEC) is None
    assert describe_difference(back, ("b", "a"), SPEC) == "its class names are not the run's"
    assert "describes the input" in str(describe_difference(back, ("a", "b"), replace(SPEC, crop=1.0)))


# --- nothing wrong and nothing half made is left


def spoil(monkeypatch: pytest.MonkeyPatch, to: str) -> None:
    """Change one bias on its way into the file."""
    write = getattr(export_run, f"write_{NAMES[to]}")

    def spoilt(folder: Path, module: Any, *rest: Any) -> None:
        other_module = module if to == "timm" else copy.deepcopy(module)
        if to != "timm":
            with torch.no_grad():
                other_module.blocks[0].mlp.fc1.bias[0] += 0.5
        write(folder, other_module, *rest)
        if to == "timm":
            tensors = load_file(folder / "model.safetensors")
            tensors["blocks.0.mlp.fc1.bias"][0] += 0.5
            save_file(tensors, folder / "model.safetensors")

    monkeypatch.setattr(export_run, f"write_{NAMES[to]}", spoilt)


NAMES = {"hf": "transformers", "timm": "timm", "pt2": "pt2"}


@pytest.mark.parametrize(("to", "precision"), [("hf", "fp32"), ("hf", "bf16"), ("timm", "fp32"), ("pt2", "fp32")])
def test_an_export_that_is_not_the_run_is_not_written(
    to: str, precision: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch, to)
    result = export(run, to, tmp_path / "out", precision=precision)
    assert not result.same and not list(tmp_path.iterdir())
    assert not result.comparisons[0].same and result.comparisons[0].precision == "fp32"
    assert "is not the run; nothing was written" in result.text()
    assert result.to_dict()["out"] is None and result.to_dict()["same"] is False


def test_an_export_that_prepares_pictures_otherwise_is_not_written(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(InputSpec, "to_timm", lambda spec: spec.__dict__ | {"input_size": (3, 40, 40)})
    result = export(run, "hf", tmp_path / "out")
    assert all(each.same for each in result.comparisons) and not result.same
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device"), ModelError("no")])
def test_a_stopped_export_leaves_nothing(
    error: BaseException, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(folder: Path, *_: object) -> None:
        assert folder.parent == tmp_path and (folder / "model.safetensors").is_file(), "it was on its way"
        raise error

    monkeypatch.setattr(export_run, "read_timm", stop)
    with pytest.raises(type(error)):
        export(run, "timm", tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("no_figures")
def test_where_it_goes(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    used, file, empty = tmp_path / "used", tmp_path / "file", tmp_path / "empty"
    used.mkdir(), empty.mkdir(), file.write_text("mine")
    (used / "mine").write_text("mine")
    for out in (used, file, run):
        with pytest.raises(UsageError, match="is there already"):
            export(run, "timm", out)
    assert (used / "mine").read_text() == file.read_text() == "mine"
    assert export(run, "timm", empty).same and (empty / "README.md").is_file()
    before = {path: path.read_bytes() for path in empty.rglob("*") if path.is_file()}
    assert export(run, "timm", empty).same, "what a call wrote that was killed at its very end is done"
    assert {path: path.read_bytes() for path in empty.rglob("*") if path.is_file()} == before
    with (empty / "README.md").open("a") as card:
        card.write("Mine.\n")
    with pytest.raises(UsageError, match="is there already, and is not this export"):
        export(run, "timm", empty)
    assert (empty / "README.md").read_text().endswith("Mine.\n")
    monkeypatch.chdir(tmp_path)
    assert export(run, "timm", Path("deeper/down")).same and (tmp_path / "deeper" / "down" / "config.json").is_file()


def captioner(folder: Path) -> None:
    (folder / "config.json").write_text('{"architecture": "vitrine-captioner"}')


def without_metrics(folder: Path) -> None:
    (folder / "metrics.json").unlink()


def no_run(folder: Path) -> None:
    (folder / "recipe.toml").unlink()


@pytest.mark.parametrize("to", ["hf", "timm", "onnx", "pt2"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (captioner, "captioners cannot be exported yet"),
        (without_metrics, r"has not ended. Continue it: vitrine train DATA -o .* --resume"),
        (no_run, "is not a run that vitrine train wrote"),
    ],
)
def test_what_cannot_be_exported(
    change: Callable[[Path], None], message: str, to: str, small_run: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(small_run, run)
    change(run)
    with pytest.raises((ModelError, RunError), match=message):
        export(run, to, tmp_path / "out")
    assert [each.name for each in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize(
    ("to", "precision", "message"), [("tf", "fp32", "hf, timm, onnx, pt2"), ("hf", "fp16", "fp32 or")]
)
def test_what_is_not_known(to: str, precision: str, message: str, run: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        export(run, to, tmp_path / "out", precision=precision)


@pytest.mark.parametrize(
    ("to", "package", "extra"),
    [("hf", "transformers", "hf"), *(("onnx", name, "onnx") for name in ("onnx", "onnxscript", "onnxruntime"))],
)
def test_a_missing_package_is_named_with_its_extra(
    to: str, package: str, extra: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = export_compare.import_module

    def missing(name: str) -> Any:
        if name == package:
            raise ImportError(f"No module named {name!r}")
        return original(name)

    monkeypatch.setattr(export_compare, "import_module", missing)
    with pytest.raises(ModelError) as error:
        export(run, to, tmp_path / "out")
    assert str(error.value).endswith(f"pip install 'vitrine[{extra}]'") and f"package {package}" in str(error.value)
    assert not list(tmp_path.iterdir())


# --- the command and the card


@pytest.fixture
def command() -> Callable[..., Any]:
    from vitrine.cli.export import export as verb

    app = typer.Typer()
    app.command()(verb)
    return lambda *arguments: CliRunner().invoke(app, [str(each) for each in arguments])


@pytest.mark.usefixtures("no_figures")
def test_the_command(run: Path, tmp_path: Path, command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    result = command(run, "--to", "timm", "-o", tmp_path / "a", "--precision", "bf16")
    assert result.exit_code == 0, result.output
    assert "all labels agree, of 8 pictures in batches of 1, 3, 4" in result.stdout
    result = command(run, "--to", "timm", "-o", tmp_path / "b", "--json")
    content = json.loads(result.stdout)
    assert content["same"] and content["out"] == str(tmp_path / "b")
    assert [each["precision"] for each in content["comparisons"]] == ["fp32"]
    assert content["comparisons"][0]["largest_difference"] <= content["comparisons"][0]["tolerance"]
    monkeypatch.setattr(export_run, "describe_difference", lambda *_: "its class names are not the run's")
    result = command(run, "--to", "timm", "-o", tmp_path / "c")
    assert result.exit_code == 1 and "Not the same: its class names are not the run's." in result.stdout
    assert not (tmp_path / "c").exists()
    result = command(run, "--to", "nothing", "-o", tmp_path / "c")
    assert isinstance(result.exception, VitrineError)


@pytest.fixture
def picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    orientation = Image.Exif()
    orientation[0x0112] = 6  # as a telephone that was held upright says it
    photograph(60, 45).save(tmp_path / "picture.jpg", quality=95, exif=orientation)
    yield tmp_path / "picture.jpg"


@pytest.mark.parametrize("to", ["hf", "timm", "onnx", "pt2"])
def test_the_program_in_the_card_runs(
    to: str, run: Path, export_folder: Callable[[str, str], Path], picture: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It says of a wide picture what the run says of it."""
    import vitrine

    folder = export_folder(to, "fp32")
    Path(folder.name).symlink_to(folder)
    card = (folder / "README.md").read_text("utf-8")
    (program,) = (part.partition("```")[0] for part in card.split("```python\n")[1:])
    capsys.readouterr()
    left: dict[str, Any] = {}
    exec(compile(program, "the card", "exec"), left)
    output = capsys.readouterr().out
    expected = vitrine.load(run, precision="fp32").predict(picture)
    assert expected.label in output.splitlines()[0]
    if to == "timm":
        assert float(output.split()[-1]) == pytest.approx(expected.probability, abs=1e-5)
    if to in ("onnx", "pt2"):
        probability = torch.as_tensor(left["logits"]).softmax(0).max()
        assert float(probability) == pytest.approx(expected.probability, abs=1e-5)
    if to == "hf":
        assert eval(output)[0]["label"] == expected.label
        assert eval(output)[0]["score"] == pytest.approx(expected.probability, abs=1e-5)
    assert "## This export" in card and "all labels agree" in card
    library = {"hf": "transformers", "timm": "timm", "onnx": "onnx", "pt2": "pytorch"}[to]
    assert f"library_name: {library}" in card
