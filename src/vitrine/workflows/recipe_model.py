"""The model that a recipe asks for, and what it wants to see."""

from __future__ import annotations

from dataclasses import replace

from vitrine.models.build import BuiltModel, InputSpec, build
from vitrine.recipes import Recipe


def build_for(recipe: Recipe, classes: int) -> BuiltModel:
    """The recipe's model with a head for this many classes; see ``vitrine.models.build.build``."""
    return build(
        recipe.model,
        pretrained=recipe.pretrained,
        num_classes=classes,
        image_size=recipe.image_size,
        model_args=recipe.model_args,
        drop_path=recipe.drop_path,
        patch_drop=recipe.patch_drop,
    )


def input_of(built: BuiltModel, recipe: Recipe) -> InputSpec:
    """The model's own input, with what the recipe's transforms say instead."""
    own, wanted = built.input, recipe.transforms
    return replace(own, mean=wanted.mean or own.mean, std=wanted.std or own.std, crop=wanted.eval_crop)
