"""What ``vitrine explain --score`` is asked for, and what it found: methods ranked, with a verdict each."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitrine.explain.methods import METHODS
from vitrine.explain.ranking import Ranking
from vitrine.explain.verdict import Verdict
from vitrine.models.run_folder import to_json, write_atomically
from vitrine.report.methods import methods_csv, methods_table, methods_text, save_methods_figure
from vitrine.report.provenance import Provenance


@dataclass(frozen=True)
class ScoreSettings:
    """What is scored.

    Attributes:
        methods: names of methods.
        layers: also score the attention of every other layer.
        split: of the data; None is test, else validation, else train.
        masks: a folder of masks or a COCO instances file; None looks beside the data.
        category: of COCO instances.
        limit: pictures at most; with more, a seeded choice.
        curves: pictures, the first ones, whose insertion and deletion are measured, which takes most of the time.
        batch_size: pictures at a time.
        seed: of the choice, the random control and the bootstrap.
    """

    methods: tuple[str, ...] = METHODS
    layers: bool = False
    split: str | None = None
    masks: Path | None = None
    category: str | None = None
    limit: int = 100
    curves: int = 100
    batch_size: int = 16
    seed: int = 0

    def flags(self) -> list[str]:
        """The options of ``vitrine explain --score`` that differ from what it does without any."""
        usual = ScoreSettings()
        named = {"--split": self.split, "--masks": self.masks, "--category": self.category}
        flags = [word for name, value in named.items() if value is not None for word in (name, str(value))]
        for name in ("limit", "curves", "seed"):
            if getattr(self, name) != getattr(usual, name):
                flags += [f"--{name}", str(getattr(self, name))]
        if self.methods != METHODS:
            flags += [word for name in self.methods for word in ("--method", name)]
        return [*flags, *(["--layers"] if self.layers else [])]


@dataclass(frozen=True)
class MethodScores:
    """What ``vitrine explain --score`` found.

    Attributes:
        model, data: what was scored.
        ranking: methods, then controls.
        verdicts: of every method, over all pictures.
        masks: where masks came from; None without.
        masked: pictures with a mask.
        precision: that the model ran in.
        weights_sha256: of the model; None for random ones.
        settings: what was asked for.
        notes: sentences on what was decided on the way.
    """

    model: str
    data: str
    ranking: Ranking
    verdicts: Mapping[str, Verdict]
    masks: str | None
    masked: int
    precision: str
    weights_sha256: str | None
    settings: ScoreSettings
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; seconds apart, the same scoring gives the same bytes."""
        return {
            "model": self.model,
            "data": self.data,
            "weights_sha256": self.weights_sha256,
            "precision": self.precision,
            "masks": self.masks,
            "pictures_with_mask": self.masked,
            **self.ranking.to_dict(),
            "verdicts": {name: verdict.to_dict() for name, verdict in self.verdicts.items()},
            "notes": list(self.notes),
        }

    def text(self) -> str:
        """The table, the verdicts and the notes for a person."""
        masked = f"Masks: {self.masks} ({self.masked} pictures)." if self.masks else "There are no masks."
        verdicts = [f"  {name}: {verdict.sentence}" for name, verdict in self.verdicts.items()]
        parts = [f"{self.model} on {self.data} ({self.precision})", *self.notes, masked]
        return "\n".join([*parts, "", methods_text(self.ranking).rstrip(), "", "Verdicts:", *verdicts])


def write_scores(result: MethodScores, out: Path) -> None:
    """methods.csv, methods.md, methods.json and methods.png into a folder."""
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / "methods.csv", methods_csv(result.ranking))
    write_atomically(out / "methods.md", methods_table(result.ranking).markdown() + "\n")
    write_atomically(out / "methods.json", to_json(result.to_dict()))
    flags = [*result.settings.flags(), "--precision", result.precision]
    origin = Provenance(
        "methods",
        model=result.model,
        weights_sha256=result.weights_sha256,
        precision=result.precision,
        options={"data": result.data, "pictures": result.ranking.pictures, "seed": result.ranking.seed},
        command=shlex.join(["vitrine", "explain", result.model, "--score", result.data, "-o", str(out), *flags]),
    )
    save_methods_figure(result.ranking, out / "methods.png", origin.to_metadata())
