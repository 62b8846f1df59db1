"""The last block for the class token alone: the same logits, gradients and maps, and fewer products."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from threading import Thread
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from vitrine.attribution.attention import record_attention
from vitrine.models.precision import autocast, class_token_alone

SIZE = 64
PLAIN = {
    "vit_tiny_patch16_224": {},
    "gated layers": {"mlp_layer": timm.layers.SwiGLUPacked, "init_values": 0.5},
    "normed queries": {"qk_norm": True, "scale_attn_norm": True},
    "registers": {"reg_tokens": 3},
    "norm after pooling": {"fc_norm": True},
}
OTHERS = {
    "mean of the patches": ("vit_tiny_patch16_224", {"global_pool": "avg"}),
    "attention pool": ("vit_tiny_patch16_224", {"global_pool": "map", "class_token": False}),
    "two tokens": ("deit_tiny_distilled_patch16_224", {}),
    "blocks side by side": ("vit_small_patch16_18x2_224", {"depth": 2}),
    "rotary positions": ("vit_small_patch16_dinov3", {}),
}


def _model(name: str, **settings: object) -> nn.Module:
    torch.manual_seed(0)
    module = timm.create_model(name, img_size=SIZE, num_classes=5, **settings).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return module


def _learn(module: nn.Module, pixels: Tensor) -> tuple[Tensor, list[Tensor]]:
    logits = module(pixels)
    logits.log_softmax(-1)[:, 1].sum().backward()
    return logits.detach(), [p.grad for p in module.parameters() if p.grad is not None]


@pytest.mark.parametrize("kind", PLAIN)
def test_logits_and_gradients_are_those_of_the_whole_block(kind: str) -> None:
    module = _model("vit_tiny_patch16_224", depth=3, **PLAIN[kind])
    pixels = torch.randn(3, 3, SIZE, SIZE)
    whole, part = copy.deepcopy(module), copy.deepcopy(module)
    with FlopCounterMode(display=False) as all_of_it:
        expected, gradients = _learn(whole, pixels)
    with class_token_alone(part), FlopCounterMode(display=False) as less:
        logits, own_gradients = _learn(part, pixels)
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)
    for ours, theirs in zip(own_gradients, gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)
    assert less.get_total_flops() < 0.85 * all_of_it.get_total_flops()


@pytest.mark.parametrize("kind", OTHERS)
def test_other_models_are_left_as_they_are(kind: str) -> None:
    name, settings = OTHERS[kind]
    module = _model(name, **settings)
    with class_token_alone(module):
        assert not any("forward" in vars(part) for part in module.modules())


def test_a_model_with_a_pool_of_its_own_is_left_as_it_is() -> None:
    module, pixels = _model("vit_tiny_patch16_224", depth=2), torch.randn(2, 3, SIZE, SIZE)
    module.pool = lambda x, pool_type=None: x[:, 1:].amax(dim=1)
    with torch.no_grad():
        expected = module(pixels)
        with class_token_alone(module):
            assert torch.equal(module(pixels), expected)


def test_everything_is_put_back_after_errors_and_inside_one_another() -> None:
    module = _model("vit_tiny_patch16_224", depth=2)
    pixels = torch.randn(1, 3, SIZE, SIZE)
    before = module.forward_features(pixels)
    with pytest.raises(RuntimeError, match="stop"), class_token_alone(module):
        with class_token_alone(nn.Sequential(module)):
            assert module.forward_features(pixels).shape[1] == 1
        assert module.forward_features(pixels).shape[1] == 1
        raise RuntimeError("stop")
    assert torch.equal(module.forward_features(pixels), before)
    assert not any("forward" in vars(part) for part in module.modules())


def test_other_threads_and_copies_see_the_whole_block() -> None:
    module = _model("vit_tiny_patch16_224", depth=2)
    pixels = torch.randn(2, 3, SIZE, SIZE)
    whole = module.forward_features(pixels)
    wrong: list[str] = []

    def run(alone: bool) -> None:
        for _ in range(40):
            with torch.no_grad(), class_token_alone(module) if alone else nullcontext():
                tokens = module.forward_features(pixels)
            if tokens.shape[1] != (1 if alone else whole.shape[1]):
                wrong.append(f"{alone}: {tuple(tokens.shape)}")

    threads = [Thread(target=run, args=(number % 2 == 0,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert torch.equal(module.forward_features(pixels), whole)
    with class_token_alone(module):
        model_copy = copy.deepcopy(module)
    with torch.no_grad():
        for parameter in model_copy.parameters():
            parameter.zero_()
    assert model_copy.forward_features(pixels).shape == whole.shape
    assert not model_copy.forward_features(pixels).any()


def test_a_mask_is_obeyed_by_the_whole_block() -> None:
    module = _model("vit_tiny_patch16_224", depth=2)
    pixels, mask = torch.randn(1, 3, SIZE, SIZE), torch.zeros(17, 17)
    mask[0, 5:] = -torch.inf
    expected = module(pixels, attn_mask=mask)
    with class_token_alone(module):
        torch.testing.assert_close(module(pixels, attn_mask=mask), expected)


def test_autocast_takes_it_for_logits_alone_and_never_for_compiled_modules() -> None:
    module = _model("vit_tiny_patch16_224", depth=2)
    pixels, device = torch.randn(1, 3, SIZE, SIZE), torch.device("cpu")

    def tokens(**settings: Any) -> int:
        with torch.no_grad(), autocast(device, "fp32", **settings):
            return int(module.forward_features(pixels).shape[1])

    assert tokens() == 17
    assert tokens(logits_of=nn.Sequential(module)) == 1
    assert tokens(logits_of=module, compiled=True) == 17


def test_dropped_paths_fall_as_they_do_in_the_whole_block() -> None:
    module = _model("vit_tiny_patch16_224", depth=2, drop_path_rate=0.5).train()
    pixels = torch.randn(8, 3, SIZE, SIZE)
    torch.manual_seed(1)
    expected = module(pixels)
    torch.manual_seed(1)
    with class_token_alone(module):
        torch.testing.assert_close(module(pixels), expected, rtol=1e-4, atol=1e-5)


def test_the_class_row_is_recorded_of_the_last_layer_too() -> None:
    module = _model("vit_tiny_patch16_224", depth=2)
    pixels = torch.randn(2, 3, SIZE, SIZE)
    with torch.no_grad(), record_attention(module, "all") as whole:
        module(pixels)
    with torch.no_grad(), class_token_alone(module), record_attention(module, "all") as alone:
        module(pixels)
    for layer in (0, 1):
        torch.testing.assert_close(alone.attention(layer), whole.attention(layer))
