"""Ranks with ties, which rank correlations are made of."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def mean_ranks(values_N: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Ranks from 1, equal values sharing the mean of theirs: float64 (N,)."""
    order_N = np.argsort(values_N)
    ascending_N = values_N[order_N]
    starts = np.flatnonzero(np.r_[True, ascending_N[1:] != ascending_N[:-1]])
    ends = np.r_[starts[1:], len(values_N)]
    rank_N = np.empty(len(values_N))
    rank_N[order_N] = np.repeat((starts + ends + 1) / 2, ends - starts)
    return rank_N
