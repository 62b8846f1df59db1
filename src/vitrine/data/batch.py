"""One batch: which samples, which random numbers, and how they become tensors.

Axes: B pictures of a batch, C channels (red, green, blue), H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from PIL import Image

from vitrine.data.samples import Sample
from vitrine.data.transfer import moved
from vitrine.errors import PictureError


class Transform(Protocol):
    """A picture to a square of pixels."""

    size: int

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> np.ndarray:
        """RGB picture to uint8, (size, size, 3)."""
        ...


@dataclass(frozen=True)
class Batch:
    """Pictures that go through a model together.

    Attributes:
        pixels_BCHW: uint8, 0 to 255.
        labels_B: int64 class indices; -1 where unknown.
        indices_B: int64 positions in the samples that were given.
        unreadable: (position, reason) of pictures that belong here and could not be read; they have no row above, so
            a batch may even be empty.
        lent: these pictures are only here so that their process can take part in a step; they count nowhere.
    """

    pixels_BCHW: torch.Tensor
    labels_B: torch.Tensor
    indices_B: torch.Tensor
    unreadable: tuple[tuple[int, str], ...] = ()
    lent: bool = False

    def __len__(self) -> int:
        """B."""
        return len(self.labels_B)

    def pin_memory(self) -> Batch:
        """The same in memory that an accelerator copies from by itself; DataLoader asks for it."""
        return replace(self, pixels_BCHW=self.pixels_BCHW.pin_memory(), labels_B=self.labels_B.pin_memory())


def batch_count(n: int, batch_size: int, drop_last: bool = False) -> int:
    """Number of batches of ``n`` samples."""
    return n // batch_size if drop_last else -(-n // batch_size)


def epoch_order(n: int, *, seed: int, epoch: int, shuffle: bool) -> np.ndarray:
    """Positions of ``n`` samples in the order of one epoch, int64; a function of its arguments only."""
    if not shuffle:
        return np.arange(n)
    return np.random.default_rng(np.random.SeedSequence((seed, epoch))).permutation(n)


def sample_rng(seed: int, epoch: int, index: int) -> np.random.Generator:
    """The source of one sample's random changes in one epoch: independent of order, batches and workers."""
    return np.random.default_rng(np.random.SeedSequence((seed, epoch, index)))


def load_batch(
    samples: Sequence[Sample], indices: Sequence[int], transform: Transform, *, seed: int, epoch: int
) -> Batch:
    """Decode, transform and stack ``samples``, whose positions in their data are ``indices``.

    Raises:
        RuntimeError: anything but an unreadable picture went wrong; the message names the sample.
    """
    size = transform.size
    pixels_BCHW = torch.empty((len(samples), 3, size, size), dtype=torch.uint8)
    pixels_BHWC = pixels_BCHW.permute(0, 2, 3, 1).numpy()
    kept: list[int] = []
    labels: list[int] = []
    unreadable: list[tuple[int, str]] = []
    for index, sample in zip(indices, samples, strict=True):
        try:
            pixels_BHWC[len(kept)] = transform(sample.picture.decoded(), sample_rng(seed, epoch, index))
        except PictureError as error:
            unreadable.append((index, str(error)))
            continue
        except Exception as error:
            raise RuntimeError(f"Loading {sample.name} failed: {type(error).__name__}: {error}") from error
        kept.append(index)
        labels.append(-1 if sample.label is None else sample.label)
    return Batch(pixels_BCHW[: len(kept)], torch.tensor(labels).long(), torch.tensor(kept).long(), tuple(unreadable))


def normalise(
    pixels_BCHW: torch.Tensor,
    mean: Sequence[float],
    std: Sequence[float],
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """``(pixels / 255 - mean) / std`` per channel, as one multiplication and one addition in float32.

    Args:
        pixels_BCHW: uint8.
        mean: per channel, on a 0-to-1 scale.
        std: likewise.
        dtype: of the result.

    Returns:
        (B, C, H, W) on the pixels' device.
    """
    device = pixels_BCHW.device
    scale_C = moved(torch.tensor([1 / (255 * s) for s in std], dtype=torch.float32), device)
    shift_C = moved(torch.tensor([-m / s for m, s in zip(mean, std, strict=True)], dtype=torch.float32), device)
    pixels = pixels_BCHW.to(torch.float32, copy=True)
    return pixels.mul_(scale_C.view(-1, 1, 1)).add_(shift_C.view(-1, 1, 1)).to(dtype)
