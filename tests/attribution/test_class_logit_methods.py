"""Methods that explain a logit, against slow and obvious versions of their formulas, and against captum."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import timm
import torch
from torch import nn

from vitrine.attribution.attention import watch_attention
from vitrine.attribution.attnlrp import attnlrp
from vitrine.attribution.legrad import legrad
from vitrine.attribution.maps import token_layout
from vitrine.attribution.methods import Method
from vitrine.attribution.pixel_gradients import input_gradient, integrated_gradients, smoothgrad
from vitrine.attribution.registry import ENTRIES
from vitrine.attribution.relevance import relevance
from vitrine.attribution.rise import random_masks, rise
from vitrine.attribution.value_norm import value_norm
from vitrine.attribution.value_output import token_contributions, value_output
from vitrine.errors import ModelError

SMALL = {"img_size": (24, 32), "patch_size": 8, "depth": 2, "embed_dim": 24, "num_heads": 2, "num_classes": 4}
TARGETS = torch.tensor([1, 3])


def build(name: str = "vit_tiny_patch16_224", **how: object) -> nn.Module:
    torch.manual_seed(0)
    module = timm.create_model(name, **SMALL | how).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim == 2:
                parameter.mul_(3)
            elif parameter.ndim == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))  # biases and norms that matter
        module.head.weight.normal_()
    return module


@pytest.fixture(scope="module")
def module() -> nn.Module:
    return build()


@pytest.fixture(scope="module")
def inputs() -> torch.Tensor:
    return torch.randn(2, 3, 24, 32, generator=torch.Generator().manual_seed(1))


def slow_gradient(module: nn.Module, picture_CHW: torch.Tensor, target: int) -> torch.Tensor:
    leaf = picture_CHW[None].clone().requires_grad_()
    return torch.autograd.grad(module(leaf)[0, target], leaf)[0][0]


def patch_sums(values_CHW: torch.Tensor) -> torch.Tensor:
    return torch.stack(
        [torch.stack([values_CHW[:, r : r + 8, c : c + 8].sum() for c in range(0, 32, 8)]) for r in range(0, 24, 8)]
    )


def test_input_gradient_and_integrated_gradients_equal_captum_and_sum_to_the_logit(module, inputs) -> None:
    captum = pytest.importorskip("captum.attr")
    for ours, theirs in (
        (input_gradient(module, inputs, TARGETS), captum.InputXGradient(module).attribute(inputs, target=TARGETS)),
        (
            integrated_gradients(module, inputs, TARGETS),
            captum.IntegratedGradients(module).attribute(inputs, target=TARGETS, n_steps=20),
        ),
    ):
        expected = torch.stack([patch_sums(each) for each in theirs.detach().float()])
        torch.testing.assert_close(ours.scores_BRC, expected, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        change_B = (module(inputs) - module(torch.zeros_like(inputs)))[range(2), TARGETS]
    torch.testing.assert_close(ours.scores_BRC.sum((1, 2)), change_B, rtol=1e-2, atol=1e-2)


def test_smoothgrad_is_the_mean_over_noisy_copies(module, inputs) -> None:
    maps = smoothgrad(module, inputs, TARGETS, seed=4).scores_BRC
    generator = torch.Generator().manual_seed(4)
    noises = [torch.randn(3, 24, 32, generator=generator) for _ in range(16)]
    picture = inputs[1]
    spread = 0.15 * (picture.max() - picture.min())
    gradients = [slow_gradient(module, picture + spread * noise, 3) for noise in noises]
    torch.testing.assert_close(maps[1], patch_sums(torch.stack(gradients).mean(0).abs()), rtol=1e-4, atol=1e-6)
    assert not torch.allclose(maps, smoothgrad(module, inputs, TARGETS, seed=5).scores_BRC, rtol=1e-3)


def unfused(module: nn.Module, inputs: torch.Tensor) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Whole attention matrices of every layer, and the tokens that leave it, in the graph."""
    matrices: list[torch.Tensor] = []
    tokens: list[torch.Tensor] = []
    handles = []
    for block in module.blocks:
        block.attn.fused_attn = False
        handles.append(block.attn.attn_drop.register_forward_hook(lambda _, args, __: matrices.append(args[0])))
        handles.append(block.register_forward_hook(lambda _, __, output: tokens.append(output)))
    module(inputs)
    for block in module.blocks:
        block.attn.fused_attn = True
    for handle in handles:
        handle.remove()
    return matrices, tokens


