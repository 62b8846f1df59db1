"""Controls know nothing of the model; outlier tokens are told from the rest."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vitrine.attribution.baselines import SPREAD, centre_blob, edges, random_map
from vitrine.attribution.outlier_tokens import outlier_mass, outlier_tokens, without_outliers


def test_a_random_map_is_uniform_and_repeats_with_its_seed() -> None:
    scores_RC = random_map(60, 70, seed=4)
    assert scores_RC.shape == (60, 70)
    assert scores_RC.dtype == np.float32
    assert (scores_RC == random_map(60, 70, seed=4)).all()
    assert (scores_RC != random_map(60, 70, seed=5)).mean() > 0.99
    counts, _ = np.histogram(scores_RC, bins=10, range=(0, 1))
    assert np.square(counts - 420).sum() / 420 < 27.9  # chi square with 9 degrees of freedom, 0.1 %


@given(st.integers(1, 25), st.integers(1, 25))
def test_the_centre_blob_is_the_formula_and_mirrors_exactly(rows: int, columns: int) -> None:
    blob_RC = centre_blob(rows, columns)
    assert blob_RC.dtype == np.float32
    for row, column in [(0, 0), (rows - 1, columns // 2), (rows // 2, columns // 3)]:
        y, x = (row + 0.5) / rows - 0.5, (column + 0.5) / columns - 0.5  # in sides, from the middle
        assert blob_RC[row, column] == pytest.approx(np.exp(-(y * y + x * x) / (2 * SPREAD**2)), rel=1e-5)
    assert (blob_RC == blob_RC[::-1]).all()
    assert (blob_RC == blob_RC[:, ::-1]).all()  # exactly: ties must be ties
    assert blob_RC.max() == blob_RC[rows // 2, columns // 2]


def slow_edges(pixels_CHW: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Sobel's two kernels at every pixel in turn."""
    height, width = pixels_CHW.shape[1:]
    kernel = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]]) / 8
    found_RC = np.zeros((rows, columns))
    for y, x in np.ndindex(height, width):
        near = np.ix_(np.clip([y - 1, y, y + 1], 0, height - 1), np.clip([x - 1, x, x + 1], 0, width - 1))
        gradients = [(pixels_HW[near] * way).sum() for pixels_HW in pixels_CHW for way in (kernel, kernel.T)]
        found_RC[y * rows // height, x * columns // width] += np.sqrt(np.square(gradients).sum())
    return found_RC / (height // rows * (width // columns))


def test_edges_equal_a_slow_loop() -> None:
    pixels_BCHW = torch.randn(2, 3, 12, 8, generator=torch.Generator().manual_seed(0))
    found_BRC = edges(pixels_BCHW, 3, 4)
    assert found_BRC.dtype == np.float32
    for picture in range(2):
        assert found_BRC[picture] == pytest.approx(slow_edges(pixels_BCHW[picture].numpy(), 3, 4), abs=1e-6)


def test_edges_by_hand() -> None:
    ramp_BCHW = torch.arange(8.0).expand(1, 1, 8, 8)  # one a pixel to the right
    inner = edges(ramp_BCHW, 1, 8)[0, 0]
    assert inner == pytest.approx([0.5, 1, 1, 1, 1, 1, 1, 0.5])  # at the border half of the step is outside
    assert (edges(torch.full((1, 3, 8, 8), 0.7), 2, 2) == 0).all()  # the border of the picture is no edge
    colours_BCHW = torch.zeros(1, 2, 4, 4)  # equally bright on both sides, and yet an edge
    colours_BCHW[:, 0, :, :2] = 1
    colours_BCHW[:, 1, :, 2:] = 1
    assert edges(colours_BCHW, 1, 1).item() > 0
    with pytest.raises(ValueError, match="does not divide"):
        edges(colours_BCHW, 3, 2)


# --- outlier tokens


def test_outliers_lie_far_above_the_median() -> None:
    norms_RC = np.random.default_rng(0).normal(40, 4, (14, 14))
    assert not outlier_tokens(norms_RC).any()
    outliers = [(0, 0), (3, 7), (13, 13)]
    for at in outliers:
        norms_RC[at] = 180
    assert list(zip(*np.nonzero(outlier_tokens(norms_RC)), strict=True)) == outliers


def test_both_rules_are_needed() -> None:
    """By hand: median 10; the absolute deviations have the median 4, so 6 deviations are 6 × 1.4826 × 4 = 35.6."""
    broad_RC = np.array([[6.0, 6, 6, 6, 10], [10, 14, 14, 14, 45]])
    assert np.median(broad_RC) == 10
    assert np.median(np.abs(broad_RC - 10)) == 4
    assert not outlier_tokens(broad_RC).any()  # four times the median, but within 45.6
    broad_RC[1, 4] = 46
    assert outlier_tokens(broad_RC).sum() == 1
    narrow_RC = np.full((4, 5), 10.0)
    narrow_RC[0, 0] = 19.9  # infinitely many deviations, but less than twice the median
    assert not outlier_tokens(narrow_RC).any()
    narrow_RC[0, 0] = 20.1
    assert outlier_tokens(narrow_RC)[0, 0]


def test_every_picture_has_its_own_median() -> None:
    norms_BRC = np.random.default_rng(1).normal(40, 4, (3, 7, 7))
    norms_BRC[1] *= 10
    norms_BRC[2, 4, 4] = 400
    found_BRC = outlier_tokens(norms_BRC)
    assert found_BRC.sum() == 1
    assert found_BRC[2, 4, 4]
    assert (found_BRC == np.stack([outlier_tokens(norms_RC) for norms_RC in norms_BRC])).all()


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=40), st.floats(0.01, 100))
def test_outliers_do_not_depend_on_the_scale_and_are_few(norms: list[float], factor: float) -> None:
    norms_RC = np.round(np.array([norms]), 3)
    found_RC = outlier_tokens(norms_RC)
    assert 2 * found_RC.sum() <= found_RC.size
    power = 2.0 ** np.round(np.log2(factor))  # exact in floating point
    assert (outlier_tokens(norms_RC * power) == found_RC).all()


def test_what_outliers_carry_and_the_map_without_them() -> None:
    scores_RC = np.array([[6.0, 1], [2, 1]])
    outliers_RC = np.array([[True, False], [False, False]])
    assert outlier_mass(scores_RC, outliers_RC) == pytest.approx(0.6)
    assert without_outliers(scores_RC, outliers_RC).tolist() == [[1, 1], [2, 1]]
    signed_RC = np.array([[3.0, -5], [1, 0]])
    assert outlier_mass(signed_RC, outliers_RC) == pytest.approx(0.75)  # negative scores hold no mass
    assert outlier_mass(-np.ones((2, 2)), outliers_RC) == 0
    assert scores_RC[0, 0] == 6  # the raw map is left alone


def test_unusable_norms_and_maps_are_refused() -> None:
    for norms in (np.array([[1.0, np.nan]]), np.array([[-1.0, 1]]), np.array([1.0]), np.empty((0, 3))):
        with pytest.raises(ValueError, match="norms"):
            outlier_tokens(norms)
    with pytest.raises(ValueError, match="All patches"):
        without_outliers(np.ones((2, 2)), np.ones((2, 2), dtype=bool))
    with pytest.raises(ValueError, match="one grid"):
        outlier_mass(np.ones((2, 2)), np.ones((2, 3), dtype=bool))
    with pytest.raises(ValueError, match="finite"):
        outlier_mass(np.full((2, 2), np.inf), np.ones((2, 2), dtype=bool))
