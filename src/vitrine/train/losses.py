"""What a step minimises. One loop serves every objective; this file holds the classifier's.

Axes: B pictures, C channels or classes, H and W pixels, D features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from timm.data import Mixup
from torch import Tensor, nn
from torch.nn import functional

from vitrine.config import Recipe
from vitrine.data.captions.transforms import CaptionTransform
from vitrine.data.loader import Batch, normalise, to_device
from vitrine.models.captioner.model import CaptionModel, Features


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
        is_dummy: these pictures are only here so that their process can take part in a step; they count nowhere.
    """

    features_BD: Tensor
    labels_B: Tensor
    indices_B: Tensor
    is_dummy: bool = False

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
        labels_B = to_device(batch.labels_B, self._device)
        if isinstance(batch, FeatureBatch):
            logits_BC = module(to_device(batch.features_BD, self._device))
        else:
            pixels_BCHW = normalise(to_device(batch.pixels_BCHW, self._device), self._mean, self._std)
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


@dataclass(frozen=True)
class CaptionBatch:
    """Pictures with the captions that are learnt of them.

    Attributes:
        seen: what the captioner sees: uint8 pictures (h, w, 3); or their features, where those are kept.
        ids_BT: int64; start, pieces, end, then padding; the captions of each picture one after the other.
        length_B: int64, of each caption with start and end.
        captions_P: how many captions each picture has.
        indices_P: int64 positions of the pictures in their data.
        is_dummy: these pictures are only here so that their process can take part in a step; they count nowhere.
    """

    seen: tuple[Tensor, ...] | Features
    ids_BT: Tensor
    length_B: Tensor
    captions_P: tuple[int, ...]
    indices_P: Tensor
    is_dummy: bool = False

    def __len__(self) -> int:
        """P."""
        return len(self.indices_P)


class TeacherForcing(nn.Module):
    """A captioner as one call, which is what engines of distributed training wrap.

    Attributes:
        captioner: the model that is trained.
        frozen: its image encoder is not: it stays in eval mode and gets no gradient.
    """

    def __init__(self, captioner: CaptionModel, *, frozen: bool) -> None:
        super().__init__()
        self.captioner, self.frozen = captioner, frozen
        if frozen:
            captioner.backbone.requires_grad_(False)

    def train(self, mode: bool = True) -> TeacherForcing:
        """Switch training mode; see ``frozen``."""
        super().train(mode)
        if self.frozen:
            self.captioner.backbone.eval()
        return self

    def forward(
        self, seen: Sequence[Tensor] | Features, ids_BT: Tensor, picked_N: Tensor, captions_P: Sequence[int]
    ) -> Tensor:
        """Logits (N, V), float32, of the pieces after some positions.

        Args:
            seen: normalised pictures (3, h, w), or features.
            ids_BT: int64, the captions of each picture one after the other.
            picked_N: int64, these positions among all B · T, row by row.
            captions_P: how many captions each picture has.
        """
        if not isinstance(seen, Features):
            with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
                seen = self.captioner.encode_image(seen)
        encoder_output = self.captioner.encode_features(seen)
        if len(ids_BT) > len(captions_P):
            encoder_output = encoder_output.select_rows(
                torch.arange(len(captions_P)).repeat_interleave(torch.tensor(captions_P))
            )
        return self.captioner.logits(encoder_output, ids_BT, picked_N)


class Captioning:
    """Cross-entropy over the pieces of captions; padding counts nowhere.

    Args:
        transform: how pictures are normalised.
        label_smoothing: 0 to 1.
        word_dropout: share of the pieces before that are hidden (their embedding becomes that of padding, which is
            zero), so that the model has to look (Bowman et al. 2016, arXiv:1511.06349).
        pad: the piece that fills captions up.
        device: where the model is.
    """

    def __init__(
        self, transform: CaptionTransform, label_smoothing: float, word_dropout: float, pad: int, device: torch.device
    ) -> None:
        self._transform, self._smoothing, self._hidden = transform, label_smoothing, word_dropout
        self._pad, self._device = pad, device

    def __call__(self, module: nn.Module, batch: CaptionBatch, *, mix: bool) -> Loss:  # noqa: ARG002  nothing is mixed
        """The loss of ``batch``: its mean is over word pieces, and so is its count."""
        # Found on the CPU: of a mask, an accelerator would have to be asked how much it picks.
        real_BT = _real(batch.length_B, batch.ids_BT.shape[1] - 1)
        picked_N, targets_N = real_BT.flatten().nonzero()[:, 0], batch.ids_BT[:, 1:][real_BT]
        picked_N, targets_N = to_device(picked_N, self._device), to_device(targets_N, self._device)
        given_BT = to_device(batch.ids_BT, self._device)[:, :-1]
        if self._hidden and module.training:
            hidden_BT = torch.rand(given_BT.shape, device=self._device) < self._hidden
            hidden_BT[:, 0] = False
            given_BT = given_BT.masked_fill(hidden_BT, self._pad)
        logits_NV = module(self._prepared(batch.seen), given_BT, picked_N, batch.captions_P)
        mean = functional.cross_entropy(logits_NV, targets_N, label_smoothing=self._smoothing)
        return Loss(mean, len(targets_N), (logits_NV.argmax(-1) == targets_N).sum())

    def _prepared(self, seen: tuple[Tensor, ...] | Features) -> tuple[Tensor, ...] | Features:
        if isinstance(seen, Features):
            padded = None if seen.padded_BRC is None else to_device(seen.padded_BRC, self._device)
            return Features(to_device(seen.values_BDRC, self._device), padded, seen.grids)
        return tuple(self._transform.normalise(to_device(pixels, self._device)) for pixels in seen)


def _real(length_B: Tensor, targets: int) -> Tensor:
    """bool (B, T - 1), True where there is a piece to predict: all but the start, the end included."""
    return torch.arange(targets, device=length_B.device) < (length_B - 1)[:, None]


def pad_captions(captions: Sequence[Sequence[int]], pad: int) -> tuple[Tensor, Tensor]:
    """Captions of several lengths as one tensor: int64 (B, T), and each one's length, int64 (B,)."""
    length_B = torch.tensor([len(ids) for ids in captions])
    ids_BT = torch.full((len(captions), int(length_B.max())), pad)
    for row, ids in zip(ids_BT, captions, strict=True):
        row[: len(ids)] = torch.tensor(ids)
    return ids_BT, length_B
