"""Which way of reading word maps, and which decoder layer, points best at what the words name: all scored on human
captions.

The captions are followed under teacher forcing, so that all are scored on the same words.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from vitrine.attribution.grounding import CONTROLS, METRICS, WORD, GroundedCaption, Grounding, GroundingTally
from vitrine.caption.decoding import DecodedCaption, parse_layers
from vitrine.caption.readings import READINGS, choose_reading
from vitrine.caption.tokenizer import Vocabulary
from vitrine.caption.word_maps import caption_words
from vitrine.errors import UsageError
from vitrine.io.files import to_json
from vitrine.io.untrusted_files import read_json
from vitrine.plotting.tables import Table
from vitrine.results import shown_number

FILE = "layers.json"
"""The file in which the choice of layer, heads and reading is kept beside the other results of an evaluation."""

HEADS = "mean"
"""Heads are averaged in what is scored."""

Layer = int | Literal["mean"]
MapKey = tuple[str, Layer | None]
"""A reading's name, and a layer from 0, the mean of all, or None where the reading has none."""


@dataclass(frozen=True, eq=False)
class CaptionMaps:
    """One caption with the maps of one reading, of all layers, heads averaged.

    Attributes:
        reading: its name.
        caption: with these maps (T, L, 1, K).
        baseline_LHK: that maps are divided by once layers are averaged; None leaves them.
    """

    reading: str
    caption: DecodedCaption
    baseline_LHK: npt.NDArray[np.float32] | None = None

    def by_layer(self) -> Iterator[tuple[MapKey, DecodedCaption]]:
        """The caption with the map of each layer, then with the mean of all."""
        if not READINGS[self.reading].has_layers:
            yield (self.reading, None), self.caption
            return
        maps_TLHK = self.caption.maps_TLHK
        for layer in range(maps_TLHK.shape[1]):
            yield (self.reading, layer), self._with(slice(layer, layer + 1))
        if maps_TLHK.shape[1] > 1:
            yield (self.reading, "mean"), self._with(slice(None))

    def _with(self, layers: slice) -> DecodedCaption:
        caption = replace(self.caption, maps_TLHK=self.caption.maps_TLHK[:, layers].mean(1, keepdims=True))
        if self.baseline_LHK is None:
            return caption
        return caption.relative_to(self.baseline_LHK[layers].mean(0, keepdims=True))


@dataclass
class ReadingTallies:
    """The scores of every reading and layer, as captions come; and those with the map of the next word.

    Attributes:
        own, next_word: by reading and layer.
    """

    own: dict[MapKey, GroundingTally] = field(default_factory=dict)
    next_word: dict[MapKey, GroundingTally] = field(default_factory=dict)

    def add(self, regions: GroundedCaption, maps: Sequence[CaptionMaps], vocabulary: Vocabulary) -> None:
        """Score one caption.

        Args:
            regions: its nouns; the maps there are not looked at.
            maps: the caption with the maps of each reading.
            vocabulary: of its ids.
        """
        for each in maps:
            for key, caption in each.by_layer():
                self.add_maps(key, replace(regions, maps=[word.map_RC for word in caption_words(caption, vocabulary)]))

    def add_maps(self, key: MapKey, caption: GroundedCaption) -> None:
        """Score one caption with the maps of one reading and layer."""
        self.own.setdefault(key, GroundingTally()).add(caption)
        self.next_word.setdefault(key, GroundingTally(1)).add(caption)

    def scores(self) -> LayerGrounding | None:
        """The grounding of each; None where no noun of the captions can be scored."""
        rows = tuple(
            LayerScore(reading, layer, tally.grounding(), self.next_word[reading, layer].grounding())
            for (reading, layer), tally in self.own.items()
        )
        return LayerGrounding(rows) if rows and METRICS[0].key in rows[0].grounding.estimates else None


@dataclass(frozen=True)
class LayerScore:
    """One way of reading maps.

    Attributes:
        reading, layer: as in :data:`MapKey`; heads are averaged.
        grounding: of the words' own maps.
        next_word: of the same nouns with the map of the next word.
    """

    reading: str
    layer: Layer | None
    grounding: Grounding
    next_word: Grounding

    @property
    def hit(self) -> float:
        """The pointing hit."""
        return self.grounding.estimates[METRICS[0].key][WORD].mean

    @property
    def name(self) -> str:
        """For a person."""
        if self.layer is None:
            return self.reading
        layers = "the mean of all layers" if self.layer == "mean" else f"layer {self.layer}"
        return layers if self.reading == "attention" else f"{layers} by {self.reading}"

    @property
    def options(self) -> str:
        """What asks ``vitrine caption`` for it."""
        layer = "" if self.layer is None else f" --layer {self.layer}"
        return (layer + ("" if self.reading == "attention" else f" --reading {self.reading}")).strip()


