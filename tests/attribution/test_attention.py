"""Attention read from a running model: exact, without a trace, for every kind of vision transformer."""

from __future__ import annotations

import math

import pytest
import timm
import torch

from vitrine.attribution.attention import POOL, record_attention, watch_attention
from vitrine.attribution.maps import token_layout
from vitrine.errors import ModelError

SMALL = {"depth": 3, "embed_dim": 32, "num_heads": 2, "num_classes": 5}
PLAIN = SMALL | {"img_size": 32, "patch_size": 8}
KINDS = {
    "class token": ("vit_tiny_patch16_224", PLAIN),
    "mean of patches": ("vit_tiny_patch16_224", PLAIN | {"global_pool": "avg", "class_token": False}),
    "mean, with class token": ("vit_tiny_patch16_224", PLAIN | {"global_pool": "avg"}),
    "attention pool": ("vit_tiny_patch16_224", PLAIN | {"global_pool": "map", "class_token": False}),
    "distilled": ("deit_tiny_distilled_patch16_224", PLAIN),
    "registers": ("vit_tiny_patch16_224", PLAIN | {"reg_tokens": 4, "no_embed_class": True}),
    "norm of queries": ("vit_tiny_patch16_224", PLAIN | {"qk_norm": True}),
    "rotary": ("eva02_tiny_patch14_224", SMALL | {"img_size": 28, "patch_size": 7}),
    "rotary, registers, mean": ("vit_small_patch16_rope_ape_224", SMALL | {"img_size": 32, "patch_size": 8}),
    "relative bias": ("beit_base_patch16_224", PLAIN),
    "relative positions": ("vit_relpos_small_patch16_224", PLAIN),
    "not square": ("vit_tiny_patch16_224", SMALL | {"img_size": (48, 32), "patch_size": 8}),
}


def build_model(kind: str) -> torch.nn.Module:
    torch.manual_seed(0)
    name, args = KINDS[kind]
    module = timm.create_model(name, **args).eval()
    with torch.no_grad():
        for parameter in module.parameters():  # a fresh model attends almost evenly: make it choose
            if parameter.ndim == 2:
                parameter.mul_(6)
    return module


def pixels(module: torch.nn.Module, count: int = 2) -> torch.Tensor:
    return torch.randn(count, 3, *module.patch_embed.img_size, generator=torch.Generator().manual_seed(1))


def explicit(module: torch.nn.Module, layer: int, inputs: torch.Tensor) -> torch.Tensor:
    """The same layer's attention from the model's own unfused branch."""
    matrices: list[torch.Tensor] = []
    attention = module.blocks[layer].attn
    dropout = attention.attn_drop
    hook = dropout.register_forward_hook(lambda _, args, __: matrices.append(args[0].detach()))
    fused_switches = [block.attn.fused_attn for block in module.blocks]
    for block in module.blocks:
        block.attn.fused_attn = False
    try:
        with torch.no_grad():
            module(inputs)
    finally:
        hook.remove()
        for block, was in zip(module.blocks, fused_switches, strict=True):
            block.attn.fused_attn = was
    return matrices[0]


@pytest.mark.parametrize("kind", KINDS)
def test_every_layer_equals_the_models_own_explicit_softmax(kind: str) -> None:
    module = build_model(kind)
    inputs = pixels(module)
    layout = token_layout(module)
    with torch.no_grad(), record_attention(module, "all", "all") as record:
        module(inputs)
    for layer in range(layout.blocks):
        attention = record.attention(layer)
        assert attention.shape == (2, 2, layout.tokens, layout.tokens)
        # The explicit model's inputs of later layers differ by rounding, hence the absolute part.
        torch.testing.assert_close(attention, explicit(module, layer, inputs), rtol=2e-5, atol=2e-7)
        assert attention.std() > 0.1 / layout.tokens  # the comparison would mean little for even attention


def test_one_row_is_within_1e_6_of_the_softmax_of_the_same_queries_and_keys() -> None:
    module = build_model("class token")
    rows = []
    inputs = pixels(module)
    with torch.no_grad(), watch_attention(module, rows.append):
        module(inputs)
    for call in rows:
        exact = call.q_BHQD.double() @ call.k_BHKD.double().transpose(-2, -1) / math.sqrt(call.q_BHQD.shape[-1])
        row = call.rows([0])
        torch.testing.assert_close(row.double(), exact.softmax(-1)[:, :, :1], rtol=1e-6, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_capture_changes_no_bit_and_leaves_nothing(kind: str) -> None:
    module = build_model(kind)
    inputs = pixels(module)
    hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in module.modules()]
    with torch.no_grad():
        before = module(inputs)
        with record_attention(module, "all", "all"):
            during = module(inputs)
        after = module(inputs)
    assert torch.equal(before, during)
    assert torch.equal(before, after)
    assert [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in module.modules()] == hooks
    assert torch.overrides._get_current_function_mode() is None


def test_an_error_inside_leaves_nothing() -> None:
    module = build_model("class token")
    with pytest.raises(ZeroDivisionError), record_attention(module):
        module(pixels(module))
        raise ZeroDivisionError
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in module.modules())
    assert torch.overrides._get_current_function_mode() is None


