"""A classifier that was opened once, and is asked about pictures."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any, NoReturn, overload

import numpy.typing as npt
import torch
from PIL import Image

from vitrine.api.options import require_counts
from vitrine.attribution.foreign_methods import MapFunction
from vitrine.attribution.method_options import refuse_options
from vitrine.attribution.methods import function_name, method_with
from vitrine.classify.inference import input_normalisation
from vitrine.classify.labels import find_class
from vitrine.classify.model import Classifier
from vitrine.classify.picture_prediction import PicturePrediction, predict_pictures, require_readable
from vitrine.classify.predictions_csv import choose_threshold
from vitrine.data.picture_inputs import PictureInput, picture_input
from vitrine.errors import DataError, ModelError
from vitrine.explain.explainer import Explainer
from vitrine.explain.explanation import Explanation, explain_pictures
from vitrine.explain.run import ExplainSettings, MapProvenance
from vitrine.models.in_memory import evaluating
from vitrine.results import count_of, none_readable

OnePicture = str | os.PathLike[str] | bytes | Image.Image | npt.NDArray[Any] | torch.Tensor
"""One picture: a file, its bytes, a PIL image, an array (H, W, 3), or a tensor (C, H, W)."""

BATCH_SIZE = 16
"""Pictures that go through a model at a time, where nothing else is said."""


class Model:
    """A classifier that :func:`vitrine.load` opened."""

    def __init__(self, classifier: Classifier, architecture: str | None = None) -> None:
        self.classifier, self._architecture = classifier, architecture

    @property
    def reference(self) -> str:
        """What it was opened by."""
        return self.classifier.reference

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names in the order of the outputs."""
        return self.classifier.labels

    @property
    def notes(self) -> tuple[str, ...]:
        """Which file the weights came from, and what was done to make them fit."""
        return self.classifier.notes

    @overload  # a path is an iterable of letters, and means one picture
    def predict(  # type: ignore[overload-overlap]
        self,
        pictures: OnePicture,
        *,
        threshold: float | None = None,
        batch_size: int = BATCH_SIZE,
        normalised: bool = False,
    ) -> PicturePrediction: ...
    @overload
    def predict(  # type: ignore[overload-overlap]
        self,
        pictures: list[Any] | tuple[Any, ...],
        *,
        threshold: float | None = None,
        batch_size: int = BATCH_SIZE,
        normalised: bool = False,
    ) -> list[PicturePrediction]: ...
    @overload
    def predict(
        self,
        pictures: Iterable[Any],
        *,
        threshold: float | None = None,
        batch_size: int = BATCH_SIZE,
        normalised: bool = False,
    ) -> Iterator[PicturePrediction]: ...
    def predict(
        self, pictures: Any, *, threshold: float | None = None, batch_size: int = BATCH_SIZE, normalised: bool = False
    ) -> PicturePrediction | list[PicturePrediction] | Iterator[PicturePrediction]:
        """Label one picture or several.

        Args:
            pictures: one picture (a path, bytes, a PIL image, a NumPy array (H, W, 3), a torch tensor (C, H, W)): the
                answer is one prediction; a list of these: a list of predictions; a generator, a ``datasets`` split or a
                DataLoader: predictions one by one, in constant memory.
            threshold: of a multi-label model, the probability above which a label is one of the picture's; None is 0.5.
            batch_size: pictures that go through the model at a time.
            normalised: pictures are tensors that the model takes as they are.

        Raises:
            DataError: no picture, an empty list or stream, or an array or tensor that is none.
            PictureError: a picture cannot be read.
            UsageError: a threshold that is no probability, or for a model that gives every picture one label.

        Examples:
            >>> from PIL import Image
            >>> model = vitrine.load("vitrine/scenes-tiny")
            >>> model.predict(Image.open("cat.jpg")).label in model.labels
            True
        """
        require_counts(batch_size=batch_size)
        threshold = choose_threshold(threshold, is_multi_label=self.classifier.is_multi_label)
        inputs = self._pictures(pictures, normalised, "vitrine.predict(model, folder)")
        batches = predict_pictures(self.classifier, inputs.samples, threshold, batch_size)
        return one_or_many(inputs, batches)  # type: ignore[no-any-return]

    @overload
    def explain(
        self,
        pictures: OnePicture,
        method: str | MapFunction = "attention",
        target: str | int | None = None,
        *,
        batch_size: int = BATCH_SIZE,
        normalised: bool = False,
        check: bool = False,
        seed: int = 0,
        **how: Any,
    ) -> Explanation: ...
    @overload
    def explain(
        self,
        pictures: list[Any] | tuple[Any, ...],
        method: str | MapFunction = "attention",
        target: str | int | None = None,
        *,
        batch_size: int = BATCH_SIZE,
        normalised: bool = False,
        check: bool = False,
        seed: int = 0,
        **how: Any,
    ) -> list[Explanation]: ...
    @overload
    def explain(
        self,
        pictures: Iterable[Any],
        method: str | MapFunction = "attention",
        target: str | int | None = None,
        *,
        batch_size: int = BATCH_SIZE,
        normalised: bool = False,
        check: bool = False,
        seed: int = 0,
        **how: Any,
    ) -> Iterator[Explanation]: ...
    def explain(
        self,
        pictures: Any,
        method: str | MapFunction = "attention",
        target: str | int | None = None,
        *,
        batch_size: int = BATCH_SIZE,
        normalised: bool = False,
        check: bool = False,
        seed: int = 0,
        **how: Any,
    ) -> Explanation | list[Explanation] | Iterator[Explanation]:
        """Explain one picture or several by attribution maps.

        Args:
            pictures: as in :meth:`predict`, with answers likewise.
            method: a method's name, or a function of yours; see :func:`vitrine.explain`.
            target: the class that the maps are for, by its label or its number; None is the likeliest one of each.
            batch_size: pictures that go through the model at a time.
            normalised: pictures are tensors that the model takes as they are.
            check: test whether the answer depends on what each map marks, at once; without it ``.verdict`` does when it
                is asked for.
            seed: of the test, and of methods that draw something.
            how: ``layer``, ``heads``, ``query``, ``window``, ``against``: see :func:`vitrine.explain`.

        Raises:
            DataError, PictureError: a picture cannot be used.
            ModelError: the model lacks what was asked for.
            UsageError: the method does not have an option that was given.

        Examples:
            >>> seen = vitrine.load("vitrine/scenes-tiny").explain("cat.jpg")
            >>> seen.map.shape
            (8, 8)
        """
        require_counts(batch_size=batch_size)
        refuse_options(
            method if isinstance(method, str) else function_name(method), [] if target is None else ["target"]
        )
        inputs = self._pictures(pictures, normalised, "vitrine.explain(model, folder)")
        label = None if target is None else self.labels[find_class(self.labels, target)]
        settings = ExplainSettings(replace(method_with(method, how), seed=seed), label, check=check, seed=seed)
        provenance = MapProvenance(self.reference, self.classifier, settings, self._architecture)
        with evaluating(self.classifier.module):
            explainer = Explainer(self.classifier, settings.method, label)
        batches = explain_pictures(explainer, inputs.samples, provenance, inputs.path, batch_size)
        return one_or_many(inputs, batches)  # type: ignore[no-any-return]

    def _pictures(self, pictures: Any, normalised: bool, for_folders: str) -> PictureInput:
        inputs = picture_input(pictures, input_normalisation(self.classifier.spec) if normalised else None)
        if inputs.path is not None and not inputs.is_one:
            raise DataError(f"{inputs.path} is a folder: give one picture, or use {for_folders}.")
        return inputs

    def caption(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse: a classifier has no words.

        Raises:
            ModelError: always.
        """
        raise ModelError(f"{self.reference} is a classifier, which has no words: use .predict or .explain.")

    def __repr__(self) -> str:
        return (
            f"<vitrine model {self.reference}: {count_of(len(self.labels), 'class', 'classes')}, "
            f"{self.classifier.precision}>"
        )


def one_or_many(inputs: PictureInput, batches: Iterator[tuple[tuple[Any, ...], Any]]) -> Any:
    """The answer of one picture, a list of answers where all pictures are at hand, else answers one by one.

    Raises:
        DataError: there is none: often a search for files that met nothing, which an empty answer would hide.
        PictureError: one cannot be read.
    """

    def answers() -> Iterator[Any]:
        is_empty = True
        for some, unreadable in batches:
            require_readable(unreadable, inputs.count)
            yield from some
            is_empty = is_empty and not some
        if is_empty:
            raise none_readable(())

    if inputs.is_one:
        (answer,) = answers()
        return answer
    return list(answers()) if inputs.count or isinstance(inputs.samples, tuple) else answers()
