"""Insertion and deletion curves against slow loops, hand-worked areas and Quantus."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vitrine.attribution.faithfulness import (
    BLUR,
    area,
    blur,
    curve_ends,
    deletion_areas,
    insertion_deletion_curves,
    patch_counts,
)

Probability = Callable[[torch.Tensor], torch.Tensor]


def pictures(count: int, side: int = 16, seed: int = 0, channels: int = 3) -> torch.Tensor:
    return torch.randn(count, channels, side, side, generator=torch.Generator().manual_seed(seed))


def maps(count: int, rows: int, columns: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, rows, columns)).astype(np.float32)


@pytest.fixture(scope="module")
def network() -> Probability:
    """A small transformer with large random weights, so that its probabilities differ."""
    torch.manual_seed(3)
    module = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2, num_classes=5
    ).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(2)
        module.head.weight.normal_()
    return lambda pixels_BCHW: module(pixels_BCHW).softmax(dim=1)


def additive(weights_RC: np.ndarray) -> Probability:
    """A "model" whose first output is the weighted mean of the patches' mean values; the second is always smaller."""

    def probability(pixels_BCHW: torch.Tensor) -> torch.Tensor:
        size = pixels_BCHW.shape[-2] // weights_RC.shape[0], pixels_BCHW.shape[-1] // weights_RC.shape[1]
        patches_BRC = torch.nn.functional.avg_pool2d(pixels_BCHW, size).mean(dim=1)
        first_B = (patches_BRC * torch.from_numpy(weights_RC)).sum(dim=(1, 2))
        return torch.stack([first_B, first_B - 1], dim=1)

    return probability


def slow_blur(pixels_BCHW: torch.Tensor) -> torch.Tensor:
    """The Gaussian by its formula, every picture, channel and pixel in turn, in double precision."""
    height, width = pixels_BCHW.shape[-2:]
    sigma = BLUR * min(height, width)
    reach = min(int(np.ceil(3 * sigma)), min(height, width) - 1)
    offsets = np.arange(-reach, reach + 1)
    weights = np.exp(-(offsets**2) / (2 * sigma**2))
    weights_KK = np.outer(weights, weights) / weights.sum() ** 2
    result = np.empty(pixels_BCHW.shape)
    for index in np.ndindex(*pixels_BCHW.shape[:2]):
        padded_CHW = np.pad(pixels_BCHW[index].double().numpy(), reach, mode="reflect")
        for y, x in np.ndindex(height, width):
            result[index][y, x] = (padded_CHW[y : y + 2 * reach + 1, x : x + 2 * reach + 1] * weights_KK).sum()
    return torch.from_numpy(result).float()


def slow_curves(
    probability: Probability, pixels_CHW: torch.Tensor, scores_RC: np.ndarray, steps: int
) -> tuple[list[float], list[float]]:
    """Deletion and insertion of one picture, one patch and one forward pass at a time."""
    rows, columns = scores_RC.shape
    down, across = pixels_CHW.shape[1] // rows, pixels_CHW.shape[2] // columns
    order = sorted(np.ndindex(rows, columns), key=lambda at: -scores_RC[at])
    target = int(probability(pixels_CHW[None])[0].argmax())
    without_CHW, with_CHW = pixels_CHW.clone(), slow_blur(pixels_CHW[None])[0]
    deletion, insertion = [], []
    for done in range(rows * columns + 1):
        if done in {round(step * rows * columns / steps) for step in range(steps + 1)}:
            deletion.append(float(probability(without_CHW[None])[0, target]))
            insertion.append(float(probability(with_CHW[None])[0, target]))
        if done < rows * columns:
            row, column = order[done]
            there = (slice(None), slice(row * down, (row + 1) * down), slice(column * across, (column + 1) * across))
            without_CHW[there] = 0
            with_CHW[there] = pixels_CHW[there]
    return deletion, insertion


