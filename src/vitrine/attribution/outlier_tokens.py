"""Outlier tokens: the few patches whose tokens a transformer uses as scratch paper, and what they do to a map.

Large vision transformers turn some tokens of empty background into stores of global facts. Their norms lie far above
all others, and attention to them says nothing about their place in the picture (T. Darcet, M. Oquab, J. Mairal,
P. Bojanowski 2023, Vision transformers need registers, arXiv:2309.16588).

Axes: R grid rows, C grid columns, with any axes before them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from vitrine.attribution.maps import token_layout
from vitrine.models.forward_hooks import watch_outputs

TIMES_MEDIAN = 2.0
"""An outlier's norm is more than this many times the median. Darcet and others read a cut (150) off one model's
histogram; norms have another scale in every model, and what carries over is that the two groups lie far apart."""

DEVIATIONS = 6.0
"""And more than this many robust standard deviations (1.4826 × the median absolute deviation) above it, so that the
tail of a broad distribution is no outlier: of normally distributed norms one in a thousand million lies there."""

_NORMAL = 1.4826  # turns a median absolute deviation into the standard deviation of a normal distribution

Bools = npt.NDArray[np.bool_]


def outlier_tokens(norms_RC: npt.ArrayLike) -> Bools:
    """Which patch tokens are outliers among those of their own picture: bool (..., R, C).

    Both rules must hold: norm > :data:`TIMES_MEDIAN` × median, and norm > median + :data:`DEVIATIONS` × 1.4826 × median
    absolute deviation. At most half of the patches can be outliers.

    Args:
        norms_RC: Euclidean norms (..., R, C) of the patch tokens as the last block leaves them, before the final
            normalisation, which would make them all alike. Finite, 0 or more.

    Raises:
        ValueError: a norm is negative or not finite, or there is no grid.
    """
    norms_RC = np.asarray(norms_RC, dtype=np.float64)
    if norms_RC.ndim < 2 or not norms_RC.size or not np.isfinite(norms_RC).all() or (norms_RC < 0).any():
        raise ValueError(f"Expected finite norms of a grid, none negative; got shape {norms_RC.shape}.")
    median = np.median(norms_RC, axis=(-2, -1), keepdims=True)
    deviation = _NORMAL * np.median(np.abs(norms_RC - median), axis=(-2, -1), keepdims=True)
    is_outlier: Bools = (norms_RC > TIMES_MEDIAN * median) & (norms_RC > median + DEVIATIONS * deviation)
    return is_outlier


def outlier_mass(scores_RC: npt.ArrayLike, outliers_RC: npt.ArrayLike) -> float:
    """Share of one map's positive mass that lies on the outliers, 0 to 1; a map without mass carries nothing: 0.

    Args:
        scores_RC: finite.
        outliers_RC: bool, of the same shape.

    Raises:
        ValueError: shapes differ, or a score is not finite.
    """
    scores_RC, outliers_RC = _check_shapes(scores_RC, outliers_RC)
    mass_RC = np.maximum(scores_RC, 0)
    total = mass_RC.sum()
    return float(mass_RC[outliers_RC].sum() / total) if total > 0 else 0.0


def without_outliers(scores_RC: npt.ArrayLike, outliers_RC: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """The map with each outlier's score replaced by the median of the other patches': float32 (R, C).

    To be shown beside the map, never in its place: it is no longer what the method gave.

    Raises:
        ValueError: shapes differ, a score is not finite, or all patches are outliers.
    """
    scores_RC, outliers_RC = _check_shapes(scores_RC, outliers_RC)
    if outliers_RC.all():
        raise ValueError("All patches are outliers: there is no other to take a score from.")
    masked_RC = np.where(outliers_RC, np.median(scores_RC[~outliers_RC]), scores_RC)
    return masked_RC.astype(np.float32)


def _check_shapes(scores_RC: npt.ArrayLike, outliers_RC: npt.ArrayLike) -> tuple[npt.NDArray[np.float64], Bools]:
    scores_RC, outliers_RC = np.asarray(scores_RC, dtype=np.float64), np.asarray(outliers_RC, dtype=bool)
    if scores_RC.shape != outliers_RC.shape or scores_RC.ndim != 2 or not scores_RC.size:
        raise ValueError(f"Expected a map and outliers of one grid; got {scores_RC.shape} and {outliers_RC.shape}.")
    if not np.isfinite(scores_RC).all():
        raise ValueError("Scores must be finite.")
    return scores_RC, outliers_RC


def token_norms(module: nn.Module, pixels_BCHW: torch.Tensor) -> torch.Tensor:
    """Euclidean norms of the patch tokens after the last block, before the final norm: float32 (B, R, C) on the CPU.

    Args:
        module: a timm vision transformer in eval mode.
        pixels_BCHW: normalised, on its device.

    Raises:
        ModelError: it is no vision transformer with one sequence of patch tokens.
    """
    layout = token_layout(module, *pixels_BCHW.shape[-2:])
    blocks: Any = module.blocks
    with watch_outputs(blocks[-1]) as outputs, torch.no_grad():
        module(pixels_BCHW)
    norms_BN: torch.Tensor = outputs[-1][:, layout.prefix :].float().norm(dim=-1)
    return norms_BN.reshape(-1, layout.rows, layout.columns).cpu()
