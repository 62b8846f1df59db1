"""Models: built from what is named and from nothing else, weights read without running code, groups for AdamW."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from support.models import MICRO
from timm.data import resolve_model_data_config
from torch import nn

from vitrine.config import TransformSpec
from vitrine.errors import ModelError
from vitrine.models import precision
from vitrine.models.checkpoints import state_dict
from vitrine.models.finetune import parameter_groups
from vitrine.models.load import LoadedModel, _are_own, input_spec, load_for_inference, load_model, training_input
from vitrine.models.reference import resolve_reference
from vitrine.train.optimizer import make_optimizer
from vitrine.train.settings import OptimizerSettings

VIT = "vit_tiny_patch16_224"


def micro_weights(path: Path, name: str = VIT, **changes: object) -> dict[str, torch.Tensor]:
    """Weights of a micro model, in a file whose kind its suffix says."""
    torch.manual_seed(3)
    state = timm.create_model(name, **{**MICRO, "num_classes": 5, **changes}).state_dict()
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    return state


def expect_error(match: str, reference: str = VIT, **options: object) -> str:
    """The message with which building is refused: at most two lines."""
    with pytest.raises(ModelError, match=match) as error:
        load_model(reference, **{"pretrained": False, **options})  # type: ignore[arg-type]
    assert len(str(error.value).splitlines()) <= 2
    return str(error.value)


# --- what is named


def test_an_unknown_name_is_answered_with_near_ones() -> None:
    assert "vit_tiny_patch16_224" in expect_error("There is no model 'vit_tiny_patch16_2244'", "vit_tiny_patch16_2244")
    assert "deit_tiny_patch16_224" in expect_error("There is no model", "diet_tiny_patch16_224")
    assert "Near names" not in expect_error("There is no model", "qqqq")
    for own in ("scenes-tiny", "vitrine/scenes_tiny", "vitrine/scene-tiny"):
        assert "Near names: vitrine/scenes-tiny.\n" in expect_error("There is no model", own)
    assert "Near names: hf-hub:google/vit-base-patch16-224, vit_base" in expect_error(
        "There is no model", "google/vit-base-patch16-224"
    )
    assert "hf-hub:timm" not in expect_error("There is no model", "timm/vit_tinny_patch16_224")


def test_an_unknown_tag_is_answered_with_the_known_ones() -> None:
    message = expect_error("has no weights tagged 'nope'", "timm/vit_base_patch16_224.nope")
    assert "vit_base_patch16_224.orig_in21k" in message


@pytest.mark.parametrize("name", ["resnet18", "swin_tiny_patch4_window7_224", "mixer_s32_224"])
def test_what_is_no_plain_vision_transformer_is_refused_by_name(name: str) -> None:
    assert name in expect_error("not a plain vision transformer", name)


@pytest.mark.parametrize(
    ("model_args", "match"),
    [
        ({"no_such": 1}, "does not take these model_args: .*no_such"),
        ({"embed_dim": 33}, "cannot be built"),
        ({"patch_size": 0}, "cannot be built"),
        ({"depth": "deep"}, "cannot be built"),
    ],
)
def test_arguments_that_cannot_be_used(model_args: dict[str, object], match: str) -> None:
    expect_error(match, model_args={**MICRO, **model_args})


def test_the_input_is_what_timm_resolves_from_the_configuration() -> None:
    """Every field of ``resolve_model_data_config``, of configurations that say all, and of some that say little."""
    for overlay in (
        {"crop_mode": "squash", "interpolation": "bilinear", "crop_pct": 0.9, "mean": (0.1, 0.2, 0.3)},
        {"crop_mode": "border", "interpolation": "lanczos", "crop_pct": 1.0, "std": (0.1, 0.2, 0.3)},
        {"crop_mode": None, "interpolation": "", "crop_pct": None, "mean": None, "std": None},
        {"crop_mode": "center", "interpolation": "nearest", "crop_pct": 1.15, "test_crop_pct": 0.7},
    ):
        module = timm.create_model(VIT, **{**MICRO, "img_size": (32, 64)}, pretrained_cfg_overlay=overlay)
        expected = resolve_model_data_config(module)
        assert input_spec(module).to_timm() == {**expected, "input_size": (3, 32, 64)}, overlay


@pytest.mark.parametrize(("name", "value"), [("interpolation", "random"), ("crop_mode", "stretch")])
def test_a_preparation_that_is_not_known_is_refused_by_name(name: str, value: str) -> None:
    module = timm.create_model(VIT, **MICRO, pretrained_cfg_overlay={name: value})
    with pytest.raises(ModelError, match=f"asks for {name} = '{value}': expected (center|nearest), "):
        input_spec(module)


def test_training_takes_the_models_own_preparation_unless_the_recipe_has_another() -> None:
    module = timm.create_model(
        VIT, **MICRO, pretrained_cfg_overlay={"crop_mode": "squash", "interpolation": "bilinear", "crop_pct": 0.9}
    )
    model = LoadedModel(module, resolve_reference(VIT), None)
    own = training_input(model, TransformSpec())
    assert (own.crop_mode, own.interpolation, own.crop) == ("squash", "bilinear", 1.0)
    other = training_input(model, TransformSpec(crop_mode="center", interpolation="bicubic", eval_crop=0.875))
    assert (other.crop_mode, other.interpolation, other.crop) == ("center", "bicubic", 0.875)


def test_folders_that_are_no_model(tmp_path: Path) -> None:
    expect_error("a folder without config.json", str(tmp_path))
    (tmp_path / "recipe.toml").write_text("")
    expect_error("stopped before its first epoch ended", str(tmp_path))
    for content in (
        "[1]",
        "{",
        '{"architecture": 5, "pretrained_cfg": {}}',
        '{"architecture": "x", "pretrained_cfg": 1}',
    ):
        (tmp_path / "config.json").write_text(content)
        expect_error(r"config\.json", str(tmp_path))


def test_a_weights_file_needs_an_architecture(tmp_path: Path) -> None:
    micro_weights(tmp_path / "w.pth")
    expect_error("a file .*(?s:.*)--arch NAME", str(tmp_path / "w.pth"))


# --- weights files


@pytest.mark.parametrize("wrap", ["state_dict", "model", "state_dict_ema", None])
def test_wrapped_state_dicts_load(wrap: str | None, tmp_path: Path) -> None:
    state = micro_weights(tmp_path / "w.pth")
    torch.save({wrap: state, "epoch": 3} if wrap else {f"module.{k}": v for k, v in state.items()}, tmp_path / "w.pth")
    model = load_model(VIT, pretrained=str(tmp_path / "w.pth"), num_classes=5, model_args=MICRO)
    assert all(torch.equal(state[name], tensor) for name, tensor in model.module.state_dict().items())
    assert model.notes == ()


class Payload:
    """Unpickling it writes a file."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.proof,))