@torch.inference_mode()
def test_curves_equal_a_slow_loop(network: Probability) -> None:
    pixels_BCHW, scores_BRC = pictures(3, 32), maps(3, 4, 4)
    curves = insertion_deletion_curves(network, pixels_BCHW, scores_BRC, steps=8)
    assert curves.shares_S == pytest.approx(np.arange(9) / 8)
    for picture in range(3):
        deletion, insertion = slow_curves(network, pixels_BCHW[picture], scores_BRC[picture], steps=8)
        assert curves.deletion_BS[picture] == pytest.approx(deletion, abs=1e-5)
        assert curves.insertion_BS[picture] == pytest.approx(insertion, abs=1e-5)
    assert np.ptp(curves.deletion_BS, axis=1).min() > 0.01  # there was something to compare


def test_deletion_with_something_else_in_place_of_patches(network: Probability) -> None:
    inputs, scores = pictures(3, 32), maps(3, 4, 4)
    grey = insertion_deletion_curves(network, inputs, scores, steps=5)
    same = deletion_areas(network, inputs, torch.zeros_like(inputs), scores, steps=5)
    np.testing.assert_allclose(same, grey.deletion_area, rtol=1e-6)
    others = inputs.roll(1, 0)
    swapped = deletion_areas(network, inputs, others, scores, steps=5, batch_size=3)
    for picture in range(3):
        order = np.argsort(-scores[picture].ravel())
        heights = []
        for count in patch_counts(16, 5):
            changed = inputs[picture].clone()
            for patch in order[:count]:
                row, column = divmod(int(patch), 4)
                there = (slice(None), slice(8 * row, 8 * row + 8), slice(8 * column, 8 * column + 8))
                changed[there] = others[picture][there]
            heights.append(float(network(changed[None])[0, grey.classes_B[picture]]))
        expected = area(np.array([heights]), patch_counts(16, 5) / 16)[0]
        assert swapped[picture] == pytest.approx(expected, rel=1e-5)


def test_the_class_is_the_one_predicted_on_the_intact_picture(network: Probability) -> None:
    pixels_BCHW = pictures(6, 32)
    intact_BC = network(pixels_BCHW).detach().numpy()
    curves = insertion_deletion_curves(network, pixels_BCHW, maps(6, 4, 4))
    assert (curves.classes_B == intact_BC.argmax(axis=1)).all()
    assert curves.deletion_BS[:, 0] == pytest.approx(intact_BC.max(axis=1), abs=1e-6)
    assert (curves.insertion_BS[:, -1] == curves.deletion_BS[:, 0]).all()


def test_areas_of_an_additive_model_worked_out_by_hand() -> None:
    weights_RC = np.array([[0.4, 0.1], [0.3, 0.2]], dtype=np.float32)
    ones_BCHW = torch.ones(1, 3, 8, 8)
    best = insertion_deletion_curves(additive(weights_RC), ones_BCHW, weights_RC[None])
    assert best.deletion_BS[0] == pytest.approx([1, 0.6, 0.3, 0.1, 0])  # without 0.4, 0.3, 0.2, 0.1 in turn
    assert best.deletion_area[0] == pytest.approx((1 / 2 + 0.6 + 0.3 + 0.1 + 0 / 2) / 4)
    worst = insertion_deletion_curves(additive(weights_RC), ones_BCHW, -weights_RC[None])
    assert worst.deletion_BS[0] == pytest.approx([1, 0.9, 0.7, 0.4, 0])
    assert best.insertion_BS[0] == pytest.approx([1] * 5)  # a blurred white picture is white
    assert best.gap[0] == pytest.approx(1 - 0.375)


def test_insertion_of_an_additive_model_starts_from_the_blur() -> None:
    weights_RC = np.random.default_rng(1).dirichlet(np.ones(16)).reshape(4, 4).astype(np.float32)
    pixels_BCHW = pictures(1)
    curves = insertion_deletion_curves(additive(weights_RC), pixels_BCHW, weights_RC[None])
    patches = [torch.nn.functional.avg_pool2d(p, 4).mean(dim=1)[0].numpy() for p in (pixels_BCHW, blur(pixels_BCHW))]
    order = np.argsort(-weights_RC.ravel())
    gains = (weights_RC * (patches[0] - patches[1])).ravel()[order]
    start = (weights_RC * patches[1]).sum()
    assert curves.insertion_BS[0] == pytest.approx(start + np.concatenate([[0], np.cumsum(gains)]), abs=1e-5)


