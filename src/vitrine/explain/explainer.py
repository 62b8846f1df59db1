"""Maps of pictures by an open classifier: what the model says of each, its map, and whether the answer depends on it.

Axes: B pictures, C channels (or classes, in probabilities), H, W pixels, R grid rows, C grid columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torchvision.transforms.v2.functional import resize

from vitrine.attribution.faithfulness import CurveEnds, InsertionDeletionCurves, insertion_deletion_curves
from vitrine.attribution.maps import BatchMaps, Unit, display_scores, patch_on_grid, token_layout
from vitrine.attribution.methods import Method
from vitrine.attribution.outlier_tokens import outlier_tokens, token_norms, without_outliers
from vitrine.attribution.patch_hiding import HidingTest, PatchHiding
from vitrine.attribution.placement import Placement
from vitrine.classify.inference import eval_transform, prepared_batches
from vitrine.classify.labels import find_class
from vitrine.classify.model import Classifier
from vitrine.classify.predictions_csv import DEFAULT_THRESHOLD
from vitrine.data.loader import normalise
from vitrine.data.picture_inputs import NormalisedPicture
from vitrine.data.samples import Sample
from vitrine.data.scenes.dataset import SIZES, ScenePicture
from vitrine.data.transforms import EvalTransform
from vitrine.errors import UsageError
from vitrine.models.forward_hooks import watch_outputs
from vitrine.models.precision import autocast
from vitrine.results import Unreadable, and_n_more

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class MapCheck:
    """What the checks of one map found.

    Attributes:
        verdict: whether the model's answer depends on the patches that the map marks.
        outliers_RC: bool, which patch tokens are outliers.
    """

    verdict: HidingTest
    outliers_RC: npt.NDArray[np.bool_]

    @property
    def outlier_patches(self) -> tuple[tuple[int, int], ...]:
        """(row, column) of every outlier token."""
        return tuple((int(row), int(column)) for row, column in np.argwhere(self.outliers_RC))


@dataclass(frozen=True, eq=False)
class ExplainedPicture:
    """One picture with what the model says of it and its map.

    Attributes:
        sample: the picture.
        probabilities_C: float32, a probability for each class of the model.
        predicted, probability: the likeliest class.
        target: the class that the map is for; None where the method explains no class.
        target_index: its place among the classes; that of the likeliest class where there is none.
        scores_RC: float32, the map as the method gives it, in ``unit``.
        display_RC: the same as figures show it; see :func:`vitrine.attribution.maps.display_scores`.
        prefix_share: what prefix tokens hold of the map's mass, 0 to 1; None where the method gives them none.
        method: how the map was made, in words.
        notes: sentences on what has to be known to read the map.
        transform: how the model sees a photograph.
        verdict: whether the answer depends on the patches that the map marks; None where it was not checked.
        outlier_patches: (row, column) of every outlier token that the check found.
        masked_RC: ``display_RC`` with outlier tokens masked; None where there are none.
        model: its reference, as it was given.
        query: the patch (row, column) that looks; None where it is no patch.
    """

    sample: Sample
    probabilities_C: Floats
    predicted: str
    probability: float
    target: str | None
    target_index: int
    scores_RC: Floats
    display_RC: Floats
    unit: Unit
    prefix_share: float | None
    method: str
    notes: tuple[str, ...]
    transform: EvalTransform
    verdict: HidingTest | None = None
    outlier_patches: tuple[tuple[int, int], ...] = ()
    masked_RC: Floats | None = None
    model: str = ""
    query: tuple[int, int] | None = None

    def placement(self, width: int, height: int) -> Placement:
        """Where the map's patches lie on the photograph, of this many upright pixels."""
        return Placement(self.transform.geometry(width, height), *self.scores_RC.shape)


