"""Features of an image encoder that is not trained: computed once, kept for every epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from vitrine.classify.inference import BatchLogits, eval_batches, join_logits, known_labels
from vitrine.config import Recipe
from vitrine.config.preprocessing import InputSpec
from vitrine.config.recipe import refuse
from vitrine.data.loader import Batch, BatchShard, PictureLoader, batch_count, epoch_order, normalise
from vitrine.data.samples import Sample
from vitrine.data.transforms import TrainTransform
from vitrine.metrics.classification import LabelledLogits
from vitrine.models.finetune import LinearProbe, is_stochastic, linear_head
from vitrine.models.load import LoadedModel
from vitrine.models.precision import autocast, class_token_alone
from vitrine.results import Progress
from vitrine.train.data import TrainingData
from vitrine.train.events import Event, ProgressUpdate
from vitrine.train.losses import FeatureBatch
from vitrine.train.task import RuntimeConfig

MAX_CACHE_BYTES = 4 << 30  # features are kept up to here, and computed every epoch beyond


class FeatureCache:
    """Tensors of pictures, on the CPU, by version (view) and position.

    Those of the first one's shape lie in one tensor, others by themselves.

    Args:
        pictures: how many there are.
        views: versions of each.
    """

    def __init__(self, pictures: int, views: int = 1) -> None:
        self._pictures, self._views = pictures, views
        self._rows: Tensor | None = None
        self._there = torch.zeros(pictures * views, dtype=torch.bool)
        self._others: dict[int, Tensor] = {}

    @property
    def count(self) -> int:
        """Tensors that are there."""
        return int(self._there.sum())

    def add(self, view: int, index: int, value: Tensor) -> None:
        """Keep a copy of one picture's tensor."""
        if self._rows is None:
            self._rows = torch.empty((len(self._there), *value.shape), dtype=value.dtype)
        place = view * self._pictures + index
        if value.shape == self._rows.shape[1:]:
            self._rows[place] = value
        else:
            self._others[place] = value.to("cpu", copy=True)
        self._there[place] = True

    def has(self, view: int, index: int) -> bool:
        """Whether the picture could be read when its features were computed."""
        return bool(self._there[view * self._pictures + index])

    def __call__(self, view: int, indices: Sequence[int]) -> list[Tensor]:
        """The tensors of these pictures, all of which are there."""
        assert self._rows is not None
        places = [view * self._pictures + index for index in indices]
        return [self._others[place] if place in self._others else self._rows[place] for place in places]

    def batches(
        self, recipe: Recipe, epoch: int, start: int, view: int, share: BatchShard
    ) -> Iterator[tuple[list[int], list[Tensor], bool]]:
        """Positions and tensors of this process's parts of an epoch's batches from ``start`` on, and whether they are
        only dummies: those that a loader would give."""
        order = epoch_order(self._pictures, seed=recipe.seed, epoch=epoch, shuffle=True).tolist()
        size = recipe.batch_size
        for number in range(start, batch_count(self._pictures, size)):
            whole = order[number * size : (number + 1) * size]
            positions, is_dummy = share.positions_or_dummy(len(whole))
            indices = [whole[position] for position in positions if self.has(view, whole[position])]
            yield indices, self(view, indices), is_dummy


def check_views(recipe: Recipe, endless: bool) -> None:
    """Refuse versions of pictures that have no number of their own.

    Raises:
        RecipeError: ``views`` with training pictures that come in a stream.
    """
    if recipe.views and endless:
        raise refuse("views", recipe.views, "0, as these training pictures come in a stream")


def view_for_epoch(recipe: Recipe, random: bool, epoch: int) -> int:
    """Which version of the pictures an epoch (from 0) takes: the one that the random changes of this epoch give.

    With ``views`` they take turns; without, every epoch has its own, and one that changes nothing at random the first.
    """
    if recipe.views:
        return epoch % recipe.views
    return epoch if random else 0


def cache_dtype(runtime: RuntimeConfig) -> torch.dtype:
    """What features are kept in: that of the products which read them, so that nothing is lost by it."""
    return torch.bfloat16 if runtime.precision == "bf16" else torch.float32


def encode_once(
    passes: Sequence[Callable[[], Iterable[Any]]],
    see: Callable[[Any], Sequence[Tensor]],
    pictures: int,
    progress: Progress,
) -> FeatureCache | None:
    """Run an image encoder over all versions of all pictures once.

    Args:
        passes: one for each version: batches with ``indices_B``.
        see: encodes a batch: a tensor for each of its pictures.
        pictures: how many there are.
        progress: called with tensors done, of how many.

    Returns:
        None where the first batch shows that it would take more than ``MAX_CACHE_BYTES``.
    """
    kept, total = FeatureCache(pictures, len(passes)), pictures * len(passes)
    done = 0
    for view, batches in enumerate(passes):
        for batch in batches():
            values = see(batch) if len(batch.indices_B) else ()
            if len(values) and total * values[0].nbytes > MAX_CACHE_BYTES:
                return None
            for index, value in zip(batch.indices_B.tolist(), values, strict=True):
                kept.add(view, index, value)
            done += len(values)
            progress(done, total)
    return kept


_ROWS_AT_ONCE = 4096
_FLOAT32 = 4  # bytes