@settings(max_examples=25)
@given(st.integers(0, 10_000))
def test_no_order_deletes_faster_than_the_true_one(seed: int) -> None:
    weights_RC = np.random.default_rng(seed).dirichlet(np.ones(9)).reshape(3, 3).astype(np.float32)
    ones_BCHW = torch.ones(2, 1, 6, 6)
    scores_BRC = np.stack([weights_RC, maps(1, 3, 3, seed)[0]])
    true, other = insertion_deletion_curves(additive(weights_RC), ones_BCHW, scores_BRC).deletion_area
    assert true <= other + 1e-6


@pytest.mark.parametrize("batch_size", [1, 5, 7, 1000])
def test_numbers_do_not_depend_on_the_batches(network: Probability, batch_size: int) -> None:
    pixels_BCHW, scores_BRC = pictures(5, 32), np.round(maps(5, 4, 4))  # with ties
    whole = insertion_deletion_curves(network, pixels_BCHW, scores_BRC)
    curves = insertion_deletion_curves(network, pixels_BCHW, scores_BRC, batch_size=batch_size)
    assert curves.deletion_BS == pytest.approx(whole.deletion_BS, abs=1e-5)
    assert curves.insertion_BS == pytest.approx(whole.insertion_BS, abs=1e-5)
    alone = insertion_deletion_curves(network, pixels_BCHW[3:4], scores_BRC[3:4], batch_size=batch_size)
    assert alone.deletion_BS[0] == pytest.approx(whole.deletion_BS[3], abs=1e-5)


def test_a_constant_map_is_a_random_order_and_not_the_reading_order() -> None:
    """All of the weight on the first patch: deleted first, the area is 1/32; at a random place, 1/2 on average."""
    weights_RC = np.zeros((4, 4), dtype=np.float32)
    weights_RC[0, 0] = 1
    pixels_BCHW = torch.ones(400, 1, 8, 8) + 1e-6 * pictures(400, 8, channels=1)
    constant = insertion_deletion_curves(
        additive(weights_RC), pixels_BCHW, np.full((400, 4, 4), 0.25, dtype=np.float32)
    )
    areas = constant.deletion_area  # uniform on 1/32, 3/32 ... 31/32: a standard deviation of 0.288
    assert areas.mean() == pytest.approx(0.5, abs=4 * 0.29 / np.sqrt(400))
    assert areas.std() == pytest.approx(0.288, abs=0.04)
    again = insertion_deletion_curves(additive(weights_RC), pixels_BCHW, np.zeros((400, 4, 4), dtype=np.float32))
    assert (again.deletion_BS == constant.deletion_BS).all()
    other = insertion_deletion_curves(
        additive(weights_RC), pixels_BCHW, np.zeros((400, 4, 4), dtype=np.float32), seed=1
    )
    assert (other.deletion_area != areas).mean() > 0.8


def test_ties_are_broken_among_themselves_only() -> None:
    weights_RC = np.array([[0.5, 0.25], [0.25, 0.0]], dtype=np.float32)
    scores_RC = np.array([[3.0, 2.0], [2.0, 1.0]], dtype=np.float32)
    curves = insertion_deletion_curves(additive(weights_RC), torch.ones(1, 1, 4, 4), scores_RC[None])
    assert curves.deletion_BS[0] == pytest.approx([1, 0.5, 0.25, 0, 0])


def test_steps_are_equal_parts_of_any_number_of_patches() -> None:
    assert patch_counts(196, 16).tolist() == [round(196 * step / 16) for step in range(17)]
    assert patch_counts(4, 16).tolist() == [0, 1, 2, 3, 4]
    assert patch_counts(1, 3).tolist() == [0, 1]


