"""Gradient-weighted attention of all words in one pass, beside plain autograd on the library's eager attention."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from support.tiny_vlms import photographs, tiny_vlm

from vitrine.models.vlm import gradient_rows
from vitrine.models.vlm.attention_rows import use_row_attention
from vitrine.models.vlm.families import FAMILIES
from vitrine.models.vlm.model import VisionLanguageModel
from vitrine.models.vlm.prompt import PromptTransform

KINDS = (
    "llava", "llava-full", "paligemma", "paligemma2", "gemma3", "llava_next", "llava_onevision", "idefics3", "internvl",
    "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "blip2", "kosmos2",
)  # fmt: skip
ANSWER = (30, 41, 52)


def slow_rows(model: Any, family: Any, prompt: Any) -> torch.Tensor:
    """Word by word with eager attention and the model's own cache: attention times the logit's positive gradient."""
    model.set_attn_implementation({"text_config": "eager"})
    cache, rows = transformers.DynamicCache(config=model.config), []
    for step, token in enumerate(ANSWER):
        with torch.enable_grad():
            if step == 0:
                model.requires_grad_(True)  # the first layer's attention is differentiated by as well
                output = model(**prompt.tensors, output_attentions=True)
                with torch.no_grad():
                    model(**prompt.tensors, past_key_values=cache, use_cache=True)
                position = family.next_position(model, prompt.length)
            else:
                output = family.language_model(model)(
                    input_ids=torch.tensor([[ANSWER[step - 1]]]), past_key_values=cache, output_attentions=True,
                    position_ids=family.position_ids(torch.tensor([position + step - 1])),
                )  # fmt: skip
                for layer in cache.layers:
                    layer.keys, layer.values = layer.keys.detach(), layer.values.detach()
            attentions = getattr(output, "language_model_outputs", output).attentions
            gradients = torch.autograd.grad(output.logits[0, -1, token], attentions)
        row = []
        for weights_1HQK, gradient_1HQK in zip(attentions, gradients, strict=True):
            weighted_HK = (weights_1HQK * gradient_1HQK.clamp_min(0))[0, :, -1].detach()
            missing = prompt.length + step - weighted_HK.shape[1]  # behind a sliding window
            row.append(torch.nn.functional.pad(weighted_HK, (max(missing, 0), 0))[:, prompt.places_N])
        rows.append(torch.stack(row))
    model.requires_grad_(False)
    return torch.stack(rows)


@pytest.mark.parametrize("kind", KINDS)
def test_one_pass_gives_every_word_its_own_gradient(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gradient_rows, "_WORDS_AT_ONCE", 2)  # so that there is a second part
    model, processor = tiny_vlm(kind)
    family = FAMILIES[model.config.model_type]
    prompt = PromptTransform(processor, model.config, family, "What is in the picture?")(photographs((50, 41))[0])
    expected_TLHN = slow_rows(model, family, prompt)
    use_row_attention(transformers, model)
    module = VisionLanguageModel(transformers, model, family, [1])
    with torch.inference_mode():  # as pictures are captioned
        encoded = module.encode([prompt, prompt])
        maps_TLHK, empty_TLHK = module.gradient_attention(encoded, [ANSWER, ()])
    assert empty_TLHK.shape[0] == 0
    expected_TLHK = encoded.features.rows[0].over_cells(expected_TLHN, encoded.padded_grid)
    torch.testing.assert_close(maps_TLHK, expected_TLHK, atol=3e-6, rtol=1e-4)
    assert expected_TLHN[0].max() > 1e-3, "rows of nothing would agree"