def make_linear_probe(built: LoadedModel, size: int, recipe: Recipe) -> LinearProbe | None:
    """The classifier beside its frozen model, where ``tune`` trains nothing else and the model has one classifier."""
    head = linear_head(built.module, size) if recipe.tune == "head" else None
    return None if head is None else LinearProbe(built.module, head)


def plan_feature_cache(model: LinearProbe, data: TrainingData, recipe: Recipe) -> tuple[bool, str]:
    """Whether features can be computed once, and a sentence for a person; a function of recipe and data alone."""
    again = "The frozen model is run over all pictures in every epoch, since"
    if data.train.endless:
        return False, f"{again} training pictures come in a stream."
    if recipe.transforms.random and not recipe.views:
        return False, f"{again} they change at random; views = N computes features of N versions of each once."
    if recipe.mixup or recipe.cutmix:
        return False, f"{again} mixup and cutmix mix their pixels."
    if is_stochastic(model.model):
        return False, f"{again} it drops parts at random (drop_path, patch_drop, model_args)."
    assert isinstance(model.head, nn.Linear)
    versions = recipe.views or 1
    size = (versions * len(data.train) + len(data.validation)) * model.head.in_features * _FLOAT32
    if size > MAX_CACHE_BYTES:
        limit = f"{MAX_CACHE_BYTES / 2**30:.3g} GiB are kept"
        return False, f"{again} their features would take {size / 2**30:.3g} GiB, and up to {limit}."
    of = f"{versions} versions of " if versions > 1 else ""
    pictures = f"{of}{len(data.train):,} training pictures"
    return True, f"Features of {pictures} are computed once and kept: up to {size / 2**20:.1f} MiB of memory."


class LinearProbeFeatures:
    """The features of a training, computed when they are first asked for."""

    def __init__(
        self,
        model: LinearProbe,
        data: TrainingData,
        recipe: Recipe,
        spec: InputSpec,
        report: Callable[[Event], None],
    ) -> None:
        self._model, self._data, self._recipe, self._spec, self._report = model, data, recipe, spec, report
        self._kept: dict[str, FeatureCache] = {}
        self._labels = torch.from_numpy(known_labels(data.train))

    def batches(self, runtime: RuntimeConfig, epoch: int, start: int) -> Iterator[FeatureBatch]:
        """The batches of an epoch that a loader would give, their pictures' features in their place."""
        recipe = self._recipe
        kept = self._of("training", runtime, [partial(self._version, view) for view in range(recipe.views or 1)])
        view = view_for_epoch(recipe, recipe.transforms.random, epoch)
        for indices, values, is_dummy in kept.batches(recipe, epoch, start, view, runtime.processes.batch_shard()):
            yield FeatureBatch(torch.stack(values), self._labels[indices], torch.tensor(indices), is_dummy)

    def outputs(self, module: nn.Module, runtime: RuntimeConfig, part: range) -> LabelledLogits:
        """What the classifier says of a part of the validation pictures."""
        samples = self._data.validation
        kept = self._of("validation", runtime, [partial(self._plain, samples)])
        readable = [index for index in part if kept.has(0, index)]
        parts = []
        for first in range(0, len(readable), _ROWS_AT_ONCE):
            indices = readable[first : first + _ROWS_AT_ONCE]
            features_BD = torch.stack(kept(0, indices)).to(runtime.device)
            with torch.inference_mode(), autocast(runtime.device, runtime.precision):
                logits_BC = module(features_BD).float().cpu().numpy()
            parts.append(BatchLogits(tuple(samples[index] for index in indices), logits_BC))
        return join_logits(parts)

    def _of(self, what: str, runtime: RuntimeConfig, passes: list[Callable[[], Iterator[Batch]]]) -> FeatureCache:
        if what not in self._kept:
            model = self._model.model
            was_training = model.training
            model.eval()
            count = len(self._data.train if what == "training" else self._data.validation)
            found = encode_once(passes, partial(self._see, runtime), count, partial(self._progress, what))
            model.train(was_training)
            assert found is not None, "plan_feature_cache() bounded their size"
            self._kept[what] = found
        return self._kept[what]

    def _see(self, runtime: RuntimeConfig, batch: Batch) -> list[torch.Tensor]:
        with torch.no_grad(), autocast(runtime.device, runtime.precision):
            pixels_BCHW = normalise(batch.pixels_BCHW.to(runtime.device), self._spec.mean, self._spec.std)
            with class_token_alone(self._model.model):
                features_BD = self._model.features(pixels_BCHW)
        return list(features_BD.to("cpu", cache_dtype(runtime)))

    def _version(self, view: int) -> Iterator[Batch]:
        """The training pictures in order, changed as in the epoch ``view``."""
        recipe, changes = self._recipe, TrainTransform(self._recipe.transforms, self._spec.size)
        samples = self._data.train.for_epoch(0, recipe.epoch_size)
        with PictureLoader(changes, max(32, recipe.batch_size), recipe.workers) as loader:
            yield from loader.epoch(samples, seed=recipe.seed, epoch=view)

    def _plain(self, samples: tuple[Sample, ...]) -> Iterator[Batch]:
        recipe = self._recipe
        return eval_batches(samples, self._spec, batch_size=max(32, recipe.batch_size), workers=recipe.workers)

    def _progress(self, what: str, done: int, total: int) -> None:
        self._report(ProgressUpdate(done, total, f"Computing features of {what} pictures once"))
