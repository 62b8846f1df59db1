"""Principal components of patch tokens, fitted jointly over pictures, and their place as colours.

Axes: N patches of all pictures, D channels, K components; any axes may stand before D.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]

COLOUR_QUANTILES = (0.01, 0.99)
"""Of the projections on a component: where its colour begins and ends, so that single patches do not set the range."""


@dataclass(frozen=True, eq=False)
class PrincipalComponents:
    """The directions in which patch tokens vary most.

    Attributes:
        mean_D: float32, of the patches that were fitted.
        components_KD: float32, of length 1, at right angles to one another, the strongest first.
        variance_K: float64, of the patches along each.
        total_variance: along all D directions.
        patches: how many were fitted.
    """

    mean_D: Floats
    components_KD: Floats
    variance_K: npt.NDArray[np.float64]
    total_variance: float
    patches: int

    @property
    def variance_share_K(self) -> npt.NDArray[np.float64]:  # noqa: N802  its axis
        """Share of the whole variance that lies along each component, 0 to 1; 0 where nothing varies."""
        shares_K: npt.NDArray[np.float64] = self.variance_K / (self.total_variance or 1.0)
        return shares_K

    def project(self, tokens_ND: Floats) -> Floats:
        """Coordinates along the components: float32 (..., K)."""
        return np.asarray((tokens_ND - self.mean_D) @ self.components_KD.T, dtype=np.float32)

    def with_signs(self, sign_K: npt.ArrayLike) -> PrincipalComponents:
        """The same with some directions turned round: a component's sign means nothing, and has to be chosen.

        Args:
            sign_K: 1 or -1 each.
        """
        signs = np.asarray(sign_K, dtype=np.float32)[:, None]
        return PrincipalComponents(
            self.mean_D, self.components_KD * signs, self.variance_K, self.total_variance, self.patches
        )


def fit_principal_components(batches: Iterable[Floats], count: int = 3) -> PrincipalComponents:
    """The first principal components of patches, in one pass and memory for a matrix of D x D.

    Sums and products are taken around the first batch's mean, so that a mean far from zero costs no digits; eigenvalues
    of the covariance in float64 (K. Pearson 1901; the covariance divides by N - 1). The sign of each direction is such
    that its largest entry is positive.

    Args:
        batches: float32 (..., D).
        count: components at most; fewer where there are fewer channels.

    Raises:
        ValueError: fewer than two patches.
    """
    total, shift_D, sum_D, product_DD = 0, np.zeros(0, np.float32), np.zeros(0), np.zeros((0, 0))
    for batch in batches:
        tokens_ND = np.asarray(batch, dtype=np.float32).reshape(-1, batch.shape[-1])
        if not len(tokens_ND):
            continue
        if not total:
            shift_D = tokens_ND.mean(axis=0, dtype=np.float64).astype(np.float32)
            sum_D, product_DD = np.zeros(len(shift_D)), np.zeros((len(shift_D), len(shift_D)))
        moved_ND = tokens_ND - shift_D
        sum_D += moved_ND.sum(axis=0, dtype=np.float64)
        product_DD += moved_ND.T @ moved_ND
        total += len(tokens_ND)
    if total < 2:
        raise ValueError(f"Principal components need two patches at least; got {total}.")
    covariance_DD = (product_DD - np.outer(sum_D, sum_D) / total) / (total - 1)
    values_D, vectors_DD = np.linalg.eigh(covariance_DD)
    components_KD = vectors_DD.T[::-1][:count]
    signs_K = np.sign(components_KD[np.arange(len(components_KD)), np.abs(components_KD).argmax(axis=1)])
    return PrincipalComponents(
        (shift_D + sum_D / total).astype(np.float32),
        (components_KD * signs_K[:, None]).astype(np.float32),
        values_D[::-1][:count].clip(min=0),
        float(np.trace(covariance_DD)),
        total,
    )


def colour_range(projections_NK: Floats) -> tuple[Floats, Floats]:
    """Where the colours of each component begin and end: (K,) each, the :data:`COLOUR_QUANTILES` of the patches."""
    low_K, high_K = np.quantile(projections_NK, COLOUR_QUANTILES, axis=0)
    return low_K.astype(np.float32), high_K.astype(np.float32)


def to_colours(projections_NK: Floats, low_K: Floats, high_K: Floats) -> Floats:
    """Red, green and blue from the first three components: float32 (..., 3), 0 to 1.

    A component that does not vary, or is not there, gives 0.5.
    """
    span_K = high_K - low_K
    scaled_NK = np.divide(
        projections_NK - low_K,
        span_K,
        out=np.full_like(projections_NK, 0.5),
        where=np.broadcast_to(span_K > 0, projections_NK.shape),
    )
    colours_N3 = np.full((*projections_NK.shape[:-1], 3), 0.5, dtype=np.float32)
    colours_N3[..., : scaled_NK.shape[-1]] = scaled_NK[..., :3].clip(0, 1)
    return colours_N3


def otsu_threshold(values_N: Floats) -> float:
    """Where a line is best cut in two: the variance between the two groups' means is largest.

    Every cut between neighbouring values is tried, not bins of a histogram.

    Source: N. Otsu (1979), A threshold selection method from gray-level histograms, IEEE Transactions on Systems, Man,
    and Cybernetics 9.

    Raises:
        ValueError: fewer than two values, or all the same.
    """
    sorted_N = np.sort(np.asarray(values_N, dtype=np.float64).ravel())
    if len(sorted_N) < 2 or sorted_N[0] == sorted_N[-1]:
        raise ValueError("A threshold needs two different values at least.")
    below = np.arange(1, len(sorted_N))
    sums = np.cumsum(sorted_N)
    mean_below, mean_above = sums[:-1] / below, (sums[-1] - sums[:-1]) / (len(sorted_N) - below)
    between = below * (len(sorted_N) - below) * (mean_above - mean_below) ** 2
    between[sorted_N[1:] == sorted_N[:-1]] = -1  # equal values cannot be parted
    cut = int(between.argmax())
    return float((sorted_N[cut] + sorted_N[cut + 1]) / 2)


def border_mask(rows: int, columns: int) -> Bools:
    """The outermost patches of a grid: bool (R, C)."""
    is_border = np.ones((rows, columns), dtype=bool)
    is_border[1:-1, 1:-1] = False
    return is_border
