"""Samples to batches: order, random changes and background workers, repeatable to the bit.

Axes: B pictures of a batch, C channels (red, green, blue), H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from vitrine.data.samples import Sample
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
        unreadable: (position, reason) of pictures that belong here and could not be read; they have no row above.
    """

    pixels_BCHW: torch.Tensor
    labels_B: torch.Tensor
    indices_B: torch.Tensor
    unreadable: tuple[tuple[int, str], ...] = ()


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


@dataclass(frozen=True)
class _Work:
    """One sample to load: all that a worker needs to know."""

    sample: Sample
    index: int
    seed: int
    epoch: int


class _Loading(Dataset[Batch]):
    """What a worker runs. DataLoader hands it whatever the batch sampler yields: here the work itself."""

    def __init__(self, transform: Transform) -> None:
        self._transform = transform

    def __getitem__(self, work: list[_Work]) -> Batch:
        return load_batch(work, self._transform)


def load_batch(work: Sequence[_Work], transform: Transform) -> Batch:
    """Decode, transform and stack."""
    size = transform.size
    pixels_BCHW = torch.empty((len(work), 3, size, size), dtype=torch.uint8)
    pixels_BHWC = pixels_BCHW.permute(0, 2, 3, 1).numpy()
    kept: list[_Work] = []
    unreadable: list[tuple[int, str]] = []
    for item in work:
        try:
            image = item.sample.picture.decoded()
            pixels_BHWC[len(kept)] = transform(image, sample_rng(item.seed, item.epoch, item.index))
        except PictureError as error:
            unreadable.append((item.index, str(error)))
        except Exception as error:
            raise RuntimeError(f"Loading {item.sample.name} failed: {type(error).__name__}: {error}") from error
        else:
            kept.append(item)
    return Batch(
        pixels_BCHW[: len(kept)],
        torch.tensor([-1 if w.sample.label is None else w.sample.label for w in kept], dtype=torch.int64),
        torch.tensor([w.index for w in kept], dtype=torch.int64),
        tuple(unreadable),
    )


class _Plan:
    """The batches of the coming epoch: what DataLoader takes for a sampler."""

    def __init__(self) -> None:
        self.batches: Iterator[list[_Work]] = iter(())

    def __iter__(self) -> Iterator[list[_Work]]:
        return self.batches


class PictureLoader:
    """Background workers that live as long as the ``with`` block, for any number of epochs.

    Args:
        transform: what is done to every picture.
        batch_size: pictures of a batch; the last one of an epoch may have fewer.
        workers: background processes; 0 loads in the caller; -1 chooses.
    """

    def __init__(self, transform: Transform, batch_size: int, workers: int = -1) -> None:
        self.transform = transform
        self.batch_size = batch_size
        self.workers = 2 if workers < 0 else workers
        self._plan = _Plan()
        self._loader: DataLoader[Batch] | None = None

    def __enter__(self) -> PictureLoader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop the workers."""
        self._loader = None

    def epoch(
        self,
        samples: Sequence[Sample],
        *,
        seed: int = 0,
        epoch: int = 0,
        shuffle: bool = False,
        start_batch: int = 0,
        drop_last: bool = False,
    ) -> Iterator[Batch]:
        """The batches of one pass over ``samples``, in order."""
        order = epoch_order(len(samples), seed=seed, epoch=epoch, shuffle=shuffle)
        numbers = range(start_batch, batch_count(len(samples), self.batch_size, drop_last))
        plan = (
            [
                _Work(samples[int(i)], int(i), seed, epoch)
                for i in order[n * self.batch_size : (n + 1) * self.batch_size]
            ]
            for n in numbers
        )
        if self.workers == 0:
            for work in plan:
                yield load_batch(work, self.transform)
            return
        self._plan.batches = plan
        if self._loader is None:
            self._loader = DataLoader(
                _Loading(self.transform),
                batch_size=None,
                sampler=self._plan,
                num_workers=self.workers,
                persistent_workers=True,
                generator=torch.Generator(),  # DataLoader would otherwise draw from the trainer's random stream
            )
        yield from self._loader


def batches(
    samples: Sequence[Sample],
    transform: Transform,
    *,
    batch_size: int,
    seed: int = 0,
    epoch: int = 0,
    shuffle: bool = False,
    workers: int = -1,
    start_batch: int = 0,
    drop_last: bool = False,
) -> Iterator[Batch]:
    """One pass over ``samples`` with workers of its own; see :meth:`PictureLoader.epoch`."""
    with PictureLoader(transform, batch_size, workers) as loader:
        yield from loader.epoch(
            samples, seed=seed, epoch=epoch, shuffle=shuffle, start_batch=start_batch, drop_last=drop_last
        )


def normalise(
    pixels_BCHW: torch.Tensor,
    mean: Sequence[float],
    std: Sequence[float],
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """``(pixels / 255 - mean) / std`` per channel, on the pixels' device: one multiplication and one addition."""
    device = pixels_BCHW.device
    scale_C11 = torch.tensor([1 / (255 * s) for s in std], dtype=torch.float32, device=device).view(-1, 1, 1)
    shift_C11 = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)], dtype=torch.float32, device=device)
    return pixels_BCHW.to(torch.float32).mul_(scale_C11).add_(shift_C11.view(-1, 1, 1)).to(dtype)
