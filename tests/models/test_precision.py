"""bf16 on the CPU by other routes: the same numbers, for attention, for linear layers, and through whole models."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from vitrine.attribution.attention import record_attention
from vitrine.config import Recipe
from vitrine.models import precision as cpu_kernels
from vitrine.models import precision as onednn
from vitrine.models import precision as plain_attention
from vitrine.models.precision import autocast, bf16_kernels
from vitrine.train.run import train

CPU = torch.device("cpu")
PACKS = onednn.can_pack(torch.bfloat16)


@pytest.fixture(autouse=True)
def _on_any_processor(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """bf16 products are slow where the processor has none, and right all the same."""
    monkeypatch.setattr(cpu_kernels, "_pay", lambda: True)
    cpu_kernels._copies.clear()
    yield
    cpu_kernels._copies.clear()


def _exact(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    return (query @ key.transpose(-1, -2) * scale).softmax(-1) @ value


def _error(found: Tensor, exact: Tensor) -> float:
    """Root of the mean square, in standard deviations."""
    return float((found.detach().double() - exact).pow(2).mean().sqrt() / exact.std())


@settings(deadline=None, max_examples=25)
@given(
    batch=st.integers(1, 3),
    heads=st.integers(1, 5),
    queries=st.integers(1, 40),
    keys=st.integers(2, 40),
    channels=st.sampled_from([4, 8, 64]),
    at_a_time=st.sampled_from([1, 3000, 1 << 30]),
    seed=st.integers(0, 1000),
)
def test_attention_and_its_gradients_are_those_of_float64(
    batch: int, heads: int, queries: int, keys: int, channels: int, at_a_time: int, seed: int
) -> None:
    torch.manual_seed(seed)
    made = [torch.randn(batch, n, heads, channels).transpose(1, 2) for n in (queries, keys, keys)]
    gradient = torch.randn(batch, heads, queries, channels).bfloat16()
    rounded = [each.bfloat16().requires_grad_() for each in made]
    doubles = [each.detach().double().requires_grad_() for each in rounded]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plain_attention, "_SCORE_BYTES", at_a_time)
        found = plain_attention.plain_attention(*rounded)
        found.backward(gradient)
    exact = _exact(*doubles, channels**-0.5)
    exact.backward(gradient.double())
    theirs = [each.detach().clone().requires_grad_() for each in rounded]
    functional.scaled_dot_product_attention(*theirs).backward(gradient)
    assert found.shape == exact.shape
    assert _error(found, exact.detach()) < 0.03
    for own, their, double in zip(rounded, theirs, doubles, strict=True):
        assert own.grad is not None and their.grad is not None and double.grad is not None
        # PyTorch's own kernel is about half as far away. Where the gradient is nearly zero, both are rounding.
        norm = double.grad.norm() + 0.05 * gradient.double().norm()
        assert (own.grad.double() - double.grad).norm() < 0.03 * norm
        assert (own.grad.double() - their.grad.double()).norm() < 0.04 * norm


def test_a_mask_dropout_and_other_types_are_left_to_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, ...]] = []

    def counted(query: Tensor, key: Tensor, value: Tensor, scale: float | None = None) -> Tensor:
        calls.append(tuple(query.shape))
        return attention(query, key, value, scale)

    attention = plain_attention.plain_attention
    monkeypatch.setattr(cpu_kernels, "plain_attention", counted)
    whole = torch.randn(1, 2, 6, 4)
    three = [whole.bfloat16()] * 3
    attend = functional.scaled_dot_product_attention
    with bf16_kernels(CPU):
        attend(whole, whole, whole)
        attend(*three, is_causal=True)
        attend(*three, attn_mask=torch.ones(6, 6, dtype=torch.bool))
        attend(*three, dropout_p=0.5)
        attend(three[0], three[1][:, :1], three[2][:, :1], enable_gqa=True)
        attend(*(each[0] for each in three))
        assert not calls
        plain = attend(*three, scale=0.1)
    assert calls == [(1, 2, 6, 4)]
    assert _error(plain, _exact(*(each.double() for each in three), 0.1)) < 0.02


@pytest.mark.skipif(not PACKS, reason="this torch has no packed bf16 products")
def test_a_linear_layer_is_read_from_its_packed_copy_until_its_weights_change() -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(256, 300), torch.randn(2, 9, 256)
    with torch.inference_mode(), autocast(CPU, "bf16"):
        found = layer(x)
    assert found.dtype == torch.bfloat16
    assert len(cpu_kernels._copies) == 1
    exact = functional.linear(x.double(), layer.weight.double(), layer.bias.double()).detach()
    assert _error(found, exact) < 0.01
    with torch.no_grad():
        layer.weight.mul_(3)
    with torch.inference_mode(), autocast(CPU, "bf16"):
        assert _error(layer(x) - layer.bias, 3 * (exact - layer.bias)) < 0.02
    layer.load_state_dict({name: torch.zeros_like(value) for name, value in layer.state_dict().items()})
    with torch.inference_mode(), autocast(CPU, "bf16"):
        assert not layer(x).any()


@pytest.mark.skipif(not PACKS, reason="this torch has no packed bf16 products")
@pytest.mark.parametrize("how", ["fused AdamW", "AdamW", "a hand in .data", "other .data"])
def test_a_copy_never_outlives_its_weights(how: str) -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(256, 300), torch.randn(20, 256)

    def said() -> Tensor:
        with torch.inference_mode(), autocast(CPU, "bf16"):
            return layer(x)

    before = said()
    if "AdamW" in how:
        optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1, fused="fused" in how)
        layer(x).pow(2).sum().backward()
        optimizer.step()
        assert not len(cpu_kernels._copies)
    elif how == "a hand in .data":
        layer.weight.data.add_(0.1 * torch.randn(300, 256))
    else:
        layer.weight.data = torch.randn(300, 256)
    exact = functional.linear(x.double(), layer.weight.double(), layer.bias.double()).detach()
    assert _error(said(), exact) < 0.01 < 0.3 < _error(before, exact)


def test_what_switches_autocast_off_for_itself_computes_in_float32() -> None:
    layer, x = nn.Linear(256, 300), torch.randn(20, 256)
    with torch.inference_mode(), autocast(CPU, "bf16"):
        assert layer(x).dtype == torch.bfloat16
        with torch.autocast("cpu", enabled=False):
            assert torch.equal(layer(x), functional.linear(x, layer.weight, layer.bias))
        with autocast(CPU, "fp32"):
            assert layer(x).dtype == torch.float32


def test_no_copy_is_made_for_few_rows_small_layers_gradients_or_float32() -> None:
    large, small = nn.Linear(256, 300), nn.Linear(64, 64)
    with torch.inference_mode(), autocast(CPU, "bf16"):
        large(torch.randn(4, 256))
        small(torch.randn(99, 64))
        functional.linear(torch.randn(99, 256), large.weight * 1.0)
    with autocast(CPU, "bf16"):
        large(torch.randn(99, 256)).sum().backward()
    with torch.inference_mode(), autocast(CPU, "fp32"):
        assert large(torch.randn(99, 256)).dtype == torch.float32
    with torch.inference_mode(), autocast(CPU, "bf16", compiled=True):
        large(torch.randn(99, 256))
    assert not len(cpu_kernels._copies)


def test_copies_live_no_longer_than_their_layers() -> None:
    layer = nn.Linear(256, 300)
    with torch.inference_mode(), autocast(CPU, "bf16"):
        layer(torch.randn(99, 256))
    assert len(cpu_kernels._copies) == PACKS
    del layer
    assert not len(cpu_kernels._copies)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "vit_small_patch16_dinov3", "deit3_small_patch16_224"])
def test_a_model_says_and_learns_the_same(name: str) -> None:
    """No further from float32 than PyTorch's own bf16, forwards and backwards."""
    torch.manual_seed(0)
    size = 64
    module = timm.create_model(name, img_size=size, num_classes=10).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    pixels = torch.randn(4, 3, size, size)

    def learned(ours: bool, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        copied = copy.deepcopy(module)
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            if ours:
                with autocast(CPU, "bf16"):
                    logits = copied(pixels)
            else:
                logits = copied(pixels)
        logits.float().log_softmax(-1)[:, 3].sum().backward()
        return logits.detach().float(), torch.cat([p.grad.flatten() for p in copied.parameters() if p.grad is not None])

    exact, plain, ours = learned(False, torch.float32), learned(False, torch.bfloat16), learned(True, torch.bfloat16)
    for found, theirs, right in zip(ours, plain, exact, strict=True):
        assert 0 < _error(found, right.double()) < 2 * _error(theirs, right.double()) + 1e-3


def test_attention_is_recorded_as_before() -> None:
    torch.manual_seed(0)
    module = timm.create_model("vit_tiny_patch16_224", img_size=64).eval()
    pixels = torch.randn(2, 3, 64, 64)
    with torch.inference_mode(), autocast(CPU, "bf16"):
        alone = module(pixels)
        with record_attention(module, "all") as record:
            watched = module(pixels)
    assert torch.equal(alone, watched)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16), record_attention(module, "all") as theirs:
        module(pixels)
    for layer in range(12):
        torch.testing.assert_close(record.attention(layer), theirs.attention(layer), rtol=0.05, atol=2e-3)


