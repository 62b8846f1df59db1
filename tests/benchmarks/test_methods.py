"""The benchmark of methods: intervals that are corrected for the number of rows, and its table without masks."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from scipy.stats import ttest_1samp
from support.paths import CHECKOUT

BENCHMARKS = CHECKOUT / "benchmarks"


@pytest.fixture(scope="module")
def methods() -> Iterator[ModuleType]:
    """The script, as where it runs."""
    sys.path.insert(0, str(BENCHMARKS))
    import methods

    yield methods
    sys.path.remove(str(BENCHMARKS))


@pytest.mark.parametrize("rows", [1, 7, 17])
def test_a_corrected_mean_is_students_interval(methods: ModuleType, rows: int) -> None:
    values_P = np.random.default_rng(rows).normal(0.1, 0.3, 24)
    low, high = ttest_1samp(values_P, 0).confidence_interval(1 - 0.05 / rows)
    text = methods.corrected_mean(np.append(values_P, np.nan), rows)
    assert text == f"{low:.2f} to {high:.2f}".replace("-", "−")


def test_the_table_without_masks_has_a_corrected_interval_in_every_row(
    methods: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = methods.ScoreSettings
    monkeypatch.setattr(methods, "ScoreSettings", lambda **each: settings(methods=("attention",), fillers=(), **each))
    data = "scenes:base?train=1&validation=1&test=2&seed=1"
    monkeypatch.setattr(methods, "FAITHFULNESS", ("gap", "deletion"))
    head, _, *rows = methods.score_without_masks(2, "vitrine/scenes-tiny", data, "test", tmp_path).splitlines()
    assert head.count("|") == rows[0].count("|") and head.endswith("corrected |")
    names = [row.split("|")[1].strip(" *") for row in rows]
    assert names[0] == "attention" and len(names) == 5 and "random (control)" in names
    assert all(" to " in row.split("|")[-2] for row in rows)
    assert (tmp_path / "methods.json").is_file()
