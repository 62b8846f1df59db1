"""The pointing game and other scores of a map against an object's mask, within what the model saw of the picture.

A map is taken as constant within each patch, so that every number here is the one a pixel-by-pixel computation gives.

Axes: R grid rows, C grid columns, H and W pixel rows and columns, T thresholds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from vitrine.attribution.placement import Placement


_NEGLIGIBLE = 1e-6  # share of what the model saw: less inside, or less outside, is rounding

Floats = npt.NDArray[np.floating]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class MaskScores:
    """How well one map finds one object. A score is None where every map would have the same.

    Attributes:
        pointing: 1 where the centre of the strongest patch lies in the mask, else 0; a share where patches tie.
        inside: share of the map's mass inside the mask, 0 to 1.
        average_precision: of the pixels ranked by their patch's score, 0 to 1.
        iou_best: intersection over union at the threshold that suits this picture best, 0 to 1.
        iou_mean: the same at the map's own mean, which nobody chose, 0 to 1.
    """

    pointing: float | None
    inside: float | None
    average_precision: float | None
    iou_best: float | None
    iou_mean: float | None


def score_against_mask(scores_RC: npt.ArrayLike, coverage_RC: npt.ArrayLike, hit_RC: npt.ArrayLike) -> MaskScores:
    """All scores of one map.

    Args:
        scores_RC: finite.
        coverage_RC: share of each patch's area inside the mask, 0 to 1.
        hit_RC: bool, whether each patch's centre lies in the mask; see :func:`centres_inside`.

    Raises:
        ValueError: shapes differ, a score is not finite, or a share is none.
    """
    return MaskScores(
        pointing=pointing_hit(scores_RC, hit_RC),
        inside=share_inside(scores_RC, coverage_RC),
        average_precision=average_precision(scores_RC, coverage_RC),
        iou_best=iou_at_best(scores_RC, coverage_RC),
        iou_mean=iou_at_mean(scores_RC, coverage_RC),
    )


def centres_inside(mask_HW: npt.ArrayLike, placement: Placement) -> Bools:
    """Whether each patch's centre lies in the mask: bool (R, C); of one on the border round the photograph it does not.

    Args:
        mask_HW: bool, in the upright photograph's own pixels.
        placement: of the grid on that photograph.

    Raises:
        ValueError: the mask has another size than the photograph.
    """
    mask_HW, at = np.asarray(mask_HW, dtype=bool), placement.geometry
    if mask_HW.shape != (at.height, at.width):
        raise ValueError(f"Expected a mask of {at.height} x {at.width} pixels, as the photograph; got {mask_HW.shape}.")
    x_C = np.floor([placement.centre(0, column)[0] for column in range(placement.columns)]).astype(int)
    y_R = np.floor([placement.centre(row, 0)[1] for row in range(placement.rows)]).astype(int)
    hit_RC: Bools = np.zeros((placement.rows, placement.columns), dtype=bool)
    inside_R, inside_C = (y_R >= 0) & (y_R < at.height), (x_C >= 0) & (x_C < at.width)
    hit_RC[np.ix_(inside_R, inside_C)] = mask_HW[np.ix_(y_R[inside_R], x_C[inside_C])]
    return hit_RC


def pointing_hit(scores_RC: npt.ArrayLike, hit_RC: npt.ArrayLike) -> float | None:
    """The pointing game: 1 where the strongest patch's centre lies in the mask, else 0.

    Patches that tie for the strongest count as the share of them that hit, which is what a fair draw among them would
    hit in the long run; a constant map scores the share of all patches that hit.

    Source: J. Zhang, S. A. Bargal, Z. Lin, J. Brandt, X. Shen, S. Sclaroff (2018), Top-down neural attention by
    excitation backprop, IJCV 126; without its 15 pixels of tolerance, because a patch's centre is meant as it is.

    Args:
        scores_RC: finite.
        hit_RC: bool, whether each patch's centre lies in the mask; see :func:`centres_inside`.

    Returns:
        0 to 1; None where no patch could hit, or none could miss.

    Raises:
        ValueError: shapes differ, or a score is not finite.
    """
    scores_RC, hit_RC = _check_shapes(scores_RC, hit_RC)
    if hit_RC.all() or not hit_RC.any():
        return None
    return float(hit_RC[scores_RC == scores_RC.max()].mean())


def share_inside(scores_RC: npt.ArrayLike, coverage_RC: npt.ArrayLike) -> float | None:
    """Share of the map's positive mass that lies inside the mask, each patch's by the part of it that is covered.

    Negative scores hold no mass. A map without any mass points nowhere and counts as an even one, as a constant map
    does: the share is then that of the mask in what the model saw.

    Source: H. Wang and others (2020), Score-CAM, CVPR workshops (energy-based pointing game).

    Args:
        scores_RC: finite.
        coverage_RC: share of each patch's area inside the mask, 0 to 1.

    Returns:
        0 to 1; None where the mask is empty or full.

    Raises:
        ValueError: shapes differ, a score is not finite, or a share is none.
    """
    scores_RC, coverage_RC = _check_shapes(scores_RC, coverage_RC)
    if _is_undecided(coverage_RC):
        return None
    mass_RC = np.maximum(scores_RC, 0)
    if not mass_RC.any():
        mass_RC = np.ones_like(mass_RC)
    return float((mass_RC * coverage_RC).sum() / mass_RC.sum())


def average_precision(scores_RC: npt.ArrayLike, coverage_RC: npt.ArrayLike) -> float | None:
    """Average precision of the pixels ranked by their patch's score: the sum over thresholds of (recall gained ×
    precision).

    All patches of one score pass the threshold together, so that a constant map scores the mask's share of the area.
    Equal to the average precision of all pixels, or to scikit-learn's with patches weighted by their covered and
    uncovered area.

    Source: G. Salton, M. J. McGill (1983), Introduction to modern information retrieval; as in M. Zhu (2004), Recall,
    precision and average precision, without interpolation.

    Args, returns and errors are those of :func:`share_inside`.
    """
    scores_RC, coverage_RC = _check_shapes(scores_RC, coverage_RC)
    if _is_undecided(coverage_RC):
        return None
    inside_T, area_T = _threshold_sums(scores_RC, coverage_RC)
    gained_T = np.diff(inside_T, prepend=0)
    return float((gained_T * inside_T / area_T).sum() / inside_T[-1])


def iou_at_best(scores_RC: npt.ArrayLike, coverage_RC: npt.ArrayLike) -> float | None:
    """Intersection over union of mask and map at the best of all thresholds: the highest that any could reach.

    Chosen with the mask in hand, so it flatters every map; a constant one reaches the mask's share of the area.

    Args, returns and errors are those of :func:`share_inside`.
    """
    scores_RC, coverage_RC = _check_shapes(scores_RC, coverage_RC)
    if _is_undecided(coverage_RC):
        return None
    inside_T, area_T = _threshold_sums(scores_RC, coverage_RC)
    return float((inside_T / (area_T + inside_T[-1] - inside_T)).max())


def iou_at_mean(scores_RC: npt.ArrayLike, coverage_RC: npt.ArrayLike) -> float | None:
    """Intersection over union of the mask and the patches that score at least the map's mean.

    Args, returns and errors are those of :func:`share_inside`.
    """
    scores_RC, coverage_RC = _check_shapes(scores_RC, coverage_RC)
    if _is_undecided(coverage_RC):
        return None
    mean = min(scores_RC.mean(), scores_RC.max())  # rounding can lift the mean of a constant map above the map
    passing_RC = scores_RC >= mean
    inside = coverage_RC[passing_RC].sum()
    return float(inside / (passing_RC.sum() + coverage_RC.sum() - inside))


def _threshold_sums(
    scores_RC: npt.NDArray[np.float64], coverage_RC: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """(area inside the mask, whole area) of the patches that pass each threshold, the strictest first; in patches."""
    order = np.argsort(-scores_RC, axis=None, kind="stable")
    falling = scores_RC.ravel()[order]
    last_of_score = np.append(falling[1:] != falling[:-1], True)
    inside = np.cumsum(coverage_RC.ravel()[order])
    return inside[last_of_score], (np.flatnonzero(last_of_score) + 1).astype(np.float64)


def _is_undecided(coverage_RC: npt.NDArray[np.float64]) -> bool:
    """Nothing is inside, or nothing outside: then every map scores the same."""
    return not _NEGLIGIBLE < coverage_RC.mean() < 1 - _NEGLIGIBLE


def _check_shapes(
    scores_RC: npt.ArrayLike, truth_RC: npt.ArrayLike
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    scores_RC, truth_RC = np.asarray(scores_RC, dtype=np.float64), np.asarray(truth_RC)
    if scores_RC.ndim != 2 or scores_RC.shape != truth_RC.shape or not scores_RC.size:
        raise ValueError(f"Expected a map and a mask of one grid; got {scores_RC.shape} and {truth_RC.shape}.")
    if not np.isfinite(scores_RC).all():
        raise ValueError("Scores must be finite: a patch that was not scored has no place in the order.")
    truth_RC = truth_RC.astype(np.float64)
    if not ((truth_RC >= 0) & (truth_RC <= 1)).all():
        raise ValueError("A mask's share of a patch is 0 to 1.")
    return scores_RC, truth_RC
