"""The scores of a captioner's layers and ways of reading, as ``vitrine evaluate --grounding`` wrote them: which of its
maps look at what words name."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from vitrine.attribution.grounding import CONTROLS, METRICS, WORD
from vitrine.caption.layer_grounding import FILE
from vitrine.errors import RunError
from vitrine.io.untrusted_files import read_json, require_shape
from vitrine.plotting.tables import Cell, Table
from vitrine.report.document import Block, Finding, Findings, TableBlock
from vitrine.results import agree, count_of, shown_number

_FLAGS = {"points": "supported", "worse": "not supported"}  # all else is not decided
_METRIC = METRICS[0].key  # the pointing hit


class _Row(TypedDict):
    """The shape of one row of ``layers.json``."""

    reading: str
    layer: int | str | None
    grounding: dict[str, Any]
    next_word: dict[str, Any]


class _Content(TypedDict):
    """The shape of ``layers.json``."""

    reading: str
    layer: int | str
    sentence: str
    rows: list[_Row]


class _Metrics(TypedDict):
    """What is read of ``metrics.json`` beside it."""

    model: str
    data: str
    weights_sha256: str


class _Mean(TypedDict):
    """One mean in a grounding."""

    mean: float


@dataclass(frozen=True)
class LayerScores:
    """What an evaluation says of a model's layers.

    Attributes:
        folder: it lies in.
        model, weights_sha256, data: what was evaluated, on which data.
        content: of ``layers.json``.
    """

    folder: Path
    model: str
    weights_sha256: str
    data: str
    content: _Content

    @classmethod
    def read(cls, folder: Path) -> LayerScores:
        """The scores in a folder.

        Raises:
            RunError: its files are missing or not what ``vitrine evaluate --grounding`` writes.
        """
        try:
            content, metrics = read_json(folder / FILE, _Content), read_json(folder / "metrics.json", _Metrics)
            scores = cls(folder, metrics["model"], metrics["weights_sha256"], metrics["data"], content)
            scores.table()
            scores.best_row()
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunError(
                f"The scores in {folder} cannot be read: {error}.\n"
                f"Expected {FILE} and metrics.json, as vitrine evaluate MODEL DATA --grounding -o DIR writes them."
            ) from error
        return scores

    @property
    def choice(self) -> tuple[str, int | str]:
        """Reading and layer that point best."""
        return self.content["reading"], self.content["layer"]

    def best_row(self) -> _Row:
        """The row of the choice.

        Raises:
            ValueError: there is none.
        """
        for row in self.content["rows"]:
            if (row["reading"], row["layer"]) == self.choice:
                return row
        raise ValueError(f"it chooses layer {self.content['layer']} by {self.content['reading']}, which has no row")

    def table(self) -> Table:
        """A row a reading and layer: pointing hit with its interval, and the controls' on the same nouns."""
        names = ("reading", "layer", METRICS[0].label, "next word's map", "mean map", "centre blob", "uniform")
        return Table(names, tuple(_cells(row) for row in self.content["rows"]))

    def blocks(self, figures: Sequence[Mapping[str, str]] = ()) -> list[Block]:
        """The table, what follows from it, and whether the figures shown beside it use the layer that points best.

        Args:
            figures: provenance of the figures.
        """
        flag = str(self.best_row()["grounding"].get("flag", ""))
        findings = [Finding(_FLAGS.get(flag, "undecided"), self.content["sentence"])]
        others = sum(not self._is_choice(each) for each in figures)
        if others:
            how = shlex.join(["vitrine", "caption", self.model, "PICTURES", "--layer", str(self.folder / FILE)])
            all_of_them = "The figures of this report show"
            some = f"{others:,} of {count_of(len(figures), 'figure')} of this report {agree(others, 'shows', 'show')}"
            number = all_of_them if others == len(figures) else some
            findings.append(Finding("", f"{number} other maps than those: {how} draws them."))
        caption = f"Pointing hit on nouns of human captions, {self.data}; in brackets 95 % intervals over pictures"
        return [TableBlock(self.table(), caption), Findings(tuple(findings))]

    def _is_choice(self, provenance: Mapping[str, str]) -> bool:
        """Whether a figure's maps are of the reading and the layer that point best, mean over heads."""
        reading, layer = self.choice
        method = provenance.get("method", "")
        is_reading = (method == reading) if method in ("relative", "gradient", "occlusion") else reading == "attention"
        count = sum(row["reading"] == reading and isinstance(row["layer"], int) for row in self.content["rows"])
        last = str(count - 1) if provenance.get("layer") == "-1" else provenance.get("layer")
        return is_reading and last == str(layer) and provenance.get("heads") == "mean"

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: the choice and its sentence."""
        reading, layer = self.choice
        return {"data": self.data, "reading": reading, "layer": layer, "sentence": self.content["sentence"]}


def _cells(row: _Row) -> tuple[Cell, ...]:
    own, neighbour = row["grounding"]["metrics"][_METRIC], row["next_word"].get("metrics", {}).get(_METRIC)
    ends = own[WORD].get("interval_95")
    within = "" if ends is None else f" ({shown_number(ends[0], 3)} to {shown_number(ends[1], 3)})"
    next_word = "–" if neighbour is None else f"{_mean(neighbour[WORD]):.3f}"
    layer = "–" if row["layer"] is None else str(row["layer"])
    controls = [f"{_mean(own[control]):.3f}" for control in CONTROLS]
    return row["reading"], layer, f"{_mean(own[WORD]):.3f}{within}", next_word, *controls


def _mean(content: object) -> float:
    return require_shape(content, _Mean)["mean"]
