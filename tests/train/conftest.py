"""Finished trainings that several tests start from or compare with: each is trained once in a session."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from vitrine.config import Recipe, recipe_to_toml
from vitrine.train.run import train


@pytest.fixture(scope="session")
def train_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path, Recipe], Path]:
    """Data and a recipe to the folder of a finished run, which no test may change."""
    folder, runs = tmp_path_factory.mktemp("finished"), dict[tuple[Path, str], Path]()

    def run_of(data: Path, recipe: Recipe) -> Path:
        key = (data, recipe_to_toml(recipe))
        if key not in runs:
            runs[key] = train(str(data), recipe, folder / str(len(runs))).run
        return runs[key]

    return run_of
