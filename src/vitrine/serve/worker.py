"""The one thread that runs models: a bounded queue of jobs, pictures in batches; cancelled jobs are never started."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from vitrine.serve.errors import queue_full_error

_PATIENCE = 2.0  # seconds for which a long job lets short ones go first

RunBatch = Callable[[Sequence[Any]], Sequence[Any]]


class JobCancelled(Exception):  # noqa: N818  no error: the client has left
    """Raised inside a job that nobody waits for: its client has left, or its time is over."""


@dataclass(eq=False)
class Job:
    """Work for the model, by itself or as one item of a batch.

    Attributes:
        run: called in the worker's thread with the job itself; None for an item of a batch.
        is_long: whether it runs the model many times, and lets short jobs go first.
        key: jobs with the same key run together in one batch; None runs alone.
        item: this job's input to ``run_batch``.
        run_batch: from the items of a batch to as many results.
        future: of the result.
    """

    run: Callable[[Job], Any] | None = None
    is_long: bool = False
    key: Hashable = None
    item: Any = None
    run_batch: RunBatch | None = None
    future: Future[Any] = field(default_factory=Future)
    _cancel_event: threading.Event = field(default_factory=threading.Event)
    _created_at: float = field(default_factory=time.monotonic)

    def cancel(self) -> None:
        """Do not start the job; if it runs already, stop it at its next :meth:`raise_if_cancelled`."""
        self._cancel_event.set()
        self.future.cancel()

    @property
    def is_cancelled(self) -> bool:
        """Whether :meth:`cancel` was called."""
        return self._cancel_event.is_set()

    @property
    def age(self) -> float:
        """Seconds since the job was made."""
        return time.monotonic() - self._created_at

    def raise_if_cancelled(self) -> None:
        """Stop a running job here if it was cancelled; long jobs call this between their steps.

        Raises:
            JobCancelled: :meth:`cancel` was called.
        """
        if self.is_cancelled:
            raise JobCancelled


class ModelWorker:
    """A thread with a queue of jobs. All models run in this thread and nowhere else."""

    def __init__(
        self,
        capacity: int,
        max_batch: int,
        batch_seconds: float,
        on_batch: Callable[[int, float], None] = lambda _count, _seconds: None,
    ) -> None:
        """
        Args:
            capacity: jobs that may wait.
            max_batch: items at most in a batch.
            batch_seconds: how long the first item of a batch waits for others.
            on_batch: called after each batch with its number of jobs and its seconds.
        """
        self._capacity, self._max_batch = capacity, max_batch
        self._batch_seconds, self._on_batch = batch_seconds, on_batch
        self._short: deque[Job] = deque()
        self._long: deque[Job] = deque()
        self._condition = threading.Condition()
        self._stopping = False
        self.running: tuple[Job, ...] = ()
        self._thread = threading.Thread(target=self._loop, name="model", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Finish the jobs in the queue, then end the thread; new jobs are refused."""
        with self._condition:
            self._stopping = True
            self._condition.notify_all()
        if self._thread.ident is not None:
            self._thread.join()

    @property
    def queue_length(self) -> int:
        """Number of jobs in the queue that are not cancelled."""
        with self._condition:
            return self._count()

    def require_capacity(self) -> None:
        """Check that a job would fit into the queue, before the request's body is read.

        Raises:
            ApiError: the queue is full.
        """
        with self._condition:
            self._require_capacity()

    def submit(self, job: Job) -> Job:
        """Queue a job; its future gets the result.

        Raises:
            ApiError: the queue is full.
        """
        with self._condition:
            self._require_capacity()
            (self._long if job.is_long else self._short).append(job)
            self._condition.notify_all()
        return job

    def _require_capacity(self) -> None:
        if self._stopping or self._count() >= self._capacity:
            raise queue_full_error()

    def _count(self) -> int:
        for queue in (self._short, self._long):
            if any(job.is_cancelled for job in queue):
                live = [job for job in queue if not job.is_cancelled]
                queue.clear()
                queue.extend(live)
        return len(self._short) + len(self._long)

    def _loop(self) -> None:
        while True:
            jobs = self._next_batch()
            if not jobs:
                return
            live = [job for job in jobs if job.future.set_running_or_notify_cancel()]
            self.running = tuple(live)
            started_at = time.monotonic()
            if live and live[0].key is None:
                _run_one(live[0])
            elif live:
                _run_batch(live)
            self.running = ()
            if live:
                self._on_batch(len(live), time.monotonic() - started_at)

    def _next_batch(self) -> list[Job]:
        """Wait for the jobs to run together next; an empty list ends the thread."""
        with self._condition:
            while not (self._short or self._long):
                if self._stopping:
                    return []
                self._condition.wait()
            long_is_due = self._long and self._long[0].age > _PATIENCE
            job = self._long.popleft() if long_is_due or not self._short else self._short.popleft()
            if job.key is None:
                return [job]
            jobs, deadline = [job], time.monotonic() + self._batch_seconds
            while True:
                self._move_matching(job.key, jobs)
                seconds_left = deadline - time.monotonic()
                if len(jobs) >= self._max_batch or seconds_left <= 0 or self._stopping:
                    return jobs
                self._condition.wait(seconds_left)

    def _move_matching(self, key: Hashable, jobs: list[Job]) -> None:
        """Move queued jobs with this key to ``jobs``, in their order, until the batch is full."""
        others: list[Job] = []
        while self._short and len(jobs) < self._max_batch:
            job = self._short.popleft()
            (jobs if job.key == key else others).append(job)
        self._short.extendleft(reversed(others))


def _run_one(job: Job) -> None:
    assert job.run is not None
    try:
        result = job.run(job)
    except BaseException as error:  # goes to whoever waits for the future
        job.future.set_exception(error)
    else:
        job.future.set_result(result)


def _run_batch(jobs: Sequence[Job]) -> None:
    run_batch = jobs[0].run_batch
    assert run_batch is not None
    try:
        results = run_batch([job.item for job in jobs])
    except BaseException as error:  # goes to whoever waits for the futures
        for job in jobs:
            job.future.set_exception(error)
        return
    for job, result in zip(jobs, results, strict=True):
        job.future.set_result(result)
