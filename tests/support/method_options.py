"""A value of every option of attribution methods that is not its default, for tests that walk all pairs of the two.

A new option of the table has no value here until someone gives it one: the walks fail before that.
"""

from __future__ import annotations

from vitrine.attribution.method_options import OPTIONS
from vitrine.attribution.registry import METHODS

VALUES: dict[str, object] = {
    "layer": 0,
    "heads": 1,
    "query": (1, 2),
    "target": "drop",
    "against": "pie",
    "window": 2,
    "matrix": True,
    "direction": "to",
}
"""By the option; the micro model of ``small_run`` has two layers, two heads, 4 x 4 patches and a class ``drop``."""


def pairs() -> list[tuple[str, str]]:
    """Every method with every option that some method has."""
    assert set(VALUES) == set(OPTIONS)
    return [(method, option) for method in METHODS for option in OPTIONS]
