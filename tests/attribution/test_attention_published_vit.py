"""The class map and the position matrix beside the package pytorch_pretrained_vit, whose weights timm carries."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
import timm
import torch
from torch import nn

from vitrine.attribution.attention import attention_map
from vitrine.attribution.position_embeddings import cosine_similarity, position_embeddings

ppv = pytest.importorskip("pytorch_pretrained_vit", reason="pytorch_pretrained_vit is not installed")

# (size, patch, width, depth, heads): a small one, and ViT-Ti/16 as published.
SHAPES = {"small": (48, 8, 48, 4, 3), "Ti_16": (224, 16, 192, 12, 3)}


def seeded_tensor(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """A float32 array from its name: scaled so that activations stay finite and attention is uneven."""
    rng = np.random.default_rng(zlib.crc32(f"1:{name}".encode()))
    if len(shape) == 1:
        values = 0.1 * rng.standard_normal(shape, dtype=np.float32) + (1 if name.endswith("weight") else 0)
    elif "embedding" in name or name.endswith("class_token"):
        values = rng.standard_normal(shape, dtype=np.float32)
    else:
        gain = 2.0 if "proj_q" in name or "proj_k" in name else 1.4
        values = gain / np.sqrt(np.prod(shape[1:])) * rng.standard_normal(shape, dtype=np.float32)
    return torch.from_numpy(np.asarray(values, dtype=np.float32))


def published_model(shape: str) -> nn.Module:
    size, patch, width, depth, heads = SHAPES[shape]
    ppv.configs.PRETRAINED_MODELS[shape] = {
        "config": {
            "patches": (patch, patch),
            "dim": width,
            "ff_dim": 4 * width,
            "num_heads": heads,
            "num_layers": depth,
            "attention_dropout_rate": 0.0,
            "dropout_rate": 0.0,
            "representation_size": None,
            "classifier": "token",
        },
        "image_size": (size, size),
        "num_classes": 5,
    }
    module = ppv.ViT(shape, pretrained=False).eval()
    module.load_state_dict(
        {name: seeded_tensor(name, tuple(value.shape)) for name, value in module.state_dict().items()}
    )
    return module


def converted_model(theirs: nn.Module, shape: str) -> nn.Module:
    """timm's ViT with the same weights under timm's names."""
    size, patch, width, depth, heads = SHAPES[shape]
    ours = timm.create_model(
        "vit_base_patch16_224", img_size=size, patch_size=patch, embed_dim=width, depth=depth, num_heads=heads,
        num_classes=5,
    ).eval()  # fmt: skip
    weights = theirs.state_dict()
    new_names = {
        "cls_token": weights["class_token"],
        "pos_embed": weights["positional_embedding.pos_embedding"],
        "patch_embed.proj.weight": weights["patch_embedding.weight"],
        "patch_embed.proj.bias": weights["patch_embedding.bias"],
        **{f"norm.{kind}": weights[f"norm.{kind}"] for kind in ("weight", "bias")},
        **{f"head.{kind}": weights[f"fc.{kind}"] for kind in ("weight", "bias")},
    }
    pairs = {"norm1": "norm1", "norm2": "norm2", "attn.proj": "proj", "mlp.fc1": "pwff.fc1", "mlp.fc2": "pwff.fc2"}
    for block in range(depth):
        for kind in ("weight", "bias"):
            there = f"transformer.blocks.{block}."
            for mine, their in pairs.items():
                new_names[f"blocks.{block}.{mine}.{kind}"] = weights[f"{there}{their}.{kind}"]
            projections = [weights[f"{there}attn.proj_{letter}.{kind}"] for letter in "qkv"]
            new_names[f"blocks.{block}.attn.qkv.{kind}"] = torch.cat(projections)
    ours.load_state_dict(new_names)
    return ours


@pytest.mark.parametrize("shape", SHAPES)
def test_the_class_tokens_map_equals_the_packages_own_scores(shape: str) -> None:
    theirs = published_model(shape)
    ours = converted_model(theirs, shape)
    size, patch = SHAPES[shape][:2]
    pixels = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        logits = theirs(pixels)
        torch.testing.assert_close(ours(pixels), logits, rtol=1e-4, atol=1e-4)
    scores_BHQK = theirs.transformer.blocks[-1].attn.scores
    expected = scores_BHQK.mean(1)[0, 0, 1:].reshape(size // patch, size // patch)
    map_RC = attention_map(ours, pixels).scores_BRC[0]
    assert (map_RC - expected).abs().max() < 1e-6
    assert expected.max() > 2 / expected.numel()  # uneven: an even map would agree with anything


def test_the_position_matrix_equals_a_double_loop() -> None:
    theirs = published_model("small")
    similarity_RCRC = cosine_similarity(position_embeddings(converted_model(theirs, "small")).embeddings_RCD)
    table = theirs.positional_embedding.pos_embedding[0].detach().double()[1:]  # the first is the class token's
    for i in range(36):
        for j in range(36):
            cosine = float(table[i] @ table[j] / (table[i].norm() * table[j].norm()))
            assert abs(similarity_RCRC[i // 6, i % 6, j // 6, j % 6] - cosine) < 1e-6
