"""Scores against masks: equal to slow pixel-by-pixel versions and to torchmetrics; None where nothing can be said."""

from __future__ import annotations

from dataclasses import astuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vitrine.attribution.placement import Placement
from vitrine.attribution.pointing import (
    average_precision,
    centres_inside,
    iou_at_best,
    iou_at_mean,
    pointing_hit,
    score_against_mask,
    share_inside,
)
from vitrine.data.transforms import CropGeometry

PATCH = 4  # pixels a side, in the pixel-by-pixel versions

seeds = st.integers(0, 100_000)


def case(seed: int, *, ties: bool = True) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A map (R, C), the same by pixel (H, W), and a mask by pixel that is neither empty nor full."""
    rng = np.random.default_rng(seed)
    rows, columns = rng.integers(2, 6, 2)
    scores_RC = rng.gamma(0.7, size=(rows, columns)).astype(np.float32)
    if ties:
        scores_RC = np.round(scores_RC, 1).astype(np.float32)
    mask_HW = rng.random((rows * PATCH, columns * PATCH)) < rng.uniform(0.1, 0.9)
    mask_HW[0, 0], mask_HW[-1, -1] = True, False
    return scores_RC, np.kron(scores_RC, np.ones((PATCH, PATCH), dtype=np.float32)), mask_HW


def coverage_of(mask_HW: np.ndarray) -> np.ndarray:
    rows, columns = mask_HW.shape[0] // PATCH, mask_HW.shape[1] // PATCH
    share_RC: np.ndarray = mask_HW.reshape(rows, PATCH, columns, PATCH).mean(axis=(1, 3))
    return share_RC


def slow_average_precision(scores_HW: np.ndarray, mask_HW: np.ndarray) -> float:
    """Pixel by pixel: at every threshold that some pixel has, precision times the recall gained."""
    total, recall = 0.0, 0.0
    for threshold in sorted(set(scores_HW.ravel().tolist()), reverse=True):
        passing = [
            inside for score, inside in zip(scores_HW.ravel(), mask_HW.ravel(), strict=True) if score >= threshold
        ]
        now = sum(passing) / mask_HW.sum()
        total += sum(passing) / len(passing) * (now - recall)
        recall = now
    return total


def iou(passing_HW: np.ndarray, mask_HW: np.ndarray) -> float:
    return float((passing_HW & mask_HW).sum() / (passing_HW | mask_HW).sum())


@given(seeds)
def test_average_precision_equals_the_pixels(seed: int) -> None:
    scores_RC, scores_HW, mask_HW = case(seed)
    assert average_precision(scores_RC, coverage_of(mask_HW)) == pytest.approx(
        slow_average_precision(scores_HW, mask_HW)
    )


@pytest.mark.parametrize("seed", range(5))
def test_average_precision_agrees_with_torchmetrics(seed: int) -> None:
    from torchmetrics.functional.classification import binary_average_precision

    scores_RC, scores_HW, mask_HW = case(seed)
    shown_HW = torch.from_numpy(scores_HW / max(1, scores_HW.max()))  # torchmetrics wants probabilities
    theirs = binary_average_precision(shown_HW.flatten(), torch.from_numpy(mask_HW).long().flatten())
    assert average_precision(scores_RC, coverage_of(mask_HW)) == pytest.approx(float(theirs), abs=1e-6)


@given(seeds)
def test_overlaps_and_share_equal_the_pixels(seed: int) -> None:
    scores_RC, scores_HW, mask_HW = case(seed)
    coverage_RC = coverage_of(mask_HW)
    best = max(iou(scores_HW >= threshold, mask_HW) for threshold in np.unique(scores_HW))
    assert iou_at_best(scores_RC, coverage_RC) == pytest.approx(best)
    mean = scores_RC.astype(np.float64).mean()
    if not np.isclose(scores_RC, mean).any() or np.ptp(scores_RC) == 0:
        assert iou_at_mean(scores_RC, coverage_RC) == pytest.approx(
            iou(scores_HW >= min(mean, scores_HW.max()), mask_HW)
        )
    if scores_RC.any():
        inside = scores_HW[mask_HW].sum(dtype=np.float64) / scores_HW.sum(dtype=np.float64)
        assert share_inside(scores_RC, coverage_RC) == pytest.approx(inside)


@given(seeds)
def test_scores_depend_on_the_order_alone_where_they_should(seed: int) -> None:
    scores_RC, _, mask_HW = case(seed)
    coverage_RC = coverage_of(mask_HW)
    stretched_RC = 3 * scores_RC.astype(np.float64) - 7
    assert average_precision(stretched_RC, coverage_RC) == pytest.approx(average_precision(scores_RC, coverage_RC))
    assert iou_at_best(stretched_RC, coverage_RC) == pytest.approx(iou_at_best(scores_RC, coverage_RC))


@given(seeds)
def test_the_best_overlap_is_the_best_and_the_mask_itself_is_perfect(seed: int) -> None:
    scores_RC, _, mask_HW = case(seed)
    coverage_RC = coverage_of(mask_HW)
    best, at_mean = iou_at_best(scores_RC, coverage_RC), iou_at_mean(scores_RC, coverage_RC)
    assert best is not None
    assert at_mean is not None
    assert best >= at_mean - 1e-12
    whole_RC = coverage_RC > np.median(coverage_RC)
    if whole_RC.any():  # a mask of whole patches, and a map that is the mask
        assert astuple(score_against_mask(whole_RC.astype(float), whole_RC, whole_RC)) == pytest.approx((1, 1, 1, 1, 1))


def test_a_constant_map_scores_as_a_random_one() -> None:
    coverage_RC = np.array([[1, 0.5], [0, 0]])
    scores = score_against_mask(np.full((2, 2), 0.3, dtype=np.float32), coverage_RC, coverage_RC > 0.6)
    assert scores.pointing == 0.25  # the share of patches that hit
    assert astuple(scores)[1:] == pytest.approx([0.375] * 4)  # the mask's share of the area
    nothing = score_against_mask(np.array([[-1.0, -2], [-3, -4]]), coverage_RC, coverage_RC > 0.6)
    assert nothing.inside == 0.375  # no mass at all: it points nowhere
    assert nothing.pointing == 1


def test_the_pointing_game_counts_ties_as_a_share() -> None:
    hit_RC = np.array([[True, False], [False, True]])
    assert pointing_hit([[3, 1], [1, 2]], hit_RC) == 1
    assert pointing_hit([[1, 3], [1, 2]], hit_RC) == 0
    assert pointing_hit([[3, 3], [1, 2]], hit_RC) == 0.5
    assert pointing_hit([[3, 3], [1, 3]], hit_RC) == pytest.approx(2 / 3)
    choices = np.random.default_rng(0).choice(3, 6000)  # what a fair draw among the three would hit
    assert np.isin(choices, [0, 2]).mean() == pytest.approx(2 / 3, abs=0.03)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_an_empty_or_full_mask_says_nothing(value: float) -> None:
    coverage_RC = np.full((3, 3), value)
    assert astuple(score_against_mask(np.arange(9.0).reshape(3, 3), coverage_RC, coverage_RC > 0.5)) == (None,) * 5


def test_a_mask_between_the_centres_cannot_be_pointed_at() -> None:
    coverage_RC = np.array([[0.2, 0.0], [0.0, 0.0]])
    scores = score_against_mask(np.eye(2), coverage_RC, np.zeros((2, 2), dtype=bool))
    assert scores.pointing is None
    assert scores.inside == pytest.approx(0.1)


def test_what_does_not_fit_is_refused() -> None:
    good = np.full((2, 2), 0.5)
    for scores, mask, message in (
        (np.ones((2, 3)), good, "one grid"),
        (np.array([[np.nan, 1], [1, 1]]), good, "finite"),
        (np.ones((2, 2)), good * 3, "0 to 1"),
    ):
        for score in (share_inside, average_precision, iou_at_best, iou_at_mean, pointing_hit):
            with pytest.raises(ValueError, match=message):
                score(scores, mask)


def test_centres_are_looked_up_in_the_photographs_own_pixels() -> None:
    """A photograph of 100 × 60, its middle 60 × 60 seen, 3 × 3 patches of 20: centres at x 30, 50, 70, y 10, 30, 50."""
    placement = Placement(CropGeometry(100, 60, 50, 30, 10, 0, 30, 30), 3, 3)
    mask_HW = np.zeros((60, 100), dtype=bool)
    mask_HW[28:33, 48:72] = True
    assert centres_inside(mask_HW, placement).tolist() == [[False] * 3, [False, True, True], [False] * 3]
    scores = score_against_mask(np.eye(3), placement.coverage(mask_HW), centres_inside(mask_HW, placement))
    assert scores.pointing == pytest.approx(1 / 3)  # one of the three that tie
    with pytest.raises(ValueError, match="60 x 100 pixels"):
        centres_inside(mask_HW.T, placement)
