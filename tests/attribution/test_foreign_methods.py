"""Methods of captum and pytorch-grad-cam on the models that vitrine opens, and a person's own functions."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from torch import nn

from vitrine.attribution.attention import watch_attention
from vitrine.attribution.foreign_methods import import_function, keep_module_state
from vitrine.attribution.gradcam import gradcam, gradcam_module
from vitrine.attribution.methods import Method, method_with
from vitrine.attribution.pixel_gradients import input_gradient
from vitrine.attribution.registry import LIBRARY_ENTRIES
from vitrine.errors import ModelError, UsageError, VitrineError

SMALL = {"img_size": (16, 24), "patch_size": 8, "depth": 2, "embed_dim": 16, "num_heads": 2, "num_classes": 4}
KINDS = {"class token": {"reg_tokens": 2}, "attention pool": {"global_pool": "map", "class_token": False}}
TARGETS = torch.tensor([1, 3])


def build(kind: str = "class token") -> nn.Module:
    torch.manual_seed(0)
    module = timm.create_model("vit_tiny_patch16_224", **SMALL | KINDS[kind]).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim == 2:
                parameter.mul_(4)
        module.head.weight.normal_()
    return module


def pixels() -> torch.Tensor:
    return torch.randn(2, 3, 16, 24, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("entry", LIBRARY_ENTRIES, ids=lambda entry: entry.name)
def test_every_method_of_a_library_keeps_the_contract(entry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vitrine.attribution.captum_methods._SAMPLES", 30)
    pytest.importorskip({"captum": "captum", "cam": "pytorch_grad_cam"}[entry.name.partition(":")[0]])
    for kind in (
        KINDS if entry.variant in ("FeatureAblation", "DeepLift", "FinerCAM", "AblationCAM") else ["class token"]
    ):
        module, method = build(kind), Method(entry.name)
        module.requires_grad_(False)  # a frozen model has maps, too
        before = {name: value.clone() for name, value in module.state_dict().items()}
        structure = str(module)
        maps = method.maps(module, pixels(), TARGETS)
        assert maps.scores_BRC.shape == (2, 2, 3) and torch.isfinite(maps.scores_BRC).all()
        assert maps.scores_BRC.flatten(1).std(1).max() > 0
        single = method.maps(module, pixels()[1:], TARGETS[1:]).scores_BRC[0]
        torch.testing.assert_close(single, maps.scores_BRC[1], rtol=1e-3, atol=1e-4)
        other = method.maps(module, pixels(), torch.tensor([2, 3])).scores_BRC
        assert torch.equal(other[0], maps.scores_BRC[0]) != method.for_a_class
        assert str(module) == structure and not module.training
        assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
        assert all(parameter.grad is None and not parameter.requires_grad for parameter in module.parameters())
        assert not any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())
        assert entry.variant in method.describe(module)


def test_captums_input_gradient_is_ours() -> None:
    pytest.importorskip("captum")
    ours = input_gradient(build(), pixels(), TARGETS, torch.tensor([0, 2])).scores_BRC
    theirs = Method("captum:InputXGradient").maps(build(), pixels(), TARGETS, against_B=torch.tensor([0, 2]))
    torch.testing.assert_close(theirs.scores_BRC, ours, rtol=1e-4, atol=1e-6)
    assert theirs.unit == "logit"


def test_captums_feature_ablation_hides_one_patch_at_a_time() -> None:
    pytest.importorskip("captum")
    module, inputs = build(), pixels()[:1]
    maps = Method("captum:FeatureAblation").maps(module, inputs, TARGETS[:1]).scores_BRC[0]
    with torch.no_grad():
        for row, column in ((0, 0), (1, 2)):
            without = inputs.clone()
            without[..., 8 * row : 8 * row + 8, 8 * column : 8 * column + 8] = 0
            lost = module(inputs)[0, 1] - module(without)[0, 1]
            torch.testing.assert_close(maps[row, column], lost, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layer", [-1, 0])
def test_pytorch_grad_cams_gradcam_is_ours_but_for_its_range(layer: int) -> None:
    pytest.importorskip("pytorch_grad_cam")
    against = torch.tensor([0, 2])
    ours = gradcam(build(), pixels(), TARGETS, layer, against).scores_BRC
    theirs = Method("cam:GradCAM", layer=layer).maps(build(), pixels(), TARGETS, against_B=against).scores_BRC
    for own_RC, their_RC in zip(ours, theirs, strict=True):
        own_RC = own_RC - own_RC.min()
        torch.testing.assert_close(their_RC, own_RC / own_RC.max().clamp_min(1e-7), rtol=1e-3, atol=1e-4)
    assert ours.any()


def test_the_layer_of_a_cam_is_the_one_that_is_named() -> None:
    module = build()
    assert gradcam_module(module) is module.blocks[1].norm1
    assert gradcam_module(module, 0) is module.blocks[0]
    assert Method("cam:HiResCAM").describe(module) == "pytorch-grad-cam's HiResCAM on the tokens of blocks[1].norm1"


def brightness(module: nn.Module, pixels_BCHW: torch.Tensor, targets_B: torch.Tensor) -> np.ndarray:
    """A person's own method, which leaves the model in a state of its own."""
    module.train()
    module(pixels_BCHW).sum().backward()
    module.head.register_forward_hook(lambda *_: None)
    rows, columns = module.patch_embed.grid_size
    return pixels_BCHW.mean(1).reshape(-1, rows, 8, columns, 8).mean((2, 4)).numpy() * (1 + targets_B.numpy()[0])


