"""Vision-language models opened from files, beside the library's own ``generate`` and its eager attention."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from support.tiny_vlms import END, OTHER_END, photographs, save_tiny_vlm

from vitrine.api.captioner import CaptionerModel
from vitrine.caption.beam_search import beam_search
from vitrine.caption.decoding import MapChoice, final_captions, greedy
from vitrine.caption.inference import caption_batches
from vitrine.caption.model import open_captioner
from vitrine.caption.run import CaptionSettings
from vitrine.caption.sampling import sample
from vitrine.data.picture_inputs import picture_input
from vitrine.errors import ModelError, UsageError
from vitrine.models.vlm.families import FAMILIES

KINDS = (
    "llava", "llava-full", "paligemma", "paligemma2", "gemma3", "llava_next", "llava_onevision", "idefics3", "internvl",
    "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "blip2", "blip2-t5", "instructblip", "instructblip-t5",
    "kosmos2", "florence2", "smolvlm", "vipllava", "aya_vision", "idefics2",
    "cohere2_vision",
)  # fmt: skip
SIZES = ((50, 41), (33, 64))
STEPS = 7


def model_type(kind: str) -> str:
    """Of a tiny model, as in the table of docs/vlm.md."""
    name = kind.partition("-")[0]
    return {"blip2": "blip-2", "kosmos2": "kosmos-2", "paligemma2": "paligemma"}.get(name, name)


def test_every_family_is_among_these_models() -> None:
    assert {model_type(kind) for kind in KINDS} == set(FAMILIES)


@pytest.fixture(scope="module", params=KINDS)
def opened(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A model saved and opened through files, the library's own beside it, and two photographs with their prompts."""
    folder = tmp_path_factory.mktemp("vlm")
    library_model = save_tiny_vlm(request.param, folder)
    assert library_model.config.model_type == model_type(request.param)
    captioner = open_captioner(str(folder))
    prompts = [captioner.with_prompt(text) for text in ("What is in the picture?", "a dog")]
    inputs = [each.transform(photo) for each, photo in zip(prompts, photographs(*SIZES), strict=True)]
    return SimpleNamespace(kind=request.param, folder=folder, library=library_model, captioner=captioner, inputs=inputs)


def forced_pieces(model: Any) -> int:
    """How many pieces every answer begins with that the decoder is given."""
    return int(model.generation_config.forced_bos_token_id is not None)


def library_answer(model: Any, tensors: dict[str, Any], steps: int = STEPS, **options: Any) -> Any:
    """What ``generate`` says with eager attention, with its logits and attention."""
    model.set_attn_implementation("eager")
    with torch.no_grad():
        return model.generate(
            **tensors, max_new_tokens=steps + forced_pieces(model), return_dict_in_generate=True, output_logits=True,
            output_attentions=True, **{"do_sample": False, **options},
        )  # fmt: skip


def new_ids(model: Any, answer: Any, prompt: Any) -> list[int]:
    """The ids that were generated."""
    first = 1 + forced_pieces(model) if "cross_attentions" in answer else prompt.length
    return list(answer.sequences[0, first:].tolist())


def image_rows(answer: Any, prompt: Any, step: int) -> torch.Tensor:
    """The attention that predicted a word, by eager attention: to the image tokens, (L, H, N)."""
    if "cross_attentions" in answer:  # the positions are the encoder's
        return torch.stack([layer_BHQP[0, :, -1][:, prompt.places_N] for layer_BHQP in answer.cross_attentions[step]])
    rows = []
    for layer_BHQP in answer.attentions[step]:
        positions = prompt.length + step
        row_HP = layer_BHQP[0, :, -1]
        whole_HP = torch.zeros(len(row_HP), max(positions, row_HP.shape[1]))
        whole_HP[:, whole_HP.shape[1] - row_HP.shape[1] :] = row_HP
        rows.append(whole_HP[:, prompt.places_N])
    return torch.stack(rows)