@pytest.mark.parametrize("name", ["w.pth", "w.bin", "w.npz"])
def test_code_in_a_weights_file_is_never_run(name: str, tmp_path: Path) -> None:
    payload = Payload(tmp_path / "proof")
    if name == "w.npz":
        np.savez(tmp_path / "w", weights=np.array([payload], dtype=object))
    else:
        torch.save({"state_dict": {"head.weight": payload}}, tmp_path / name)
    expect_error("carries Python objects", pretrained=str(tmp_path / name), model_args=MICRO)
    assert not (tmp_path / "proof").exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("empty.safetensors", b""),
        ("empty.pth", b""),
        ("empty.npz", b""),
        ("huge-header.safetensors", (2**62).to_bytes(8, "little") + b"{}"),
        ("lying-header.safetensors", b"\x20" + bytes(7) + b'{"a":{"dtype":"F32","shape":[9]}}'),
        ("garbage.pth", b"\x80\x04garbage"),
        ("page.npz", b"<html></html>"),
    ],
)  # fmt: skip
def test_files_that_are_no_weights(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    assert name in expect_error("cannot be|can be read safely", pretrained=str(tmp_path / name), model_args=MICRO)


def test_something_else_than_a_state_dict(tmp_path: Path) -> None:
    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    expect_error("can be read safely", pretrained=str(tmp_path / "list.pth"), model_args=MICRO)
    expect_error("does not exist", pretrained=str(tmp_path / "nowhere.pth"), model_args=MICRO)


@pytest.mark.parametrize("classes", [5, 9])  # timm would accept half of a model where the number of classes differs
@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"depth": 3}, r"12 tensors are unexpected \(blocks\.2\.\*\)(?s:.*)The file has 3 blocks, the model 2"),
        ({"depth": 1}, r"12 tensors are missing \(blocks\.1\.\*\)"),
        ({"embed_dim": 64}, "size mismatch"),
        ({"qkv_bias": False}, r"2 tensors are missing \(blocks\.\{0..1\}\.attn\.qkv\.bias\)"),
        ({"final_norm": False}, r"2 tensors are missing \(norm\."),
    ],
)
def test_weights_of_another_architecture(changes: dict[str, object], match: str, classes: int, tmp_path: Path) -> None:
    micro_weights(tmp_path / "w.safetensors", **changes)
    expect_error(match, pretrained=str(tmp_path / "w.safetensors"), num_classes=classes, model_args=MICRO)


