"""Arguments of a model that come from outside do not decide how long it takes, or how much memory."""

from __future__ import annotations

import time
from typing import Any

import pytest
import timm
import torch
from support.models import MICRO
from timm.layers import trunc_normal_
from torch import nn

from vitrine.errors import ModelError
from vitrine.models.load import load_model
from vitrine.models.reference import resolve_reference
from vitrine.models.timm_model import NoRandomValues, create_timm_model


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"depth": 1_000_000}, "depth = 1,000,000; 1,000 is the limit"),
        ({"embed_dim": 10**7}, "embed_dim = 10,000,000"),
        ({"depth": 1_000, "embed_dim": 10_000}, "about 1,200,000,000,000 parameters"),
        ({"num_classes": 10**12}, "num_classes"),
        ({"img_size": (64, 10**9)}, "img_size"),
        ({"mlp_ratio": 1e30}, "mlp_ratio"),
        ({"reg_tokens": 10**18}, "reg_tokens"),
    ],
)
def test_what_would_not_end_is_refused_at_once(arguments: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        create_timm_model("vit_tiny_patch16_224", **{**MICRO, **arguments})
    start = time.monotonic()
    with pytest.raises(ModelError, match=said):
        load_model(resolve_reference("vit_tiny_patch16_224"), pretrained=False, model_args={**MICRO, **arguments})
    assert time.monotonic() - start < 5


def test_only_random_numbers_are_left_out_and_only_within_the_block() -> None:
    def tensor() -> torch.Tensor:
        return torch.full((4,), 7.0)

    with NoRandomValues():
        draws: Any = (torch.Tensor.uniform_, torch.Tensor.normal_, nn.init.uniform_, nn.init.normal_)
        draws += (nn.init.kaiming_uniform_, nn.init.kaiming_normal_, nn.init.xavier_uniform_, nn.init.xavier_normal_)
        for draw in draws:
            x = torch.full((2, 2), 0.5)
            assert draw(x) is x and torch.equal(x, torch.full((2, 2), 0.5)), draw
        truncated, other = torch.full((2, 2), 0.5), torch.full((2, 2), 0.5)
        assert trunc_normal_(truncated, std=0.02) is truncated and torch.equal(truncated, torch.full((2, 2), 0.5))
        assert torch.equal(other.mul_(2).add_(1), torch.full((2, 2), 2.0))  # what nobody drew is computed
        assert nn.Linear(2, 3).weight.shape == (3, 2)
        assert torch.equal(tensor().zero_(), torch.zeros(4))
        assert torch.equal(nn.init.constant_(tensor(), 3), torch.full((4,), 3.0))
        assert torch.equal(torch.linspace(0, 3, 4), torch.arange(4.0))
    assert not torch.equal(tensor().uniform_(), tensor())


def test_models_of_today_are_far_below_the_limits() -> None:
    """The largest vision transformers that timm names have a twentieth of what is allowed."""
    for name in ("vit_giant_patch14_224", "eva_giant_patch14_224", "vit_7b_patch16_dinov3"):
        if timm.is_model(name):
            import torch

            with torch.device("meta"):
                assert create_timm_model(name).num_features > 1_000
