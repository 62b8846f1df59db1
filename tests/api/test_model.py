"""What ``vitrine.load`` opened, and results of several pictures, as a notebook uses them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
from PIL import Image

import vitrine
from vitrine.errors import UsageError


@pytest.fixture(scope="module")
def model() -> Any:
    return vitrine.load("vitrine/scenes-tiny", precision="fp32")


@pytest.fixture(scope="module")
def photos() -> list[Image.Image]:
    generator = np.random.default_rng(0)
    return [Image.fromarray(generator.integers(0, 256, (48, 64, 3), dtype=np.uint8)) for _ in range(3)]


def test_a_map_is_tested_at_once_where_that_is_asked_for(model: Any, photos: list[Image.Image]) -> None:
    tested, other = model.explain(photos[0], check=True), model.explain(photos[0])
    assert tested.known_verdict is not None and tested.verdict is tested.known_verdict
    assert other.known_verdict is None


@pytest.mark.parametrize("size", [0, -1, 2.5, "16", True])
@pytest.mark.parametrize("verb", ["predict", "explain", "vitrine.predict", "vitrine.explain", "vitrine.features"])
def test_a_batch_is_a_whole_number_of_pictures(
    verb: str, size: Any, model: Any, photos: list[Image.Image], tmp_path: Path
) -> None:
    call = getattr(vitrine, verb.removeprefix("vitrine.")) if "." in verb else getattr(model, verb)
    where = ((model, photos) if "." in verb else (photos,)) + ((tmp_path / "out",) if "features" in verb else ())
    with pytest.raises(UsageError, match=r"^batch_size = .* cannot be used: expected a whole number, at least 1\.$"):
        call(*where, batch_size=size)


def test_results_are_sequences_of_their_pictures(model: Any, photos: list[Image.Image], tmp_path: Path) -> None:
    answers = vitrine.predict(model, photos, quiet=True)
    assert len(answers) == 3 and list(answers) == list(answers.predictions) and answers[-1] == answers.predictions[2]
    maps = vitrine.explain(model, photos, quiet=True)
    assert len(maps[:2]) == 2 and [each.name for each in maps] == ["picture-0", "picture-1", "picture-2"]

    features = vitrine.features(model, photos, tmp_path / "features", quiet=True)
    assert repr(features).startswith("<FeaturesResult: 3 figures in ") and "array" not in repr(features[0])
    assert list(features.to_pandas()["filename"]) == [each.name for each in features]
    assert "data:image/png" in features._repr_html_() and "variance along the components" in features._repr_html_()
    assert isinstance(maps.to_pandas(), pandas.DataFrame)


def test_a_table_that_was_written_is_no_empty_sequence(model: Any, photos: list[Image.Image], tmp_path: Path) -> None:
    written = vitrine.predict(model, photos, tmp_path / "predictions.csv", quiet=True)
    assert bool(written) and len(written.to_pandas()) == 3
    for ask in (len, list, lambda result: result[0]):
        with pytest.raises(UsageError, match=r"were written to .*predictions\.csv: read that"):
            ask(written)