@pytest.mark.parametrize(
    ("labels", "order", "words"),
    [
        (("a", "b", "c", "d", "e"), [0, 1, 2, 3, 4], None),
        (
            ("e", "a", "c", "b", "d"),
            [4, 0, 2, 1, 3],
            "is that of the weights, with its classes in the order of the data",
        ),
        (
            ("a", "b", "c", "d", "z"),
            None,
            "is new, for 5 classes; the one in the weights, for 5 other classes, is left out",
        ),
        ((), [0, 1, 2, 3, 4], None),
    ],
    ids=["the same", "another order", "other classes", "nobody knows"],
)
def test_a_head_of_as_many_classes_goes_on_under_its_own_names(
    labels: tuple[str, ...], order: list[int] | None, words: str | None, tmp_path: Path
) -> None:
    """A head whose rows belong to other classes than the data's would begin with sure mistakes."""
    torch.manual_seed(3)
    module = timm.create_model(VIT, **{**MICRO, "num_classes": 5})
    config = {"architecture": VIT, "num_classes": 5, "label_names": list("abcde"), "model_args": MICRO}
    cfg = {"input_size": [3, 32, 32], "classifier": "head", "num_classes": 5, "label_names": list("abcde")}
    (tmp_path / "config.json").write_text(json.dumps(config | {"pretrained_cfg": cfg}))
    save_file(module.state_dict(), tmp_path / "model.safetensors")
    loaded = load_model(str(tmp_path), pretrained=True, num_classes=5, labels=labels)
    head, own = loaded.module.head, module.head
    assert any(words in note for note in loaded.notes) if words else not any("head" in note for note in loaded.notes)
    if order is None:
        assert not set(map(tuple, head.weight.tolist())) & set(map(tuple, own.weight.tolist()))
    else:
        assert torch.equal(head.weight, own.weight[order]) and torch.equal(head.bias, own.bias[order])
    assert torch.equal(loaded.module.blocks[0].mlp.fc1.weight, module.blocks[0].mlp.fc1.weight)


def test_another_number_of_classes_gets_a_new_head_in_training_only(tmp_path: Path) -> None:
    state = micro_weights(tmp_path / "w.safetensors")
    model = load_model(VIT, pretrained=str(tmp_path / "w.safetensors"), num_classes=9, model_args=MICRO)
    assert model.notes == (
        "The classification head is new, for 9 classes; the one in the weights, for 5 classes, is left out.",
    )
    new_state = model.module.state_dict()
    assert new_state["head.weight"].shape == (9, 32)
    assert all(torch.equal(state[name], new_state[name]) for name in state if not name.startswith("head."))
    assert load_model(VIT, pretrained=str(tmp_path / "w.safetensors"), model_args=MICRO).module.num_classes == 5
    save_file({name: tensor for name, tensor in state.items() if "head" not in name}, tmp_path / "headless.safetensors")
    headless = load_model(VIT, pretrained=str(tmp_path / "headless.safetensors"), num_classes=9, model_args=MICRO)
    assert headless.notes == ("The classification head is new, for 9 classes; the weights have none.",)
    assert load_model(VIT, pretrained=str(tmp_path / "headless.safetensors"), model_args=MICRO).module.num_classes == 0


