"""``vitrine export``: a run written for other tools, read back as they read it, and compared with the run.

Axes: B pictures, C classes, H, W pixel rows and columns.
"""

from __future__ import annotations

import copy
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vitrine.config.preprocessing import InputSpec
from vitrine.errors import ModelError, RunError, UsageError
from vitrine.export.compare import (
    DTYPES,
    LoadedExport,
    LogitsComparison,
    PreprocessingComparison,
    compare,
    compare_preprocessing,
    comparison_pictures,
    describe_difference,
)
from vitrine.export.onnx import read_onnx, read_pt2, require_onnx, write_onnx, write_pt2
from vitrine.export.timm import read_timm, write_timm
from vitrine.export.transformers import read_transformers, require_transformers, write_transformers
from vitrine.models.captioner.checkpoint import is_captioner_folder
from vitrine.models.load import LoadedModel, load_for_inference
from vitrine.runs.folder import RunFolder
from vitrine.runs.model_card import ExportFacts, write_export_card

TARGETS = {"hf": "transformers", "timm": "timm", "onnx": "ONNX", "pt2": "torch.export"}
"""What ``--to`` takes, and what it is for."""

_READERS = {**TARGETS, "onnx": "onnxruntime"}


@dataclass(frozen=True)
class ExportResult:
    """What came of an export.

    Attributes:
        run: the run folder.
        to: one of :data:`TARGETS`.
        out: the folder that was written; there is none where ``same`` is false.
        precision: of the stored weights: fp32 or bf16.
        comparisons: of its logits with the run's.
        preparation: of pictures, by the export's own tool and by the run; None where the tool leaves it to its user.
        moved: pictures, of those compared, whose label is not that of the run in fp32.
        different: what the export says otherwise than the run of its classes or its input; None where it does not.
    """

    run: Path
    to: str
    out: Path
    precision: str
    comparisons: tuple[LogitsComparison, ...]
    preparation: PreprocessingComparison | None
    changed_labels: int
    different: str | None = None

    @property
    def same(self) -> bool:
        """Whether the export is the run, as far as precision allows; only then was it written."""
        prepared = self.preparation is None or self.preparation.same
        return prepared and self.different is None and all(each.same for each in self.comparisons)

    @property
    def sentences(self) -> tuple[str, ...]:
        """What was compared, in sentences."""
        said = [f"Read back with {_READERS[self.to]} and compared with the run, {each}." for each in self.comparisons]
        if self.precision != "fp32":
            pictures = self.comparisons[0].pictures
            said.append(f"Labels that differ from those of the run in fp32: {self.changed_labels} of {pictures}.")
        said.append(self._preprocessing_sentence())
        if self.different is not None:
            said.append(f"Not the same: {self.different}.")
        return tuple(said)

    def _preprocessing_sentence(self) -> str:
        found = self.preparation
        if found is None:
            return "Pictures are prepared by whoever uses the file; how is in its metadata, which was compared too."
        said = (
            f"Pictures are prepared by {TARGETS[self.to]} as by the run: {found.pictures} wide and tall ones differ by "
            f"{found.largest:.2g} of 255 levels at most"
        )
        if self.to == "hf":
            said += (
                "; where the sides of a resized picture and of the square differ by 3, 7, 11 ... pixels, the square "
                f"lies one pixel further left or up ({found.shifted_pictures} of these)"
            )
        return f"{said}."

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "run": str(self.run),
            "to": self.to,
            "out": str(self.out) if self.same else None,
            "precision": self.precision,
            "same": self.same,
            "comparisons": [each.to_dict() for each in self.comparisons],
            "preparation": self.preparation and self.preparation.to_dict(),
            "labels_moved_from_fp32": self.changed_labels,
            "different": self.different,
        }

    def text(self) -> str:
        """The same for a person."""
        done = f"Exported {self.run} for {TARGETS[self.to]} to {self.out} ({self.precision})."
        failed = f"The export of {self.run} for {TARGETS[self.to]} is not the run; nothing was written to {self.out}."
        return "\n".join([done if self.same else failed, *self.sentences])


_FREE_PRECISION = ("hf", "timm")  # whose weights can be computed with in another precision than they are stored in