@dataclass(frozen=True, eq=False)
class ExplainedBatch:
    """Pictures that went through the model together.

    Attributes:
        pictures: those that can be read, in order; a batch may have none.
        pixels_BCHW: what the model saw of them: normalised, on its device.
        unreadable: (name, reason) of the others.
    """

    pictures: tuple[ExplainedPicture, ...]
    pixels_BCHW: torch.Tensor
    unreadable: tuple[Unreadable, ...] = ()


class Explainer:
    """A classifier and a method, which explain pictures.

    Args:
        classifier: in eval mode.
        method: of the maps.
        target: the class that maps are for, by its label or its number; None is the predicted one of each picture.

    Raises:
        ModelError: the model has no such class, several of that name, or no grid of patches.
        UsageError: the class is compared with itself.
    """

    def __init__(self, classifier: Classifier, method: Method, target: str | None = None) -> None:
        self.classifier, self.method = classifier, method
        self.layout = token_layout(classifier.module, *classifier.spec.size)
        self.transform = eval_transform(classifier.spec)
        query = method.query if method.name == "attention" else None
        self._query = patch_on_grid(query, self.layout.rows, self.layout.columns) if isinstance(query, tuple) else None
        self.target_index = None if target is None else find_class(classifier.labels, target)
        against = method.against
        self.against_index = None if against is None else find_class(classifier.labels, against)
        if self.against_index is not None and self.against_index == self.target_index:
            raise UsageError(f"{target} against itself has no map: name another class to compare it with.")

    def run(
        self, samples: Iterable[Sample], batch_size: int, *, workers: int = -1, check: bool = False, seed: int = 0
    ) -> Iterator[ExplainedBatch]:
        """Explain samples in order, batch by batch.

        Args:
            samples: the pictures; of those that come one by one, no more than a batch is held.
            batch_size: pictures that go through the model together.
            workers: background processes that load pictures; -1 chooses.
            check: check every map, which takes many forward passes.
            seed: of the checks.

        Raises:
            ModelError: the model lacks what the method needs.
        """
        for batch in prepared_batches(self.classifier, samples, batch_size=batch_size, workers=workers):
            pixels_BCHW = batch.pixels_BCHW
            if not len(pixels_BCHW):
                yield ExplainedBatch((), pixels_BCHW, batch.unreadable)
                continue
            probabilities_BC, targets_B, maps = self._explain(pixels_BCHW)
            checks: Sequence[MapCheck | None] = [None] * len(pixels_BCHW)
            if check:
                checks = self.check(pixels_BCHW, targets_B, maps.scores_BRC.numpy(), seed)
            pictures = tuple(
                self.picture(sample, probabilities_BC[b], int(targets_B[b]), maps, b, checks[b])
                for b, sample in enumerate(batch.samples)
            )
            yield ExplainedBatch(pictures, pixels_BCHW, batch.unreadable)

    def picture(
        self,
        sample: Sample,
        probabilities_C: torch.Tensor,
        target_index: int,
        maps: BatchMaps,
        b: int = 0,
        check: MapCheck | None = None,
    ) -> ExplainedPicture:
        """One picture, of what was computed of it.

        Args:
            sample: the picture.
            probabilities_C: float32 on the CPU.
            target_index: the class that the map is for; not looked at by methods that explain no class.
            maps: of a batch.
            b: the picture's place in it.
            check: of its map.
        """
        labels, likeliest = self.classifier.labels, int(probabilities_C.argmax())
        scores_RC = maps.scores_BRC[b].numpy()
        prefix_share = None if maps.prefix_share_B is None else float(maps.prefix_share_B[b])
        return ExplainedPicture(
            sample=sample,
            probabilities_C=probabilities_C.numpy(),
            predicted=labels[likeliest],
            probability=float(probabilities_C[likeliest]),
            target=labels[target_index] if self.method.for_a_class else None,
            target_index=target_index,
            scores_RC=scores_RC,
            display_RC=display_scores(scores_RC, maps.unit),
            unit=maps.unit,
            prefix_share=prefix_share,
            method=self.method.describe(self.classifier.module),
            notes=self._notes(probabilities_C, target_index, prefix_share, is_blank=not scores_RC.any()),
            transform=self.transform_of(sample),
            verdict=None if check is None else check.verdict,
            outlier_patches=() if check is None else check.outlier_patches,
            masked_RC=None if check is None else _mask_outliers(scores_RC, check.outliers_RC, maps.unit),
            model=self.classifier.loaded_model.reference.text,
            query=self._query,
        )

    def transform_of(self, sample: Sample) -> EvalTransform:
        """How the model sees a photograph: one that is normalised already, as it is."""
        if isinstance(sample.picture, NormalisedPicture):
            return eval_transform(replace(self.classifier.spec, crop=1.0, crop_mode="squash"))
        return self.transform

    def check(
        self, pixels_BCHW: torch.Tensor, targets_B: torch.Tensor, scores_BRC: Floats, seed: int = 0
    ) -> tuple[MapCheck, ...]:
        """Check each of a batch of maps on its own picture: its strongest patches are hidden, beside random ones.

        See :class:`vitrine.attribution.patch_hiding.PatchHiding`; the other pictures are generated scenes. Outlier
        tokens are looked for.

        Args:
            pixels_BCHW: one picture or more: normalised, on the model's device.
            targets_B: int64, the class that each map is for; where the method explains none, it is the likeliest one
                whose probability is tested.
            scores_BRC: the method's maps of them.
            seed: of what is hidden.
        """
        if not self.method.for_a_class:
            targets_B = self.probability(pixels_BCHW).argmax(dim=1).cpu()
        tests = [
            self.patch_hiding(pixels_CHW, int(target), seed).test(scores_RC)
            for pixels_CHW, target, scores_RC in zip(pixels_BCHW, targets_B, scores_BRC, strict=True)
        ]
        return tuple(MapCheck(*each) for each in zip(tests, self.outliers(pixels_BCHW), strict=True))

    def patch_hiding(self, pixels_CHW: torch.Tensor, target: int, seed: int = 0) -> PatchHiding:
        """The test of maps of one picture, normalised, for the probability of one class."""
        others_OCHW = self.pixels(_scene_pixels(*pixels_CHW.shape[-2:]))
        grid, label = (self.layout.rows, self.layout.columns), self.classifier.labels[target]
        return PatchHiding(self.probability, pixels_CHW, target, label, others_OCHW, grid, seed=seed)

    def pixels(self, bytes_BCHW: torch.Tensor) -> torch.Tensor:
        """Pictures of 0 to 255 as the model takes them: normalised, float32, on its device."""
        spec = self.classifier.spec
        return normalise(bytes_BCHW.to(self.classifier.device, non_blocking=True), spec.mean, spec.std)

    def probability(self, pixels_BCHW: torch.Tensor) -> torch.Tensor:
        """The model's class probabilities of normalised pictures: float32 (B, C)."""
        classifier = self.classifier
        with torch.no_grad(), autocast(classifier.device, classifier.precision, logits_of=classifier.module):
            logits_BC: torch.Tensor = classifier.module(pixels_BCHW)
        return classifier.probabilities(logits_BC)

    def maps(
        self, pixels_BCHW: torch.Tensor, targets_B: torch.Tensor, module: torch.nn.Module | None = None
    ) -> BatchMaps:
        """The method's maps, by the model or by ``module``, a copy of it with other weights."""
        with autocast(self.classifier.device, self.classifier.precision):
            return self.method.maps(
                self.classifier.module if module is None else module,
                pixels_BCHW,
                targets_B,
                self.classifier.probabilities,
                None if self.against_index is None else torch.full_like(targets_B, self.against_index),
            )

    def curves(
        self, pixels_BCHW: torch.Tensor, scores_BRC: Floats, ends: CurveEnds | None = None
    ) -> InsertionDeletionCurves:
        """Insertion and deletion curves of maps, whoever made them; ``ends`` of the same pictures save some passes."""
        return insertion_deletion_curves(self.probability, pixels_BCHW, scores_BRC, ends=ends)

    def outliers(self, pixels_BCHW: torch.Tensor) -> npt.NDArray[np.bool_]:
        """Which patch tokens are outliers: bool (B, R, C)."""
        with autocast(self.classifier.device, self.classifier.precision):
            return outlier_tokens(token_norms(self.classifier.module, pixels_BCHW).numpy())

    def _explain(self, pixels_BCHW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, BatchMaps]:
        """Probabilities (B, C) on the CPU, the class that each map is for, and the maps, of one picture or more."""
        if self.method.for_a_class:
            probabilities_BC = self.probability(pixels_BCHW).cpu()
            targets_B = self._targets(probabilities_BC)
            return probabilities_BC, targets_B, self.maps(pixels_BCHW, targets_B)
        with watch_outputs(self.classifier.module) as logits:  # one forward pass gives both
            maps = self.maps(pixels_BCHW, torch.zeros(len(pixels_BCHW), dtype=torch.int64))
        if len(logits) == 1 and len(logits[0]) == len(pixels_BCHW):
            probabilities_BC = self.classifier.probabilities(logits[0].detach()).cpu()
        else:  # a library runs the model picture by picture
            probabilities_BC = self.probability(pixels_BCHW).cpu()
        return probabilities_BC, self._targets(probabilities_BC), maps

    def _targets(self, probabilities_BC: torch.Tensor) -> torch.Tensor:
        likeliest_B = probabilities_BC.argmax(dim=1)
        return likeliest_B if self.target_index is None else torch.full_like(likeliest_B, self.target_index)

    def _notes(
        self, probabilities_C: torch.Tensor, target_index: int, prefix_share: float | None, *, is_blank: bool
    ) -> tuple[str, ...]:
        notes, likeliest = [], int(probabilities_C.argmax())
        if self.classifier.is_multi_label:
            pairs = zip(self.classifier.labels, probabilities_C.tolist(), strict=True)
            above = [label for label, probability in pairs if probability > DEFAULT_THRESHOLD]
            notes.append(f"Labels above {DEFAULT_THRESHOLD:g}: {and_n_more(above) or 'none'}.")
        if self.method.for_a_class and target_index != likeliest:
            notes.append(f"The map is for the class {self.classifier.labels[target_index]}.")
        if prefix_share is not None and not is_blank:
            amount = "Less than 1" if prefix_share < 0.01 else f"{100 * prefix_share:.0f}"
            notes.append(f"{amount} % of the map is on {self.layout.prefix_words}, which is no patch, and not drawn.")
        if self.method.for_a_class and target_index == self.against_index:
            label = self.classifier.labels[target_index]
            notes.append(f"The answer is {label} itself: against itself a class has no map, and it is zero everywhere.")
        elif is_blank:
            notes.append("The map is zero everywhere: nothing here speaks for the class.")
        return (*notes, *self.method.notes(self.classifier.module))


_SCENES = 16  # whose patches hide patches


@lru_cache(maxsize=2)
def _scene_pixels(height: int, width: int) -> torch.Tensor:
    """Generated scenes of a size: uint8 (scenes, 3, H, W)."""
    side = min(max(height, width), SIZES[1])
    pictures = (ScenePicture("base", 0, "test", index, side) for index in range(_SCENES))
    pixels_OCHW = torch.stack([torch.from_numpy(picture.pixels()).permute(2, 0, 1) for picture in pictures])
    resized_OCHW: torch.Tensor = resize(pixels_OCHW, [height, width])
    return resized_OCHW


def _mask_outliers(scores_RC: Floats, outliers_RC: npt.NDArray[np.bool_], unit: Unit) -> Floats | None:
    return display_scores(without_outliers(scores_RC, outliers_RC), unit) if outliers_RC.any() else None
