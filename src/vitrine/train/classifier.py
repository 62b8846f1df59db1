"""Training a classifier: its model, batches and measurements."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from vitrine.classify.inference import eval_batches, join_logits, predict_batches
from vitrine.classify.predictions_csv import predictions_csv
from vitrine.config import Recipe
from vitrine.data.loader import Batch, PictureLoader
from vitrine.data.samples import Sample
from vitrine.data.transforms import TrainTransform
from vitrine.metrics.classification import LabelledLogits, classification_metrics, concatenate_logits
from vitrine.models.finetune import LinearProbe, merge_adapters, select_trainable
from vitrine.models.load import load_for_inference, load_recipe_model, recipe_input, width_of
from vitrine.models.reference import ModelReference
from vitrine.runs.folder import RunFolder
from vitrine.train.data import ShardedBatches, TrainingData, epoch_pictures, names_of, shards_of, use_decoded_cache
from vitrine.train.events import Event
from vitrine.train.feature_cache import (
    LinearProbeFeatures,
    check_views,
    make_linear_probe,
    plan_feature_cache,
    view_for_epoch,
)
from vitrine.train.losses import Classification, FeatureBatch
from vitrine.train.optimizer import make_optimizer
from vitrine.train.task import Batches, RuntimeConfig, ValidationResult

_KEPT_VALIDATION_BYTES = 1 << 30  # decoded validation pictures are kept between epochs up to here


class ClassifierTask:
    """A vision transformer with a head for the data's classes; see :class:`vitrine.train.task.Task`."""

    def __init__(
        self,
        recipe: Recipe,
        data: TrainingData,
        report: Callable[[Event], None] = lambda _: None,
        model: ModelReference | None = None,
    ) -> None:
        check_views(recipe, data.train.endless)
        self.recipe, self.report = recipe, report
        self.data_record, self.labels = data.record, tuple(data.found.labels)
        self.built = load_recipe_model(recipe, len(self.labels), model)
        self.spec = recipe_input(self.built, recipe)
        self.data, kept = use_decoded_cache(data, recipe, self.spec.size)
        self.weights, self.notes = self.built.weights, (*data.found.notes, *self.built.notes, *kept)
        self.width = width_of(self.built.module)
        self.epoch_pictures = epoch_pictures(data.train, recipe)
        self._sharded: ShardedBatches | None = None
        self.validation_pictures = len(data.validation)
        self.frozen_parameters = 0
        self._features: LinearProbeFeatures | None = None
        self._validation: tuple[tuple[Sample, ...], list[Batch]] | None = None
        self._head = make_linear_probe(self.built, self.spec.size, recipe)
        if self._head is not None:
            self._set_aside(self._head, report)

    def _set_aside(self, head: LinearProbe, report: Callable[[Event], None]) -> None:
        counts = [sum(each.numel() for each in part.parameters()) for part in (head.model, head)]
        self.frozen_parameters = counts[0] - counts[1]
        once, note = plan_feature_cache(head, self.data, self.recipe)
        self.notes = (*self.notes, note)
        if once:
            self._features = LinearProbeFeatures(head, self.data, self.recipe, self.spec, report)

    def trainable(self) -> nn.Module:
        """The model, with what ``tune`` leaves out frozen; or its classifier beside it, where that is all."""
        chosen = select_trainable(self.built.module, self.recipe.tune)
        return chosen if self._head is None else self._head

    def optimizer(self, module: nn.Module) -> torch.optim.Optimizer:
        """Over layer-wise groups."""
        return make_optimizer(module if self._head is None else self.built.module, self.recipe)

    def objective(self, device: torch.device) -> Classification:
        """Cross-entropy over the classes."""
        return Classification(self.recipe, len(self.labels), self.spec.mean, self.spec.std, device)

    @contextmanager
    def batches(self, runtime: RuntimeConfig) -> Iterator[Batches]:
        """Augmented squares, or their features."""
        recipe, features = self.recipe, self._features
        if features is not None:
            yield lambda epoch, start: features.batches(runtime, epoch, start)
            return
        transform = TrainTransform(recipe.transforms, self.spec.size)
        share = runtime.processes.batch_shard(pair_for_mixup=bool(recipe.mixup or recipe.cutmix))
        with PictureLoader(transform, recipe.batch_size, recipe.workers, batch_shard=share) as loader:
            shards = shards_of(self.data.train)
            if shards is not None:
                sharded = self._sharded = ShardedBatches(shards, recipe, runtime.processes.batch_shard(), self.report)
                yield lambda epoch, start: sharded.epoch(loader, epoch, start)
                return
            yield lambda epoch, start: loader.epoch(
                self._samples(epoch),
                seed=recipe.seed,
                epoch=epoch,
                shuffle=True,
                start_batch=start,
                view=view_for_epoch(recipe, recipe.transforms.random, epoch),
            )

    def _samples(self, epoch: int) -> Any:
        return self.data.train.for_epoch(epoch, self.recipe.epoch_size)

    def names(self, epoch: int, batch: Batch | FeatureBatch) -> list[str]:
        """File names of a batch's pictures."""
        if self._sharded is not None and isinstance(batch, Batch):
            return self._sharded.names(batch.indices_B.tolist())
        return names_of(self._samples(epoch), batch.indices_B.tolist())

    def validate(self, module: nn.Module, runtime: RuntimeConfig) -> ValidationResult:
        """Loss and accuracy; what of shards could not be read since is told."""
        processes, part = runtime.processes, runtime.processes.batch_shard().contiguous(len(self.data.validation))
        if self._sharded is not None:
            self._sharded.report_unreadable(processes)
        parts = [each for each in processes.all_gather(self._validated(module, runtime, part)) if each is not None]

        def measured() -> ValidationResult:
            metrics = classification_metrics(concatenate_logits(parts), self.labels, precision=runtime.precision)
            return ValidationResult(metrics.negative_log_likelihood, metrics.accuracy)

        return processes.broadcast_from_main(measured)

    def _validated(self, module: nn.Module, runtime: RuntimeConfig, part: range) -> LabelledLogits | None:
        """Of a part of the validation pictures; None where there is none."""
        if not part:
            return None
        if self._features is not None:
            return self._features.outputs(module, runtime, part)
        return self._outputs(module, runtime, self.data.validation[part.start : part.stop])

    def save(self, run: RunFolder, module: nn.Module) -> None:
        """In timm's layout, adapters folded in."""
        if isinstance(module, LinearProbe):
            with module.merged() as whole:
                run.save_model(whole, self.labels, self.spec)
        else:
            run.save_model(merge_adapters(module), self.labels, self.spec)

    def finalize(self, run: RunFolder, runtime: RuntimeConfig) -> dict[str, Any]:
        """Measure the written weights; write predictions.csv."""
        module = load_for_inference(run.path).module.to(runtime.device)
        outputs = self._outputs(module, runtime, self.data.validation)
        run.write("predictions.csv", predictions_csv(outputs, self.labels, probabilities=True))
        return classification_metrics(outputs, self.labels, precision=runtime.precision).to_dict()

    def _outputs(self, module: nn.Module, runtime: RuntimeConfig, samples: tuple[Sample, ...]) -> LabelledLogits:
        source, device = self._batches_of(samples), runtime.device
        parts = predict_batches(module, samples, source, self.spec, device=device, precision=runtime.precision)
        return join_logits(parts)

    def _batches_of(self, samples: tuple[Sample, ...]) -> Iterator[Batch]:
        size = max(32, self.recipe.batch_size)
        if len(samples) * 3 * self.spec.size**2 > _KEPT_VALIDATION_BYTES:
            return eval_batches(samples, self.spec, batch_size=size, workers=self.recipe.workers)
        if self._validation is None or self._validation[0] is not samples:
            found = list(eval_batches(samples, self.spec, batch_size=size, workers=self.recipe.workers))
            self._validation = (samples, found)
        return iter(self._validation[1])
