"""How varied captions are: their length, their words, and what they repeat. Nothing here needs a reference metric."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from vitrine.results import DECIMALS

_EXAMPLES = 5

Words = tuple[str, ...]
"""A caption as :func:`vitrine.evaluate.caption_tokens.tokenise` gives it."""


@dataclass(frozen=True)
class Lengths:
    """Words a caption."""

    mean: float
    shortest: int
    longest: int

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, rounded to ``DECIMALS``."""
        return {"mean": round(self.mean, DECIMALS), "min": self.shortest, "max": self.longest}


@dataclass(frozen=True)
class Variety:
    """What one set of captions, one a picture, says and repeats. Captions are compared as words.

    Attributes:
        captions: how many; at least 1.
        lengths: in words.
        empty: captions without a word.
        words: distinct words.
        unheard: of these, the distinct words that no human caption has.
        unheard_examples: up to five of them, the commonest first.
        distinct: distinct captions.
        shared: pictures whose caption another picture has too.
        commonest: the caption that most pictures have; of equals the first in the alphabet.
        commonest_count: how many have it.
        stutters: captions in which some word comes twice in a row.
        repeats: captions in which some pair of neighbouring words comes twice or more.
    """

    captions: int
    lengths: Lengths
    empty: int
    words: int
    unheard: int
    unheard_examples: tuple[str, ...]
    distinct: int
    shared: int
    commonest: str
    commonest_count: int
    stutters: int
    repeats: int

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: counts, and beside them shares rounded to ``DECIMALS``."""
        return {
            "length_in_words": self.lengths.to_dict(),
            "empty_captions": self.empty,
            "distinct_words": self.words,
            "words_never_said_by_a_human": self.unheard,
            "share_of_words_never_said_by_a_human": _share(self.unheard, self.words),
            "examples_of_them": list(self.unheard_examples),
            "distinct_captions": self.distinct,
            "share_sharing_a_caption": _share(self.shared, self.captions),
            "commonest_caption": {"caption": self.commonest, "pictures": self.commonest_count},
            "share_with_a_word_twice_in_a_row": _share(self.stutters, self.captions),
            "share_with_a_pair_of_words_twice": _share(self.repeats, self.captions),
        }


def lengths(captions: Sequence[Words]) -> Lengths:
    """Mean, least and most words of at least one caption."""
    counts = [len(words) for words in captions]
    return Lengths(sum(counts) / len(counts), min(counts), max(counts))


def variety(captions: Sequence[Words], heard: Collection[str]) -> Variety:
    """The figures of captions, at least one; ``heard`` are the words that humans said of these pictures."""
    times = Counter(captions)
    said = Counter(word for words in captions for word in words)
    unheard = sorted((word for word in said if word not in heard), key=lambda word: (-said[word], word))
    commonest, count = min(times.items(), key=lambda item: (-item[1], item[0]))
    return Variety(
        captions=len(captions),
        lengths=lengths(captions),
        empty=times[()],
        words=len(said),
        unheard=len(unheard),
        unheard_examples=tuple(unheard[:_EXAMPLES]),
        distinct=len(times),
        shared=sum(count for count in times.values() if count > 1),
        commonest=" ".join(commonest),
        commonest_count=count,
        stutters=sum(any(first == second for first, second in pairwise(words)) for words in captions),
        repeats=sum(_repeats_a_pair(words) for words in captions),
    )


def _repeats_a_pair(words: Words) -> bool:
    pairs = list(pairwise(words))
    return len(set(pairs)) < len(pairs)


def _share(count: int, of: int) -> float | None:
    return round(count / of, DECIMALS) if of else None
