"""DINOv3 under the names of Meta's files, with the weights of transformers' own model."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from support.checkpoints import expect_error, pixels
from support.format_makers import transformers_model
from torch import nn

from vitrine.errors import ModelError
from vitrine.models.load import load_for_inference, load_model

# As transformers' conversion script of the published files has them, from right to left.
RENAMES = (
    (r"^embeddings\.register_tokens$", "storage_tokens"),
    (r"^embeddings\.patch_embeddings\.", "patch_embed.proj."),
    (r"^embeddings\.", ""),
    (r"^model\.layer\.(\d+)\.", r"blocks.\1."),
    (r"attention\.o_proj\.", "attn.proj."),
    (r"layer_scale([12])\.lambda1$", r"ls\1.gamma"),
)
MLP = ((r"mlp\.up_proj\.", "mlp.fc1."), (r"mlp\.down_proj\.", "mlp.fc2."))
GATED_MLP = ((r"mlp\.gate_proj\.", "mlp.w1."), (r"mlp\.up_proj\.", "mlp.w2."), (r"mlp\.down_proj\.", "mlp.w3."))


def meta_names(theirs: nn.Module, depth: int = 2, heads: int = 3) -> dict[str, torch.Tensor]:
    state = theirs.state_dict()
    is_gated = any("gate_proj" in name for name in state)
    tensors = {"rope_embed.periods": torch.ones(state["norm.weight"].shape[0] // heads // 4)}
    for name, value in state.items():
        new = name
        for pattern, replacement in (*RENAMES, *(GATED_MLP if is_gated else MLP)):
            new = re.sub(pattern, replacement, new)
        if "attention." not in new:
            tensors[new] = value
    for i in range(depth):
        there, here = f"model.layer.{i}.attention.", f"blocks.{i}.attn.qkv."
        tensors[f"{here}weight"] = torch.cat([state[f"{there}{letter}_proj.weight"] for letter in "qkv"])
        if f"{there}q_proj.bias" in state:
            query_bias, value_bias = state[f"{there}q_proj.bias"], state[f"{there}v_proj.bias"]
            # What stands where biases of keys would be is masked, and is anything.
            tensors[f"{here}bias"] = torch.cat([query_bias, torch.full_like(query_bias, torch.nan), value_bias])
            ones = torch.ones_like(query_bias)
            tensors[f"{here}bias_mask"] = torch.cat([ones, 0 * ones, ones])
    return tensors


CASES: dict[str, dict[str, Any]] = {
    "small": {},
    "gated": {"use_gated_mlp": True, "hidden_act": "silu"},
    "no biases": {"query_bias": False, "value_bias": False},
}


@pytest.mark.parametrize("prefix", ["", "backbone."])
@pytest.mark.parametrize("name", CASES)
def test_a_file_of_meta_gives_the_features_of_transformers(name: str, prefix: str, tmp_path: Path) -> None:
    theirs = transformers_model("DINOv3ViTModel", num_register_tokens=4, **CASES[name])
    tensors = {prefix + key: value for key, value in meta_names(theirs).items()}
    torch.save({"teacher": tensors} if prefix else tensors, tmp_path / "dinov3_pretrain.pth")
    model = load_model(str(tmp_path / "dinov3_pretrain.pth"), pretrained=True, image_size=32)
    with torch.no_grad():
        expected = theirs(pixels())
        tokens = model.module.eval().forward_features(pixels())
        torch.testing.assert_close(tokens, expected.last_hidden_state, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(model.module(pixels()), expected.pooler_output, rtol=1e-5, atol=1e-5)
    assert any("no classifier uses it: " in note and "mask_token" in note for note in model.notes)


def test_biases_are_never_left_out_in_silence(tmp_path: Path) -> None:
    """timm has every DINOv3 with biases and without: those of the published ones of three sizes are zero."""
    theirs = transformers_model("DINOv3ViTModel", num_register_tokens=4)
    tensors, file = meta_names(theirs), tmp_path / "w.pth"
    sizes = "img_size=32,patch_size=8,embed_dim=48,depth=2,num_heads=3,mlp_ratio=2"
    torch.save(tensors, file)
    without = {"architecture": f"vit_small_patch16_dinov3:{sizes}"}
    with pytest.raises(ModelError, match=r"4 tensors are unexpected \(blocks\.\{0\.\.1\}\.attn\.\{q_bias,v_bias\}\)"):
        load_for_inference(file, **without)
    zeros = {name: 0 * value if name.endswith("qkv.bias") else value for name, value in tensors.items()}
    torch.save(zeros, file)
    module = load_for_inference(file, **without).module
    other = load_for_inference(file, f"vit_small_patch16_dinov3_qkvb:{sizes}").module
    with torch.no_grad():
        torch.testing.assert_close(module(pixels()), other(pixels()), rtol=1e-5, atol=1e-5)
    unmasked = {name: value.nan_to_num(1.0) for name, value in tensors.items() if not name.endswith("bias_mask")}
    torch.save(unmasked, file)
    expect_error(file, "has biases of keys, which no DINOv3 has")
