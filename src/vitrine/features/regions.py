"""Regions of pictures: patches whose tokens are alike (k-means), and how well they agree with masks.

Axes: N patches, D channels, K regions, R grid rows, C grid columns.
"""

from __future__ import annotations

import warnings

import numpy as np
import numpy.typing as npt
from scipy.cluster.vq import kmeans2

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

FITTED_PATCHES = 20_000
"""Patches at most that centres are fitted to, drawn with the seed."""

_STARTS, _STEPS = 4, 50


def fit_centres(tokens_ND: Floats, count: int, seed: int = 0) -> Floats:
    """Centres of k-means: float32 (K, D), the largest group first.

    Lloyd's algorithm from k-means++ starts (D. Arthur, S. Vassilvitskii 2007), the best of four by the squared distance
    that remains. Fewer patches than groups give a centre to each patch.

    Args:
        tokens_ND: finite.
        count: groups, 2 or more.
        seed: of the starts, and of the patches that are fitted where there are more than :data:`FITTED_PATCHES`.
    """
    rng = np.random.default_rng(seed)
    if len(tokens_ND) > FITTED_PATCHES:
        tokens_ND = tokens_ND[rng.choice(len(tokens_ND), FITTED_PATCHES, replace=False)]
    distinct_ND = np.unique(tokens_ND, axis=0)
    if len(distinct_ND) <= count:
        return distinct_ND.astype(np.float32)
    best: tuple[float, npt.NDArray[np.float64]] = (np.inf, np.zeros((0, 0)))
    for _ in range(_STARTS):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # a group that became empty: this start loses to another
            centres_KD, _labels = kmeans2(tokens_ND.astype(np.float64), count, iter=_STEPS, minit="++", rng=rng)
        remaining = float(_distances(tokens_ND, centres_KD).min(axis=1).sum())
        best = min(best, (remaining, centres_KD), key=lambda each: each[0])
    sizes_K = np.bincount(assign(tokens_ND, best[1].astype(np.float32)), minlength=count)
    centres: Floats = best[1][np.argsort(-sizes_K, kind="stable")].astype(np.float32)
    return centres


def assign(tokens_ND: Floats, centres_KD: Floats) -> Ints:
    """The nearest centre of each token, from 0: int64 (...)."""
    flat_ND = tokens_ND.reshape(-1, tokens_ND.shape[-1])
    nearest: Ints = _distances(flat_ND, centres_KD).argmin(axis=1).reshape(tokens_ND.shape[:-1])
    return nearest


def _distances(tokens_ND: npt.NDArray[np.floating], centres_KD: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Squared distances (N, K)."""
    tokens_ND, centres_KD = tokens_ND.astype(np.float64), centres_KD.astype(np.float64)
    products_NK = tokens_ND @ centres_KD.T
    distances_NK: npt.NDArray[np.float64] = (
        (tokens_ND**2).sum(axis=1)[:, None] - 2 * products_NK + (centres_KD**2).sum(axis=1)
    )
    return distances_NK


def adjusted_rand_index(labels_N: npt.ArrayLike, inside_N: npt.ArrayLike) -> float:
    """How well two groupings of the same patches agree: 1 for the same groups, 0 on average for random ones.

    Source: L. Hubert, P. Arabie (1985), Comparing partitions, Journal of Classification 2.

    Args:
        labels_N: group of each patch in one of them, of any shape.
        inside_N: in the other, of the same shape.

    Raises:
        ValueError: shapes differ, or there is no patch.
    """
    labels, inside = np.asarray(labels_N).ravel(), np.asarray(inside_N).ravel()
    if labels.shape != inside.shape or not labels.size:
        raise ValueError(f"Expected two groupings of the same patches; got {labels.shape} and {inside.shape}.")
    _, row = np.unique(labels, return_inverse=True)
    _, column = np.unique(inside, return_inverse=True)
    table = np.zeros((row.max() + 1, column.max() + 1))
    np.add.at(table, (row, column), 1)
    together, in_rows, in_columns = (_pairs(each).sum() for each in (table, table.sum(axis=1), table.sum(axis=0)))
    expected = in_rows * in_columns / _pairs(np.float64(labels.size)) if labels.size > 1 else 0.0
    largest = (in_rows + in_columns) / 2
    return 1.0 if largest == expected else float((together - expected) / (largest - expected))


def _pairs(counts: npt.NDArray[np.float64] | np.float64) -> npt.NDArray[np.float64]:
    return np.asarray(counts * (counts - 1) / 2)
