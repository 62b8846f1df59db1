"""Packed layers, and the image side in bf16: what the plain way computes, up to rounding.

The plain way is torch's own product in double precision, timm's own block, and the captioner before it is made ready.
"""

from __future__ import annotations

import copy
import io
from collections.abc import Iterator
from typing import Any

import pytest
import timm
import torch
from PIL import Image
from support.models import opened_captioner
from torch import Tensor, nn
from torch.nn import functional

from vitrine.caption.beam_search import beam_search
from vitrine.caption.decoding import DecodedCaption, DecodeStep, final_captions, greedy
from vitrine.caption.inference import caption_batches
from vitrine.config.preprocessing import CaptionInput
from vitrine.data.captions.transforms import CaptionTransform
from vitrine.data.decode import BytesPicture
from vitrine.data.samples import Sample
from vitrine.models import precision
from vitrine.models.captioner import CaptionModel, CaptionModelConfig, prepare_for_prediction
from vitrine.models.captioner import inference as packed
from vitrine.models.captioner.backbone import FrozenBatchNorm2d, fold_frozen_norms
from vitrine.models.captioner.inference import (
    PackedBottleneck,
    PackedConvolution,
    PackedLinear,
    cast_image_encoder,
    has_bf16_image_encoder,
    pack_bottlenecks,
)
from vitrine.models.precision import can_pack

# The layers that are tested compute as their base class without oneDNN, which then is all that these tests compare.
CAN_PACK = can_pack(torch.float32)
CPU = torch.device("cpu")


def captioner() -> CaptionModel:
    """A small captioner with a dilated ResNet of bottlenecks, whose norms are not the identity."""
    torch.manual_seed(5)
    config = CaptionModelConfig(
        image_model="resnet26",
        image_args={"output_stride": 16},
        frozen_norm=True,
        vocabulary_size=60,
        width=32,
        heads=4,
        encoder_layers=2,
        decoder_layers=2,
        feed_forward=64,
        head_widths=(24,),
        max_length=12,
        start=1,
        end=2,
    )
    model = CaptionModel(config).eval()
    for name, value in model.state_dict().items():
        if name.startswith("backbone") and value.ndim == 1:
            spread = 0.1 * torch.randn(value.shape)
            value.copy_(1 + spread if name.endswith(("weight", "running_var")) else spread)
            if "bn3" in name and name.endswith("weight"):
                value.mul_(0.5)
        elif name.endswith("in_proj_weight") or "embeddings" in name or name.startswith("head"):
            value.mul_(3)
    return model


def pictures(count: int = 2) -> list[Tensor]:
    torch.manual_seed(8)
    sizes = [(40, 56), (56, 40), (40, 56)]
    return [torch.randn(3, *sizes[i % 3]) for i in range(count)]


