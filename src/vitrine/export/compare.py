"""An export compared with its run: logits, labels, and the preprocessing of pictures.

Axes: B pictures, C classes, H, W pixel rows and columns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import interpolate

from vitrine.classify.inference import eval_transform
from vitrine.config.preprocessing import InputSpec
from vitrine.data.loader import normalise
from vitrine.errors import ModelError
from vitrine.results import agree, count_of

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
"""Precisions by name, of stored weights and of computation."""


@dataclass(frozen=True)
class LoadedExport:
    """An export opened with the tool that it is for.

    Attributes:
        logits: from normalised pictures, float32 (B, 3, H, W), to logits, float32 (B, C).
        labels: class names, as the export has them.
        prepare: the tool's preprocessing, from a picture, or a file that Pillow has opened, to float32 (3, H, W); None
            where it has none.
        spec: the input that the export describes, where the tool has no preprocessing.
        opens_files: whether the tool opens picture files itself, and ``prepare`` does as it does.
        problem_type: what the export says of its outputs, in transformers' words; None where it says nothing.
    """

    logits: Callable[[torch.Tensor], torch.Tensor]
    labels: tuple[str, ...]
    prepare: Callable[[Image.Image], torch.Tensor] | None = None
    spec: InputSpec | None = None
    opens_files: bool = False
    problem_type: str | None = None


def describe_input(spec: InputSpec) -> dict[str, Any]:
    """The preprocessing of a picture, JSON-ready, for a file that does not do it itself."""
    return {**spec.to_timm(), "colours": "RGB, divided by 255, less mean, divided by std"}


def parse_input(description: Mapping[str, Any]) -> InputSpec:
    """Read back what :func:`describe_input` wrote."""
    mean, std, size = (tuple(description[name]) for name in ("mean", "std", "input_size"))
    return InputSpec(
        size[1:], mean, std, description["crop_pct"], description["crop_mode"], description["interpolation"]
    )


def import_library(name: str, extra: str) -> Any:
    """Import a library that an optional dependency of vitrine brings.

    Args:
        name: of the module.
        extra: of vitrine that installs it.

    Raises:
        ModelError: it is not installed.
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise ModelError(
            f"This export needs the package {name} ({error}). Install it: pip install 'vitrine[{extra}]'"
        ) from None


BATCHES = (1, 3, 4)
"""Batch sizes that are compared: an export must take any."""

_SEED = 20_260_101
_TOLERANCES = {"fp32": 1e-4, "bf16": 0.05}
_LEVELS = 0.001  # of 255: what the rounding of the normalisation amounts to; a pixel differs by 1 or not at all

Logits = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class LogitsComparison:
    """Logits of an export compared with those of its run on the same pictures.

    Attributes:
        precision: what both computed in, from the same stored weights.
        largest: absolute difference of two logits; NaN where one of them is NaN.
        tolerance: the largest difference allowed: 1e-4 in fp32 and 0.05 in bf16, times the largest logit above 1.
        agreeing: pictures with the same label.
        pictures: how many there were.
    """

    precision: str
    largest: float
    tolerance: float
    agreeing: int
    pictures: int

    @property
    def same(self) -> bool:
        """Whether the difference is within the tolerance."""
        return self.largest <= self.tolerance

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "precision": self.precision,
            "largest_difference": self.largest,
            "tolerance": self.tolerance,
            "labels_agree": self.agreeing,
            "pictures": self.pictures,
            "batches": list(BATCHES),
            "same": self.same,
        }

    def __str__(self) -> str:
        labels = (
            "all labels agree"
            if self.agreeing == self.pictures
            else f"{count_of(self.agreeing, 'label')} {agree(self.agreeing, 'agrees', 'agree')}"
        )
        return (
            f"{self.precision}: the largest difference of logits is {self.largest:.2g} (allowed {self.tolerance:.2g}); "
            f"{labels}, of {count_of(self.pictures, 'picture')} in batches of {', '.join(map(str, BATCHES))}"
        )


@dataclass(frozen=True)
class PreprocessingComparison:
    """The preprocessing of an export's tool compared with that of the run.

    Attributes:
        largest: absolute difference in levels of 255; infinite where the inputs have different sizes.
        pictures: how many there were, none of them square.
    """

    largest: float
    pictures: int

    @property
    def same(self) -> bool:
        """Whether nothing differs but rounding."""
        return self.largest <= _LEVELS

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "largest_difference_levels": self.largest,
            "pictures": self.pictures,
            "same": self.same,
        }