def test_a_run_is_opened_as_it_was_saved(small_run: Path) -> None:
    model = load_for_inference(small_run)
    tensors = load_file(small_run / "model.safetensors")
    assert all(torch.equal(tensors[name], tensor) for name, tensor in model.module.state_dict().items())
    assert (
        model.notes == ()
        and not model.module.training
        and resolve_reference(f"local-dir:{small_run}").folder == small_run
    )


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        (VIT, {}),
        ("deit_tiny_distilled_patch16_224", {}),
        ("vit_tiny_patch16_224", {"reg_tokens": 4, "init_values": 0.1, "qk_norm": True}),
    ],
)
def test_a_whole_file_is_loaded_without_a_random_number(name: str, changes: dict[str, object], tmp_path: Path) -> None:
    state = micro_weights(tmp_path / "w.safetensors", name, **changes)
    generator = torch.get_rng_state()
    args = {**MICRO, **changes}
    module = load_model(name, pretrained=str(tmp_path / "w.safetensors"), model_args=args).module
    assert torch.equal(torch.get_rng_state(), generator)
    assert state.keys() == module.state_dict().keys() == dict(module.named_parameters()).keys()
    assert all(torch.equal(state[name], value) for name, value in module.named_parameters())
    new = load_model(name, pretrained=str(tmp_path / "w.safetensors"), num_classes=9, model_args=args).module
    assert not torch.equal(torch.get_rng_state(), generator)  # a new head begins as timm begins it
    assert all(value.isfinite().all() for value in new.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_file_is_in_memory_once(dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was read becomes the model's own: no copy by timm, none into the model, and none of the file's mapping."""
    path = tmp_path / "w.safetensors"
    state = {name: value.to(dtype) for name, value in micro_weights(path).items()}
    save_file(state, path)
    tensors: dict[str, torch.Tensor] = {}
    read = state_dict.read_safetensors
    monkeypatch.setattr(state_dict, "read_safetensors", lambda file: tensors.update(read(file)) or tensors)
    copies: list[torch.Tensor] = []
    deepcopy = torch.Tensor.__deepcopy__
    monkeypatch.setattr(torch.Tensor, "__deepcopy__", lambda x, memo: copies.append(x) or deepcopy(x, memo))
    module = load_model(VIT, pretrained=str(path), model_args=MICRO).module
    parameters = dict(module.named_parameters())
    assert {value.dtype for value in parameters.values()} == {torch.float32} and tensors.keys() == parameters.keys()
    taken = [parameters[name].data_ptr() == value.data_ptr() for name, value in tensors.items()]
    assert set(taken) == {dtype == torch.float32}  # of another dtype they are converted, as before
    assert all(torch.equal(parameters[name], value.float()) for name, value in state.items())
    assert not copies and not any("__deepcopy__" in vars(value) for value in tensors.values())
    path.write_bytes(bytes(path.stat().st_size))  # the file is overwritten in its place
    assert all(torch.equal(parameters[name], value.float()) for name, value in state.items())


def test_tensors_that_share_memory_are_copied_apart() -> None:
    """Two names for one memory, a part of something larger, another layout or dtype: the model has its own."""
    shared, module = torch.ones(2, 2), nn.Linear(2, 2)
    for tensors, are_own in (
        ({"weight": torch.ones(2, 2), "bias": torch.ones(2)}, True),
        ({"weight": shared, "bias": shared[0]}, False),
        ({"weight": shared.view(4)[:4].view(2, 2), "bias": torch.ones(3)[:2]}, False),
        ({"weight": torch.ones(2, 2).t(), "bias": torch.ones(2)}, False),
        ({"weight": torch.arange(6.0).view(3, 2)[:2].t(), "bias": torch.ones(2)}, False),
        ({"weight": torch.ones(2, 2).half(), "bias": torch.ones(2).half()}, False),
        ({"weight": torch.ones(2, 2), "bias": torch.ones(2).half()}, False),
    ):
        assert _are_own(module, tensors) == are_own


def test_loading_leaves_torch_as_it_was(tmp_path: Path) -> None:
    before = nn.Module.load_state_dict
    micro_weights(tmp_path / "w.pth", depth=3)
    expect_error("unexpected", pretrained=str(tmp_path / "w.pth"), num_classes=2, model_args=MICRO)
    assert nn.Module.load_state_dict is before


# --- position embeddings


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        (VIT, {}),
        ("deit_tiny_distilled_patch16_224", {}),
        (VIT, {"reg_tokens": 4}),
        (VIT, {"reg_tokens": 4, "no_embed_class": True}),
        (VIT, {"class_token": False, "global_pool": "avg"}),
    ],
)
def test_another_size_is_said_to_resample_the_position_embeddings(
    name: str, changes: dict[str, object], tmp_path: Path
) -> None:
    micro_weights(tmp_path / "w.safetensors", name, **changes)
    file, args = str(tmp_path / "w.safetensors"), {**MICRO, **changes}
    assert load_model(name, pretrained=file, num_classes=5, model_args=args).notes == ()
    model = load_model(name, pretrained=file, num_classes=5, model_args=args, image_size=48)
    assert model.notes == ("Position embeddings were resampled from 4 x 4 to 6 x 6 patches.",)
    assert model.input.size == (48, 48)
    assert model.module(torch.zeros(1, 3, 48, 48)).shape[-1] == 5


# --- precision


@pytest.mark.parametrize(
    ("setting", "hardware", "width", "expected"),
    [
        ("auto", True, 191, "fp32"),
        ("auto", True, 192, "bf16"),
        ("auto", True, 768, "bf16"),
        ("auto", False, 768, "fp32"),
        ("bf16", False, 32, "bf16"),
        ("fp32", True, 768, "fp32"),
    ],
)
def test_precision(setting: str, hardware: bool, width: int, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "bf16_in_hardware", lambda _: hardware)
    assert precision.resolve_precision(setting, torch.device("cpu"), width) == expected


# --- parameter groups


def test_parameter_groups_against_a_slow_formula() -> None:
    """Every parameter on its own: decay unless it is a vector, a token or position; 0.5 per layer below the head.

    Layers from below: tokens, positions and patches; block 0; block 1; block 2 and the norm after it; the head.
    """
    args = {**MICRO, "depth": 3, "reg_tokens": 2, "num_classes": 4}
    module = load_model(VIT, pretrained=False, model_args=args).module
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    values = {
        names[id(parameter)]: (group["weight_decay"], group["lr_scale"])
        for group in parameter_groups(module, weight_decay=0.3, layer_decay=0.5)
        for parameter in group["params"]
    }
    assert values.keys() == dict(module.named_parameters()).keys()
    for name, parameter in module.named_parameters():
        vector = name.endswith(".bias") or re.search(r"norm\d?\.weight$", name) is not None
        assert vector == (parameter.ndim == 1)
        exempt = vector or name in ("cls_token", "reg_token", "pos_embed")
        block = re.match(r"blocks\.(\d)\.", name)
        below = 3 - int(block[1]) if block else {"head": 0, "norm": 1}.get(name.partition(".")[0], 4)
        assert values[name] == (0.0 if exempt else 0.3, 0.5**below), name


def test_frozen_parameters_are_in_no_group() -> None:
    module = load_model(VIT, pretrained=False, model_args=MICRO).module
    for parameter in module.blocks.parameters():
        parameter.requires_grad_(False)
    groups = parameter_groups(module, weight_decay=0.05, layer_decay=1.0)
    assert {group["lr_scale"] for group in groups} == {1.0}
    assert all(parameter.requires_grad for group in groups for parameter in group["params"])


def test_muon_steps_the_matrices_inside_blocks_and_adamw_the_rest() -> None:
    module = load_model(VIT, pretrained=False, model_args=MICRO).module
    settings = OptimizerSettings("muon", learning_rate=0.01, weight_decay=0.3, beta2=0.999, layer_decay=0.5)
    optimizer = make_optimizer(module, settings)
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    muon = {
        names[id(p)]
        for group in optimizer.param_groups
        for p in group["params"]
        if not group.get("use_fallback", False)
    }
    assert muon == {
        name for name, p in module.named_parameters() if name.startswith("blocks.") and name.endswith("weight")
        if p.ndim == 2
    }  # fmt: skip
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(names)
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    torch.manual_seed(0)
    for parameter in module.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    weight = module.blocks[1].mlp.fc1.weight  # lr_scale 1 x 0.5 is applied by the schedule, not by the optimizer
    step = (before["blocks.1.mlp.fc1.weight"] * (1 - 0.01 * 0.3) - weight).detach() / 0.01
    singular = torch.linalg.svdvals(step) / (0.2 * max(step.shape) ** 0.5)  # orthogonal, at the size of AdamW's steps
    assert 0.5 < singular.min() < singular.max() < 1.5
    bias = module.blocks[1].mlp.fc1.bias
    change = (before["blocks.1.mlp.fc1.bias"] - bias).detach().abs()
    torch.testing.assert_close(change, torch.full_like(change, 0.019), rtol=1e-3, atol=0)  # NAdamW's first step
