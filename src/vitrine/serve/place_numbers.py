"""What /api/positions says: the similarity of a model's position embeddings, found once for each model."""

from __future__ import annotations

import shlex
import threading

from vitrine.errors import ModelError
from vitrine.explain.position_findings import PositionFindings, assess_positions
from vitrine.explain.positions import position_embeddings
from vitrine.serve.classifiers import ServedClassifier
from vitrine.serve.schema import Array, PositionNumber, Positions

_NAMES = {
    "neighbour_share": "cells whose most similar other cell is a direct neighbour",
    "distance_correlation": "rank correlation of similarity with distance",
    "additive_share": "similarity that a row term plus a column term explain",
}


class PlaceNumbers:
    """Findings by model, made when they are first asked for. For many threads."""

    def __init__(self) -> None:
        self._found: dict[str, PositionFindings] = {}
        self._lock = threading.Lock()

    def of(self, served: ServedClassifier) -> PositionFindings:
        """The findings of a model.

        Raises:
            ModelError: it has no position embeddings of this kind.
        """
        with self._lock:
            if served.id not in self._found:
                table = position_embeddings(served.opened.module)
                notes = (*served.opened.built.notes, *table.notes)
                found = assess_positions(table.embeddings_RCD, computed=table.computed, notes=notes)
                self._found[served.id] = found
            return self._found[served.id]


def has_positions(served: ServedClassifier) -> bool:
    """Whether a model has position embeddings that can be compared."""
    try:
        position_embeddings(served.opened.module)
    except ModelError:
        return False
    return True


def positions_info(served: ServedClassifier, found: PositionFindings) -> Positions:
    """As it is sent."""
    own, untrained, sine = (each.to_dict() for each in (found.numbers, found.controls.untrained, found.controls.sine))
    cells = found.rows * found.columns
    return Positions(
        grid=[found.rows, found.columns],
        similarity=Array.of(found.similarity_RCRC.reshape(cells, cells), "float16"),
        numbers=[
            PositionNumber(name=name, value=own[key], untrained=untrained[key], sine=sine[key])
            for key, name in _NAMES.items()
        ],
        sentences=[found.sentence, *found.notes],
        command=positions_command(served),
    )


def positions_command(served: ServedClassifier, cell: tuple[int, int] | None = None) -> str:
    """The command line that draws the figure; rows and columns of its cell count from 1."""
    words = ["vitrine", "positions", served.reference, "-o", "positions.png"]
    words += [] if cell is None else ["--cell", f"{cell[0] + 1},{cell[1] + 1}"]
    return shlex.join([*words, *(["--arch", served.architecture] if served.architecture else [])])
