"""Whether position was learned: the numbers of a model, beside those of embeddings that know nothing and all.

Axes: R grid rows, C grid columns, D channels, N places along one axis.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from statistics import mean, stdev

import numpy as np
import numpy.typing as npt

from vitrine.explain.position_numbers import (
    TIED,
    Floats,
    PositionNumbers,
    cosine_similarity,
    grid_distances,
    numbers_over,
    position_numbers,
)

_FEWEST, _MOST, _CELLS = 2, 40, 2000  # tables drawn: few of large grids, on which the numbers hardly vary
_STD = 0.02  # of timm's initial position embeddings; cosine similarity does not depend on it
_CLEAR, _SOME = 0.5, 0.1  # shares of the way from untrained to perfect
_SIGNIFICANT = 3  # standard deviations


@dataclass(frozen=True)
class PositionControls:
    """The same numbers of embeddings that know nothing, and of embeddings that were made to know all.

    Attributes:
        untrained: mean over ``draws`` tables of independent normal numbers, as every training starts from.
        untrained_spread: their standard deviation.
        draws: number of such tables.
        sine: of the fixed 2-D sine embedding (see :func:`sine_embedding`).
    """

    untrained: PositionNumbers
    untrained_spread: PositionNumbers
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
    """What the numbers are compared with, for a table of this shape. Seeded: the same shape gives the same controls."""
    seeds = range(min(_MOST, max(_FEWEST, _CELLS // (rows * columns))))
    distances = grid_distances(rows, columns)
    draws = [numbers_over(cosine_similarity(_untrained(rows, columns, channels, seed)), distances) for seed in seeds]
    sine = numbers_over(cosine_similarity(sine_embedding(rows, columns, channels)), distances)
    return PositionControls(_over(draws, mean), _over(draws, stdev), len(draws), sine)


def _untrained(rows: int, columns: int, channels: int, seed: int) -> Floats:
    normal_RCD = np.random.default_rng(seed).standard_normal((rows, columns, channels), dtype=np.float32)
    return normal_RCD * np.float32(_STD)


def _over(draws: Sequence[PositionNumbers], what: Callable[[Sequence[float]], float]) -> PositionNumbers:
    """A statistic of every number; None where it is None in a draw, which depends on the shape alone."""
    columns = {field.name: [getattr(draw, field.name) for draw in draws] for field in fields(PositionNumbers)}
    return PositionNumbers(
        **{name: None if None in values else float(what(values)) for name, values in columns.items()}  # type: ignore[arg-type]
    )


@dataclass(frozen=True, eq=False)
class PositionFindings:
    """What the position embeddings of one model say.

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
    embeddings_RCD: npt.ArrayLike, *, computed: bool = False, notes: Sequence[str] = ()
) -> PositionFindings:
    """Similarities, numbers, controls and what follows from them.

    Args:
        embeddings_RCD: one vector a patch, of at least two patches.
        computed: a formula gave the vectors, no training.
        notes: sentences that go with the result.
    """
    similarity_RCRC = cosine_similarity(embeddings_RCD)
    rows, columns, channels = np.shape(embeddings_RCD)
    numbers, controls = position_numbers(similarity_RCRC), position_controls(rows, columns, channels)
    sentence = position_sentence(numbers, controls, computed=computed)
    return PositionFindings(similarity_RCRC, channels, numbers, controls, sentence, tuple(notes))


def position_sentence(numbers: PositionNumbers, controls: PositionControls, *, computed: bool = False) -> str:
    """What follows from the numbers, in one sentence.

    Each number is judged by how far it lies on the way from its untrained value to that of perfect knowledge (1; for
    the correlation -1). From half of the way on it counts in full, from a tenth on in part, provided that it is also
    more than three standard deviations away from the untrained tables.
    """
    if computed:
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
    found = [words for _, words in clauses]
    listed = ", and ".join([", ".join(found[:-1]), found[-1]] if len(found) > 1 else found)
    return f"Compared with untrained embeddings{lead}: {listed}."


def _near_clause(numbers: PositionNumbers, controls: PositionControls) -> tuple[int, str] | None:
    here, chance = numbers.neighbour_share, controls.untrained.neighbour_share
    grade = _grade(here, chance, controls.untrained_spread.neighbour_share, 1)
    if grade is None:
        return None
    most = "the most alike in all cells" if here == 1 else "the most alike in most cells"
    found = ("not clearly more alike than by chance", "the most alike in some cells", most)[grade]
    return grade, f"neighbours are {found} ({100 * here:.1f} %, untrained {100 * chance:.1f} %)"


def _lines_clause(numbers: PositionNumbers, controls: PositionControls) -> tuple[int, str] | None:
    here, chance = numbers.additive_share, controls.untrained.additive_share
    grade = _grade(here, chance, controls.untrained_spread.additive_share, 1)
    if here is None or chance is None or grade is None:
        return None
    shares = ("do not clearly explain more of the similarity than by chance", "explain a part of the similarity")
    found = (*shares, "explain most of the similarity")[grade]
    return grade, f"rows and columns {found} ({100 * here:.1f} %, untrained {100 * chance:.1f} %)"


def _far_clause(numbers: PositionNumbers, controls: PositionControls) -> tuple[int, str] | None:
    here, chance = numbers.distance_correlation, controls.untrained.distance_correlation
    spread = controls.untrained_spread.distance_correlation
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
