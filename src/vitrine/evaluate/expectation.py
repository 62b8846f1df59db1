"""An accuracy that was promised, held against the one that was found."""

from __future__ import annotations

from vitrine.errors import VitrineError

_ROUNDING = 1e-9  # 0.95 - 0.005 is not 0.945 in binary; no accuracy of fewer than 1e9 pictures is this close to another


def check_expectation(expected: float, tolerance: float) -> None:
    """Refuse an expectation that no accuracy could be held against; to be called before the work.

    Raises:
        VitrineError: ``expected`` is not 0 to 1, or ``tolerance`` is not 0 to 1.
    """
    if not 0 <= expected <= 1:
        raise VitrineError(f"The expected accuracy must be between 0 and 1, for example 0.95; got {expected:g}.")
    if not 0 <= tolerance <= 1:
        raise VitrineError(f"The tolerance must be between 0 and 1: 0.005 is half a point; got {tolerance:g}.")


def meets(accuracy: float, expected: float, tolerance: float) -> bool:
    """Whether an accuracy is within ``tolerance`` of what was expected, on either side, ends included.

    Both sides count: a re-run that is better than what was promised by more than the tolerance is not the same result,
    and usually means other data.

    Args:
        accuracy: what was found, a share of 1.
        expected: what was promised, a share of 1.
        tolerance: how far the two may be apart, a share of 1: 0.005 is half a point.

    Raises:
        VitrineError: see :func:`check_expectation`.
    """
    check_expectation(expected, tolerance)
    return abs(accuracy - expected) <= tolerance + _ROUNDING
