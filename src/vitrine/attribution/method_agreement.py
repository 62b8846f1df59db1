"""How far methods agree: their maps of the same pictures, and their order under one perturbation or another.

Axes: M methods, P pictures, N patches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from vitrine.attribution.ranking import METRICS, Metric, ScoredMethod, metric
from vitrine.attribution.weight_randomization import rank_correlation, rankdata
from vitrine.results import round_number, shown_number

_DELETIONS = ("deletion", "deletion_blur", "deletion_others")
_FILLERS = {"deletion": "the mean colour", "deletion_blur": "a blur", "deletion_others": "other pictures' patches"}


@dataclass(frozen=True, eq=False)
class Agreement:
    """How alike the maps of every two methods are.

    Attributes:
        names: of the methods.
        correlation_MM: Spearman's rank correlation of their maps, the mean over pictures; NaN where no picture has two
            maps that differ from patch to patch.
        pictures: the fewest and the most of them that a mean is over.
    """

    names: tuple[str, ...]
    correlation_MM: npt.NDArray[np.float64]
    pictures: tuple[int, int]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; null where nothing can be said."""
        rows = [[None if np.isnan(each) else round_number(float(each)) for each in row] for row in self.correlation_MM]
        return {"methods": list(self.names), "pictures": list(self.pictures), "rank_correlation": rows}


def agreement_of(maps: Mapping[str, npt.ArrayLike]) -> Agreement:
    """The agreement of maps (P, rows, columns) of the same pictures, by method."""
    names = tuple(maps)
    flat = [np.asarray(each, dtype=np.float64).reshape(len(np.asarray(each)), -1) for each in maps.values()]
    ranks_MPN = np.stack([np.stack([rankdata(row_N) for row_N in each_PN]) for each_PN in flat])
    ranks_MPN -= ranks_MPN.mean(axis=-1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        ranks_MPN /= np.sqrt(np.square(ranks_MPN).sum(axis=-1, keepdims=True))
    each_MMP = np.einsum("apn,bpn->abp", ranks_MPN, ranks_MPN)
    counts_MM = np.count_nonzero(~np.isnan(each_MMP), axis=-1)
    with np.errstate(invalid="ignore"):
        correlation_MM = np.where(counts_MM > 0, np.nansum(each_MMP, axis=-1) / counts_MM, np.nan)
    return Agreement(names, np.clip(correlation_MM, -1, 1), (int(counts_MM.min()), int(counts_MM.max())))


def order_notes(methods: Sequence[ScoredMethod]) -> list[str]:
    """Sentences on whether the order of methods by deletion is another one with another thing in place of patches."""
    keys = [key for key in _DELETIONS if all(key in each.values for each in methods)]
    keys = [key for key in keys if all(not np.isnan(each.values[key]).all() for each in methods)]
    if len(methods) < 2 or len(keys) < 2 or keys[0] != "deletion":
        return []
    orders = {key: _order(methods, metric(key)) for key in keys}
    return [_compare(orders["deletion"], orders[key], _FILLERS[key]) for key in keys[1:]]


def _order(methods: Sequence[ScoredMethod], by: Metric) -> list[str]:
    assert by in METRICS
    sign = -1 if by.higher_is_better else 1
    return [each.name for each in sorted(methods, key=lambda each: sign * float(np.nanmean(each.values[by.key])))]


def _compare(first: Sequence[str], second: Sequence[str], filler: str) -> str:
    places = [(name, first.index(name) + 1, second.index(name) + 1) for name in first]
    start = f"Methods in the order of deletion with {filler} in place of {_FILLERS['deletion']}"
    if all(before == after for _, before, after in places):
        return f"{start}: the same."
    ranks = np.array([[before, after] for _, before, after in places], dtype=float)
    correlation = float(rank_correlation(ranks[:, 0][None], ranks[:, 1][None])[0])
    name, before, after = max(places, key=lambda place: abs(place[1] - place[2]))
    best = "the best stays" if first[0] == second[0] else f"the best is {second[0]}, not {first[0]}"
    farthest_move = f"{name} moves farthest, from place {before} to {after}"
    return f"{start}: rank correlation {shown_number(correlation)}; {best}; {farthest_move}."
