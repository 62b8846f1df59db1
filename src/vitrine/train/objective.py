"""What a step minimises. One loop serves every objective; this file holds the classifier's.

Axes: B pictures, C channels or classes, H and W pixels, D features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from vitrine.data.loading import Batch, normalise
from vitrine.data.transfer import moved
from vitrine.recipes import Recipe
from vitrine.torchpair import require_torchvision

require_torchvision()

from timm.data import Mixup  # noqa: E402


@dataclass(frozen=True)
class Loss:
    """The loss of one batch.

    Attributes:
        mean: scalar tensor with gradient: the mean over the batch.
        count: what it is the mean of: pictures, or a captioner's word pieces.
        correct: scalar int64 tensor: how many of these were the most likely one; None where targets were mixed.
    """

    mean: Tensor
    count: int
    correct: Tensor | None


@dataclass(frozen=True)
class FeatureBatch:
    """Features that go through a classifier together, in place of their pictures.

    Attributes:
        features_BD: float, on the CPU.
        labels_B: int64 class indices.
        indices_B: int64 positions of the pictures in their data.
        lent: these pictures are only here so that their process can take part in a step; they count nowhere.
    """

    features_BD: Tensor
    labels_B: Tensor
    indices_B: Tensor
    lent: bool = False

    def __len__(self) -> int:
        """B."""
        return len(self.labels_B)


class Objective(Protocol):
    """A loss over batches, given the model."""

    def __call__(self, module: nn.Module, batch: Any, *, mix: bool) -> Loss:
        """The loss of a batch of the objective's own kind; ``mix`` allows mixup and cutmix."""
        ...


class Classification:
    """Cross-entropy with label smoothing, over mixed pictures on request (timm's mixup and cutmix).

    Args:
        recipe: label_smoothing, mixup and cutmix are read.
        num_classes: C.
        mean, std: normalisation per channel on a 0-to-1 scale.
        device: where the model is.
    """

    def __init__(
        self,
        recipe: Recipe,
        num_classes: int,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
        device: torch.device,
    ) -> None:
        self._smoothing = recipe.label_smoothing
        self._mean, self._std, self._device = mean, std, device
        self._mixup = (
            Mixup(recipe.mixup, recipe.cutmix, label_smoothing=recipe.label_smoothing, num_classes=num_classes)
            if recipe.mixup or recipe.cutmix
            else None
        )

    def __call__(self, module: nn.Module, batch: Batch | FeatureBatch, *, mix: bool) -> Loss:
        labels_B = moved(batch.labels_B, self._device)
        if isinstance(batch, FeatureBatch):
            logits_BC = module(moved(batch.features_BD, self._device))
        else:
            pixels_BCHW = normalise(moved(batch.pixels_BCHW, self._device), self._mean, self._std)
            if mix and self._mixup is not None and len(labels_B) > 1:
                return self._mixed(module, pixels_BCHW, labels_B)
            logits_BC = module(pixels_BCHW)
        mean = functional.cross_entropy(logits_BC, labels_B, label_smoothing=self._smoothing)
        return Loss(mean, len(labels_B), (logits_BC.argmax(-1) == labels_B).sum())

    def _mixed(self, module: nn.Module, pixels_BCHW: Tensor, labels_B: Tensor) -> Loss:
        assert self._mixup is not None
        even = len(labels_B) // 2 * 2  # timm mixes pairs: the odd picture of a last batch is left out
        mixed_BCHW, targets_BC = self._mixup(pixels_BCHW[:even], labels_B[:even])
        return Loss(functional.cross_entropy(module(mixed_BCHW), targets_BC), even, None)
