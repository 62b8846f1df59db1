"""Every method against a slow, obvious version of its published formula, and against the mistakes that are common."""

from __future__ import annotations

import re

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.models.vision_transformer import ResPostBlock
from torch import nn

from vitrine.attribution.attention import attention_map, attention_matrices, head_maps
from vitrine.attribution.gradcam import gradcam, gradcam_tokens
from vitrine.attribution.maps import TokenLayout, split_prefix, token_layout
from vitrine.attribution.methods import Method
from vitrine.attribution.occlusion import occlusion
from vitrine.attribution.relevance import relevance
from vitrine.attribution.rollout import rollout
from vitrine.errors import ModelError

PLAIN = {"img_size": 32, "patch_size": 8, "depth": 3, "embed_dim": 32, "num_heads": 2, "num_classes": 5}
KINDS = {
    "class": {},
    "mean": {"global_pool": "avg", "class_token": False},
    "pool": {"global_pool": "map", "class_token": False},
    "registers": {"reg_tokens": 3, "no_embed_class": True},
    "not square": {"img_size": (48, 32)},
}


def build_model(kind: str = "class", *, fused: bool = True) -> nn.Module:
    torch.manual_seed(0)
    module = timm.create_model("vit_tiny_patch16_224", **PLAIN | KINDS[kind]).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim == 2:
                parameter.mul_(4)
    for block in module.blocks:
        block.attn.fused_attn = fused
    return module


def pixels(module: nn.Module, count: int = 2) -> torch.Tensor:
    return torch.randn(count, 3, *module.patch_embed.img_size, generator=torch.Generator().manual_seed(1))


def explicit_attention(module: nn.Module, inputs: torch.Tensor, targets: torch.Tensor | None = None):
    """(attention, its gradient) of each block, from the model's unfused branch and plain autograd."""
    for block in module.blocks:
        block.attn.fused_attn = False
    matrices: list[torch.Tensor] = []
    hooks = [
        block.attn.attn_drop.register_forward_hook(lambda _, args, __: matrices.append(args[0]))
        for block in module.blocks
    ]
    logits = module(inputs)
    for hook in hooks:
        hook.remove()
    if targets is None:
        return [a.detach() for a in matrices], None
    score = sum(logits[i, t] for i, t in enumerate(targets.tolist()))
    gradients = torch.autograd.grad(score, matrices)
    return [a.detach() for a in matrices], list(gradients)


def readout_row(matrix: torch.Tensor, layout: TokenLayout) -> torch.Tensor:
    """Slow: the row of the class token, or the mean row of the patches."""
    if layout.has_class:
        return matrix[0]
    return torch.stack([matrix[i] for i in range(layout.prefix, layout.tokens)]).mean(0)


@pytest.mark.parametrize("kind", ["class", "mean", "registers", "not square"])
def test_rollout_is_the_product_of_mixed_attentions(kind: str) -> None:
    module = build_model(kind)
    inputs = pixels(module)
    layout = token_layout(module)
    maps = rollout(module, inputs)
    attentions, _ = explicit_attention(module, inputs)
    for picture in range(2):
        product = torch.eye(layout.tokens)
        for attention in attentions:  # arXiv:2005.00928, section 3: A = 0.5 W_att + 0.5 I, from the first layer on
            mixed_NM = 0.5 * attention[picture].mean(0) + 0.5 * torch.eye(layout.tokens)
            product = (mixed_NM / mixed_NM.sum(-1, keepdim=True)) @ product
        row = readout_row(product, layout)
        torch.testing.assert_close(
            maps.scores_BRC[picture].flatten(), row[layout.prefix :].detach(), rtol=1e-4, atol=1e-6
        )
        share = 0 if maps.prefix_share_B is None else float(maps.prefix_share_B[picture])
        assert maps.scores_BRC[picture].sum() + share == pytest.approx(1, abs=1e-5)


def test_rollout_with_a_pool_starts_from_the_pools_weights() -> None:
    module = build_model("pool")
    inputs = pixels(module)
    weights = attention_map(module, inputs).scores_BRC.flatten(1)
    attentions, _ = explicit_attention(module, inputs)
    for picture in range(2):
        product = torch.eye(16)
        for attention in attentions:
            product = (0.5 * attention[picture].mean(0) + 0.5 * torch.eye(16)) @ product
        torch.testing.assert_close(
            rollout(build_model("pool"), inputs).scores_BRC[picture].flatten(),
            weights[picture] @ product,
            rtol=1e-4,
            atol=1e-6,
        )


