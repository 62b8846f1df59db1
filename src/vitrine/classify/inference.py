"""A classifier run over samples, batch by batch. Axes: B pictures of a batch, C classes, H x W pixels, N pictures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TypeGuard

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from vitrine.classify.model import Classifier
from vitrine.config.preprocessing import InputSpec
from vitrine.data.decode import ImagePicture
from vitrine.data.loader import Batch, batches, normalise
from vitrine.data.picture_inputs import Normalisation, NormalisedPicture
from vitrine.data.samples import Sample
from vitrine.data.transforms import EvalTransform
from vitrine.metrics.classification import LabelledLogits
from vitrine.metrics.multi_label import MultiLabelLogits, multi_hot
from vitrine.models.precision import autocast, is_compiled
from vitrine.results import Progress, Unreadable, no_progress, none_readable


@dataclass(frozen=True, eq=False)
class BatchLogits:
    """The logits of one batch.

    Attributes:
        samples: its B readable pictures, in order.
        logits_BC: float32, of those; (0, 0) where none could be read.
        unreadable: (name, reason) of its other pictures.
    """

    samples: tuple[Sample, ...]
    logits_BC: npt.NDArray[np.float32]
    unreadable: tuple[Unreadable, ...] = ()


def eval_transform(spec: InputSpec) -> EvalTransform:
    """The evaluation transform that a model's own configuration asks for."""
    return EvalTransform(spec)


def eval_batches(samples: Sequence[Sample], spec: InputSpec, *, batch_size: int, workers: int = -1) -> Iterator[Batch]:
    """Samples in order, resized and cropped as a model wants them for evaluation.

    ``workers`` background processes load pictures; -1 chooses.
    """
    return batches(samples, eval_transform(spec), batch_size=batch_size, workers=workers)


@dataclass(frozen=True, eq=False)
class PreparedBatch:
    """Pictures that are ready for a model.

    Attributes:
        samples: the B readable pictures, in order.
        pixels_BCHW: what the model takes of them: float32, normalised, on its device.
        unreadable: (name, reason) of the batch's other pictures.
    """

    samples: tuple[Sample, ...]
    pixels_BCHW: torch.Tensor
    unreadable: tuple[Unreadable, ...] = ()


def prepared_batches(
    classifier: Classifier, samples: Iterable[Sample], *, batch_size: int, workers: int = -1
) -> Iterator[PreparedBatch]:
    """Prepare pictures for a model, batch by batch.

    Args:
        classifier: the model.
        samples: a sequence, which background processes load; or pictures that come one by one, of which no more than a
            batch is held. Those that are normalised already stay as they are.
        batch_size: pictures of a batch.
        workers: background processes for a sequence; -1 chooses.
    """
    if _is_loaded_in_background(samples):
        yield from _prepare(classifier, samples, batch_size, workers)
        return
    source = iter(samples)
    while part := tuple(islice(source, batch_size)):
        if isinstance(part[0].picture, NormalisedPicture):
            pixels = torch.stack([each.picture.pixels_CHW for each in part])  # type: ignore[attr-defined]
            yield PreparedBatch(part, pixels.to(classifier.device))
        else:
            yield from _prepare(classifier, part, batch_size, 0)


def _is_loaded_in_background(samples: Iterable[Sample]) -> TypeGuard[Sequence[Sample]]:
    """Whether background processes load them: all are at hand, and none is decoded already.

    What is in memory would be copied to them, and a notebook or a script of a person's need not bear being forked.
    """
    in_memory = (ImagePicture, NormalisedPicture)
    return isinstance(samples, Sequence) and not any(isinstance(each.picture, in_memory) for each in samples)


def _prepare(
    classifier: Classifier, samples: Sequence[Sample], batch_size: int, workers: int
) -> Iterator[PreparedBatch]:
    spec = classifier.spec
    for batch in eval_batches(samples, spec, batch_size=batch_size, workers=workers):
        bytes_BCHW = batch.pixels_BCHW.to(classifier.device, non_blocking=True)
        yield PreparedBatch(
            tuple(samples[index] for index in batch.indices_B.tolist()),
            normalise(bytes_BCHW, spec.mean, spec.std),
            tuple((samples[index].name, reason) for index, reason in batch.unreadable),
        )


def input_normalisation(spec: InputSpec) -> Normalisation:
    """What pictures must be that are normalised already for a model of this input."""
    return Normalisation(spec.size, tuple(spec.mean), tuple(spec.std))


