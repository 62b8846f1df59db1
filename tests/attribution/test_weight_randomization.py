"""Randomised copies and rank correlation: the original stays, the copy loses block by block."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from vitrine.attribution.weight_randomization import (
    correlation_with_intact,
    randomised_copies,
    rank_correlation,
    weight_stages,
)
from vitrine.errors import ModelError

ARGUMENTS = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "num_heads": 2, "num_classes": 5}


def network(name: str = "vit_tiny_patch16_224", depth: int = 3, **changes: object) -> nn.Module:
    torch.manual_seed(0)
    module: nn.Module = timm.create_model(name, **(ARGUMENTS | {"depth": depth} | changes)).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))  # so that no tensor is constant
    return module


def state(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def test_stages_run_from_the_head_down_and_add_up() -> None:
    module = network()
    before = state(module)
    names, changed_so_far = [], set()
    for name, shuffled_module in randomised_copies(module, seed=0):
        names.append(name)
        changed_keys = {
            key for key, value in shuffled_module.state_dict().items() if not torch.equal(value, before[key])
        }
        assert changed_so_far < changed_keys
        new = changed_keys - changed_so_far
        where = {"head": ("norm.", "head.", "fc_norm."), "embedding": ("cls_token", "pos_embed", "patch_embed.")}
        expected = where.get(name) or (f"blocks.{name.split()[1]}.",)
        assert all(key.startswith(expected) for key in new), (name, new)
        changed_so_far = changed_keys
    assert names == ["head", "block 2", "block 1", "block 0", "embedding"]
    assert changed_so_far == set(before)  # in the end nothing is left


def test_every_tensor_keeps_its_values_and_loses_their_arrangement() -> None:
    module = network()
    before = state(module)
    *_, (_, shuffled_module) = randomised_copies(module, seed=0)
    for name, value in shuffled_module.state_dict().items():
        assert torch.equal(value.flatten().sort().values, before[name].flatten().sort().values), name
    weight = "blocks.0.attn.qkv.weight"
    pair = torch.stack([shuffled_module.state_dict()[weight].flatten(), before[weight].flatten()])
    assert abs(float(torch.corrcoef(pair)[0, 1])) < 0.1


def test_the_original_is_never_touched_and_seeds_repeat() -> None:
    module = network()
    before = state(module)
    finals = []
    for seed in (0, 0, 1):
        for _, shuffled_module in randomised_copies(module, seed=seed):
            assert shuffled_module is not module
            assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
        finals.append(state(shuffled_module))
    assert all(torch.equal(finals[0][name], finals[1][name]) for name in before)
    assert any(not torch.equal(finals[0][name], finals[2][name]) for name in before)
    assert all(a is b for a, b in zip(module.parameters(), module.parameters(), strict=True))


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("deit_tiny_distilled_patch16_224", {}),
        ("vit_tiny_patch16_224", {"reg_tokens": 2, "class_token": False, "global_pool": "avg"}),
        ("vit_tiny_patch16_224", {"global_pool": "map", "class_token": False}),
        ("eva02_tiny_patch14_224", {}),
    ],
)
def test_every_weight_of_other_transformers_has_one_stage(name: str, changes: dict[str, object]) -> None:
    module = network(name, depth=2, **changes)
    stages = weight_stages(module)
    assert [stage for stage, _ in stages] == ["head", "block 1", "block 0", "embedding"]
    staged_parameters = [parameter for _, parameters in stages for parameter in parameters]
    assert (
        len(staged_parameters)
        == len({id(parameter) for parameter in staged_parameters})
        == len(list(module.parameters()))
    )


def test_ten_blocks_are_in_order() -> None:
    names = [name for name, _ in weight_stages(network(depth=11))]
    assert names == ["head", *(f"block {number}" for number in range(10, -1, -1)), "embedding"]


def test_a_model_without_blocks_is_refused() -> None:
    with pytest.raises(ModelError, match="Linear is no sequence of blocks"):
        next(randomised_copies(nn.Linear(2, 2), seed=0))


# --- rank correlation


def slow_ranks(values: np.ndarray) -> list[float]:
    """Rank by definition: one more than the values below, plus half of the other equal ones."""
    return [1 + sum(values < value) + (sum(values == value) - 1) / 2 for value in values]


@given(st.integers(0, 100_000), st.integers(2, 12))
def test_rank_correlation_is_pearsons_of_mean_ranks(seed: int, length: int) -> None:
    rng = np.random.default_rng(seed)
    first, second = rng.integers(0, 6, (2, length)).astype(float)
    correlation = rank_correlation(first[None], second[None])[0]
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        assert np.isnan(correlation)
    else:
        assert correlation == pytest.approx(np.corrcoef(slow_ranks(first), slow_ranks(second))[0, 1], abs=1e-12)


def test_rank_correlation_agrees_with_torchmetrics() -> None:
    from torchmetrics.functional.regression import spearman_corrcoef

    rng = np.random.default_rng(0)
    first_BN, second_BN = np.round(rng.normal(size=(2, 4, 50)), 1)
    second_BN += first_BN
    theirs = [
        float(spearman_corrcoef(torch.from_numpy(a), torch.from_numpy(b)))
        for a, b in zip(first_BN, second_BN, strict=True)
    ]
    assert rank_correlation(first_BN, second_BN) == pytest.approx(theirs, abs=1e-6)


def test_rank_correlation_at_its_ends() -> None:
    rising = np.array([[1.0, 2, 3, 9]])
    assert rank_correlation(rising, np.exp(rising)) == pytest.approx([1])
    assert rank_correlation(rising, -rising) == pytest.approx([-1])
    assert np.isnan(rank_correlation(rising, np.ones((1, 4)))).all()
    with pytest.raises(ValueError, match="one shape"):
        rank_correlation(rising, rising[:, :3])
    with pytest.raises(ValueError, match="finite"):
        rank_correlation(rising, rising * np.nan)


# --- what survives


def test_correlation_equals_its_definition() -> None:
    rng = np.random.default_rng(0)
    intact_BRC, maps_BRC = rng.random((3, 4, 5)).round(1), rng.random((3, 4, 5)).round(1)  # with equal values
    expected = [
        np.corrcoef(slow_ranks(first_RC.ravel()), slow_ranks(second_RC.ravel()))[0, 1]
        for first_RC, second_RC in zip(intact_BRC, maps_BRC, strict=True)
    ]
    assert correlation_with_intact(intact_BRC, maps_BRC) == pytest.approx(np.array(expected))


def test_a_map_changes_at_the_stage_that_it_reads() -> None:
    def map_of(module: nn.Module) -> np.ndarray:
        return module.blocks[1].norm1.weight.detach().numpy()[:16].reshape(1, 4, 4)

    module = network()
    by_stage = {
        stage: correlation_with_intact(map_of(module), map_of(shuffled_module))[0]
        for stage, shuffled_module in randomised_copies(module, seed=0)
    }
    assert by_stage["head"] == by_stage["block 2"] == pytest.approx(1)
    assert by_stage["block 1"] < 0.9
    assert by_stage["block 1"] == by_stage["block 0"] == by_stage["embedding"]


def test_constant_maps_have_changed_only_if_they_have() -> None:
    constant_BRC, other_BRC = np.ones((1, 2, 2)), np.arange(4.0).reshape(1, 2, 2)
    assert correlation_with_intact(constant_BRC, 2 * constant_BRC) == 1
    assert correlation_with_intact(constant_BRC, other_BRC) == correlation_with_intact(other_BRC, constant_BRC) == 0
    with pytest.raises(ValueError, match="shape"):
        correlation_with_intact(constant_BRC, np.ones((1, 2, 3)))
