"""Trainings that do not draw the figures of their model cards, which takes longer than a micro model's training."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock


@contextmanager
def without_card_figures() -> Iterator[None]:
    """Empty files in the figures' place: which of them there are, and what the card says, stays as it is."""
    model_card = sys.modules.get("vitrine.runs.model_card")
    if model_card is None:
        yield
        return
    with (
        mock.patch.object(model_card, "save_average_precision_figure", _leave_empty),
        mock.patch.object(model_card, "save_learning_curves", _leave_empty),
        mock.patch.object(model_card, "save_confusion_figure", _leave_empty),
    ):
        yield


def _leave_empty(_: Any, path: Path, __: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