def predict_batches(
    module: nn.Module,
    samples: Sequence[Sample],
    source: Iterable[Batch],
    spec: InputSpec,
    *,
    device: torch.device,
    precision: str,
    progress: Progress = no_progress,
) -> Iterator[BatchLogits]:
    """Run a module over batches in eval mode; its own mode is put back at the end.

    Args:
        module: on ``device``; pixels (B, 3, H, W) to logits (B, C).
        samples: the pictures that the batches are made of.
        source: batches whose indices are positions in ``samples``.
        spec: the module's normalisation.
        device: where the module is.
        precision: "fp32" or "bf16".
        progress: called with pictures done, readable or not, of how many, each time the caller asks for more.
    """
    was_training, has_compiled_parts, count = module.training, is_compiled(module), 0
    module.eval()
    try:
        for batch in source:
            with torch.inference_mode(), autocast(device, precision, compiled=has_compiled_parts, logits_of=module):
                pixels_BCHW = normalise(batch.pixels_BCHW.to(device, non_blocking=True), spec.mean, spec.std)
                logits_BC = module(pixels_BCHW) if len(pixels_BCHW) else pixels_BCHW.new_zeros(0, 0)
            yield BatchLogits(
                tuple(samples[index] for index in batch.indices_B.tolist()),
                logits_BC.float().cpu().numpy(),
                tuple((samples[index].name, reason) for index, reason in batch.unreadable),
            )
            count += len(batch) + len(batch.unreadable)
            progress(count, len(samples))
    finally:
        module.train(was_training)


def predict_samples(
    classifier: Classifier,
    samples: Iterable[Sample],
    *,
    batch_size: int,
    workers: int = -1,
    progress: Progress = no_progress,
) -> Iterator[BatchLogits]:
    """Load samples and run a classifier over them; see :func:`eval_batches` and :func:`predict_batches`.

    Of pictures that come one by one, no more than a batch is held, and ``progress`` is called with 0 for how many.
    """
    if not _is_loaded_in_background(samples):
        return _predict_prepared(classifier, samples, batch_size, progress)
    source = eval_batches(samples, classifier.spec, batch_size=batch_size, workers=workers)
    return predict_batches(
        classifier.module,
        samples,
        source,
        classifier.spec,
        device=classifier.device,
        precision=classifier.precision,
        progress=progress,
    )


def _predict_prepared(
    classifier: Classifier, samples: Iterable[Sample], batch_size: int, progress: Progress
) -> Iterator[BatchLogits]:
    module, device = classifier.module, classifier.device
    done, total = 0, len(samples) if isinstance(samples, Sequence) else 0
    for batch in prepared_batches(classifier, samples, batch_size=batch_size):
        with torch.inference_mode(), autocast(device, classifier.precision, logits_of=module):
            logits_BC = module(batch.pixels_BCHW) if batch.samples else batch.pixels_BCHW.new_zeros(0, 0)
        yield BatchLogits(batch.samples, logits_BC.float().cpu().numpy(), batch.unreadable)
        done += len(batch.samples) + len(batch.unreadable)
        progress(done, total)


def known_labels(samples: Iterable[Sample]) -> npt.NDArray[np.int64]:
    """int64 (N,): the samples' labels; -1 where a label is not known."""
    return np.array([-1 if sample.label is None else sample.label for sample in samples], dtype=np.int64)


def join_multi_label_logits(parts: Iterable[BatchLogits], labels: int) -> MultiLabelLogits:
    """The logits of all batches, with the pictures' names and all their labels, of ``labels`` that there are.

    Raises:
        DataError: not one picture could be read.
    """
    parts = tuple(parts)
    samples = [sample for part in parts for sample in part.samples]
    if not samples:
        raise none_readable([each for part in parts for each in part.unreadable])
    logits_NC = np.concatenate([part.logits_BC for part in parts if part.samples])
    targets_NC = multi_hot((sample.label_set for sample in samples), len(samples), labels)
    return MultiLabelLogits(tuple(sample.name for sample in samples), logits_NC, targets_NC)


def join_logits(parts: Iterable[BatchLogits]) -> LabelledLogits:
    """The logits of all batches, with the pictures' names and labels.

    Raises:
        DataError: not one picture could be read.
    """
    parts = tuple(parts)
    samples = [sample for part in parts for sample in part.samples]
    if not samples:
        raise none_readable([each for part in parts for each in part.unreadable])
    logits_NC = np.concatenate([part.logits_BC for part in parts if part.samples])
    return LabelledLogits(tuple(sample.name for sample in samples), logits_NC, known_labels(samples))
