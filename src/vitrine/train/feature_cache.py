"""Features of a frozen image encoder: computed once, and read in every epoch in place of the pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from vitrine.classify.inference import BatchLogits, eval_batches, known_labels
from vitrine.config.preprocessing import InputSpec
from vitrine.config.recipe import invalid_value
from vitrine.data.batch_plan import BatchShard, batch_count, epoch_order
from vitrine.data.loader import Batch, PictureLoader, normalise
from vitrine.data.samples import Sample
from vitrine.data.transforms import TrainTransform
from vitrine.io.limits import limit
from vitrine.models.finetune import LinearProbe, is_stochastic, linear_head
from vitrine.models.precision import autocast
from vitrine.results import Progress, count_of
from vitrine.train.data import TrainingData
from vitrine.train.events import Event, ProgressUpdate
from vitrine.train.losses import FeatureBatch
from vitrine.train.settings import BatchSettings, LossSettings
from vitrine.train.task import RuntimeConfig

MAX_CACHE_BYTES = limit("MAX_CACHE_BYTES", 4 << 30)
"""Bytes of the features that a frozen model's training keeps; more are computed anew in every epoch."""


@dataclass(frozen=True)
class CachedBatch:
    """The cached tensors of one process's part of a batch.

    Attributes:
        indices: positions of the pictures in their data.
        values: the tensor of each.
        is_dummy: the pictures only let this process take part in a step; they count nowhere.
    """

    indices: list[int]
    values: list[Tensor]
    is_dummy: bool


class FeatureCache:
    """One tensor for each picture and view, on the CPU; a view is one version of all pictures under random changes.

    Tensors of the first one's shape lie in one large tensor, others by themselves.

    Args:
        pictures: how many there are.
        views: versions of each.
    """

    def __init__(self, pictures: int, views: int = 1) -> None:
        self._pictures = pictures
        self._rows: Tensor | None = None
        self._is_filled = torch.zeros(pictures * views, dtype=torch.bool)
        self._other_shapes: dict[int, Tensor] = {}

    @property
    def count(self) -> int:
        """How many tensors were added."""
        return int(self._is_filled.sum())

    def add(self, view: int, index: int, value: Tensor) -> None:
        """Keep a copy of one picture's tensor."""
        if self._rows is None:
            self._rows = torch.empty((len(self._is_filled), *value.shape), dtype=value.dtype)
        row = view * self._pictures + index
        if value.shape == self._rows.shape[1:]:
            self._rows[row] = value
        else:
            self._other_shapes[row] = value.to("cpu", copy=True)
        self._is_filled[row] = True

    def has(self, view: int, index: int) -> bool:
        """Whether the picture could be read when its features were computed."""
        return bool(self._is_filled[view * self._pictures + index])

    def get(self, view: int, indices: Sequence[int]) -> list[Tensor]:
        """The tensors of pictures, all of which :meth:`has`."""
        assert self._rows is not None
        rows = [view * self._pictures + index for index in indices]
        return [self._other_shapes[row] if row in self._other_shapes else self._rows[row] for row in rows]

    def batches(
        self,
        settings: BatchSettings,
        epoch: int,
        start: int,
        shard: BatchShard,
        weights_N: npt.NDArray[np.float64] | None = None,
    ) -> Iterator[CachedBatch]:
        """This process's parts of an epoch's batches from ``start`` on, of the pictures that a loader would give.

        ``weights_N`` says how often each picture comes, as :func:`~vitrine.data.batch_plan.epoch_order` has it.
        """
        seed, pictures = settings.seed, self._pictures
        order = epoch_order(pictures, seed=seed, epoch=epoch, shuffle=True, weights_N=weights_N).tolist()
        size, view = settings.batch_size, settings.view(epoch)
        for number in range(start, batch_count(self._pictures, size)):
            batch = order[number * size : (number + 1) * size]
            positions, is_dummy = shard.positions_or_dummy(len(batch))
            indices = [batch[position] for position in positions if self.has(view, batch[position])]
            yield CachedBatch(indices, self.get(view, indices), is_dummy)


