"""Methods from shared passes give the maps that each gives by itself, and share the passes."""

from __future__ import annotations

from itertools import pairwise

import pytest
import timm
import torch
from torch import nn

from vitrine.attribution.methods import Method
from vitrine.attribution.shared_passes import shared_maps
from vitrine.errors import ModelError

SMALL = {"img_size": (24, 32), "patch_size": 8, "depth": 3, "embed_dim": 24, "num_heads": 2, "num_classes": 4}
MODELS = {
    "class token": ("vit_tiny_patch16_224", {}),
    "two tokens read": ("deit_tiny_distilled_patch16_224", {}),
    "attention pool": ("vit_tiny_patch16_224", {"global_pool": "map", "class_token": False}),
    "maximum": ("vit_tiny_patch16_224", {"global_pool": "max", "class_token": False, "reg_tokens": 2}),
}
TARGETS = torch.tensor([1, 3])
METHODS = [
    *(Method("attention", layer=layer) for layer in range(3)),
    Method("attention", heads="max", query=(1, 2)),
    Method("rollout"),
    Method("relevance"),
    *(Method("gradcam", layer=layer) for layer in range(3)),
    Method("gradcam", against="x"),  # which shares nothing
    Method("occlusion"),
    Method("value-norm", layer=0),
]


def build(kind: str) -> nn.Module:
    torch.manual_seed(0)
    name, how = MODELS[kind]
    module = timm.create_model(name, **SMALL | how).eval().requires_grad_(False)
    for parameter in module.parameters():
        if parameter.ndim == 2:
            parameter.mul_(4)
    return module


@pytest.mark.parametrize("kind", MODELS)
def test_shared_passes_give_the_same_maps(kind: str) -> None:
    module = build(kind)
    inputs = torch.randn(2, 3, 24, 32, generator=torch.Generator().manual_seed(1))
    methods = {str(number): method for number, method in enumerate(METHODS)}
    maps = dict(shared_maps(methods, module, inputs, TARGETS))
    assert maps.keys() == methods.keys()
    for name, method in methods.items():
        alone = method.maps(module, inputs, TARGETS)
        torch.testing.assert_close(maps[name].scores_BRC, alone.scores_BRC, rtol=1e-4, atol=1e-7)
        assert maps[name].unit == alone.unit
        assert (maps[name].prefix_share_B is None) == (alone.prefix_share_B is None)
        assert not maps[name].scores_BRC.requires_grad
    assert not any(torch.equal(one.scores_BRC, two.scores_BRC) for one, two in pairwise(list(maps.values())[:9]))
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())


def test_nine_methods_take_two_passes() -> None:
    module, passes = build("class token"), []
    methods = {str(number): method for number, method in enumerate(METHODS[:9])}
    handle = module.register_forward_hook(lambda *_: passes.append(1))
    list(shared_maps(methods, module, torch.randn(2, 3, 24, 32), TARGETS))
    handle.remove()
    assert len(passes) == 2


def test_what_one_of_them_lacks_is_said() -> None:
    with pytest.raises(ModelError, match="no layer 7"):
        list(shared_maps({"a": Method("gradcam", layer=7)}, build("class token"), torch.randn(2, 3, 24, 32), TARGETS))