def test_an_error_of_the_model_leaves_nothing() -> None:
    module = build_model("class token")
    with pytest.raises(AssertionError), record_attention(module):
        module(torch.zeros(1, 3, 8, 8))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in module.modules())


def test_heads_queries_and_layers_are_those_asked_for() -> None:
    module = build_model("registers")
    inputs = pixels(module)
    with torch.no_grad(), record_attention(module, "all", "all") as whole:
        module(inputs)
    with torch.no_grad(), record_attention(module, (-2, 0), [5, 9], heads=[1]) as some:
        module(inputs)
    for layer in (1, 0):
        torch.testing.assert_close(some.attention(layer), whole.attention(layer)[:, [1]][:, :, [5, 9]])
    assert some.layers == (1, 0)
    with pytest.raises(ModelError, match="No attention of layer 2"):
        some.attention(2)


def test_the_attention_pool_has_its_own_rows() -> None:
    module = build_model("attention pool")
    with torch.no_grad(), record_attention(module, queries="pool") as record:
        module(pixels(module))
    attention = record.attention()
    assert attention.shape == (2, module.attn_pool.num_heads, 1, 16)
    torch.testing.assert_close(attention.sum(-1), torch.ones(attention.shape[:3]))
    assert record.layers == (POOL,)


def test_other_input_sizes() -> None:
    module = timm.create_model("vit_tiny_patch16_224", **PLAIN, dynamic_img_size=True).eval()
    with torch.no_grad(), record_attention(module, queries="all") as record:
        module(torch.randn(1, 3, 48, 24))
    layout = token_layout(module, 48, 24)
    assert (layout.rows, layout.columns, layout.tokens) == (6, 3, 19)
    assert record.attention().shape == (1, 2, 19, 19)


def test_half_precision_gives_rows_that_sum_to_one_in_float32() -> None:
    module = build_model("class token")
    inputs = pixels(module)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16), record_attention(module) as record:
        module(inputs)
    with torch.no_grad(), record_attention(module) as exact:
        module(inputs)
    row = record.attention()
    assert row.dtype == torch.float32
    torch.testing.assert_close(row.sum(-1), torch.ones(2, 2, 1))
    torch.testing.assert_close(row, exact.attention(), rtol=0.25, atol=0.02)


def test_a_boolean_mask_and_shared_keys_are_respected() -> None:
    class Grouped(torch.nn.Module):
        fused_attn = True

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            q = x.view(1, 4, 4, 8).transpose(1, 2)
            k = x[..., :16].view(1, 4, 2, 8).transpose(1, 2)
            out = torch.nn.functional.scaled_dot_product_attention(q, k, k, is_causal=True, enable_gqa=True)
            return out.transpose(1, 2).reshape(1, 4, 32)

    class Block(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attn = Grouped()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.attn(x)

    model = torch.nn.Module()
    model.blocks = torch.nn.ModuleList([Block()])
    x = torch.randn(1, 4, 32)
    with record_attention(model, queries="all") as record:
        model.blocks[0](x)
    q = x.view(1, 4, 4, 8).transpose(1, 2)
    k = x[..., :16].view(1, 4, 2, 8).transpose(1, 2).repeat_interleave(2, 1)
    scores = q @ k.transpose(-2, -1) / math.sqrt(8)
    scores = scores.masked_fill(torch.ones(4, 4).triu(1).bool(), -math.inf)
    torch.testing.assert_close(record.attention(), scores.softmax(-1))


@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "resnet18", "xcit_nano_12_p16_224", "cait_xxs24_224"])
def test_models_without_global_patch_attention_are_refused_by_name(name: str) -> None:
    module = timm.create_model(name).eval()
    with pytest.raises(ModelError, match=type(module).__name__):
        token_layout(module)
        with record_attention(module, queries=[0]):
            module(torch.zeros(1, 3, 224, 224))


def test_two_softmaxes_are_refused() -> None:
    module = timm.create_model("vit_tiny_patch16_224", **PLAIN, attn_layer="diff").eval()
    with pytest.raises(ModelError, match="2 softmaxes"), torch.no_grad(), record_attention(module):
        module(pixels(module))


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"layers": (3,)}, "no layer 3"),
        ({"layers": (-4,)}, "no layer -4"),
        ({"heads": [2]}, "no head 2"),
        ({"queries": [17]}, "no token 17"),
        ({"queries": "pool"}, "no attention pool"),
    ],
)
def test_what_the_model_does_not_have_is_said(request_: dict[str, object], message: str) -> None:
    module = build_model("class token")
    with pytest.raises(ModelError, match=message), torch.no_grad(), record_attention(module, **request_):
        module(pixels(module))


def test_no_class_token_is_said() -> None:
    with pytest.raises(ModelError, match="no class token"), record_attention(build_model("mean of patches")):
        pass


def test_without_a_forward_pass_nothing_was_recorded() -> None:
    with record_attention(build_model("class token")) as record:
        pass
    with pytest.raises(ModelError, match="inside the with block"):
        record.attention()


def test_a_model_without_blocks_is_refused_by_its_name() -> None:
    module = timm.create_model("resnet18", num_classes=2)
    for layers in ("all", (-1,)):
        with (
            pytest.raises(ModelError, match=r"This ResNet has no blocks of a transformer.*\n.*vit_tiny"),
            record_attention(module, layers),  # type: ignore[arg-type]
        ):
            pass
