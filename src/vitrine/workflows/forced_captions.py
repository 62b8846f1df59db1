"""How likely a captioner holds human captions to be, each word piece predicted from those before it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from vitrine.caption.vocabulary import Vocabulary
from vitrine.data.caption_batch import PictureBatch, load_pictures
from vitrine.data.caption_transform import CaptionTrainTransform, CaptionTransform
from vitrine.data.loading import PictureLoader
from vitrine.data.samples import Sample
from vitrine.models.precision import autocast
from vitrine.recipes import TransformSpec
from vitrine.train.captioning import CaptionBatch, Captioning, fill_up
from vitrine.workflows.training_task import Setting


@dataclass(frozen=True)
class Forced:
    """What the word pieces of human captions come to, ends included.

    Attributes:
        total: negative log-likelihood, summed over the pieces, in nats.
        correct: pieces that were the likeliest.
        pieces: how many there were.
    """

    total: float
    correct: int
    pieces: int

    @property
    def loss(self) -> float:
        """Mean over the pieces, in nats."""
        return self.total / self.pieces

    @property
    def accuracy(self) -> float:
        """Share of the pieces that were the likeliest, 0 to 1."""
        return self.correct / self.pieces


def measure_forced(
    module: nn.Module, batches: Iterable[CaptionBatch], transform: CaptionTransform, pad: int, setting: Setting
) -> Forced:
    """Measure a captioner under :class:`vitrine.train.captioning.TeacherForcing`; its mode is put back.

    Args:
        module: the captioner, on the setting's device.
        batches: with all captions that are to count.
        transform: how pictures are normalised.
        pad: the piece that fills captions up.
        setting: device and precision.
    """
    objective = Captioning(transform, 0.0, 0.0, pad, setting.device)
    was_training, loss, correct, count = module.training, 0.0, 0, 0
    module.eval()
    for batch in batches:
        with torch.inference_mode(), autocast(setting.device, setting.precision):
            found = objective(module, batch, mix=False)
        loss, count = loss + found.mean.item() * found.count, count + found.count
        correct += 0 if found.correct is None else int(found.correct)
    module.train(was_training)
    return Forced(loss, correct, count)


def plain_pictures(
    samples: Sequence[Sample], transform: CaptionTransform, batch_size: int, workers: int
) -> Iterator[PictureBatch]:
    """Pictures in order, as prediction sees them."""
    plain = CaptionTrainTransform(TransformSpec(), transform)
    with PictureLoader(plain, batch_size, workers, load_pictures) as loader:
        yield from loader.epoch(samples)


def encoded_caption(words: Vocabulary, text: str, longest: int) -> list[int]:
    """Start, pieces and end, ``longest`` at most; a caption that is too long loses its last pieces."""
    return [words.start, *words.encode(text)[: longest - 2], words.end]


def caption_batch(seen: Any, ids: Sequence[Sequence[Sequence[int]]], indices: Sequence[int], pad: int) -> CaptionBatch:
    """Pictures or their features with the captions of each, as ids, and their positions in their data."""
    ids_BT, length_B = fill_up([each for captions in ids for each in captions], pad)
    return CaptionBatch(seen, ids_BT, length_B, tuple(map(len, ids)), torch.tensor(indices))
