"""The map of a word is that of the query that predicted it: from decoding to the score, with a captioner that knows.

The stand-in looks, while it predicts a noun, at the object that this noun names, and while it predicts anything else at
a corner. Whoever pairs words with rows one place off takes a corner for the object, and the score falls to nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from support.models import opened_captioner

from vitrine.attribution.grounding import GroundedCaption, Grounding, alignment_drop, grounding
from vitrine.caption.beam_search import beam_search
from vitrine.caption.decoding import greedy, teacher_forced
from vitrine.caption.inference import caption_batches
from vitrine.caption.sampling import sample
from vitrine.caption.tokenizer import Vocabulary, train_vocabulary
from vitrine.caption.word_maps import caption_words
from vitrine.config.preprocessing import CaptionInput
from vitrine.data.captions.datasets import open_captions
from vitrine.data.captions.regions import find_named_words, open_regions
from vitrine.data.captions.transforms import CaptionTransform
from vitrine.data.samples import Sample
from vitrine.models.captioner.model import DecoderOutput, EncoderOutput

DATA = "scenes:base?train=80&validation=2&test=2"
GRID = 16


@dataclass
class Knowing:
    """It says each picture's first caption and knows where the things in it are.

    Attributes:
        truth: of each picture, its caption's pieces and, for each of them, the cell to look at.
        tempting: how much likelier than all others the right piece is; little lets beams wander off and come back.
    """

    vocabulary: Vocabulary
    truth: list[tuple[list[int], list[int]]]
    tempting: float = 8.0
    max_length: int = 60

    def __post_init__(self) -> None:
        self.start, self.end, self.pad = self.vocabulary.start, self.vocabulary.end, self.vocabulary.pad
        self.encoded = 0

    def encode(self, pixels: Sequence[torch.Tensor]) -> EncoderOutput:
        numbers = torch.arange(self.encoded, self.encoded + len(pixels))
        self.encoded += len(pixels)
        return EncoderOutput(numbers, ((GRID, GRID),) * len(pixels), (GRID, GRID))

    def step(self, ids_B: torch.Tensor, encoder_output: EncoderOutput, state: Any) -> DecoderOutput:
        beginnings = [*([()] * len(ids_B) if state is None else state)]
        beginnings = [(*before, int(newest)) for before, newest in zip(beginnings, ids_B, strict=True)]
        generator = torch.Generator().manual_seed(len(beginnings[0]))
        logits_BV = torch.rand(len(ids_B), self.vocabulary.size, generator=generator)
        cross_LBHK = torch.full((2, len(ids_B), 2, GRID * GRID), 1e-4)
        for row, (number, so_far) in enumerate(zip(encoder_output.features.tolist(), beginnings, strict=True)):
            pieces, cells = self.truth[number]
            at = len(so_far) - 1  # of the piece that is predicted now
            target_ids = pieces[at] if at < len(pieces) else self.end
            logits_BV[row, target_ids] += self.tempting
            right = list(so_far[1:]) == pieces[:at] and at < len(pieces)
            cross_LBHK[:, row, :, cells[at] if right else GRID - 1] += 1
        cross_LBHK /= cross_LBHK.sum(-1, keepdim=True)
        return DecoderOutput(logits_BV, cross_LBHK, tuple(beginnings))

    def reorder(self, state: Any, order_B: torch.Tensor) -> Any:
        return tuple(state[int(row)] for row in order_B)


@pytest.fixture(scope="module")
def scenes() -> tuple[Sample, ...]:
    return tuple(open_captions(DATA).splits["train"])


@pytest.fixture(scope="module")
def vocabulary(scenes: tuple[Sample, ...]) -> Vocabulary:
    """Whole words, so that a row that is one place off is another word's."""
    words = train_vocabulary((text for each in scenes for text in each.captions), 400)
    assert len(words.encode("semicircle")) == 1
    return words


def knowing(scenes: Sequence[Sample], words: Vocabulary, tempting: float) -> Knowing:
    truth = []
    for each in scenes:
        scene, caption = each.picture.scene, each.picture.scene.captions[0]  # type: ignore[attr-defined]
        pieces: list[int] = []
        cells: list[int] = []
        at = 0
        for word in caption.text.split(" "):
            expected_cell = [
                m.object_index for m in caption.mentions if m.start <= at < m.end or at <= m.start < at + len(word)
            ]
            own = words.encode(word)
            pieces += own
            cells += [_cell(scene.objects[expected_cell[0]].mask) if expected_cell else 0] * len(own)
            at += len(word) + 1
        assert pieces == words.encode(caption.text)
        truth.append((pieces, cells))
    return Knowing(words, truth, tempting)


