"""Binary cross-entropy of labels, class weights, and what mixup and cutmix do to targets, against torch and timm."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from timm.data import Mixup
from timm.loss import BinaryCrossEntropy
from torch import nn
from torch.nn import functional

from vitrine.data.loader import Batch
from vitrine.train.losses import Classification, FeatureBatch, MultiLabelClassification
from vitrine.train.settings import LossSettings

CPU, MEAN, STD = torch.device("cpu"), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
SETS = ((0, 2), (), (1,), (0, 1, 2), (2,))
TARGETS = torch.tensor([[1.0, 0, 1], [0, 0, 0], [0, 1, 0], [1, 1, 1], [0, 0, 1]])


def settings(**changes: Any) -> LossSettings:
    return LossSettings(**{"class_weights": "none", "label_smoothing": 0.0, "mixup": 0.0, "cutmix": 0.0, **changes})


def feature_batch(sets: tuple[tuple[int, ...], ...] = SETS) -> FeatureBatch:
    n = len(sets)
    features = torch.randn(n, 4, generator=torch.Generator().manual_seed(1))
    return FeatureBatch(features, torch.tensor([s[0] if s else -1 for s in sets]), torch.arange(n), label_sets=sets)


def picture_batch(sets: tuple[tuple[int, ...], ...]) -> Batch:
    n = len(sets)
    pixels = torch.randint(0, 256, (n, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    return Batch(pixels, torch.tensor([s[0] if s else -1 for s in sets]), torch.arange(n), label_sets=sets)


def head(classes: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(classes))


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weights", [None, np.array([0.5, 3.0, 8.0])])
def test_the_loss_is_torchs_bce_with_logits(smoothing: float, weights: Any) -> None:
    module, batch = head(), feature_batch()
    objective = MultiLabelClassification(settings(label_smoothing=smoothing), 3, MEAN, STD, CPU, weights)
    loss = objective(module, batch, mix=True)
    targets = TARGETS * (1 - smoothing) + smoothing / 2  # by hand: 0 and 1 become s / 2 and 1 - s / 2
    peer = nn.BCEWithLogitsLoss(pos_weight=None if weights is None else torch.tensor(weights, dtype=torch.float32))
    logits = module(batch.features_BD)
    assert loss.mean.item() == pytest.approx(peer(logits, targets).item(), rel=1e-6)
    assert loss.count == 5
    assert loss.correct is not None
    assert int(loss.correct) == sum(bool(((row > 0) == (t > 0)).all()) for row, t in zip(logits, TARGETS, strict=True))


def test_one_label_a_picture_is_timms_binary_cross_entropy() -> None:
    module, batch = head(), feature_batch(((0,), (2,), (1,), (1,)))
    loss = MultiLabelClassification(settings(), 3, MEAN, STD, CPU)(module, batch, mix=True)
    peer = BinaryCrossEntropy(smoothing=0.0)(module(batch.features_BD), batch.labels_B)
    assert loss.mean.item() == pytest.approx(peer.item(), rel=1e-6)


@pytest.mark.parametrize("mix", [{"mixup": 0.8}, {"cutmix": 1.0}, {"mixup": 0.4, "cutmix": 0.4}])
@pytest.mark.parametrize("n", [4, 5])
def test_targets_are_mixed_as_timm_mixes_pictures(mix: dict[str, float], n: int) -> None:
    """Of pictures with one label each, mixed targets are timm's; so are pixels."""
    sets = tuple((i % 3,) for i in range(n))
    module, batch = head(), picture_batch(sets)
    objective = MultiLabelClassification(settings(**mix), 3, MEAN, STD, CPU)
    np.random.seed(5)  # noqa: NPY002  timm draws from it
    loss = objective(module, batch, mix=True)
    pixels = (batch.pixels_BCHW.float() / 255 - 0.5) / 0.5
    np.random.seed(5)  # noqa: NPY002
    mixed, targets = Mixup(mix.get("mixup", 0.0), mix.get("cutmix", 0.0), label_smoothing=0.0, num_classes=3)(
        pixels[:4].clone(), batch.labels_B[:4]
    )
    peer = functional.binary_cross_entropy_with_logits(module(mixed), targets.float())
    assert (loss.count, loss.correct) == (4, None)
    assert loss.mean.item() == pytest.approx(peer.item(), rel=1e-5)


def test_mixed_targets_of_several_labels_are_shares_of_both_pictures() -> None:
    class Seen(nn.Module):
        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            return torch.zeros(len(pixels), 3, requires_grad=True)

    objective = MultiLabelClassification(settings(mixup=1.0), 3, MEAN, STD, CPU)
    np.random.seed(9)  # noqa: NPY002
    mixed, targets = objective._mix(torch.arange(4.0)[:, None, None, None].expand(4, 3, 2, 2).clone(), TARGETS[:4])
    share = (mixed[0, 0, 0, 0] / 3).item()  # picture 0 is 0 everywhere and picture 3 is 3: what is there is 3's share
    np.testing.assert_allclose(targets[0], (1 - share) * TARGETS[0] + share * TARGETS[3], atol=1e-6)
    assert objective(Seen(), picture_batch(SETS), mix=False).count == 5


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_class_weights_are_torchs_and_the_mean_is_over_pictures(smoothing: float) -> None:
    weights, module, batch = np.array([0.2, 1.0, 5.0]), head(), feature_batch(((0,), (2,), (1,), (2,)))
    loss = Classification(settings(label_smoothing=smoothing), 3, MEAN, STD, CPU, weights)(module, batch, mix=True)
    peer = nn.CrossEntropyLoss(torch.tensor(weights, dtype=torch.float32), label_smoothing=smoothing, reduction="sum")
    assert loss.mean.item() == pytest.approx(peer(module(batch.features_BD), batch.labels_B).item() / 4, rel=1e-6)


def test_a_batch_of_one_class_still_has_its_weight() -> None:
    module, batch = head(), feature_batch(((2,), (2,)))
    plain = Classification(settings(), 3, MEAN, STD, CPU)(module, batch, mix=True).mean
    heavy = Classification(settings(), 3, MEAN, STD, CPU, np.array([1.0, 1.0, 4.0]))(module, batch, mix=True).mean
    assert heavy.item() == pytest.approx(4 * plain.item(), rel=1e-6)
