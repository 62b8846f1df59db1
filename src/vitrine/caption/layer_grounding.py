"""Which decoder layer's word maps point best at what the words name: every layer scored on human captions.

The captions are followed under teacher forcing, so that all layers are scored on the same words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from vitrine.attribution.grounding import CONTROLS, METRICS, WORD, GroundedCaption, Grounding, grounding
from vitrine.caption.decoding import parse_layers
from vitrine.errors import UsageError
from vitrine.io.files import to_json
from vitrine.io.untrusted_files import read_json
from vitrine.plotting.tables import Table
from vitrine.results import shown_number

FILE = "layers.json"
"""The file in which the choice of a layer is kept beside the other results of an evaluation."""


@dataclass
class LayerCaptions:
    """The captions of some pictures with the maps of every layer, as they are gathered.

    Attributes:
        by_layer: of each layer from 0, the captions.
    """

    by_layer: list[list[GroundedCaption]] = field(default_factory=list)

    def append(self, captions: Sequence[GroundedCaption]) -> None:
        """Add one caption, given with the maps of every layer."""
        self.by_layer = self.by_layer or [[] for _ in captions]
        for layer, caption in zip(self.by_layer, captions, strict=True):
            layer.append(caption)

    def scores(self) -> LayerGrounding | None:
        """The grounding of every layer; None where no noun of the captions can be scored."""
        groundings = tuple(grounding(captions) for captions in self.by_layer)
        by = METRICS[0].key
        return LayerGrounding(groundings) if groundings and by in groundings[0].estimates else None


@dataclass(frozen=True)
class LayerGrounding:
    """The grounding of every decoder layer, mean over its heads.

    Attributes:
        layers: from layer 0 on.
    """

    layers: tuple[Grounding, ...]

    @property
    def best(self) -> int:
        """The layer with the highest pointing hit; of equals the first."""
        return max(range(len(self.layers)), key=lambda layer: self._hit(layer))

    @property
    def sentence(self) -> str:
        """What to do, for a person."""
        best = self.layers[self.best]
        advice = f"Layer {self.best} points best: --layer {self.best}."
        if best.flag not in ("points", "leans"):
            return f"{advice} {best.finding}: no layer is to be believed on these data."
        return f"{advice} {best.finding}. It was chosen on these pictures: on others expect a little less."

    def table(self) -> Table:
        """A row a layer: pointing hit with its interval, and the controls' on the same nouns."""
        rows = []
        for number, layer in enumerate(self.layers):
            row = layer.estimates[METRICS[0].key]
            ends = row[WORD].interval
            within = "" if ends is None else f" ({shown_number(ends.low, 3)} to {shown_number(ends.high, 3)})"
            controls = (f"{row[control].mean:.3f}" for control in CONTROLS)
            rows.append((str(number), f"{row[WORD].mean:.3f}{within}", *controls))
        return Table(("layer", METRICS[0].label, "mean map", "centre blob", "uniform"), tuple(rows))

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: the layer to use, what is to be said of it, and every layer's grounding."""
        return {"layer": self.best, "sentence": self.sentence, "layers": [layer.to_dict() for layer in self.layers]}

    def to_json(self) -> str:
        """The content of :data:`FILE`."""
        return to_json(self.to_dict())

    def _hit(self, layer: int) -> float:
        return self.layers[layer].estimates[METRICS[0].key][WORD].mean


def read_layers(layers: str | int | tuple[int, int]) -> int | tuple[int, int] | Literal["mean"]:
    """Layers as the command line has them: those of :func:`~vitrine.caption.decoding.parse_layers`, or a file.
    Numbers are taken as they are.

    Raises:
        UsageError: it is none of these.
    """
    if not isinstance(layers, str):
        return layers
    return read_chosen_layer(Path(layers).expanduser()) if layers.endswith(".json") else parse_layers(layers)


def read_chosen_layer(path: Path) -> int:
    """The layer that a :data:`FILE` chose.

    Raises:
        UsageError: there is no such file, or it is none that ``vitrine evaluate --grounding`` wrote.
    """
    try:
        layer = read_json(path, dict[str, Any])["layer"]
        if not isinstance(layer, int) or isinstance(layer, bool) or layer < 0:
            raise ValueError(f"its layer is {layer!r}")
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(
            f"--layer {path} cannot be used: {error}.\n"
            f"Expected a number, or the {FILE} that vitrine evaluate MODEL DATA --grounding -o DIR writes."
        ) from None
    return layer
