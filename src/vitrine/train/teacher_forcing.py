"""How likely a captioner holds human captions to be, each word piece predicted from those before it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import nn

from vitrine.caption.tokenizer import Vocabulary
from vitrine.config import TransformSpec
from vitrine.data.captions.transforms import CaptionTrainTransform, CaptionTransform
from vitrine.data.loader import Batch, PictureLoader
from vitrine.data.samples import Sample
from vitrine.models.precision import autocast
from vitrine.train.losses import CaptionBatch, Captioning, pad_captions
from vitrine.train.task import RuntimeConfig


@dataclass(frozen=True)
class TeacherForcedScore:
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


def score_teacher_forced(
    module: nn.Module, batches: Iterable[CaptionBatch], transform: CaptionTransform, pad: int, runtime: RuntimeConfig
) -> TeacherForcedScore:
    """Measure a captioner under :class:`vitrine.train.losses.TeacherForcing`; its mode is put back.

    Args:
        module: the captioner, on the runtime's device.
        batches: with all captions that are to count.
        transform: how pictures are normalised.
        pad: the piece that fills captions up.
        runtime: device and precision.
    """
    objective = Captioning(transform, 0.0, 0.0, pad, runtime.device)
    was_training, loss, correct, count = module.training, 0.0, 0, 0
    module.eval()
    for batch in batches:
        with torch.inference_mode(), autocast(runtime.device, runtime.precision):
            found = objective(module, batch, mix=False)
        loss, count = loss + found.mean.item() * found.count, count + found.count
        correct += 0 if found.correct is None else int(found.correct)
    module.train(was_training)
    return TeacherForcedScore(loss, correct, count)


def load_unaugmented(
    samples: Sequence[Sample], transform: CaptionTransform, batch_size: int, workers: int
) -> Iterator[Batch]:
    """Pictures in order, as prediction sees them."""
    plain = CaptionTrainTransform(TransformSpec(), transform)
    with PictureLoader(plain, batch_size, workers) as loader:
        yield from loader.epoch(samples)


def encode_caption(words: Vocabulary, text: str, longest: int) -> list[int]:
    """Start, pieces and end, ``longest`` at most; a caption that is too long loses its last pieces."""
    return [words.start, *words.encode(text)[: longest - 2], words.end]


def make_caption_batch(
    seen: Any, ids: Sequence[Sequence[Sequence[int]]], indices: Sequence[int], pad: int
) -> CaptionBatch:
    """Pictures or their features with the captions of each, as ids, and their positions in their data."""
    ids_BT, length_B = pad_captions([each for captions in ids for each in captions], pad)
    return CaptionBatch(seen, ids_BT, length_B, tuple(map(len, ids)), torch.tensor(indices))


_KEPT = 100_000  # captions whose pieces are kept: a stream has more captions than memory


class CaptionSampler:
    """Joins pictures, or their features, with captions of theirs.

    Args:
        vocabulary: the word pieces.
        longest: pieces of a caption at most, start and end included; one that is too long loses its last pieces.
        a_picture: captions that are drawn of a picture that has more.
        seed: of the drawing.
    """

    def __init__(self, vocabulary: Vocabulary, longest: int, a_picture: int, seed: int) -> None:
        self._pad, self._a_picture, self._seed = vocabulary.pad, a_picture, seed
        self._encoded = lru_cache(_KEPT)(lambda text: encode_caption(vocabulary, text, longest))

    def batch(
        self, seen: Any, indices: Sequence[int], captions: Sequence[Sequence[str]], epoch: int | None
    ) -> CaptionBatch:
        """Pictures with captions of theirs.

        Args:
            seen: what a captioner sees of each picture.
            indices: positions of the pictures, with which and ``epoch`` their captions are drawn.
            captions: of each picture, one at least.
            epoch: for which captions are drawn; None takes all.
        """
        chosen = [self.chosen(each, index, epoch) for each, index in zip(captions, indices, strict=True)]
        return make_caption_batch(
            seen, [[self._encoded(text) for text in texts] for texts in chosen], indices, self._pad
        )

    def chosen(self, captions: Sequence[str], index: int, epoch: int | None) -> Sequence[str]:
        """The captions of one picture that an epoch learns."""
        if epoch is None or len(captions) <= self._a_picture:
            return captions
        rng = np.random.default_rng(np.random.SeedSequence((self._seed, epoch, index, 1)))
        return [captions[i] for i in rng.permutation(len(captions))[: self._a_picture]]
