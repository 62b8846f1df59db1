"""A map of one picture in Python, with its figure and its verdict.

Axes: R grid rows, C grid columns; H, W pixel rows and columns of a photograph.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from matplotlib.axes import Axes
from PIL import Image

from vitrine.attribution.patch_hiding import HidingTest
from vitrine.attribution.placement import Placement
from vitrine.classify.inference import prepared_batches
from vitrine.classify.model import Classifier, open_classifier
from vitrine.classify.picture_prediction import PicturePrediction
from vitrine.classify.predictions_csv import choose_threshold
from vitrine.data.picture_inputs import PictureInput, count_at_hand, path_in
from vitrine.data.samples import Sample
from vitrine.display import notebook_html
from vitrine.errors import UsageError
from vitrine.explain.explainer import ExplainedPicture, Explainer
from vitrine.explain.figures.map import MapPicture, Scale, map_figure, save_map_figure
from vitrine.explain.run import (
    ExplainResult,
    ExplainSettings,
    MapProvenance,
    choose_scale,
    true_label_from_name,
)
from vitrine.models.in_memory import evaluating, in_eval_mode
from vitrine.plotting.overlay import Pixels
from vitrine.plotting.own_axes import current_axes, plot_overlay
from vitrine.plotting.style import figure_bytes
from vitrine.results import Progress, Unreadable, no_progress, none_readable, percent

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Explanation:
    """An attribution map of one picture, with its figure and verdict.

    Attributes:
        prediction: what the model says of the picture.
        target: the class that the map is for; None where the method is for none.
        map: float32 (R, C), the method's scores: attention probabilities, relevance, or probability lost.
        true: the true label where the picture's folder or file name gives it; else None.
    """

    prediction: PicturePrediction
    target: str | None
    map: Floats
    true: str | None
    _explainer: Explainer
    _item: ExplainedPicture
    _path: Path | None
    _provenance: MapProvenance

    @property
    def name(self) -> str:
        """Of the picture: its file's, or ``picture-0`` and so on."""
        return self._item.sample.name

    @property
    def figure(self) -> None:
        """The file of the figure: there is none until :meth:`save`."""
        return None

    @property
    def predicted(self) -> str:
        """The likeliest class."""
        return self._item.predicted

    @property
    def probability(self) -> float:
        """Of the likeliest class, 0 to 1."""
        return self._item.probability

    @property
    def scores_RC(self) -> Floats:  # noqa: N802  the letters are its axes
        """The map, as :class:`~vitrine.explain.run.MapRecord` calls it."""
        return self.map

    @property
    def prefix_share(self) -> float | None:
        """What prefix tokens hold of the map's mass, 0 to 1; None where the method gives them none."""
        return self._item.prefix_share

    @property
    def is_wrong(self) -> bool | None:
        """Whether the answer is wrong, so that the map explains a wrong answer; None where the truth is not known."""
        return None if self.true is None else self.predicted != self.true

    @cached_property
    def picture(self) -> MapPicture:
        """What figures are drawn of: photograph, map as a multiple of uniform, placement."""
        item = replace(self._item, verdict=self.known_verdict)
        settings = self._provenance.settings
        return MapPicture.of(item, self.true, settings.smooth, settings.contour)

    def to_image(self, smooth: bool = True) -> Floats:
        """The map in the photograph's own pixels: float32 (H, W), NaN where the model saw nothing."""
        return self.picture.placement.to_image(self.picture.map_RC, smooth)

    @property
    def pixels_CHW(self) -> torch.Tensor:  # noqa: N802  the letters are its axes
        """What the model saw: float32 (C, H, W), resized, cropped and normalised, on its device; made anew."""
        (batch,) = prepared_batches(self._explainer.classifier, [self._item.sample], batch_size=1)
        return batch.pixels_BCHW[0]

    @cached_property
    def verdict(self) -> HidingTest:
        """Whether the answer depends on the patches that the map marks; tested when it is first asked for, which takes
        about 400 forward passes."""
        if self._item.verdict is not None:
            return self._item.verdict
        classifier, seed = self._explainer.classifier, self._provenance.settings.seed
        targets_B = torch.tensor([self._item.target_index])
        with evaluating(classifier.module):
            (check,) = self._explainer.check(self.pixels_CHW[None], targets_B, self.map[None], seed)
        vars(self).pop("picture", None)  # from now on figures have the verdict
        return check.verdict

    @property
    def scale(self) -> Scale:
        """The figure's colour scale, found on this map alone unless the settings say where it ends."""
        return choose_scale([self._item.display_RC], self._item.unit, self._provenance.settings)

    @property
    def known_verdict(self) -> HidingTest | None:
        """The verdict, as far as it is known without testing."""
        verdict: HidingTest | None = vars(self).get("verdict", self._item.verdict)
        return verdict

    @property
    def title(self) -> str:
        """The likeliest label with its probability, and the class that the map is for where it is another."""
        target = f", map for {self.target}" if self.target not in (None, self.predicted) else ""
        return f"{self.predicted} {percent(self.probability)}{target}"

    @property
    def on_photo(self) -> tuple[Pixels, npt.NDArray[np.floating], Placement, str]:
        """Photograph, map, placement and title, to be drawn beside others."""
        picture = self.picture
        return picture.photo_HWC, picture.map_RC, picture.placement, self.title

    def scale_with(self, others: Sequence[Explanation]) -> Scale:
        """One colour scale for the maps of several."""
        return choose_scale([each._item.display_RC for each in others], self._item.unit, self._provenance.settings)

    def plot(self, ax: Axes | None = None, *, scale: Scale | None = None) -> Axes:
        """Draw the overlay into matplotlib axes, the current ones of pyplot by default, with title and colour bar.

        Args:
            ax: the axes.
            scale: of the colours; None is this map's own. One of several maps makes them comparable:
                ``first.scale_with([first, second])``.

        Returns:
            The axes.
        """
        photo_HWC, map_RC, placement, title = self.on_photo
        axes = current_axes() if ax is None else ax
        look: dict[str, Any] = {"query": self._item.query, "contour": self._provenance.settings.contour}
        return plot_overlay(axes, photo_HWC, map_RC, placement, scale or self.scale, title=title, **look)

    def overlay(self) -> Image.Image:
        """The figure as a picture: photograph, overlay, map alone and colour bar."""
        return Image.open(io.BytesIO(self._repr_png_()))

    def save(self, path: str | Path) -> Path:
        """Write the figure as .png or .svg, with its origin in its metadata.

        Raises:
            ValueError: another ending.
        """
        path = Path(path)
        data = None if self._path is None else self._item.sample.picture.read_bytes()
        provenance = self._provenance.of(
            str(self._path or self.name),
            str(path.parent),
            self.scale.high,
            sha256=None if data is None else hashlib.sha256(data).hexdigest(),
            target=self.target,
            is_file=self._path is not None,
        )
        save_map_figure(self.picture, self.scale, path, provenance.to_metadata())
        return path

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, the map included; the verdict where it was asked for."""
        verdict = self.known_verdict
        return {
            "filename": self.name,
            "figure": None,
            "predicted": self.predicted,
            "probability": round(self.probability, 6),
            "target": self.target,
            "true": self.true,
            "wrong_answer": self.is_wrong,
            "map": [[float(f"{score:.6g}") for score in row] for row in self.map.tolist()],
            "prefix_share": None if self.prefix_share is None else round(self.prefix_share, 6),
            "verdict": None if verdict is None else verdict.to_dict(),
        }

    def __repr__(self) -> str:
        rows, columns = self.map.shape
        return f"<{self.name}: {self.prediction!r}, {self._item.method}, {rows} x {columns} patches>"

    def _repr_png_(self) -> bytes:
        return figure_bytes(map_figure(self.picture, self.scale), "png", {})

    def _repr_html_(self) -> str:
        verdict = self.known_verdict
        words = "Ask .verdict whether the answer depends on what the map marks." if verdict is None else str(verdict)
        return notebook_html(f"{self.name}: {self.title}", "", self._repr_png_(), words)


def explain_in_memory(
    model: str | Classifier,
    pictures: PictureInput,
    settings: ExplainSettings,
    *,
    limit: int | None = None,
    batch_size: int = 16,
    precision: str = "auto",
    architecture: str | None = None,
    names: Path | None = None,
    progress: Progress = no_progress,
) -> ExplainResult:
    """As :func:`vitrine.explain.run.explain`, of maps that are kept in place of written; errors are the same.

    Args:
        model: a model reference with a head of its own, or an open classifier.
        pictures: in Python.
        settings: what is made.
        limit: pictures at most; with more, a choice drawn with the settings' seed. None takes all.
        batch_size: pictures at a time.
        precision: auto, fp32 or bf16.
        architecture: the timm name of the model where ``model`` is a weights file.
        names: a file with names for the model's classes, where they are bare numbers.
        progress: called with pictures done, of how many; 0 where that is not known.

    Raises:
        UsageError: figures of heads or of the whole attention, which are files.
    """
    if settings.matrix or settings.each_head:
        raise UsageError("Heads one by one and whole attention are drawn into a folder: give out, or leave them out.")
    samples = pictures.choose(limit, settings.seed)
    classifier = open_classifier(model, precision, architecture, names=names)
    explainer = Explainer(classifier, settings.method, settings.target)
    provenance = MapProvenance(classifier.reference, classifier, settings, architecture, names)
    explanations: list[Explanation] = []
    unreadable: list[Unreadable] = []
    for some, others in explain_pictures(explainer, samples, provenance, pictures.path, batch_size):
        explanations += some
        unreadable += others
        progress(len(explanations) + len(unreadable), count_at_hand(samples) or 0)
    if not explanations:
        raise none_readable(unreadable)
    notes, words = (*classifier.notes, *pictures.notes), settings.method.describe(classifier.module)
    return ExplainResult(None, tuple(explanations), None, (), tuple(unreadable), (), words, classifier.precision, notes)


def explain_pictures(
    explainer: Explainer, samples: Iterable[Sample], provenance: MapProvenance, path: Path | None, batch_size: int
) -> Iterator[tuple[tuple[Explanation, ...], tuple[Unreadable, ...]]]:
    """Explain pictures batch by batch: the explanations of a batch, and its unreadable pictures.

    Args:
        explainer: a model and a method.
        samples: as :func:`vitrine.classify.inference.prepared_batches` takes them.
        provenance: of figures; it has the settings.
        path: the file or folder that was given; None of pictures in memory.
        batch_size: pictures at a time.
    """
    classifier, settings = explainer.classifier, provenance.settings
    threshold = choose_threshold(None, is_multi_label=classifier.is_multi_label)
    batches = explainer.run(samples, batch_size, check=settings.check, seed=settings.seed)
    for batch in in_eval_mode(classifier.module, batches):
        explanations = tuple(
            Explanation(
                PicturePrediction.of(
                    classifier.labels, torch.from_numpy(item.probabilities_C), threshold, item.sample.name
                ),
                item.target,
                item.scores_RC,
                _true_label(classifier, item.sample, path),
                explainer,
                item,
                path_in(path, item.sample, path is not None and path.is_dir()),
                provenance,
            )
            for item in batch.pictures
        )
        yield explanations, batch.unreadable


def _true_label(classifier: Classifier, sample: Sample, path: Path | None) -> str | None:
    """What a folder's files are called in it may say the label, and of a single file its whole path."""
    is_folder = path is not None and path.is_dir()
    place = path_in(path, sample, is_folder)
    if place is None:
        return None
    name = sample.name if is_folder else str(place.absolute())
    return true_label_from_name(name, classifier.labels, classifier.numbers)