def test_a_function_of_ones_own_is_a_method() -> None:
    module, method = build(), method_with(brightness, {})
    maps = method.maps(module, pixels(), TARGETS)
    expected = pixels().mean(1).reshape(2, 2, 8, 3, 8).mean((2, 4)) * 2
    torch.testing.assert_close(maps.scores_BRC, expected)
    assert (maps.unit, method.for_a_class) == ("score", True)
    assert method.name.endswith(":brightness") and method.describe(module) == f"maps by {method.name}"
    assert not module.training and all(parameter.grad is None for parameter in module.parameters())
    assert not module.head._forward_hooks
    with pytest.raises(UsageError, match="layer is an option of"):
        method_with(brightness, {"layer": 0})


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda module, x, y: x.mean((1, 2, 3)), r"shape \(2,\); expected \(2, 2, 3\): pictures, rows and columns"),
        (lambda module, x, y: torch.full((2, 2, 3), torch.nan), "not finite"),
        (lambda module, x, y: torch.full((2, 2, 3), 1e39, dtype=torch.float64), "not finite"),
        (lambda module, x, y: torch.zeros(2, 3, 2), r"shape \(2, 3, 2\)"),
        (lambda module, x, y: torch.zeros(1, 2, 3), r"shape \(1, 2, 3\)"),
        (lambda module, x, y: torch.zeros(2, 2, 3, device="meta"), "failed: NotImplementedError"),
        (lambda module, x, y: torch.zeros(2, 2, 3, dtype=torch.complex64), "failed: TypeError: .*complex"),
        (lambda module, x, y: None, "failed"),
        (lambda module, x, y: 1 / 0, "failed: ZeroDivisionError: division by zero\n--debug shows where"),
        (lambda module, x: x, "failed: TypeError"),
    ],
)
def test_what_a_function_of_ones_own_gives_is_checked(function, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        method_with(function, {}).maps(build(), pixels(), TARGETS)


def exchange_head(module: nn.Module) -> None:
    module.head = nn.Identity()


def exchange_forward(module: nn.Module) -> None:
    module.blocks[0].attn.forward = lambda x, *_, **__: x


def add_part(module: nn.Module) -> None:
    module.probe = nn.Linear(2, 2)
    module.note = "mine"


def zero_weights(module: nn.Module) -> None:
    with torch.no_grad():
        module.head.weight.zero_()


def zero_weights_beside_autograd(module: nn.Module) -> None:
    module.blocks[1].mlp.fc1.weight.data.mul_(0)


def exchange_data(module: nn.Module) -> None:
    module.cls_token.data = torch.ones_like(module.cls_token.data)


CHANGES = {
    "head": exchange_head,
    "forward": exchange_forward,
    "part": add_part,
    "weights": zero_weights,
    "data": zero_weights_beside_autograd,
    "tensor": exchange_data,
    "dtype": lambda module: module.double(),
    "fused attention": lambda module: setattr(module.blocks[0].attn, "fused_attn", False),
    "blocks": lambda module: module.blocks.__delitem__(0),
    "hook": lambda module: module.register_forward_pre_hook(lambda *_: (torch.zeros(2, 3, 16, 24),)),
    "gradients": lambda module: torch.set_grad_enabled(False),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("fails", [False, True], ids=["gives a map", "fails"])
def test_whatever_a_function_of_ones_own_does_is_undone(change: str, fails: bool) -> None:
    module, inputs, targets = build(), pixels(), TARGETS.clone()
    weights = {name: value.clone() for name, value in module.state_dict().items()}
    structure, answer = str(module), module(inputs).detach()
    fused = [block.attn.fused_attn for block in module.blocks]

    def function(module: nn.Module, pixels_BCHW: torch.Tensor, targets_B: torch.Tensor) -> torch.Tensor:
        pixels_BCHW.zero_()
        targets_B.zero_()
        CHANGES[change](module)
        return 1 / 0 if fails else torch.ones(2, 2, 3)

    if fails:
        with pytest.raises(ModelError, match="ZeroDivisionError"):
            method_with(function, {}).maps(module, inputs, targets)
    else:
        method_with(function, {}).maps(module, inputs, targets)
    assert torch.is_grad_enabled() and not hasattr(module, "note") and str(module) == structure
    assert list(weights) == list(module.state_dict())
    assert all(torch.equal(weights[name], value) for name, value in module.state_dict().items())
    assert torch.equal(inputs, pixels()) and torch.equal(targets, TARGETS), "its pixels and targets are copies"
    assert torch.equal(module(inputs), answer)
    assert [block.attn.fused_attn for block in module.blocks] == fused
    assert all(parameter.requires_grad and parameter.grad is None for parameter in module.parameters())


@pytest.mark.parametrize(
    "give",
    [
        lambda scores: scores.numpy().astype(np.float16),
        lambda scores: scores.double().requires_grad_(),
        lambda scores: scores.tolist(),
        lambda scores: scores > 2,
        lambda scores: scores.to(torch.int64),
        lambda scores: scores.permute(2, 1, 0).contiguous().permute(2, 1, 0),
    ],
    ids=["float16", "in a graph", "lists", "bool", "int", "not contiguous"],
)
def test_scores_of_any_kind_of_number_are_taken(give) -> None:
    scores = torch.arange(12.0).reshape(2, 2, 3)
    maps = method_with(lambda module, x, y: give(scores), {}).maps(build(), pixels(), TARGETS).scores_BRC
    expected = torch.as_tensor(give(scores)).detach().float()
    assert maps.dtype == torch.float32 and not maps.requires_grad and torch.equal(maps, expected)


def test_a_name_alone_never_becomes_code() -> None:
    """What a request or a file says is a name: it imports nothing."""
    for name in ("os:system", "this:s", "captum:os", "cam:GradCAM2", "captum:"):
        with pytest.raises(VitrineError) as caught:
            Method(name)
        assert len(str(caught.value).splitlines()) <= 2
    assert "this" not in sys.modules


def test_a_function_is_imported_from_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = list(sys.path)
    (tmp_path / "own_maps_a.py").write_text("def zeros(module, pixels, targets):\n    return 0\nnumber = 3\n")
    (tmp_path / "own_maps_b.py").write_text("raise OSError('no')\n")
    assert import_function("own_maps_a:zeros")(None, None, None) == 0
    for reference, message in (
        ("own_maps_a:ones", "The module own_maps_a has no 'ones'"),
        ("own_maps_a:number", "cannot be called: 'number'"),
        ("own_maps_b:zeros", "own_maps_b cannot be imported: OSError: no"),
        ("own_maps_c:zeros", "There is no Python module 'own_maps_c'"),
        (":zeros", "There is no Python module ''"),
    ):
        with pytest.raises(UsageError) as caught:
            import_function(reference)
        assert message in str(caught.value) and len(str(caught.value).splitlines()) <= 2
    assert sys.path == path


def test_undisturbed_puts_back_what_an_error_left() -> None:
    module = build()
    with pytest.raises(ZeroDivisionError), keep_module_state(module), watch_attention(module, lambda call: None):
        module.train().requires_grad_(False)
        module.blocks[0].register_forward_pre_hook(lambda *_: None)
        raise ZeroDivisionError
    assert not module.training and all(parameter.requires_grad for parameter in module.parameters())
    assert not module.blocks[0]._forward_pre_hooks
