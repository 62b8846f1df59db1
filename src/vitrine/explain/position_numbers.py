"""The similarity of position embeddings, and three numbers that say how much of a place it knows.

Axes: R grid rows, C grid columns, D channels, P pairs of cells, N cells in rows of the grid. A similarity_RCRC has the
reference cell first: ``similarity_RCRC[r, c]`` is the map of the cell in row r and column c.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from vitrine.explain.ranks import mean_ranks
from vitrine.results import rounded

Floats: TypeAlias = npt.NDArray[np.float32]

TIED = 1e-6
"""Similarities nearer than this are the same: float32 tells no more."""


@dataclass(frozen=True)
class PositionNumbers:
    """How much of a place the similarities of position embeddings know.

    Attributes:
        neighbour_share: share of cells, 0 to 1, whose most similar *other* cell is a direct neighbour (left, right,
            above or below). Where several are equally similar (within 1e-6), the share of neighbours among them counts.
        distance_correlation: Spearman's rank correlation, -1 to 1, of similarity with Euclidean distance over all
            pairs of different cells; -1 where similarity falls strictly with distance. None where either is constant.
        additive_share: share of the similarities' variance, 0 to 1, that a row term plus a column term explain: for
            each reference cell the least-squares fit similarity(r, c) = m + a(r) + b(c) over the whole grid, the
            squares summed over all reference cells. None where nothing varies.
    """

    neighbour_share: float
    distance_correlation: float | None
    additive_share: float | None

    def to_dict(self) -> dict[str, float | None]:
        """JSON-ready, rounded to six decimals."""
        return {key: rounded(v) for key, v in asdict(self).items()}


def cosine_similarity(embeddings_RCD: npt.ArrayLike) -> Floats:
    """Cosine similarity of every embedding with every other one: float32 (R, C, R, C), -1 to 1, in one matrix product.

    Lengths are computed in float64, the product in float32. A cell has similarity 1 with itself; an embedding of
    length zero has similarity 0 with all cells, itself included.
    """
    table_RCD = np.asarray(embeddings_RCD)
    rows, columns, channels = table_RCD.shape
    flat_ND = table_RCD.reshape(-1, channels).astype(np.float64)
    length_N1 = np.sqrt(np.einsum("nd,nd->n", flat_ND, flat_ND))[:, None]
    unit_ND = np.divide(flat_ND, length_N1, out=np.zeros_like(flat_ND), where=length_N1 > 0).astype(np.float32)
    similarity_NN: Floats = np.clip(unit_ND @ unit_ND.T, np.float32(-1), np.float32(1))
    np.fill_diagonal(similarity_NN, length_N1[:, 0] > 0)
    return similarity_NN.reshape(rows, columns, rows, columns)


def position_numbers(similarity_RCRC: Floats) -> PositionNumbers:
    """The numbers of one model; see :class:`PositionNumbers`.

    Args:
        similarity_RCRC: symmetric, from :func:`cosine_similarity`, of at least two cells.
    """
    return numbers_over(similarity_RCRC, grid_distances(*similarity_RCRC.shape[:2]))


@dataclass(frozen=True, eq=False)
class GridDistances:
    """What the numbers need of a grid, whatever its embeddings.

    Attributes:
        neighbour_NN: whether two cells are direct neighbours.
        pair_NN: marks every pair of different cells once.
        rank_P: ranks of these pairs' distances, less their mean; equal distances share the mean of their ranks.
    """

    neighbour_NN: npt.NDArray[np.bool_]
    pair_NN: npt.NDArray[np.bool_]
    rank_P: npt.NDArray[np.float64]


def grid_distances(rows: int, columns: int) -> GridDistances:
    """Of a grid of this many rows and columns."""
    row_N, column_N = np.divmod(np.arange(rows * columns, dtype=np.int32), np.int32(columns))
    square_NN = (row_N[:, None] - row_N) ** 2 + (column_N[:, None] - column_N) ** 2
    pair_NN = np.tri(rows * columns, k=-1, dtype=bool)
    square_P = square_NN[pair_NN]  # ranks of squared distances are ranks of distances
    ends = np.cumsum(np.bincount(square_P))  # they are few: counting sorts them
    rank = (ends + np.r_[0, ends[:-1]] + 1) / 2
    return GridDistances(square_NN == 1, pair_NN, (rank - (len(square_P) + 1) / 2)[square_P])


def numbers_over(similarity_RCRC: Floats, distances: GridDistances) -> PositionNumbers:
    """:func:`position_numbers` where several tables share a grid."""
    similarity_NN = similarity_RCRC.reshape(distances.pair_NN.shape)
    return PositionNumbers(
        _neighbour_share(similarity_NN, distances.neighbour_NN),
        _rank_correlation(similarity_NN[distances.pair_NN], distances.rank_P),
        _additive_share(similarity_RCRC),
    )


def _neighbour_share(similarity_NN: Floats, neighbour_NN: npt.NDArray[np.bool_]) -> float:
    others_NN = similarity_NN.copy()
    np.fill_diagonal(others_NN, -np.inf)
    strongest_NN = others_NN >= others_NN.max(axis=1, keepdims=True) - TIED
    share_N = (strongest_NN & neighbour_NN).sum(axis=1) / strongest_NN.sum(axis=1)
    return float(share_N.mean())


def _rank_correlation(similarity_P: Floats, rank_P: npt.NDArray[np.float64]) -> float | None:
    """Spearman's: Pearson's correlation of the ranks."""
    if similarity_P.max() - similarity_P.min() < TIED or not rank_P.any():
        return None
    other_P = mean_ranks(similarity_P)
    other_P -= (len(other_P) + 1) / 2
    return float(other_P @ rank_P / np.sqrt((other_P @ other_P) * (rank_P @ rank_P)))


def _additive_share(similarity_RCRC: Floats) -> float | None:
    """On a full grid the least-squares terms are the means of rows and columns less the mean of all."""
    rows, columns = similarity_RCRC.shape[:2]
    maps_NRC = similarity_RCRC.reshape(-1, rows, columns)
    mean_N1 = maps_NRC.mean(axis=(1, 2), dtype=np.float64)[:, None]
    by_row_NR = maps_NRC.mean(axis=2, dtype=np.float64) - mean_N1
    by_column_NC = maps_NRC.mean(axis=1, dtype=np.float64) - mean_N1
    whole = float(maps_NRC.reshape(-1, rows * columns).var(axis=1, dtype=np.float64).sum()) * rows * columns
    if whole < maps_NRC.size * TIED**2:
        return None
    return float((columns * (by_row_NR**2).sum() + rows * (by_column_NC**2).sum()) / whole)
