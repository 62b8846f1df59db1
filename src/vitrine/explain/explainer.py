"""Maps of batches of pictures by an opened model, and the checks on them.

Axes: B pictures, C channels (or classes, in probabilities), H, W pixels, R grid rows, C grid columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from vitrine.attribution.baselines import centre_blob
from vitrine.attribution.faithfulness import InsertionDeletionCurves, insertion_deletion_curves
from vitrine.attribution.maps import BatchMaps, token_layout
from vitrine.attribution.methods import Method
from vitrine.attribution.outlier_tokens import outlier_mass, outlier_tokens, token_norms
from vitrine.attribution.verdict import Evidence, Verdict, judge, top_decile_mass
from vitrine.attribution.weight_randomization import Sensitivity, sensitivity
from vitrine.classify.inference import eval_batches
from vitrine.classify.model import Classifier
from vitrine.data.loader import Batch, normalise
from vitrine.data.samples import Sample
from vitrine.errors import ModelError
from vitrine.models.precision import autocast, class_token_alone

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class ExplainedBatch:
    """A batch with what the model said of it and its maps.

    Attributes:
        batch: the pictures.
        pixels_BCHW: normalised, on the model's device.
        probabilities_BC: float32 on the CPU.
        targets_B: the class that each map is for.
        maps: of the method.
    """

    batch: Batch
    pixels_BCHW: torch.Tensor
    probabilities_BC: torch.Tensor
    targets_B: torch.Tensor
    maps: BatchMaps


class Explainer:
    """An opened model and a method, which give maps."""

    def __init__(self, opened: Classifier, method: Method, target: str | None = None) -> None:
        self.opened, self.method = opened, method
        self.layout = token_layout(opened.module, opened.spec.size, opened.spec.size)
        self.target = None if target is None else _class_index(opened, target)

    def run(self, samples: Sequence[Sample], batch_size: int, workers: int = -1) -> Iterator[ExplainedBatch]:
        """Samples in order, batch by batch; unreadable pictures are named in the batches.

        ``workers`` background processes load pictures; -1 chooses.
        """
        for batch in eval_batches(samples, self.opened.spec, batch_size=batch_size, workers=workers):
            yield self.map(batch)

    def map(self, batch: Batch) -> ExplainedBatch:
        """One batch."""
        pixels_BCHW = self.pixels(batch.pixels_BCHW)
        if not len(pixels_BCHW):
            none_BRC = torch.zeros(0, self.layout.rows, self.layout.columns)
            nobody_B = torch.zeros(0, dtype=torch.int64)
            return ExplainedBatch(
                batch, pixels_BCHW, torch.zeros(0, len(self.opened.labels)), nobody_B, BatchMaps(none_BRC)
            )
        if self.method.for_a_class:
            probabilities_BC = self.probability(pixels_BCHW).cpu()
            targets_B = self._targets(probabilities_BC)
            return ExplainedBatch(batch, pixels_BCHW, probabilities_BC, targets_B, self.maps(pixels_BCHW, targets_B))
        with _capture_outputs(self.opened.module) as logits:  # one forward pass gives both
            maps = self.maps(pixels_BCHW, torch.zeros(len(pixels_BCHW), dtype=torch.int64))
        probabilities_BC = logits[-1].float().softmax(-1).cpu()
        return ExplainedBatch(batch, pixels_BCHW, probabilities_BC, self._targets(probabilities_BC), maps)

    def _targets(self, probabilities_BC: torch.Tensor) -> torch.Tensor:
        likeliest_B = probabilities_BC.argmax(dim=1)
        return likeliest_B if self.target is None else torch.full_like(likeliest_B, self.target)

    def pixels(self, bytes_BCHW: torch.Tensor) -> torch.Tensor:
        """Normalised, on the model's device."""
        spec = self.opened.spec
        return normalise(bytes_BCHW.to(self.opened.device, non_blocking=True), spec.mean, spec.std)

    def probability(self, pixels_BCHW: torch.Tensor) -> torch.Tensor:
        """The model's class probabilities, float32."""
        opened = self.opened
        with torch.no_grad(), autocast(opened.device, opened.precision), class_token_alone(opened.module):
            logits_BC: torch.Tensor = opened.module(pixels_BCHW)
        return logits_BC.float().softmax(-1)

    def maps(
        self, pixels_BCHW: torch.Tensor, targets_B: torch.Tensor, module: torch.nn.Module | None = None
    ) -> BatchMaps:
        """The method's maps, by the model or by a copy of it with other weights."""
        with autocast(self.opened.device, self.opened.precision):
            return self.method.maps(self.opened.module if module is None else module, pixels_BCHW, targets_B)

    def sensitivity(self, pixels_BCHW: torch.Tensor, targets_B: torch.Tensor, seed: int = 0) -> Sensitivity:
        """How much of the maps survives when the weights are randomised layer by layer."""
        return sensitivity(
            lambda module: self.maps(pixels_BCHW, targets_B, module).scores_BRC.numpy(), self.opened.module, seed
        )

    def curves(self, pixels_BCHW: torch.Tensor, scores_BRC: Floats) -> InsertionDeletionCurves:
        """Insertion and deletion of maps, whoever made them."""
        return insertion_deletion_curves(self.probability, pixels_BCHW, scores_BRC)

    def outliers(self, pixels_BCHW: torch.Tensor) -> npt.NDArray[np.bool_]:
        """Which patch tokens are outliers: bool (B, R, C)."""
        with autocast(self.opened.device, self.opened.precision):
            return outlier_tokens(token_norms(self.opened.module, pixels_BCHW).numpy())