def query_rows(model: Any, prompt: Any) -> torch.Tensor | None:
    """What each query token read, by eager attention, of every layer in which it reads: (L, H, N, P); None where image
    tokens are no queries."""
    model.set_attn_implementation("eager")
    if hasattr(model, "image_to_text_projection"):
        with torch.no_grad():
            seen = model.vision_model(prompt.tensors["pixel_values"])[0]
            features = torch.nn.functional.normalize(model.vision_model.model.post_layernorm(seen), dim=-1)
            return model.image_to_text_projection(features)[1]
    if hasattr(model.config, "perceiver_config"):
        pictures = prompt.tensors["pixel_values"][0]
        resampler, attention = model.model.connector.perceiver_resampler, []
        hooks = [layer.self_attn.register_forward_hook(lambda *call: attention.append(call[2][1]))
                 for layer in resampler.layers]  # fmt: skip
        with torch.no_grad():
            model.get_image_features(pictures[None], prompt.tensors["pixel_attention_mask"])
        for hook in hooks:
            hook.remove()
        # Each part's queries read that part alone.
        return torch.stack([
            torch.stack([torch.block_diag(*head_BNP) for head_BNP in layer_BHNP.transpose(0, 1)])
            for layer_BHNP in attention
        ])  # fmt: skip
    if not hasattr(model, "qformer"):
        return None
    tensors, text = prompt.tensors, {}
    if "qformer_input_ids" in tensors:
        text = {"input_ids": tensors["qformer_input_ids"]}
    with torch.no_grad():
        image = model.vision_model(pixel_values=tensors["pixel_values"]).last_hidden_state
        output = model.qformer(
            query_embeds=model.query_tokens, encoder_hidden_states=image, output_attentions=True, **text
        )
    return torch.stack([layer_BHNP[0] for layer_BHNP in output.cross_attentions])


def rows_over_cells(model: Any, answer: Any, prompt: Any, step: int) -> torch.Tensor:
    """The same over the picture's cells, (L, H, K); of query tokens, through what they read, mean over its layers and
    heads."""
    rows_LHN, reading = image_rows(answer, prompt, step + forced_pieces(model)), query_rows(model, prompt)
    if reading is None:
        return prompt.layout.spread.over_cells(rows_LHN)
    return torch.einsum("lhn,nk->lhk", rows_LHN, prompt.layout.spread.over_cells(reading.mean((0, 1))))


def test_words_logits_and_rows_are_those_of_generate(opened: SimpleNamespace) -> None:
    module = opened.captioner.module
    with torch.inference_mode():
        encoded = module.encode(opened.inputs)  # both prompts in one batch, of different lengths
        captions = final_captions(greedy(module, encoded, max_tokens=STEPS, maps=MapChoice("all", "all")))
    assert opened.inputs[0].length != opened.inputs[1].length
    for prompt, caption in zip(opened.inputs, captions, strict=True):
        answer = library_answer(opened.library, dict(prompt.tensors))
        ids = new_ids(opened.library, answer, prompt)
        says_end = ids[-1] in (END, OTHER_END)
        assert list(caption.ids) == (ids[:-1] if says_end else ids)
        assert caption.has_end == says_end
        for step, token in enumerate(caption.ids):
            expected = answer.logits[step + forced_pieces(opened.library)][0].double().log_softmax(-1)[token].item()
            assert caption.log_probabilities[step] == pytest.approx(expected, rel=1e-5, abs=1e-5)
            rows, columns = caption.grid
            map_LHRC = caption.maps_TLHK[step].reshape(*caption.maps_TLHK.shape[1:3], *caption.padded_grid)
            map_LHK = torch.from_numpy(map_LHRC[..., :rows, :columns].copy()).flatten(-2)
            torch.testing.assert_close(
                map_LHK, rows_over_cells(opened.library, answer, prompt, step), atol=1e-5, rtol=0
            )
    assert len({caption.ids for caption in captions}) == 2, "the two questions would not tell rows apart"


