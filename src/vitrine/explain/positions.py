"""``vitrine positions``: the similarity of a model's position embeddings, and whether position was learned."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vitrine.attribution.maps import patch_on_grid
from vitrine.attribution.position_embeddings import position_embeddings
from vitrine.attribution.position_metrics import PositionControls, PositionFindings, PositionNumbers, assess_positions
from vitrine.display import ResultDisplay
from vitrine.errors import ModelError, VitrineError
from vitrine.explain.figures.positions import draw_positions, number_rows, save_position_figure
from vitrine.models.load import LoadedModel, load_for_inference
from vitrine.plotting.provenance import Provenance
from vitrine.plotting.style import figure_bytes, figure_style, new_figure, shorten
from vitrine.runs.environment import weights_notes


@dataclass(frozen=True, eq=False, repr=False)
class PositionsResult(ResultDisplay):
    """What ``vitrine positions`` found and drew.

    Attributes:
        model: the reference that was given.
        out: the figure; None where none was written.
        findings: similarities, numbers, controls and what follows.
        cell: row and column, from 0, of the one patch that was drawn; None where all were.
        before: the reference of the model that it was compared with; None where there was none.
        findings_before: of that model.
        weights: sentences on the files that the weights are from.
    """

    model: str
    out: Path | None
    findings: PositionFindings
    cell: tuple[int, int] | None = None
    before: str | None = None
    findings_before: PositionFindings | None = None
    weights: tuple[str, ...] = ()

    def headline(self) -> str:
        """What follows from the numbers."""
        return f"{self.model}: {self.sentence.partition(':')[0]}"

    def details(self) -> str:
        """The numbers beside their controls."""
        return self.text()

    def table_rows(self) -> Sequence[Mapping[str, Any]]:
        """A row a number, beside the same of untrained and of fixed sine embeddings."""
        content = self.to_dict()
        kinds = [
            kind for kind in ("numbers", "untrained", "fixed_sine", "before") if isinstance(content.get(kind), dict)
        ]
        return [{"number": name, **{kind: content[kind].get(name) for kind in kinds}} for name in content["numbers"]]

    def figure_png(self) -> bytes:
        """The maps of all patches; or the figure that was written, where it is a PNG."""
        own_png = self._repr_png_()
        if own_png is not None:
            return own_png
        figure = self.plot().figure
        assert isinstance(figure, Figure)
        return figure_bytes(figure, "png", {})

    @property
    def numbers(self) -> PositionNumbers:
        """How much the similarities tell about where a patch is."""
        return self.findings.numbers

    @property
    def controls(self) -> PositionControls:
        """The same numbers of untrained and of fixed sine embeddings."""
        return self.findings.controls

    @property
    def sentence(self) -> str:
        """What follows from the numbers."""
        return self.findings.sentence

    @property
    def notes(self) -> tuple[str, ...]:
        """What else has to be known, in sentences."""
        return self.findings.notes

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the maps of all patches into ``ax``, or into new axes, and return the axes."""
        if ax is None:
            with figure_style():
                return draw_positions(new_figure(7, 7).add_subplot(), self.findings.similarity_RCRC)
        return draw_positions(ax, self.findings.similarity_RCRC)

    def save(self, path: str | Path) -> Path:
        """Write the figure as .png or .svg.

        Raises:
            ValueError: another ending.
        """
        origin = Provenance(figure="positions", model=self.model, options={"cell": self.cell, "before": self.before})
        title, metadata = _title(self.model, self.before), origin.to_metadata()
        save_position_figure(
            self.findings, Path(path), metadata, title=title, cell=self.cell, before=self.findings_before
        )
        return Path(path)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; the same model gives the same bytes."""
        findings, controls = self.findings, self.findings.controls
        content: dict[str, Any] = {
            "model": self.model,
            "figure": None if self.out is None else str(self.out),
            "grid": [findings.rows, findings.columns],
            "channels": findings.channels,
            "numbers": findings.numbers.to_dict(),
            "untrained": controls.untrained_mean.to_dict(),
            "untrained_standard_deviation": controls.untrained_std.to_dict(),
            "untrained_tables": controls.draws,
            "fixed_sine": controls.sine.to_dict(),
            "sentence": findings.sentence,
            "notes": list(findings.notes),
        }
        if self.cell is not None:
            content["cell"] = list(self.cell)
        if self.findings_before is not None:
            before = self.findings_before
            content["before"] = {
                "model": self.before,
                "numbers": before.numbers.to_dict(),
                "sentence": before.sentence,
                "notes": list(before.notes),
            }
        return content

    def text(self) -> str:
        """The same for a person."""
        findings, before = self.findings, self.findings_before
        numbers_of_models = [findings.numbers] if before is None else [before.numbers, findings.numbers]
        names = ["this model"] if before is None else ["before", "after"]
        rows = [("", [*names, "untrained", "fixed 2-D sine"]), *number_rows(numbers_of_models, findings)]
        first = max(len(name) for name, _ in rows)
        widths = [max(map(len, cells)) for cells in zip(*(cells for _, cells in rows), strict=True)]
        table = [
            f"{name:<{first}}  " + "  ".join(cell.rjust(width) for cell, width in zip(cells, widths, strict=True))
            for name, cells in rows
        ]
        lines = [
            f"{self.model}: {findings.rows} x {findings.columns} patches, {findings.channels} channels",
            "",
            *table,
            "",
        ]
        lines += [] if before is None else [f"Before ({self.before}): {before.sentence}"]
        lines += [
            findings.sentence if before is None else f"After ({self.model}): {findings.sentence}",
            *findings.notes,
        ]
        return "\n".join([*lines, "", f"Figure: {self.out}"])

    def _repr_png_(self) -> bytes | None:
        return self.out.read_bytes() if self.out is not None and self.out.suffix.lower() == ".png" else None

    def _repr_svg_(self) -> str | None:
        return self.out.read_text("utf-8") if self.out is not None and self.out.suffix.lower() == ".svg" else None


def positions(
    model: str | LoadedModel,
    out: Path | None,
    *,
    cell: tuple[int, int] | None = None,
    before: str | LoadedModel | None = None,
    architecture: str | None = None,
) -> PositionsResult:
    """Draw the cosine similarity of a model's position embeddings, and say whether position was learned.

    Args:
        model: a model reference; with ``architecture``, a weights file; or a model that is loaded.
        out: the figure, .png or .svg; None draws none.
        cell: row and column, from 0 or from the end with -1, of the one patch whose map is drawn; None
            draws the maps of all.
        before: a second model, from before some training: both are drawn on one scale, and the difference.
        architecture: the timm name of the model whose weights a file holds, be it ``model``, ``before`` or both.

    Raises:
        ModelError: a model has no such embeddings (the message names what it has), the cell lies outside of the grid,
            or the two models have different grids.
        VitrineError: the figure's name does not end in .png or .svg.
    """
    if out is not None and out.suffix.lower() not in (".png", ".svg"):
        raise VitrineError(
            f"A figure is written as .png or .svg: {out.name} is neither.\nFor example: -o positions.png"
        )
    loaded_model, findings = _assess_model(model, architecture if before is None or _is_file(model) else None)
    name = _text(model)
    cell = None if cell is None else patch_on_grid(cell, findings.rows, findings.columns)
    result = PositionsResult(name, out, findings, cell, weights=_weights(loaded_model))
    options: dict[str, Any] = {"cell": cell, "before": None, "architecture": architecture}
    if before is not None:
        earlier, findings_before = _assess_model(before, architecture if _is_file(before) else None)
        _require_same_grid(name, findings, _text(before), findings_before)
        weights = (*_weights(earlier), *result.weights)
        result = replace(result, before=_text(before), findings_before=findings_before, weights=weights)
        options |= {"before": result.before, "before-weights-sha256": _sha256(earlier)}
    if out is not None:
        in_memory = any(isinstance(each, LoadedModel) and each.is_in_memory for each in (model, before))
        command = None if in_memory else _command(name, out, cell, result.before, architecture)
        _draw(result, out, options, command, _sha256(loaded_model))
    return result


def _draw(
    result: PositionsResult, out: Path, options: dict[str, Any], command: str | None, weights_sha256: str
) -> None:
    """Write the figure with its origin."""
    origin = Provenance(
        figure="positions",
        model=result.model,
        weights_sha256=weights_sha256,
        options=options,
        command=command,
    )
    title, metadata = _title(result.model, result.before), origin.to_metadata()
    save_position_figure(result.findings, out, metadata, title=title, cell=result.cell, before=result.findings_before)


def _text(model: str | LoadedModel) -> str:
    return model if isinstance(model, str) else model.reference.text


def _assess_model(model: str | LoadedModel, architecture: str | None) -> tuple[LoadedModel, PositionFindings]:
    loaded_model = load_for_inference(model, architecture) if isinstance(model, str) else model
    table = position_embeddings(loaded_model.module)
    notes = (*loaded_model.notes, *table.notes)
    return loaded_model, assess_positions(table.embeddings_RCD, is_fixed_sine=table.is_fixed_sine, notes=notes)


def _weights(loaded_model: LoadedModel) -> tuple[str, ...]:
    return () if loaded_model.weights is None else weights_notes(loaded_model.weights, loaded_model.reference.folder)


def _is_file(model: str | LoadedModel) -> bool:
    return isinstance(model, str) and Path(model).expanduser().is_file()


def _require_same_grid(model: str, after: PositionFindings, earlier: str, before: PositionFindings) -> None:
    if (before.rows, before.columns) != (after.rows, after.columns):
        raise ModelError(
            f"Only equal grids can be compared: {earlier} has {before.rows} x {before.columns} patches, {model} has "
            f"{after.rows} x {after.columns}."
        )


def _title(model: str, before: str | None) -> str:
    if before is None:
        return f"Position embeddings of {model}"
    return f"Position embeddings of {shorten(before)} (before) and {shorten(model)} (after)"


def _sha256(loaded_model: LoadedModel) -> str:
    return "none" if loaded_model.weights is None else loaded_model.weights.sha256


def _command(model: str, out: Path, cell: tuple[int, int] | None, before: str | None, architecture: str | None) -> str:
    """The command line that draws the figure again."""
    words = ["vitrine", "positions", model, "-o", str(out)]
    words += [] if cell is None else ["--cell", f"{cell[0]},{cell[1]}"]
    words += [] if before is None else ["--before", before]
    words += [] if architecture is None else ["--arch", architecture]
    return shlex.join(words)
