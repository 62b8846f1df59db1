"""The one thread that runs models: a bounded queue, pictures in batches, and work that nobody waits for left undone."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from vitrine.serve.errors import queue_full_error

_PATIENCE = 2.0  # seconds that a long job lets short ones pass

RunBatch = Callable[[Sequence[Any]], Sequence[Any]]


class JobCancelled(Exception):  # noqa: N818  nobody waits for the answer
    """The client has left, or the time is over."""


@dataclass(eq=False)
class Job:
    """Something for the model to do.

    Attributes:
        run: called in the worker's thread with the job itself; of a batch, None.
        long: whether it runs the model many times, and lets others pass.
        key: jobs of one key run in one batch; None runs alone.
        item: of a batch, this job's part.
        batch: of a batch, items to as many results.
        future: of the result.
    """

    run: Callable[[Job], Any] | None = None
    is_long: bool = False
    key: Hashable = None
    item: Any = None
    batch: RunBatch | None = None
    future: Future[Any] = field(default_factory=Future)
    _cancelled: threading.Event = field(default_factory=threading.Event)
    _since: float = field(default_factory=time.monotonic)

    def cancel(self) -> None:
        """Nobody waits for it any more: it is not begun, and what runs stops at its next :meth:`check`."""
        self._cancelled.set()
        self.future.cancel()

    @property
    def is_cancelled(self) -> bool:
        """Whether :meth:`give_up` was called."""
        return self._cancelled.is_set()

    def raise_if_cancelled(self) -> None:
        """Called by long work between its steps.

        Raises:
            JobCancelled: nobody waits for it.
        """
        if self.is_cancelled:
            raise JobCancelled


class ModelWorker:
    """A thread with a queue. Models are touched in it and nowhere else."""

    def __init__(
        self,
        capacity: int,
        batch: int,
        batch_seconds: float,
        ran: Callable[[int, float], None] = lambda _count, _seconds: None,
    ) -> None:
        """
        Args:
            capacity: jobs that may wait.
            batch: items at most in a batch.
            batch_seconds: how long the first item of a batch waits for others.
            ran: told of every forward batch: how many, how long.
        """
        self._capacity, self._batch, self._batch_seconds, self._ran = capacity, batch, batch_seconds, ran
        self._short: deque[Job] = deque()
        self._long: deque[Job] = deque()
        self._changed = threading.Condition()
        self._stopping = False
        self.running: tuple[Job, ...] = ()
        self._thread = threading.Thread(target=self._loop, name="model", daemon=True)

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def stop(self) -> None:
        """Finish what is queued, then end the thread; nothing new is taken."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread.ident is not None:
            self._thread.join()

    @property
    def queue_length(self) -> int:
        """Jobs in the queue that somebody waits for."""
        with self._changed:
            return self._count()

    def require_capacity(self) -> None:
        """Refuse before anything is read of a request.

        Raises:
            ApiError: the queue is full.
        """
        with self._changed:
            if self._stopping or self._count() >= self._capacity:
                raise queue_full_error()

    def submit(self, job: Job) -> Job:
        """Queue a job; its future gets the result.

        Raises:
            ApiError: the queue is full.
        """
        with self._changed:
            if self._stopping or self._count() >= self._capacity:
                raise queue_full_error()
            (self._long if job.is_long else self._short).append(job)
            self._changed.notify_all()
        return job

    def _count(self) -> int:
        for queue in (self._short, self._long):
            if any(job.is_cancelled for job in queue):
                kept = [job for job in queue if not job.is_cancelled]
                queue.clear()
                queue.extend(kept)
        return len(self._short) + len(self._long)

    def _loop(self) -> None:
        while True:
            jobs = self._next()
            if not jobs:
                return
            live = [job for job in jobs if job.future.set_running_or_notify_cancel()]
            self.running = tuple(live)
            began = time.monotonic()
            if live and live[0].key is None:
                _run_one(live[0])
            elif live:
                _run_batch(live)
            self.running = ()
            if live:
                self._ran(len(live), time.monotonic() - began)

    def _next(self) -> list[Job]:
        """The jobs to run together; none at the end."""
        with self._changed:
            while not (self._short or self._long):
                if self._stopping:
                    return []
                self._changed.wait()
            waited = self._long and time.monotonic() - self._long[0]._since > _PATIENCE
            job = self._long.popleft() if waited or not self._short else self._short.popleft()
            if job.key is None:
                return [job]
            jobs, until = [job], time.monotonic() + self._batch_seconds
            while True:
                self._take(job.key, jobs)
                left = until - time.monotonic()
                if len(jobs) >= self._batch or left <= 0 or self._stopping:
                    return jobs
                self._changed.wait(left)

    def _take(self, key: Hashable, jobs: list[Job]) -> None:
        """Move queued jobs of a key to ``jobs``, the first ones first."""
        others: list[Job] = []
        while self._short and len(jobs) < self._batch:
            job = self._short.popleft()
            (jobs if job.key == key else others).append(job)
        self._short.extendleft(reversed(others))


def _run_one(job: Job) -> None:
    assert job.run is not None
    try:
        result = job.run(job)
    except BaseException as error:  # whoever waits is told
        job.future.set_exception(error)
    else:
        job.future.set_result(result)


def _run_batch(jobs: Sequence[Job]) -> None:
    batch = jobs[0].batch
    assert batch is not None
    try:
        results = batch([job.item for job in jobs])
    except BaseException as error:  # whoever waits is told
        for job in jobs:
            job.future.set_exception(error)
        return
    for job, result in zip(jobs, results, strict=True):
        job.future.set_result(result)