@pytest.mark.parametrize("kind", ["class", "mean", "registers", "not square"])
def test_relevance_is_the_published_update_with_each_layers_own_gradient(kind: str) -> None:
    module = build_model(kind)
    inputs, targets = pixels(module), torch.tensor([1, 4])
    layout = token_layout(module)
    maps = relevance(module, inputs, targets)
    attentions, gradients = explicit_attention(module, inputs, targets)
    for picture in range(2):
        relevance_NM = torch.eye(layout.tokens)
        for attention, gradient in zip(attentions, gradients, strict=True):  # arXiv:2103.15679, equations 5 and 6
            weighted_NM = (gradient[picture] * attention[picture]).clamp(min=0).mean(0)
            relevance_NM = relevance_NM + weighted_NM @ relevance_NM
        row = readout_row(relevance_NM - torch.eye(layout.tokens), layout)[layout.prefix :]
        torch.testing.assert_close(maps.scores_BRC[picture].flatten(), row, rtol=2e-3, atol=1e-6)
    assert maps.scores_BRC.max() > 0


def test_relevance_differs_when_gradients_are_paired_with_another_layer() -> None:
    """The comparison above is able to see that mistake."""
    module = build_model()
    inputs, targets = pixels(module), torch.tensor([1, 4])
    attentions, gradients = explicit_attention(module, inputs, targets)
    relevance_NM = torch.eye(17)
    for attention, gradient in zip(attentions, reversed(gradients), strict=True):
        relevance_NM = relevance_NM + (gradient[0] * attention[0]).clamp(min=0).mean(0) @ relevance_NM
    right = relevance(module, inputs, targets).scores_BRC[0].flatten()
    assert not torch.allclose(relevance_NM[0, 1:], right, rtol=0.05)


def test_relevance_is_the_same_fused_and_not() -> None:
    inputs, targets = pixels(build_model()), torch.tensor([0, 3])
    fused_maps = relevance(build_model(), inputs, targets).scores_BRC
    torch.testing.assert_close(
        fused_maps, relevance(build_model(fused=False), inputs, targets).scores_BRC, rtol=2e-3, atol=1e-7
    )


@pytest.mark.parametrize("method", [relevance, gradcam])
def test_methods_with_gradients_depend_on_the_class_and_leave_parameters_alone(method) -> None:
    module = build_model()
    for parameter in module.parameters():
        parameter.requires_grad_(False)  # a frozen model has maps, too
    one = method(module, pixels(module), torch.tensor([0, 0])).scores_BRC
    two = method(module, pixels(module), torch.tensor([1, 0])).scores_BRC
    assert not torch.allclose(one[0], two[0])
    torch.testing.assert_close(one[1], two[1])
    assert all(parameter.grad is None for parameter in module.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in module.modules())
    with torch.no_grad():  # works there as well
        torch.testing.assert_close(method(module, pixels(module), torch.tensor([0, 0])).scores_BRC, one)


def slow_gradcam(module: nn.Module, inputs: torch.Tensor, target: int, part: nn.Module, *, at_input=False):
    """Patch by patch, from the tokens that leave a part of the model, or go into it."""
    tokens: list[torch.Tensor] = []
    if at_input:
        hook = part.register_forward_pre_hook(lambda _, args: tokens.append(args[0]))
    else:
        hook = part.register_forward_hook(lambda _, __, out: tokens.append(out))
    logits = module(inputs)
    hook.remove()
    gradient = torch.autograd.grad(logits[0, target], tokens[0])[0][0]
    prefix = token_layout(module).prefix
    weights = torch.stack([gradient[i] for i in range(prefix, len(gradient))]).mean(0)
    return torch.stack([(tokens[0][0, i] * weights).sum().clamp(min=0) for i in range(prefix, len(gradient))]).detach()


@pytest.mark.parametrize("readout", ["class", "mean"])
def test_gradcam_reads_the_norm_before_the_last_attention(readout: str) -> None:
    """Where pytorch-grad-cam takes it for vision transformers: blocks[-1].norm1."""
    module = build_model(readout) if readout == "mean" else build_model()
    inputs, last = pixels(module, 1), len(module.blocks) - 1
    map_N = gradcam(module, inputs, torch.tensor([2])).scores_BRC[0].flatten()
    torch.testing.assert_close(map_N, slow_gradcam(module, inputs, 2, module.blocks[-1].norm1), rtol=1e-4, atol=1e-6)
    assert map_N.max() > 0
    assert gradcam_tokens(module) == gradcam_tokens(module, last) == f"blocks[{last}].norm1"
    after = slow_gradcam(module, inputs, 2, module.blocks[-1])
    assert bool(after.any()) == (readout == "mean")  # a known mistake: after the last block a class token reads nothing


