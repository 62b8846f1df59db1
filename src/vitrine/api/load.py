"""Open a model for Python: ``vitrine.load``."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from torch import nn

from vitrine.api.options import PathLike, as_path, optional_path, require_reference
from vitrine.caption.model import Captioner
from vitrine.classify.inference import input_normalisation
from vitrine.classify.model import (
    Classifier,
    classifier_in_memory,
    in_precision,
    open_classifier,
    with_class_names,
)
from vitrine.data.picture_inputs import PictureInput, picture_input
from vitrine.errors import UsageError
from vitrine.models.in_memory import evaluating
from vitrine.models.load import LoadedModel
from vitrine.models.precision import on_device
from vitrine.open_model import open_model

if TYPE_CHECKING:  # the faces import all that draws: a verb that draws nothing starts without
    from vitrine.api.captioner import CaptionerModel
    from vitrine.api.model import Model

    ModelLike = str | os.PathLike[str] | nn.Module | Model | CaptionerModel
    """A model reference, a module in memory, or what :func:`load` opened."""


def load(
    model: ModelLike,
    *,
    labels: Sequence[str] | Mapping[int, str] | None = None,
    input: Any = None,  # noqa: A002  what goes into the model
    multi_label: bool = False,
    precision: str = "auto",
    arch: str | None = None,
    vocab: PathLike | None = None,
    device: str | None = None,
) -> Model | CaptionerModel:
    """Open a model: one in memory, a run folder, ``vitrine/scenes-tiny``, a timm name, ``hf-hub:owner/name``, a file.

    A captioner has a method ``caption``, a classifier ``predict`` and ``explain``. A timm model in memory stays as it
    is: what it says is looked at in eval mode, its training can go on afterwards, and later answers are those of its
    weights then. Of a ViT, DeiT or DINOv2 classifier of transformers, a copy is looked at, whose logits were compared.

    Args:
        model: a module in memory, or a model reference; with ``arch``, a weights file.
        labels: of a module in memory: class names in the order of its outputs, or by number; None takes the model's
            own, else 0, 1, 2 ...
        input: of a module in memory: how pictures are prepared for it, where it does not say: timm's data
            configuration (``timm.data.resolve_model_data_config``), or an image processor of transformers.
        multi_label: of a module in memory: every output is a label that is there or not.
        precision: fp32, bf16, or auto: bf16 where the hardware has it and the model is wide enough. Of a
            vision-language model 4bit, too.
        arch: the timm name of the model whose weights the file holds; or ``catr``.
        vocab: of the published captioner, its vocab.txt; None looks beside the weights.
        device: of a reference: cpu, cuda, cuda:1 or mps; None takes a GPU where there is one. auto spreads a
            vision-language model over all GPUs, and puts the rest into memory and on the disk.

    Raises:
        ModelError, WeightsUnavailableError: it cannot be opened.
        UsageError: labels or an input that do not fit it, or that are given of a reference.

    Examples:
        >>> model = vitrine.load("vitrine/scenes-tiny")
        >>> len(model.labels)
        12
        >>> import timm
        >>> mine = timm.create_model("vit_tiny_patch16_224", num_classes=2, img_size=32, depth=1)
        >>> vitrine.load(mine, labels=["cat", "dog"]).predict("cat.jpg").label in ("cat", "dog")
        True
    """
    from vitrine.api.captioner import CaptionerModel
    from vitrine.api.model import Model

    require_reference(device, model)
    if isinstance(model, nn.Module):
        if arch is not None or vocab is not None:
            raise UsageError("arch and vocab are of files: leave them out of a module in memory.")
        return Model(classifier_in_memory(model, labels, input, precision, multi_label=multi_label))
    if labels is not None or input is not None or multi_label:
        raise UsageError("labels, input and multi_label are of a module in memory: a reference says them itself.")
    if isinstance(model, CaptionerModel):
        return model
    reference = open_once(model)
    if isinstance(reference, Classifier):
        return Model(in_precision(reference, precision) if precision != "auto" else reference)
    if isinstance(reference, Captioner):
        return CaptionerModel(reference)
    with on_device(device):
        opened_model = open_model(reference, precision, arch, optional_path(vocab))
    if isinstance(opened_model, Captioner):
        return CaptionerModel(opened_model, arch, optional_path(vocab))
    return Model(opened_model, arch)


def open_once(model: Any, *, features: bool = False) -> str | Classifier | Captioner:
    """What the verbs' own modules take: a reference, or a model that is open.

    Args:
        model: what a person gave.
        features: a module need not have a head.

    Raises:
        UsageError: something else.
        ModelError: a module that cannot be looked at.
    """
    if isinstance(model, str | os.PathLike):
        return os.fspath(model)
    for opened_model in (getattr(model, "classifier", None), getattr(model, "captioner", None)):
        if isinstance(opened_model, Classifier | Captioner):  # of what load gave
            return opened_model
    if isinstance(model, nn.Module):
        return classifier_in_memory(model, features=features)
    raise UsageError(
        f"{type(model).__name__} is no model: expected a model reference such as a run folder, a module in memory, or "
        "what vitrine.load gave."
    )


@contextmanager
def in_eval_mode(model: str | Classifier | Captioner) -> Iterator[None]:
    """A module in memory in eval mode inside the block, and as it was afterwards; nothing of other models."""
    with evaluating(model.module) if isinstance(model, Classifier) else nullcontext():
        yield


def loaded_once(model: Any) -> str | LoadedModel:
    """As :func:`open_once`, of what needs the weights alone.

    Raises:
        UsageError: no model, or a captioner.
    """
    classifier = open_once(model, features=True)
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
