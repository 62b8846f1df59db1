"""``vitrine export``: a run written for other tools, read back as they read it, and compared with the run.

Axes: B pictures, C classes, H, W pixel rows and columns.
"""

from __future__ import annotations

import copy
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from vitrine.errors import ModelError, RunError, UsageError
from vitrine.models.build import BuiltModel, InputSpec, open_run
from vitrine.models.captioner.saved import is_captioner_folder
from vitrine.models.exports.program import read_onnx, read_pt2, require_onnx, write_onnx, write_pt2
from vitrine.models.exports.read_back import DTYPES, ReadBack
from vitrine.models.exports.timm_folder import read_timm, write_timm
from vitrine.models.exports.transformers_folder import read_transformers, require_transformers, write_transformers
from vitrine.models.run_folder import RunFolder
from vitrine.report.model_card import ExportFacts
from vitrine.workflows.export_comparison import (
    compare,
    compare_preparation,
    compared_pictures,
    described_as,
)
from vitrine.workflows.exported import TARGETS, Exported
from vitrine.workflows.model_card import write_export_card

_BY_WEIGHTS = ("hf", "timm")  # whose weights can be computed with in another precision than they are stored in


def export(run: Path, to: str, out: Path, *, precision: str = "fp32") -> Exported:
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
    _check(run, to, out, precision)
    built = open_run(run)
    labels = RunFolder(run).labels()
    spec = built.input
    with _beside(out) as folder:
        _write(folder, run, to, precision, built, labels)
        result = _compared(folder, run, to, out, precision, built, labels, spec)
        if result.same:
            write_export_card(run, folder, ExportFacts(to, out.resolve().name, precision, result.found))
            out.parent.mkdir(parents=True, exist_ok=True)
            folder.rename(out)
    return result


def _check(run: Path, to: str, out: Path, precision: str) -> None:
    if to not in TARGETS:
        raise UsageError(f"--to {to} is not known: expected {', '.join(TARGETS)}.")
    if precision not in DTYPES:
        raise UsageError(f"--precision {precision} cannot be stored: expected {' or '.join(DTYPES)}.")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} is there already. Choose another -o, or delete it.")
    if is_captioner_folder(run):
        raise ModelError(f"{run} trained a captioner, and captioners cannot be exported yet.")
    folder = RunFolder(run)
    if not folder.started:
        raise RunError(f"{run} is not a run that vitrine train wrote, so there is nothing to export.")
    if not folder.finished:
        raise RunError(f"The training in {run} has not ended. Continue it: vitrine train DATA -o {run} --resume")
    if to == "hf":
        require_transformers()
    if to == "onnx":
        require_onnx()


@contextmanager
def _beside(out: Path) -> Iterator[Path]:
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


def _write(folder: Path, run: Path, to: str, precision: str, built: BuiltModel, labels: tuple[str, ...]) -> None:
    spec = built.input
    match to:
        case "hf":
            write_transformers(folder, built.module, labels, spec, precision)
        case "timm":
            write_timm(folder, run, precision)
        case "onnx":
            write_onnx(folder, _stored(built.module, precision, precision), labels, spec, precision)
        case _:
            write_pt2(folder, _stored(built.module, precision, precision), labels, spec)


def _read(folder: Path, to: str, stored: str, computed: str) -> ReadBack:
    match to:
        case "hf":
            return read_transformers(folder, computed)
        case "timm":
            return read_timm(folder, computed)
        case "onnx":
            return read_onnx(folder, stored)
        case _:
            return read_pt2(folder)


def _compared(
    folder: Path,
    run: Path,
    to: str,
    out: Path,
    precision: str,
    built: BuiltModel,
    labels: tuple[str, ...],
    spec: InputSpec,
) -> Exported:
    """Computed in the stored precision and, where the format allows it, in fp32, which shows more."""
    comparisons, different, preparation, moved = [], None, None, 0
    for computed in dict.fromkeys(("fp32", precision) if to in _BY_WEIGHTS else (precision,)):
        back = _read(folder, to, precision, computed)
        comparisons.append(compare(_logits(built.module, precision, computed), back.logits, spec, computed))
        different = different or described_as(back, labels, spec)
        moved = _moved(built.module, back, spec) if computed != "fp32" else moved
        if back.prepare is not None and preparation is None:
            preparation = compare_preparation(back.prepare, spec)
    return Exported(run, to, out, precision, tuple(comparisons), preparation, moved, different)


def _moved(module: nn.Module, back: ReadBack, spec: InputSpec) -> int:
    with torch.inference_mode():
        pictures = compared_pictures(spec)
        return sum(int((module(each).argmax(1) != back.logits(each).argmax(1)).sum()) for each in pictures)


def _logits(module: nn.Module, stored: str, computed: str) -> Callable[[torch.Tensor], torch.Tensor]:
    """The run itself, with weights rounded as they are stored."""
    rounded = _stored(module, stored, computed)

    def logits(pixels_BCHW: torch.Tensor) -> torch.Tensor:
        answer: torch.Tensor = rounded(pixels_BCHW.to(DTYPES[computed]))
        return answer.float()

    return logits


def _stored(module: nn.Module, stored: str, computed: str) -> nn.Module:
    """The module with its weights as they are stored, to compute in another precision or the same."""
    if stored == computed == "fp32":
        return module
    return copy.deepcopy(module).to(DTYPES[stored]).to(DTYPES[computed]).eval()
