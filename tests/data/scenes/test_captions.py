"""Captions are read back, word by word, and held against the facts of their scene."""

from __future__ import annotations

import re

import numpy as np
import pytest

from vitrine.data.scenes import FAMILIES, Scene, ScenePicture
from vitrine.data.scenes.background import COLOUR_NAMES
from vitrine.data.scenes.captions import ObjectFacts, relation, write_captions

NOUNS = "|".join(label for family in FAMILIES.values() for label in family.labels)
PHRASE = re.compile(rf"\b(a|an|the) (?:(small|large) )?({'|'.join(COLOUR_NAMES)}) ({NOUNS})\b")
RELATION = re.compile(r"\b(above|below|left of|right of)\b")


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [ScenePicture(family, 4, "train", index).scene for family in FAMILIES for index in range(150)]


def _lies(first, second, name: str) -> bool:
    """Whether ``first`` lies there as seen from ``second``, by the centres of the parts that are seen."""
    centre = [np.argwhere(item.mask).mean(0) for item in (first, second)]  # row, column
    down, across = centre[0] - centre[1]
    clear = abs(down) > abs(across) if name in ("above", "below") else abs(across) > abs(down)
    signs = {"above": down < 0, "below": down > 0, "left of": across < 0, "right of": across > 0}
    return bool(clear and signs[name])


def _objects_named(caption, scene):
    """(start, end, object index) of every noun phrase, found by colour and shape; checks article and size."""
    found = []
    for match in PHRASE.finditer(caption.text):
        article, size, colour, shape = match.groups()
        (index,) = [k for k, item in enumerate(scene.objects) if (item.colour, item.shape) == (colour, shape)]
        assert size in (None, scene.objects[index].size)
        if article != "the":
            assert (article == "an") == ((size or colour)[0] in "aeiou")
        found.append((match.start(), match.end(), index))
    return found


def test_every_caption_parses_back_to_its_scene(scenes):
    relations = 0
    for scene in scenes:
        assert len(scene.captions) >= 4
        assert len({caption.text for caption in scene.captions}) == len(scene.captions)
        for caption in scene.captions:
            phrases = _objects_named(caption, scene)
            assert {index for _, _, index in phrases} == set(range(len(scene.objects)))
            assert len(re.findall(NOUNS, caption.text)) == len(phrases)
            for match in RELATION.finditer(caption.text):
                before = [index for _, end, index in phrases if end <= match.start()]
                if caption.text[match.end() :].startswith(" it"):
                    subject, target = before[-1], 0  # "... with a small red star above it"
                else:
                    target = next(index for start, _, index in phrases if start >= match.end())
                    # "there is a large ring below a star and left of a bar": always the ring
                    subject = 0 if caption.text.startswith("there is") else before[-1]
                assert _lies(scene.objects[subject], scene.objects[target], match.group()), caption.text
                relations += 1
    assert relations > 300


def test_mentions_are_the_nouns_in_reading_order(scenes):
    for scene in scenes:
        for caption in scene.captions:
            shapes = [scene.objects[mention.object_index].shape for mention in caption.mentions]
            assert [caption.text[mention.start : mention.end] for mention in caption.mentions] == shapes
            phrases = _objects_named(caption, scene)
            assert [(end, index) for _, end, index in phrases] == [
                (mention.end, mention.object_index) for mention in caption.mentions
            ]


def test_counts_are_true(scenes):
    for scene in scenes:
        words = {"two objects": 2, "three objects": 3, "only object": 1}
        for caption in scene.captions:
            for word, count in words.items():
                assert word not in caption.text or len(scene.objects) == count


RING = ObjectFacts("ring", "blue", "large", (32.0, 32.0))


@pytest.mark.parametrize(
    ("centre", "expected"),
    [
        ((32, 10), "above"),
        ((32, 50), "below"),
        ((10, 32), "left of"),
        ((50, 30), "right of"),
        ((45, 45), None),  # diagonal
        ((34, 32), None),  # too near
    ],
)
def test_relations(centre, expected):
    assert relation(ObjectFacts("star", "red", "small", centre), RING, 64) == expected


def test_the_wording():
    star, arrow = (
        ObjectFacts("star", "red", "small", (32.0, 10.0)),
        ObjectFacts("arrow", "orange", "small", (50.0, 50.0)),
    )
    texts = [caption.text for caption in write_captions([RING, star], extent=64)]
    assert "a small red star above a large blue ring" in texts
    assert "a large blue ring with a small red star above it" in texts
    texts = [caption.text for caption in write_captions([RING, star, arrow], extent=64)]
    assert "a blue ring, a red star and an orange arrow" in texts
