"""BLIP and GIT go on from a prompt as the library's ``generate`` does, with its words and the maps of its attention."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support.tiny_captioners import LONGEST, library_pass, over_cells, reload, save_tiny

import vitrine
from vitrine.caption.decoding import MapChoice, final_captions, greedy, teacher_forced
from vitrine.caption.model import Captioner, open_captioner
from vitrine.errors import UsageError

PROMPT = "word3 words, word7"
START = {"blip": 5, "git": 2}
END = 3


@pytest.fixture(scope="module", params=["blip", "git"])
def opened(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, Captioner]:
    folder = tmp_path_factory.mktemp(request.param)
    save_tiny(request.param, folder)
    return request.param, folder, open_captioner(str(folder))


@pytest.fixture(scope="module")
def photos() -> list[Image.Image]:
    rng = np.random.default_rng(5)
    return [Image.fromarray(rng.integers(0, 256, (40, 50, 3), np.uint8)) for _ in range(4)]


def answers(library: Any, kind: str, pixels_B3HW: torch.Tensor, prompt: list[int]) -> list[list[int]]:
    """What the library goes on with: ids up to the end."""
    given = torch.tensor([[START[kind], *prompt, *([END] if kind == "blip" else [])]]).repeat(len(pixels_B3HW), 1)
    ids_BT = library.generate(pixel_values=pixels_B3HW, input_ids=given, max_length=LONGEST, do_sample=False)
    rows = [row[1 + len(prompt) :] for row in ids_BT.tolist()]
    return [row[: row.index(END)] if END in row else row for row in rows]


def test_words_and_maps_are_the_librarys(opened: tuple[str, Path, Captioner], photos: list[Image.Image]) -> None:
    kind, folder, captioner = opened
    prompted, library = captioner.with_prompt(PROMPT), reload(kind, folder)
    prompt = captioner.vocabulary.encode(PROMPT)
    pixels = [prompted.transform(photo) for photo in photos]
    expected = answers(library, kind, torch.stack(pixels), prompt)
    assert len({tuple(ids) for ids in expected}) > 1
    with torch.no_grad():
        output = prompted.module.encode(pixels)
        captions = final_captions(greedy(prompted.module, output, maps=MapChoice("all", "all")))
        forced = final_captions(
            teacher_forced(prompted.module, output, [each.ids or (7,) for each in captions], with_end=False)
        )
        plain = final_captions(greedy(captioner.module, captioner.module.encode(pixels)))
    assert [list(caption.ids) for caption in captions] == expected
    assert [caption.ids for caption in plain] != [caption.ids for caption in captions]
    for caption, pixels_3HW, again in zip(captions, pixels, forced, strict=True):
        whole = torch.tensor([[START[kind], *prompt, *caption.ids]])
        with torch.no_grad():
            logits_1TV, rows_L1HTN = library_pass(kind, library, pixels_3HW[None], whole)
        first, count = len(prompt), len(caption.ids)
        wanted = logits_1TV[0].log_softmax(-1)[range(first, first + count), list(caption.ids)]
        np.testing.assert_allclose(caption.log_probabilities[:count], wanted, atol=1e-4)
        cells = over_cells(rows_L1HTN)[:, 0, :, first : first + count].permute(2, 0, 1, 3)
        np.testing.assert_allclose(caption.maps_TLHK[:count], cells, atol=1e-5)
        if count:
            np.testing.assert_allclose(again.log_probabilities, caption.log_probabilities[:count], atol=1e-4)


def test_a_command_says_what_it_goes_on_from(
    opened: tuple[str, Path, Captioner], photos: list[Image.Image], tmp_path: Path
) -> None:
    _, folder, _ = opened
    photos[0].save(tmp_path / "a.png")
    result = vitrine.caption(str(folder), tmp_path / "a.png", prompt=PROMPT, quiet=True)
    answer = vitrine.ask(str(folder), tmp_path / "a.png", PROMPT, quiet=True)
    assert answer.notes[0] == result.captions[0].notes[0] == f"Goes on from: {PROMPT}"
    assert answer.text == result.captions[0].text
    assert len(answer.words) == len(answer.text.split())


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ({"prompt": " "}, "The prompt is empty: give words to go on from"),
        ({"prompt": "word1 [SEP]"}, r"The prompt holds \[SEP\], which begins or ends"),
        ({"prompt": "word1 " * 13}, "The prompt has 13 word pieces, and this captioner has positions for 12"),
        ({"prompt": "word1", "relative": True}, "are of vision-language models"),
        ({"prompt": "word1", "prompt_maps": True}, "are of vision-language models"),
    ],
    ids=["empty", "an end", "too long", "relative", "maps of the prompt"],
)
def test_prompts_that_cannot_be_used(how: dict[str, Any], sentence: str, opened: tuple[str, Path, Captioner]) -> None:
    with pytest.raises(UsageError, match=sentence):
        opened[2].with_prompt(**how)
