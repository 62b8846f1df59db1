"""The checks that every recipe field goes through, so that each refusal reads alike."""

from __future__ import annotations

from typing import Any

from vitrine.errors import RecipeError


def refuse(field: str, value: object, expected: str) -> RecipeError:
    """The error for a field: its name, the value found, and what is expected."""
    return RecipeError(f"{field} = {value!r} cannot be used: expected {expected}.")


def require_number(
    field: str, value: Any, low: float, high: float = float("inf"), *, whole: bool = False, open_low: bool = False
) -> None:
    """Raise unless ``value`` is a finite number (a whole one on request) in [low, high], or (low, high]."""
    above = f"above {low:g}" if open_low else f"at least {low:g}"
    upto = "" if high == float("inf") else f" and at most {high:g}"
    expected = f"{'a whole number' if whole else 'a number'} {above}{upto}"
    if isinstance(value, bool) or not isinstance(value, int | float) or (whole and not isinstance(value, int)):
        raise refuse(field, value, expected)
    inside = (low < value if open_low else low <= value) and value <= high and value != float("inf")
    if not inside:
        raise refuse(field, value, expected)


def require_range(field: str, value: Any, low: float, high: float) -> None:
    """Raise unless ``value`` is a pair of numbers with low <= first <= second <= high."""
    expected = f"two numbers between {low:g} and {high:g}, the smaller one first"
    if not isinstance(value, tuple) or len(value) != 2:
        raise refuse(field, value, expected)
    if any(isinstance(end, bool) or not isinstance(end, int | float) for end in value):
        raise refuse(field, value, expected)
    if not low <= value[0] <= value[1] <= high:
        raise refuse(field, value, expected)


def require_choice(field: str, value: Any, choices: tuple[str, ...]) -> None:
    """Raise unless ``value`` is one of ``choices``."""
    if value not in choices:
        raise refuse(field, value, "one of " + ", ".join(choices))


def require_switch(field: str, value: Any) -> None:
    """Raise unless ``value`` is true or false."""
    if not isinstance(value, bool):
        raise refuse(field, value, "true or false")