@pytest.mark.parametrize("how", [{}, {"global_pool": "avg", "class_token": False}], ids=["class token", "mean"])
def test_legrad_is_the_printed_formula(how: dict[str, object], inputs) -> None:
    module = build(**how)
    matrices, tokens = unfused(module, inputs)
    prefix, expected = token_layout(module).prefix, torch.zeros(2, 12)
    for matrix_BHNN, tokens_BND in zip(matrices, tokens, strict=True):
        logits = module.forward_head(module.norm(tokens_BND))
        (gradient,) = torch.autograd.grad(logits[range(2), TARGETS].sum(), matrix_BHNN, retain_graph=True)
        expected += gradient.clamp(min=0).mean(1).mean(1)[:, prefix:] / 2
    torch.testing.assert_close(legrad(module, inputs, TARGETS).scores_BRC.flatten(1), expected, rtol=1e-3, atol=1e-6)


def test_legrad_of_a_pool_takes_the_pools_own_attention(inputs) -> None:
    module = build(global_pool="map", class_token=False)
    _, tokens = unfused(module, inputs)
    expected = torch.zeros(2, 12)
    for tokens_BND in tokens:
        calls = []
        with watch_attention(module, calls.append):
            module.attn_pool.fused_attn = False
            score = module.forward_head(module.norm(tokens_BND))[range(2), TARGETS].sum()
            module.attn_pool.fused_attn = True
        (gradient,) = torch.autograd.grad(score, calls[0].matrix_BHQK, retain_graph=True)
        expected += gradient.clamp(min=0).mean((1, 2)) / 2
    torch.testing.assert_close(legrad(module, inputs, TARGETS).scores_BRC.flatten(1), expected, rtol=1e-3, atol=1e-6)


# What the authors' own code gives for the model and the pictures of `sines`, to the digits that are written.
# LeWrapper.compute_legrad_clip of WalBouss/LeGrad, commit a9edb03, fed with this model's tokens, attention, norm and
# head; it takes the first token for a class token and leaves it out, and stretches each map to 0 to 1.
LEGRAD_OF_THE_AUTHORS = [
    [0.61957, 1.0, 0.14191, 0.91472, 0.70605, 0.00967, 0.05359, 0.0, 0.93434],
    [0.9226, 0.53065, 0.76968, 0.49538, 1.0, 0.0, 0.89198, 0.00563, 0.47408],
]
# layer_norm_forward, non_linear_forward and wrap_attention_forward of lxt 2.1 (rachtibat/LRP-eXplains-Transformers) in
# place of the model's norms, GELUs and attention; input times gradient, summed over patches.
ATTNLRP_OF_THE_AUTHORS = [
    [0.391214, 0.314261, 0.218345, -0.253217, -0.398079, -0.261267, -0.184771, 0.190399, 0.0780052, 0.203144],
    [-0.176104, -0.156817, 0.123495, 0.0828365, -0.0916049, -0.0573646, -0.146813, 0.295053, -0.373951, 0.244551],
]


def sines() -> tuple[nn.Module, torch.Tensor]:
    """A model that reads the mean of 2 × 5 patches, and two pictures, made of sines alone: the same everywhere."""
    module = timm.models.vision_transformer.VisionTransformer(
        img_size=(32, 80), patch_size=16, embed_dim=24, depth=2, num_heads=2, num_classes=3, class_token=False,
        global_pool="avg", fc_norm=True,
    ).eval()  # fmt: skip
    with torch.no_grad():
        for number, (name, parameter) in enumerate(module.named_parameters()):
            n = torch.arange(parameter.numel(), dtype=torch.float64)
            if "norm" not in name:
                parameter.copy_((0.35 * torch.sin(1.7 * n + number + 0.01 * n * n)).reshape(parameter.shape))
    n = torch.arange(2 * 3 * 32 * 80, dtype=torch.float64)
    pixels = torch.sin(n * 0.37).float() + torch.cos(n**1.5 * 1e-3).float()
    return module, pixels.reshape(2, 3, 32, 80)


