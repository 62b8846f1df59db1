"""Inputs of classifiers for tests."""

from __future__ import annotations

from typing import Any

from vitrine.config.preprocessing import InputSpec


def square_input(side: int, crop: float = 1.0, **others: Any) -> InputSpec:
    """A square input with mean and std 0.5."""
    half = (0.5, 0.5, 0.5)
    return InputSpec(**{"size": (side, side), "mean": half, "std": half, "crop": crop, **others})
