"""Trainings without their pictures and without the figures of their cards, which take longer than micro models do."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest import mock


@contextmanager
def without_card_figures() -> Iterator[None]:
    """Empty files in the place of a card's figures: which of them there are, and what it says, stays as it is."""
    model_card, preview = (sys.modules.get(f"vitrine.{name}") for name in ("runs.model_card", "train.preview"))
    if model_card is None:
        yield
        return
    with (
        nullcontext() if preview is None else mock.patch.object(preview.Preview, "save", lambda *_: ()),
        mock.patch.object(model_card, "save_average_precision_figure", _leave_empty),
        mock.patch.object(model_card, "save_learning_curves", _leave_empty),
        mock.patch.object(model_card, "save_confusion_figure", _leave_empty),
    ):
        yield


def _leave_empty(_: Any, path: Path, __: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
