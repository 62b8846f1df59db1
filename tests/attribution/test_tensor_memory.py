"""The memory of tensors: what is alive at a time, at most."""

from __future__ import annotations

import torch

from vitrine.attribution.tensor_memory import TensorMemory


def test_the_peak_is_of_what_is_alive_at_a_time() -> None:
    before = torch.zeros(1000)
    with TensorMemory() as memory:
        one = torch.zeros(1000)
        two = one + before
        view = two[:10].view(2, 5)  # memory that is counted already
        assert memory.peak == 8000
        del one, two
        three = torch.zeros(500)  # the first is free again; the second lives in its view
    assert memory.peak == 8000
    assert len(view) + len(three) == 502


def test_what_a_gradient_needs_is_alive() -> None:
    weight = torch.randn(100, 100, requires_grad=True)
    with TensorMemory() as kept:
        loss = weight.exp().sin().exp().sum()
    loss.backward()
    with TensorMemory() as free, torch.no_grad():
        weight.exp().sin().exp().sum()
    assert kept.peak >= free.peak + 40_000
