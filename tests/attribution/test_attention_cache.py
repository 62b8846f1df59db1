"""All attention of one forward pass, held: every view is the one that is computed beside the model."""

from __future__ import annotations

from itertools import product

import pytest
import timm
import torch

from vitrine.attribution.attention import attention_map, attention_matrices
from vitrine.attribution.attention_cache import cache_attention
from vitrine.attribution.rollout import rollout
from vitrine.errors import ModelError

SMALL = {"depth": 3, "embed_dim": 32, "num_heads": 2, "num_classes": 5}
PLAIN = SMALL | {"img_size": 32, "patch_size": 8}
KINDS = {
    "class token": ("vit_tiny_patch16_224", PLAIN),
    "mean of patches": ("vit_tiny_patch16_224", PLAIN | {"global_pool": "avg", "class_token": False}),
    "attention pool": ("vit_tiny_patch16_224", PLAIN | {"global_pool": "map", "class_token": False}),
    "registers": ("vit_tiny_patch16_224", PLAIN | {"reg_tokens": 4, "no_embed_class": True}),
    "relative bias": ("beit_base_patch16_224", PLAIN),
    "rotary": ("eva02_tiny_patch14_224", SMALL | {"img_size": 28, "patch_size": 7}),
    "not square": ("vit_tiny_patch16_224", SMALL | {"img_size": (48, 32), "patch_size": 8}),
}


def build_model(kind: str, fused: bool = True) -> torch.nn.Module:
    torch.manual_seed(0)
    name, args = KINDS[kind]
    module = timm.create_model(name, **args).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim == 2:
                parameter.mul_(4)
    for block in module.blocks:
        block.attn.fused_attn = fused
    return module


def pixels(module: torch.nn.Module) -> torch.Tensor:
    return torch.randn(1, 3, *module.patch_embed.img_size, generator=torch.Generator().manual_seed(1))


def same(cached: object, fresh: object) -> None:
    torch.testing.assert_close(cached.scores_BRC, fresh.scores_BRC, rtol=2e-5, atol=1e-7)  # type: ignore[attr-defined]
    shares = cached.prefix_share_B, fresh.prefix_share_B  # type: ignore[attr-defined]
    assert (shares[0] is None) == (shares[1] is None)
    if shares[0] is not None:
        torch.testing.assert_close(*shares, rtol=2e-5, atol=1e-7)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_every_view(kind: str, fused: bool) -> None:
    module = build_model(kind, fused)
    inputs = pixels(module)
    logits_BC, cache = cache_attention(module, inputs)
    with torch.inference_mode():
        assert torch.equal(logits_BC, module(inputs))
    for layer, heads, query in product((0, 1, -1), ("mean", "max", "min", 0, 1), ("auto", (1, 2))):
        fresh = attention_map(module, inputs, layer=layer, heads=heads, query=query)
        same(cache.map(layer, heads, query), fresh)
    same(cache.rollout, rollout(module, inputs))
    for layer in range(3):
        whole_HNN = attention_matrices(module, inputs, layer=layer)[0]
        torch.testing.assert_close(cache.matrix(layer), whole_HNN.mean(0), rtol=2e-5, atol=1e-7)
        torch.testing.assert_close(cache.matrix(layer, 1), whole_HNN[1], rtol=2e-5, atol=1e-7)
        assert cache.heads(layer) == 2


def test_it_is_small_and_holds_nothing_else_of_the_pass() -> None:
    module = build_model("class token")
    _, cache = cache_attention(module, pixels(module))
    # Queries and keys: 3 layers x 2 x 17 tokens x 32 channels x 4 bytes.
    assert cache.nbytes == 3 * 2 * 17 * 32 * 4
    assert all(call.v_BHKD is None and call.carrier.untyped_storage().nbytes() == 4 for call in cache.calls.values())


def test_it_refuses_what_the_model_does_not_have() -> None:
    module = build_model("class token")
    _, cache = cache_attention(module, pixels(module))
    for wrong in ({"layer": 3}, {"heads": 2}, {"query": (4, 0)}, {"query": "pool"}):
        with pytest.raises(ModelError, match=r"no layer 3|no head 2|no patch|no attention pool"):
            cache.map(**wrong)
