"""Automatic recipe fields of one training: what the rules read of its data, model and device, and their choices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from accelerate import PartialState

from vitrine.config import Recipe
from vitrine.config.recipe_rules import Choice, TrainingFacts, choose
from vitrine.io.files import to_json
from vitrine.models.load import measure_architecture
from vitrine.models.reference import ModelReference
from vitrine.runs.environment import device_memory_bytes
from vitrine.runs.folder import RunFolder
from vitrine.train.data import TrainingData, epoch_pictures
from vitrine.train.distributed import ProcessGroup, partial_state_arguments

CHOICES = "choices.json"
"""File of a run: what the rules chose, and why; absent where every setting was a person's or a recipe's."""


def resolve_automatic(
    recipe: Recipe, data: TrainingData, model: ModelReference, processes: ProcessGroup
) -> tuple[Recipe, tuple[Choice, ...]]:
    """The recipe without automatic fields, and what the rules chose; as it is where it has none.

    Every process that trains gets what the main one found out.

    Raises:
        ModelError: the model cannot be built.
    """
    if not recipe.automatic:
        return recipe, ()

    def facts() -> TrainingFacts:
        sizes = measure_architecture(model, recipe.model_args, recipe.image_size)
        return TrainingFacts(
            pictures=epoch_pictures(data.train, recipe.epoch_size),
            classes=len(data.source.labels),
            width=sizes.width,
            depth=sizes.depth,
            tokens=sizes.tokens,
            is_pretrained=recipe.pretrained is not False,
            is_multi_label=data.source.is_multi_label,
            memory_bytes=device_memory_bytes(PartialState(**partial_state_arguments()).device),
            processes=processes.count,
        )

    return choose(recipe, processes.broadcast_from_main(facts))


def save_choices(run: RunFolder, choices: Sequence[Choice]) -> None:
    """Write the choices into a run that is about to start; nothing where there are none."""
    if choices:
        rows: list[dict[str, Any]] = [choice.to_dict() for choice in choices]
        run.write(CHOICES, to_json(rows))
