"""The control of a captioner: one caption for every picture, the most typical that people wrote.

Axes: n of n-grams, 1 to 4 words.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from math import log, sqrt

from vitrine.evaluate.caption_variety import Words

MOST = 20_000
"""Captions that are compared at most, evenly spaced through the list: more would not change what is typical."""

RULE = (
    "the one most like all others: the highest mean cosine of tf-idf vectors, averaged over n-grams of 1 to 4 words; "
    f"of more than {MOST:,} captions so many are compared, evenly spaced"
)
"""How :func:`constant_caption` chooses; stored with the figures."""

_LONGEST = 4

Vector = dict[Words, float]


def constant_caption(captions: Sequence[Words]) -> Words:
    """The medoid of captions under the cosine that CIDEr is built on (Vedantam, Zitnick, Parikh 2015, equation 2).

    Every caption is a document: an n-gram that d of N captions have weighs log(N / d). Without CIDEr's clipping and
    length penalty the mean cosine to all captions is one product with the mean of their unit vectors, so the cost is
    linear in the number of captions. Of equals, the first in the alphabet.

    Raises:
        ValueError: there is no caption with a word.
    """
    times = Counter(words for words in _spaced([words for words in captions if words]))
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


def _spaced(captions: Sequence[Words]) -> Sequence[Words]:
    if len(captions) <= MOST:
        return captions
    return [captions[i * len(captions) // MOST] for i in range(MOST)]


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
