"""The section ``words`` of verdicts.py."""

from __future__ import annotations

from collections.abc import Iterable

from harness.error_rates import RateTable
from verdict_models import Workplace


def measure(workplace: Workplace) -> Iterable[RateTable]:  # noqa: ARG001  not measured yet
    """The section's tables."""
    return ()
