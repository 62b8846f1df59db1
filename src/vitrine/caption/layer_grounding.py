"""Which decoder layer's word maps point best at what the words name: every layer scored on human captions.

The captions are followed under teacher forcing, so that all layers are scored on the same words; of a vision-language
model, maps relative to a neutral prompt too.
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
        relative_by_layer: the same with maps that were divided by those of a neutral prompt; empty without one.
    """

    by_layer: list[list[GroundedCaption]] = field(default_factory=list)
    relative_by_layer: list[list[GroundedCaption]] = field(default_factory=list)

    def append(self, captions: Sequence[GroundedCaption], relative: Sequence[GroundedCaption] = ()) -> None:
        """Add one caption, given with the maps of every layer."""
        self.by_layer = self.by_layer or [[] for _ in captions]
        self.relative_by_layer = self.relative_by_layer or [[] for _ in relative]
        for layers, maps in ((self.by_layer, captions), (self.relative_by_layer, relative)):
            for layer, caption in zip(layers, maps, strict=True):
                layer.append(caption)

    def scores(self) -> LayerGrounding | None:
        """The grounding of every layer; None where no noun of the captions can be scored."""
        layers, relative = (
            tuple(grounding(captions) for captions in each) for each in (self.by_layer, self.relative_by_layer)
        )
        by = METRICS[0].key
        return LayerGrounding(layers, relative) if layers and by in layers[0].estimates else None


@dataclass(frozen=True)
class LayerGrounding:
    """The grounding of every decoder layer, mean over its heads.

    Attributes:
        layers: from layer 0 on.
        relative: the same, of maps that were divided by those of a neutral prompt; empty of captioners that take none.
    """

    layers: tuple[Grounding, ...]
    relative: tuple[Grounding, ...] = ()

    @property
    def best(self) -> int:
        """The layer with the highest pointing hit; of equals the first, and plain maps before relative ones."""
        return self._best_row % len(self.layers)

    @property
    def is_relative_best(self) -> bool:
        """Whether its relative maps are the ones that point best."""
        return self._best_row >= len(self.layers)

    @property
    def _best_row(self) -> int:
        rows = (*self.layers, *self.relative)
        return max(range(len(rows)), key=lambda row: _hit(rows[row]))

    @property
    def sentence(self) -> str:
        """What to do, for a person."""
        best = (*self.layers, *self.relative)[self._best_row]
        how, option = (", relative to a neutral prompt", " --relative") if self.is_relative_best else ("", "")
        advice = f"Layer {self.best}{how} points best: --layer {self.best}{option}."
        if best.flag not in ("points", "leans"):
            return f"{advice} {best.finding}: no layer is to be believed on these data."
        return f"{advice} {best.finding}. It was chosen on these pictures: on others expect a little less."

    def table(self) -> Table:
        """A row a layer: pointing hit with its interval, and the controls' on the same nouns."""
        rows = []
        names = [str(number) for number in range(len(self.layers))]
        names += [f"{number} relative" for number in range(len(self.relative))]
        for name, layer in zip(names, (*self.layers, *self.relative), strict=True):
            row = layer.estimates[METRICS[0].key]
            ends = row[WORD].interval
            within = "" if ends is None else f" ({shown_number(ends.low, 3)} to {shown_number(ends.high, 3)})"
            controls = (f"{row[control].mean:.3f}" for control in CONTROLS)
            rows.append((name, f"{row[WORD].mean:.3f}{within}", *controls))
        return Table(("layer", METRICS[0].label, "mean map", "centre blob", "uniform"), tuple(rows))

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: the layer to use, what is to be said of it, and every layer's grounding."""
        return {
            "layer": self.best,
            "relative": self.is_relative_best,
            "sentence": self.sentence,
            "layers": [layer.to_dict() for layer in self.layers],
            "relative_layers": [layer.to_dict() for layer in self.relative],
        }

    def to_json(self) -> str:
        """The content of :data:`FILE`."""
        return to_json(self.to_dict())


def _hit(layer: Grounding) -> float:
    return layer.estimates[METRICS[0].key][WORD].mean


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
