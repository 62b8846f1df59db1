"""What a head reads, for every pooling that timm and the formats know: said, and held against noise in tokens."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import timm
import torch
from support.readouts import require_true_readout
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from vitrine.attribution.attention import attention_map, attention_matrices, head_maps
from vitrine.attribution.attention_cache import cache_attention
from vitrine.attribution.maps import token_layout
from vitrine.attribution.methods import Method
from vitrine.attribution.readout import describe_readout, watch_head_tokens
from vitrine.attribution.relevance import relevance
from vitrine.attribution.rollout import rollout
from vitrine.errors import ModelError
from vitrine.models.checkpoints.heads import attach_head

SMALL = {"depth": 2, "embed_dim": 32, "num_heads": 2, "num_classes": 5, "img_size": 32, "patch_size": 8}
VIT, EVA, BEIT, RELPOS = (
    "vit_tiny_patch16_224",
    "eva02_tiny_patch14_224",
    "beit_base_patch16_224",
    "vit_relpos_small_patch16_224",
)
DISTILLED = "deit_tiny_distilled_patch16_224"
WITHOUT = {"class_token": False}
PATCHES, ALL, LARGEST = "the mean of the patches", "the mean of all tokens", "the maximum over the patches"
POOL = "the attention pool"

KINDS = {  # name, arguments, what it reads in words, which prefix tokens are read
    "token": (VIT, {}, "[class]", [True]),
    "token, registers": (VIT, {"reg_tokens": 3}, "[class]", [True, False, False, False]),
    "token, norm after it": (VIT, {"fc_norm": True}, "[class]", [True]),
    "mean": (VIT, {"global_pool": "avg"}, PATCHES, [False]),
    "mean, no class token": (VIT, {"global_pool": "avg"} | WITHOUT, PATCHES, []),
    "mean, registers": (VIT, {"global_pool": "avg", "reg_tokens": 2}, PATCHES, [False] * 3),
    "mean, norm before it": (VIT, {"global_pool": "avg", "fc_norm": False}, PATCHES, [False]),
    "mean with prefix": (VIT, {"global_pool": "avg", "pool_include_prefix": True, "reg_tokens": 1}, ALL, [True] * 2),
    "max": (VIT, {"global_pool": "max"}, LARGEST, [False]),
    "max, no class token": (VIT, {"global_pool": "max"} | WITHOUT, LARGEST, []),
    "mean and max": (VIT, {"global_pool": "avgmax"}, f"{PATCHES} (0.50) and {LARGEST} (0.50)", [False]),
    "pool": (VIT, {"global_pool": "map"} | WITHOUT, POOL, []),
    "pool, class token": (VIT, {"global_pool": "map"}, POOL, [False]),
    "pool, registers": (VIT, {"global_pool": "map", "reg_tokens": 2} | WITHOUT, POOL, [False] * 2),
    "pool with prefix": (VIT, {"global_pool": "map", "pool_include_prefix": True}, POOL, [True]),
    "refined token": (VIT, {"global_pool": "prr"}, POOL, [True]),
    "refined mean": (VIT, {"global_pool": "prr", "reg_tokens": 1} | WITHOUT, POOL, [True]),
    "distilled": (DISTILLED, {}, "[class] (0.47) and [distillation] (0.53)", [True, True]),
    "beit, mean": (BEIT, {}, PATCHES, [False]),
    "beit, token": (BEIT, {"global_pool": "token"}, "[class]", [True]),
    "eva, mean": (EVA, {}, PATCHES, [False]),
    "eva, token": (EVA, {"global_pool": "token"}, "[class]", [True]),
    "eva, max": (EVA, {"global_pool": "max"}, LARGEST, [False]),
    "eva, mean and max": (EVA, {"global_pool": "avgmax"}, f"{PATCHES} (0.50) and {LARGEST} (0.50)", [False]),
    "eva, pool": (EVA, {"global_pool": "map"}, POOL, [True]),
    "eva, registers": (EVA, {"num_reg_tokens": 2}, PATCHES, [False] * 3),
    "relative positions, mean": (RELPOS, {}, PATCHES, []),
    "relative positions, unread class token": (RELPOS, {"class_token": True}, PATCHES, [False]),
    "relative positions, token": (RELPOS, {"class_token": True, "global_pool": "token"}, "[class]", [True]),
}  # fmt: skip


def seeded(module: nn.Module) -> nn.Module:
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():  # a fresh model attends almost evenly: make it choose
            if parameter.ndim == 2:
                parameter.normal_(std=0.3)
    return module.eval()


def build_model(kind: str) -> nn.Module:
    name, args, *_ = KINDS[kind]
    torch.manual_seed(0)
    return seeded(timm.create_model(name, **SMALL | args))


def beside_mean(registers: int = 0) -> nn.Module:
    """DINOv2 as transformers trains it: class token beside the mean of the patches."""
    torch.manual_seed(0)
    module = timm.create_model(VIT, **SMALL | {"num_classes": 0, "reg_tokens": registers})
    attach_head(module, "class and mean", {"head.weight": torch.randn(5, 64), "head.bias": torch.zeros(5)})
    return seeded(module)


def pixels(module: nn.Module, count: int = 2) -> torch.Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", KINDS)
def test_noise_changes_the_logits_where_a_token_is_said_to_be_read_and_nowhere_else(kind: str) -> None:
    module = build_model(kind)
    readout = require_true_readout(module, pixels(module))
    _, _, words, prefix = KINDS[kind]
    assert readout.words.startswith(words)
    assert [readout.reads(token) for token in range(token_layout(module).prefix)] == prefix
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in module.modules())


@pytest.mark.parametrize("registers", [0, 4])
def test_a_class_token_beside_the_mean_of_the_patches(registers: int) -> None:
    module = beside_mean(registers)
    readout = require_true_readout(module, pixels(module))
    assert readout.names == "[class] and the mean of the patches"
    assert [readout.reads(token) for token in range(1 + registers)] == [True] + [False] * registers


def zeroed(module: nn.Module, rows: Callable[[nn.Module], torch.Tensor], times: float = 0.0) -> nn.Module:
    with torch.no_grad():
        rows(module).mul_(times)
    return module


HALVES = {
    "distillation alone": (lambda: build_model("distilled"), lambda m: m.head.weight, "[distillation]", 1),
    "class token alone": (lambda: build_model("distilled"), lambda m: m.head_dist.weight, "[class]", 0),
    "class token, not the mean": (beside_mean, lambda m: m.head.weight[:, 32:], "[class]", 0),
    "mean, not the class token": (beside_mean, lambda m: m.head.weight[:, :32], PATCHES, None),
}


@pytest.mark.parametrize("kind", HALVES)
def test_a_head_of_zeros_reads_nothing(kind: str) -> None:
    """Logits depend on one of two parts alone: every map is that part's, whether or not there is a class token."""
    make, rows, words, token = HALVES[kind]
    module = zeroed(make(), rows)
    readout = require_true_readout(module, pixels(module))
    assert (readout.words, readout.token) == (words, token)
    inputs, targets = pixels(module), torch.tensor([1, 3])
    matrices = attention_matrices(module, inputs).mean(1)
    layout = token_layout(module)
    rows_B = matrices[:, layout.prefix :].mean(1) if token is None else matrices[:, token]
    torch.testing.assert_close(attention_map(module, inputs).scores_BRC.flatten(1), rows_B[:, layout.prefix :])
    slow = slow_relevance(module, inputs, targets)
    row = slow[:, layout.prefix :].mean(1) if token is None else slow[:, token]
    maps = relevance(module, inputs, targets)
    torch.testing.assert_close(maps.scores_BRC.flatten(1), row[:, layout.prefix :], rtol=2e-3, atol=1e-6)
    other = slow[:, 1 if token == 0 and layout.has_distillation else 0]
    if token != 0:
        assert (row.sum(1) > 2 * other.sum(1)).all(), "the row that is not read has hardly any relevance"


