"""The models whose maps are judged, trained on generated scenes where they are first asked for."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from vitrine.classify.model import Classifier, open_classifier
from vitrine.config import load_recipe, override
from vitrine.train.run import train


@dataclass(frozen=True)
class VerdictSizes:
    """How much is measured.

    Attributes:
        pictures: test scenes with masks, of the classifier.
        broken: seeds of each kind of broken model.
        draws: repetitions where something is drawn again and again, such as sets of pictures.
        large_set: scenes on which a method's true hit rate is measured.
        captioned: captioned scenes.
        training: scenes that the classifier is trained on; 0 takes the model as the package has it.
        captioner_training: options of the captioner's data; "" takes the one with weights from a seed.
    """

    pictures: int = 120
    broken: int = 30
    draws: int = 200
    large_set: int = 2000
    captioned: int = 150
    training: int = 2000
    captioner_training: str = "validation=300&test=300&seed=7"


FULL = VerdictSizes()
QUICK = VerdictSizes(
    pictures=4, broken=1, draws=3, large_set=24, captioned=4, training=0, captioner_training="",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Workplace:
    """Sizes, and the models that are trained for them.

    Attributes:
        sizes: how much is measured.
        folder: of the trained models; it exists.
    """

    sizes: VerdictSizes
    folder: Path

    @cached_property
    def classifier_run(self) -> str:
        """A model reference: ``vitrine/scenes-tiny`` fine-tuned on scenes of shapes that it has never seen."""
        if not self.sizes.training:
            return "vitrine/scenes-tiny"
        run = self.folder / "classifier"
        if not (run / "model.safetensors").is_file():
            data = f"scenes:new?train={self.sizes.training}&validation=500&test=2000&seed=0"
            train(data, override(load_recipe("scenes-tiny"), ["seed=0"]), run)
        return str(run)

    @cached_property
    def classifier(self) -> Classifier:
        """The classifier, open."""
        return open_classifier(self.classifier_run)

    @property
    def family(self) -> str:
        """The family of scenes that the classifier knows."""
        return "new" if self.sizes.training else "base"

    @cached_property
    def captioner_run(self) -> str | None:
        """A run of a captioner trained on scenes; None where none is trained."""
        if not self.sizes.captioner_training:
            return None
        run = self.folder / "captioner"
        if not (run / "model.safetensors").is_file():
            data = f"scenes:base?{self.sizes.captioner_training}"
            train(data, override(load_recipe("scenes-captioner"), ["seed=0"]), run)
        return str(run)
