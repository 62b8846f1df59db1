"""Where the checkout is, and what may lie beside it."""

from __future__ import annotations

from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent
CHECKOUT = TESTS.parent
SHARED = CHECKOUT.parent / "shared" / "data"
"""Real photographs, masks and captions; tests that want them skip where they are not there."""
