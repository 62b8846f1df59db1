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
from vitrine.config import CaptionSpec, TransformSpec
from vitrine.config.recipe import FROM_CAPTIONS
from vitrine.data.batch_plan import BatchShard
from vitrine.data.captions.transforms import CaptionTrainTransform, CaptionTransform
from vitrine.data.loader import Batch, PictureLoader
from vitrine.data.samples import Sample
from vitrine.io.files import file_sha256
from vitrine.models.captioner.build import LoadedCaptioner, build_captioner
from vitrine.models.captioner.checkpoint import save_captioner_checkpoint
from vitrine.models.captioner.model import CaptionModel, Features
from vitrine.models.captioner_folder import VOCABULARY
from vitrine.models.finetune import captioner_parameter_groups
from vitrine.models.kind import is_captioner
from vitrine.models.load import resolve_with_weights
from vitrine.models.precision import autocast
from vitrine.models.reference import ModelReference
from vitrine.results import CaptioningMetrics, count_of, none_readable
from vitrine.runs.environment import VOCABULARY_SHA256
from vitrine.runs.folder import RunFolder
from vitrine.train.data import ShardedBatches, TrainingData, epoch_pictures, shards_of
from vitrine.train.events import Event, ProgressUpdate
from vitrine.train.feature_cache import FeatureCache, cache_dtype, check_views, encode_once
from vitrine.train.losses import CaptionBatch, Captioning, TeacherForcing
from vitrine.train.optimizer import make_optimizer
from vitrine.train.settings import ModelSettings, TaskSettings
from vitrine.train.task import Batches, RuntimeConfig, ValidationResult
from vitrine.train.teacher_forcing import CaptionSampler, TeacherForcedScore, score_teacher_forced

_VOCABULARY_PICTURES = 1_000  # of an endless source, whose captions a vocabulary is learnt from
_ENCODED_AGAIN = (
    "The frozen image encoder is run over all pictures in every epoch, since training pictures come in a stream."
)


def resolve_image_model(settings: ModelSettings) -> ModelReference | None:
    """The image model of a new captioner, with its weights; None where the model is a captioner already.

    Raises:
        ModelError, WeightsUnavailableError: an unknown model, or weights that cannot be had.
    """
    if is_captioner(settings.model):
        return None
    return resolve_with_weights(settings.model, settings.pretrained, settings.model_args)