def test_legrad_and_attnlrp_equal_their_authors_code() -> None:
    module, pixels = sines()
    targets = torch.tensor([2, 0])
    ours = legrad(module, pixels, targets).scores_BRC.flatten(1)[:, 1:]
    low, high = ours.amin(1, keepdim=True), ours.amax(1, keepdim=True)
    expected = torch.tensor(LEGRAD_OF_THE_AUTHORS)
    torch.testing.assert_close((ours - low) / (high - low), expected, rtol=0, atol=2e-5)
    ours = attnlrp(module, pixels, targets).scores_BRC.flatten(1)
    torch.testing.assert_close(ours, torch.tensor(ATTNLRP_OF_THE_AUTHORS), rtol=0, atol=2e-6)


@pytest.mark.parametrize(("layer", "scale"), [(-1, None), (0, 0.3)], ids=["last", "first, scaled"])
def test_value_norm_is_the_length_of_what_is_added(layer: int, scale: float | None, inputs) -> None:
    module = build(init_values=scale)
    block, values = module.blocks[layer], []
    handle = block.attn.qkv.register_forward_hook(lambda _, __, out: values.append(out[..., 48:]))
    matrices, _ = unfused(module, inputs)
    handle.remove()
    weight = block.attn.proj.weight if scale is None else block.ls1.gamma[:, None] * block.attn.proj.weight
    for picture in range(2):
        for key in range(13):
            added = torch.zeros(24)
            for head in range(2):
                own = slice(12 * head, 12 * head + 12)
                added += matrices[layer][picture, head, 0, key] * (weight[:, own] @ values[0][picture, key, own])
            if key:
                ours = value_norm(module, inputs, layer).scores_BRC[picture].flatten()[key - 1]
                torch.testing.assert_close(ours, added.norm().detach(), rtol=1e-4, atol=1e-6)


def test_value_norm_refuses_what_is_no_matrix() -> None:
    module = build()
    module.blocks[-1].attn.norm = nn.LayerNorm(24)
    with pytest.raises(ModelError, match="not its values times one matrix"):
        value_norm(module, torch.randn(1, 3, 24, 32))


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("vit_tiny_patch16_224", {}),
        ("vit_tiny_patch16_224", {"global_pool": "map", "class_token": False}),
        ("vit_tiny_patch16_224", {"global_pool": "avg", "reg_tokens": 2, "init_values": 0.5}),
        ("deit_tiny_distilled_patch16_224", {}),
        ("eva02_tiny_patch14_224", {"patch_size": 8}),
    ],
    ids=["class token", "pool", "mean and registers", "two tokens", "rotary"],
)
def test_value_output_sums_to_the_logits_change(name: str, how: dict[str, object], inputs) -> None:
    module = build(name, **how)
    contributions_BN = token_contributions(module, inputs, TARGETS)
    with torch.no_grad():
        intact_B = module(inputs)[range(2), TARGETS]
        last = len(module.blocks) - 1
        with watch_attention(module, lambda call: torch.zeros_like(call.carrier), [last]):
            without_B = module(inputs)[range(2), TARGETS]
    assert (intact_B - without_B).abs().min() > 1e-3
    torch.testing.assert_close(contributions_BN.sum(1), intact_B - without_B, rtol=1e-3, atol=1e-4)


def test_value_output_gives_each_patch_the_value_that_it_wrote(inputs) -> None:
    """A patch whose value is zeroed adds nothing, and one that is not attended to neither."""
    module = build()
    matrices, _ = unfused(module, inputs)
    maps = value_output(module, inputs, TARGETS).scores_BRC

    def drop_value(_, __, output: torch.Tensor) -> torch.Tensor:
        output[:, 5, 48:] = 0
        return output

    handle = module.blocks[-1].attn.qkv.register_forward_hook(drop_value)
    emptied = value_output(module, inputs, TARGETS).scores_BRC
    handle.remove()
    assert maps[0].flatten()[4] != 0 and emptied[0].flatten()[4] == 0
    assert (matrices[-1][:, :, 0] > 0).all()


