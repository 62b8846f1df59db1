"""The similarity of position embeddings, and three numbers for how much it tells about where a patch is.

Axes: R grid rows, C grid columns, D channels, P pairs of cells, N cells in rows of the grid. A similarity_RCRC has the
reference cell first: ``similarity_RCRC[r, c]`` is the map of the cell in row r and column c.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from statistics import mean, stdev
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from vitrine.attribution.weight_randomization import rankdata
from vitrine.results import percent, round_number

Floats: TypeAlias = npt.NDArray[np.float32]

TIED = 1e-6
"""Similarities nearer than this are the same: float32 tells no more."""


NUMBER_NAMES = {
    "neighbour_share": "patches that are most like a neighbour",
    "distance_correlation": "similarity and distance, correlation of ranks",
    "additive_share": "similarity that rows and columns explain",
}
"""What the numbers are called, by their field."""

NUMBER_MEANINGS = {
    "neighbour_share": "The share of patches whose most similar other patch lies right beside, above or below them.",
    "distance_correlation": "\N{MINUS SIGN}1: the further apart two patches lie, the less alike they are; 0: neither.",
    "additive_share": "How much of the differences in similarity the two rows alone plus the two columns alone say.",
}
"""The same in a sentence."""


@dataclass(frozen=True)
class PositionNumbers:
    """How much the similarities of position embeddings tell about where a patch is.

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
        return {key: round_number(v) for key, v in asdict(self).items()}


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
    return numbers_on_grid(similarity_RCRC, grid_distances(*similarity_RCRC.shape[:2]))


@dataclass(frozen=True, eq=False)
class GridDistances:
    """Neighbours and distances of the cells of a grid, from which the numbers of any embeddings on it are computed.

    Attributes:
        neighbour_NN: whether two cells are direct neighbours.
        pair_NN: marks every pair of different cells once.
        rank_P: ranks of these pairs' distances, less their mean; equal distances share the mean of their ranks.
    """

    neighbour_NN: npt.NDArray[np.bool_]
    pair_NN: npt.NDArray[np.bool_]
    rank_P: npt.NDArray[np.float64]


def grid_distances(rows: int, columns: int) -> GridDistances:
    """Neighbours and distances of the cells of a grid with this many rows and columns."""
    row_N, column_N = np.divmod(np.arange(rows * columns, dtype=np.int32), np.int32(columns))
    square_NN = (row_N[:, None] - row_N) ** 2 + (column_N[:, None] - column_N) ** 2
    pair_NN = np.tri(rows * columns, k=-1, dtype=bool)
    square_P = square_NN[pair_NN]  # ranks of squared distances are ranks of distances
    ends = np.cumsum(np.bincount(square_P))  # they are few: counting sorts them
    rank = (ends + np.r_[0, ends[:-1]] + 1) / 2
    return GridDistances(square_NN == 1, pair_NN, (rank - (len(square_P) + 1) / 2)[square_P])


def numbers_on_grid(similarity_RCRC: Floats, distances: GridDistances) -> PositionNumbers:
    """:func:`position_numbers` with the distances of the grid given, for several tables on one grid."""
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
    other_P = rankdata(similarity_P)
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


_FEWEST, _MOST, _CELLS = 2, 40, 2000  # tables drawn: few of large grids, on which the numbers hardly vary
_STD = 0.02  # of timm's initial position embeddings; cosine similarity does not depend on it
_CLEAR, _SOME = 0.5, 0.1  # shares of the way from untrained to perfect
_SIGNIFICANT = 3  # standard deviations


@dataclass(frozen=True)
class PositionControls:
    """The numbers of two controls: random embeddings, and the fixed 2-D sine embedding, which encodes position fully.

    Attributes:
        untrained_mean: over ``draws`` tables of independent normal numbers, as every training starts from.
        untrained_std: their standard deviation.
        draws: number of such tables.
        sine: of the fixed 2-D sine embedding (see :func:`sine_embedding`).
    """

    untrained_mean: PositionNumbers
    untrained_std: PositionNumbers
    draws: int
    sine: PositionNumbers