class CaptionerTask:
    """An image encoder, a transformer and a vocabulary; see :class:`vitrine.train.task.Task`.

    Args:
        settings: of image model, batches, loss and optimizer.
        caption: of the captioner round the image model.
        data: training and validation pictures with their captions.
        report: called with events.
        image_model: the image model, where it was resolved before; None resolves it here.
    """

    labels: tuple[str, ...] = ()

    def __init__(
        self,
        settings: TaskSettings,
        caption: CaptionSpec,
        data: TrainingData,
        report: Callable[[Event], None] = lambda _: None,
        image_model: ModelReference | None = None,
    ) -> None:
        batches = settings.batches
        check_views(batches.views, data.train.endless)
        self.settings, self.caption, self.data, self.report = settings, caption, data, report
        self.data_record = data.record
        starting_model = self._load_or_build(image_model)
        self.model, self.input, self.weights = starting_model.model, starting_model.input, starting_model.weights
        self.vocabulary: Vocabulary = self.model.vocabulary
        self.transform = CaptionTransform(starting_model.input)
        self.width = self.model.config.width
        max_length = min(self.model.max_length, caption.longest)
        self._sampler = CaptionSampler(self.vocabulary, max_length, caption.captions_a_picture, batches.seed)
        self.epoch_pictures = epoch_pictures(data.train, batches.epoch_size)
        self.validation_pictures = len(data.validation)
        self.is_encoder_frozen = settings.model.tune == "head" or caption.backbone_learning_rate == 0
        again = (_ENCODED_AGAIN,) if self.is_encoder_frozen and data.train.endless else ()
        self.notes = (*data.notes, *starting_model.notes, f"{count_of(self.vocabulary.size, 'word piece')}.", *again)
        self.frozen_parameters = 0
        self._caches: dict[str, FeatureCache | None] = {}
        self._shards: ShardedBatches | None = None

    def _load_or_build(self, image_model: ModelReference | None) -> LoadedCaptioner:
        settings, transforms = self.settings.model, self.settings.batches.transforms
        if image_model is None and is_captioner(settings.model):
            captioner = load_captioner(settings.model)
            note = "It is a captioner: its own architecture and word pieces are used."
            return replace(captioner, notes=(*captioner.notes, note))
        return build_captioner(
            image_model or settings.model,
            self.caption,
            self._make_vocabulary(),
            pretrained=settings.pretrained,
            image_size=settings.image_size,
            model_args=settings.model_args,
            mean=transforms.mean,
            std=transforms.std,
        )

    def _make_vocabulary(self) -> Vocabulary:
        if self.caption.vocabulary != FROM_CAPTIONS:
            return read_vocabulary(Path(self.caption.vocabulary).expanduser())
        texts = (text for captions in self._training_captions() for text in captions)
        return train_vocabulary(texts, self.caption.vocabulary_size)

    def _training_captions(self) -> Iterator[Sequence[str]]:
        """The captions of each training picture; a stream of shards is read once for them."""
        shards = shards_of(self.data.train)
        if shards is None:
            yield from (each.captions for each in self.data.train.for_epoch(0, _VOCABULARY_PICTURES))
            return
        for done, captions in enumerate(shards.captions(), start=1):
            self.report(ProgressUpdate(done, len(shards), "Reading captions"))
            yield captions
        self.report(ProgressUpdate(len(shards), len(shards), "Reading captions"))

    def draw_preview(self, folder: Path) -> tuple[Path, ...]:  # noqa: ARG002
        """Nothing is drawn of captioned pictures."""
        return ()

    def trainable(self) -> nn.Module:
        """The captioner under teacher forcing, its image encoder frozen on request."""
        return TeacherForcing(self.model, frozen=self.is_encoder_frozen)

    def optimizer(self, module: nn.Module) -> torch.optim.Optimizer:
        """The optimizer over two learning rates: the image encoder's, and everything else's."""
        settings = self.settings.optimizer
        backbone_scale = self.caption.backbone_learning_rate / settings.learning_rate
        groups = captioner_parameter_groups(module, settings.weight_decay, backbone_scale)
        return make_optimizer(module, settings, groups)

    def objective(self, device: torch.device) -> Captioning:
        """Cross-entropy over tokens."""
        smoothing, word_dropout = self.settings.loss.label_smoothing, self.caption.word_dropout
        return Captioning(self.transform, smoothing, word_dropout, self.vocabulary.pad, device)

    @contextmanager
    def batches(self, runtime: RuntimeConfig) -> Iterator[Batches]:
        """Pictures or their cached features, with captions that are drawn anew in every epoch."""
        settings, shard = self.settings.batches, runtime.processes.batch_shard()
        transform = CaptionTrainTransform(settings.transforms, self.transform)
        has_few_views = settings.views or not settings.transforms.is_random
        if self.is_encoder_frozen and has_few_views and not self.data.train.endless:
            cache = self._encode_split("training", self.data.train, runtime, transform, settings.views or 1)
            if cache is not None:
                yield lambda epoch, start: self._batches_from_cache(cache, epoch, start, shard)
                return
        with PictureLoader(transform, settings.batch_size, settings.workers, shard) as loader:
            shards = shards_of(self.data.train)
            if shards is None:
                yield lambda epoch, start: self._batches_from_pictures(loader, epoch, start)
                return
            stream = self._shards = ShardedBatches(shards, settings, shard, self.report)
            yield lambda epoch, start: self._batches_from_shards(stream, loader, epoch, start)

    def _batches_from_cache(
        self, cache: FeatureCache, epoch: int, start: int, shard: BatchShard
    ) -> Iterator[CaptionBatch]:
        for cached_batch in cache.batches(self.settings.batches, epoch, start, shard):
            batch = self._batch(Features.join(cached_batch.values), cached_batch.indices, self.data.train, epoch)
            yield replace(batch, is_dummy=cached_batch.is_dummy)

    def _batches_from_pictures(self, loader: PictureLoader, epoch: int, start: int) -> Iterator[CaptionBatch]:
        settings = self.settings.batches
        split, seed, view = self.data.train.for_epoch(epoch, settings.epoch_size), settings.seed, settings.view(epoch)
        for pictures in loader.epoch(split, seed=seed, epoch=epoch, shuffle=True, start_batch=start, view=view):
            batch = self._batch(pictures.pixels, pictures.indices_B.tolist(), split, epoch)
            yield replace(batch, is_dummy=pictures.is_dummy)

    def _batches_from_shards(
        self, stream: ShardedBatches, loader: PictureLoader, epoch: int, start: int
    ) -> Iterator[CaptionBatch]:
        for pictures in stream.epoch(loader, epoch, start):
            indices = pictures.indices_B.tolist()
            batch = self._sampler.batch(pictures.pixels, indices, stream.captions(indices), epoch)
            yield replace(batch, is_dummy=pictures.is_dummy)

    def _batch(self, images: Any, indices: Sequence[int], split: Sequence[Sample], epoch: int | None) -> CaptionBatch:
        return self._sampler.batch(images, indices, [split[index].captions for index in indices], epoch)

    def names(self, epoch: int, batch: CaptionBatch) -> list[str]:
        """File names of a batch's pictures."""
        if self._shards is not None:
            return self._shards.names(batch.indices_P.tolist())
        split = self.data.train.for_epoch(epoch, self.settings.batches.epoch_size)
        return [split[index].name for index in batch.indices_P.tolist()]

    def validate(self, module: nn.Module, runtime: RuntimeConfig) -> ValidationResult:
        """Loss and accuracy over the tokens of all captions, each predicted from those before it."""
        if self._shards is not None:
            self._shards.report_unreadable(runtime.processes)
        part = runtime.processes.batch_shard().contiguous(len(self.data.validation))
        own_score = self._score(module, runtime, part)
        loss_sum, correct, tokens = runtime.processes.all_reduce_sum(
            (own_score.loss_sum, own_score.correct, own_score.tokens)
        )
        return ValidationResult(loss_sum / tokens, correct / tokens)

    def _score(self, module: nn.Module, runtime: RuntimeConfig, part: range) -> TeacherForcedScore:
        """Teacher-forced score of a part of the validation pictures."""
        batches = self._validation_batches(runtime, part)
        return score_teacher_forced(module, batches, self.transform, self.vocabulary.pad, runtime)

    def _validation_batches(self, runtime: RuntimeConfig, part: range) -> Iterator[CaptionBatch]:
        split, size = self.data.validation, self.settings.batches.batch_size
        transform = CaptionTrainTransform(TransformSpec(), self.transform)
        cache = self._encode_split("validation", split, runtime, transform) if self.is_encoder_frozen else None
        if cache is None:
            for pictures in self._load_view(split, transform, 0, part):
                yield self._batch(pictures.pixels, [part[i] for i in pictures.indices_B.tolist()], split, None)
            return
        for first in range(0, len(part), size):
            indices = [index for index in part[first : first + size] if cache.has(0, index)]
            yield self._batch(Features.join(cache.get(0, indices)), indices, split, None)

    def _load_view(
        self, split: Sequence[Sample], transform: CaptionTrainTransform, view: int, part: range | None = None
    ) -> Iterator[Batch]:
        """The pictures in order, or a part of them, with the random changes of the epoch ``view``."""
        settings = self.settings.batches
        with PictureLoader(transform, settings.batch_size, settings.workers) as loader:
            samples = split if part is None else split[part.start : part.stop]
            yield from loader.epoch(samples, seed=settings.seed, epoch=view)

    def _encode_split(
        self,
        name: str,
        split: Sequence[Sample],
        runtime: RuntimeConfig,
        transform: CaptionTrainTransform,
        views: int = 1,
    ) -> FeatureCache | None:
        """The features of a split, computed once; None where they would take too much memory."""
        if name in self._caches:
            return self._caches[name]

        def progress(done: int, total: int) -> None:
            self.report(ProgressUpdate(done, total, f"Encoding {name} pictures once"))

        def encode(batch: Batch) -> list[torch.Tensor]:
            pixels = [self.transform.normalise(each.to(runtime.device)) for each in batch.pixels]
            with torch.no_grad(), autocast(runtime.device, runtime.precision):
                features = self.model.encode_image(pixels)
            values_BDRC = features.values_BDRC.to("cpu", cache_dtype(runtime))
            return [each[:, :rows, :columns] for each, (rows, columns) in zip(values_BDRC, features.grids, strict=True)]

        self.model.backbone.eval()
        loaders = [partial(self._load_view, split, transform, view) for view in range(views)]
        self._caches[name] = encode_once(loaders, encode, len(split), progress)
        return self._caches[name]

    def save(self, run: RunFolder, module: nn.Module) -> None:
        """Write weights, settings and vocabulary."""
        teacher_forcing: Any = module
        model: CaptionModel = teacher_forcing.captioner
        save_captioner_checkpoint(run.path, model, self.input)

    def finalize(self, run: RunFolder, runtime: RuntimeConfig) -> dict[str, Any]:
        """Measure the saved weights, under teacher forcing and by the captions that they give; write captions.csv.

        Returns:
            The content of metrics.json.
        """
        model = load_captioner(str(run.path)).model.to(runtime.device)
        score = self._score(TeacherForcing(model, frozen=True), runtime, range(len(self.data.validation)))
        del model
        captioner = open_captioner(str(run.path), precision=runtime.precision)

        def progress(done: int, total: int) -> None:
            self.report(ProgressUpdate(done, total, "Captioning the validation pictures"))

        samples = self.data.validation
        predictions = greedy_captions(captioner, samples, progress=progress)
        if not predictions.captions:
            raise none_readable(predictions.unreadable)
        run.write("captions.csv", captions_csv(predictions.captions))
        metrics = CaptioningMetrics(
            n=len(samples),
            pieces=score.tokens,
            precision=runtime.precision,
            negative_log_likelihood=score.loss,
            accuracy=score.accuracy,
            scores=score_captions(predictions.captions, samples).to_dict(),
        )
        return metrics.to_dict() | {VOCABULARY_SHA256: file_sha256(run.path / VOCABULARY)}