@pytest.fixture(autouse=True)
def _without_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture(params=["packed", "plain"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With oneDNN's packed products, and as where torch has none; every linear layer counts as large."""
    monkeypatch.setattr(packed, "_MIN_PACKED_WEIGHTS", 1)
    if request.param == "plain":
        monkeypatch.setattr(precision, "can_pack", lambda _: False)
    return str(request.param)


@pytest.mark.parametrize("shape", [(1, 48), (2, 48), (5, 48), (3, 7, 48)])
@pytest.mark.parametrize(("dtype", "within"), [(torch.float32, 1e-5), (torch.bfloat16, 0.05)])
def test_a_packed_linear_layer_is_a_linear_layer(shape: tuple[int, ...], dtype: torch.dtype, within: float) -> None:
    torch.manual_seed(1)
    linear = nn.Linear(48, 70).to(dtype)
    layer, x = PackedLinear(linear), torch.randn(shape).to(dtype)
    linear_weight = linear.weight.double()
    expected = functional.linear(x.double(), linear_weight, linear.bias.double())
    found = layer(x)
    assert found.dtype == dtype
    assert (found - expected).abs().max() < within
    assert (layer._packed_weight is not None) == (can_pack(dtype) and x.numel() > 48)
    assert [name for name, _ in layer.named_parameters()] == ["weight", "bias"]
    assert layer.weight is linear.weight
    one = x.flatten(0, -2)[:1]
    assert (layer(one) - expected.flatten(0, -2)[:1]).abs().max() < within  # one row, of what several had packed
    assert (layer.weight.numel() == 0) == (layer._packed_weight is not None)  # the weights are there once
    assert torch.equal(layer.state_dict()["weight"], linear_weight.to(dtype))


def test_packed_weights_come_back_and_follow_casts() -> None:
    layer, x = PackedLinear(nn.Linear(16, 32)), torch.randn(4, 16)
    before = layer(x)
    layer.drop_packed_weight()
    layer.weight.mul_(2)
    assert torch.allclose(layer(x) - layer.bias, 2 * (before - layer.bias), atol=1e-5)
    layer.to(torch.bfloat16)
    assert layer._packed_weight is None
    assert layer(x.bfloat16()).dtype == torch.bfloat16
    layer.float()(x)
    again = copy.deepcopy(layer)
    assert again._packed_weight is None
    expected = functional.linear(x, again.weight, again.bias)
    assert torch.allclose(again(x), expected, atol=1e-5)


def test_with_gradients_and_under_autocast_it_is_torch_s_own_layer() -> None:
    layer, x = PackedLinear(nn.Linear(16, 32)), torch.randn(4, 16)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    with torch.enable_grad():
        layer(x).sum().backward()
    assert layer._packed_weight is None
    assert torch.allclose(layer.weight.grad, x.sum(0).expand(32, 16), atol=1e-5)  # type: ignore[arg-type]


@pytest.mark.parametrize("stage", ["layer1", "layer2", "layer4"])
@pytest.mark.parametrize("size", [(9, 12), (14, 7)])
def test_packed_bottlenecks_are_timm_s(way: str, stage: str, size: tuple[int, int]) -> None:
    torch.manual_seed(2)
    body: Any = timm.create_model("resnet26", output_stride=16, norm_layer=FrozenBatchNorm2d).eval()
    fold_frozen_norms(body)
    plain = copy.deepcopy(getattr(body, stage)).double()
    names = list(getattr(body, stage).state_dict())
    assert pack_bottlenecks(body) == 8
    blocks = getattr(body, stage)
    x = torch.randn(2, blocks[0].conv1.in_channels, *size).contiguous(memory_format=torch.channels_last)
    for _ in range(2):  # the second time with copies that are there
        kept = x.clone()
        found, expected = blocks(x), plain(x.double())
        assert torch.equal(x, kept)
        assert (found - expected).abs().max() < 1e-5 * expected.abs().max()
        x = torch.randn(1, x.shape[1], size[1], size[0])  # copies were laid out for another size
    if way == "packed" and CAN_PACK:
        assert all(each._packed_weight is not None for each in blocks.modules() if isinstance(each, PackedConvolution))
    assert list(blocks.state_dict()) == names  # whose weights are put back for it


@pytest.mark.parametrize(
    ("name", "changes"),
    [("resnet26", {}), ("resnet26d", {}), ("seresnet50", {}), ("resnet26", {"act_layer": nn.SiLU}), ("resnet18", {})],
)
def test_other_blocks_stay_as_they_are(name: str, changes: dict[str, Any]) -> None:
    with torch.device("meta"):
        body = timm.create_model(name, **({"norm_layer": FrozenBatchNorm2d} | changes)).eval()
    if changes or name != "resnet26":
        fold_frozen_norms(body)  # else with its norms, which are not folded
    # Of resnet26d's eight blocks the first of each stage averages before it projects.
    assert pack_bottlenecks(body) == (4 if name == "resnet26d" else 0)


def same(found: tuple[DecodedCaption, ...], expected: tuple[DecodedCaption, ...]) -> None:
    for a, b in zip(found, expected, strict=True):
        assert a.ids == b.ids
        assert a.log_probability == pytest.approx(b.log_probability, abs=1e-3)
        assert abs(a.maps_TLHK - b.maps_TLHK).max() < 1e-4


def test_a_captioner_made_ready_says_the_same(way: str) -> None:
    model = captioner()
    encoder_output = model.encode(pictures(3))
    expected = final_captions(greedy(model, encoder_output)), final_captions(beam_search(model, encoder_output, 4))
    logits = model(encoder_output, torch.tensor([[1, 7, 9]] * 3))[0]
    prepare_for_prediction(model)
    assert sum(isinstance(each, PackedBottleneck) for each in model.modules()) == 8
    assert sum(isinstance(each, PackedLinear) for each in model.modules()) == 16
    encoder_output = model.encode(pictures(3))
    assert (model(encoder_output, torch.tensor([[1, 7, 9]] * 3))[0] - logits).abs().max() < 1e-4 * logits.abs().max()
    same(final_captions(greedy(model, encoder_output)), expected[0])
    same(final_captions(beam_search(model, encoder_output, 4)), expected[1])
    assert (logits[0] - logits[1]).abs().max() > 0.01  # the pictures matter
    copies = [
        each._packed_weight is not None
        for each in model.modules()
        if isinstance(each, PackedLinear | PackedConvolution)
    ]
    assert all(copies) if way == "packed" and CAN_PACK else not any(copies)


def test_rounded_images_leave_words_in_float32(way: str) -> None:
    model = prepare_for_prediction(captioner())
    ids_BT = torch.tensor([[1, 7, 9, 4]] * 2)
    expected_BTV, cross = model(model.encode(pictures()), ids_BT)
    assert not has_bf16_image_encoder(model)
    assert has_bf16_image_encoder(cast_image_encoder(model))
    types = {name.split(".")[0]: value.dtype for name, value in model.named_parameters()}
    assert types == dict.fromkeys(("backbone", "projection", "encoder"), torch.bfloat16) | dict.fromkeys(
        ("embeddings", "decoder", "head"), torch.float32
    )
    encoder_output = model.encode(pictures())
    assert {each.dtype for each in (*encoder_output.features.keys, *encoder_output.features.values)} == {torch.float32}
    found_BTV, rounded = model(encoder_output, ids_BT)
    assert 0 < (found_BTV - expected_BTV).abs().max() < 0.1 * expected_BTV.std()
    assert 0 < (rounded - cross).abs().max() < 0.05


class Listening:
    """Decodes nothing, and notes whether pictures and words are under autocast."""

    def __init__(self) -> None:
        self.heard: list[bool] = []

    def __call__(self, module: Any, encoder_output: Any, _: Any) -> Iterator[DecodeStep]:
        self.heard.append(torch.is_autocast_enabled("cpu"))
        return greedy(module, encoder_output, max_tokens=3)


@pytest.mark.parametrize(
    ("rounded", "precision", "autocast"), [(True, "bf16", False), (False, "bf16", True), (False, "fp32", False)]
)
def test_only_a_captioner_that_was_not_rounded_is_under_autocast(rounded: bool, precision: str, autocast: bool) -> None:
    model = prepare_for_prediction(captioner())
    if rounded:
        cast_image_encoder(model)
    file = io.BytesIO()
    Image.effect_noise((50, 40), 60).convert("RGB").save(file, "PNG")
    samples = [Sample("a.png", BytesPicture(file.getvalue()))]
    decode = Listening()
    opened = opened_captioner(model, CaptionTransform(CaptionInput(56)), precision)
    (part,) = caption_batches(opened, samples, decode)
    assert len(part.pictures[0].caption.ids) > 0
    assert decode.heard == [autocast]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [(1, 1), (3, 2), (7, 1)], ids=["1x1", "3x3 dilated", "7x7"])
def test_packed_weights_of_a_convolution_are_there_once_and_come_back_bit_for_bit(
    size: tuple[int, int], dtype: torch.dtype
) -> None:
    if not can_pack(dtype):
        pytest.skip(f"torch has no oneDNN for {dtype} here")
    torch.manual_seed(6)
    side, dilation = size
    convolution = nn.Conv2d(24, 40, side, padding=side // 2 * dilation, dilation=dilation).to(dtype)
    convolution = convolution.to(memory_format=torch.channels_last)
    weight, x = convolution.weight.detach().clone(), torch.randn(2, 24, 9, 11).to(dtype)
    layer = PackedConvolution(convolution)

    def packs() -> bool:
        with torch.inference_mode():
            layer(x)
        return layer.weight.numel() == 0

    assert packs()
    assert torch.equal(layer.state_dict()["weight"], weight)
    assert packs()
    assert torch.equal(copy.deepcopy(layer).weight, weight)
    assert packs()
    with torch.enable_grad():
        layer(x).float().sum().backward()
    assert layer.weight.grad is not None and layer.weight.grad.shape == weight.shape
    assert torch.equal(layer.weight, weight)
    assert packs()
    assert torch.equal(layer.double().weight, weight.double())