def sine_embedding(rows: int, columns: int, channels: int) -> Floats:
    """The fixed 2-D sine and cosine embedding of MAE (He et al. 2022, ``util/pos_embed.py``): float32 (R, C, D).

    The first half of the channels encodes the column, the second the row, each as sin(p w) then cos(p w) of the place
    p = 0, 1, ... with D / 4 frequencies w = 10000^(-4 i / D). MoCo v3 (Chen et al. 2021) has the halves the other way
    round, with the same similarities. A width that is no multiple of four is rounded down to one (at least to four).
    """
    quarter = max(1, channels // 4)
    frequency_D = 10000.0 ** (-np.arange(quarter) / quarter)

    def along(places: int) -> npt.NDArray[np.float64]:
        angle_ND = np.arange(places)[:, None] * frequency_D
        return np.concatenate([np.sin(angle_ND), np.cos(angle_ND)], axis=1)

    table_RCD = np.empty((rows, columns, 4 * quarter), np.float32)
    table_RCD[..., : 2 * quarter] = along(columns)[None]
    table_RCD[..., 2 * quarter :] = along(rows)[:, None]
    return table_RCD


@lru_cache(maxsize=8)
def position_controls(rows: int, columns: int, channels: int) -> PositionControls:
    """The controls for a table of this shape. They are seeded: the same shape gives the same controls."""
    seeds = range(min(_MOST, max(_FEWEST, _CELLS // (rows * columns))))
    distances = grid_distances(rows, columns)
    draws = [
        numbers_on_grid(cosine_similarity(_untrained_table(rows, columns, channels, seed)), distances) for seed in seeds
    ]
    sine = numbers_on_grid(cosine_similarity(sine_embedding(rows, columns, channels)), distances)
    return PositionControls(_statistic_of_draws(draws, mean), _statistic_of_draws(draws, stdev), len(draws), sine)


def _untrained_table(rows: int, columns: int, channels: int, seed: int) -> Floats:
    normal_RCD = np.random.default_rng(seed).standard_normal((rows, columns, channels), dtype=np.float32)
    return normal_RCD * np.float32(_STD)


def _statistic_of_draws(draws: Sequence[PositionNumbers], what: Callable[[Sequence[float]], float]) -> PositionNumbers:
    """A statistic of every number; None where it is None in a draw, which depends on the shape alone."""
    columns = {field.name: [getattr(draw, field.name) for draw in draws] for field in fields(PositionNumbers)}
    return PositionNumbers(
        **{name: None if None in values else float(what(values)) for name, values in columns.items()}  # type: ignore[arg-type]
    )


@dataclass(frozen=True, eq=False)
class PositionFindings:
    """The similarities and numbers of one model's position embeddings, and what follows from them.

    Attributes:
        similarity_RCRC: float32, -1 to 1; the reference cell first.
        channels: width of an embedding.
        numbers: of the model.
        controls: the same of untrained and of sine embeddings of this shape.
        sentence: what follows; see :func:`position_sentence`.
        notes: what else has to be known, in sentences.
    """

    similarity_RCRC: Floats
    channels: int
    numbers: PositionNumbers
    controls: PositionControls
    sentence: str
    notes: tuple[str, ...] = ()

    @property
    def rows(self) -> int:
        """Rows of the patch grid."""
        return int(self.similarity_RCRC.shape[0])

    @property
    def columns(self) -> int:
        """Columns of the patch grid."""
        return int(self.similarity_RCRC.shape[1])


def assess_positions(
    embeddings_RCD: npt.ArrayLike, *, is_fixed_sine: bool = False, notes: Sequence[str] = ()
) -> PositionFindings:
    """Similarities, numbers, controls and what follows from them.

    Args:
        embeddings_RCD: one vector a patch, of at least two patches.
        is_fixed_sine: a formula gave the vectors, no training.
        notes: sentences that go with the result.
    """
    similarity_RCRC = cosine_similarity(embeddings_RCD)
    rows, columns, channels = np.shape(embeddings_RCD)
    numbers, controls = position_numbers(similarity_RCRC), position_controls(rows, columns, channels)
    sentence = position_sentence(numbers, controls, is_fixed_sine=is_fixed_sine)
    return PositionFindings(similarity_RCRC, channels, numbers, controls, sentence, tuple(notes))


def position_sentence(numbers: PositionNumbers, controls: PositionControls, *, is_fixed_sine: bool = False) -> str:
    """What follows from the numbers, in one sentence.

    Each number is judged by how far it lies on the way from its untrained value to that of perfect knowledge (1; for
    the correlation -1). From half of the way on it counts in full, from a tenth on in part, provided that it is also
    more than three standard deviations away from the untrained tables.
    """
    if is_fixed_sine:
        return "A formula gave these embeddings (the fixed 2-D sine embedding): nothing of this was learned."
    if numbers.additive_share is None:
        return "All position embeddings are alike: they tell no place from another."
    clauses = [
        clause
        for clause in (
            _near_clause(numbers, controls),
            _lines_clause(numbers, controls),
            _far_clause(numbers, controls),
        )
        if clause is not None
    ]
    if not clauses:
        return "The grid is too small to tell whether position was learned."
    leads = (" there is no clear sign of learned position", ", position was learned in part", ", position was learned")
    lead = leads[max(grade for grade, _ in clauses)]
    phrases = [words for _, words in clauses]
    findings = ", and ".join([", ".join(phrases[:-1]), phrases[-1]] if len(phrases) > 1 else phrases)
    return f"Compared with untrained embeddings{lead}: {findings}."


def _near_clause(numbers: PositionNumbers, controls: PositionControls) -> tuple[int, str] | None:
    here, chance = numbers.neighbour_share, controls.untrained_mean.neighbour_share
    grade = _grade(here, chance, controls.untrained_std.neighbour_share, 1)
    if grade is None:
        return None
    most = "the most alike for all patches" if here == 1 else "the most alike for most patches"
    grade_words = ("not clearly more alike than by chance", "the most alike for some patches", most)[grade]
    return grade, f"neighbours are {grade_words} ({percent(here)}, untrained {percent(chance)})"


def _lines_clause(numbers: PositionNumbers, controls: PositionControls) -> tuple[int, str] | None:
    here, chance = numbers.additive_share, controls.untrained_mean.additive_share
    grade = _grade(here, chance, controls.untrained_std.additive_share, 1)
    if here is None or chance is None or grade is None:
        return None
    shares = ("do not clearly explain more of the similarity than by chance", "explain a part of the similarity")
    grade_words = (*shares, "explain most of the similarity")[grade]
    return grade, f"rows and columns {grade_words} ({percent(here)}, untrained {percent(chance)})"


def _far_clause(numbers: PositionNumbers, controls: PositionControls) -> tuple[int, str] | None:
    here, chance = numbers.distance_correlation, controls.untrained_mean.distance_correlation
    spread = controls.untrained_std.distance_correlation
    falls, rises = _grade(here, chance, spread, -1), _grade(here, chance, spread, 1)
    if falls is None:
        return None
    if rises:
        return 0, f"similarity does not fall with distance but rises {('', 'a little', 'clearly')[rises]}"
    return falls, f"similarity {('does not clearly fall', 'falls a little', 'falls clearly')[falls]} with distance"


def _grade(here: float | None, chance: float | None, spread: float | None, perfect: int) -> int | None:
    """0 as untrained, 1 in part, 2 in full; None where the number is not defined or chance is perfect already."""
    if here is None or chance is None or spread is None or abs(perfect - chance) < TIED:
        return None
    way = (here - chance) / (perfect - chance)
    if way < _SOME or abs(here - chance) <= _SIGNIFICANT * spread:
        return 0
    return 2 if way >= _CLEAR else 1