def test_attention_is_recorded_from_further_out_too() -> None:
    module = timm.create_model("vit_tiny_patch16_224", img_size=64, depth=2).eval()
    pixels = torch.randn(2, 3, 64, 64)
    with torch.inference_mode(), record_attention(module, "all") as record, autocast(CPU, "bf16"):
        module(pixels)
    assert record.attention(1).sum(-1).allclose(torch.ones(()), atol=1e-3)


@pytest.mark.skipif(not PACKS, reason="this torch has no packed bf16 products")
@pytest.mark.parametrize("tune", ["head", "all"])
def test_every_epoch_is_validated_with_the_weights_of_that_epoch(
    tune: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """AdamW's fused step leaves no trace in the counts of its weights' changes."""
    monkeypatch.setattr(cpu_kernels, "_LARGE", 1)
    monkeypatch.setattr(cpu_kernels, "_MANY", 1)
    data, rng = tmp_path / "data", np.random.default_rng(0)
    for number in range(48):
        path = data / ("train", "validation")[number % 2] / f"class {number % 3}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        colour = np.full((32, 32, 3), 40 + 80 * (number % 3)) + rng.integers(-30, 30, (32, 32, 3))
        Image.fromarray(colour.astype(np.uint8)).save(path)
    recipe = Recipe(
        name="few", model="vit_tiny_patch16_224", model_args={"embed_dim": 64, "num_heads": 4, "depth": 1},
        pretrained=False, image_size=32, batch_size=8, epochs=4, tune=tune, precision="bf16", learning_rate=0.02,
        warmup_epochs=0.0, workers=0,
    )  # fmt: skip

    def history(out: Path) -> list[float]:
        train(str(data), recipe, out)
        rows = [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
        return [row["validation_loss"] for row in rows]

    ours = history(tmp_path / "ours")
    monkeypatch.setattr(cpu_kernels, "_multiplied", lambda *_, **__: None)
    theirs = history(tmp_path / "theirs")
    assert ours == pytest.approx(theirs, rel=0.05)
    assert abs(ours[0] / ours[1] - 1) > 0.1, "or epochs could not be told apart"


def test_other_devices_and_processors_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert type(bf16_kernels(torch.device("cuda"))).__name__ == "nullcontext"
    monkeypatch.undo()
    cpu_kernels._pay.cache_clear()
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    try:
        assert type(bf16_kernels(CPU)).__name__ == "nullcontext"
    finally:
        cpu_kernels._pay.cache_clear()
