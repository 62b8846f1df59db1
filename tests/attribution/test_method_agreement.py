"""How alike methods' maps are, and whether their order changes with what hides a patch."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.stats import spearmanr

from vitrine.attribution.method_agreement import agreement_of, order_notes
from vitrine.attribution.ranking import ScoredMethod


def test_agreement_is_the_mean_rank_correlation_of_maps_of_one_picture() -> None:
    rng = np.random.default_rng(0)
    maps = {name: rng.integers(0, 6, (5, 3, 4)).astype(float) for name in "abc"}  # with ties
    maps["d"] = -maps["a"]
    agreement = agreement_of(maps)
    for i, one in enumerate(maps):
        for j, two in enumerate(maps):
            expected = np.mean([spearmanr(maps[one][p].ravel(), maps[two][p].ravel()).statistic for p in range(5)])
            assert agreement.correlation_MM[i, j] == pytest.approx(expected, abs=1e-12)
    assert agreement.correlation_MM[0, 3] == pytest.approx(-1)


def test_a_map_without_an_order_does_not_count() -> None:
    rng = np.random.default_rng(1)
    maps = {"a": rng.random((2, 2, 3)), "b": rng.random((2, 2, 3)), "blank": np.zeros((2, 2, 3))}
    maps["b"][0] = 1.0
    agreement = agreement_of(maps)
    assert agreement.correlation_MM[0, 1] == pytest.approx(
        spearmanr(maps["a"][1].ravel(), maps["b"][1].ravel()).statistic
    )
    assert np.isnan(agreement.correlation_MM[2]).all()
    content = json.loads(json.dumps(agreement.to_dict()))
    assert content["rank_correlation"][2] == [None] * 3 and content["pictures"] == [0, 2]


def scored(name: str, grey: float, blur: float, others: float | None = None) -> ScoredMethod:
    values = {"deletion": np.array([grey, grey]), "deletion_blur": np.array([blur, np.nan])}
    if others is not None:
        values["deletion_others"] = np.array([others, others])
    return ScoredMethod(name, False, values)


def test_a_changed_order_is_said() -> None:
    same, changed = order_notes([scored("a", 0.1, 0.2, 0.9), scored("b", 0.2, 0.3, 0.5), scored("c", 0.3, 0.4, 0.1)])
    assert same == "Methods in the order of deletion with a blur in place of the mean colour: the same."
    assert "with other pictures' patches in place of the mean colour: rank correlation \u22121.00" in changed or (
        "with other pictures' patches in place of the mean colour: rank correlation -1.00" in changed
    )
    assert changed.endswith("the best is c, not a; a moves farthest, from place 1 to 3.")
    (kept_best,) = order_notes([scored("a", 0.1, 0.2), scored("b", 0.2, 0.5), scored("c", 0.3, 0.4)])
    assert "rank correlation 0.50; the best stays; b moves farthest, from place 2 to 3." in kept_best
    assert order_notes([scored("a", 0.1, 0.2)]) == []
    assert order_notes([ScoredMethod(name, False, {"deletion": np.ones(2)}) for name in "ab"]) == []
