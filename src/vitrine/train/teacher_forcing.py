"""Human captions under teacher forcing: sampled for training, and how likely a captioner holds them to be.

Under teacher forcing each token is predicted from the true tokens before it.
"""

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
from vitrine.io.limits import limit
from vitrine.models.precision import autocast
from vitrine.train.losses import CaptionBatch, Captioning, pad_captions
from vitrine.train.task import RuntimeConfig


@dataclass(frozen=True)
class TeacherForcedScore:
    """How well a captioner predicts the tokens of human captions, their ends included.

    Attributes:
        loss_sum: negative log-likelihood, summed over the tokens, in nats.
        correct: tokens that were the likeliest.
        tokens: how many there were.
    """

    loss_sum: float
    correct: int
    tokens: int

    @property
    def loss(self) -> float:
        """Mean negative log-likelihood of a token, in nats."""
        return self.loss_sum / self.tokens

    @property
    def accuracy(self) -> float:
        """Share of the tokens that were the likeliest, 0 to 1."""
        return self.correct / self.tokens


def score_teacher_forced(
    module: nn.Module, batches: Iterable[CaptionBatch], transform: CaptionTransform, pad: int, runtime: RuntimeConfig
) -> TeacherForcedScore:
    """Measure a captioner under :class:`vitrine.train.losses.TeacherForcing`; its training mode is put back.

    Args:
        module: the captioner, on the runtime's device.
        batches: pictures with all captions that are to count.
        transform: how pictures are normalised.
        pad: token id of padding.
        runtime: device and precision.
    """
    objective = Captioning(transform, 0.0, 0.0, pad, runtime.device)
    was_training, loss_sum, correct, tokens = module.training, 0.0, 0, 0
    module.eval()
    for batch in batches:
        with torch.inference_mode(), autocast(runtime.device, runtime.precision):
            loss = objective(module, batch, mix=False)
        loss_sum, tokens = loss_sum + loss.mean.item() * loss.count, tokens + loss.count
        correct += 0 if loss.correct is None else int(loss.correct)
    module.train(was_training)
    return TeacherForcedScore(loss_sum, correct, tokens)


def load_unaugmented(
    samples: Sequence[Sample], transform: CaptionTransform, batch_size: int, workers: int
) -> Iterator[Batch]:
    """Pictures in order, as prediction sees them."""
    plain = CaptionTrainTransform(TransformSpec(), transform)
    with PictureLoader(plain, batch_size, workers) as loader:
        yield from loader.epoch(samples)


def encode_caption(vocabulary: Vocabulary, text: str, max_length: int) -> list[int]:
    """Token ids of a caption, start and end included, ``max_length`` at most; longer ones lose their last words."""
    return [vocabulary.start, *vocabulary.encode(text)[: max_length - 2], vocabulary.end]


def make_caption_batch(
    images: Any, ids: Sequence[Sequence[Sequence[int]]], indices: Sequence[int], pad: int
) -> CaptionBatch:
    """Pictures, or their features, with the token ids of each one's captions and their positions in their data."""
    ids_BT, length_B = pad_captions([each for captions in ids for each in captions], pad)
    return CaptionBatch(images, ids_BT, length_B, tuple(map(len, ids)), torch.tensor(indices))


MAX_ENCODED_CAPTIONS = limit("MAX_ENCODED_CAPTIONS", 100_000)
"""Captions whose token ids a training keeps: a stream has more of them than fit into memory."""


class CaptionSampler:
    """Draws the captions that an epoch learns of each picture, and makes batches of them.

    Args:
        vocabulary: turns captions into token ids.
        max_length: tokens of a caption at most, start and end included; longer ones lose their last words.
        captions_per_picture: how many are drawn of a picture that has more.
        seed: of the draws.
    """

    def __init__(self, vocabulary: Vocabulary, max_length: int, captions_per_picture: int, seed: int) -> None:
        self._pad, self._captions_per_picture, self._seed = vocabulary.pad, captions_per_picture, seed
        self._encode = lru_cache(MAX_ENCODED_CAPTIONS)(lambda text: encode_caption(vocabulary, text, max_length))

    def batch(
        self, images: Any, indices: Sequence[int], captions: Sequence[Sequence[str]], epoch: int | None
    ) -> CaptionBatch:
        """Pictures with the captions that an epoch learns of them.

        Args:
            images: pictures, or their features.
            indices: positions of the pictures in their data, which seed the draws together with ``epoch``.
            captions: of each picture, one at least.
            epoch: for which captions are drawn; None takes all.
        """
        samples = [self.sample(each, index, epoch) for each, index in zip(captions, indices, strict=True)]
        ids = [[self._encode(text) for text in texts] for texts in samples]
        return make_caption_batch(images, ids, indices, self._pad)

    def sample(self, captions: Sequence[str], index: int, epoch: int | None) -> Sequence[str]:
        """The captions of one picture that an epoch learns."""
        if epoch is None or len(captions) <= self._captions_per_picture:
            return captions
        rng = np.random.default_rng(np.random.SeedSequence((self._seed, epoch, index, 1)))
        return [captions[i] for i in rng.permutation(len(captions))[: self._captions_per_picture]]
