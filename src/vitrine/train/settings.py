"""What each part of a training reads of its recipe: small groups of recipe fields, made here and nowhere else.

The fields have the names of the recipe's, which :class:`vitrine.config.Recipe` explains.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Self

from vitrine.config import Recipe, TransformSpec


class _FromRecipe:
    """A dataclass all of whose fields are fields of the recipe."""

    @classmethod
    def from_recipe(cls, recipe: Recipe) -> Self:
        """The recipe's values of these fields."""
        return cls(**{field.name: getattr(recipe, field.name) for field in fields(cls)})  # type: ignore[arg-type]


@dataclass(frozen=True)
class LoopSettings(_FromRecipe):
    """The training loop: how many epochs, and what one optimizer step is."""

    epochs: int
    accumulate: int
    learning_rate: float
    clip_norm: float
    mix_off_epochs: int
    seed: int


@dataclass(frozen=True)
class OptimizerSettings(_FromRecipe):
    """The optimizer and its parameter groups."""

    optimizer: str
    learning_rate: float
    weight_decay: float
    beta2: float
    layer_decay: float


@dataclass(frozen=True)
class ScheduleSettings(_FromRecipe):
    """The learning rate over the steps of a training."""

    learning_rate: float
    epochs: int
    warmup_epochs: float
    final_lr_ratio: float


@dataclass(frozen=True)
class LossSettings(_FromRecipe):
    """A classifier's loss and its targets."""

    class_weights: str
    label_smoothing: float
    mixup: float
    cutmix: float

    @property
    def mixes(self) -> bool:
        """Whether pictures and their targets are mixed in pairs."""
        return bool(self.mixup or self.cutmix)


@dataclass(frozen=True)
class DataSettings(_FromRecipe):
    """How data are opened, split and read once before a training."""

    loss: str
    seed: int
    val_fraction: float
    max_unreadable: float
    workers: int


@dataclass(frozen=True)
class BatchSettings(_FromRecipe):
    """How pictures become the batches of an epoch."""

    transforms: TransformSpec
    batch_size: int
    accumulate: int
    epoch_size: int
    shuffle_buffer: int
    sampling: str
    views: int
    decoded_cache: float
    max_unreadable: float
    workers: int
    seed: int

    def view(self, epoch: int) -> int:
        """Which version of the pictures an epoch (from 0) takes, as the epoch whose random changes they get.

        With ``views`` they take turns. Without, every epoch has its own, or all have the first where nothing is random.
        """
        if self.views:
            return epoch % self.views
        return epoch if self.transforms.is_random else 0


@dataclass(frozen=True)
class ModelSettings(_FromRecipe):
    """The model that a training starts from, and which of its parameters are trained."""

    model: str
    pretrained: bool | str
    image_size: int
    model_args: Mapping[str, object]
    drop_path: float
    patch_drop: float
    tune: str


@dataclass(frozen=True)
class TrainerSettings(_FromRecipe):
    """What the trainer does around the loop: precision, moving average, checkpoints, early stopping and trackers."""

    precision: str
    compile: bool
    ema: float
    early_stopping: int
    checkpoint_minutes: float
    trackers: str
    seed: int

    @property
    def tracker_names(self) -> list[str]:
        """The trackers of accelerate, such as tensorboard."""
        return [name.strip() for name in self.trackers.split(",") if name.strip()]


@dataclass(frozen=True)
class TaskSettings:
    """What a classifier's and a captioner's training have in common: model, batches, loss and optimizer."""

    model: ModelSettings
    batches: BatchSettings
    loss: LossSettings
    optimizer: OptimizerSettings

    @classmethod
    def from_recipe(cls, recipe: Recipe) -> TaskSettings:
        """The recipe's values."""
        return cls(
            ModelSettings.from_recipe(recipe),
            BatchSettings.from_recipe(recipe),
            LossSettings.from_recipe(recipe),
            OptimizerSettings.from_recipe(recipe),
        )