def slow_lrp(module: nn.Module, picture_CHW: torch.Tensor, target: int) -> torch.Tensor:
    """Relevance layer by layer, every rule as the paper prints it, for a plain ViT in float64."""

    def linear(x, weight, bias, relevance):  # equation 8, epsilon to 0
        z = x @ weight.T + (0 if bias is None else bias)
        return x * ((relevance / z) @ weight)

    def norm(layer, x, relevance):  # equation 17: linear in x - mean, with the deviation as a constant
        deviation = (x.var(-1, unbiased=False, keepdim=True) + layer.eps).sqrt()
        matrix = (torch.eye(x.shape[-1]).double() - 1 / x.shape[-1]) * layer.weight[:, None]
        z = x @ matrix.T / deviation + layer.bias
        return x * ((relevance / z) @ matrix) / deviation

    def product(a, b, relevance):  # equation 15, in one contraction: half to each factor
        share = relevance / (a @ b)
        return 0.5 * a * (share @ b.transpose(-2, -1)), 0.5 * b * (a.transpose(-2, -1) @ share)

    heads, width = 2, 12
    x = module.patch_embed(picture_CHW[None])[0]
    states = [torch.cat([module.cls_token[0], x]) + module.pos_embed[0]]
    records = []
    for block in module.blocks:
        x = states[-1]
        n1 = block.norm1(x)
        q, k, v = block.attn.qkv(n1).reshape(-1, 3, heads, width).permute(1, 2, 0, 3)
        scores = q @ k.transpose(-2, -1) * width**-0.5
        mixed = (scores.softmax(-1) @ v).transpose(0, 1).reshape(-1, heads * width)
        attended = block.attn.proj(mixed)
        middle = x + attended
        n2 = block.norm2(middle)
        hidden = block.mlp.fc1(n2)
        records.append((x, n1, q, k, v, scores, mixed, attended, middle, n2, hidden))
        states.append(middle + block.mlp.fc2(block.mlp.act(hidden)))
    final = module.norm(states[-1])
    logit = module.head(final[0])[target]
    relevance = torch.zeros_like(final)
    row = module.head.weight[target]
    relevance[0] = final[0] * row  # of the logit itself, its bias apart
    assert abs(float(relevance.sum() + module.head.bias[target] - logit)) < 1e-9
    relevance = norm(module.norm, states[-1], relevance)
    for block, record, after in zip(reversed(module.blocks), reversed(records), reversed(states), strict=False):
        x, n1, q, k, v, scores, mixed, attended, middle, n2, hidden = record
        update = after - middle
        to_mlp = relevance * update / after  # equation 8 for a sum
        to_middle = relevance - to_mlp
        act = block.mlp.act(hidden)
        r = linear(
            act, block.mlp.fc2.weight, block.mlp.fc2.bias, to_mlp
        )  # then equation 9: unchanged by the activation
        r = linear(n2, block.mlp.fc1.weight, block.mlp.fc1.bias, r)
        relevance = to_middle + norm(block.norm2, middle, r)
        to_attention = relevance * attended / middle
        r = linear(mixed, block.attn.proj.weight, block.attn.proj.bias, to_attention)
        r = r.reshape(-1, heads, width).transpose(0, 1)
        attention = scores.softmax(-1)
        r_a, r_v = product(attention, v, r)
        r_s = scores * (r_a - attention * r_a.sum(-1, keepdim=True))  # equation 13
        r_q, r_k = product(q * width**-0.5, k.transpose(-2, -1), r_s)
        r_qkv = torch.stack([r_q, r_k.transpose(-2, -1), r_v]).permute(2, 0, 1, 3).reshape(len(x), -1)
        r = linear(n1, block.attn.qkv.weight, block.attn.qkv.bias, r_qkv)
        relevance = relevance - to_attention + norm(block.norm1, x, r)
    embedded = module.patch_embed(picture_CHW[None])[0]
    r_embedded = relevance[1:] * embedded / states[0][1:]
    patches = torch.nn.functional.unfold(picture_CHW[None], 8, stride=8)[0].T
    weight = module.patch_embed.proj.weight.flatten(1)
    return linear(patches, weight, module.patch_embed.proj.bias, r_embedded).sum(1).reshape(3, 4)


