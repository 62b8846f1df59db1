"""Open a model for Python: ``vitrine.load``."""

from __future__ import annotations

import os
from typing import Any

from torch import nn

from vitrine.api.captioner import CaptionerModel
from vitrine.api.model import Model
from vitrine.api.options import PathLike, as_path, optional_path
from vitrine.caption.model import Captioner
from vitrine.classify.inference import input_normalisation
from vitrine.classify.model import Classifier, open_classifier, with_class_names
from vitrine.data.picture_inputs import PictureInput, picture_input
from vitrine.errors import UsageError
from vitrine.models.load import LoadedModel
from vitrine.open_model import open_model

ModelLike = str | os.PathLike[str] | nn.Module | Model | CaptionerModel
"""A model reference, a module in memory, or what :func:`load` opened."""


def load(
    model: PathLike,
    *,
    precision: str = "auto",
    arch: str | None = None,
    vocab: PathLike | None = None,
) -> Model | CaptionerModel:
    """Open a model: a run folder, ``vitrine/scenes-tiny``, a timm name, ``hf-hub:owner/name``, or a weights file.

    A captioner has a method ``caption``, a classifier ``predict`` and ``explain``.

    Args:
        model: a model reference; with ``arch``, a weights file.
        precision: fp32, bf16, or auto: bf16 where the hardware has it and the model is wide enough.
        arch: the timm name of the model whose weights the file holds; or ``catr``.
        vocab: of the published captioner, its vocab.txt; None looks beside the weights.

    Raises:
        ModelError, WeightsUnavailableError: it cannot be opened.

    Example:
        >>> model = vitrine.load("vitrine/scenes-tiny")
        >>> len(model.labels)
        8
    """
    opened_model = open_model(os.fspath(model), precision, arch, optional_path(vocab))
    if isinstance(opened_model, Captioner):
        return CaptionerModel(opened_model, arch)
    return Model(opened_model, arch)


def open_once(model: Any) -> str | Classifier | Captioner:
    """What the verbs' own modules take: a reference, or a model that is open.

    Raises:
        UsageError: something else.
    """
    if isinstance(model, str | os.PathLike):
        return os.fspath(model)
    if isinstance(model, Model):
        return model.classifier
    if isinstance(model, CaptionerModel):
        return model.captioner
    raise UsageError(
        f"{type(model).__name__} is no model: expected a model reference such as a run folder, or vitrine.load(...)."
    )


def loaded_once(model: Any) -> str | LoadedModel:
    """As :func:`open_once`, of what needs the weights alone.

    Raises:
        UsageError: no model, or a captioner.
    """
    classifier = open_once(model)
    if isinstance(classifier, Captioner):
        raise UsageError(f"{classifier.reference} is a captioner, whose position embeddings are not looked at.")
    return classifier.loaded_model if isinstance(classifier, Classifier) else classifier


def classifier_and_pictures(
    model: Any, images: Any, normalised: bool, precision: str, arch: str | None, names: PathLike | None
) -> tuple[str | Classifier, PictureInput]:
    """A classifier, or the reference of one that is yet to be opened, and pictures for it.

    Raises:
        DataError: there are no such pictures. A wrong path is told before a model is opened.
        UsageError: no model, a captioner, or an architecture of a model that is open.
    """
    pictures = None if normalised else picture_input(images)
    classifier = open_once(model)
    if isinstance(classifier, Captioner):
        raise UsageError(f"{classifier.reference} is a captioner, which has no classes: use vitrine.caption.")
    if isinstance(classifier, Classifier):
        classifier = _with_options(classifier, arch, names)
    elif normalised:
        classifier = open_classifier(classifier, precision, arch, names=optional_path(names))
    if pictures is None:
        assert isinstance(classifier, Classifier)
        pictures = picture_input(images, input_normalisation(classifier.spec))
    return classifier, pictures


def _with_options(classifier: Classifier, arch: str | None, names: PathLike | None) -> Classifier:
    if arch is not None:
        raise UsageError(f"arch={arch!r} is of a weights file, and {classifier.reference} is open already.")
    return classifier if names is None else with_class_names(classifier, as_path(names))
