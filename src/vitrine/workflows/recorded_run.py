"""What finished runs of both kinds have in common when they are read back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Generic, TypeVar

from vitrine.models.run_folder import RunFolder
from vitrine.recipes import Recipe
from vitrine.results import CaptioningMetrics, ClassificationMetrics

Metrics = TypeVar("Metrics", ClassificationMetrics, CaptioningMetrics)


@dataclass(frozen=True)
class RecordedRun(Generic[Metrics]):
    """A finished run.

    Attributes:
        name: what a comparison calls it.
        folder: its files.
        recipe: resolved.
        metrics: on its validation pictures.
        data: content of data.json.
    """

    name: str
    folder: RunFolder
    recipe: Recipe
    metrics: Metrics
    data: Mapping[str, Any]

    @cached_property
    def pictures(self) -> frozenset[tuple[str, str]]:
        """(name, sha256) of every validation picture."""
        return frozenset((row["name"], row["sha256"]) for row in self.data["splits"]["validation"])
