"""What a model card is made of: the content of a run's files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vitrine.recipes import Recipe
from vitrine.results import CaptioningMetrics, ClassificationMetrics


@dataclass(frozen=True)
class ExportFacts:
    """The export that a card is for.

    Attributes:
        to: hf, timm, onnx or pt2.
        name: of its folder.
        precision: of the stored weights.
        found: what was compared with the run, in sentences.
    """

    to: str
    name: str
    precision: str
    found: tuple[str, ...]


@dataclass(frozen=True)
class CardFacts:
    """A finished run.

    Attributes:
        name: of its folder.
        recipe: its settings.
        labels: class names; none of a captioner.
        metrics: what it measured at its end.
        split: what that was measured on.
        data: content of data.json.
        environment: content of environment.json.
        history: rows of history.jsonl.
        config: content of config.json.
        parameters: numbers in its weights.
        figures: (path from the card, what it shows).
        export: None in the run's own card.
        places: folders and files of this machine that texts may mention.
    """

    name: str
    recipe: Recipe
    labels: tuple[str, ...]
    metrics: ClassificationMetrics | CaptioningMetrics
    split: str
    data: Mapping[str, Any]
    environment: Mapping[str, Any]
    history: Sequence[Mapping[str, Any]]
    config: Mapping[str, Any]
    parameters: int
    figures: tuple[tuple[str, str], ...] = ()
    export: ExportFacts | None = None
    places: tuple[str, ...] = ()

    @property
    def classifies(self) -> bool:
        """Whether it is a classifier, not a captioner."""
        return isinstance(self.metrics, ClassificationMetrics)

    @property
    def data_reference(self) -> str:
        """What was written for DATA."""
        return str(self.data.get("reference", "unknown data"))

    @property
    def dataset(self) -> str | None:
        """The data set's id on the hub, where it is from there."""
        place = self.data_reference.partition("?")[0]
        name = place.removeprefix("hf:")
        from_hub = place.startswith("hf:") and name[:1] not in ("", ".", "/", "~")
        return name.partition("@")[0] if from_hub and name.count("/") <= 1 else None

    @property
    def base_model(self) -> str | None:
        """The id on the hub of the model whose weights training began from, where they are from there."""
        began = self.environment.get("starting_weights") or {}
        origin = str(began.get("origin", ""))
        parts = origin.removeprefix("hf-hub:").split("/")
        return "/".join(parts[:2]).partition("@")[0] if origin.startswith("hf-hub:") and len(parts) > 2 else None

    @property
    def best_epoch(self) -> int:
        """Counted from 1; 0 where the history says nothing."""
        return next((int(row["epoch"]) for row in reversed(self.history) if row["best"]), 0)

    @property
    def input(self) -> Mapping[str, Any]:
        """Of a classifier: timm's description of its input."""
        found: Mapping[str, Any] = self.config.get("pretrained_cfg", {})
        return found
