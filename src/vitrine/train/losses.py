"""The losses: cross-entropy of classes, binary cross-entropy of labels one by one, cross-entropy of captions' tokens.

The training loop knows none of them.

Axes: B pictures or captions, C channels or classes, H and W pixels, D features, P pictures, T tokens of a caption with
padding, N tokens to predict, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from timm.data import Mixup
from torch import Tensor, nn
from torch.nn import functional

from vitrine.data.captions.transforms import CaptionTransform
from vitrine.data.loader import Batch, normalise, to_device
from vitrine.metrics.multi_label import multi_hot
from vitrine.models.captioner.model import CaptionModel, Features
from vitrine.train.settings import LossSettings


@dataclass(frozen=True)
class Loss:
    """The loss of one batch.

    Attributes:
        mean: scalar tensor with gradient: the mean over the batch.
        count: what it is the mean of: pictures, or a captioner's tokens.
        correct: scalar int64 tensor: how many of these were the most likely one; None where targets were mixed.
    """

    mean: Tensor
    count: int
    correct: Tensor | None


@dataclass(frozen=True)
class FeatureBatch:
    """Cached features of pictures, which go through a classifier's head together.

    Attributes:
        features_BD: float, on the CPU.
        labels_B: int64 class indices.
        indices_B: int64 positions of the pictures in their data.
        is_dummy: the pictures only let this process take part in a step; they count nowhere.
        label_sets: B tuples of the indices of all labels of a picture.
    """

    features_BD: Tensor
    labels_B: Tensor
    indices_B: Tensor
    is_dummy: bool = False
    label_sets: tuple[tuple[int, ...], ...] = ()

    def __len__(self) -> int:
        """B."""
        return len(self.labels_B)


class Objective(Protocol):
    """A loss over batches, given the model."""

    def __call__(self, module: nn.Module, batch: Any, *, mix: bool) -> Loss:
        """The loss of a batch of the objective's own kind; ``mix`` allows mixup and cutmix."""
        ...


