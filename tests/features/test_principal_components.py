"""Principal components held against scikit-learn's, Otsu's threshold against every cut tried one by one."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.decomposition import PCA

from vitrine.features.principal_components import (
    border_mask,
    colour_range,
    fit_principal_components,
    otsu_threshold,
    to_colours,
)


@pytest.mark.parametrize(
    ("patches", "channels", "offset", "sizes"),
    [
        (200, 12, 0.0, [200]),
        (200, 12, 0.0, [1, 50, 149]),
        (300, 7, 1000.0, [100, 100, 100]),
        (5, 40, 3.0, [2, 3]),
        (64, 3, -50.0, [64]),
    ],
)
def test_components_are_scikit_learns_however_the_patches_come(
    patches: int, channels: int, offset: float, sizes: list[int]
) -> None:
    rng = np.random.default_rng(patches)
    tokens_ND = (rng.normal(size=(patches, channels)) * np.geomspace(3, 0.3, channels) + offset).astype(np.float32)
    batches = np.split(tokens_ND, np.cumsum(sizes)[:-1])
    components = fit_principal_components(batches)
    reference = PCA(3, svd_solver="full").fit(tokens_ND.astype(np.float64))
    assert components.patches == patches
    assert np.allclose(components.variance_share_K, reference.explained_variance_ratio_, atol=1e-4)
    assert np.allclose(components.variance_K, reference.explained_variance_, rtol=1e-3)
    assert np.allclose(np.abs(np.sum(components.components_KD * reference.components_, axis=1)), 1, atol=1e-3)
    assert np.allclose(components.mean_D, reference.mean_, rtol=1e-5, atol=1e-4)
    projected_NK = components.project(tokens_ND)
    assert np.allclose(projected_NK.var(axis=0, ddof=1), components.variance_K, rtol=1e-3)


def test_signs_are_chosen_and_turned_round() -> None:
    tokens_ND = np.random.default_rng(0).normal(size=(50, 6)).astype(np.float32)
    components = fit_principal_components([tokens_ND])
    largest = components.components_KD[np.arange(3), np.abs(components.components_KD).argmax(axis=1)]
    assert (largest > 0).all()
    turned = components.with_signs([-1, 1, -1])
    assert np.allclose(turned.project(tokens_ND), components.project(tokens_ND) * [-1, 1, -1], atol=1e-5)


@pytest.mark.parametrize("shapes", [[], [(0, 4)], [(1, 4)]])
def test_one_patch_has_no_components(shapes: list[tuple[int, int]]) -> None:
    with pytest.raises(ValueError, match="two patches"):
        fit_principal_components([np.zeros(shape, np.float32) for shape in shapes])


def test_patches_that_are_all_alike_explain_nothing() -> None:
    components = fit_principal_components([np.ones((9, 5), np.float32)])
    assert components.total_variance == pytest.approx(0)
    assert (components.variance_share_K == 0).all()


def test_colours_run_from_the_first_to_the_last_hundredth() -> None:
    projections_NK = np.stack([np.arange(1001.0), np.zeros(1001), -np.arange(1001.0)], axis=1).astype(np.float32)
    low_K, high_K = colour_range(projections_NK)
    assert low_K.tolist() == pytest.approx([10, 0, -990])
    assert high_K.tolist() == pytest.approx([990, 0, -10])
    colours_N3 = to_colours(projections_NK, low_K, high_K)
    assert colours_N3[0].tolist() == [0, 0.5, 1]
    assert colours_N3[-1].tolist() == [1, 0.5, 0]
    assert colours_N3[500].tolist() == pytest.approx([0.5, 0.5, 0.5], abs=1e-6)
    two_N3 = to_colours(projections_NK[:, :2], low_K[:2], high_K[:2])
    assert (two_N3[:, 2] == 0.5).all()


def test_otsus_threshold_is_the_best_of_all_cuts() -> None:
    rng = np.random.default_rng(1)
    for values in (
        np.r_[rng.normal(0, 1, 30), rng.normal(5, 1, 10)],
        rng.exponential(size=25),
        np.array([0.0, 0, 0, 1]),
        np.array([2.0, 1.0]),
    ):

        def between(threshold: float, values: np.ndarray = values) -> float:
            below, above = values[values <= threshold], values[values > threshold]
            return float(len(below) * len(above) * (below.mean() - above.mean()) ** 2)

        cuts = np.unique(values)[:-1]
        best = max(between(cut) for cut in cuts)
        assert between(otsu_threshold(values)) == pytest.approx(best)


@pytest.mark.parametrize("values", [[1.0], [2.0, 2.0, 2.0], []])
def test_no_threshold_without_two_values(values: list[float]) -> None:
    with pytest.raises(ValueError, match="two different values"):
        otsu_threshold(np.array(values))


def test_the_border_is_the_outermost_ring() -> None:
    assert border_mask(3, 4).sum() == 10
    assert border_mask(2, 5).all()
    assert not border_mask(5, 5)[1:-1, 1:-1].any()
