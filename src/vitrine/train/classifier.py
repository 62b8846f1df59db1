"""Training a classifier: its model, batches and measurements."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from vitrine.classify.inference import BatchLogits, eval_batches, join_logits, known_labels, predict_batches
from vitrine.classify.predictions_csv import predictions_csv
from vitrine.data.loader import Batch, PictureLoader
from vitrine.data.samples import Sample
from vitrine.data.transforms import TrainTransform
from vitrine.io.limits import limit
from vitrine.metrics.classification import classification_metrics, concatenate_logits
from vitrine.models.finetune import LinearProbe, merge_adapters, select_trainable
from vitrine.models.load import LoadedModel, load_for_inference, load_model, training_input, width_of
from vitrine.models.reference import ModelReference
from vitrine.runs.folder import RunFolder
from vitrine.train.class_balance import (
    balanced_class_weights,
    balanced_sampling_weights,
    check_balance,
    count_labels,
)
from vitrine.train.data import ShardedBatches, TrainingData, epoch_pictures, names_of, shards_of, use_decoded_cache
from vitrine.train.events import Event
from vitrine.train.feature_cache import LinearProbeFeatures, can_cache, check_views, make_linear_probe
from vitrine.train.losses import Classification, FeatureBatch, Objective
from vitrine.train.optimizer import make_optimizer
from vitrine.train.preview import Preview
from vitrine.train.settings import ModelSettings, TaskSettings
from vitrine.train.task import Batches, RuntimeConfig, ValidationResult

MAX_DECODED_VALIDATION_BYTES = limit("MAX_DECODED_VALIDATION_BYTES", 1 << 30)
"""Bytes of decoded validation pictures up to which they stay in memory between epochs."""


class ClassifierTask:
    """A vision transformer with a head for the data's classes; see :class:`vitrine.train.task.Task`.

    ``problem_type`` is what config.json says of the outputs, in transformers' words; None is a choice of one class.

    Args:
        settings: of model, batches, loss and optimizer.
        data: training and validation pictures.
        report: called with events.
        reference: the model, where it was resolved before; None resolves it here.
    """

    problem_type: str | None = None

    def __init__(
        self,
        settings: TaskSettings,
        data: TrainingData,
        report: Callable[[Event], None] = lambda _: None,
        reference: ModelReference | None = None,
    ) -> None:
        batches, is_multi_label = settings.batches, data.source.is_multi_label
        check_views(batches.views, data.train.endless)
        check_balance(
            settings.loss.class_weights, batches.sampling, endless=data.train.endless, is_multi_label=is_multi_label
        )
        self.settings, self.report = settings, report
        self.data_record, self.labels = data.record, tuple(data.source.labels)
        self.model = _load(reference or settings.model.model, settings.model, self.labels)
        self.spec = training_input(self.model, batches.transforms)
        self._uncached_data = data
        self.data, cache_notes = use_decoded_cache(data, batches.transforms, self.spec.size, batches.decoded_cache)
        self.weights, self.notes = self.model.weights, (*data.notes, *self.model.notes, *cache_notes)
        self.width = width_of(self.model.module)
        self.epoch_pictures = epoch_pictures(data.train, batches.epoch_size)
        self.validation_pictures = len(data.validation)
        self.frozen_parameters = 0
        self._sampling_weights_N = (
            balanced_sampling_weights(known_labels(self.data.train)) if batches.sampling == "balanced" else None
        )
        self._shards: ShardedBatches | None = None
        self._decoded_validation: tuple[tuple[Sample, ...], list[Batch]] | None = None
        self._features: LinearProbeFeatures | None = None
        self._probe = make_linear_probe(self.model.module, self.spec.size, settings.model.tune)
        if self._probe is not None:
            self._use_linear_probe(self._probe)

    def _use_linear_probe(self, probe: LinearProbe) -> None:
        whole, head = (sum(each.numel() for each in part.parameters()) for part in (probe.model, probe))
        self.frozen_parameters = whole - head
        is_cached, note = can_cache(probe, self.data, self.settings.batches, self.settings.loss)
        self.notes = (*self.notes, note)
        if is_cached:
            batches, weights_N = self.settings.batches, self._sampling_weights_N
            self._features = LinearProbeFeatures(probe, self.data, batches, self.spec, self.report, weights_N)

    def draw_preview(self, folder: Path) -> tuple[Path, ...]:
        """Draw the first batch, the classes and single pictures; none where they come in shards."""
        if shards_of(self.data.train) is not None:
            return ()
        preview = Preview(self._uncached_data, self.settings.batches, self.spec, self._sampling_weights_N)
        return preview.save(folder, self.settings.model.model)

    def trainable(self) -> nn.Module:
        """The model, with what ``tune`` leaves out frozen; or its head beside it, where that is all that is trained."""
        module = select_trainable(self.model.module, self.settings.model.tune)
        return module if self._probe is None else self._probe

    def optimizer(self, module: nn.Module) -> torch.optim.Optimizer:
        """The optimizer over layer-wise parameter groups."""
        return make_optimizer(module if self._probe is None else self.model.module, self.settings.optimizer)

    def objective(self, device: torch.device) -> Objective:
        """Cross-entropy over the classes."""
        weights_C = None
        if self.settings.loss.class_weights == "balanced":
            weights_C = balanced_class_weights(self._count_labels())
        return Classification(self.settings.loss, len(self.labels), self.spec.mean, self.spec.std, device, weights_C)

    def _count_labels(self) -> npt.NDArray[np.int64]:
        """How many training pictures have each label."""
        return count_labels((sample.label_set for sample in self.data.train), len(self.labels))

    @contextmanager
    def batches(self, runtime: RuntimeConfig) -> Iterator[Batches]:
        """Augmented pictures, or cached features."""
        settings, features = self.settings.batches, self._features
        if features is not None:
            yield lambda epoch, start: features.batches(runtime, epoch, start)
            return
        transform = TrainTransform(settings.transforms, self.spec.size)
        shard = runtime.processes.batch_shard(pair_for_mixup=self.settings.loss.mixes)
        with PictureLoader(transform, settings.batch_size, settings.workers, batch_shard=shard) as loader:
            shards = shards_of(self.data.train)
            if shards is not None:
                stream = self._shards = ShardedBatches(shards, settings, runtime.processes.batch_shard(), self.report)
                yield lambda epoch, start: stream.epoch(loader, epoch, start)
                return
            yield lambda epoch, start: loader.epoch(
                self._samples(epoch),
                seed=settings.seed,
                epoch=epoch,
                shuffle=True,
                start_batch=start,
                view=settings.view(epoch) if settings.views or not settings.transforms.is_random else None,
                weights_N=self._sampling_weights_N,
            )

    def _samples(self, epoch: int) -> Any:
        return self.data.train.for_epoch(epoch, self.settings.batches.epoch_size)

    def names(self, epoch: int, batch: Batch | FeatureBatch) -> list[str]:
        """File names of a batch's pictures."""
        if self._shards is not None and isinstance(batch, Batch):
            return self._shards.names(batch.indices_B.tolist())
        return names_of(self._samples(epoch), batch.indices_B.tolist())

    def validate(self, module: nn.Module, runtime: RuntimeConfig) -> ValidationResult:
        """Loss and accuracy; also reports which pictures of shards could not be read in the epoch."""
        processes, part = runtime.processes, runtime.processes.batch_shard().contiguous(len(self.data.validation))
        if self._shards is not None:
            self._shards.report_unreadable(processes)
        own_logits = self._join(self._validation_logits(module, runtime, part)) if part else None
        parts = [each for each in processes.all_gather(own_logits) if each is not None]
        return processes.broadcast_from_main(lambda: self._measure(parts, runtime.precision))

    def _join(self, parts: list[BatchLogits]) -> Any:
        """The logits of batches with the pictures' names and labels, as :meth:`_measure` takes them."""
        return join_logits(parts)

    def _measure(self, parts: list[Any], precision: str) -> ValidationResult:
        metrics = classification_metrics(concatenate_logits(parts), self.labels, precision=precision)
        return ValidationResult(metrics.negative_log_likelihood, metrics.accuracy)

    def _validation_logits(self, module: nn.Module, runtime: RuntimeConfig, part: range) -> list[BatchLogits]:
        """Of a part of the validation pictures."""
        if self._features is not None:
            return self._features.outputs(module, runtime, part)
        return self._logits(module, runtime, self.data.validation[part.start : part.stop])

    def save(self, run: RunFolder, module: nn.Module) -> None:
        """Write the model in timm's layout, adapters folded in."""
        if isinstance(module, LinearProbe):
            with module.merged() as whole:
                run.save_model(whole, self.labels, self.spec, problem_type=self.problem_type)
        else:
            run.save_model(merge_adapters(module), self.labels, self.spec, problem_type=self.problem_type)

    def finalize(self, run: RunFolder, runtime: RuntimeConfig) -> dict[str, Any]:
        """Measure the saved weights and write predictions.csv; the content of metrics.json."""
        module = load_for_inference(run.path).module.to(runtime.device)
        logits = self._join(self._logits(module, runtime, self.data.validation))
        return self._write_predictions(run, logits, runtime.precision)

    def _write_predictions(self, run: RunFolder, logits: Any, precision: str) -> dict[str, Any]:
        run.write("predictions.csv", predictions_csv(logits, self.labels, probabilities=True))
        return classification_metrics(logits, self.labels, precision=precision).to_dict()

    def _logits(self, module: nn.Module, runtime: RuntimeConfig, samples: tuple[Sample, ...]) -> list[BatchLogits]:
        source, device = self._validation_batches(samples), runtime.device
        return list(predict_batches(module, samples, source, self.spec, device=device, precision=runtime.precision))

    def _validation_batches(self, samples: tuple[Sample, ...]) -> Iterator[Batch]:
        """Decoded pictures, which stay in memory from epoch to epoch where they are few."""
        size, workers = max(32, self.settings.batches.batch_size), self.settings.batches.workers
        if len(samples) * 3 * prod(self.spec.size) > MAX_DECODED_VALIDATION_BYTES:
            return eval_batches(samples, self.spec, batch_size=size, workers=workers)
        if self._decoded_validation is None or self._decoded_validation[0] is not samples:
            batches = list(eval_batches(samples, self.spec, batch_size=size, workers=workers))
            self._decoded_validation = (samples, batches)
        return iter(self._decoded_validation[1])


def _load(reference: str | ModelReference, settings: ModelSettings, labels: tuple[str, ...]) -> LoadedModel:
    return load_model(
        reference,
        pretrained=settings.pretrained,
        num_classes=len(labels),
        labels=labels,
        image_size=settings.image_size,
        model_args=settings.model_args,
        drop_path=settings.drop_path,
        patch_drop=settings.patch_drop,
    )
