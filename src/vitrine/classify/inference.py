"""A model run over samples: the one place where pictures, transforms and a model meet outside training."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from vitrine.config import TransformSpec
from vitrine.config.preprocessing import InputSpec
from vitrine.data.loader import Batch, batches, normalise
from vitrine.data.samples import Sample
from vitrine.data.transforms import EvalTransform
from vitrine.metrics.classification import LabelledLogits
from vitrine.models.precision import autocast, class_token_alone, is_compiled


@dataclass(frozen=True)
class BatchLogits:
    """What the model said of one batch. ``logits_BC`` is float32 on the CPU."""

    batch: Batch
    logits_BC: torch.Tensor


def eval_transform(spec: InputSpec) -> EvalTransform:
    """The evaluation transform that a model's own configuration asks for."""
    return EvalTransform(TransformSpec(eval_crop=spec.crop), spec.size)


def predict_batches(
    module: nn.Module, source: Iterable[Batch], spec: InputSpec, *, device: torch.device, precision: str
) -> Iterator[BatchLogits]:
    """Logits batch by batch, in eval mode; the module's own mode is put back at the end."""
    was_training, compiled = module.training, is_compiled(module)
    module.eval()
    try:
        for batch in source:
            with torch.inference_mode(), autocast(device, precision, compiled=compiled), class_token_alone(module):
                pixels_BCHW = normalise(batch.pixels_BCHW.to(device, non_blocking=True), spec.mean, spec.std)
                logits_BC = module(pixels_BCHW) if len(pixels_BCHW) else pixels_BCHW.new_zeros(0, 0)
            yield BatchLogits(batch, logits_BC.float().cpu())
    finally:
        module.train(was_training)


def eval_batches(samples: Sequence[Sample], spec: InputSpec, *, batch_size: int, workers: int = -1) -> Iterator[Batch]:
    """Samples in order, as a model wants to see them for evaluation."""
    return batches(samples, eval_transform(spec), batch_size=batch_size, workers=workers)


def stack_logits(samples: Sequence[Sample], results: Iterable[BatchLogits]) -> LabelledLogits:
    """All logits with the samples' names and labels, in order; unreadable pictures are left out."""
    parts = [(part.batch.indices_B, part.logits_BC) for part in results if len(part.batch.indices_B)]
    indices = np.concatenate([indices_B.numpy() for indices_B, _ in parts])
    logits_NC = np.concatenate([logits_BC.numpy() for _, logits_BC in parts])
    labels = [samples[i].label for i in indices]
    return LabelledLogits(
        names=tuple(samples[i].name for i in indices),
        logits_NC=logits_NC,
        labels_N=np.array([-1 if label is None else label for label in labels], dtype=np.int64),
    )
