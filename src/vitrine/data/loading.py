"""Samples to batches: order, random changes and background workers, repeatable to the bit.

Pictures are loaded in processes (torch's DataLoader) rather than threads: pictures that Python code draws would hold
the interpreter's lock, and with it every operator that the trainer starts.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from vitrine.data.batch import Batch, Transform, batch_count, epoch_order, load_batch, normalise
from vitrine.data.samples import Sample
from vitrine.data.sharing import Share
from vitrine.errors import DataError

__all__ = ["Batch", "PictureLoader", "Transform", "batch_count", "batches", "default_workers", "normalise"]

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
class _Work:
    """What a worker is asked for: one batch. ``samples`` is None where the worker has them already."""

    indices: tuple[int, ...]
    samples: tuple[Sample, ...] | None
    seed: int
    epoch: int
    lent: bool = False


class _Worker(Dataset[Any]):
    """What a worker process runs. DataLoader hands over whatever its sampler yields: here a whole batch's work."""

    def __init__(self, load: Callable[..., Any], transform: Any, samples: Sequence[Sample]) -> None:
        self._load = load
        self._transform = transform
        self._samples = samples

    def __getitem__(self, work: _Work) -> Any:
        samples = work.samples
        if samples is None:
            samples = tuple(self._samples[i] for i in work.indices)
        batch = self._load(samples, work.indices, self._transform, seed=work.seed, epoch=work.epoch)
        return replace(batch, lent=True) if work.lent else batch


class _Plan:
    """The batches of the coming epoch: what DataLoader takes for a sampler."""

    def __init__(self) -> None:
        self.work: Iterator[_Work] = iter(())

    def __iter__(self) -> Iterator[_Work]:
        return self.work


class PictureLoader:
    """Background workers that live as long as the ``with`` block, for any number of epochs.

    At most two batches per worker wait to be fetched, however many samples there are.

    Args:
        transform: what is done to every picture.
        batch_size: pictures of a batch; the last one of an epoch may have fewer.
        workers: background processes; 0 loads in the caller; -1 chooses.
        load: makes a batch of samples; a function of a module, with the arguments of
            :func:`vitrine.data.batch.load_batch`.
        share: which part of every batch is loaded; by default all of it.
    """

    def __init__(
        self,
        transform: Any,
        batch_size: int,
        workers: int = -1,
        load: Callable[..., Any] = load_batch,
        share: Share = Share(),  # noqa: B008  frozen
    ) -> None:
        self.load = load
        self.transform = transform
        self.batch_size = batch_size
        self.share = share
        self.workers = default_workers() if workers < 0 else workers
        self._plan = _Plan()
        self._known: Sequence[Sample] | None = None  # what the workers were started with
        self._loader: DataLoader[Any] | None = None
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
        self._loader = self._known = None
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
    ) -> Iterator[Any]:
        """The batches of one pass over ``samples``, in order.

        Args:
            samples: workers take a copy of the first epoch's; other ones are sent to them batch by batch.
            seed: with ``epoch`` it determines the order and every random change, whatever the number of workers.
            epoch: counts from 0.
            shuffle: a random order; else that of ``samples``.
            start_batch: batches to leave out at the start; those that follow are the same as without.
            drop_last: leave out a last batch that is not full.
            view: the epoch whose random changes the pictures get; None is ``epoch``.

        Raises:
            RuntimeError: loading failed for another reason than an unreadable picture; a newer epoch was begun.
            DataError: a worker was killed.
        """
        self._epochs_begun += 1
        mine = self._epochs_begun
        if self._loader is None:
            self._known = samples
        order = epoch_order(len(samples), seed=seed, epoch=epoch, shuffle=shuffle)
        numbers = range(start_batch, batch_count(len(order), self.batch_size, drop_last))
        plan = self._work(samples, order, numbers, seed, epoch if view is None else view)
        if self.workers == 0:
            for work in plan:
                yield _Worker(self.load, self.transform, samples)[work]
            return
        for batch in self._fetched(plan, samples):
            yield batch
            if mine != self._epochs_begun:
                raise RuntimeError("This loader began a newer epoch: finish one before the next, or use two loaders.")

    def stream(
        self, parts: Iterable[tuple[tuple[int, ...], tuple[Sample, ...], bool]], *, seed: int, epoch: int
    ) -> Iterator[Any]:
        """Batches of samples that come in a stream: (indices, samples, lent) each.

        Raises:
            RuntimeError, DataError: as :meth:`epoch`.
        """
        plan = (_Work(indices, samples, seed, epoch, lent) for indices, samples, lent in parts)
        if self.workers == 0:
            yield from map(_Worker(self.load, self.transform, ()).__getitem__, plan)
        else:
            yield from self._fetched(plan, ())

    def _work(
        self, samples: Sequence[Sample], order: np.ndarray, numbers: range, seed: int, epoch: int
    ) -> Iterator[_Work]:
        known = samples is self._known
        for number in numbers:
            whole = order[number * self.batch_size : (number + 1) * self.batch_size]
            positions, lent = self.share.taken(len(whole))
            indices = tuple(whole[positions].tolist())
            yield _Work(indices, None if known else tuple(samples[i] for i in indices), seed, epoch, lent)

    def _fetched(self, plan: Iterator[_Work], samples: Sequence[Sample]) -> Iterator[Any]:
        self._plan.work = plan
        if self._loader is None:
            self._loader = DataLoader(
                _Worker(self.load, self.transform, samples),
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
