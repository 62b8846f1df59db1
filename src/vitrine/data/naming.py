"""Which words of a caption name something, by plain rules over a list of names.

Rules, in this order:

1. Words are compared in lower case, without the punctuation around them; a hyphen inside a word counts as a blank, so
   that "fire-hydrant" is "fire hydrant" and "person-sized" no person. A possessive ("the dog's bowl") names nothing.
2. The longest phrase wins from left to right, and no phrase crosses punctuation: a "hot dog" is no dog.
3. Directly after a person, a word that is also a verb is one: "a man skis".
4. A name directly before another one only describes it: a "pizza box" is no pizza, of "carrot cake" only cake is there.
5. A name that is also a colour counts only after an article or a number, and before punctuation, the end, a preposition
   or "is": "an orange on a plate", but not "an orange cat" nor "orange and white".

What is counted is the head of a phrase, its last word or the one before "of" ("glass of wine").
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest

_ENDS = re.compile(r"^[\W_]+|[\W_]+$")
_BEFORE_COLOUR = frozenset(
    {"a", "an", "the", "one", "two", "three", "half", "each", "every", "single", "peeled", "sliced"}
)
_AFTER_COLOUR = frozenset(
    {
        "in",
        "on",
        "at",
        "of",
        "with",
        "from",
        "by",
        "near",
        "next",
        "under",
        "over",
        "behind",
        "beside",
        "between",
        "inside",
    }
    | {"into", "off", "is", "that", "which"}
)


@dataclass(frozen=True)
class Lexicon:
    """What can be named in pictures of one kind.

    Attributes:
        names: by phrase in lower case, the kind of thing that it names; "" where it is another thing, so that none of
            its words counts.
        choosing: words before a name that say which of several it is: colours.
        passing: words that may stand between those and the name: sizes.
        verbs: names that are verbs directly after one of the kind "person".
        colours: names that are also colours.
    """

    names: Mapping[str, str]
    choosing: frozenset[str] = frozenset()
    passing: frozenset[str] = frozenset()
    verbs: frozenset[str] = frozenset()
    colours: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Name:
    """A name in a caption.

    Attributes:
        index: of its head among the caption's words.
        phrase: as it is in the lexicon.
        kind: of thing.
        chosen: the choosing words before it, in reading order.
    """

    index: int
    phrase: str
    kind: str
    chosen: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Span:
    start: int
    stop: int
    phrase: str
    kind: str


def find_names(words: Sequence[str], lexicon: Lexicon) -> tuple[Name, ...]:
    """The names in a caption, by the rules of this module.

    Args:
        words: the caption's whole words, punctuation attached.
        lexicon: what can be named.
    """
    bare = [bare_word(word) for word in words]
    open_end = [not _parted(words, place) for place in range(len(words))]
    names: list[Name] = []
    spans = _spans(bare, open_end, lexicon)
    verb = None
    for span, following in zip_longest(spans, spans[1:]):
        is_verb, verb = span is verb, None
        touching = following is not None and following.start == span.stop and open_end[span.stop - 1]
        if touching and span.kind == "person" and following is not None and following.phrase in lexicon.verbs:
            verb, touching = following, False
        if is_verb or touching or not span.kind:
            continue
        if span.phrase in lexicon.colours and not _is_thing(bare, open_end, span):
            continue
        parts = bare[span.start : span.stop]
        head = span.start + parts.index("of") - 1 if "of" in parts[1:] else span.stop - 1
        names.append(Name(head, span.phrase, span.kind, _chosen(bare, open_end, span.start, lexicon)))
    return tuple(names)


def bare_word(word: str) -> str:
    """Lower case, without punctuation around it, hyphens as blanks."""
    return " ".join(_ENDS.sub("", word.lower()).replace("’", "'").replace("-", " ").replace("‐", " ").split())


def _parted(words: Sequence[str], place: int) -> bool:
    """Whether punctuation, or the end, follows a word."""
    if place + 1 == len(words):
        return True
    return not words[place][-1:].isalnum() or not words[place + 1][:1].isalnum()


def _spans(bare: Sequence[str], open_end: Sequence[bool], lexicon: Lexicon) -> list[_Span]:
    longest = max((phrase.count(" ") + 1 for phrase in lexicon.names), default=0)
    spans, start = [], 0
    while start < len(bare):
        stop = start
        while stop < len(bare) and stop - start < longest:
            stop += 1
            if not open_end[stop - 1]:
                break
        while stop > start and " ".join(bare[start:stop]) not in lexicon.names:
            stop -= 1
        if stop > start:
            phrase = " ".join(bare[start:stop])
            spans.append(_Span(start, stop, phrase, lexicon.names[phrase]))
        start = max(stop, start + 1)
    return spans


def _is_thing(bare: Sequence[str], open_end: Sequence[bool], span: _Span) -> bool:
    if span.start == 0 or bare[span.start - 1] not in _BEFORE_COLOUR:
        return False
    return not open_end[span.stop - 1] or bare[span.stop] in _AFTER_COLOUR


def _chosen(bare: Sequence[str], open_end: Sequence[bool], start: int, lexicon: Lexicon) -> tuple[str, ...]:
    found: list[str] = []
    place = start - 1
    while place >= 0 and open_end[place] and bare[place] in lexicon.choosing | lexicon.passing:
        if bare[place] in lexicon.choosing:
            found.insert(0, bare[place])
        place -= 1
    return tuple(found)
