"""A model exported as one graph that needs neither timm nor vitrine: torch.export's archive, and ONNX.

Axes: B pictures, C classes, H, W pixel rows and columns.
"""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vitrine.config.preprocessing import InputSpec
from vitrine.errors import ModelError, error_summary
from vitrine.export.compare import LoadedExport, describe_input, import_library, parse_input
from vitrine.version import __version__

PT2, ONNX = "model.pt2", "model.onnx"
_NOTE = "vitrine.json"  # the file inside the archive that says what the outputs and the input are
_INPUT, _OUTPUT = "pixels", "logits"
_ANY_NUMBER = {_INPUT: {0: torch.export.Dim("batch", min=1)}}  # of pictures
_ONE_FILE = 1_900_000_000  # bytes of weights; a protocol buffer, which an ONNX file is, ends at 2 GiB
_OPSET = {"fp32": 20, "bf16": 22}  # the first in which everything is defined for the precision


class _Float32Interface(nn.Module):
    """A model with float32 input and output, whatever it computes in."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.dtype = next(module.parameters()).dtype

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Compute logits, float32 (B, C), from normalised pictures, float32 (B, 3, H, W)."""
        logits: torch.Tensor = self.module(pixels.to(self.dtype))
        return logits.float()


def _trace(module: nn.Module, spec: InputSpec) -> torch.export.ExportedProgram:
    """Trace the model's graph, for any number of pictures, without the names of this machine's files.

    Raises:
        ModelError: the model cannot be traced.
    """
    parameter = next(module.parameters())
    example = torch.zeros(2, 3, *spec.size, device=parameter.device)
    try:
        program = torch.export.export(_Float32Interface(module).eval(), (example,), dynamic_shapes=_ANY_NUMBER)
    except Exception as error:  # whatever a model's code makes torch's tracer stumble over
        message = error_summary(error, 300)
        raise ModelError(f"{type(module).__name__} cannot be traced by torch.export: {message}") from error
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    return program


def write_pt2(
    folder: Path, module: nn.Module, labels: Sequence[str], spec: InputSpec, problem_type: str | None = None
) -> None:
    """Write torch.export's archive, with labels and input in ``extra/vitrine.json``.

    Args:
        folder: exists.
        module: in eval mode, in the type of number that it is to compute in.
        labels: class names in the order of its outputs.
        spec: its input.
        problem_type: what its outputs are, in transformers' words; None is a choice of one class.

    Raises:
        ModelError: the model cannot be traced.
    """
    note = json.dumps(_note(labels, spec, problem_type), ensure_ascii=False)
    content = io.BytesIO()  # into a file that cannot be written, torch's own writer ends the process
    with _quiet():
        torch.export.save(_trace(module, spec), content, extra_files={_NOTE: note})
    (folder / PT2).write_bytes(content.getbuffer())


def read_pt2(folder: Path) -> LoadedExport:
    """Open what :func:`write_pt2` wrote; it computes in the precision that it was written in."""
    extra = {_NOTE: ""}
    with _quiet():
        module = torch.export.load(folder / PT2, extra_files=extra).module()
    note = json.loads(extra[_NOTE])
    spec = parse_input(note["input"])
    return LoadedExport(module, tuple(note["labels"]), spec=spec, problem_type=note.get("problem_type"))


def require_onnx() -> Any:
    """Import onnxruntime, and check that the packages that write ONNX are there.

    Raises:
        ModelError: one of the packages that ONNX needs is not installed.
    """
    for name in ("onnx", "onnxscript"):
        import_library(name, "onnx")
    return import_library("onnxruntime", "onnx")


def write_onnx(
    folder: Path,
    module: nn.Module,
    labels: Sequence[str],
    spec: InputSpec,
    precision: str,
    problem_type: str | None = None,
) -> None:
    """Write ``model.onnx`` by torch's exporter; ``labels`` and ``input`` are JSON in its metadata.

    Weights of more than 1.9 GB go into ``model.onnx.data`` beside it.

    Args:
        folder: exists.
        module: in eval mode, in the type of number that it is to compute in.
        labels: class names in the order of its outputs.
        spec: its input.
        precision: fp32 or bf16: what the module computes in.
        problem_type: what its outputs are, in transformers' words; None is a choice of one class.

    Raises:
        ModelError: packages are missing, or the model cannot be written.
    """
    require_onnx()
    graph = _trace(module, spec)
    with _quiet():
        try:
            program: Any = torch.onnx.export(
                graph,
                dynamo=True,
                dynamic_shapes=_ANY_NUMBER,  # for the axis' name
                verbose=False,
                input_names=[_INPUT],
                output_names=[_OUTPUT],
                opset_version=_OPSET[precision],
            )
        except Exception as error:  # operators that ONNX has no word for
            message = error_summary(error, 300)
            raise ModelError(f"{type(module).__name__} cannot be written as ONNX: {message}") from error
    for key, value in _note(labels, spec, problem_type).items():
        program.model.metadata_props[key] = json.dumps(value, ensure_ascii=False)
    size = sum(tensor.numel() * tensor.element_size() for tensor in module.state_dict().values())
    program.save(folder / ONNX, external_data=size > _ONE_FILE)


def read_onnx(folder: Path, precision: str) -> LoadedExport:
    """Open what :func:`write_onnx` wrote, with onnxruntime on the CPU.

    Args:
        folder: with the file.
        precision: that it was written in.

    Raises:
        ModelError: onnxruntime is missing or cannot run the file.
    """
    runtime = require_onnx()
    try:
        session = runtime.InferenceSession(folder / ONNX, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no base of their own
        message = error_summary(error)
        remedy = "\nExport it with --precision fp32." if precision != "fp32" else ""
        raise ModelError(
            f"onnxruntime on the CPU cannot run this model in {precision}, so the file cannot be compared with the run "
            f"({message}).{remedy}"
        ) from error
    note = session.get_modelmeta().custom_metadata_map

    def logits(pixels_BCHW: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(session.run([_OUTPUT], {_INPUT: pixels_BCHW.numpy()})[0])

    labels, input_spec = (json.loads(note[key]) for key in ("labels", "input"))
    problem_type = json.loads(note.get("problem_type", "null"))
    return LoadedExport(logits, tuple(labels), spec=parse_input(input_spec), problem_type=problem_type)


def _note(labels: Sequence[str], spec: InputSpec, problem_type: str | None) -> dict[str, Any]:
    note = {"labels": list(labels), "input": describe_input(spec), "made_by": f"vitrine {__version__}"}
    return note if problem_type is None else {**note, "problem_type": problem_type}


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporters' warnings: whether a file is right is seen by reading it back."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)