def check_views(views: int, endless: bool) -> None:
    """Refuse ``views`` of a stream, whose pictures have no number by which a version could be found again.

    Raises:
        RecipeError: ``views`` is set and training pictures come in a stream.
    """
    if views and endless:
        raise invalid_value("views", views, "0, as these training pictures come in a stream")


def cache_dtype(runtime: RuntimeConfig) -> torch.dtype:
    """The dtype that features are stored in: that of the matrix products which read them, so that nothing is lost."""
    return torch.bfloat16 if runtime.precision == "bf16" else torch.float32


def encode_once(
    views: Sequence[Callable[[], Iterable[Any]]],
    encode: Callable[[Any], Sequence[Tensor]],
    pictures: int,
    progress: Progress,
) -> FeatureCache | None:
    """Run an image encoder over all views of all pictures once.

    Args:
        views: for each, a function that returns its batches, which have ``indices_B``.
        encode: gives a tensor for each picture of a batch.
        pictures: how many there are.
        progress: called with tensors done, of how many.

    Returns:
        None where the first batch shows that the features would take more than ``MAX_CACHE_BYTES``.
    """
    cache, total = FeatureCache(pictures, len(views)), pictures * len(views)
    done = 0
    for view, batches in enumerate(views):
        for batch in batches():
            values = encode(batch) if len(batch.indices_B) else ()
            if len(values) and total * values[0].nbytes > MAX_CACHE_BYTES:
                return None
            for index, value in zip(batch.indices_B.tolist(), values, strict=True):
                cache.add(view, index, value)
            done += len(values)
            progress(done, total)
    return cache


_ROWS_AT_ONCE = 4096
_FLOAT32_BYTES = 4


def make_linear_probe(module: nn.Module, image_size: tuple[int, int], tune: str) -> LinearProbe | None:
    """The model's head beside the frozen model, where ``tune`` trains nothing else and it has one linear head."""
    head = linear_head(module, image_size) if tune == "head" else None
    return None if head is None else LinearProbe(module, head)


def can_cache(probe: LinearProbe, data: TrainingData, batches: BatchSettings, loss: LossSettings) -> tuple[bool, str]:
    """Whether the features of a training can be computed once, and a note that says so or why not.

    The answer depends on the recipe and the data alone, so that a resumed training gets the same one.
    """
    again = "The frozen model is run over all pictures in every epoch, since"
    if data.train.endless:
        return False, f"{again} training pictures come in a stream."
    if batches.transforms.is_random and not batches.views:
        return False, f"{again} they change at random; views = N computes features of N versions of each once."
    if loss.mixes:
        return False, f"{again} mixup and cutmix mix their pixels."
    if is_stochastic(probe.model):
        return False, f"{again} it drops parts at random (drop_path, patch_drop, model_args)."
    assert isinstance(probe.head, nn.Linear)
    views = batches.views or 1
    size = (views * len(data.train) + len(data.validation)) * probe.head.in_features * _FLOAT32_BYTES
    if size > MAX_CACHE_BYTES:
        limit = f"{MAX_CACHE_BYTES / 2**30:.3g} GiB are kept"
        return False, f"{again} their features would take {size / 2**30:.3g} GiB, and up to {limit}."
    of = f"{views} versions of " if views > 1 else ""
    pictures = f"{of}{count_of(len(data.train), 'training picture')}"
    return True, f"Features of {pictures} are computed once and kept: up to {size / 2**20:.1f} MiB of memory."


