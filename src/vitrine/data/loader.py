"""The loader: samples become batches, in an order and with random changes that are repeatable to the bit.

Pictures are loaded in processes (torch's DataLoader) rather than threads: pictures that Python code draws would hold
the interpreter's lock, and with it every operator that the trainer starts.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch.utils import data as torch_data

from vitrine.data.batch_plan import BatchShard, SampleBatch, batch_count, draw_numbers, epoch_order
from vitrine.data.decode import EncodedPicture
from vitrine.data.samples import Picture, Sample
from vitrine.data.transforms import TrainTransform
from vitrine.errors import DataError, PictureError


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """``tensor`` on ``device``, without waiting for what is queued there.

    A copy from ordinary memory to CUDA waits for its turn in the queue; one from pinned memory is queued itself.
    """
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()  # which copies nothing where it is pinned already
    return tensor.to(device, non_blocking=True)


class Transform(Protocol):
    """Turns a decoded picture into the pixels that are batched."""

    @property
    def size(self) -> tuple[int, int] | None:
        """Rows and columns, in pixels, that every picture becomes; None where the sizes of results differ."""
        ...

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> np.ndarray:
        """RGB picture to uint8, (h, w, 3)."""
        ...


@dataclass(frozen=True)
class Batch:
    """Pictures that go through a model together.

    Attributes:
        pixels: uint8, 0 to 255: one tensor (B, 3, H, W) where the transform makes pictures of one size, else B tensors
            (h, w, 3).
        labels_B: int64 class indices; -1 where unknown, and of multi-label data.
        indices_B: int64 positions in the samples that were given.
        unreadable: (position, reason) of pictures that belong here and could not be read; they have no row above, so
            a batch may even be empty.
        is_dummy: the pictures belong to another process and count nowhere: they are here because every process has to
            take part in every training step.
        label_sets: B tuples of the indices of all labels that are known of a picture.
    """

    pixels: torch.Tensor | tuple[torch.Tensor, ...]
    labels_B: torch.Tensor
    indices_B: torch.Tensor
    unreadable: tuple[tuple[int, str], ...] = ()
    is_dummy: bool = False
    label_sets: tuple[tuple[int, ...], ...] = ()

    def __len__(self) -> int:
        """B."""
        return len(self.labels_B)

    @property
    def pixels_BCHW(self) -> torch.Tensor:  # noqa: N802  the letters are its axes
        """The pictures as one tensor.

        Raises:
            TypeError: they have different sizes.
        """
        if isinstance(self.pixels, tuple):
            raise TypeError("Pictures of different sizes are not one tensor: take pixels.")
        return self.pixels

    def pin_memory(self) -> Batch:
        """The same in memory that an accelerator copies from by itself; DataLoader asks for it."""
        if isinstance(self.pixels, tuple):
            return replace(self, pixels=tuple(pixels.pin_memory() for pixels in self.pixels))
        return replace(self, pixels=self.pixels.pin_memory(), labels_B=self.labels_B.pin_memory())


def sample_rng(seed: int, epoch: int, index: int, draw: int = 0) -> np.random.Generator:
    """The source of one sample's random changes in one epoch: independent of order, batches and workers.

    ``draw`` is how often the sample came before in the epoch, where it may come several times.
    """
    return np.random.default_rng(np.random.SeedSequence((seed, epoch, index, draw) if draw else (seed, epoch, index)))


def _decode(picture: Picture, transform: Transform) -> Image.Image:
    """The picture, as small as its decoder makes it and training may have it; for evaluation always whole."""
    if isinstance(picture, EncodedPicture) and isinstance(transform, TrainTransform):
        return picture.decode(transform.short)
    return picture.decode()


def load_batch(
    samples: Sequence[Sample],
    indices: Sequence[int],
    transform: Transform,
    *,
    seed: int,
    epoch: int,
    draws: Sequence[int] | None = None,
) -> Batch:
    """Decode, transform and stack ``samples``, whose positions in their data are ``indices``.

    ``draws`` says how often each of them came before in the epoch; None is never.

    Raises:
        RuntimeError: anything but an unreadable picture went wrong; the message names the sample.
    """
    size = transform.size
    stack_BCHW = None if size is None else torch.empty((len(samples), 3, *size), dtype=torch.uint8)
    stack_BHWC = None if stack_BCHW is None else stack_BCHW.permute(0, 2, 3, 1).numpy()
    pictures: list[torch.Tensor] = []
    readable: list[int] = []
    labels: list[int] = []
    label_sets: list[tuple[int, ...]] = []
    unreadable: list[tuple[int, str]] = []
    for index, sample, draw in zip(indices, samples, draws or [0] * len(samples), strict=True):
        try:
            pixels_HWC = transform(_decode(sample.picture, transform), sample_rng(seed, epoch, index, draw))
            if stack_BHWC is not None:
                stack_BHWC[len(readable)] = pixels_HWC
            else:
                pictures.append(torch.from_numpy(pixels_HWC))
        except PictureError as error:
            unreadable.append((index, str(error)))
            continue
        except Exception as error:
            raise RuntimeError(f"Loading {sample.name} failed: {type(error).__name__}: {error}") from error
        readable.append(index)
        labels.append(-1 if sample.label is None else sample.label)
        label_sets.append(sample.label_set)
    pixels = tuple(pictures) if stack_BCHW is None else stack_BCHW[: len(readable)]
    labels_B, indices_B = torch.tensor(labels).long(), torch.tensor(readable).long()
    return Batch(pixels, labels_B, indices_B, tuple(unreadable), label_sets=tuple(label_sets))


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
    scale_C = to_device(torch.tensor([1 / (255 * s) for s in std], dtype=torch.float32), device)
    shift_C = to_device(torch.tensor([-m / s for m, s in zip(mean, std, strict=True)], dtype=torch.float32), device)
    pixels = pixels_BCHW.to(torch.float32, copy=True)
    return pixels.mul_(scale_C.view(-1, 1, 1)).add_(shift_C.view(-1, 1, 1)).to(dtype)


__all__ = ["Batch", "PictureLoader", "Transform", "batches", "default_workers", "normalise"]

_MOST_WORKERS = 8


def default_workers() -> int:
    """Background processes where none are asked for: half of the cores that this process may use, 1 to 8.

    The other half computes. On two cores a second worker gains nothing: both only take turns with the trainer.
    Processes that a launcher started on this machine share its cores.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    trainers = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, min(_MOST_WORKERS, cores // (2 * trainers)))


@dataclass(frozen=True)
class _BatchTask:
    """One batch to load. ``samples`` is None where the worker process has them already."""

    indices: tuple[int, ...]
    samples: tuple[Sample, ...] | None
    seed: int
    epoch: int
    is_dummy: bool = False
    draws: tuple[int, ...] | None = None


class _Worker(torch_data.Dataset[Batch]):
    """Loads batches in a worker process: DataLoader indexes it with what its sampler yields, a :class:`_BatchTask`."""

    def __init__(self, transform: Transform, samples: Sequence[Sample]) -> None:
        self._transform = transform
        self._samples = samples

    def __getitem__(self, work: _BatchTask) -> Batch:
        samples = work.samples
        if samples is None:
            samples = tuple(self._samples[i] for i in work.indices)
        batch = load_batch(samples, work.indices, self._transform, seed=work.seed, epoch=work.epoch, draws=work.draws)
        return replace(batch, is_dummy=True) if work.is_dummy else batch


class _TaskSampler:
    """The sampler given to DataLoader: it yields the tasks of the current epoch, which :attr:`work` holds."""

    def __init__(self) -> None:
        self.work: Iterator[_BatchTask] = iter(())

    def __iter__(self) -> Iterator[_BatchTask]:
        return self.work


class PictureLoader:
    """Background workers that live as long as the ``with`` block, for any number of epochs.

    At most two batches per worker wait to be fetched, however many samples there are.

    Args:
        transform: what is done to every picture.
        batch_size: pictures of a batch; the last one of an epoch may have fewer.
        workers: background processes; 0 loads in the caller; -1 chooses.
        batch_shard: which part of every batch is loaded; by default all of it.
    """

    def __init__(
        self,
        transform: Transform,
        batch_size: int,
        workers: int = -1,
        batch_shard: BatchShard = BatchShard(),  # noqa: B008
    ) -> None:
        self.transform = transform
        self.batch_size = batch_size
        self.batch_shard = batch_shard
        self.workers = default_workers() if workers < 0 else workers
        self._plan = _TaskSampler()
        self._worker_samples: Sequence[Sample] | None = None  # what the workers were started with
        self._loader: torch_data.DataLoader[Batch] | None = None
        self._epochs_begun = 0

    def __enter__(self) -> PictureLoader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop the workers. Another epoch would start new ones."""
        running = getattr(self._loader, "_iterator", None)
        self._loader = self._worker_samples = None
        if running is not None:
            # DataLoader stops its workers when it is garbage collected, which a traceback can put off for long.
            running._shutdown_workers()

    def epoch(
        self,
        samples: Sequence[Sample],
        *,
        seed: int = 0,
        epoch: int = 0,
        shuffle: bool = False,
        start_batch: int = 0,
        drop_last: bool = False,
        view: int | None = None,
        weights_N: npt.NDArray[np.float64] | None = None,
    ) -> Iterator[Batch]:
        """The batches of one pass over ``samples``, in order.

        Args:
            samples: workers take a copy of the first epoch's; other ones are sent to them batch by batch.
            seed: with ``epoch`` it determines the order and every random change, whatever the number of workers.
            epoch: counts from 0.
            shuffle: a random order; else that of ``samples``.
            start_batch: batches to leave out at the start; those that follow are the same as without.
            drop_last: leave out a last batch that is not full.
            view: the epoch whose random changes the pictures get; None is ``epoch``, in which a picture that comes
                several times gets other changes each time.
            weights_N: how often each sample comes, with ``shuffle``; see :func:`~vitrine.data.batch_plan.epoch_order`.

        Raises:
            RuntimeError: loading failed for another reason than an unreadable picture; a newer epoch was begun.
            DataError: a worker was killed.
        """
        self._epochs_begun += 1
        this_epoch = self._epochs_begun
        if self._loader is None:
            self._worker_samples = samples
        order = epoch_order(len(samples), seed=seed, epoch=epoch, shuffle=shuffle, weights_N=weights_N)
        numbers = range(start_batch, batch_count(len(order), self.batch_size, drop_last))
        draws = draw_numbers(order) if weights_N is not None and view is None else None
        plan = self._work(samples, order, numbers, seed, epoch if view is None else view, draws)
        if self.workers == 0:
            for work in plan:
                yield _Worker(self.transform, samples)[work]
            return
        for batch in self._load_in_workers(plan, samples):
            yield batch
            if this_epoch != self._epochs_begun:
                raise RuntimeError("This loader began a newer epoch: finish one before the next, or use two loaders.")

    def stream(self, batches: Iterable[SampleBatch], *, seed: int, epoch: int) -> Iterator[Batch]:
        """Load batches of samples that come in a stream.

        Raises:
            RuntimeError, DataError: as :meth:`epoch`.
        """
        plan = (_BatchTask(each.indices, each.samples, seed, epoch, each.is_dummy) for each in batches)
        if self.workers == 0:
            yield from map(_Worker(self.transform, ()).__getitem__, plan)
        else:
            yield from self._load_in_workers(plan, ())

    def _work(
        self,
        samples: Sequence[Sample],
        order: np.ndarray,
        numbers: range,
        seed: int,
        epoch: int,
        draws: np.ndarray | None,
    ) -> Iterator[_BatchTask]:
        is_known = samples is self._worker_samples
        for number in numbers:
            rows = slice(number * self.batch_size, (number + 1) * self.batch_size)
            positions, is_dummy = self.batch_shard.positions_or_dummy(len(order[rows]))
            indices = tuple(order[rows][positions].tolist())
            own_samples = None if is_known else tuple(samples[i] for i in indices)
            own_draws = None if draws is None else tuple(draws[rows][positions].tolist())
            yield _BatchTask(indices, own_samples, seed, epoch, is_dummy, own_draws)

    def _load_in_workers(self, plan: Iterator[_BatchTask], samples: Sequence[Sample]) -> Iterator[Batch]:
        self._plan.work = plan
        if self._loader is None:
            self._loader = torch_data.DataLoader(
                _Worker(self.transform, samples),
                batch_size=None,
                sampler=self._plan,
                num_workers=self.workers,
                persistent_workers=True,
                pin_memory=torch.cuda.is_available(),  # a thread does it, so that copies to CUDA wait for nothing
                generator=torch.Generator(),  # DataLoader would otherwise draw from the trainer's random stream
            )
        try:
            yield from self._loader
        except RuntimeError as error:
            if "DataLoader worker" in str(error) and ("killed" in str(error) or "exited" in str(error)):
                self.close()
                reason = str(error).splitlines()[0]
                raise DataError(
                    f"A process that loads pictures was killed; often memory runs out. ({reason})\n"
                    f"It was one of {self.workers}: try fewer (--set workers=0 loads without any)."
                ) from error
            raise


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
    if workers < 0 and batch_count(len(samples), batch_size, drop_last) - start_batch <= 1:
        workers = 0  # not worth a process
    with PictureLoader(transform, batch_size, workers) as loader:
        yield from loader.epoch(
            samples, seed=seed, epoch=epoch, shuffle=shuffle, start_batch=start_batch, drop_last=drop_last
        )
