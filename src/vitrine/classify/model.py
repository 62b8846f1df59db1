"""A model reference opened for evaluation or prediction: module, input, class names, precision."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import nn

from vitrine.config.preprocessing import InputSpec
from vitrine.config.recipe import PRECISIONS
from vitrine.errors import ModelError
from vitrine.models.kind import is_captioner
from vitrine.models.load import LoadedModel, load_for_inference, width_of
from vitrine.models.precision import default_device, resolve_precision
from vitrine.runs.checkpoint import has_checkpoint
from vitrine.runs.folder import RunFolder


@dataclass(frozen=True)
class Classifier:
    """A model in eval mode on its device.

    Attributes:
        loaded: the model with its origin.
        module: the same module, on ``device``.
        labels: class names in the order of the outputs; none where it was opened for its features.
        spec: input size, crop and normalisation.
        precision: "fp32" or "bf16".
    """

    loaded: LoadedModel
    module: nn.Module
    labels: tuple[str, ...]
    spec: InputSpec
    device: torch.device
    precision: str


def open_classifier(
    reference: str, precision: str = "auto", architecture: str | None = None, *, features: bool = False
) -> Classifier:
    """Open a run, ``vitrine/scenes-tiny``, any reference that has a head of its own, or a weights file.

    Args:
        reference: a model reference. Classes that it has no names for are called 0, 1, 2 ...
        precision: auto, fp32 or bf16.
        architecture: the timm name of the model whose weights the file holds, where it does not say so itself.
        features: it is opened for what its head would read, so that it need not have one.

    Raises:
        ModelError, WeightsUnavailableError: see ``vitrine.models.load.load_model``.
    """
    _check_precision(precision)
    if is_captioner(reference, architecture):
        raise ModelError(
            f"{reference} is a captioner, which has no classes.\n"
            "Use vitrine caption, or vitrine evaluate on captioned pictures."
        )
    built = load_for_inference(reference, architecture)
    return on_device(built, () if features else _labels(built), built.input, precision)


def on_device(built: LoadedModel, labels: tuple[str, ...], spec: InputSpec, precision: str) -> Classifier:
    """A model that was built, moved to the device that is there."""
    device = default_device()
    module = built.module.to(device).eval()
    return Classifier(built, module, labels, spec, device, resolve_precision(precision, device, width_of(module)))


def in_precision(opened: Classifier, precision: str) -> Classifier:
    """The same opened model, run in another precision.

    Raises:
        ModelError: there is no such precision.
    """
    _check_precision(precision)
    return replace(opened, precision=resolve_precision(precision, opened.device, width_of(opened.module)))


def _check_precision(precision: str) -> None:
    if precision not in PRECISIONS:
        raise ModelError(f"precision = {precision!r} cannot be used: expected {', '.join(PRECISIONS)}.")


def _labels(built: LoadedModel) -> tuple[str, ...]:
    count = int(built.module.num_classes)  # type: ignore[arg-type]
    if count == 0:
        raise ModelError(f"{built.reference.text} has no classification head. Train one: vitrine train DATA ...")
    folder, told = built.reference.folder, "config.json"
    if folder is not None and (folder / "labels.txt").is_file():
        labels, told = RunFolder(folder).read_labels(), "labels.txt"
    else:
        names = built.reference.pretrained_cfg.get("label_names")
        labels = tuple(str(name) for name in names) if names else tuple(str(i) for i in range(count))
    if len(labels) != count:
        raise ModelError(
            f"{built.reference.text} has {count} outputs but {len(labels)} class names; {told} was changed."
        )
    return labels


def is_unfinished(opened: Classifier) -> bool:
    """Whether the model is of a run whose training has not ended."""
    folder = opened.loaded.reference.folder
    return folder is not None and has_checkpoint(folder) and not RunFolder(folder).is_finished
