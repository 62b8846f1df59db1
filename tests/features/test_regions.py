"""k-means and the adjusted Rand index held against scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score

from vitrine.features import regions
from vitrine.features.regions import adjusted_rand_index, assign, fit_centres


def test_the_index_is_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    for groups in (1, 2, 3, 7):
        for others in (1, 2, 5):
            labels, inside = rng.integers(groups, size=(6, 5)), rng.integers(others, size=(6, 5))
            expected = adjusted_rand_score(labels.ravel(), inside.ravel())
            assert adjusted_rand_index(labels, inside) == pytest.approx(expected)
    assert adjusted_rand_index([0, 0, 1, 1], [5, 5, 3, 3]) == 1
    assert adjusted_rand_index([3], [0]) == 1


def test_random_groups_agree_with_nothing_on_average() -> None:
    rng = np.random.default_rng(1)
    inside = rng.random((8, 8)) < 0.3
    indices = [adjusted_rand_index(rng.integers(4, size=(8, 8)), inside) for _ in range(400)]
    assert abs(np.mean(indices)) < 0.01


@pytest.mark.parametrize(("labels", "inside"), [([], []), ([1, 2], [1, 2, 3])])
def test_groupings_of_other_patches_are_refused(labels: list[int], inside: list[int]) -> None:
    with pytest.raises(ValueError, match="same patches"):
        adjusted_rand_index(labels, inside)


def test_clear_groups_are_found_the_largest_first() -> None:
    rng = np.random.default_rng(2)
    middles = np.array([[0, 0], [10, 0], [0, 10]], dtype=np.float32)
    truth = np.repeat([0, 1, 2], [20, 60, 40])
    tokens_ND = (middles[truth] + rng.normal(0, 0.5, (120, 2))).astype(np.float32)
    centres = fit_centres(tokens_ND, 3, seed=0)
    labels = assign(tokens_ND, centres)
    assert adjusted_rand_index(labels, truth) == 1
    assert np.bincount(labels).tolist() == [60, 40, 20]
    assert np.array_equal(centres, fit_centres(tokens_ND, 3, seed=0))


def test_what_remains_is_as_little_as_scikit_learn_finds() -> None:
    tokens_ND = np.random.default_rng(3).normal(size=(300, 8)).astype(np.float32)
    centres = fit_centres(tokens_ND, 5, seed=1)
    remaining = ((tokens_ND - centres[assign(tokens_ND, centres)]) ** 2).sum()
    reference = KMeans(5, n_init=10, random_state=0).fit(tokens_ND).inertia_
    assert remaining < 1.02 * reference


def test_fewer_patches_than_groups_have_a_group_each() -> None:
    tokens_ND = np.array([[1, 1], [2, 2], [1, 1]], dtype=np.float32)
    centres = fit_centres(tokens_ND, 4)
    assert centres.tolist() == [[1, 1], [2, 2]]
    assert assign(tokens_ND.reshape(3, 1, 2), centres).tolist() == [[0], [1], [0]]


def test_many_patches_are_drawn_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regions, "FITTED_PATCHES", 50)
    tokens_ND = np.random.default_rng(4).normal(size=(400, 3)).astype(np.float32)
    assert np.array_equal(fit_centres(tokens_ND, 2, seed=5), fit_centres(tokens_ND, 2, seed=5))
    assert not np.array_equal(fit_centres(tokens_ND, 2, seed=5), fit_centres(tokens_ND, 2, seed=6))