def comparison_pictures(spec: InputSpec) -> list[torch.Tensor]:
    """Seeded pictures from plain to detailed, normalised: one float32 (B, 3, H, W) for every size of batch."""
    generator = torch.Generator().manual_seed(_SEED)
    pixels = []
    for count in BATCHES:
        cells = [torch.rand(1, 3, side, side, generator=generator) for side in (3, 2, 5, 12)[:count]]
        pictures = [interpolate(each, size=spec.size, mode="bilinear") for each in cells]
        pixels.append((torch.cat(pictures) * 255).round().to(torch.uint8))
    return [normalise(each, spec.mean, spec.std) for each in pixels]


def differing_labels(ours_BC: torch.Tensor, theirs_BC: torch.Tensor, is_multi_label: bool) -> torch.Tensor:
    """Whether two computations give each picture other labels, bool (B,): the likeliest class, or all above 0.5."""
    if is_multi_label:
        return ((ours_BC > 0) != (theirs_BC > 0)).any(1)
    return ours_BC.argmax(1) != theirs_BC.argmax(1)


def compare_logits(
    run: Logits, export: Logits, spec: InputSpec, precision: str, is_multi_label: bool = False
) -> LogitsComparison:
    """Run both on the same pictures and compare their logits.

    Args:
        run: from normalised pictures, float32 (B, 3, H, W), to logits, float32 (B, C).
        export: likewise.
        spec: the input of both.
        precision: what both compute in.
        is_multi_label: whether a picture has any number of labels.
    """
    with torch.inference_mode():
        pairs = [(run(pixels).float(), export(pixels.clone()).float()) for pixels in comparison_pictures(spec)]
    ours, theirs = (torch.cat(side) for side in zip(*pairs, strict=True))
    if ours.shape != theirs.shape:
        return LogitsComparison(precision, float("inf"), _TOLERANCES[precision], 0, len(ours))
    return LogitsComparison(
        precision,
        largest=float((ours - theirs).abs().max()),
        tolerance=_TOLERANCES[precision] * max(1.0, float(ours.abs().max())),
        agreeing=len(ours) - int(differing_labels(ours, theirs, is_multi_label).sum()),
        pictures=len(ours),
    )


def compare_preprocessing(prepare: Callable[[Image.Image], torch.Tensor], spec: InputSpec) -> PreprocessingComparison:
    """Compare the preprocessing of an export's tool with the run's, on wide and tall pictures.

    Args:
        prepare: the tool's, from an RGB picture to float32 (3, H, W), normalised.
        spec: the input of both.
    """
    transform = eval_transform(spec)
    shapes = _shapes(min(spec.size))
    differences = []
    for number, (width, height) in enumerate(shapes):
        image = _photograph(width, height, number)
        ours_CHW = torch.from_numpy(transform(image)).permute(2, 0, 1).float() / 255
        theirs_CHW = prepare(image) * _column(spec.std) + _column(spec.mean)
        is_comparable = ours_CHW.shape == theirs_CHW.shape
        differences.append(float((255 * (ours_CHW - theirs_CHW)).abs().max()) if is_comparable else float("inf"))
    return PreprocessingComparison(max(differences), len(differences))


def _shapes(size: int) -> list[tuple[int, int]]:
    """Wide and tall, larger and smaller than the input; some leave an odd number of pixels over."""
    return [(2 * size, size), (size, 2 * size), (size + 11, size + 3), (size // 2 + 3, size), (3 * size + 1, 2 * size)]


def _photograph(width: int, height: int, seed: int) -> Image.Image:
    """Smooth colours with grain."""
    rng = np.random.default_rng((_SEED, seed))
    plain = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)).resize((width, height))
    grain = rng.integers(-16, 17, (height, width, 3))
    return Image.fromarray(np.clip(np.array(plain).astype(int) + grain, 0, 255).astype(np.uint8))


def _column(values: tuple[float, float, float]) -> torch.Tensor:
    return torch.tensor(values)[:, None, None]


def describe_difference(
    export: LoadedExport, labels: tuple[str, ...], spec: InputSpec, problem_type: str | None = None
) -> str | None:
    """In what class names, outputs or input an export differs from the run, in words; None where it does not."""
    if export.problem_type != problem_type:
        return f"it says that its outputs are {export.problem_type}, the run that they are {problem_type}"
    if export.labels != labels:
        return "its class names are not the run's"
    if export.spec is not None and export.spec != spec:
        return f"it describes the input as {export.spec}, the run as {spec}"
    return None
