"""``vitrine export``: a run written for another tool, read back as that tool reads it, and compared with the run.

Axes: B pictures, C classes, H, W pixel rows and columns.
"""

from __future__ import annotations

import copy
import filecmp
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vitrine.config.preprocessing import InputSpec
from vitrine.display import ResultDisplay
from vitrine.errors import ModelError, RunError, UsageError
from vitrine.export.compare import (
    DTYPES,
    LoadedExport,
    LogitsComparison,
    PreprocessingComparison,
    compare_logits,
    compare_preprocessing,
    comparison_pictures,
    describe_difference,
    differing_labels,
)
from vitrine.export.onnx import read_onnx, read_pt2, require_onnx, write_onnx, write_pt2
from vitrine.export.timm import read_timm, write_timm
from vitrine.export.transformers import read_transformers, require_transformers, write_transformers
from vitrine.export.validation_pictures import ValidationComparison, compare_validation
from vitrine.io.file_names import temporary_path
from vitrine.io.files import writing
from vitrine.io.output_lock import writes_file
from vitrine.models.captioner_folder import is_captioner_folder
from vitrine.models.load import LoadedModel, load_for_inference
from vitrine.runs.folder import RunFolder
from vitrine.runs.model_card import ExportFacts, write_export_card
from vitrine.runs.record import RunRecord, read_record

TARGETS = {"hf": "transformers", "timm": "timm", "onnx": "ONNX", "pt2": "torch.export"}
"""What ``--to`` takes, and the tool that it stands for."""

_READERS = {**TARGETS, "onnx": "onnxruntime"}


@dataclass(frozen=True, repr=False)
class ExportResult(ResultDisplay):
    """An export of a run, and its comparison with the run.

    Attributes:
        run: the run folder.
        to: one of :data:`TARGETS`.
        out: the folder that was written; there is none where ``same`` is false.
        precision: of the stored weights: fp32 or bf16.
        comparisons: of its logits with the run's, one for each precision that was computed in.
        preprocessing: pictures as the export's tool prepares them, beside the run's; None where the tool prepares none.
        changed_labels: pictures, of those compared, whose label is not that of the run in fp32.
        difference: in what class names or input the export differs from the run, in words; None where it does not.
        validation: the run's validation pictures, opened by the export's tool; None where the tool opens no files.
    """

    run: Path
    to: str
    out: Path
    precision: str
    comparisons: tuple[LogitsComparison, ...]
    preprocessing: PreprocessingComparison | None
    changed_labels: int
    difference: str | None = None
    validation: ValidationComparison | None = None

    def headline(self) -> str:
        """Whether the two are the same, and where the export is."""
        return (
            f"{self.run} as {self.to} in {self.out}"
            if self.same
            else f"{self.run} as {self.to}: not the same, not written"
        )

    def details(self) -> str:
        """What was compared."""
        return self.text()

    @property
    def same(self) -> bool:
        """Whether the export is the run, as far as precision allows; only then was it written."""
        same_pixels = self.preprocessing is None or self.preprocessing.same
        return same_pixels and self.difference is None and all(each.same for each in self.comparisons)

    @property
    def sentences(self) -> tuple[str, ...]:
        """What was compared, in sentences."""
        sentences = [
            f"Read back with {_READERS[self.to]} and compared with the run, {each}." for each in self.comparisons
        ]
        if self.precision != "fp32":
            pictures = self.comparisons[0].pictures
            sentences.append(f"Labels that differ from those of the run in fp32: {self.changed_labels} of {pictures}.")
        sentences.append(self._preprocessing_sentence())
        if self.validation is not None:
            sentences.append(self.validation.sentence(TARGETS[self.to]))
        if self.difference is not None:
            sentences.append(f"Not the same: {self.difference}.")
        return tuple(sentences)

    def _preprocessing_sentence(self) -> str:
        preprocessing = self.preprocessing
        if preprocessing is None:
            return "Pictures are prepared by whoever uses the file; how is in its metadata, which was compared too."
        return (
            f"Pictures are prepared by {TARGETS[self.to]} as by the run: {preprocessing.pictures} wide and tall ones "
            f"differ by {preprocessing.largest:.2g} of 255 levels at most."
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "run": str(self.run),
            "to": self.to,
            "out": str(self.out) if self.same else None,
            "precision": self.precision,
            "same": self.same,
            "comparisons": [each.to_dict() for each in self.comparisons],
            "preparation": self.preprocessing and self.preprocessing.to_dict(),
            "labels_moved_from_fp32": self.changed_labels,
            "different": self.difference,
            "validation": self.validation and self.validation.to_dict(),
        }

    def text(self) -> str:
        """The result as text for a terminal."""
        success = f"Exported {self.run} for {TARGETS[self.to]} to {self.out} ({self.precision})."
        failure = f"The export of {self.run} for {TARGETS[self.to]} is not the run; nothing was written to {self.out}."
        return "\n".join([success if self.same else failure, *self.sentences])


_ANY_PRECISION = ("hf", "timm")  # targets that can compute in another precision than their weights are stored in


