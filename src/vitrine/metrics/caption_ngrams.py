"""BLEU, ROUGE-L and CIDEr by pycocoevalcap's pure-Python scorers, and without each of the pictures.

pycocoevalcap is an optional dependency, imported when it is first used. It has no type annotations.

Axes: P pictures, L sets of them, V values a picture; a number is a size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt

from vitrine.metrics.caption_text import Words

NO_SCORERS = "BLEU, ROUGE-L and CIDEr were not computed: pip install 'vitrine[caption-metrics]' brings their scorers."
"""What is said where pycocoevalcap is not installed."""

NGRAM_METRICS = ("bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l", "cider")

_LONGEST = 4
_SMALL, _TINY = 1e-9, 1e-15  # pycocoevalcap's guards against division by zero

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class NgramScores:
    """BLEU, ROUGE-L and CIDEr of one set of captions.

    Attributes:
        corpus: by key of :data:`NGRAM_METRICS`, as pycocoevalcap gives them: BLEU and ROUGE-L 0 to 1, CIDEr 0 to 10.
        values_PV: float64; the ten counts that a corpus BLEU is made of (n-grams that match, n-grams there are, words,
            words of the reference of closest length), then ROUGE-L and CIDEr of the picture.
    """

    corpus: Mapping[str, float]
    values_PV: Floats

    def without_each(self) -> dict[str, Floats]:
        """Every metric of all pictures but one, for each of them in turn, float64 (P,); there are two at least.

        CIDEr keeps the idf weights of all pictures: what is left is the mean of its figures by picture.
        """
        sums_PV = self.values_PV.sum(axis=0) - self.values_PV
        means_P2 = sums_PV[:, -2:] / (len(self.values_PV) - 1)
        return dict(zip(NGRAM_METRICS, (*corpus_bleu(sums_PV[:, :-2]).T, *means_P2.T), strict=True))


def scorers() -> tuple[Any, Any, Any] | None:
    """pycocoevalcap's BleuScorer, Rouge and CiderScorer; None where it is not installed."""
    try:
        return (
            import_module("pycocoevalcap.bleu.bleu_scorer").BleuScorer,
            import_module("pycocoevalcap.rouge.rouge").Rouge,
            import_module("pycocoevalcap.cider.cider_scorer").CiderScorer,
        )
    except ImportError:
        return None


def ngram_scores(captions: Sequence[Words], references: Sequence[Sequence[Words]]) -> NgramScores | None:
    """Score one caption a picture against its references; None where pycocoevalcap is not installed.

    - BLEU-1 to 4 (Papineni et al. 2002) of the corpus: matching n-grams are summed over pictures before the division.
      The brevity penalty takes for each picture the reference of closest length, of two equally close the shorter.
      pycocoevalcap adds 1e-15 and 1e-9 to avoid a division by zero.
    - ROUGE-L (Lin 2004), beta 1.2: mean over pictures; precision and recall are each the best over the references.
    - CIDEr (Vedantam et al. 2015) in its variant D, sigma 6, as pycocoevalcap computes it: mean over pictures. An
      n-gram that every picture's references have weighs nothing, so that with one picture CIDEr is 0 whatever it says.

    Args:
        captions: P, each of which may be without words.
        references: P, one at least for each picture, all with words.
    """
    classes = scorers()
    if classes is None:
        return None
    make_bleu, _, make_cider = classes
    bleu, cider = make_bleu(n=_LONGEST), make_cider()
    for words, others in zip(captions, references, strict=True):
        caption, texts = " ".join(words), [" ".join(other) for other in others]
        bleu += (caption, texts)
        cider += (caption, texts)
    rouge_P = np.array(rouge_l(captions, references))
    bleu_4, _ = bleu.compute_score(option="closest", verbose=0)
    cider_mean, cider_P = cider.compute_score()
    counts_P10 = np.array([_bleu_counts(picture) for picture in bleu.ctest], dtype=np.float64)
    corpus = [float(value) for value in (*bleu_4, rouge_P.mean(), cider_mean)]
    return NgramScores(
        dict(zip(NGRAM_METRICS, corpus, strict=True)), np.column_stack([counts_P10, rouge_P, np.asarray(cider_P)])
    )


def rouge_l(captions: Sequence[Words], references: Sequence[Sequence[Words]]) -> list[float] | None:
    """ROUGE-L of each picture, as in :func:`ngram_scores`, 0 to 1; None where pycocoevalcap is not installed."""
    classes = scorers()
    if classes is None:
        return None
    rouge = classes[1]()
    pairs = zip(captions, references, strict=True)
    return [
        float(rouge.calc_score([" ".join(words)], [" ".join(other) for other in others])) for words, others in pairs
    ]


def corpus_bleu(counts_L10: Floats) -> Floats:
    """BLEU-1 to 4, float64 (L, 4), of sums over pictures: four of matches, four of n-grams, words, reference words."""
    match_L4, there_L4, words_L, closest_L = (counts_L10[:, :4], counts_L10[:, 4:8], *counts_L10[:, 8:].T)
    logs_L4 = np.log(match_L4 + _TINY) - np.log(there_L4 + _SMALL)
    means_L4 = np.cumsum(logs_L4, axis=1) / np.arange(1, _LONGEST + 1)
    ratio_L1 = ((words_L + _TINY) / (closest_L + _SMALL))[:, None]
    bleu_L4: Floats = np.exp(means_L4 + np.minimum(0.0, 1 - 1 / ratio_L1))
    return bleu_L4


def _bleu_counts(picture: Mapping[str, Any]) -> list[int]:
    words = picture["testlen"]
    closest = min((abs(length - words), length) for length in picture["reflen"])[1]
    return [*picture["correct"], *picture["guess"], words, closest]