def test_attnlrp_is_relevance_passed_back_rule_by_rule(inputs) -> None:
    module = build().double()
    with torch.no_grad():
        expected = slow_lrp(module, inputs[0].double(), 1)
    for fused in (True, False):
        for block in module.blocks:
            block.attn.fused_attn = fused
        ours = attnlrp(module, inputs[:1].double(), TARGETS[:1]).scores_BRC[0]
        torch.testing.assert_close(ours, expected.float(), rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
    plain = input_gradient(module, inputs[:1].double(), TARGETS[:1]).scores_BRC[0]
    assert not torch.allclose(plain, ours, rtol=0.2)


def test_rise_is_the_mean_over_masks(module, inputs) -> None:
    maps = rise(module, inputs, TARGETS, lambda logits: logits.softmax(-1), seed=2)
    masks = random_masks(24, 32, 2)
    assert masks.min() >= 0 and masks.max() < 1 + 1e-6 and 0.45 < masks.mean() < 0.55
    with torch.no_grad():
        probability = torch.stack([module(inputs[1:] * mask).softmax(-1)[0, 3] for mask in masks])
    for row, column in ((0, 0), (2, 3)):
        seen = torch.stack([mask[8 * row : 8 * row + 8, 8 * column : 8 * column + 8].mean() for mask in masks])
        expected = (probability * seen).sum() / seen.sum() - probability.mean()
        torch.testing.assert_close(maps.scores_BRC[1, row, column], expected, rtol=1e-4, atol=1e-6)


def test_rise_sees_the_patch_that_decides() -> None:
    class Bright(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            inner = build()
            self.patch_embed, self.blocks = inner.patch_embed, inner.blocks

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.stack([x[:, :, 8:16, 16:24].mean((1, 2, 3)), torch.zeros(len(x))], 1) * 9

    maps = rise(Bright(), torch.ones(1, 3, 24, 32), torch.tensor([0]), lambda logits: logits.softmax(-1))
    assert maps.scores_BRC[0].argmax() == 1 * 4 + 2
    assert maps.scores_BRC[0, 1, 2] > 3 * maps.scores_BRC[0].flatten().sort().values[-2]


LINEAR_IN_THE_LOGIT = [input_gradient, integrated_gradients, value_output, attnlrp]


@pytest.mark.parametrize("method", LINEAR_IN_THE_LOGIT, ids=lambda method: method.__name__)
def test_against_another_class_is_the_difference_of_two_maps(method: Callable[..., object], module, inputs) -> None:
    against = torch.tensor([2, 0])
    contrast = method(module, inputs, TARGETS, against_B=against).scores_BRC
    own, other = (method(module, inputs, each).scores_BRC for each in (TARGETS, against))
    torch.testing.assert_close(contrast, own - other, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("entry", [each for each in ENTRIES if each.takes_contrast], ids=lambda entry: entry.name)
def test_a_class_against_itself_has_no_map(entry, module, inputs) -> None:
    maps = entry.load()(module, inputs, targets_B=TARGETS, against_B=TARGETS)
    assert maps.scores_BRC.abs().max() < 1e-5
    assert entry.load()(module, inputs, targets_B=TARGETS, against_B=torch.tensor([2, 2])).scores_BRC.any()
    assert relevance  # among them, methods that were there before


def test_what_is_drawn_follows_the_seed(module, inputs) -> None:
    for name in ("smoothgrad", "rise"):
        one, same, other = (Method(name, seed=seed).maps(module, inputs, TARGETS).scores_BRC for seed in (1, 1, 2))
        assert torch.equal(one, same) and not torch.equal(one, other)