class LinearProbeFeatures:
    """What a linear probe trains and is validated on: the frozen model's features, computed when first asked for.

    Args:
        probe: the head and the frozen model beside it.
        data: training and validation pictures.
        settings: of the batches.
        spec: of the model's input.
        report: called with the progress of computing features.
        weights_N: how often each training picture comes; None takes every one once in an epoch.
    """

    def __init__(
        self,
        probe: LinearProbe,
        data: TrainingData,
        settings: BatchSettings,
        spec: InputSpec,
        report: Callable[[Event], None],
        weights_N: npt.NDArray[np.float64] | None = None,
    ) -> None:
        self._probe, self._data, self._settings, self._spec, self._report = probe, data, settings, spec, report
        self._caches: dict[str, FeatureCache] = {}
        self._labels = torch.from_numpy(known_labels(data.train))
        self._label_sets = [sample.label_set for sample in data.train]
        self._weights_N = weights_N

    def batches(self, runtime: RuntimeConfig, epoch: int, start: int) -> Iterator[FeatureBatch]:
        """The batches of an epoch that a loader would give, with features in place of pictures."""
        views = [partial(self._load_view, view) for view in range(self._settings.views or 1)]
        cache = self._cache("training", runtime, views)
        shard = runtime.processes.batch_shard()
        for batch in cache.batches(self._settings, epoch, start, shard, self._weights_N):
            labels_B, indices_B = self._labels[batch.indices], torch.tensor(batch.indices)
            label_sets = tuple(self._label_sets[index] for index in batch.indices)
            yield FeatureBatch(torch.stack(batch.values), labels_B, indices_B, batch.is_dummy, label_sets)

    def outputs(self, module: nn.Module, runtime: RuntimeConfig, part: range) -> list[BatchLogits]:
        """Logits of a part of the validation pictures, without those that could not be read."""
        samples = self._data.validation
        cache = self._cache("validation", runtime, [partial(self._load_unaugmented, samples)])
        readable = [index for index in part if cache.has(0, index)]
        parts = []
        for first in range(0, len(readable), _ROWS_AT_ONCE):
            indices = readable[first : first + _ROWS_AT_ONCE]
            features_BD = torch.stack(cache.get(0, indices)).to(runtime.device)
            with torch.inference_mode(), autocast(runtime.device, runtime.precision):
                logits_BC = module(features_BD).float().cpu().numpy()
            parts.append(BatchLogits(tuple(samples[index] for index in indices), logits_BC))
        return parts

    def _cache(
        self, split: str, runtime: RuntimeConfig, views: Sequence[Callable[[], Iterator[Batch]]]
    ) -> FeatureCache:
        if split not in self._caches:
            model = self._probe.model
            was_training = model.training
            model.eval()
            count = len(self._data.train if split == "training" else self._data.validation)
            cache = encode_once(views, partial(self._encode, runtime), count, partial(self._progress, split))
            model.train(was_training)
            assert cache is not None, "can_cache() bounded its size"
            self._caches[split] = cache
        return self._caches[split]

    def _encode(self, runtime: RuntimeConfig, batch: Batch) -> list[Tensor]:
        with torch.no_grad(), autocast(runtime.device, runtime.precision, logits_of=self._probe.model):
            pixels_BCHW = normalise(batch.pixels_BCHW.to(runtime.device), self._spec.mean, self._spec.std)
            features_BD = self._probe.features(pixels_BCHW)
        return list(features_BD.to("cpu", cache_dtype(runtime)))

    def _load_view(self, view: int) -> Iterator[Batch]:
        """The training pictures in order, with the random changes of the epoch ``view``."""
        settings = self._settings
        transform = TrainTransform(settings.transforms, self._spec.size)
        samples = self._data.train.for_epoch(0, settings.epoch_size)
        with PictureLoader(transform, max(32, settings.batch_size), settings.workers) as loader:
            yield from loader.epoch(samples, seed=settings.seed, epoch=view)

    def _load_unaugmented(self, samples: tuple[Sample, ...]) -> Iterator[Batch]:
        settings = self._settings
        return eval_batches(samples, self._spec, batch_size=max(32, settings.batch_size), workers=settings.workers)

    def _progress(self, split: str, done: int, total: int) -> None:
        self._report(ProgressUpdate(done, total, f"Computing features of {split} pictures once"))
