"""CLIP's image tower under the names of OpenAI's code: the same weights as in transformers' own model."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from support.checkpoints import expect_error, pixels
from support.format_makers import transformers_model
from torch import nn

from vitrine.models.load import load_for_inference

SIZES = "img_size=32,patch_size=8,embed_dim=48,depth=2,num_heads=3,mlp_ratio=2"
ARCH = f"vit_base_patch16_clip_quickgelu_224:{SIZES}"
TEXT = {
    "positional_embedding": (8, 32), "text_projection": (32, 24), "logit_scale": (), "token_embedding.weight": (50, 32),
    "ln_final.weight": (32,), "transformer.resblocks.0.ln_1.weight": (32,),
    "transformer.resblocks.0.attn.in_proj_weight": (96, 32),
}  # fmt: skip


def open_clip_names(theirs: nn.Module, prefix: str = "visual.") -> dict[str, torch.Tensor]:
    """A tower of transformers as OpenCLIP's VisionTransformer names it."""
    state = {name.removeprefix("vision_model."): value for name, value in theirs.state_dict().items()}
    tensors = {
        "class_embedding": state["embeddings.class_embedding"],
        "positional_embedding": state["embeddings.position_embedding.weight"],
        "conv1.weight": state["embeddings.patch_embedding.weight"],
        "proj": state["visual_projection.weight"].T,
    }
    parts = {"layer_norm": "ln_", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj", "self_attn.out_proj": "attn.out_proj"}
    for name, value in state.items():
        if name.startswith(("pre_layrnorm", "post_layernorm")):
            tensors[re.sub("pre_layrnorm|post_layernorm", lambda m: f"ln_{m[0].partition('_')[0]}", name)] = value
        match = re.fullmatch(r"encoder\.layers\.(\d+)\.(.*)", name)
        part = next((part for part in parts if match and match[2].startswith(part)), None)
        if match and part:
            tensors[f"transformer.resblocks.{match[1]}.{match[2].replace(part, parts[part])}"] = value
    for i in range(2):
        for kind in ("weight", "bias"):
            packed = torch.cat([state[f"encoder.layers.{i}.self_attn.{letter}_proj.{kind}"] for letter in "qkv"])
            tensors[f"transformer.resblocks.{i}.attn.in_proj_{kind}"] = packed
    return {prefix + name: value for name, value in tensors.items()}


@pytest.mark.parametrize(
    ("prefix", "wrapper"),
    [("visual.", None), ("", None), ("module.visual.", "state_dict"), ("_orig_mod.visual.", "state_dict")],
)
def test_a_tower_of_open_clip_gives_the_features_of_transformers(
    prefix: str, wrapper: str | None, tmp_path: Path
) -> None:
    theirs = transformers_model("CLIPVisionModelWithProjection")
    tensors = open_clip_names(theirs, prefix)
    if prefix:
        tensors |= {prefix.replace("visual.", "") + name: torch.zeros(shape) for name, shape in TEXT.items()}
    torch.save({wrapper: tensors, "epoch": 3, "name": "run"} if wrapper else tensors, tmp_path / "epoch_3.pt")
    model = load_for_inference(tmp_path / "epoch_3.pt", ARCH)
    with torch.no_grad():
        expected = theirs.vision_model(pixels()).pooler_output  # type: ignore[operator]
        torch.testing.assert_close(model.module(pixels()), expected, rtol=1e-5, atol=1e-5)
    assert any("no classifier uses it: proj" in note for note in model.notes)
    assert bool(prefix) == any(f"{len(TEXT)} tensors are not of the vision transformer" in note for note in model.notes)


def test_the_activation_that_a_file_does_not_say_is_asked_for(tmp_path: Path) -> None:
    """Of a ViT-B/32: names and shapes are all that is looked at."""
    sizes = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "image_size": 224}
    one_block = transformers_model("CLIPVisionModelWithProjection", **sizes, patch_size=32, num_hidden_layers=2)
    tensors = {name: torch.zeros(value.shape, dtype=torch.bool) for name, value in open_clip_names(one_block).items()}
    for name in [name for name in tensors if "resblocks.1." in name]:
        tensors |= {name.replace("resblocks.1.", f"resblocks.{i}."): tensors[name] for i in range(2, 12)}
    torch.save(tensors, tmp_path / "ViT-B-32.pt")
    message = expect_error(tmp_path / "ViT-B-32.pt", "does not say with which activation it was trained")
    assert "vit_base_patch32_clip_224" in message and "vit_base_patch32_clip_quickgelu_224" in message
    assert "vit_base_patch32_clip_256" not in message


def test_shapes_that_do_not_go_together_are_an_error(tmp_path: Path) -> None:
    tensors = open_clip_names(transformers_model("CLIPVisionModelWithProjection"))
    torch.save(tensors | {"visual.positional_embedding": torch.zeros(())}, tmp_path / "w.pt")
    expect_error(tmp_path / "w.pt", "channels, patches of|shapes that do not go together|no patch embedding")
    torch.save(tensors | {"visual.attn_pool.query": torch.zeros(4, 48)}, tmp_path / "coca.pt")
    expect_error(tmp_path / "coca.pt", "do not say which model it is of")