@writes_file("export")
def export(run: Path, to: str, out: Path, *, precision: str = "fp32") -> ExportResult:
    """Write a run for another tool, with a model card.

    Everything is written beside ``out``, read back and compared there, and moved to ``out`` only where it computes what
    the run computes.

    Args:
        run: the folder of a finished run of a classifier.
        to: hf (transformers), timm, onnx or pt2 (torch.export).
        out: a folder that is new or empty, or that holds this very export already.
        precision: fp32 or bf16: of the stored weights.

    Returns:
        The comparison. Where ``same`` is false, nothing was written.

    Raises:
        UsageError: no such target or precision, or ``out`` is in use.
        RunError: not a finished run.
        ModelError: the target cannot hold the model, its packages are missing, or its library cannot run the precision.
    """
    _check_arguments(run, to, out, precision)
    model = load_for_inference(run)
    labels = RunFolder(run).read_labels()
    with _temporary_folder(out) as folder:
        _write(folder, run, to, precision, model, labels)
        comparisons = _compare_with_run(folder, to, precision, model, read_record(run.name, RunFolder(run)))
        result = ExportResult(run, to, out, precision, *comparisons)
        if result.same:
            write_export_card(run, folder, ExportFacts(to, out.resolve().name, precision, result.sentences))
            if _is_used(out):
                _require_same_files(folder, out)
            else:
                out.parent.mkdir(parents=True, exist_ok=True)
                folder.rename(out)
    return result


def _is_used(out: Path) -> bool:
    return out.exists() and (not out.is_dir() or any(out.iterdir()))


def _require_same_files(folder: Path, out: Path) -> None:
    """Refuse an output that is there already, unless it is what was to be written: a call stopped at its very end.

    Raises:
        UsageError: it holds anything else.
    """
    names, names_there = ({path.relative_to(each) for path in each.rglob("*")} for each in (folder, out))
    files = sorted(str(name) for name in names if (folder / name).is_file())
    if names != names_there or filecmp.cmpfiles(folder, out, files, shallow=False)[0] != files:
        raise UsageError(f"{out} is there already, and is not this export. Choose another -o, or delete it.")


def _check_arguments(run: Path, to: str, out: Path, precision: str) -> None:
    if to not in TARGETS:
        raise UsageError(f"--to {to} is not known: expected {', '.join(TARGETS)}.")
    if precision not in DTYPES:
        raise UsageError(f"--precision {precision} cannot be stored: expected {' or '.join(DTYPES)}.")
    if _is_used(out) and not ((out / "README.md").is_file() and out.resolve() != run.resolve()):
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
    """A new folder beside another one, which is deleted at the end unless it was moved."""
    absolute = out.absolute()
    absolute.parent.mkdir(parents=True, exist_ok=True)
    folder = temporary_path(absolute)
    folder.mkdir()
    try:
        with writing(out, folder):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _write(folder: Path, run: Path, to: str, precision: str, model: LoadedModel, labels: tuple[str, ...]) -> None:
    spec, module, kind = model.input, model.module, model.reference.problem_type
    match to:
        case "hf":
            write_transformers(folder, module, labels, spec, precision, kind)
        case "timm":
            write_timm(folder, run, precision)
        case "onnx":
            write_onnx(folder, _round_weights(module, precision, precision), labels, spec, precision, kind)
        case _:
            write_pt2(folder, _round_weights(module, precision, precision), labels, spec, kind)


def _read(folder: Path, to: str, stored_precision: str, precision: str) -> LoadedExport:
    match to:
        case "hf":
            return read_transformers(folder, precision)
        case "timm":
            return read_timm(folder, precision)
        case "onnx":
            return read_onnx(folder, stored_precision)
        case _:
            return read_pt2(folder)


def _compare_with_run(
    folder: Path, to: str, stored_precision: str, model: LoadedModel, record: RunRecord
) -> tuple[tuple[LogitsComparison, ...], PreprocessingComparison | None, int, str | None, ValidationComparison | None]:
    """Compare in the stored precision and, where the target can compute in it, in fp32, which shows more.

    Returns:
        The last five fields of :class:`ExportResult`.
    """
    module, spec, labels = model.module, model.input, record.folder.read_labels()
    comparisons, difference, preprocessing, changed_labels, validation = [], None, None, 0, None
    problem_type, is_multi_label = model.reference.problem_type, record.is_multi_label
    for precision in dict.fromkeys(("fp32", stored_precision) if to in _ANY_PRECISION else (stored_precision,)):
        export = _read(folder, to, stored_precision, precision)
        logits = _compute_logits(module, stored_precision, precision)
        comparisons.append(compare_logits(logits, export.logits, spec, precision, is_multi_label))
        difference = difference or describe_difference(export, labels, spec, problem_type)
        if precision != "fp32":
            changed_labels = _count_changed_labels(module, export, spec, is_multi_label)
        if export.prepare is not None and preprocessing is None:
            preprocessing = compare_preprocessing(export.prepare, spec)
        if export.opens_files and validation is None and preprocessing is not None and preprocessing.same:
            validation = compare_validation(export, module, spec, record)
    return tuple(comparisons), preprocessing, changed_labels, difference, validation


def _count_changed_labels(module: nn.Module, export: LoadedExport, spec: InputSpec, is_multi_label: bool) -> int:
    with torch.inference_mode():
        pairs = ((module(each), export.logits(each)) for each in comparison_pictures(spec))
        return sum(int(differing_labels(ours, theirs, is_multi_label).sum()) for ours, theirs in pairs)


def _compute_logits(module: nn.Module, stored_precision: str, precision: str) -> Callable[[torch.Tensor], torch.Tensor]:
    """The run's logits in a precision, with weights rounded as the export stores them."""
    with_rounded_weights = _round_weights(module, stored_precision, precision)

    def logits(pixels_BCHW: torch.Tensor) -> torch.Tensor:
        logits_BC: torch.Tensor = with_rounded_weights(pixels_BCHW.to(DTYPES[precision]))
        return logits_BC.float()

    return logits


def _round_weights(module: nn.Module, stored_precision: str, precision: str) -> nn.Module:
    """A copy of the module with its weights rounded to the stored precision, to compute in another one or the same."""
    if stored_precision == precision == "fp32":
        return module
    return copy.deepcopy(module).to(DTYPES[stored_precision]).to(DTYPES[precision]).eval()
