"""Whether a word of a caption looked anywhere in particular: its map beside a uniform one and beside the other words'.

This is about the map's shape alone: a word that looked somewhere in particular need not have looked at what it names.

Letters: T words, K cells of the grid.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from vitrine.caption.word_maps import CaptionWord
from vitrine.results import DECIMALS

MIN_DISTANCE_TO_UNIFORM = 0.33
"""Below this :func:`jensen_shannon_distance` to a uniform map, a word's attention is spread evenly but for noise. A map
whose cells are drawn independently from 0 to 1, which looks at nothing, has 0.28 on average, and more than 0.32 one
time in twenty on 8 x 8 cells, fewer on finer grids. A map that is uniform but for a share of its attention on one
place, a fiftieth of the cells, has 0.28 with a fifth of it there and 0.36 with three tenths. A captioner of the
published shapes with weights from a seed, which cannot have learnt to look anywhere, has 0.13 to 0.27 in its last
layer."""

MIN_DISTANCE_TO_OTHERS = 0.25
"""Below this distance to the mean map of the caption's other words, a word attends where all of them attend. Words of
that captioner with weights from a seed are 0.10 to 0.26 from one another's mean, and a word with a fifth of its
attention on a small place of its own is 0.28 from it."""

Flag = Literal["particular", "average", "uniform"]


@dataclass(frozen=True)
class WordCheck:
    """Whether a word's map is localized: how far it is from a uniform map and from those of the other words.

    Distances are 0 (equal) to 1 (nothing in common).

    Attributes:
        to_uniform: distance to a map that is the same everywhere.
        to_others: distance to the mean of the caption's other maps, each counting alike; None for an only word.
    """

    to_uniform: float
    to_others: float | None

    @property
    def flag(self) -> Flag:
        """``uniform`` or ``average`` where the map is too near to one of them (to both: ``uniform``), else
        ``particular``."""
        if self.to_uniform < MIN_DISTANCE_TO_UNIFORM:
            return "uniform"
        return "average" if self.to_others is not None and self.to_others < MIN_DISTANCE_TO_OTHERS else "particular"

    @property
    def is_localized(self) -> bool:
        """Whether the map differs from both; one that is not localized says nothing about this word."""
        return self.flag == "particular"

    @property
    def sentence(self) -> str:
        """The finding for a person."""
        if self.flag == "uniform":
            return f"It looked nowhere in particular: its map is spread evenly (distance {self.to_uniform:.2f})."
        if self.flag == "average":
            return (
                "It looked nowhere in particular: its map is that of the caption's other words "
                f"(distance {self.to_others:.2f})."
            )
        others = "" if self.to_others is None else f" and {self.to_others:.2f} to the other words' mean"
        return f"It looked somewhere in particular: distance {self.to_uniform:.2f} to an even map{others}."

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: flag, sentence, and the distances rounded to ``DECIMALS``."""
        return {
            "flag": self.flag,
            "sentence": self.sentence,
            "to_uniform": round(self.to_uniform, DECIMALS),
            "to_others": None if self.to_others is None else round(self.to_others, DECIMALS),
        }


def check_words(words: Sequence[CaptionWord]) -> tuple[WordCheck, ...]:
    """Check each word of one caption against uniform and against the mean of the others, itself left out: with it, a
    word would be nearer to the mean in a short caption than in a long one.

    Raises:
        ValueError: the maps have different grids, or one is negative, zero or not finite.
    """
    if len({word.map_RC.shape for word in words}) > 1:
        raise ValueError("Expected words of one caption; their maps have different grids.")
    if not words:
        return ()
    maps_TK = np.stack([_distribution(word.map_RC) for word in words])
    total_K, uniform_K = maps_TK.sum(axis=0), np.ones(maps_TK.shape[1])
    return tuple(
        WordCheck(
            jensen_shannon_distance(map_K, uniform_K),
            jensen_shannon_distance(map_K, others_K) if len(words) > 1 else None,
        )
        # A difference of sums may fall below zero by rounding.
        for map_K, others_K in zip(maps_TK, np.maximum(total_K - maps_TK, 0), strict=True)
    )


def jensen_shannon_distance(one: npt.ArrayLike, other: npt.ArrayLike) -> float:
    """Jensen-Shannon distance of two maps, 0 to 1: the square root of their Jensen-Shannon divergence in bits (Lin
    1991; it is a metric: Endres & Schindelin 2003).

    Attention gathered on a small place counts for more than the same share spread as noise over the grid, which is as
    the eye sees it on a scale of multiples of uniform.

    Args:
        one: not negative, with a positive sum; it is divided by it.
        other: likewise, of the same shape.

    Raises:
        ValueError: different shapes, or scores that are negative, not finite or all zero.
    """
    if np.shape(one) != np.shape(other):
        raise ValueError(f"Expected two maps of one shape; got {np.shape(one)} and {np.shape(other)}.")
    one_K, other_K = _distribution(one), _distribution(other)
    middle_K = (one_K + other_K) / 2
    bits = (_divergence(one_K, middle_K) + _divergence(other_K, middle_K)) / 2
    return math.sqrt(min(max(bits, 0.0), 1.0))


def _divergence(one_K: npt.NDArray[np.float64], other_K: npt.NDArray[np.float64]) -> float:
    """Kullback-Leibler divergence in bits; 0 times its logarithm is 0."""
    there = one_K > 0
    return float((one_K[there] * np.log2(one_K[there] / other_K[there])).sum())


def _distribution(scores: npt.ArrayLike) -> npt.NDArray[np.float64]:
    scores_K = np.asarray(scores, dtype=np.float64).ravel()
    total = scores_K.sum()
    if not np.isfinite(scores_K).all() or (scores_K < 0).any() or not total > 0:
        raise ValueError("Expected a map of finite scores, none of them negative and not all zero.")
    return np.asarray(scores_K / total)