def _cell(mask_HW: np.ndarray) -> int:
    """A cell whose centre lies in the mask: the first one; 16 x 16 cells of 4 pixels."""
    hit_RC = mask_HW[2::4, 2::4]
    return int(np.flatnonzero(hit_RC.ravel())[0]) if hit_RC.any() else 0


Decode = Callable[[Any, EncoderOutput, Sequence[Any]], Any]


def score_words(model: Knowing, scenes: Sequence[Sample], decode: Decode, shift: int) -> tuple[Grounding, Any]:
    regions = open_regions(DATA, scenes)
    assert regions is not None
    captions = []
    pictures = list(scenes)
    opened = opened_captioner(model, CaptionTransform(CaptionInput(64)))
    model.encoded = 0
    parts = caption_batches(opened, pictures, decode, batch_size=7)
    for each in (picture for part in parts for picture in part.pictures):
        found = regions.of(each.sample.name)
        assert found is not None
        words = caption_words(each.caption, model.vocabulary)
        named = [one for one in find_named_words([word.text for word in words], found) if one.regions]
        nouns = [(one.index, found.mask(one.regions)) for one in named]
        captions.append(GroundedCaption(each.sample.name, [word.map_RC for word in words], each.placement, nouns))
    return grounding(captions, shift=shift), alignment_drop(captions, shift or 1)


WAYS: dict[str, tuple[float, Decode]] = {
    "greedy": (8.0, lambda model, encoder_output, _: greedy(model, encoder_output)),
    "beams": (4.5, lambda model, encoder_output, _: beam_search(model, encoder_output, 4)),
    "sampling": (20.0, lambda model, encoder_output, _: sample(model, encoder_output, seed=3)),
}


@pytest.mark.parametrize("way", [*WAYS, "forced"])
def test_words_get_the_row_that_predicted_them(way: str, scenes: tuple[Sample, ...], vocabulary: Vocabulary) -> None:
    tempting, decode = WAYS.get(way, (0.0, None))
    model = knowing(scenes, vocabulary, tempting)
    if decode is None:
        ids = {each.name: truth[0] for each, truth in zip(scenes, model.truth, strict=True)}

        def decode(captioner: Any, encoder_output: EncoderOutput, samples: Sequence[Any]) -> Any:
            return teacher_forced(captioner, encoder_output, [ids[sample.name] for sample in samples])

    found, drop = score_words(model, scenes, decode, 0)
    assert found.nouns > 120
    assert found.estimates["pointing"]["word"].mean > 0.97
    assert found.estimates["pointing"]["mean"].mean < 0.9
    assert drop.mean > 0.95 and drop.interval.low > 0.8, "with the map of the next word nothing is hit"


def test_a_shift_by_one_is_noticed(scenes: tuple[Sample, ...], vocabulary: Vocabulary) -> None:
    """The mistake itself: word t paired with the row of the query at its own place, which predicts the word after."""
    model = knowing(scenes, vocabulary, 8.0)

    def misread(captioner: Any, encoder_output: EncoderOutput, _: Sequence[Any]) -> Any:
        for progress in greedy(captioner, encoder_output):
            yield Shifted(progress)

    right, _ = score_words(model, scenes, lambda captioner, encoder_output, _: greedy(captioner, encoder_output), 0)
    wrong, _ = score_words(model, scenes, misread, 0)
    assert right.estimates["pointing"]["word"].mean - wrong.estimates["pointing"]["word"].mean > 0.8
    assert wrong.flag in ("worse", "no better") and right.flag == "points"


class Shifted:
    """A decoding whose captions have the rows of the words after them."""

    def __init__(self, progress: Any) -> None:
        self.progress = progress

    @property
    def captions(self) -> tuple[Any, ...]:
        return tuple(replace(each, maps_TLHK=np.roll(each.maps_TLHK, -1, axis=0)) for each in self.progress.captions)
