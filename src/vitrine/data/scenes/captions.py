"""Captions of a scene: differently worded, all true, with the place of every word that names an object."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Mention:
    """A noun that names an object: ``text[start:end]`` of its caption.

    Attributes:
        start, end: character offsets.
        object_index: index into the scene's objects.
    """

    start: int
    end: int
    object_index: int


@dataclass(frozen=True)
class Caption:
    """A sentence or phrase and the nouns in it, in reading order."""

    text: str
    mentions: tuple[Mention, ...]


@dataclass(frozen=True)
class ObjectFacts:
    """What a caption may say of one object; ``centre`` is (x, y) in pixels, y down."""

    shape: str
    colour: str
    size: str
    centre: tuple[float, float]


_OPPOSITE = {"above": "below", "below": "above", "left of": "right of", "right of": "left of"}
_COUNTS = {2: "two", 3: "three"}
_CLEAR_GAP = 0.1  # of the picture's side, between two centres
_CLEAR_RATIO = 1.7  # of the larger to the smaller of the two offsets


def relation(first: ObjectFacts, second: ObjectFacts, extent: float) -> str | None:
    """Where ``first`` lies as seen from ``second``: "above", "below", "left of", "right of".

    None where that is not clear: the centres must lie apart by a tenth of ``extent`` (pixels a side) in that
    direction, and 1.7 times as far as in the other.
    """
    dx, dy = first.centre[0] - second.centre[0], first.centre[1] - second.centre[1]
    if max(abs(dx), abs(dy)) < _CLEAR_GAP * extent:
        return None
    if abs(dx) >= _CLEAR_RATIO * abs(dy):
        return "left of" if dx < 0 else "right of"
    if abs(dy) >= _CLEAR_RATIO * abs(dx):
        return "above" if dy < 0 else "below"
    return None


class _Writer:
    """Builds a caption piece by piece, noting where its nouns fall."""

    def __init__(self, facts: Sequence[ObjectFacts]) -> None:
        self._facts = facts
        self._text = ""
        self._mentions: list[Mention] = []

    def words(self, text: str) -> _Writer:
        self._text += text
        return self

    def a(self, index: int, *, size: bool = True) -> _Writer:
        """Adds such as "a large red star" or, without its size, "an orange star"."""
        fact = self._facts[index]
        adjectives = f"{fact.size} {fact.colour}" if size else fact.colour
        return self._phrase(index, f"{'an' if adjectives[0] in 'aeiou' else 'a'} {adjectives} ")

    def the(self, index: int) -> _Writer:
        """Adds such as "the red star"."""
        return self._phrase(index, f"the {self._facts[index].colour} ")

    def _phrase(self, index: int, before: str) -> _Writer:
        start = len(self._text) + len(before)
        self._text += before + self._facts[index].shape
        self._mentions.append(Mention(start, len(self._text), index))
        return self

    def build(self) -> Caption:
        return Caption(self._text, tuple(self._mentions))


def write_captions(facts: Sequence[ObjectFacts], *, extent: float) -> tuple[Caption, ...]:
    """At least four captions of a scene; ``facts`` begins with the main object, ``extent`` is pixels a side.

    Colours differ within a scene, so "the red star" is one object. A relation is stated only where ``relation``
    finds it clear. Every caption names every object, with its colour.
    """
    if len(facts) == 1:
        return _single_object(facts)
    relations = {index: relation(facts[index], facts[0], extent) for index in range(1, len(facts))}
    clear_relations = {index: name for index, name in relations.items() if name is not None}
    rest = (
        _from_others(facts, clear_relations)
        if len(clear_relations) == len(relations)
        else _enumeration(facts, "", size=False)
    )
    return (
        _enumeration(facts, "the picture shows "),
        _enumeration(facts, f"{_COUNTS[len(facts)]} objects: "),
        _companions(facts, clear_relations),
        _from_main(facts, clear_relations),
        rest,
    )


def _single_object(facts: Sequence[ObjectFacts]) -> tuple[Caption, ...]:
    return (
        _Writer(facts).a(0).build(),
        _Writer(facts).words("the picture shows ").a(0).build(),
        _Writer(facts).words("there is ").a(0, size=False).words(" in the picture").build(),
        _Writer(facts).words("the only object is ").a(0).build(),
    )


def _enumeration(facts: Sequence[ObjectFacts], opening: str, *, size: bool = True) -> Caption:
    """Such as "the picture shows a large blue ring, a small red star and a small green bar"."""
    writer = _Writer(facts).words(opening)
    for index in range(len(facts)):
        writer.words("" if index == 0 else " and " if index == len(facts) - 1 else ", ").a(index, size=size)
    return writer.build()


def _companions(facts: Sequence[ObjectFacts], relations: Mapping[int, str]) -> Caption:
    """Such as "a large blue ring with a small red star above it and a small green bar"."""
    writer = _Writer(facts).a(0)
    for index in range(1, len(facts)):
        writer.words(" with " if index == 1 else " and ").a(index)
        if index in relations:
            writer.words(f" {relations[index]} it")
    return writer.build()


def _from_main(facts: Sequence[ObjectFacts], relations: Mapping[int, str]) -> Caption:
    """Such as "there is a large blue ring below a small red star, and also a small green bar"."""
    writer = _Writer(facts).words("there is ").a(0)
    for rank, (index, relation_) in enumerate(relations.items()):
        writer.words(" " if rank == 0 else " and ").words(f"{_OPPOSITE[relation_]} ").a(index)
    missing = [index for index in range(1, len(facts)) if index not in relations]
    for rank, index in enumerate(missing):
        writer.words(", and also " if rank == 0 else " and ").a(index)
    return writer.build()


def _from_others(facts: Sequence[ObjectFacts], relations: Mapping[int, str]) -> Caption:
    """Such as "a small red star above a large blue ring; a small green bar right of the blue ring"."""
    writer = _Writer(facts)
    for index, relation_ in relations.items():
        writer.words("" if index == 1 else "; ").a(index).words(f" {relation_} ")
        if index == 1:
            writer.a(0)
        else:
            writer.the(0)
    return writer.build()