def export(run: Path, to: str, out: Path, *, precision: str = "fp32") -> ExportResult:
    """Write a run for another tool, with a model card.

    Everything is written beside ``out``, read back and compared there, and moved to ``out`` at the end: what is there
    was found to be the run.

    Args:
        run: the folder of a finished run of a classifier.
        to: hf (transformers), timm, onnx or pt2 (torch.export).
        out: a folder that is new or empty.
        precision: fp32 or bf16: of the stored weights.

    Returns:
        What was compared. Where ``same`` is false, nothing was written.

    Raises:
        UsageError: no such target or precision, or ``out`` is in use.
        RunError: not a finished run.
        ModelError: the target cannot hold the model, its packages are missing, or its library cannot run the precision.
    """
    _check_arguments(run, to, out, precision)
    built = load_for_inference(run)
    labels = RunFolder(run).read_labels()
    spec = built.input
    with _temporary_folder(out) as folder:
        _write(folder, run, to, precision, built, labels)
        result = _compare_with_run(folder, run, to, out, precision, built, labels, spec)
        if result.same:
            write_export_card(run, folder, ExportFacts(to, out.resolve().name, precision, result.sentences))
            out.parent.mkdir(parents=True, exist_ok=True)
            folder.rename(out)
    return result


def _check_arguments(run: Path, to: str, out: Path, precision: str) -> None:
    if to not in TARGETS:
        raise UsageError(f"--to {to} is not known: expected {', '.join(TARGETS)}.")
    if precision not in DTYPES:
        raise UsageError(f"--precision {precision} cannot be stored: expected {' or '.join(DTYPES)}.")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} is there already. Choose another -o, or delete it.")
    if is_captioner_folder(run):
        raise ModelError(f"{run} trained a captioner, and captioners cannot be exported yet.")
    folder = RunFolder(run)
    if not folder.is_started:
        raise RunError(f"{run} is not a run that vitrine train wrote, so there is nothing to export.")
    if not folder.is_finished:
        raise RunError(f"The training in {run} has not ended. Continue it: vitrine train DATA -o {run} --resume")
    if to == "hf":
        require_transformers()
    if to == "onnx":
        require_onnx()


@contextmanager
def _temporary_folder(out: Path) -> Iterator[Path]:
    """A folder beside another one, which is gone at the end unless it was moved."""
    place = out.absolute()
    place.parent.mkdir(parents=True, exist_ok=True)
    folder = place.with_name(f".{place.name}.{os.getpid()}.part")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _write(folder: Path, run: Path, to: str, precision: str, built: LoadedModel, labels: tuple[str, ...]) -> None:
    spec = built.input
    match to:
        case "hf":
            write_transformers(folder, built.module, labels, spec, precision)
        case "timm":
            write_timm(folder, run, precision)
        case "onnx":
            write_onnx(folder, _with_stored_weights(built.module, precision, precision), labels, spec, precision)
        case _:
            write_pt2(folder, _with_stored_weights(built.module, precision, precision), labels, spec)


def _read(folder: Path, to: str, stored: str, computed: str) -> LoadedExport:
    match to:
        case "hf":
            return read_transformers(folder, computed)
        case "timm":
            return read_timm(folder, computed)
        case "onnx":
            return read_onnx(folder, stored)
        case _:
            return read_pt2(folder)


def _compare_with_run(
    folder: Path,
    run: Path,
    to: str,
    out: Path,
    precision: str,
    built: LoadedModel,
    labels: tuple[str, ...],
    spec: InputSpec,
) -> ExportResult:
    """Computed in the stored precision and, where the format allows it, in fp32, which shows more."""
    comparisons, different, preparation, moved = [], None, None, 0
    for computed in dict.fromkeys(("fp32", precision) if to in _FREE_PRECISION else (precision,)):
        back = _read(folder, to, precision, computed)
        comparisons.append(compare(_logits(built.module, precision, computed), back.logits, spec, computed))
        different = different or describe_difference(back, labels, spec)
        moved = _count_changed_labels(built.module, back, spec) if computed != "fp32" else moved
        if back.prepare is not None and preparation is None:
            preparation = compare_preprocessing(back.prepare, spec)
    return ExportResult(run, to, out, precision, tuple(comparisons), preparation, moved, different)


def _count_changed_labels(module: nn.Module, back: LoadedExport, spec: InputSpec) -> int:
    with torch.inference_mode():
        pictures = comparison_pictures(spec)
        return sum(int((module(each).argmax(1) != back.logits(each).argmax(1)).sum()) for each in pictures)


def _logits(module: nn.Module, stored: str, computed: str) -> Callable[[torch.Tensor], torch.Tensor]:
    """The run itself, with weights rounded as they are stored."""
    rounded = _with_stored_weights(module, stored, computed)

    def logits(pixels_BCHW: torch.Tensor) -> torch.Tensor:
        answer: torch.Tensor = rounded(pixels_BCHW.to(DTYPES[computed]))
        return answer.float()

    return logits


def _with_stored_weights(module: nn.Module, stored: str, computed: str) -> nn.Module:
    """The module with its weights as they are stored, to compute in another precision or the same."""
    if stored == computed == "fp32":
        return module
    return copy.deepcopy(module).to(DTYPES[stored]).to(DTYPES[computed]).eval()