def test_gradcam_of_an_earlier_layer_reads_what_leaves_it() -> None:
    module = build_model()
    inputs, targets = pixels(module, 1), torch.tensor([2])
    for layer, number in ((-2, len(module.blocks) - 2), (0, 0)):
        map_N = gradcam(module, inputs, targets, layer).scores_BRC[0].flatten()
        torch.testing.assert_close(map_N, slow_gradcam(module, inputs, 2, module.blocks[layer]), rtol=1e-4, atol=1e-6)
        assert gradcam_tokens(module, layer) == f"blocks[{number}]"
        assert Method("gradcam", layer=layer).describe(module) == f"Grad-CAM on the tokens of blocks[{number}]"
        assert torch.equal(Method("gradcam", layer=layer).maps(module, inputs, targets).scores_BRC[0].flatten(), map_N)
    with pytest.raises(ModelError, match="There is no layer 9"):
        gradcam(module, inputs, targets, 9)


def test_gradcam_of_blocks_that_normalise_afterwards_reads_what_goes_into_the_last() -> None:
    torch.manual_seed(0)
    module = timm.create_model("vit_tiny_patch16_224", **PLAIN | {"depth": 2}, block_fn=ResPostBlock).eval()
    inputs = torch.randn(1, 3, 32, 32)
    assert gradcam_tokens(module) == "blocks[0]"
    map_N = gradcam(module, inputs, torch.tensor([2])).scores_BRC[0].flatten()
    expected = slow_gradcam(module, inputs, 2, module.blocks[-1], at_input=True)
    torch.testing.assert_close(map_N, expected, rtol=1e-4, atol=1e-6)


def test_gradcam_is_zero_where_nothing_speaks_for_the_class() -> None:
    """A head that was never trained has weights of 0: no gradient, and no error for the other methods' sake."""
    module = build_model()
    nn.init.zeros_(module.head.weight)
    assert not gradcam(module, pixels(module), torch.tensor([0, 1])).scores_BRC.any()