@dataclass(frozen=True)
class LayerGrounding:
    """The grounding of every reading and layer, mean over heads.

    Attributes:
        rows: readings in the order of their table, each from layer 0 on.
    """

    rows: tuple[LayerScore, ...]

    @property
    def best(self) -> LayerScore:
        """The one with the highest pointing hit; of equals the first. A reading without layers is a yardstick for the
        others, of as many runs of the model as a map has cells, and is not chosen."""
        return max((row for row in self.rows if row.layer is not None), key=lambda row: row.hit)

    @property
    def sentence(self) -> str:
        """What to do, for a person."""
        finding = self.best.grounding.finding
        name = self.best.name[0].upper() + self.best.name[1:]
        advice = f"{name} points best: {self.best.options}."
        if self.best.grounding.flag not in ("points", "leans"):
            return f"{advice} {finding}: none is to be believed on these data."
        return f"{advice} {finding}. It was chosen on these pictures: on others expect a little less."

    def table(self) -> Table:
        """A row each: pointing hit with its interval, and the controls' on the same nouns."""
        rows = []
        for row in self.rows:
            estimates = row.grounding.estimates[METRICS[0].key]
            ends = estimates[WORD].interval
            within = "" if ends is None else f" ({shown_number(ends.low, 3)} to {shown_number(ends.high, 3)})"
            neighbour = row.next_word.estimates.get(METRICS[0].key)
            controls = [f"{estimates[control].mean:.3f}" for control in CONTROLS]
            next_word = "" if neighbour is None else f"{neighbour[WORD].mean:.3f}"
            layer = "" if row.layer is None else str(row.layer)
            rows.append((row.reading, layer, f"{row.hit:.3f}{within}", next_word, *controls))
        names = ("reading", "layer", METRICS[0].label, "next word's map", "mean map", "centre blob", "uniform")
        return Table(names, tuple(rows))

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: what to use, what is to be said of it, and every row's grounding."""
        rows = [
            {
                "reading": row.reading,
                "layer": row.layer,
                "heads": HEADS,
                "grounding": row.grounding.to_dict(),
                "next_word": row.next_word.to_dict(),
            }
            for row in self.rows
        ]
        choice = {"reading": self.best.reading, "layer": self.best.layer, "heads": HEADS}
        return {**choice, "sentence": self.sentence, "rows": rows}

    def to_json(self) -> str:
        """The content of :data:`FILE`."""
        return to_json(self.to_dict())


def map_options(layer: Any, heads: Any, reading: str | None, relative: bool) -> dict[str, Any]:
    """The fields ``layer``, ``heads`` and ``reading`` of :class:`vitrine.caption.run.CaptionSettings`.

    Args:
        layer: as :func:`~vitrine.caption.decoding.parse_layers` reads it; a number or a pair, which are taken as they
            are; or the path of a :data:`FILE`, which has heads and a reading for where none are given.
        heads: "mean" is what the file says.
        reading: None is what the file says, else the attention.
        relative: whether the reading ``relative`` was asked for by its own option.

    Raises:
        UsageError: one of these cannot be used, or two do not go together.
    """
    if not isinstance(layer, str) or not layer.endswith(".json"):
        number = parse_layers(layer) if isinstance(layer, str) else layer
        return {"layer": number, "heads": heads, "reading": choose_reading(reading, relative)}
    choice = read_choice(Path(layer).expanduser())
    if reading is None and not relative:
        reading = choice["reading"]
    return {**choice, "heads": choice["heads"] if heads == "mean" else heads,
            "reading": choose_reading(reading, relative)}  # fmt: skip


def read_choice(path: Path) -> Mapping[str, Any]:
    """The layer, the heads and the reading that a :data:`FILE` chose.

    Raises:
        UsageError: there is no such file, or it is none that ``vitrine evaluate --grounding`` wrote.
    """
    try:
        content = read_json(path, dict[str, Any])
        layer, heads, reading = content["layer"], content["heads"], content["reading"]
        if layer != "mean" and (not isinstance(layer, int) or isinstance(layer, bool) or layer < 0):
            raise ValueError(f"its layer is {layer!r}")
        if heads != HEADS or reading not in READINGS or not READINGS[reading].has_layers:
            raise ValueError(f"its heads are {heads!r} and its reading is {reading!r}")
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UsageError(
            f"--layer {path} cannot be used: {error}.\n"
            f"Expected a number, or the {FILE} that vitrine evaluate MODEL DATA --grounding -o DIR writes."
        ) from None
    return {"layer": layer, "heads": heads, "reading": reading}
