"""Maps of a prompt's own words: the rows of their positions, beside the library's eager attention."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.tiny_vlms import photographs, save_tiny_vlm

import vitrine
from vitrine.caption.decoding import MapChoice
from vitrine.caption.inference import EncodedBatch
from vitrine.caption.model import open_captioner
from vitrine.caption.prompt_words import read_prompts
from vitrine.caption.word_maps import caption_words
from vitrine.errors import UsageError

Command = Callable[..., tuple[int, str, str]]
QUESTION = "What is in the picture, a dog?"


@pytest.mark.parametrize("kind", ["llava", "paligemma", "gemma3", "idefics3", "qwen2_vl", "blip2", "kosmos2"])
def test_rows_are_those_of_the_words_own_positions(kind: str, tmp_path: Path) -> None:
    model = save_tiny_vlm(kind, tmp_path)
    captioner = open_captioner(str(tmp_path)).with_prompt(QUESTION, prompt_maps=True)
    photos = photographs((50, 41), (33, 64))
    inputs = [captioner.transform(photo) for photo in photos]
    with torch.inference_mode():
        encoded = captioner.module.encode(inputs)
        prompts = read_prompts(EncodedBatch(captioner, encoded, (), photos), MapChoice("all", "all"))
    for prompt, prefill, made in zip(inputs, encoded.features.rows, prompts, strict=True):
        words = caption_words(made, captioner.vocabulary, maps=MapChoice(0, 0))
        assert " ".join(word.text for word in words) == QUESTION
        model.set_attn_implementation("eager")
        with torch.no_grad():
            output = model(**prompt.tensors, output_attentions=True)
        attentions = getattr(output, "attentions", None) or output.language_model_outputs.attentions
        rows_LHQN = torch.stack([layer[0][:, prompt.question_Q][..., prompt.places_N] for layer in attentions])
        expected_QLHK = prefill.over_cells(rows_LHQN.permute(2, 0, 1, 3), encoded.padded_grid)
        np.testing.assert_allclose(made.maps_TLHK, expected_QLHK, atol=1e-5)


def test_they_stand_apart_from_the_answers_words(vitrine_command: Command, tmp_path: Path) -> None:
    save_tiny_vlm("llava", tmp_path / "model")
    photographs((50, 41))[0].save(tmp_path / "a.png")
    out = tmp_path / "out"
    call = ("caption", tmp_path / "model", tmp_path / "a.png", "-o", out, "--prompt", QUESTION, "--max-pieces", 3)
    status, plain, err = vitrine_command(*call, "--json")
    assert status == 0, err
    with Image.open(out / "a.png") as figure:
        height = figure.height
    status, told, err = vitrine_command(*call, "--json", "--prompt-maps", "--replace")
    assert status == 0, err
    (without,), (with_maps,) = json.loads(plain)["captions"], json.loads(told)["captions"]
    assert [word["text"] for word in with_maps.pop("prompt_words")] == QUESTION.split()
    assert with_maps == without
    with Image.open(out / "a.png") as figure:
        assert figure.height > height
        assert "--prompt-maps" in figure.text["vitrine:command"]


def test_who_has_no_such_rows_says_so(tmp_path: Path) -> None:
    save_tiny_vlm("florence2", tmp_path)
    with pytest.raises(UsageError, match="encoder reads picture and prompt together"):
        vitrine.load(tmp_path).ask(photographs((40, 40))[0], QUESTION, prompt_maps=True)
