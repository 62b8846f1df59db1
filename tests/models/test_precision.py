"""The faster ways of bf16 on a CPU: the same numbers, for attention, for linear layers, and through whole models."""

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
from torch.overrides import _get_current_function_mode_stack

from vitrine.attribution.attention import record_attention
from vitrine.classify.inference import predict_batches
from vitrine.config import Recipe
from vitrine.data.decode import BytesPicture
from vitrine.data.loader import Batch
from vitrine.data.samples import Sample
from vitrine.models import precision
from vitrine.models.load import load_model
from vitrine.models.precision import autocast, matmul_attention
from vitrine.train.run import train

CPU = torch.device("cpu")
CAN_PACK = precision.can_pack(torch.bfloat16)


@pytest.fixture(autouse=True)
def _on_any_processor(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """bf16 products are slow where the processor has none, and right all the same."""
    monkeypatch.setattr(precision, "_has_bf16_without_amx", lambda: True)
    precision._packed_copies.clear()
    yield
    precision._packed_copies.clear()


def _exact(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    return (query @ key.transpose(-1, -2) * scale).softmax(-1) @ value


def _magnitudes(query: Tensor, key: Tensor, value: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of each gradient, the same sum over the magnitudes of its terms: what rounding errors are relative to."""
    scale = query.shape[-1] ** -0.5
    weights = (query @ key.transpose(-1, -2) * scale).softmax(-1)
    by_weight = gradient @ value.transpose(-1, -2)
    by_score = weights * (by_weight.abs() + (weights * by_weight).sum(-1, keepdim=True).abs())
    of_query, of_key = by_score @ key.abs() * scale, by_score.transpose(-1, -2) @ query.abs() * scale
    return of_query, of_key, weights.transpose(-1, -2) @ gradient.abs()


def _error(result: Tensor, exact: Tensor) -> float:
    """Root of the mean square, in standard deviations."""
    return float((result.detach().double() - exact).pow(2).mean().sqrt() / exact.std())


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
    inputs = [torch.randn(batch, n, heads, channels).transpose(1, 2) for n in (queries, keys, keys)]
    gradient = torch.randn(batch, heads, queries, channels).bfloat16()
    halves = [each.bfloat16().requires_grad_() for each in inputs]
    doubles = [each.detach().double().requires_grad_() for each in halves]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(precision, "_SCORE_BYTES", at_a_time)
        attention = matmul_attention(*halves)
        attention.backward(gradient)
    exact = _exact(*doubles, channels**-0.5)
    exact.backward(gradient.double())
    theirs = [each.detach().clone().requires_grad_() for each in halves]
    functional.scaled_dot_product_attention(*theirs).backward(gradient)
    assert attention.shape == exact.shape
    assert _error(attention, exact.detach()) < 0.03
    magnitudes = _magnitudes(*(each.detach() for each in doubles), gradient.double())
    for ours, their, double, magnitude in zip(halves, theirs, doubles, magnitudes, strict=True):
        assert ours.grad is not None and their.grad is not None and double.grad is not None
        # PyTorch's own kernel is about half as far away.
        assert (ours.grad.double() - double.grad).norm() < 0.02 * magnitude.norm()
        assert (ours.grad.double() - their.grad.double()).norm() < 0.03 * magnitude.norm()


def test_a_mask_dropout_and_other_types_are_left_to_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, ...]] = []

    def count(query: Tensor, key: Tensor, value: Tensor, scale: float | None = None) -> Tensor:
        calls.append(tuple(query.shape))
        return matmul_attention(query, key, value, scale)

    monkeypatch.setattr(precision, "matmul_attention", count)
    whole = torch.randn(1, 2, 6, 4)
    three = [whole.bfloat16()] * 3
    attend = functional.scaled_dot_product_attention
    with autocast(CPU, "bf16"):
        with torch.autocast("cpu", enabled=False):
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


@pytest.mark.skipif(not CAN_PACK, reason="this torch has no packed bf16 products")
def test_a_linear_layer_is_read_from_its_packed_copy_until_its_weights_change() -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(256, 300), torch.randn(2, 9, 256)
    with torch.inference_mode(), autocast(CPU, "bf16"):
        product = layer(x)
    assert product.dtype == torch.bfloat16
    assert len(precision._packed_copies) == 1
    exact = functional.linear(x.double(), layer.weight.double(), layer.bias.double()).detach()
    assert _error(product, exact) < 0.01
    with torch.no_grad():
        layer.weight.mul_(3)
    with torch.inference_mode(), autocast(CPU, "bf16"):
        assert _error(layer(x) - layer.bias, 3 * (exact - layer.bias)) < 0.02
    layer.load_state_dict({name: torch.zeros_like(value) for name, value in layer.state_dict().items()})
    with torch.inference_mode(), autocast(CPU, "bf16"):
        assert not layer(x).any()


@pytest.mark.skipif(not CAN_PACK, reason="this torch has no packed bf16 products")
@pytest.mark.parametrize("how", ["fused AdamW", "AdamW", "a hand in .data", "other .data"])
def test_a_copy_never_outlives_its_weights(how: str) -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(256, 300), torch.randn(20, 256)

    def output() -> Tensor:
        with torch.inference_mode(), autocast(CPU, "bf16"):
            return layer(x)

    before = output()
    if "AdamW" in how:
        optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1, fused="fused" in how)
        layer(x).pow(2).sum().backward()
        optimizer.step()
        assert not len(precision._packed_copies)
    elif how == "a hand in .data":
        layer.weight.data.add_(0.1 * torch.randn(300, 256))
    else:
        layer.weight.data = torch.randn(300, 256)
    exact = functional.linear(x.double(), layer.weight.double(), layer.bias.double()).detach()
    assert _error(output(), exact) < 0.01 < 0.3 < _error(before, exact)


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
    assert not len(precision._packed_copies)


def test_copies_live_no_longer_than_their_layers() -> None:
    layer = nn.Linear(256, 300)
    with torch.inference_mode(), autocast(CPU, "bf16"):
        layer(torch.randn(99, 256))
    assert len(precision._packed_copies) == CAN_PACK
    del layer
    assert not len(precision._packed_copies)


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

    def learn(ours: bool, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        model = copy.deepcopy(module)
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            if ours:
                with autocast(CPU, "bf16"):
                    logits = model(pixels)
            else:
                logits = model(pixels)
        logits.float().log_softmax(-1)[:, 3].sum().backward()
        return logits.detach().float(), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    exact, plain, ours = learn(False, torch.float32), learn(False, torch.bfloat16), learn(True, torch.bfloat16)
    for result, theirs, right in zip(ours, plain, exact, strict=True):
        assert 0 < _error(result, right.double()) < 2 * _error(theirs, right.double()) + 1e-3


@pytest.mark.parametrize("grad", [True, False])
def test_attention_is_recorded_as_before(grad: bool) -> None:
    torch.manual_seed(0)
    module = timm.create_model("vit_tiny_patch16_224", img_size=64).eval()
    pixels = torch.randn(2, 3, 64, 64)
    with torch.set_grad_enabled(grad), autocast(CPU, "bf16"):
        alone = module(pixels)
        with record_attention(module, "all") as record:
            with_record = module(pixels)
    assert torch.equal(alone, with_record)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16), record_attention(module, "all") as theirs:
        module(pixels)
    for layer in range(12):
        torch.testing.assert_close(record.attention(layer).detach(), theirs.attention(layer), rtol=0.05, atol=2e-3)


def test_attention_is_recorded_from_further_out_too() -> None:
    module = timm.create_model("vit_tiny_patch16_224", img_size=64, depth=2).eval()
    pixels = torch.randn(2, 3, 64, 64)
    with record_attention(module, "all") as record, autocast(CPU, "bf16"):
        module(pixels)
    assert record.attention(1).sum(-1).allclose(torch.ones(()), atol=1e-3)


@pytest.mark.skipif(not CAN_PACK, reason="this torch has no packed bf16 products")
@pytest.mark.parametrize("tune", ["head", "all"])
def test_every_epoch_is_validated_with_the_weights_of_that_epoch(
    tune: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """AdamW's fused step leaves no trace in the counts of its weights' changes."""
    monkeypatch.setattr(precision, "_MIN_WEIGHTS", 1)
    monkeypatch.setattr(precision, "_MIN_ROWS", 1)
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
    monkeypatch.setattr(precision, "_try_packed_linear", lambda *_, **__: None)
    theirs = history(tmp_path / "theirs")
    assert ours == pytest.approx(theirs, rel=0.05)
    assert abs(ours[0] / ours[1] - 1) > 0.1, "or epochs could not be told apart"


def test_other_devices_processors_and_compiled_modules_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def has_faster_kernels(**settings: bool) -> bool:
        with autocast(CPU, "bf16", **settings):
            return len(_get_current_function_mode_stack()) > 0

    assert has_faster_kernels() and not has_faster_kernels(compiled=True)
    monkeypatch.undo()
    precision._has_bf16_without_amx.cache_clear()
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    try:
        assert not has_faster_kernels()
    finally:
        precision._has_bf16_without_amx.cache_clear()


def test_a_compiled_module_stays_what_it_was_compiled_as() -> None:
    torch.compiler.reset()
    graphs: list[object] = []

    def backend(graph: torch.fx.GraphModule, _inputs: object) -> object:
        graphs.append(graph)
        return graph.forward

    model = load_model("vit_tiny_patch16_224", pretrained=False, num_classes=3, image_size=32, model_args={"depth": 1})
    model.module.compile(backend=backend)
    batch = Batch(torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8), torch.zeros(2).long(), torch.arange(2))
    samples = [Sample("a.png", BytesPicture(b"")), Sample("b.png", BytesPicture(b""))]
    for name in ("fp32", "bf16"):
        list(predict_batches(model.module, samples, [batch] * 4, model.input, device=CPU, precision=name))
    assert len(graphs) == 2  # one for each precision
    torch.compiler.reset()