def test_one_beam_of_the_best_is_that_of_generate(opened: SimpleNamespace) -> None:
    module, prompt = opened.captioner.module, opened.inputs[1]
    with torch.inference_mode():
        (caption,) = final_captions(beam_search(module, module.encode([prompt]), 3, max_tokens=STEPS))
    answer = library_answer(opened.library, dict(prompt.tensors), num_beams=3, length_penalty=1.0)
    ids = [each for each in new_ids(opened.library, answer, prompt) if each not in (END, OTHER_END)]
    assert list(caption.ids) == ids


@pytest.mark.parametrize("opened", ["llava", "qwen2_vl", "blip2-t5", "kosmos2", "florence2"], indirect=True)
def test_sampled_words_are_those_of_generate(opened: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """With one stream of random numbers: the library's draw is replaced by one that takes each number as the quantile
    of the probability that temperature, top-k and top-p have left, likeliest words first."""
    numbers = np.random.default_rng([7])

    def draw(probabilities_1V: torch.Tensor, num_samples: int) -> torch.Tensor:
        possible = int((probabilities_1V > 0).sum())
        assert num_samples == 1 and possible <= 40
        if possible == 1:  # what every answer begins with
            return probabilities_1V.argmax(-1, keepdim=True)
        left_V, ids_V = probabilities_1V[0].double().sort(descending=True, stable=True)
        place = int((left_V.cumsum(0) <= numbers.random() * left_V.sum()).sum())
        return ids_V[place].reshape(1, 1)

    module, prompt = opened.captioner.module, opened.inputs[0]
    options = {"temperature": 1.7, "top_k": 40, "top_p": 0.95}
    with torch.inference_mode():
        (caption,) = final_captions(sample(module, module.encode([prompt]), [7], max_tokens=STEPS, **options))
    monkeypatch.setattr(torch, "multinomial", draw)
    answer = library_answer(opened.library, dict(prompt.tensors), do_sample=True, **options)
    ids = new_ids(opened.library, answer, prompt)
    assert list(caption.ids) == (ids[:-1] if ids[-1] in (END, OTHER_END) else ids)


def test_padding_changes_nothing(opened: SimpleNamespace) -> None:
    module = opened.captioner.module
    with torch.inference_mode():
        together = final_captions(greedy(module, module.encode(opened.inputs), max_tokens=STEPS))
        alone = [final_captions(greedy(module, module.encode([each]), max_tokens=STEPS))[0] for each in opened.inputs]
    for one, other in zip(together, alone, strict=True):
        assert one.ids == other.ids
        assert one.log_probability == pytest.approx(other.log_probability, abs=1e-5)


def test_no_more_than_rows_is_kept(opened: SimpleNamespace) -> None:
    """The language model alone has the attention function of rows; the library's model is changed nowhere else."""
    config = opened.captioner.module.model.config
    assert config.text_config._attn_implementation == "vitrine_rows"
    assert config.vision_config._attn_implementation == "sdpa"


def test_relative_maps_are_divided_by_those_of_a_neutral_prompt(opened: SimpleNamespace) -> None:
    """Zhang et al. 2025: heads averaged, then layers, then the quotient; here by eager attention and by hand."""
    settings = CaptionSettings(layer=(0, 1), max_pieces=3, relative=True)
    photos = photographs(*SIZES)
    captioner = opened.captioner.with_prompt("What is in the picture?", relative=True)
    prompts = [captioner.transform(photo) for photo in photos]
    with torch.inference_mode():
        encoded = captioner.module.encode(prompts)
        captions = final_captions(settings.decode(captioner.module, encoded))
    for prompt, caption in zip(prompts, captions, strict=True):
        assert prompt.neutral is not None and caption.ids
        rows, columns = caption.grid
        neutral = library_answer(opened.library, dict(prompt.neutral.tensors), steps=1)
        neutral_K = rows_over_cells(opened.library, neutral, prompt.neutral, 0)
        answer = library_answer(opened.library, dict(prompt.tensors), steps=3)
        for step in range(len(caption.ids)):
            word_K = rows_over_cells(opened.library, answer, prompt, step)
            expected_RC = (word_K.mean((0, 1)) / neutral_K.mean((0, 1))).reshape(rows, columns)
            map_RC = torch.from_numpy(caption.maps_TLHK[step, 0, 0].reshape(caption.padded_grid)[:rows, :columns])
            torch.testing.assert_close(map_RC, expected_RC, atol=0, rtol=1e-3)


@pytest.mark.parametrize("opened", ["llava"], indirect=True)
def test_relative_maps_need_a_neutral_prompt(opened: SimpleNamespace) -> None:
    module = opened.captioner.module
    with torch.inference_mode(), pytest.raises(ValueError, match="without a neutral prompt"):
        CaptionSettings(relative=True).decode(module, module.encode(opened.inputs))


@pytest.mark.parametrize("opened", ["blip2", "instructblip-t5", "kosmos2", "idefics2"], indirect=True)
def test_both_factors_of_a_product_are_given(opened: SimpleNamespace) -> None:
    """The attention to query tokens and what those read, by eager attention, for each choice of their layers."""
    (photo,) = photographs(SIZES[0])
    reading_LHNP = query_rows(opened.library, opened.inputs[0])
    assert reading_LHNP is not None
    choices = {"mean": slice(None), "-1": slice(-1, None), "0": slice(0, 1), f"0-{len(reading_LHNP) - 1}": slice(None)}
    answer = library_answer(opened.library, dict(opened.inputs[0].tensors))
    for name, layers in choices.items():
        settings = CaptionSettings(prompt="What is in the picture?", max_pieces=2, query_layers=name)
        batch = picture_input(photo).samples
        (part,) = caption_batches(settings.prepare(opened.captioner), batch, settings.decode)
        (picture,) = part.pictures
        read_NK = opened.inputs[0].layout.spread.over_cells(reading_LHNP[layers].mean((0, 1)))
        query_maps_NK = torch.from_numpy(picture.query_maps_NRC).flatten(1)
        torch.testing.assert_close(query_maps_NK, read_NK, atol=1e-5, rtol=0)
        words_TN = torch.from_numpy(picture.caption.queries_TLHN[:, 0, 0])
        rows_TN = torch.stack([image_rows(answer, opened.inputs[0], step)[-1].mean(0) for step in range(len(words_TN))])
        torch.testing.assert_close(words_TN, rows_TN, atol=1e-5, rtol=0)
        maps_TK = torch.from_numpy(picture.caption.maps_TLHK[:, 0, 0])
        torch.testing.assert_close(maps_TK, words_TN @ query_maps_NK, atol=1e-6, rtol=1e-4)
    assert query_maps_NK.sum(1).min() < 1 - 1e-4, "what went to the class token is on no cell"
    with pytest.raises(ModelError, match="no layer 9 in which"):
        settings = CaptionSettings(max_pieces=2, query_layers=9)
        list(caption_batches(settings.prepare(opened.captioner), batch, settings.decode))
    caption = CaptionerModel(opened.captioner).ask(photo, "What is in the picture?", max_pieces=3)
    made = caption.to_dict()
    assert np.allclose(made["query_maps"], caption.query_maps, rtol=1e-4)
    assert np.allclose(made["words"][0]["query_attention"], caption.words[0].query_attention, rtol=1e-4)


@pytest.mark.parametrize("opened", ["llava"], indirect=True)
def test_query_layers_are_refused_where_there_are_no_query_tokens(opened: SimpleNamespace) -> None:
    with pytest.raises(UsageError, match="no query tokens"):
        CaptionSettings(query_layers="0").prepare(opened.captioner)
    (photo,) = photographs(SIZES[0])
    caption = CaptionerModel(opened.captioner).ask(photo, "What?", max_pieces=1)
    assert caption.query_maps is None and caption.words[0].query_attention is None
    assert "query_maps" not in caption.to_dict()
