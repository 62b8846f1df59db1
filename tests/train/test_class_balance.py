"""Weights of classes, labels and pictures, against scikit-learn, torch and counts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch.utils.data import WeightedRandomSampler

from vitrine.data.batch_plan import draw_numbers, epoch_order
from vitrine.errors import RecipeError
from vitrine.train.class_balance import (
    balanced_class_weights,
    balanced_positive_weights,
    balanced_sampling_weights,
    check_balance,
    count_labels,
)


@pytest.mark.parametrize("counts", [(10, 30, 60), (1, 1), (5, 0, 95), (7,), (0, 0, 3, 9)])
def test_class_weights_are_those_of_sklearn(counts: tuple[int, ...]) -> None:
    labels_N = np.repeat(np.arange(len(counts)), counts)
    weights_C = balanced_class_weights(count_labels([(int(label),) for label in labels_N], len(counts)))
    present = np.unique(labels_N)
    np.testing.assert_allclose(weights_C[present], compute_class_weight("balanced", classes=present, y=labels_N))
    assert all(weights_C[c] == 1 for c, count in enumerate(counts) if not count)
    assert weights_C[labels_N].mean() == pytest.approx(1)


def test_positive_weights_make_both_sides_of_a_label_weigh_the_same() -> None:
    rng = np.random.default_rng(0)
    targets_NC = rng.random((200, 5)) < (0.02, 0.2, 0.5, 0.9, 0.0)
    targets_NC[:, 4] = False
    counts_C = count_labels([tuple(np.flatnonzero(row)) for row in targets_NC], 5)
    assert counts_C.tolist() == targets_NC.sum(axis=0).tolist()
    weights_C = balanced_positive_weights(counts_C, 200)
    for c in range(4):
        assert weights_C[c] * targets_NC[:, c].sum() == pytest.approx((~targets_NC[:, c]).sum())
    assert weights_C[4] == 1
    assert balanced_positive_weights(np.array([200]), 200).tolist() == [1]


def test_balanced_sampling_draws_as_torch_does() -> None:
    labels_N = np.repeat([0, 1, 2], [10, 90, 300])
    weights_N = balanced_sampling_weights(labels_N)
    orders = [epoch_order(400, seed=3, epoch=epoch, shuffle=True, weights_N=weights_N) for epoch in range(50)]
    ours = np.bincount(labels_N[np.concatenate(orders)], minlength=3) / (50 * 400)
    sampler = WeightedRandomSampler(
        weights_N.tolist(), 50 * 400, replacement=True, generator=torch.Generator().manual_seed(0)
    )
    theirs = np.bincount(labels_N[list(sampler)], minlength=3) / (50 * 400)
    # The standard error of a share of a third is 0.0033 here.
    np.testing.assert_allclose(ours, 1 / 3, atol=0.015)
    np.testing.assert_allclose(ours, theirs, atol=0.02)
    again = epoch_order(400, seed=3, epoch=7, shuffle=True, weights_N=weights_N)
    assert (again == orders[7]).all() and (orders[7] != orders[8]).any()


def test_draw_numbers_count_earlier_draws() -> None:
    order = np.random.default_rng(1).integers(0, 9, 60)
    expected = [sum(order[j] == order[i] for j in range(i)) for i in range(60)]
    assert draw_numbers(order).tolist() == expected
    assert draw_numbers(np.arange(5)).tolist() == [0] * 5


@pytest.mark.parametrize(
    ("weights", "sampling", "endless", "several", "message"),
    [
        ("balanced", "shuffle", True, False, "class_weights = 'balanced' cannot be used: expected none, as these"),
        ("none", "balanced", True, False, "sampling = 'balanced' cannot be used: expected shuffle, as these training"),
        ("none", "balanced", False, True, "has no one class; class_weights = balanced weighs its labels"),
    ],
)
def test_what_cannot_be_balanced_is_refused(
    weights: str, sampling: str, endless: bool, several: bool, message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        check_balance(weights, sampling, endless=endless, is_multi_label=several)
    check_balance("balanced", "shuffle" if several else "balanced", endless=False, is_multi_label=several)
