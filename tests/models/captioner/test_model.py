"""The captioner assembled from other parts than the published ones: caching, beams, padding, training."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from vitrine.errors import ModelError
from vitrine.models.captioner import CaptionModel, CaptionModelConfig, EncoderOutput, Features, prepare_for_prediction
from vitrine.models.captioner.backbone import FrozenBatchNorm2d
from vitrine.models.captioner.model import sine_positions
from vitrine.models.load import load_for_inference

VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "reg_tokens": 3}
DYNAMIC_VIT = {"image_model": "vit_tiny_patch16_224", "image_args": VIT | {"dynamic_img_size": True}}
PARTS: dict[str, dict[str, Any]] = {
    "vit": DYNAMIC_VIT,
    "convolutions": {"image_model": "resnet10t", "image_args": {"output_stride": 16}},
    "padded pixels": {"image_model": "resnet10t", "frozen_norm": True, "padding": "pixels", "stage": 3},
    "no encoder": DYNAMIC_VIT | {"encoder_layers": 0},
}
SMALL = {"vocabulary_size": 40, "width": 32, "heads": 4, "encoder_layers": 2, "decoder_layers": 2, "feed_forward": 64,
         "head_widths": (24,), "max_length": 12, "start": 1, "end": 2}  # fmt: skip
SIZES = ((32, 48), (48, 24), (32, 48))


def make_model(parts: str, **changes: object) -> CaptionModel:
    """A small captioner whose attention is uneven."""
    config = CaptionModelConfig(**(SMALL | PARTS[parts] | changes))
    torch.manual_seed(3)
    model = CaptionModel(config).eval()
    for name, value in model.state_dict().items():
        if name.endswith("in_proj_weight"):
            value.mul_(3)
        if name.endswith(("running_mean", "running_var", "bias")) and value.ndim == 1:
            value.add_(0.2 * torch.rand_like(value))
    return model


def pictures(sizes: tuple[tuple[int, int], ...] = SIZES) -> list[Tensor]:
    random = torch.Generator().manual_seed(5)
    return [torch.randn(3, *size, generator=random) for size in sizes]


def words(rows: int, length: int = 9) -> Tensor:
    ids_BT = torch.randint(3, 40, (rows, length), generator=torch.Generator().manual_seed(6))
    ids_BT[:, 0] = 1
    return ids_BT


def decode_stepwise(model: CaptionModel, encoder_output: EncoderOutput, ids_BT: Tensor) -> tuple[Tensor, Tensor]:
    """What forward gives, one word at a time."""
    logits, crosses, state = [], [], None
    for ids_B in ids_BT.T:
        step = model.step(ids_B, encoder_output, state)
        state = step.state
        logits.append(step.logits_BV)
        crosses.append(step.cross_LBHK)
    return torch.stack(logits, 1), torch.stack(crosses, 3)


@pytest.fixture(autouse=True)
def _no_gradients(request: pytest.FixtureRequest) -> object:
    with torch.set_grad_enabled("gradient" in request.node.name):
        yield


@pytest.mark.parametrize("parts", PARTS)
def test_one_word_at_a_time_equals_all_at_once(parts: str) -> None:
    model = make_model(parts)
    encoder_output = model.encode(pictures())
    logits_BTV, cross_LBHTK = model(encoder_output, words(3))
    cached_BTV, cached_LBHTK = decode_stepwise(model, encoder_output, words(3))
    assert logits_BTV.shape == (3, 9, 40)
    assert cross_LBHTK.shape == (2, 3, 4, 9, math.prod(encoder_output.padded_grid))
    assert (cached_BTV - logits_BTV).abs().max() < 1e-5
    assert (cached_LBHTK - cross_LBHTK).abs().max() < 1e-5
    assert (model.logits(encoder_output, words(3)) - logits_BTV).abs().max() < 1e-5
    assert logits_BTV.std() > 0.05  # an even answer would agree with anything


@pytest.mark.parametrize("parts", PARTS)
def test_no_word_sees_a_later_one(parts: str) -> None:
    model = make_model(parts)
    encoder_output, ids_BT = model.encode(pictures()), words(3)
    before_BTV, cross_before = model(encoder_output, ids_BT)
    ids_BT[:, 5:] = 0  # as padding would
    after_BTV, cross_after = model(encoder_output, ids_BT)
    assert torch.equal(before_BTV[:, :5], after_BTV[:, :5])
    assert torch.equal(cross_before[..., :5, :], cross_after[..., :5, :])
    assert not torch.allclose(before_BTV[:, 5], after_BTV[:, 5])


@pytest.mark.parametrize("parts", PARTS)
def test_cross_attention_is_shared_out_over_a_pictures_own_cells(parts: str) -> None:
    model = make_model(parts)
    encoder_output = model.encode(pictures())
    cross_LBHTK = model(encoder_output, words(3))[1]
    assert torch.allclose(cross_LBHTK.sum(-1), torch.ones(()))
    rows, columns = encoder_output.padded_grid
    assert rows == max(r for r, _ in encoder_output.grids)
    assert columns == max(c for _, c in encoder_output.grids)
    for i, (own_rows, own_columns) in enumerate(encoder_output.grids):
        maps = cross_LBHTK[:, i].unflatten(-1, encoder_output.padded_grid)
        assert (maps[..., :own_rows, :own_columns] > 0).all()
        assert maps[..., own_rows:, :].sum() == 0
        assert maps[..., own_columns:].sum() == 0
    assert len(set(encoder_output.grids)) == 2


@pytest.mark.parametrize("parts", ["vit", "convolutions"])
def test_padded_features_leave_a_picture_alone(parts: str) -> None:
    model = make_model(parts)
    encoder_output = model.encode(pictures())
    logits_BTV, cross_LBHTK = model(encoder_output, words(3))
    for i, picture in enumerate(pictures()):
        alone = model.encode([picture])
        assert alone.grids == (alone.padded_grid,) == encoder_output.grids[i : i + 1]
        logits_1TV, cross_L1HTK = model(alone, words(3)[i : i + 1])
        assert (logits_BTV[i] - logits_1TV[0]).abs().max() < 1e-5
        own = cross_LBHTK[:, i].unflatten(-1, encoder_output.padded_grid)[
            ..., : alone.padded_grid[0], : alone.padded_grid[1]
        ]
        assert (own.flatten(-2) - cross_L1HTK[:, 0]).abs().max() < 1e-5


@pytest.mark.parametrize(
    "order", [[0, 0, 1, 1, 2, 2], [2, 2, 2, 0, 0, 0], [2, 0, 1], [1, 1], [0, 0, 0, 0, 1, 1], [0, 1, 0], [1, 0, 0]]
)
def test_beams_equal_pictures_decoded_by_themselves(order: list[int]) -> None:
    model = make_model("convolutions")
    encoder_output, ids_BT = model.encode(pictures()), words(len(order))
    selection = encoder_output.select_rows(torch.tensor(order))
    assert selection.grids == tuple(encoder_output.grids[i] for i in order)
    logits_BTV, cross_LBHTK = decode_stepwise(model, selection, ids_BT)
    everything_at_once = model(selection, ids_BT)
    assert (everything_at_once[0] - logits_BTV).abs().max() < 1e-5
    assert (everything_at_once[1] - cross_LBHTK).abs().max() < 1e-5
    assert (model.logits(selection, ids_BT) - logits_BTV).abs().max() < 1e-5
    for row, i in enumerate(order):
        alone = model.encode([pictures()[i]])
        logits_1TV, cross_L1HTK = model(alone, ids_BT[row : row + 1])
        assert (logits_BTV[row] - logits_1TV[0]).abs().max() < 1e-5
        own = cross_LBHTK[:, row].unflatten(-1, selection.padded_grid)[
            ..., : alone.padded_grid[0], : alone.padded_grid[1]
        ]
        assert (own.flatten(-2) - cross_L1HTK[:, 0]).abs().max() < 1e-5
    reversed_logits, _ = model(selection.select_rows(list(range(len(order)))[::-1]), ids_BT.flip(0))
    assert (reversed_logits.flip(0) - logits_BTV).abs().max() < 1e-5


def test_beams_of_a_picture_share_its_keys() -> None:
    encoder_output = make_model("vit").encode(pictures())
    beams = encoder_output.select_rows([0] * 5 + [1] * 5 + [2] * 5)
    assert beams.features.keys[0] is encoder_output.features.keys[0]
    assert len(beams.select_rows([5, 6, 10, 11]).features.keys[0]) == 2
    assert len(beams.select_rows([0, 0, 5]).features.keys[0]) == 3


def test_a_reordered_state_goes_on_from_the_other_words() -> None:
    model = make_model("vit")
    encoder_output = model.encode(pictures()[:1]).select_rows([0, 0, 0])
    ids_BT, state = words(3, 5), None
    for ids_B in ids_BT[:, :3].T:
        state = model.step(ids_B, encoder_output, state).state
    order = torch.tensor([2, 0, 0])
    reordered_step = model.step(ids_BT[:, 3], encoder_output, model.reorder(state, order))
    expected, cross = model(encoder_output, torch.cat((ids_BT[order, :3], ids_BT[:, 3:4]), 1))
    assert (reordered_step.logits_BV - expected[:, -1]).abs().max() < 1e-5
    assert (reordered_step.cross_LBHK - cross[..., -1, :]).abs().max() < 1e-5
    assert not torch.allclose(expected[1], expected[2], atol=1e-3)
    assert model.reorder(None, order) is None


def test_a_state_can_be_continued_twice() -> None:
    model = make_model("vit")
    encoder_output = model.encode(pictures()[:2])
    state = model.step(torch.tensor([1, 1]), encoder_output, None).state
    first = model.step(torch.tensor([5, 6]), encoder_output, state)
    model.step(torch.tensor([7, 8]), encoder_output, first.state)
    other = model.step(torch.tensor([9, 9]), encoder_output, state)
    assert torch.equal(model.step(torch.tensor([5, 6]), encoder_output, state).logits_BV, first.logits_BV)
    assert not torch.equal(other.logits_BV, first.logits_BV)


def test_a_transformers_features_are_its_patch_tokens() -> None:
    model = make_model("vit")
    pixels = torch.stack(pictures(((32, 48),) * 2))
    body = model.backbone.body
    tokens_BND = body.forward_features(pixels)
    assert body.num_prefix_tokens == 4
    features = model.encode_image(list(pixels))
    assert features.grids == ((4, 6),) * 2
    for row in range(4):
        for column in range(6):
            expected = tokens_BND[:, 4 + row * 6 + column]
            assert torch.allclose(features.values_BDRC[:, :, row, column], expected, atol=1e-6)


def test_an_earlier_stage_is_finer_and_what_follows_it_is_gone() -> None:
    early, late = make_model("convolutions", stage=2, image_args={}), make_model("convolutions", image_args={})
    picture = pictures(((64, 64),))
    assert early.encode(picture).grids == ((8, 8),)
    assert late.encode(picture).grids == ((2, 2),)
    assert sum(p.numel() for p in early.backbone.parameters()) < sum(p.numel() for p in late.backbone.parameters()) / 4


def test_features_can_be_kept_and_joined_again() -> None:
    model = make_model("convolutions")
    cached_values = [model.encode_image([picture]).values_BDRC[0] for picture in pictures()]
    encoder_output = model.encode_features(Features.join(cached_values))
    expected = model.encode(pictures())
    assert encoder_output.grids == expected.grids
    assert (model(encoder_output, words(3))[0] - model(expected, words(3))[0]).abs().max() < 1e-5


def test_the_packages_own_model_serves_as_image_encoder() -> None:
    image_model = load_for_inference("vitrine/scenes-tiny").module
    config = CaptionModelConfig(**(SMALL | {"image_model": "vitrine/scenes-tiny"}))
    model = CaptionModel(config, image_model).eval()
    encoder_output = model.encode(pictures(((64, 64),) * 2))
    assert encoder_output.grids == ((8, 8),) * 2
    assert model(encoder_output, words(2))[0].isfinite().all()
    with pytest.raises(ModelError, match="64 x 64 pixels; got 32 x 48"):
        model.encode(pictures()[:1])


def test_a_model_ready_to_predict_computes_the_same() -> None:
    model = make_model("padded pixels")
    norms = sum(isinstance(module, FrozenBatchNorm2d) for module in model.modules())
    encoder_output = model.encode(pictures())
    expected = model(encoder_output, words(3))[0]
    assert norms > 5
    assert prepare_for_prediction(model) is model
    assert not any(isinstance(module, FrozenBatchNorm2d) for module in model.modules())
    assert model.head.layers[-1].weight.stride() == (1, 40)
    assert (model(model.encode(pictures()), words(3))[0] - expected).abs().max() < 1e-5


def test_a_frozen_norm_is_batch_norm_in_eval_mode() -> None:
    frozen, norm = FrozenBatchNorm2d(6), nn.BatchNorm2d(6).eval()
    values = {name: 0.5 + torch.rand(6) for name in ("weight", "bias", "running_mean", "running_var")}
    frozen.load_state_dict(values)
    norm.load_state_dict(values, strict=False)
    x = torch.randn(2, 6, 5, 4)
    assert torch.allclose(frozen.train()(x), norm(x), atol=1e-6)
    assert not list(frozen.parameters())


@pytest.mark.parametrize("parts_in_bf16", ["everything", "pictures", "backbone"])
def test_bf16_gives_float32_near_by(parts_in_bf16: str) -> None:
    model = make_model("convolutions")
    expected, cross = model(model.encode(pictures()), words(3))
    rounded_parts = {"everything": [model], "pictures": [model.backbone, model.projection, model.encoder]}
    for part in rounded_parts.get(parts_in_bf16, [model.backbone]):
        part.to(torch.bfloat16)
    logits, rounded = decode_stepwise(model, model.encode(pictures()), words(3))
    assert logits.dtype == rounded.dtype == torch.float32
    assert (logits - expected).abs().max() < 0.1 * expected.abs().max()
    assert torch.allclose(rounded.sum(-1), torch.ones(()), atol=1e-5)
    assert 0 < (rounded - cross).abs().max() < 0.05


@pytest.mark.parametrize("parts", ["vit", "convolutions"])
def test_gradients_reach_every_weight_and_a_caption_is_learnt(parts: str) -> None:
    model = make_model(parts, dropout=0.05).train()
    inputs, ids_BT = pictures(((32, 32),) * 2), words(2, 7)
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    losses = []
    for _ in range(50):
        logits_BTV = model.logits(model.encode(inputs), ids_BT[:, :-1])
        loss = functional.cross_entropy(logits_BTV.flatten(0, 1), ids_BT[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        if not losses:
            assert [name for name, p in model.named_parameters() if p.grad is None] == []
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 < 3 < losses[0]


def test_positions_are_sines_of_counted_rows_and_columns() -> None:
    padded_BRC = torch.zeros(2, 3, 4, dtype=torch.bool)
    padded_BRC[1, 2:] = padded_BRC[1, :, 3:] = True
    found = sine_positions(padded_BRC, 16)
    for picture, rows, columns in ((0, 3, 4), (1, 2, 3)):
        for row in range(rows):
            for column in range(columns):
                for first, count, total in ((0, row + 1, rows), (8, column + 1, columns)):
                    for k in range(4):  # frequencies
                        angle = 2 * math.pi * count / (total + 1e-6) / 10000 ** (2 * k / 8)
                        pair = found[picture, row, column, first + 2 * k : first + 2 * k + 2]
                        np.testing.assert_allclose(pair, [math.sin(angle), math.cos(angle)], atol=1e-5)


def test_memories_of_other_captioners_are_picked_alike() -> None:
    table = torch.arange(6.0).reshape(3, 2)
    encoder_output = EncoderOutput({"a": table, "b": (table + 1, None), "c": [table]}, ((1, 2), (1, 1), (2, 1)), (2, 2))
    selection = encoder_output.select_rows([2, 2, 0])
    assert selection.grids == ((2, 1), (2, 1), (1, 2))
    assert torch.equal(selection.features["a"], table[[2, 2, 0]])
    assert torch.equal(selection.features["b"][0], table[[2, 2, 0]] + 1)
    assert isinstance(selection.features["b"], tuple)
    assert torch.equal(selection.features["c"][0], table[[2, 2, 0]])
    for wrong in ([3], [-1]):
        with pytest.raises(IndexError, match="from 0 to 2"):
            encoder_output.select_rows(wrong)
    with pytest.raises(TypeError, match="no batch axis"):
        EncoderOutput("text", ((1, 1),), (1, 1)).select_rows([0])


def test_what_does_not_fit_is_refused() -> None:
    model = make_model("vit")
    encoder_output = model.encode(pictures())
    with pytest.raises(ValueError, match="2 rows do not go with an encoder output of 3"):
        model.step(torch.tensor([1, 1]), encoder_output, None)
    state = model.step(torch.tensor([1, 1, 1]), encoder_output, None).state
    with pytest.raises(ValueError, match="a state of 3"):
        model.step(torch.tensor([1, 1]), encoder_output.select_rows([0, 1]), state)
    with pytest.raises(ValueError, match="12 positions; 13"):
        model(encoder_output, words(3, 13))
    assert model(encoder_output, words(3, 12))[0].shape == (3, 12, 40)
    with pytest.raises(ValueError, match="one at least"):
        model.encode([])
    with pytest.raises(ValueError, match=r"\(3, h, w\)"):
        model.encode([torch.zeros(1, 3, 32, 32)])
    with pytest.raises(ValueError, match="one picture at least"):
        Features.join([])


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"width": 30}, "width = 30: expected a multiple of 4"),
        ({"width": 36, "heads": 8}, "of heads = 8"),
        ({"decoder_layers": 0}, "decoder_layers = 0"),
        ({"encoder_layers": -1}, "encoder_layers = -1"),
        ({"end": 40}, "end = 40: expected an id below 40"),
        ({"padding": "left"}, "padding = 'left'"),
    ],
)
def test_settings_that_cannot_be_name_their_field(changes: dict[str, object], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        make_model("vit", **changes)


def test_image_encoders_that_cannot_be_are_refused() -> None:
    with pytest.raises(ModelError, match="padding = 'pixels' is for convolutions"):
        make_model("vit", padding="pixels")
    with pytest.raises(ModelError, match="no stage 9"):
        make_model("vit", stage=9)
    with pytest.raises(ModelError, match="'resnet7' cannot be built"):
        make_model("vit", image_model="resnet7")


def test_settings_survive_json() -> None:
    config = make_model("vit").config
    assert CaptionModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert config.to_dict()["longest"] == config.max_length == 12  # the key of every config.json so far
