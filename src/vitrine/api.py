"""The Python interface: a model that is opened once and asked about pictures; results show themselves in a notebook.

Axes: R grid rows, C grid columns; H, W pixel rows and columns of a photograph.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from vitrine.attribution.method_options import refuse_options
from vitrine.attribution.methods import Method, method_with
from vitrine.attribution.patch_hiding import HidingTest
from vitrine.caption.figures.words import caption_figure, save_caption_figure
from vitrine.caption.inference import CaptionedPicture, caption_batches
from vitrine.caption.model import Captioner
from vitrine.caption.run import CaptionProvenance, CaptionSettings, WordMaps, prepare_word_maps
from vitrine.classify.inference import eval_batches
from vitrine.classify.labels import find_class
from vitrine.classify.model import Classifier
from vitrine.classify.predictions_csv import choose_threshold
from vitrine.data.image_folder import one_picture
from vitrine.data.samples import Sample
from vitrine.errors import ModelError, PictureError
from vitrine.explain.explainer import ExplainedPicture, Explainer
from vitrine.explain.figures.map import MapPicture, Scale, draw_overlay, map_figure, save_map_figure
from vitrine.explain.run import ExplainSettings, MapProvenance, choose_scale, true_label_from_name
from vitrine.open_model import open_model
from vitrine.plotting.provenance import Provenance
from vitrine.plotting.style import figure_bytes
from vitrine.results import shown_number

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, eq=False)
class Word:
    """One word of a caption.

    Attributes:
        text: with the punctuation that belongs to it.
        probability: 0 to 1.
        map: float32 (R, C), in multiples of uniform.
        is_localized: whether the map has a place where it looks, rather than being spread out.
    """

    text: str
    probability: float
    map: npt.NDArray[np.float32]
    is_localized: bool


@dataclass(frozen=True, eq=False)
class Caption:
    """A picture's caption.

    Attributes:
        text: the whole caption.
        log_probability: its natural logarithm of probability, at most 0.
        words: with their maps.
    """

    text: str
    log_probability: float
    words: tuple[Word, ...]
    _word_maps: WordMaps
    _provenance: Callable[[str], Provenance]

    def overlay(self) -> Image.Image:
        """The figure as a picture: photograph, caption, a map a word."""
        return Image.open(io.BytesIO(self._repr_png_()))

    def save(self, path: str | Path) -> Path:
        """Write the figure as .png or .svg, with its origin in its metadata.

        Raises:
            ValueError: another ending.
        """
        path = Path(path)
        metadata = self._provenance(str(path.parent)).to_metadata()
        save_caption_figure(self._word_maps.picture, self._word_maps.scale, path, metadata)
        return path

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"<{self.text!r}, log-probability {shown_number(self.log_probability)}>"

    def _repr_png_(self) -> bytes:
        return self._png

    @cached_property
    def _png(self) -> bytes:
        return figure_bytes(caption_figure(self._word_maps.picture, self._word_maps.scale), "png", {})


class CaptionerModel:
    """A captioner that :func:`vitrine.load` opened."""

    def __init__(self, reference: str, captioner: Captioner, architecture: str | None) -> None:
        self.reference, self.captioner = reference, captioner
        self._flags = ["--arch", architecture] if architecture else []

    @property
    def notes(self) -> tuple[str, ...]:
        """Which files the weights and word pieces came from."""
        return self.captioner.notes

    def caption(self, picture: str | Path, **how: Any) -> Caption:
        """Caption one picture.

        Args:
            picture: a file.
            how: ``beams``, ``max_pieces``, ``layer``, ``heads``, ``join`` and the other fields of
                :class:`vitrine.caption.run.CaptionSettings`.

        Raises:
            DataError, PictureError: the picture cannot be read.
            ModelError: the captioner has no such layer or head.
        """
        settings = CaptionSettings(**{"precision": self.captioner.precision, **how})
        sample = one_picture(picture, "vitrine caption")
        caption = self._decode(sample, settings)
        word_maps = prepare_word_maps(caption, self.captioner, settings)
        words = tuple(
            Word(word.text, word.probability, word.map_RC, check.is_localized)
            for word, check in zip(word_maps.words, word_maps.checks, strict=True)
        )

        def provenance(folder: str) -> Provenance:
            origin = CaptionProvenance(self.reference, self.captioner, settings, self._flags)
            return origin.of(sample, str(picture), folder)

        return Caption(word_maps.picture.caption, caption.caption.log_probability, words, word_maps, provenance)

    def _decode(self, sample: Sample, settings: CaptionSettings) -> CaptionedPicture:
        captioner = replace(self.captioner, precision=settings.precision)
        part = next(caption_batches(captioner, [sample], settings.decode))
        for _, reason in part.unreadable:
            raise PictureError(reason)
        return part.pictures[0]

    def predict(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse: a captioner has no classes.

        Raises:
            ModelError: always.
        """
        raise ModelError(f"{self.reference} is a captioner, which has no classes: use .caption(PICTURE).")

    def explain(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse: a captioner has a map for every word instead.

        Raises:
            ModelError: always.
        """
        raise ModelError(f"{self.reference} is a captioner: .caption(PICTURE).words have a map each.")

    def __repr__(self) -> str:
        words = f"{self.captioner.vocabulary.size:,} word pieces"
        return f"<vitrine captioner {self.reference}: {words}, {self.captioner.precision}>"


Floats = npt.NDArray[np.float32]

_FOR_FOLDERS = "vitrine predict and vitrine explain"


@dataclass(frozen=True)
class PicturePrediction:
    """The classes of one picture, with their probabilities.

    Attributes:
        label: the likeliest class; where a model has several of one name, with its number: ``crane [134]``.
        probability: of it, 0 to 1.
        probabilities: of every class, by its label, in class order. They sum to 1, but for a multi-label model.
        index: the likeliest class's number, from 0.
        threshold: of a multi-label model, the probability above which a label is one of the picture's; else None.
    """

    label: str
    probability: float
    probabilities: dict[str, float]
    index: int = 0
    threshold: float | None = None

    @property
    def labels(self) -> tuple[str, ...]:
        """The picture's labels, likeliest first: of a multi-label model those above the threshold, else the one."""
        if self.threshold is None:
            return (self.label,)
        return tuple(label for label, probability in self.top(len(self.probabilities)) if probability > self.threshold)

    def top(self, count: int = 5) -> list[tuple[str, float]]:
        """The likeliest classes with their probabilities, likeliest first."""
        return sorted(self.probabilities.items(), key=lambda pair: -pair[1])[:count]

    def __repr__(self) -> str:
        if self.threshold is not None and not self.labels:
            return f"<no label above {self.threshold:g}; {self.label} {100 * self.probability:.1f} %>"
        return f"<{', '.join(f'{label} {100 * self.probabilities[label]:.1f} %' for label in self.labels)}>"


@dataclass(frozen=True, eq=False)
class Explanation:
    """An attribution map of one picture, with its figure and verdict.

    Attributes:
        prediction: what the model says of the picture.
        target: the class that the map is for; None where the method is for none.
        map: float32 (R, C), the method's scores: attention probabilities, relevance, or probability lost.
        picture: what figures are drawn of: photograph, map as a multiple of uniform, placement.
    """

    prediction: PicturePrediction
    target: str | None
    map: Floats
    picture: MapPicture
    _explainer: Explainer
    _item: ExplainedPicture
    _pixels_BCHW: torch.Tensor
    _path: str
    _provenance: MapProvenance

    def to_image(self, smooth: bool = True) -> Floats:
        """The map in the photograph's own pixels: float32 (H, W), NaN where the model saw nothing."""
        return self.picture.placement.to_image(self.picture.map_RC, smooth)

    @cached_property
    def verdict(self) -> HidingTest:
        """Whether the answer depends on the patches that the map marks; tested when it is first asked for, which takes
        about 400 forward passes."""
        targets_B = torch.tensor([self._item.target_index])
        (check,) = self._explainer.check(self._pixels_BCHW, targets_B, self.map[None])
        return check.verdict

    @property
    def scale(self) -> Scale:
        """The figure's colour scale, found on this map alone."""
        return choose_scale([self.picture.map_RC], self._item.unit, ExplainSettings(self._explainer.method))

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the overlay into matplotlib axes, the current ones of pyplot by default, and return them."""
        if ax is None:
            import matplotlib.pyplot as plt  # only where a person works with it already

            ax = plt.gca()
        return draw_overlay(ax, self.picture.photo_HWC, self.picture.map_RC, self.picture.placement, self.scale)

    def overlay(self) -> Image.Image:
        """The figure as a picture: photograph, overlay, map alone and colour bar."""
        return Image.open(io.BytesIO(self._repr_png_()))

    def save(self, path: str | Path) -> Path:
        """Write the figure as .png or .svg, with its origin in its metadata.

        Raises:
            ValueError: another ending.
        """
        path = Path(path)
        sha256 = hashlib.sha256(self._item.sample.picture.read_bytes()).hexdigest()
        provenance = self._provenance.of(
            self._path, str(path.parent), self.scale.high, sha256=sha256, target=self.target
        )
        save_map_figure(self.picture, self.scale, path, provenance.to_metadata())
        return path

    def _repr_png_(self) -> bytes:
        return figure_bytes(map_figure(self.picture, self.scale), "png", {})


class Model:
    """A classifier that :func:`vitrine.load` opened."""

    def __init__(self, reference: str, classifier: Classifier, architecture: str | None) -> None:
        self.reference, self.classifier, self._architecture = reference, classifier, architecture

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names in the order of the outputs."""
        return self.classifier.labels

    @property
    def notes(self) -> tuple[str, ...]:
        """Which file the weights came from, and what was done to make them fit."""
        return self.classifier.notes

    def predict(self, picture: str | Path, *, threshold: float | None = None) -> PicturePrediction:
        """Label one picture.

        Args:
            picture: a file.
            threshold: of a multi-label model, the probability above which a label is one of the picture's; None is 0.5.

        Raises:
            DataError: there is no such file.
            PictureError: it cannot be read.
            UsageError: a threshold that is no probability, or for a model that gives every picture one label.
        """
        threshold = choose_threshold(threshold, is_multi_label=self.classifier.is_multi_label)
        batch = next(eval_batches([one_picture(picture, _FOR_FOLDERS)], self.classifier.spec, batch_size=1))
        _require_readable([reason for _, reason in batch.unreadable])
        explainer = Explainer(self.classifier, Method())
        return self._prediction(explainer.probability(explainer.pixels(batch.pixels_BCHW))[0].tolist(), threshold)

    def explain(
        self, picture: str | Path, method: str = "attention", target: str | int | None = None, **how: Any
    ) -> Explanation:
        """Explain one picture by an attribution map.

        Args:
            picture: a file.
            method: attention, rollout, relevance, gradcam or occlusion.
            target: the class that the map is for, by its label or its number; by default the likeliest one.
            how: ``layer``, ``heads``, ``query`` or ``window``: see :class:`vitrine.attribution.methods.Method`.

        Raises:
            DataError, PictureError: the picture cannot be read.
            ModelError: the model lacks what was asked for.
            UsageError: the method does not have an option that was given.
        """
        refuse_options(method, [] if target is None else ["target"])
        sample = one_picture(picture, _FOR_FOLDERS)
        label = None if target is None else self.labels[find_class(self.labels, target)]
        settings = ExplainSettings(method_with(method, how), label)
        explainer = Explainer(self.classifier, settings.method, label)
        batch = next(explainer.run([sample], 1))
        _require_readable([reason for _, reason in batch.unreadable])
        (item,) = batch.pictures
        return Explanation(
            self._prediction(
                item.probabilities_C.tolist(), choose_threshold(None, is_multi_label=self.classifier.is_multi_label)
            ),
            item.target,
            item.scores_RC,
            MapPicture.of(
                item, true_label_from_name(str(Path(picture).absolute()), self.labels, self.classifier.numbers)
            ),
            explainer,
            item,
            batch.pixels_BCHW,
            str(picture),
            MapProvenance(self.reference, self.classifier, settings, self._architecture),
        )

    def caption(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse: a classifier has no words.

        Raises:
            ModelError: always.
        """
        raise ModelError(f"{self.reference} is a classifier, which has no words: use .predict or .explain.")

    def _prediction(self, shares: list[float], threshold: float | None) -> PicturePrediction:
        index = max(range(len(shares)), key=lambda number: shares[number])
        probabilities = dict(zip(self.labels, shares, strict=True))
        return PicturePrediction(self.labels[index], shares[index], probabilities, index, threshold)

    def __repr__(self) -> str:
        return f"<vitrine model {self.reference}: {len(self.labels)} classes, {self.classifier.precision}>"


def _require_readable(reasons: Sequence[str]) -> None:
    for reason in reasons:
        raise PictureError(f"The picture cannot be used: {reason}.")


def load(
    reference: str | Path, *, precision: str = "auto", architecture: str | None = None, vocabulary: Path | None = None
) -> Model | CaptionerModel:
    """Open a model: a run folder, ``vitrine/scenes-tiny``, a timm name, ``hf-hub:owner/name``, or a weights file.

    A captioner (see ``vitrine.caption.model``) has a method ``caption``, a classifier ``predict`` and ``explain``.

    Args:
        reference: a model reference; with ``architecture``, a weights file.
        precision: auto, fp32 or bf16.
        architecture: the timm name of the model whose weights the file holds; or ``catr``.
        vocabulary: of the published captioner, its vocab.txt; None looks beside the weights.

    Raises:
        ModelError, WeightsUnavailableError: it cannot be opened.
    """
    model = open_model(str(reference), precision, architecture, vocabulary)
    if isinstance(model, Captioner):
        return CaptionerModel(str(reference), model, architecture)
    return Model(str(reference), model, architecture)
