"""Training a captioner: its model, batches and measurements."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vitrine.caption.inference import captions_csv, greedy_captions, score_captions
from vitrine.caption.model import load_captioner, open_captioner
from vitrine.caption.tokenizer import Vocabulary, read_vocabulary, train_vocabulary
from vitrine.config import CaptionSpec, Recipe, TransformSpec
from vitrine.config.recipe import FROM_CAPTIONS
from vitrine.data.captions.transforms import CaptionTrainTransform, CaptionTransform
from vitrine.data.loader import Batch, BatchShard, PictureLoader
from vitrine.data.samples import Sample, Split
from vitrine.models.captioner.build import LoadedCaptioner, build_captioner
from vitrine.models.captioner.checkpoint import VOCABULARY, save_captioner_checkpoint
from vitrine.models.captioner.model import CaptionModel, Features
from vitrine.models.finetune import captioner_parameter_groups
from vitrine.models.kind import is_captioner
from vitrine.models.load import resolve_recipe_model
from vitrine.models.precision import autocast
from vitrine.models.reference import ModelReference, file_sha256
from vitrine.results import CaptioningMetrics, none_readable
from vitrine.runs.environment import VOCABULARY_SHA256
from vitrine.runs.folder import RunFolder
from vitrine.train.data import CaptionTrainingData, ShardedBatches, epoch_pictures, shards_of
from vitrine.train.events import Event, ProgressUpdate
from vitrine.train.feature_cache import FeatureCache, cache_dtype, check_views, encode_once, view_for_epoch
from vitrine.train.losses import CaptionBatch, Captioning, TeacherForcing
from vitrine.train.optimizer import make_optimizer
from vitrine.train.task import Batches, RuntimeConfig, ValidationResult
from vitrine.train.teacher_forcing import CaptionSampler, TeacherForcedScore, score_teacher_forced

_VOCABULARY_PICTURES = 1_000  # of an endless source, whose captions a vocabulary is learnt from
_ENCODED_AGAIN = (
    "The frozen image encoder is run over all pictures in every epoch, since training pictures come in a stream."
)


def resolve_image_model(recipe: Recipe) -> ModelReference | None:
    """The image model that a captioner's recipe starts from, with its weights; None where it is a captioner.

    Raises:
        ModelError, WeightsUnavailableError: an unknown model, or weights that cannot be had.
    """
    return None if is_captioner(recipe.model) else resolve_recipe_model(recipe)


class CaptionerTask:
    """An image encoder, a transformer and word pieces; see :class:`vitrine.train.task.Task`."""

    labels: tuple[str, ...] = ()

    def __init__(
        self,
        recipe: Recipe,
        data: CaptionTrainingData,
        report: Callable[[Event], None],
        image_model: ModelReference | None = None,
    ) -> None:
        check_views(recipe, data.train.endless)
        self.recipe, self.data, self.report, self.data_record = recipe, data, report, data.record
        self.spec = recipe.caption or CaptionSpec()
        made = self._assembled(image_model)
        self.model, self.input, self.weights = made.model, made.input, made.weights
        self.vocabulary: Vocabulary = self.model.vocabulary
        self.transform = CaptionTransform(made.input)
        self.width = self.model.config.width
        longest = min(self.model.max_length, self.spec.longest)
        self._drawn = CaptionSampler(self.vocabulary, longest, self.spec.captions_a_picture, recipe.seed)
        self.epoch_pictures = epoch_pictures(data.train, recipe)
        self.validation_pictures = len(data.validation)
        self.frozen = recipe.tune == "head" or self.spec.backbone_learning_rate == 0
        again = (_ENCODED_AGAIN,) if self.frozen and data.train.endless else ()
        self.notes = (*data.found.notes, *made.notes, f"{self.vocabulary.size:,} word pieces.", *again)
        self.frozen_parameters = 0
        self._kept: dict[str, FeatureCache | None] = {}
        self._sharded: ShardedBatches | None = None

    def _assembled(self, image_model: ModelReference | None) -> LoadedCaptioner:
        recipe, transforms = self.recipe, self.recipe.transforms
        if image_model is None and is_captioner(recipe.model):
            found = load_captioner(recipe.model)
            note = "It is a captioner: its own architecture and word pieces are used."
            return replace(found, notes=(*found.notes, note))
        return build_captioner(
            image_model or recipe.model,
            self.spec,
            self._vocabulary(),
            pretrained=recipe.pretrained,
            image_size=recipe.image_size,
            model_args=recipe.model_args,
            mean=transforms.mean,
            std=transforms.std,
        )

    def _vocabulary(self) -> Vocabulary:
        if self.spec.vocabulary != FROM_CAPTIONS:
            return read_vocabulary(Path(self.spec.vocabulary).expanduser())
        texts = (text for captions in self._training_captions() for text in captions)
        return train_vocabulary(texts, self.spec.vocabulary_size)

    def _training_captions(self) -> Iterator[Sequence[str]]:
        """Of each training picture; a stream of shards is read once for them."""
        shards = shards_of(self.data.train)
        if shards is None:
            yield from (each.captions for each in self.data.train.for_epoch(0, _VOCABULARY_PICTURES))
            return
        for done, captions in enumerate(shards.captions(), start=1):
            self.report(ProgressUpdate(done, len(shards), "Reading captions"))
            yield captions
        self.report(ProgressUpdate(len(shards), len(shards), "Reading captions"))

    def trainable(self) -> nn.Module:
        """The captioner under teacher forcing, its image encoder frozen on request."""
        return TeacherForcing(self.model, frozen=self.frozen)

    def optimizer(self, module: nn.Module) -> torch.optim.Optimizer:
        """Two learning rates: the image encoder's, and everything else's."""
        groups = captioner_parameter_groups(module, self.recipe, self.spec.backbone_learning_rate)
        return make_optimizer(module, self.recipe, groups)

    def objective(self, device: torch.device) -> Captioning:
        """Cross-entropy over word pieces."""
        smoothing, hidden = self.recipe.label_smoothing, self.spec.word_dropout
        return Captioning(self.transform, smoothing, hidden, self.vocabulary.pad, device)

    @contextmanager
    def batches(self, runtime: RuntimeConfig) -> Iterator[Batches]:
        """Pictures or their kept features, with captions that are drawn anew in every epoch."""
        recipe, changes = self.recipe, CaptionTrainTransform(self.recipe.transforms, self.transform)
        random, kept, share = recipe.transforms.random, None, runtime.processes.batch_shard()
        if self.frozen and (recipe.views or not random) and not self.data.train.endless:
            kept = self._features("training", self.data.train, runtime, changes, recipe.views or 1)
        if kept is not None:
            features = kept
            yield lambda epoch, start: self._from_kept(features, epoch, start, share)
            return
        with PictureLoader(changes, recipe.batch_size, recipe.workers, share) as loader:
            shards = shards_of(self.data.train)
            if shards is None:
                yield lambda epoch, start: self._from_pictures(loader, epoch, start)
                return
            sharded = self._sharded = ShardedBatches(shards, recipe, share, self.report)
            yield lambda epoch, start: self._from_shards(sharded, loader, epoch, start)

    def _from_kept(self, kept: FeatureCache, epoch: int, start: int, share: BatchShard) -> Iterator[CaptionBatch]:
        view = view_for_epoch(self.recipe, self.recipe.transforms.random, epoch)
        for indices, values, is_dummy in kept.batches(self.recipe, epoch, start, view, share):
            yield replace(self._batch(Features.join(values), indices, self.data.train, epoch), is_dummy=is_dummy)

    def _from_pictures(self, loader: PictureLoader, epoch: int, start: int) -> Iterator[CaptionBatch]:
        recipe, split = self.recipe, self.data.train.for_epoch(epoch, self.recipe.epoch_size)
        view = view_for_epoch(recipe, recipe.transforms.random, epoch)
        for found in loader.epoch(split, seed=recipe.seed, epoch=epoch, shuffle=True, start_batch=start, view=view):
            batch = self._batch(found.pixels, found.indices_B.tolist(), split, epoch)
            yield replace(batch, is_dummy=found.is_dummy)

    def _from_shards(
        self, sharded: ShardedBatches, loader: PictureLoader, epoch: int, start: int
    ) -> Iterator[CaptionBatch]:
        for found in sharded.epoch(loader, epoch, start):
            indices = found.indices_B.tolist()
            batch = self._drawn.batch(found.pixels, indices, sharded.captions(indices), epoch)
            yield replace(batch, is_dummy=found.is_dummy)

    def _batch(self, seen: Any, indices: Sequence[int], split: Sequence[Sample], epoch: int | None) -> CaptionBatch:
        return self._drawn.batch(seen, indices, [split[index].captions for index in indices], epoch)

    def names(self, epoch: int, batch: CaptionBatch) -> list[str]:
        """File names of a batch's pictures."""
        if self._sharded is not None:
            return self._sharded.names(batch.indices_P.tolist())
        split = self.data.train.for_epoch(epoch, self.recipe.epoch_size)
        return [split[index].name for index in batch.indices_P.tolist()]

    def validate(self, module: nn.Module, runtime: RuntimeConfig) -> ValidationResult:
        """Loss and accuracy over the word pieces of all captions, each predicted from those before it."""
        if self._sharded is not None:
            self._sharded.report_unreadable(runtime.processes)
        part = runtime.processes.batch_shard().contiguous(len(self.data.validation))
        found = self._forced(module, runtime, part)
        loss, correct, count = runtime.processes.all_reduce_sum((found.total, found.correct, found.pieces))
        return ValidationResult(loss / count, correct / count)

    def _forced(self, module: nn.Module, runtime: RuntimeConfig, part: range) -> TeacherForcedScore:
        """Of a part of the validation pictures."""
        batches = self._validation_batches(runtime, part)
        return score_teacher_forced(module, batches, self.transform, self.vocabulary.pad, runtime)

    def _validation_batches(self, runtime: RuntimeConfig, part: range) -> Iterator[CaptionBatch]:
        split = self.data.validation
        plain = CaptionTrainTransform(TransformSpec(), self.transform)
        kept = self._features("validation", split, runtime, plain) if self.frozen else None
        if kept is None:
            for found in self._version(split, plain, 0, part):
                yield self._batch(found.pixels, [part[index] for index in found.indices_B.tolist()], split, None)
            return
        for first in range(0, len(part), self.recipe.batch_size):
            indices = [index for index in part[first : first + self.recipe.batch_size] if kept.has(0, index)]
            yield self._batch(Features.join(kept(0, indices)), indices, split, None)

    def _version(
        self, split: Split, changes: CaptionTrainTransform, view: int, part: range | None = None
    ) -> Iterator[Batch]:
        """The pictures in order, or a part of them, changed as in the epoch ``view``."""
        with PictureLoader(changes, self.recipe.batch_size, self.recipe.workers) as loader:
            samples = split if part is None else split[part.start : part.stop]
            yield from loader.epoch(samples, seed=self.recipe.seed, epoch=view)

    def _features(
        self, what: str, split: Split, runtime: RuntimeConfig, changes: CaptionTrainTransform, views: int = 1
    ) -> FeatureCache | None:
        if what in self._kept:
            return self._kept[what]

        def progress(done: int, total: int) -> None:
            self.report(ProgressUpdate(done, total, f"Encoding {what} pictures once"))

        def encode_image(batch: Batch) -> list[torch.Tensor]:
            pixels = [self.transform.normalise(each.to(runtime.device)) for each in batch.pixels]
            with torch.no_grad(), autocast(runtime.device, runtime.precision):
                found = self.model.encode_image(pixels)
            values_BDRC = found.values_BDRC.to("cpu", cache_dtype(runtime))
            return [own[:, :rows, :columns] for own, (rows, columns) in zip(values_BDRC, found.grids, strict=True)]

        self.model.backbone.eval()
        passes = [partial(self._version, split, changes, view) for view in range(views)]
        self._kept[what] = encode_once(passes, encode_image, len(split), progress)
        return self._kept[what]

    def save(self, run: RunFolder, module: nn.Module) -> None:
        """Weights, settings and word pieces."""
        captioner: Any = module
        model: CaptionModel = captioner.captioner
        save_captioner_checkpoint(run.path, model, self.input)

    def finalize(self, run: RunFolder, runtime: RuntimeConfig) -> dict[str, Any]:
        """Measure the written weights: forced, and by the captions that they give; write captions.csv."""
        written = load_captioner(str(run.path)).model.to(runtime.device)
        everything = range(len(self.data.validation))
        forced = self._forced(TeacherForcing(written, frozen=True), runtime, everything)
        del written
        opened = open_captioner(str(run.path), precision=runtime.precision)

        def progress(done: int, total: int) -> None:
            self.report(ProgressUpdate(done, total, "Captioning the validation pictures"))

        samples = tuple(self.data.validation)
        pictures = list(samples)
        predictions = greedy_captions(opened, pictures, precision=runtime.precision, progress=progress)
        if not predictions.captions:
            raise none_readable(predictions.unreadable)
        run.write("captions.csv", captions_csv(predictions.captions))
        metrics = CaptioningMetrics(
            n=len(samples),
            pieces=forced.pieces,
            precision=runtime.precision,
            negative_log_likelihood=forced.loss,
            accuracy=forced.accuracy,
            scores=score_captions(predictions.captions, samples).to_dict(),
        )
        return metrics.to_dict() | {VOCABULARY_SHA256: file_sha256(run.path / VOCABULARY)}
