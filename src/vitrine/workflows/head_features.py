"""Training a classifier on the features of a model that is frozen: computed once for each version of each picture.

Axes: B pictures, C classes, D features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
from torch import nn

from vitrine.data.batch import Batch
from vitrine.data.loading import PictureLoader, normalise
from vitrine.data.samples import Sample
from vitrine.data.transforms import TrainTransform
from vitrine.evaluate.outputs import Outputs
from vitrine.models.build import BuiltModel, InputSpec
from vitrine.models.class_token import class_token_alone
from vitrine.models.pooled import HeadOnFrozen, draws_at_random, one_head
from vitrine.models.precision import autocast
from vitrine.recipes import Recipe
from vitrine.train.objective import FeatureBatch
from vitrine.workflows import kept_features
from vitrine.workflows.inference import eval_batches
from vitrine.workflows.kept_features import KeptFeatures, keep_features, stored_dtype, view_of
from vitrine.workflows.training_data import TrainingData
from vitrine.workflows.training_events import Event, Reading
from vitrine.workflows.training_task import Setting

_ROWS_AT_ONCE = 4096
_FLOAT32 = 4  # bytes


def frozen_head(built: BuiltModel, size: int, recipe: Recipe) -> HeadOnFrozen | None:
    """The classifier beside its frozen model, where ``tune`` trains nothing else and the model has one classifier."""
    head = one_head(built.module, size) if recipe.tune == "head" else None
    return None if head is None else HeadOnFrozen(built.module, head)


def reuse(model: HeadOnFrozen, data: TrainingData, recipe: Recipe) -> tuple[bool, str]:
    """Whether features can be computed once, and a sentence for a person; a function of recipe and data alone."""
    again = "The frozen model is run over all pictures in every epoch, since"
    if data.train.endless:
        return False, f"{again} training pictures come in a stream."
    if recipe.transforms.random and not recipe.views:
        return False, f"{again} they change at random; views = N computes features of N versions of each once."
    if recipe.mixup or recipe.cutmix:
        return False, f"{again} mixup and cutmix mix their pixels."
    if draws_at_random(model.whole):
        return False, f"{again} it drops parts at random (drop_path, patch_drop, model_args)."
    assert isinstance(model.head, nn.Linear)
    versions = recipe.views or 1
    size = (versions * len(data.train) + len(data.validation)) * model.head.in_features * _FLOAT32
    if size > kept_features.KEPT_BYTES:
        limit = f"{kept_features.KEPT_BYTES / 2**30:.3g} GiB are kept"
        return False, f"{again} their features would take {size / 2**30:.3g} GiB, and up to {limit}."
    of = f"{versions} versions of " if versions > 1 else ""
    pictures = f"{of}{len(data.train):,} training pictures"
    return True, f"Features of {pictures} are computed once and kept: up to {size / 2**20:.1f} MiB of memory."


class HeadFeatures:
    """The features of a training, computed when they are first asked for."""

    def __init__(
        self,
        model: HeadOnFrozen,
        data: TrainingData,
        recipe: Recipe,
        spec: InputSpec,
        report: Callable[[Event], None],
    ) -> None:
        self._model, self._data, self._recipe, self._spec, self._report = model, data, recipe, spec, report
        self._kept: dict[str, KeptFeatures] = {}
        labels = [-1 if each.label is None else each.label for each in data.train]
        self._labels = torch.tensor(labels, dtype=torch.int64)

    def batches(self, setting: Setting, epoch: int, start: int) -> Iterator[FeatureBatch]:
        """The batches of an epoch that a loader would give, their pictures' features in their place."""
        recipe = self._recipe
        kept = self._of("training", setting, [partial(self._version, view) for view in range(recipe.views or 1)])
        view = view_of(recipe, recipe.transforms.random, epoch)
        for indices, values, lent in kept.batches(recipe, epoch, start, view, setting.processes.share()):
            yield FeatureBatch(torch.stack(values), self._labels[indices], torch.tensor(indices), lent)

    def outputs(self, module: nn.Module, setting: Setting, part: range) -> Outputs:
        """What the classifier says of a part of the validation pictures."""
        samples = self._data.validation
        kept = self._of("validation", setting, [partial(self._plain, samples)])
        there = [index for index in part if kept.has(0, index)]
        parts = []
        for first in range(0, len(there), _ROWS_AT_ONCE):
            features_BD = torch.stack(kept(0, there[first : first + _ROWS_AT_ONCE])).to(setting.device)
            with torch.inference_mode(), autocast(setting.device, setting.precision):
                parts.append(module(features_BD).float().cpu().numpy())
        labels = [samples[index].label for index in there]
        return Outputs(
            tuple(samples[index].name for index in there),
            np.concatenate(parts),
            np.array([-1 if label is None else label for label in labels], dtype=np.int64),
        )

    def _of(self, what: str, setting: Setting, passes: list[Callable[[], Iterator[Batch]]]) -> KeptFeatures:
        if what not in self._kept:
            model = self._model.whole
            was_training = model.training
            model.eval()
            count = len(self._data.train if what == "training" else self._data.validation)
            found = keep_features(passes, partial(self._see, setting), count, partial(self._progress, what))
            model.train(was_training)
            assert found is not None, "reuse() bounded their size"
            self._kept[what] = found
        return self._kept[what]

    def _see(self, setting: Setting, batch: Batch) -> list[torch.Tensor]:
        with torch.no_grad(), autocast(setting.device, setting.precision):
            pixels_BCHW = normalise(batch.pixels_BCHW.to(setting.device), self._spec.mean, self._spec.std)
            with class_token_alone(self._model.whole):
                features_BD = self._model.features(pixels_BCHW)
        return list(features_BD.to("cpu", stored_dtype(setting)))

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
        self._report(Reading(done, total, f"Computing features of {what} pictures once"))