def test_gradcam_says_when_the_class_does_not_depend_on_the_layer() -> None:
    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            inner = build_model()
            self.patch_embed, self.blocks, self.num_prefix_tokens = inner.patch_embed, inner.blocks, 0
            self.weight = nn.Parameter(torch.ones(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            tokens = self.patch_embed(x)
            for block in self.blocks:
                block(tokens)
            return self.weight.expand(len(x), 3) + tokens.mean()

    with pytest.raises(ModelError, match=r"does not depend on blocks\[2\].norm1"):
        gradcam(Constant().eval(), torch.randn(1, 3, 32, 32), torch.tensor([0]))


def test_maps_lie_on_the_patches_and_not_one_off() -> None:
    """A model whose class token attends, by construction, to the one bright patch."""
    module = timm.create_model(
        "vit_tiny_patch16_224", img_size=(48, 32), patch_size=8, depth=1, embed_dim=16, num_heads=1, num_classes=3,
        reg_tokens=2,
    ).eval()  # fmt: skip
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
        module.patch_embed.proj.weight[0] = 1.0  # channel 0 of a token: how bright its patch is
        module.cls_token[..., 1] = 5.0
        module.blocks[0].norm1 = nn.Identity()
        module.blocks[0].attn.qkv.weight[0, 1] = 1.0  # the class token's query ...
        module.blocks[0].attn.qkv.weight[16, 0] = 1.0  # ... asks for brightness
    for row, column in ((0, 0), (5, 3), (2, 1)):
        inputs = torch.zeros(1, 3, 48, 32)
        inputs[:, :, row * 8 : row * 8 + 8, column * 8 : column * 8 + 8] = 1.0
        scores = attention_map(module, inputs).scores_BRC[0]
        assert scores.shape == (6, 4)
        assert scores.argmax() == row * 4 + column


def test_heads_and_queries() -> None:
    module = build_model()
    inputs = pixels(module)
    whole = attention_matrices(module, inputs)
    assert whole.shape == (2, 2, 17, 17)
    for name, rows in (("mean", whole.mean(1)), ("max", whole.amax(1)), ("min", whole.amin(1)), (1, whole[:, 1])):
        maps = attention_map(module, inputs, heads=name)
        torch.testing.assert_close(maps.scores_BRC.flatten(1), rows[:, 0, 1:])
    patch = attention_map(module, inputs, query=(2, 3)).scores_BRC.flatten(1)
    torch.testing.assert_close(patch, whole.mean(1)[:, 1 + 2 * 4 + 3, 1:])
    for number, maps in enumerate(head_maps(module, inputs)):
        torch.testing.assert_close(maps.scores_BRC.flatten(1), whole[:, number, 0, 1:])


@pytest.mark.parametrize(
    ("options", "from_zero", "words"),
    [
        ({"layer": -1}, {"layer": 2}, "layer 2 (the last)"),
        ({"layer": -3}, {"layer": 0}, "layer 0 of 0 to 2"),
        ({"heads": -1}, {"heads": 1}, "head 1"),
        ({"query": (-1, -4)}, {"query": (3, 0)}, "attention of patch (3, 0) to"),
    ],
)
def test_numbers_of_a_figure_pasted_back_give_its_map(options, from_zero, words: str) -> None:
    module = build_model()
    method, inputs = Method(**options), pixels(module)
    assert words in method.describe(module) == Method(**from_zero).describe(module)
    (name,) = options
    digits = tuple(map(int, re.findall(r"\d+", words.partition(" of 0")[0])))
    pasted = {name: digits if name == "query" else digits[0]}
    expected = method.maps(module, inputs, torch.tensor([0, 0])).scores_BRC
    assert torch.equal(Method(**pasted).maps(module, inputs, torch.tensor([0, 0])).scores_BRC, expected)
    assert pasted == from_zero


def test_normalised_over_keys_not_over_queries() -> None:
    whole = attention_matrices(build_model(), pixels(build_model()))
    torch.testing.assert_close(whole.sum(-1), torch.ones(2, 2, 17))
    assert (whole.sum(-2) - 1).abs().max() > 0.05


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heads": 2}, "no head 2"),
        ({"heads": "median"}, "no head median"),
        ({"query": (4, 0)}, "rows 0 to 3 and columns 0 to 3"),
        ({"query": "pool"}, "no attention pool"),
        ({"query": "sky"}, "expected auto, class, distillation, pool or ROW,COLUMN"),
        ({"query": "distillation"}, r"no distillation token: its head reads \[class\]"),
        ({"layer": 3}, "no layer 3"),
    ],
)
def test_attention_map_says_what_there_is(options: dict[str, object], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        attention_map(build_model(), pixels(build_model()), **options)


def test_without_a_class_token_other_ways_are_offered() -> None:
    with pytest.raises(ModelError, match=r"no class token.*reads the mean of the patches.*\n.*--query auto"):
        attention_map(build_model("mean"), pixels(build_model("mean")), query="class")


def test_another_number_of_tokens_is_refused() -> None:
    with pytest.raises(ModelError, match="attends to 12 tokens"):
        split_prefix(torch.ones(1, 12), TokenLayout(4, 4, 1, True, False, 3))


def slow_occlusion(probability, picture, target, rows, columns, window, step):
    """Cover by cover, patch by patch."""
    intact = float(probability(picture[None])[0, target])
    losses: dict[tuple[int, int], list[float]] = {(r, c): [] for r in range(rows) for c in range(columns)}
    for top in range(step - window, rows, step):
        for left in range(step - window, columns, step):
            patches = [(r, c) for r in range(top, top + window) for c in range(left, left + window) if (r, c) in losses]
            covered_CHW = picture.clone()
            for r, c in patches:
                covered_CHW[:, r * 8 : r * 8 + 8, c * 8 : c * 8 + 8] = 0
            value = intact - float(probability(covered_CHW[None])[0, target])
            for place in patches:
                losses[place].append(value)
    return torch.tensor([[sum(losses[r, c]) / len(losses[r, c]) for c in range(columns)] for r in range(rows)])


@pytest.mark.parametrize("window", [1, 2, 3])
def test_occlusion_equals_a_loop_over_covers(window: int) -> None:
    module = build_model("not square")

    def probability(x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return module(x).softmax(-1)

    inputs = pixels(module)
    maps = occlusion(probability, inputs, torch.tensor([1, 3]), (6, 4), window=window, batch_size=5)
    for picture, target in ((0, 1), (1, 3)):
        slow = slow_occlusion(probability, inputs[picture], target, 6, 4, window, max(1, window // 2))
        torch.testing.assert_close(maps.scores_BRC[picture], slow, rtol=1e-4, atol=1e-6)
    assert maps.unit == "drop"


@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(1, 5),
    columns=st.integers(1, 5),
    registers=st.integers(0, 3),
    heads=st.sampled_from([1, 2]),
    class_token=st.booleans(),
)
def test_any_grid_and_prefix_gives_maps_that_sum_to_one(
    rows: int, columns: int, registers: int, heads: int, class_token: bool
) -> None:
    module = timm.create_model(
        "vit_tiny_patch16_224", img_size=(4 * rows, 4 * columns), patch_size=4, depth=2, embed_dim=16, num_heads=heads,
        reg_tokens=registers, class_token=class_token, global_pool="token" if class_token else "avg", num_classes=2,
    ).eval()  # fmt: skip
    inputs = pixels(module)
    for each in (rollout(module, inputs), attention_map(module, inputs)):
        assert each.scores_BRC.shape == (2, rows, columns)
        share = each.prefix_share_B if each.prefix_share_B is not None else torch.zeros(2)
        torch.testing.assert_close(each.scores_BRC.sum((1, 2)) + share, torch.ones(2))
        assert each.scores_BRC.min() >= 0
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in module.modules())
