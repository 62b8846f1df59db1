"""The recipe that a run was begun with, without loading anything heavy."""

from __future__ import annotations

from pathlib import Path

from vitrine.errors import RunError
from vitrine.recipes import Recipe, recipe_from_toml


def recipe_of_run(folder: Path) -> Recipe:
    """The resolved recipe of a run folder.

    Raises:
        RunError: there is none to resume.
    """
    path = folder / "recipe.toml"
    if not path.is_file():
        raise RunError(f"{folder} holds no run to resume: it has no recipe.toml. Start one with --recipe NAME.")
    return recipe_from_toml(path.read_text("utf-8"), folder.name)