@contextmanager
def _capture_outputs(module: torch.nn.Module) -> Iterator[list[torch.Tensor]]:
    """The outputs of a module's forward passes inside the ``with`` block."""
    outputs: list[torch.Tensor] = []
    handle = module.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
    try:
        yield outputs
    finally:
        handle.remove()


@dataclass(frozen=True, eq=False)
class Checked:
    """The checks of a batch: a verdict a picture, and the outlier tokens, bool (B, R, C)."""

    verdicts: tuple[Verdict, ...]
    outliers_BRC: npt.NDArray[np.bool_]


def check_maps(explainer: Explainer, mapped: ExplainedBatch, seed: int = 0) -> Checked:
    """Check every map of a batch on its own picture.

    The weights are randomised layer by layer; insertion and deletion are measured beside those of a blob in the
    centre; outlier tokens are looked for.
    """
    scores_BRC = mapped.maps.scores_BRC.numpy()
    if not len(scores_BRC):
        return Checked((), np.zeros(scores_BRC.shape, dtype=bool))
    survives_B = explainer.sensitivity(mapped.pixels_BCHW, mapped.targets_B, seed).final_B
    blobs_BRC = np.broadcast_to(centre_blob(*scores_BRC.shape[1:]), scores_BRC.shape)
    own, blob = (explainer.curves(mapped.pixels_BCHW, np.ascontiguousarray(each)) for each in (scores_BRC, blobs_BRC))
    outliers_BRC = explainer.outliers(mapped.pixels_BCHW)
    verdicts = [
        judge(
            Evidence(
                correlation=float(survives_B[b]),
                advantage=float(own.gap[b] - blob.gap[b]),
                top_decile_mass=float(top_decile_mass(scores_BRC[b])[0]),
                outlier_mass=outlier_mass(scores_BRC[b], outliers_BRC[b]),
                outliers=float(outliers_BRC[b].sum()),
            )
        )
        for b in range(len(scores_BRC))
    ]
    return Checked(tuple(verdicts), outliers_BRC)


def _class_index(opened: Classifier, label: str) -> int:
    if label not in opened.labels:
        shown = ", ".join(opened.labels[:8]) + (" ..." if len(opened.labels) > 8 else "")
        raise ModelError(f"The model has no class {label!r}. Its classes: {shown}")
    return opened.labels.index(label)
