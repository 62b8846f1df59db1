"""The groups of recipe fields that the parts of a training get in place of the recipe."""

from dataclasses import fields

import pytest
from support.training import FULL, recipe

from vitrine.train import settings
from vitrine.train.settings import TaskSettings

GROUPS = [
    settings.LoopSettings,
    settings.OptimizerSettings,
    settings.ScheduleSettings,
    settings.LossSettings,
    settings.DataSettings,
    settings.BatchSettings,
    settings.ModelSettings,
    settings.TrainerSettings,
]


@pytest.mark.parametrize("group", GROUPS)
def test_a_group_has_the_values_of_the_recipe(group: type) -> None:
    full = recipe(**FULL, seed=3, trackers="tensorboard", views=2)
    values = group.from_recipe(full)  # type: ignore[attr-defined]
    assert {field.name: getattr(values, field.name) for field in fields(group)} == {
        field.name: getattr(full, field.name) for field in fields(group)
    }


def test_a_task_gets_model_batches_loss_and_optimizer() -> None:
    full = recipe(**FULL, tune="last:1")
    task = TaskSettings.from_recipe(full)
    assert (task.model.tune, task.batches.accumulate, task.loss.mixup) == ("last:1", full.accumulate, full.mixup)
    assert task.optimizer.learning_rate == full.learning_rate and task.loss.mixes


def test_trackers_are_separated_by_commas() -> None:
    assert settings.TrainerSettings.from_recipe(recipe(trackers="tensorboard, wandb,")).tracker_names == [
        "tensorboard",
        "wandb",
    ]
