"""Means over nouns whose pictures are the unit: a bootstrap that draws pictures with all their nouns.

Axes: N nouns, P pictures, L resamples, K columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from vitrine.explain.ranking import MIN_PICTURES
from vitrine.results import Interval, rounded

_BLOCK = 4_000_000  # weights that are in memory at a time

Floats = npt.NDArray[np.floating]


@dataclass(frozen=True)
class NounMean:
    """A mean over nouns, with its 95 % interval from :data:`~vitrine.explain.ranking.MIN_PICTURES` pictures on."""

    mean: float
    interval: Interval | None
    nouns: int
    pictures: int

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, rounded to ``DECIMALS``."""
        ends = None if self.interval is None else [rounded(self.interval.low), rounded(self.interval.high)]
        return {"mean": rounded(self.mean), "interval_95": ends, "nouns": self.nouns, "pictures": self.pictures}


def clustered_means(names: Sequence[str], values_NK: Floats, low: float, resamples: int, seed: int) -> list[NounMean]:
    """The mean over nouns of each column, with its interval from drawing pictures.

    Nouns of one picture are no independent witnesses, so whole pictures are drawn with replacement, with all their
    nouns; the interval's ends are the 2.5 and 97.5 per cent quantiles of the means over nouns.

    Source: A. C. Davison, D. V. Hinkley (1997), Bootstrap methods and their application, section 3.8 (cluster
    bootstrap, percentile interval).

    Args:
        names: of the picture of each noun.
        values_NK: finite.
        low: the lowest value there can be; the highest is 1.
        resamples: bootstrap samples.
        seed: of the bootstrap.

    Raises:
        ValueError: ``resamples`` below 1.
    """
    if resamples < 1:
        raise ValueError(f"A bootstrap needs 1 resample at least; got {resamples}.")
    pictures, of_N = np.unique(np.array(names), return_inverse=True)
    nouns, number = len(names), len(pictures)
    means_K = values_NK.mean(axis=0)
    if number < MIN_PICTURES:
        return [NounMean(float(mean), None, nouns, number) for mean in means_K]
    count_P, sum_PK = np.zeros(number), np.zeros((number, len(means_K)))
    np.add.at(count_P, of_N, 1)
    np.add.at(sum_PK, of_N, values_NK)
    ends_2K = np.quantile(_resampled(sum_PK, count_P, resamples, seed), [0.025, 0.975], axis=0)
    found = []
    for column, mean in enumerate(means_K):
        interval = Interval(float(ends_2K[0, column]), float(ends_2K[1, column]))
        # All the best or all the worst: the bootstrap has no width, n of n successes have (Clopper and Pearson 1934).
        missing = (1 - low) * (1 - 0.025 ** (1 / number))
        if (values_NK[:, column] == 1).all():
            interval = Interval(1 - missing, 1.0)
        elif (values_NK[:, column] == low).all():
            interval = Interval(low, low + missing)
        found.append(NounMean(float(mean), interval, nouns, number))
    return found


def _resampled(sum_PK: Floats, count_P: Floats, resamples: int, seed: int) -> npt.NDArray[np.float64]:
    """Means over the nouns of pictures drawn with replacement: (L, K). A draw is how often each picture came."""
    rng, number = np.random.default_rng(seed), len(count_P)
    rows = max(1, _BLOCK // number)
    means = []
    for done in range(0, resamples, rows):
        drawn_LP = rng.multinomial(number, np.full(number, 1 / number), size=min(rows, resamples - done))
        means.append((drawn_LP @ sum_PK) / (drawn_LP @ count_P)[:, None])
    return np.concatenate(means)