def test_the_area_is_the_trapezoid_rule_over_shares() -> None:
    assert area(np.array([[1.0, 0.5, 0.0]]), np.array([0, 0.5, 1])) == pytest.approx([0.5])
    curve_S, shares_S = np.random.default_rng(0).random(9), np.arange(9) / 8
    rise_area = (curve_S.sum() - curve_S[0] / 2 - curve_S[-1] / 2) / 8  # as the authors of RISE compute it
    assert area(curve_S[None], shares_S) == pytest.approx([rise_area])
    uneven_S = np.array([0, 0.1, 0.7, 1])
    assert area(curve_S[None, :4], uneven_S) == pytest.approx([np.trapezoid(curve_S[:4], uneven_S)])


def test_the_blur_is_a_gaussian_mirrored_at_the_edges() -> None:
    pixels_BCHW = torch.randn(1, 1, 10, 14, generator=torch.Generator().manual_seed(5))
    assert blur(pixels_BCHW).numpy() == pytest.approx(slow_blur(pixels_BCHW).numpy(), abs=1e-6)
    assert blur(torch.ones(1, 1, 1, 1)).item() == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scores_BRC": maps(2, 3, 4)}, "does not divide"),
        ({"scores_BRC": maps(1, 4, 4)}, "of one B"),
        ({"scores_BRC": np.full((2, 4, 4), np.nan)}, "finite"),
        ({"steps": 0}, "at least 1"),
        ({"batch_size": 0}, "at least 1"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"pixels_BCHW": pictures(2), "scores_BRC": maps(2, 4, 4)} | change
    with pytest.raises(ValueError, match=message):
        insertion_deletion_curves(additive(np.ones((4, 4), dtype=np.float32)), **arguments)


@pytest.mark.filterwarnings("ignore")
def test_deletion_agrees_with_quantus() -> None:
    quantus = pytest.importorskip("quantus", reason="Quantus, whose pixel flipping this compares with, is not here")
    torch.manual_seed(0)
    module = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(144, 3)
    ).eval()
    pixels_BCHW, scores_BRC = pictures(4, 8, channels=1), maps(4, 8, 8)  # a patch is a pixel: theirs are features
    ours = insertion_deletion_curves(lambda inputs_BCHW: module(inputs_BCHW).softmax(dim=1), pixels_BCHW, scores_BRC)
    flipping = quantus.PixelFlipping(
        features_in_step=4, abs=False, normalise=False, perturb_baseline=0.0, disable_warnings=True
    )
    theirs = flipping(
        model=module,
        x_batch=pixels_BCHW.numpy(),
        y_batch=ours.classes_B,
        a_batch=scores_BRC[:, None],
        channel_first=True,
        softmax=True,
    )
    assert np.array(theirs) == pytest.approx(ours.deletion_BS[:, 1:], abs=1e-5)


def test_ends_of_curves_are_computed_once_for_many_maps() -> None:
    pixels, calls = torch.rand(3, 3, 8, 8), []

    def probability(pixels_JCHW: torch.Tensor) -> torch.Tensor:
        calls.append(len(pixels_JCHW))
        return torch.stack([pixels_JCHW.mean((1, 2, 3)), 1 - pixels_JCHW.mean((1, 2, 3))], dim=1)

    ends = curve_ends(probability, pixels)
    assert sum(calls) == 9  # intact, blank and blurred
    calls.clear()
    maps = np.random.default_rng(0).random((3, 4, 4))
    shared = insertion_deletion_curves(probability, pixels, maps, ends=ends)
    assert sum(calls) == 3 * 2 * 15
    alone = insertion_deletion_curves(probability, pixels, maps)
    assert np.array_equal(shared.deletion_BS, alone.deletion_BS)
    assert np.array_equal(shared.insertion_BS, alone.insertion_BS)
    assert shared.deletion_BS[:, -1] == pytest.approx(probability(0 * pixels)[range(3), ends.classes_B].numpy())
    calls.clear()
    filled = deletion_areas(probability, pixels, 1 - pixels, maps, ends=ends)
    assert sum(calls) == 3 * 16  # the intact pictures are not asked about again
    assert np.array_equal(filled, deletion_areas(probability, pixels, 1 - pixels, maps))
    whole = insertion_deletion_curves(probability, pixels, maps, steps=1)
    assert whole.deletion_BS.shape == whole.insertion_BS.shape == (3, 2)
