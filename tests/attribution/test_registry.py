"""What every registered method keeps to, on every kind of model that can be explained."""

from __future__ import annotations

import re

import pytest
import timm
import torch
from torch import nn

from vitrine.attribution.maps import BatchMaps
from vitrine.attribution.methods import Method
from vitrine.attribution.registry import ENTRIES, METHODS, MethodEntry

SMALL = {"img_size": 32, "patch_size": 8, "depth": 2, "embed_dim": 32, "num_heads": 2, "num_classes": 4}
MODELS = {
    "class token": ("vit_tiny_patch16_224", {}),
    "two tokens read": ("deit_tiny_distilled_patch16_224", {}),
    "mean": ("vit_tiny_patch16_224", {"global_pool": "avg", "class_token": False}),
    "attention pool": ("vit_tiny_patch16_224", {"global_pool": "map", "class_token": False}),
    "registers, not square": ("vit_tiny_patch16_224", {"reg_tokens": 3, "no_embed_class": True, "img_size": (24, 40)}),
}


@pytest.fixture(scope="module", params=MODELS)
def module(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(0)
    name, kind = MODELS[request.param]
    model = timm.create_model(name, **SMALL | kind).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(4)
    return model


def pixels_of(module: nn.Module) -> torch.Tensor:
    return torch.randn(2, 3, *module.patch_embed.img_size, generator=torch.Generator().manual_seed(1))


def state_of(module: nn.Module) -> list[object]:
    parts: list[object] = [module.training, *(parameter.requires_grad for parameter in module.parameters())]
    for part in module.modules():
        parts += [len(part._forward_hooks), len(part._forward_pre_hooks), getattr(part, "fused_attn", None)]
    return [*parts, *(parameter.grad for parameter in module.parameters())]


@pytest.mark.parametrize("name", METHODS)
def test_every_method_keeps_the_contract(name: str, module: nn.Module) -> None:
    method, inputs, targets = Method(name), pixels_of(module), torch.tensor([1, 3])
    weights = [parameter.detach().clone() for parameter in module.parameters()]
    before = state_of(module)
    maps: BatchMaps = method.maps(module, inputs, targets)
    grid = module.patch_embed.grid_size
    assert maps.scores_BRC.shape == (2, *grid) and maps.scores_BRC.dtype == torch.float32
    assert maps.scores_BRC.device.type == "cpu" and not maps.scores_BRC.requires_grad
    assert torch.isfinite(maps.scores_BRC).all() and maps.scores_BRC.any()
    assert maps.unit != "mass" or maps.scores_BRC.min() >= 0
    again = method.maps(module, inputs, targets).scores_BRC
    assert torch.equal(again, maps.scores_BRC), "the same call gives the same map"
    single = method.maps(module, inputs[1:], targets[1:]).scores_BRC[0]
    torch.testing.assert_close(single, maps.scores_BRC[1], rtol=1e-3, atol=1e-5 * float(maps.scores_BRC.abs().max()))
    other = method.maps(module, inputs, torch.tensor([2, 3])).scores_BRC
    assert torch.equal(other[0], maps.scores_BRC[0]) != method.for_a_class, "the target matters where it says so"
    assert state_of(module) == before
    assert all(torch.equal(*pair) for pair in zip(weights, module.parameters(), strict=True))
    assert method.describe(module)


@pytest.mark.parametrize("entry", ENTRIES, ids=METHODS)
def test_every_row_of_the_table_is_whole(entry: MethodEntry) -> None:
    assert entry.load().__doc__
    assert entry.title and entry.score and entry.formula
    assert re.search(r"\d", entry.comparison), "a difference is a number"
    assert entry.for_a_class == ("gradients" in entry.needs or "probabilities" in entry.needs)
