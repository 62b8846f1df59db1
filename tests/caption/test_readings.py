"""The table of readings: what each needs, what figures say, and options that do not go together."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support.tiny_vlms import photographs, save_tiny_vlm

import vitrine
from vitrine.caption.decoding import MapChoice
from vitrine.caption.readings import READINGS, choose_reading
from vitrine.caption.run import CaptionSettings
from vitrine.errors import UsageError

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A model in a folder, opened, with two photographs of different sizes."""
    folder = tmp_path_factory.mktemp("readings")
    save_tiny_vlm("llava_next", folder / "model")
    photos = photographs((50, 41), (33, 64))
    photos[0].save(folder / "a.png")
    return SimpleNamespace(folder=folder, model=vitrine.load(folder / "model"), photos=photos)


@pytest.mark.parametrize("reading", READINGS)
def test_every_reading_gives_maps_of_the_same_words(reading: str, opened: SimpleNamespace) -> None:
    plain = opened.model.caption(opened.photos, max_pieces=3)
    captions = opened.model.caption(opened.photos, max_pieces=3, reading=reading)
    for one, other in zip(plain, captions, strict=True):
        assert (one.text, one.log_probability) == (other.text, other.log_probability)
        for word, same in zip(one.words, other.words, strict=True):
            assert word.map.shape == same.map.shape
            assert same.map.mean() == pytest.approx(1, abs=1e-4) and same.map.min() >= 0
            assert (reading == "attention") == np.array_equal(word.map, same.map)
    line = captions[0]._word_maps.picture.method
    assert ("layer" in line) == READINGS[reading].has_layers


def test_maps_of_a_gradient_are_those_of_the_layer_and_head(opened: SimpleNamespace) -> None:
    captioner = opened.model.captioner.with_prompt(None)
    (caption,) = opened.model.caption(opened.photos[:1], max_pieces=3, reading="gradient", layer=0, heads=2)
    with torch.inference_mode():
        encoded = captioner.module.encode([captioner.transform(opened.photos[0])])
        decoded = caption._word_maps
        ids = [token for word in decoded.words for token in word.tokens]
        numbers = [captioner.vocabulary._tokenizer.token_to_id(token) for token in ids]
        (maps_TLHK,) = captioner.module.gradient_attention(encoded, [numbers])
    map_K = MapChoice(0, 2).of(maps_TLHK.transpose(0, 1))[0, 0, 0]
    if len(decoded.words[0].tokens) == 1:
        np.testing.assert_allclose(decoded.words[0].map_RC.ravel(), map_K / map_K.mean(), rtol=1e-3)
    assert len(ids) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--reading", "magic"), "--reading magic cannot be used: expected attention, relative, gradient, occlusion."),
        (("--reading", "gradient", "--relative"), "--relative and --reading gradient do not go together"),
        (("--reading", "occlusion", "--layer", "0"), "Maps by occlusion have neither layers nor heads"),
        (("--reading", "occlusion", "--heads", "1"), "Maps by occlusion have neither layers nor heads"),
    ],
)
def test_what_does_not_go_together_is_refused(
    options: tuple[str, ...], message: str, opened: SimpleNamespace, vitrine_command: Command, tmp_path: Path
) -> None:
    call = ("ask", opened.folder / "model", opened.folder / "a.png", "What?", "-o", tmp_path / "a.png", *options)
    status, _, err = vitrine_command(*call)
    assert status == 2 and message in err


def test_relative_stays_an_option_of_its_own() -> None:
    assert choose_reading(None, relative=True) == choose_reading("relative", relative=True) == "relative"
    settings = CaptionSettings(relative=True)
    assert (settings.reading, settings.flags()) == ("relative", ["--relative"])
    assert CaptionSettings(reading="gradient").flags() == ["--reading", "gradient"]
    assert CaptionSettings(reading="relative") == settings
    with pytest.raises(UsageError, match="do not go together"):
        CaptionSettings(relative=True, reading="occlusion")
