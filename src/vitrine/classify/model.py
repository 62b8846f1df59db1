"""A classifier opened from a model reference, on its device: module, input, class names and precision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vitrine.classify.labels import shared_names_note, unique_labels
from vitrine.config.preprocessing import InputSpec
from vitrine.config.recipe import PRECISIONS
from vitrine.data.class_names import read_class_names, recorded_names
from vitrine.errors import ModelError, UsageError
from vitrine.models.in_memory import model_in_memory, require_picklable
from vitrine.models.kind import is_captioner
from vitrine.models.load import LoadedModel, load_for_inference, width_of
from vitrine.models.precision import default_device, refuse_four_bit, resolve_precision
from vitrine.models.reference import WeightsFile
from vitrine.printable import escape_controls
from vitrine.results import count_of
from vitrine.runs.checkpoint import has_checkpoint
from vitrine.runs.environment import model_notes
from vitrine.runs.folder import RunFolder


@dataclass(frozen=True)
class Classifier:
    """A classifier in eval mode on its device.

    Attributes:
        loaded_model: the model with its origin.
        module: the same module, on ``device``.
        labels: class names in the order of the outputs, each different: where several classes have one name they are
            told apart by their numbers, as :mod:`vitrine.classify.labels` says. None where it was opened for its
            features.
        spec: the input: size, resize, crop and normalisation.
        device: where the module is.
        precision: "fp32" or "bf16".
        numbers: names of classes that data may call by their number instead, by that number.
        is_multi_label: every label is there or not, whatever the others are: probabilities do not sum to 1.
        reference_text: the reference that it was opened by; empty of others.
    """

    loaded_model: LoadedModel
    module: nn.Module
    labels: tuple[str, ...]
    spec: InputSpec
    device: torch.device
    precision: str
    is_multi_label: bool = False
    numbers: Mapping[str, str] = field(default_factory=dict)
    reference_text: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", unique_labels(self.labels))

    def __getstate__(self) -> dict[str, Any]:
        """What is pickled: all of it, the weights too.

        Raises:
            UsageError: the module has hooks that no other process could have.
        """
        require_picklable(self.module)
        return vars(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> Classifier:
        values = {each.name: deepcopy(getattr(self, each.name), memo) for each in fields(self)}
        memo[id(self)] = twin = type(self)(**values)
        return twin

    def probabilities(self, logits_BC: torch.Tensor) -> torch.Tensor:
        """Probabilities from logits: float32 (B, C), a softmax; of a multi-label model each label's sigmoid."""
        logits_BC = logits_BC.float()
        return logits_BC.sigmoid() if self.is_multi_label else logits_BC.softmax(-1)

    @property
    def weights(self) -> WeightsFile | None:
        """The file that its weights came from; None for random ones."""
        return self.loaded_model.weights

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences on which file its weights came from, what was done to make them fit, and on its classes."""
        multi_label = "The model is multi-label: each label has a probability of its own, and they do not sum to 1."
        kind = (multi_label,) if self.is_multi_label else ()
        if is_unfinished(self):
            kind = (*kind, UNFINISHED)
        return (*model_notes(self.loaded_model), *kind, *shared_names_note(self.labels))

    @property
    def reference(self) -> str:
        """The reference that it was opened by, or what a model in memory is called."""
        return self.reference_text or self.loaded_model.reference.text

    @property
    def is_in_memory(self) -> bool:
        """Whether a person holds its module, so that no command can open it."""
        return self.loaded_model.is_in_memory

    @property
    def folder(self) -> Path | None:
        """The folder of the run, or of the model, that it was opened from; None of others."""
        return self.loaded_model.reference.folder


def open_classifier(
    reference: str | Classifier,
    precision: str = "auto",
    architecture: str | None = None,
    *,
    features: bool = False,
    names: Path | None = None,
    image_size: int = 0,
) -> Classifier:
    """Open a run, ``vitrine/scenes-tiny``, any reference that has a head of its own, or a weights file.

    Args:
        reference: a model reference; or a classifier that is open, which is taken as it is, whatever the architecture
            and the names. Classes that it has no names for are called 0, 1, 2 ...
        precision: auto, fp32 or bf16; of a classifier that is open, auto keeps its own.
        architecture: the timm name of the model whose weights the file holds, where it does not say so itself.
        names: a file with names for its classes, where they are bare numbers.
        features: it is opened for what its head would read, so that it need not have one.
        image_size: side of the square input in pixels, to which position embeddings are resampled; 0 is its own.

    Raises:
        DataError: the file of names does not fit the classes.
        ModelError: there is no such model, it is a captioner, or its weights do not fit.
        WeightsUnavailableError: the weights are not here and cannot be fetched.
        UsageError: 4 bits, which vision-language models alone can be in.
    """
    if precision == "4bit":
        _refuse_four_bit(reference, architecture)
    _check_precision(precision)
    if isinstance(reference, Classifier):
        return reference if precision == "auto" else in_precision(reference, precision)
    try:
        model = load_for_inference(reference, architecture, image_size)
    except ModelError as error:
        if not is_captioner(reference, architecture):
            raise
        raise _no_classes(reference) from error
    labels = () if features else _labels(model)
    numbers = recorded_names(model.reference.folder)
    if names is not None and not features:
        numbers = read_class_names(names, labels)
        labels = tuple(numbers[label] for label in labels)
    classifier = place_on_device(model, labels, model.input, precision)
    classifier = replace(classifier, numbers=numbers, reference_text=reference)
    return classifier if features else replace(classifier, is_multi_label=_is_multi_label(model))


def classifier_in_memory(
    module: nn.Module,
    labels: Sequence[str] | Mapping[int, str] | None = None,
    how_prepared: Any = None,
    precision: str = "auto",
    *,
    multi_label: bool = False,
    features: bool = False,
) -> Classifier:
    """A module that a person holds, as a classifier; it stays on its device, and in the mode that it is in.

    Args:
        module: see :func:`vitrine.models.in_memory.model_in_memory`.
        labels: class names in the order of the outputs, or by number; None takes the model's own, else 0, 1, 2 ...
        how_prepared: how pictures are prepared for it, where the model does not say.
        precision: auto, fp32 or bf16.
        multi_label: every output is a label that is there or not; a model of transformers may say so itself.
        features: it is opened for what its head would read, so that it need not have one.

    Raises:
        ModelError: the module cannot be looked at, or has no head.
        UsageError: labels, or a preparation, that do not fit it.
    """
    _check_precision(precision)
    memory = model_in_memory(module, how_prepared)
    own_module, device = memory.loaded_model.module, next(module.parameters()).device
    if not memory.is_own:
        own_module.to(device)
    names = () if features else _given_labels(labels, memory.labels, int(own_module.num_classes))  # type: ignore[arg-type]
    is_multi_label = multi_label or (not features and _is_multi_label(memory.loaded_model))
    chosen_precision = resolve_precision(precision, device, width_of(own_module))
    return Classifier(memory.loaded_model, own_module, names, memory.spec, device, chosen_precision, is_multi_label)


def _given_labels(
    labels: Sequence[str] | Mapping[int, str] | None, own_labels: tuple[str, ...], count: int
) -> tuple[str, ...]:
    """Class names of a model in memory.

    Raises:
        ModelError: it has no head.
        UsageError: there are more or fewer names than classes, or they are not numbered from 0.
    """
    if count == 0:
        raise ModelError("This model has no classification head (num_classes = 0): give one that has.")
    if labels is None:
        return own_labels if len(own_labels) == count else tuple(map(str, range(count)))
    if isinstance(labels, str):
        raise UsageError(f"labels={labels!r} is one text: expected a list of {count_of(count, 'class name')}.")
    if isinstance(labels, Mapping):
        try:
            numbers = {int(number): str(name) for number, name in labels.items()}
        except (TypeError, ValueError) as error:
            raise UsageError(
                f"labels has {next(iter(labels))!r} for a number: expected names by number, {{0: 'cat', 1: 'dog'}}, or "
                "a list of names."
            ) from error
        if sorted(numbers) != list(range(len(numbers))):
            raise UsageError("labels does not number its classes 0, 1, 2 ...")
        labels = [numbers[number] for number in range(len(numbers))]
    labels = list(labels)
    if len(labels) != count:
        raise UsageError(
            f"labels has {count_of(len(labels), 'name')}, and the model {count_of(count, 'output')}: give one for each."
        )
    return tuple(escape_controls(str(name)) for name in labels)


def with_class_names(classifier: Classifier, names: Path) -> Classifier:
    """An open classifier whose classes are bare numbers, with the names that a file has for them.

    Raises:
        DataError: the file of names does not fit the classes.
    """
    numbers = read_class_names(names, classifier.labels)
    return replace(classifier, labels=tuple(numbers[label] for label in classifier.labels), numbers=numbers)


def place_on_device(model: LoadedModel, labels: tuple[str, ...], spec: InputSpec, precision: str) -> Classifier:
    """Move a model to the device that is there, as a classifier in eval mode."""
    device = default_device()
    module = model.module.to(device).eval()
    return Classifier(model, module, labels, spec, device, resolve_precision(precision, device, width_of(module)))


def in_precision(classifier: Classifier, precision: str) -> Classifier:
    """The same opened model, run in another precision.

    Raises:
        ModelError: there is no such precision.
    """
    _check_precision(precision)
    return replace(classifier, precision=resolve_precision(precision, classifier.device, width_of(classifier.module)))


def _no_classes(reference: str) -> ModelError:
    return ModelError(
        f"{reference} is a captioner, which has no classes.\n"
        "Use vitrine caption, or vitrine evaluate on captioned pictures."
    )


def _refuse_four_bit(reference: str | Classifier, architecture: str | None) -> None:
    """A sentence on 4 bits of a classifier; of a captioner, that it is none, which comes first."""
    if isinstance(reference, str) and is_captioner(reference, architecture):
        raise _no_classes(reference)
    refuse_four_bit("4bit", reference if isinstance(reference, str) else reference.reference)


def _check_precision(precision: str) -> None:
    if precision not in PRECISIONS:
        raise ModelError(f"precision = {precision!r} cannot be used: expected {', '.join(PRECISIONS)}.")


def _is_multi_label(model: LoadedModel) -> bool:
    """Whether the outputs are labels one by one.

    Raises:
        ModelError: they are numbers, or logits of every token.
    """
    count, reference = int(model.module.num_classes), model.reference  # type: ignore[arg-type]
    # A file that was put into a named model has its configuration beside it.
    problem_type = reference.problem_type or (reference.checkpoint.problem_type if reference.pretrained_file else None)
    if problem_type == "regression":
        raise ModelError(
            f"{reference.text} is a regression by its config.json (problem_type, or one output without it): "
            "it gives numbers, not classes.\n"
            "Only classifiers can be opened; its features can still be used: vitrine knn, or vitrine train from it."
        )
    if problem_type == "single_label_classification" and count == 1:
        raise ModelError(
            f"{reference.text} has one class, which every picture would get with 100 %: there is nothing to tell apart."
        )
    if getattr(model.module, "global_pool", None) == "":
        raise ModelError(
            f"{reference.text} is built without pooling (global_pool = ''): it classifies tokens, not pictures.\n"
            "Build it with the pooling that it was trained with: token, avg or map."
        )
    return problem_type == "multi_label_classification"


def _labels(model: LoadedModel) -> tuple[str, ...]:
    """Class names: the run's labels.txt, the configuration's label_names, or numbers."""
    count, reference = int(model.module.num_classes), model.reference  # type: ignore[arg-type]
    if count == 0:
        raise ModelError(f"{reference.text} has no classification head. Train one: vitrine train DATA ...")
    if reference.folder is not None and (reference.folder / "labels.txt").is_file():
        labels, file = RunFolder(reference.folder).read_labels(), "labels.txt"
    else:
        names = reference.pretrained_cfg.get("label_names")
        labels, file = tuple(map(str, names or range(count))), "config.json"
    if len(labels) != count:
        raise ModelError(
            f"{reference.text} has {count_of(count, 'output')} but {count_of(len(labels), 'class name')}; "
            f"{file} was changed."
        )
    return tuple(map(escape_controls, labels))


UNFINISHED = "The training of this run has not ended: these are the weights of its best epoch so far."


def is_unfinished(classifier: Classifier) -> bool:
    """Whether the model is of a run whose training has not ended."""
    folder = classifier.folder
    return folder is not None and has_checkpoint(folder) and not RunFolder(folder).is_finished
