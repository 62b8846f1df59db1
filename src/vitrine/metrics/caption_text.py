"""Captions as words: tokenisation, diversity (distinct words, repetitions), and the constant-caption baseline."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import log, sqrt
from typing import Any

from vitrine.results import DECIMALS

TOKENISATION = (
    "lower case; a word is a run of letters and digits, with - ' . / _ inside it, and , : between digits; "
    "n't 's 'm 'd 're 've 'll are words of their own; every other mark is left out"
)
"""What :func:`tokenise` does, in one line; stored with the figures."""

# Vowel signs and accents that follow a letter (Unicode's M) are none of Python's \w.
_MARKS = "".join(chr(code) for code in range(0x300, 0x1F000) if unicodedata.category(chr(code))[0] == "M")
_JOINERS = "\u200c\u200d"  # zero width, inside the words of some scripts
_RUN = rf"[^\W_](?:[^\W_]|[{_MARKS}{_JOINERS}])*"
_ENDING = r"n't|'(?:s|m|d|re|ve|ll)"
_CONTRACTION = re.compile(rf"(?<=[^\W_])({_ENDING})(?![^\W_])")
_WORD = re.compile(rf"(?<!\S)(?:{_ENDING})(?!\w)|{_RUN}(?:(?:[-'./_]|(?<=\d)[,:](?=\d)){_RUN})*")
_APOSTROPHES = str.maketrans({"’": "'", "‘": "'", "‐": "-", "‑": "-"})


def tokenise(caption: str) -> tuple[str, ...]:
    """Split a caption into words: "A man's T-shirt, isn't it?" gives ``a man 's t-shirt is n't it``.

    The text is composed (NFC) and brought to lower case. A word is a run of letters and digits; a hyphen, apostrophe,
    full stop, slash or underscore inside it belongs to it (``black-and-white``, ``o'clock``, ``3.5``, ``1/2``), and a
    comma or colon between two digits (``1,000``, ``8:25``). The endings n't, 's, 'm, 'd, 're, 've and 'll are words of
    their own. Every other mark is left out, and none is a word. Scripts without spaces give one word a run.

    These are the rules of the Penn Treebank as far as captions need them; pycocoevalcap's ``PTBTokenizer`` (Stanford
    CoreNLP 3.4.1, which needs Java) makes the same words of nearly every caption. It is not that tokeniser: that one
    also keeps the full stop of abbreviations it knows (``u.s.``, ``mr.``), keeps symbols as words (``& $ % #``) and
    brackets as ``-lrb-``, splits ``cannot`` and ``gonna`` in two and ``10:30am`` before the letters.

    Returns:
        Words without white space, none empty; an empty tuple where the caption has no letter and no digit.
    """
    text = unicodedata.normalize("NFC", caption).translate(_APOSTROPHES).lower()
    return tuple(_WORD.findall(_CONTRACTION.sub(r" \1", text)))


_EXAMPLES = 5

Words = tuple[str, ...]
"""A caption as :func:`vitrine.metrics.caption_text.tokenise` gives it."""


@dataclass(frozen=True)
class Lengths:
    """How many words captions have: the mean, the shortest and the longest caption."""

    mean: float
    shortest: int
    longest: int

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, rounded to ``DECIMALS``."""
        return {"mean": round(self.mean, DECIMALS), "min": self.shortest, "max": self.longest}


@dataclass(frozen=True)
class Diversity:
    """How varied a set of captions is, one a picture. Captions are compared as words.

    Attributes:
        captions: how many; at least 1.
        lengths: in words.
        empty: captions without a word.
        words: distinct words.
        novel_words: of these, the distinct words that no human caption has.
        novel_examples: up to five of them, the commonest first.
        distinct: distinct captions.
        duplicates: pictures whose caption another picture has too.
        commonest: the caption that most pictures have; of equals the first in the alphabet.
        commonest_count: how many have it.
        repeated_words: captions in which some word comes twice in a row.
        repeated_pairs: captions in which some pair of neighbouring words comes twice or more.
    """

    captions: int
    lengths: Lengths
    empty: int
    words: int
    novel_words: int
    novel_examples: tuple[str, ...]
    distinct: int
    duplicates: int
    commonest: str
    commonest_count: int
    repeated_words: int
    repeated_pairs: int

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: counts, and beside them shares rounded to ``DECIMALS``."""
        return {
            "length_in_words": self.lengths.to_dict(),
            "empty_captions": self.empty,
            "distinct_words": self.words,
            "words_never_said_by_a_human": self.novel_words,
            "share_of_words_never_said_by_a_human": _share(self.novel_words, self.words),
            "examples_of_them": list(self.novel_examples),
            "distinct_captions": self.distinct,
            "share_sharing_a_caption": _share(self.duplicates, self.captions),
            "commonest_caption": {"caption": self.commonest, "pictures": self.commonest_count},
            "share_with_a_word_twice_in_a_row": _share(self.repeated_words, self.captions),
            "share_with_a_pair_of_words_twice": _share(self.repeated_pairs, self.captions),
        }


def lengths(captions: Sequence[Words]) -> Lengths:
    """Count the words of captions, at least one."""
    counts = [len(words) for words in captions]
    return Lengths(sum(counts) / len(counts), min(counts), max(counts))


def caption_diversity(captions: Sequence[Words], human_words: Collection[str]) -> Diversity:
    """Measure the diversity of captions, at least one; ``human_words`` are those of these pictures' human captions."""
    times = Counter(captions)
    word_counts = Counter(word for words in captions for word in words)
    novel = sorted(
        (word for word in word_counts if word not in human_words), key=lambda word: (-word_counts[word], word)
    )
    commonest, count = min(times.items(), key=lambda item: (-item[1], item[0]))
    return Diversity(
        captions=len(captions),
        lengths=lengths(captions),
        empty=times[()],
        words=len(word_counts),
        novel_words=len(novel),
        novel_examples=tuple(novel[:_EXAMPLES]),
        distinct=len(times),
        duplicates=sum(count for count in times.values() if count > 1),
        commonest=" ".join(commonest),
        commonest_count=count,
        repeated_words=sum(any(first == second for first, second in pairwise(words)) for words in captions),
        repeated_pairs=sum(_repeats_a_pair(words) for words in captions),
    )


def _repeats_a_pair(words: Words) -> bool:
    pairs = list(pairwise(words))
    return len(set(pairs)) < len(pairs)


def _share(count: int, of: int) -> float | None:
    return round(count / of, DECIMALS) if of else None


MAX_COMPARED = 20_000
"""Captions that the constant caption is chosen among at most, evenly spaced: more would not change what is typical."""

CONSTANT_CAPTION_RULE = (
    "the one most like all others: the highest mean cosine of tf-idf vectors, averaged over n-grams of 1 to 4 words; "
    f"of more than {MAX_COMPARED:,} captions so many are compared, evenly spaced"
)
"""How :func:`constant_caption` chooses; stored with the figures."""

_LONGEST = 4

Vector = dict[Words, float]


def constant_caption(captions: Sequence[Words]) -> Words:
    """Choose the caption that is most like all others, their medoid under the cosine that CIDEr is built on.

    Source: Vedantam, Zitnick, Parikh (2015), CIDEr, equation 2.

    Every caption is a document: an n-gram that d of N captions have weighs log(N / d). Without CIDEr's clipping and
    length penalty the mean cosine to all captions is one product with the mean of their unit vectors, so the cost is
    linear in the number of captions. Of equals, the first in the alphabet.

    Raises:
        ValueError: there is no caption with a word.
    """
    times = Counter(words for words in _evenly_spaced([words for words in captions if words]))
    if not times:
        raise ValueError("Expected at least one caption with a word.")
    total, documents = times.total(), Counter[Words]()
    for words, count in times.items():
        for ngram in set(_ngrams(words)):
            documents[ngram] += count
    weight = {ngram: log(total / count) for ngram, count in documents.items()}
    centre: Vector = dict.fromkeys(documents, 0.0)
    for words, count in sorted(times.items()):
        for ngram, part in _unit_vectors(words, weight).items():
            centre[ngram] += count * part
    typical = {words: _product(_unit_vectors(words, weight), centre) / total for words in times}
    # Sums in another order differ in the last digits: equals are those that agree in twelve.
    return min(times, key=lambda words: (-round(typical[words], 12), words))


def _evenly_spaced(captions: Sequence[Words]) -> Sequence[Words]:
    if len(captions) <= MAX_COMPARED:
        return captions
    return [captions[i * len(captions) // MAX_COMPARED] for i in range(MAX_COMPARED)]


def _ngrams(words: Words) -> Iterator[Words]:
    for n in range(1, _LONGEST + 1):
        for start in range(len(words) - n + 1):
            yield words[start : start + n]


def _unit_vectors(words: Words, weight: Vector) -> Vector:
    """tf-idf, scaled so that the n-grams of each length have length 1, or 0 where all of them weigh nothing."""
    parts = {ngram: count * weight[ngram] for ngram, count in Counter(_ngrams(words)).items()}
    squares = [0.0] * (_LONGEST + 1)
    for ngram, part in parts.items():
        squares[len(ngram)] += part * part
    return {ngram: part / sqrt(squares[len(ngram)]) for ngram, part in parts.items() if part}


def _product(first: Vector, second: Vector) -> float:
    return sum(part * second[ngram] for ngram, part in first.items()) / _LONGEST