class Classification:
    """Cross-entropy over classes, with label smoothing, and over mixed pictures where mixup or cutmix are on (timm's).

    The loss of a batch is the mean over its pictures, with class weights too: torch's own mean divides by the weights
    of the batch's classes, so that they would cancel where a batch, or a process's part of one, has a single class.

    Args:
        settings: label smoothing, mixup and cutmix.
        num_classes: C.
        mean, std: normalisation per channel on a 0-to-1 scale.
        device: where the model is.
        weights_C: of the classes; None weighs all alike.
    """

    def __init__(
        self,
        settings: LossSettings,
        num_classes: int,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
        device: torch.device,
        weights_C: npt.NDArray[np.float64] | None = None,
    ) -> None:
        self._smoothing = settings.label_smoothing
        self._mean, self._std, self._device = mean, std, device
        self._weights_C = _weights(weights_C, device)
        self._mixup = (
            Mixup(settings.mixup, settings.cutmix, label_smoothing=self._smoothing, num_classes=num_classes)
            if settings.mixes
            else None
        )

    def __call__(self, module: nn.Module, batch: Batch | FeatureBatch, *, mix: bool) -> Loss:
        labels_B = to_device(batch.labels_B, self._device)
        if isinstance(batch, FeatureBatch):
            logits_BC = module(to_device(batch.features_BD, self._device))
        else:
            pixels_BCHW = normalise(to_device(batch.pixels_BCHW, self._device), self._mean, self._std)
            if mix and self._mixup is not None and len(labels_B) > 1:
                return self._mixed_loss(module, pixels_BCHW, labels_B)
            logits_BC = module(pixels_BCHW)
        mean = self._cross_entropy(logits_BC, labels_B, self._smoothing)
        return Loss(mean, len(labels_B), (logits_BC.argmax(-1) == labels_B).sum())

    def _mixed_loss(self, module: nn.Module, pixels_BCHW: Tensor, labels_B: Tensor) -> Loss:
        assert self._mixup is not None
        even = len(labels_B) // 2 * 2  # timm mixes pairs: the odd picture of a last batch is left out
        mixed_BCHW, targets_BC = self._mixup(pixels_BCHW[:even], labels_B[:even])
        return Loss(self._cross_entropy(module(mixed_BCHW), targets_BC), even, None)

    def _cross_entropy(self, logits_BC: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        weights_C = self._weights_C
        if weights_C is None:
            return functional.cross_entropy(logits_BC, targets, label_smoothing=smoothing)
        losses_B = functional.cross_entropy(
            logits_BC.float(), targets, weights_C, label_smoothing=smoothing, reduction="none"
        )
        return losses_B.mean()


class MultiLabelClassification:
    """Binary cross-entropy of every label by itself, mean over pictures and labels.

    Label smoothing s makes targets of 0 and 1 into s / 2 and 1 - s / 2. Of pictures that mixup or cutmix (timm's)
    mixed, the targets are mixed as the pictures were.

    Args:
        settings: label smoothing, mixup and cutmix.
        num_labels: C.
        mean, std: normalisation per channel on a 0-to-1 scale.
        device: where the model is.
        positive_weights_C: of the labels where they are there; None weighs all alike.
    """

    def __init__(
        self,
        settings: LossSettings,
        num_labels: int,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
        device: torch.device,
        positive_weights_C: npt.NDArray[np.float64] | None = None,
    ) -> None:
        self._smoothing, self._labels = settings.label_smoothing, num_labels
        self._mean, self._std, self._device = mean, std, device
        self._positive_weights_C = _weights(positive_weights_C, device)
        self._mixup = Mixup(settings.mixup, settings.cutmix, label_smoothing=0.0) if settings.mixes else None

    def __call__(self, module: nn.Module, batch: Batch | FeatureBatch, *, mix: bool) -> Loss:
        """The loss of ``batch``; ``correct`` counts the pictures all of whose labels are right at 0.5."""
        targets_BC = to_device(torch.from_numpy(multi_hot(batch.label_sets, len(batch), self._labels)), self._device)
        if isinstance(batch, FeatureBatch):
            logits_BC = module(to_device(batch.features_BD, self._device))
        else:
            pixels_BCHW = normalise(to_device(batch.pixels_BCHW, self._device), self._mean, self._std)
            if mix and self._mixup is not None and len(batch) > 1:
                mixed_BCHW, mixed_targets_BC = self._mix(pixels_BCHW, targets_BC.float())
                return Loss(self._mean_loss(module(mixed_BCHW), mixed_targets_BC), len(mixed_BCHW), None)
            logits_BC = module(pixels_BCHW)
        is_right_B = ((logits_BC > 0) == targets_BC).all(dim=1)
        return Loss(self._mean_loss(logits_BC, targets_BC.float()), len(batch), is_right_B.sum())

    def _mix(self, pixels_BCHW: Tensor, targets_BC: Tensor) -> tuple[Tensor, Tensor]:
        """Pictures mixed in pairs, without the odd one of a last batch; and their targets, mixed by the same shares.

        timm mixes classes. Given the pictures' own numbers as classes, it says which share of which picture is in each.
        """
        assert self._mixup is not None
        even = len(pixels_BCHW) // 2 * 2
        self._mixup.num_classes = even
        mixed_BCHW, shares_BB = self._mixup(pixels_BCHW[:even], torch.arange(even, device=self._device))
        return mixed_BCHW, shares_BB.to(targets_BC.dtype) @ targets_BC[:even]

    def _mean_loss(self, logits_BC: Tensor, targets_BC: Tensor) -> Tensor:
        smooth_BC = targets_BC * (1 - self._smoothing) + self._smoothing / 2
        return functional.binary_cross_entropy_with_logits(
            logits_BC.float(), smooth_BC, pos_weight=self._positive_weights_C
        )


def _weights(weights_C: npt.NDArray[np.float64] | None, device: torch.device) -> Tensor | None:
    return None if weights_C is None else torch.from_numpy(weights_C).to(device, torch.float32)


@dataclass(frozen=True)
class CaptionBatch:
    """Pictures, or their cached features, with the captions that are learnt from them.

    Attributes:
        images: uint8 pictures (h, w, 3) of any sizes; or their features, where those are cached.
        ids_BT: int64 token ids: start, words, end, then padding; the captions of each picture one after the other.
        length_B: int64 tokens of each caption, its start and end included.
        captions_P: how many captions each picture has.
        indices_P: int64 positions of the pictures in their data.
        is_dummy: the pictures only let this process take part in a step; they count nowhere.
    """

    images: tuple[Tensor, ...] | Features
    ids_BT: Tensor
    length_B: Tensor
    captions_P: tuple[int, ...]
    indices_P: Tensor
    is_dummy: bool = False

    def __len__(self) -> int:
        """P."""
        return len(self.indices_P)


class TeacherForcing(nn.Module):
    """A captioner under teacher forcing, as one module whose forward pass gives logits: distributed training wraps it.

    Attributes:
        captioner: the model that is trained.
        frozen: whether its image encoder is left as it is, in eval mode and without gradients.
    """

    def __init__(self, captioner: CaptionModel, *, frozen: bool) -> None:
        super().__init__()
        self.captioner, self.frozen = captioner, frozen
        if frozen:
            captioner.backbone.requires_grad_(False)

    def train(self, mode: bool = True) -> TeacherForcing:
        """Switch training mode, but for a frozen image encoder."""
        super().train(mode)
        if self.frozen:
            self.captioner.backbone.eval()
        return self

    def forward(
        self, images: Sequence[Tensor] | Features, ids_BT: Tensor, positions_N: Tensor, captions_P: Sequence[int]
    ) -> Tensor:
        """Logits (N, V), float32, of the tokens that follow some positions.

        Args:
            images: normalised pictures (3, h, w), or features.
            ids_BT: int64 token ids, the captions of each picture one after the other.
            positions_N: int64, these positions among all B · T, row by row.
            captions_P: how many captions each picture has.
        """
        if not isinstance(images, Features):
            with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
                images = self.captioner.encode_image(images)
        encoder_output = self.captioner.encode_features(images)
        if len(ids_BT) > len(captions_P):
            encoder_output = encoder_output.select_rows(
                torch.arange(len(captions_P)).repeat_interleave(torch.tensor(captions_P))
            )
        return self.captioner.logits(encoder_output, ids_BT, positions_N)


class Captioning:
    """Cross-entropy over the tokens of captions, each predicted from those before it; padding counts nowhere.

    Args:
        transform: how pictures are normalised.
        label_smoothing: 0 to 1.
        word_dropout: share of the input tokens that are replaced by padding, whose embedding is zero, so that the model
            has to look at the picture (Bowman et al. 2016, arXiv:1511.06349).
        pad: token id of padding.
        device: where the model is.
    """

    def __init__(
        self, transform: CaptionTransform, label_smoothing: float, word_dropout: float, pad: int, device: torch.device
    ) -> None:
        self._transform, self._smoothing, self._word_dropout = transform, label_smoothing, word_dropout
        self._pad, self._device = pad, device

    def __call__(self, module: nn.Module, batch: CaptionBatch, *, mix: bool) -> Loss:  # noqa: ARG002  nothing is mixed
        """The loss of ``batch``: its mean is over tokens, and so is its count."""
        # On the CPU, because how many positions a mask selects is a number that an accelerator would have to send back.
        is_target_BT = _target_mask(batch.length_B, batch.ids_BT.shape[1] - 1)
        positions_N, targets_N = is_target_BT.flatten().nonzero()[:, 0], batch.ids_BT[:, 1:][is_target_BT]
        positions_N, targets_N = to_device(positions_N, self._device), to_device(targets_N, self._device)
        input_BT = to_device(batch.ids_BT, self._device)[:, :-1]
        if self._word_dropout and module.training:
            is_dropped_BT = torch.rand(input_BT.shape, device=self._device) < self._word_dropout
            is_dropped_BT[:, 0] = False
            input_BT = input_BT.masked_fill(is_dropped_BT, self._pad)
        logits_NV = module(self._to_model_input(batch.images), input_BT, positions_N, batch.captions_P)
        mean = functional.cross_entropy(logits_NV, targets_N, label_smoothing=self._smoothing)
        return Loss(mean, len(targets_N), (logits_NV.argmax(-1) == targets_N).sum())

    def _to_model_input(self, images: tuple[Tensor, ...] | Features) -> tuple[Tensor, ...] | Features:
        if isinstance(images, Features):
            padded_BRC = None if images.padded_BRC is None else to_device(images.padded_BRC, self._device)
            return Features(to_device(images.values_BDRC, self._device), padded_BRC, images.grids)
        return tuple(self._transform.normalise(to_device(pixels, self._device)) for pixels in images)


def _target_mask(length_B: Tensor, targets: int) -> Tensor:
    """bool (B, T - 1), True where a token is to be predicted: all but the start, the end included."""
    return torch.arange(targets, device=length_B.device) < (length_B - 1)[:, None]


def pad_captions(captions: Sequence[Sequence[int]], pad: int) -> tuple[Tensor, Tensor]:
    """Token ids of captions of several lengths, padded: int64 (B, T), and each one's length, int64 (B,)."""
    length_B = torch.tensor([len(ids) for ids in captions])
    ids_BT = torch.full((len(captions), int(length_B.max())), pad)
    for row, ids in zip(ids_BT, captions, strict=True):
        row[: len(ids)] = torch.tensor(ids)
    return ids_BT, length_B
