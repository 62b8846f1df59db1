"""What ``vitrine explain`` is asked for, and what it made: settings, pictures with their maps, the table.

Axes: R grid rows, C grid columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vitrine.evaluate.csv_records import record
from vitrine.explain.methods import Method
from vitrine.explain.verdict import Verdict

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class ExplainSettings:
    """What is made of each picture.

    Attributes:
        method: of the maps.
        target: the class that maps are for; None is the predicted one.
        each_head: also a figure with a panel a head (attention only).
        matrix: also a figure of the layer's whole attention, head by head.
        check: check every map, and say what the checks found.
        stretch: stretch every map to its own minimum and maximum; figures say so.
        scale: where the colours end, in the unit of the maps; 0 finds it on the first pictures.
        smooth: draw overlays smoothly between the middles of patches.
        kind: "png" or "svg".
        seed: of the checks.
    """

    method: Method = field(default_factory=Method)
    target: str | None = None
    each_head: bool = False
    matrix: bool = False
    check: bool = False
    stretch: bool = False
    scale: float = 0.0
    smooth: bool = True
    kind: str = "png"
    seed: int = 0


@dataclass(frozen=True, eq=False)
class ExplainedPicture:
    """One picture's map.

    Attributes:
        name: of the picture.
        figure: its file.
        predicted, probability: the likeliest class.
        target: the class that the map is for; None where the method is for none.
        true: the true label where the picture's folder or file name gives it; else None.
        scores_RC: float32, as the method gives them.
        prefix_share: what prefix tokens hold of the map's mass, 0 to 1; None where that says nothing.
        verdict: None where it was not checked.
    """

    name: str
    figure: Path
    predicted: str
    probability: float
    target: str | None
    true: str | None
    scores_RC: Floats
    prefix_share: float | None
    verdict: Verdict | None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, the map included."""
        return {
            "filename": self.name,
            "figure": str(self.figure),
            "predicted": self.predicted,
            "probability": round(self.probability, 6),
            "target": self.target,
            "true": self.true,
            "map": [[float(f"{score:.6g}") for score in row] for row in self.scores_RC.tolist()],
            "prefix_share": None if self.prefix_share is None else round(self.prefix_share, 6),
            "verdict": None if self.verdict is None else self.verdict.to_dict(),
        }


@dataclass(frozen=True)
class Explained:
    """What ``vitrine explain`` made.

    Attributes:
        out: its folder.
        pictures: with their figures.
        table: maps.csv.
        sheets: the contact sheets.
        unreadable: (name, reason) of pictures without figure.
        method: in words.
        precision: that the model ran in.
        notes: sentences on the weights.
    """

    out: Path
    pictures: tuple[ExplainedPicture, ...]
    table: Path
    sheets: tuple[Path, ...]
    unreadable: tuple[tuple[str, str], ...]
    method: str
    precision: str
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "method": self.method,
            "precision": self.precision,
            "pictures": [picture.to_dict() for picture in self.pictures],
            "unreadable": [{"name": name, "reason": reason} for name, reason in self.unreadable],
        }


def table_rows(explained: Sequence[ExplainedPicture], out: Path) -> Iterator[bytes]:
    """The records of maps.csv, the header first; figures are named from ``out`` on."""
    yield record(["filename", "figure", "label", "probability", "true", "target", "prefix_share", "verdict", "reason"])
    for each in explained:
        yield record(
            [
                each.name,
                each.figure.relative_to(out).as_posix(),
                each.predicted,
                f"{each.probability:.6f}",
                each.true or "",
                each.target or "",
                "" if each.prefix_share is None else f"{each.prefix_share:.6f}",
                "" if each.verdict is None else each.verdict.flag,
                "" if each.verdict is None else each.verdict.sentence,
            ]
        )
