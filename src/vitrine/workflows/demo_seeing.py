"""The demo's look inside its final model: position embeddings, maps of some pictures, and methods scored on masks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vitrine.explain.ranking import RankedMethod
from vitrine.models.reference import BUNDLED
from vitrine.workflows.explained import Explained, ExplainSettings
from vitrine.workflows.explaining import explain
from vitrine.workflows.method_scores import MethodScores, ScoreSettings, write_scores
from vitrine.workflows.opened import open_model
from vitrine.workflows.positions import PositionsResult, positions
from vitrine.workflows.scoring import score_methods

_MAPPED = 24
_SCORED = 120
_CURVES = 10


@dataclass(frozen=True)
class InsideView:
    """What the demo saw inside its final model.

    Attributes:
        positions: of the model before and after its fine-tuning.
        maps: of some test pictures.
        scores: of the methods, on test pictures with the scenes' own masks.
    """

    positions: PositionsResult
    maps: Explained
    scores: MethodScores

    def text(self) -> str:
        """The lines that the demo prints."""
        best = self.scores.ranking.rows[0]
        controls = [row for row in self.scores.ranking.rows if row.is_control]
        beside = ", ".join(f"{row.name} {_hit(row)}" for row in controls)
        return (
            f"Do maps point at the object? Of {len(self.scores.verdicts)} methods and layers, {best.name} does best: "
            f"its strongest patch\n  is on the object in {_hit(best)} of {self.scores.ranking.pictures} test pictures. "
            f"Controls: {beside}.\n  {self.scores.verdicts[best.name].sentence}"
        )


def _hit(row: RankedMethod) -> str:
    found = row.estimates["pointing"]
    ends = "" if found.interval is None else f" ({found.interval.low:.2f} to {found.interval.high:.2f})"
    return f"{found.mean:.2f}{ends}"


def see_inside(run: Path, pictures: Path, out: Path, *, seed: int) -> InsideView:
    """Write positions.png and maps/ below ``out``, and methods/ into the run.

    Args:
        run: the final run.
        pictures: the demo's scenes, with masks.
        out: the demo's folder.
        seed: of the pictures that are drawn.
    """
    model = str(run)
    return InsideView(
        positions=positions(model, out / "positions.png", before=BUNDLED),
        maps=explain(model, pictures / "test", out / "maps", ExplainSettings(check=True, seed=seed), limit=_MAPPED),
        scores=_score(model, pictures, run / "methods", seed),
    )


def _score(model: str, pictures: Path, out: Path, seed: int) -> MethodScores:
    settings = ScoreSettings(layers=True, split="test", limit=_SCORED, curves=_CURVES, batch_size=16, seed=seed)
    scores = score_methods(open_model(model), model, str(pictures), settings)
    write_scores(scores, out)
    return scores
