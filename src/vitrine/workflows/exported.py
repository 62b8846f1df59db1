"""What ``vitrine export`` found: its comparisons, for a person and for a program."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitrine.workflows.export_comparison import Comparison, Preparation

TARGETS = {"hf": "transformers", "timm": "timm", "onnx": "ONNX", "pt2": "torch.export"}
"""What ``--to`` takes, and what it is for."""

_READERS = {**TARGETS, "onnx": "onnxruntime"}


@dataclass(frozen=True)
class Exported:
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
    comparisons: tuple[Comparison, ...]
    preparation: Preparation | None
    moved: int
    different: str | None = None

    @property
    def same(self) -> bool:
        """Whether the export is the run, as far as precision allows; only then was it written."""
        prepared = self.preparation is None or self.preparation.same
        return prepared and self.different is None and all(each.same for each in self.comparisons)

    @property
    def found(self) -> tuple[str, ...]:
        """What was compared, in sentences."""
        said = [f"Read back with {_READERS[self.to]} and compared with the run, {each}." for each in self.comparisons]
        if self.precision != "fp32":
            pictures = self.comparisons[0].pictures
            said.append(f"Labels that differ from those of the run in fp32: {self.moved} of {pictures}.")
        said.append(self._prepared())
        if self.different is not None:
            said.append(f"Not the same: {self.different}.")
        return tuple(said)

    def _prepared(self) -> str:
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
                f"lies one pixel further left or up ({found.moved} of these)"
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
            "labels_moved_from_fp32": self.moved,
            "different": self.different,
        }

    def text(self) -> str:
        """The same for a person."""
        done = f"Exported {self.run} for {TARGETS[self.to]} to {self.out} ({self.precision})."
        failed = f"The export of {self.run} for {TARGETS[self.to]} is not the run; nothing was written to {self.out}."
        return "\n".join([done if self.same else failed, *self.found])