def slow_relevance(module: nn.Module, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """R - I of every picture, by arXiv:2103.15679 from the unfused branch and plain autograd."""
    module = copy.deepcopy(module)
    matrices: list[torch.Tensor] = []
    for block in module.blocks:
        block.attn.fused_attn = False
        block.attn.attn_drop.register_forward_hook(lambda _, args, __: matrices.append(args[0]))
    logits = module(inputs)
    gradients = torch.autograd.grad(logits.gather(1, targets[:, None]).sum(), matrices)
    eye = torch.eye(matrices[0].shape[-1])
    relevance_BNM = eye.expand(len(inputs), -1, -1)
    for attention, gradient in zip(matrices, gradients, strict=True):
        relevance_BNM = relevance_BNM + (attention * gradient).clamp(min=0).mean(1) @ relevance_BNM
    return (relevance_BNM - eye).detach()


def test_heads_that_weigh_little_are_read_little() -> None:
    """From no weight to an even one, nothing jumps: the class token's share is that of its head's absolute weights."""
    module = build_model("distilled")
    shares = []
    for times in (0.0, 0.01, 0.1, 1.0):
        faded = zeroed(copy.deepcopy(module), lambda m: m.head.weight, times)
        readout = describe_readout(faded, token_layout(faded))
        own, other = (float(getattr(faded, name).weight.detach().abs().sum()) for name in ("head", "head_dist"))
        shares.append(sum(part.share for part in readout.parts if 0 in part.tokens))
        assert shares[-1] == pytest.approx(own / (own + other))
    assert shares[0] == 0 < shares[1] < 0.02 < shares[2] < 0.2 < shares[3] < 0.6


@pytest.mark.parametrize(
    "kind", ["token", "mean, norm before it", "distilled", "class beside mean", "mean with prefix"]
)
def test_weights_are_the_absolute_gradient_of_all_logits(kind: str) -> None:
    """Where pooling and head are linear, a token's weight is the sum of |d logit / d token| over all logits."""
    module = beside_mean(2) if kind == "class beside mean" else build_model(kind)
    if kind == "mean with prefix":
        module.norm, module.fc_norm = nn.LayerNorm(32), nn.Identity()
    layout = token_layout(module)
    tokens = torch.randn(1, layout.tokens, 32)
    jacobian = torch.autograd.functional.jacobian(module.forward_head, tokens)  # (1, classes, 1, tokens, channels)
    expected_N = jacobian.abs().sum((0, 1, 2, 4))
    weights_N = describe_readout(module, layout).weights(layout.tokens)[0]
    torch.testing.assert_close(weights_N, expected_N / expected_N.sum(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", ["max", "mean and max"])
def test_a_patch_weighs_in_a_maximum_by_the_channels_in_which_it_is_the_largest(kind: str) -> None:
    module = build_model(kind)
    inputs, layout = pixels(module), token_layout(module)
    with torch.no_grad(), watch_head_tokens(module) as seen:
        module(inputs)
    whole = attention_matrices(module, inputs).mean(1)
    for picture, tokens_ND in enumerate(seen[0]):
        weights = [0.0] * layout.tokens
        for channel in range(32):
            column = [float(value) for value in tokens_ND[:, channel]]
            best = max(range(layout.prefix, layout.tokens), key=lambda token: column[token])
            weights[best] += 1 / 32
        if kind == "mean and max":
            weights = [
                w / 2 + (0.5 / layout.patches if token >= layout.prefix else 0) for token, w in enumerate(weights)
            ]
        row = sum(weight * whole[picture, token] for token, weight in enumerate(weights))
        scores = attention_map(module, inputs).scores_BRC[picture].flatten()
        torch.testing.assert_close(scores, row[layout.prefix :], rtol=1e-4, atol=1e-6)


MAPPED = [kind for kind in KINDS if "pool" not in kind and "refined" not in kind]


@pytest.mark.parametrize("kind", MAPPED)
def test_attention_and_rollout_begin_with_what_the_head_reads(kind: str) -> None:
    module = build_model(kind)
    inputs, layout = pixels(module), token_layout(module)
    with torch.no_grad(), watch_head_tokens(module) as seen:
        module(inputs)
    readout = describe_readout(module, layout)
    weights_BN = readout.weights(layout.tokens, seen[0]).expand(2, -1)
    matrices = [attention_matrices(module, inputs, layer=layer) for layer in range(2)]
    for maps, rows_BHK in zip(
        head_maps(module, inputs), torch.einsum("bn,bhnk->hbk", weights_BN, matrices[1]), strict=True
    ):
        torch.testing.assert_close(maps.scores_BRC.flatten(1), rows_BHK[:, layout.prefix :], rtol=1e-4, atol=1e-6)
    product = torch.eye(layout.tokens).expand(2, -1, -1)
    for matrix in matrices:
        product = (0.5 * matrix.mean(1) + 0.5 * torch.eye(layout.tokens)) @ product
    expected = torch.einsum("bn,bnk->bk", weights_BN, product)[:, layout.prefix :]
    torch.testing.assert_close(rollout(module, inputs).scores_BRC.flatten(1), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", ["mean", "mean, registers", "beit, mean", "eva, mean", "mean, norm before it"])
def test_a_class_token_that_nobody_reads_has_no_say(kind: str) -> None:
    """Whatever the class token attends to in the last layer, the maps of such a model stay the same."""
    module = build_model(kind)
    inputs, layout = pixels(module), token_layout(module)
    patches_BK = attention_matrices(module, inputs).mean(1)[:, layout.prefix :].mean(1)
    maps = attention_map(module, inputs)
    torch.testing.assert_close(maps.scores_BRC.flatten(1), patches_BK[:, layout.prefix :], rtol=1e-4, atol=1e-6)
    unread = attention_map(module, inputs, query="class").scores_BRC
    assert not torch.allclose(maps.scores_BRC, unread, rtol=0.05)
    method = Method(query="class")
    assert method.notes(module) == ("This model's head does not read [class]: it reads the mean of the patches.",)
    assert Method().notes(module) == ()


def slow_pool(module: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    """The weights (B, H, Q, K) of an attention pool, or of a refinement, as timm's own unfused branch has them."""
    matrices: list[torch.Tensor] = []
    module = copy.deepcopy(module)
    module.attn_pool.fused_attn = False
    original = torch.Tensor.softmax

    class Watch(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            result = func(*args, **(kwargs or {}))
            if func is original:
                matrices.append(result)
            return result

    with torch.no_grad(), Watch():
        module(inputs)
    return matrices[-1]


POOLS = [kind for kind in KINDS if "pool" in kind or "refined" in kind]


@pytest.mark.parametrize("kind", POOLS)
def test_an_attention_pools_own_weights(kind: str) -> None:
    module = build_model(kind)
    inputs, layout = pixels(module), token_layout(module)
    pool_BHQK = slow_pool(module, inputs)
    row_BK = pool_BHQK.mean(1).mean(1) if kind == "refined mean" else pool_BHQK.mean(1)[:, 0]
    maps = attention_map(module, inputs)
    torch.testing.assert_close(maps.scores_BRC.flatten(1), row_BK[:, -layout.patches :], rtol=1e-4, atol=1e-6)
    share = maps.prefix_share_B if maps.prefix_share_B is not None else torch.zeros(2)
    torch.testing.assert_close(maps.scores_BRC.sum((1, 2)) + share, torch.ones(2))
    row_BN = torch.zeros(2, layout.tokens)
    row_BN[:, layout.tokens - row_BK.shape[1] :] = row_BK
    product = torch.eye(layout.tokens).expand(2, -1, -1)
    for layer in range(2):
        mean = attention_matrices(module, inputs, layer=layer).mean(1)
        product = (0.5 * mean + 0.5 * torch.eye(layout.tokens)) @ product
    expected = torch.einsum("bn,bnk->bk", row_BN, product)[:, layout.prefix :]
    torch.testing.assert_close(rollout(module, inputs).scores_BRC.flatten(1), expected, rtol=1e-4, atol=1e-6)
    assert relevance(module, inputs, torch.tensor([0, 2])).scores_BRC.sum() > 0
    earlier = attention_matrices(module, inputs, layer=0).mean(1)  # another layer than the last is not the pool again
    expected = torch.einsum("bn,bnk->bk", row_BN, earlier)[:, layout.prefix :]
    first = attention_map(module, inputs, layer=0)
    torch.testing.assert_close(first.scores_BRC.flatten(1), expected, rtol=1e-4, atol=1e-6)
    assert "by the attention pool's weights, to the patches, layer 0 of 0 to 1" in Method(layer=0).describe(module)
    same = attention_map(module, inputs, layer=0, query="pool").scores_BRC
    torch.testing.assert_close(same, maps.scores_BRC)


@pytest.mark.parametrize("kind", ["distilled", "class beside mean", "max", "mean and max"])
def test_relevance_of_several_parts_counts_each_by_the_classs_own_weights(kind: str) -> None:
    module = beside_mean() if kind == "class beside mean" else build_model(kind)
    inputs, targets, layout = pixels(module), torch.tensor([1, 4]), token_layout(module)
    slow_BNM = slow_relevance(module, inputs, targets)
    with watch_head_tokens(module) as seen:
        logits = module(inputs)
    gradient_BND = torch.autograd.grad(logits.gather(1, targets[:, None]).sum(), seen[0])[0]
    strength_BN = gradient_BND.abs().sum(-1)
    if kind == "distilled":  # by hand: the rows of the two heads
        by_hand = torch.stack(
            [module.head.weight[targets].abs().sum(1), module.head_dist.weight[targets].abs().sum(1)], 1
        )
        strength_BN = torch.zeros_like(strength_BN)
        strength_BN[:, :2] = by_hand.detach()
    weights_BN = strength_BN / strength_BN.sum(1, keepdim=True)
    expected = torch.einsum("bn,bnk->bk", weights_BN, slow_BNM)[:, layout.prefix :]
    scores = relevance(module, inputs, targets).scores_BRC.flatten(1)
    torch.testing.assert_close(scores, expected, rtol=2e-3, atol=1e-6)


@pytest.mark.parametrize("kind", [*KINDS, "class beside mean"])
def test_cached_attention_gives_the_same_maps(kind: str) -> None:
    module = beside_mean(2) if kind == "class beside mean" else build_model(kind)
    inputs = pixels(module, 1)
    _, cache = cache_attention(module, inputs)
    for layer in (0, -1):
        fresh = attention_map(module, inputs, layer=layer)
        torch.testing.assert_close(cache.map(layer).scores_BRC, fresh.scores_BRC, rtol=2e-5, atol=1e-7)
    torch.testing.assert_close(cache.rollout.scores_BRC, rollout(module, inputs).scores_BRC, rtol=2e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("token", "attention of [class] to the patches, layer 1 (the last), mean of 2 heads"),
        ("mean", "attention of the mean of the patches to the patches, layer 1 (the last), mean of 2 heads"),
        ("max", "attention of the maximum over the patches to the patches, layer 1 (the last), mean of 2 heads"),
        ("eva, pool", "weights of the attention pool, mean over heads"),
    ],
)
def test_words_on_figures_name_what_the_head_reads(kind: str, words: str) -> None:
    module = build_model(kind)
    assert Method().describe(module) == words
    readout = describe_readout(module, token_layout(module))
    assert Method("rollout").describe(module).endswith(f"from {readout.words}")
    assert readout.names in Method("relevance").describe(module)


def test_words_of_two_heads_have_their_shares() -> None:
    module = zeroed(build_model("distilled"), lambda m: m.head.weight, 0.5)
    assert "[class] (0.31) and [distillation] (0.69)" in Method().describe(module)
    assert (
        Method("relevance")
        .describe(module)
        .endswith("from [class] and [distillation], each by its weight in the class's logit")
    )
    distillation = attention_map(module, pixels(module), query="distillation").scores_BRC.flatten(1)
    whole = attention_matrices(module, pixels(module)).mean(1)
    torch.testing.assert_close(distillation, whole[:, 1, 2:])


class OwnPool(VisionTransformer):  # type: ignore[misc]
    """A head of somebody's own."""

    def pool(self, x: torch.Tensor, pool_type: str | None = None) -> torch.Tensor:
        return x[:, 1:].pow(3).mean(1).sign() * x[:, 1:].pow(3).mean(1).abs() ** (1 / 3)


class Rolled(VisionTransformer):  # type: ignore[misc]
    """Its settings say that the class token is read; what they call so is another token."""

    def forward_features(self, x: torch.Tensor, **how: object) -> torch.Tensor:
        return super().forward_features(x, **how).roll(1, dims=1)


ARGS = {key: value for key, value in SMALL.items() if key != "patch_size"} | {"patch_size": 8}


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: OwnPool(**ARGS), "its pool is none of timm's"),
        (lambda: Rolled(**ARGS), "noise in token 0 is said to be read, and changes nothing"),
        (lambda: timm.create_model(VIT, **SMALL, global_pool=""), "its global_pool is ''"),
    ],
)
def test_a_head_that_is_not_known_is_refused_by_name(make: Callable[[], nn.Module], reason: str) -> None:
    module = seeded(make())
    with pytest.raises(ModelError, match=reason) as error:
        rollout(module, pixels(module))
    assert len(str(error.value).splitlines()) == 2
    assert type(module).__name__ in str(error.value)
    for refused in (
        lambda: attention_map(module, pixels(module)),
        lambda: relevance(module, pixels(module), torch.tensor([0, 0])),
        lambda: Method("rollout").describe(module),
    ):
        with pytest.raises(ModelError, match="is not known"):
            refused()
    asked = attention_map(module, pixels(module), query=(1, 2)).scores_BRC  # a token of one's own choice is no guess
    assert asked.shape == (2, 4, 4)


def test_a_model_that_is_changed_after_it_was_described() -> None:
    """The check of the structure is remembered; weights and settings are read anew."""
    module = build_model("mean")
    layout = token_layout(module)
    assert describe_readout(module, layout).words == PATCHES
    module.global_pool = "token"
    assert describe_readout(module, layout).words == "[class]"
    require_true_readout(module, pixels(module))


def test_describing_changes_nothing() -> None:
    module = build_model("distilled")
    before = {name: value.clone() for name, value in module.state_dict().items()}
    parts = dict(module._modules)
    describe_readout(module, token_layout(module))
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert dict(module._modules) == parts and not any(
        m._forward_pre_hooks or m._forward_hooks for m in module.modules()
    )
