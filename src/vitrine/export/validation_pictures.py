"""The run's own validation pictures, opened and prepared by an export's tool, beside the run: whose labels move.

Axes: C channels, then classes; H, W pixel rows and columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from tempfile import NamedTemporaryFile
from typing import Any

import torch
from PIL import Image
from torch import nn

from vitrine.classify.inference import eval_transform
from vitrine.config.preprocessing import InputSpec
from vitrine.data.loader import normalise
from vitrine.data.samples import Sample, random_subset
from vitrine.errors import DataError, PictureError
from vitrine.export.compare import LoadedExport, differing_labels
from vitrine.results import and_n_more, count_of
from vitrine.runs.data import find_validation_samples
from vitrine.runs.record import RunRecord

_MOST = 500  # pictures that are compared; more are drawn at random
_EQUAL = 1e-4  # of normalised values: rounding of the normalisation; one level of 255 is 4e-3 or more


@dataclass(frozen=True)
class ValidationComparison:
    """A run's validation pictures, opened from their files by the export's tool, compared with the run.

    Attributes:
        pictures: how many were compared.
        recorded_pictures: how many the run has; those that are no longer there, or were not drawn, were not compared.
        other_pixels: names of those that the tool gives other pixels than the run does.
        other_labels: names of those, among these, that get another label.
        after_decoding: how many of them still have other pixels when the tool is given what the run decoded, upright
            8-bit RGB.
    """

    pictures: int
    recorded_pictures: int
    other_pixels: tuple[str, ...] = ()
    other_labels: tuple[str, ...] = ()
    after_decoding: int = 0

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "pictures": self.pictures,
            "recorded": self.recorded_pictures,
            "other_pixels": list(self.other_pixels),
            "labels_moved": len(self.other_labels),
            "other_labels": list(self.other_labels),
            "other_pixels_after_decoding": self.after_decoding,
        }

    def sentence(self, tool: str) -> str:
        """What was found, for a person."""
        if not self.pictures:
            return (
                f"Of the run's {count_of(self.recorded_pictures, 'validation picture')} none is where it was with the "
                f"content that it had, so whether {tool} labels them as the run does was not measured."
            )
        of = f" of {self.recorded_pictures:,}" if self.pictures < self.recorded_pictures else ""
        beginning = (
            f"Of the run's own validation pictures, {self.pictures:,}{of} were opened by {tool} from their files"
        )
        if not self.other_pixels:
            return f"{beginning}: all have the run's pixels, to the bit; labels that move: 0 of {self.pictures:,}."
        examples = f" ({and_n_more(self.other_labels, 3)})" if self.other_labels else ""
        still = f"{self.after_decoding:,} still do not have" if self.after_decoding else "all have"
        return (
            f"{beginning}: {len(self.other_pixels):,} have other pixels than in the run "
            f"({and_n_more(self.other_pixels, 3)}); labels that move: {len(self.other_labels):,} of "
            f"{self.pictures:,}{examples}. Opened as the model card's program opens them, {still} the run's pixels."
        )


def compare_validation(
    export: LoadedExport, module: nn.Module, spec: InputSpec, record: RunRecord
) -> ValidationComparison:
    """Open a run's validation pictures as an export's tool does; where pixels differ, compare labels.

    Pictures with the run's pixels are not run again: that the logits of equal pixels agree is compared elsewhere.

    Args:
        export: opened with its tool, which opens files itself.
        module: the run's model, in eval mode.
        spec: its input.
        record: of the run.
    """
    names = [name for name, _ in sorted(record.pictures)]
    try:
        samples = find_validation_samples(record, names)
    except DataError:
        samples = {}
    drawn_samples = random_subset(tuple(samples.values()), _MOST, seed=0)
    count, other_pixels, other_labels, after_decoding = 0, [], [], 0
    for sample in drawn_samples:
        inputs = _prepare(export, spec, sample)
        if inputs is None:
            continue
        count += 1
        if inputs.has_same_pixels:
            continue
        other_pixels.append(sample.name)
        after_decoding += not inputs.has_same_pixels_after_decoding
        with torch.inference_mode():
            logits = module(inputs.run_CHW[None]), export.logits(inputs.file_CHW[None])
            if differing_labels(*logits, record.is_multi_label).any():
                other_labels.append(sample.name)
    return ValidationComparison(count, len(names), tuple(other_pixels), tuple(other_labels), after_decoding)


@dataclass(frozen=True)
class _Inputs:
    """One picture as the run prepares it, and as the tool does from its file and from what the run decoded of it."""

    run_CHW: torch.Tensor
    file_CHW: torch.Tensor
    decoded_CHW: torch.Tensor

    @property
    def has_same_pixels(self) -> bool:
        return torch.allclose(self.run_CHW, self.file_CHW, rtol=0, atol=_EQUAL)

    @property
    def has_same_pixels_after_decoding(self) -> bool:
        return torch.allclose(self.run_CHW, self.decoded_CHW, rtol=0, atol=_EQUAL)


def _prepare(export: LoadedExport, spec: InputSpec, sample: Sample) -> _Inputs | None:
    """A picture's inputs; None where it cannot be read."""
    assert export.prepare is not None, "the tool opens files itself"
    try:
        image, data = sample.picture.decode(), sample.picture.read_bytes()
    except PictureError:
        return None
    pixels_HWC = torch.from_numpy(eval_transform(spec)(image))
    run_CHW = normalise(pixels_HWC.permute(2, 0, 1)[None], spec.mean, spec.std)[0]
    with NamedTemporaryFile() as file:  # opened by its path, as people do: Pillow does not read all files alike
        file.write(data)
        file.flush()
        file_CHW = export.prepare(Image.open(file.name))
    return _Inputs(run_CHW, file_CHW, export.prepare(image))
