"""Recipes: frozen settings with a name, checked once."""

from vitrine.config.load import available_recipes, load_recipe, override, recipe_from_toml, recipe_to_toml
from vitrine.config.recipe import CaptionSpec, Recipe, TransformSpec, available_transforms, named_transforms
from vitrine.config.recipe_rules import DEFAULT_RECIPE

__all__ = [
    "DEFAULT_RECIPE",
    "CaptionSpec",
    "Recipe",
    "TransformSpec",
    "available_recipes",
    "available_transforms",
    "load_recipe",
    "named_transforms",
    "override",
    "recipe_from_toml",
    "recipe_to_toml",
]
