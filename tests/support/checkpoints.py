"""Opening checkpoints in tests: the message of a refusal, and pixels to compare models on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from vitrine.errors import ModelError
from vitrine.models.load import load_model


def expect_error(reference: Path | str, match: str, **options: Any) -> str:
    """The message with which a model is refused: at most two lines."""
    with pytest.raises(ModelError, match=match) as error:
        load_model(str(reference), **{"pretrained": True, **options})
    assert len(str(error.value).splitlines()) <= 2
    return str(error.value)


def pixels(side: int = 32) -> torch.Tensor:
    """Two seeded random pictures, normalised."""
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(2))


def meta_tensors(name: str) -> dict[str, torch.Tensor]:
    """The tensors of a timm model, without memory for them."""
    with torch.device("meta"):
        return dict(timm.create_model(name).state_dict())
