"""Ray Data as the engine of bulk work: a pool of workers with one model each, on this machine or on a cluster."""

from __future__ import annotations

import logging
import os
import pickle
import shutil
import socket
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitrine.bulk.ledger import FinishedPart
from vitrine.bulk.worker import Job, Part, PartWorker, to_vitrine_error
from vitrine.errors import EnvironmentMismatchError, RunError, UsageError, error_summary
from vitrine.runs.environment import redirect_native_stderr

_OBJECT_STORE_BYTES = 256 << 20  # only descriptions of parts go through it, no pictures
_MAX_TEMPDIR_LENGTH = 40  # characters: Ray puts sockets below it, whose paths may have 107

_CONNECT_TIMEOUT = 5.0  # seconds in which a cluster's machine has to answer

_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is reported to anybody
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # what its next version does; this one warns of it
}


@dataclass(frozen=True)
class Pool:
    """How many workers there are, and what each of them has.

    Attributes:
        workers: processes with a model each.
        cores: of each worker.
        gpus: of each worker, a fraction where several share one.
    """

    workers: int
    cores: int
    gpus: float

    @property
    def loaders(self) -> int:
        """Processes that load pictures for a worker: all cores but one beside a GPU, else half of them, 8 at most."""
        return self.cores - 1 if self.gpus else min(8, self.cores // 2)


def import_ray() -> Any:
    """Import Ray, quiet and without its statistics.

    Raises:
        EnvironmentMismatchError: it is not installed.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise EnvironmentMismatchError("--engine ray needs Ray: pip install 'vitrine[ray]'") from error
    logging.getLogger("ray").setLevel(logging.CRITICAL)
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    return ray


@contextmanager
def ray_session(address: str | None = None) -> Iterator[Any]:
    """Ray, started on this machine, or a cluster; one that this process is connected to already is used and left.

    What is started here listens on loopback only, has no dashboard, a bounded object store, as many CPUs as this
    process may use, and a folder that is gone at the end.

    Args:
        address: of a cluster, as ``ray.init`` takes it; None starts Ray here.

    Raises:
        EnvironmentMismatchError: Ray is not installed.
        RunError: no cluster answers there, or Ray does not start.
    """
    ray = import_ray()
    if ray.is_initialized():
        yield ray
        return
    folder = _session_folder() if address is None else None
    with redirect_native_stderr(), _worker_logs_dropped(ray):
        try:
            if address is None:
                _start(ray, folder)
            else:
                _require_listener(address)
                _connect(ray, f"No Ray cluster answers at {address}", address=address)
            yield ray
        finally:
            ray.shutdown()
            if folder is not None:
                shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _worker_logs_dropped(ray: Any) -> Iterator[None]:
    """Do not let a thread of Ray print the scheduler's messages to stdout, where results go.

    ``log_to_driver=False`` leaves those out of account; this is the switch that Ray's own debugger turns.
    """
    worker = ray._private.worker
    was_enabled = getattr(worker, "_worker_logs_enabled", True)
    worker._worker_logs_enabled = False
    try:
        yield
    finally:
        worker._worker_logs_enabled = was_enabled


def _session_folder() -> Path | None:
    return Path(tempfile.mkdtemp(prefix="ray-")) if len(tempfile.gettempdir()) <= _MAX_TEMPDIR_LENGTH else None


def _start(ray: Any, folder: Path | None) -> None:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with _on_loopback(ray), _workers_temporary_files_in(folder):
        _connect(
            ray,
            "Ray does not start on this machine",
            num_cpus=cores,
            include_dashboard=False,
            object_store_memory=_OBJECT_STORE_BYTES,
            _temp_dir=None if folder is None else str(folder),
        )


@contextmanager
def _workers_temporary_files_in(folder: Path | None) -> Iterator[None]:
    """Give processes that are started meanwhile, and by those, a folder for temporary files inside of Ray's own.

    Workers that are killed with Ray, as by Ctrl-C, leave theirs (multiprocessing's ``pymp-``), which go with it.
    """
    if folder is None:
        yield
        return
    before = os.environ.get("TMPDIR")
    os.environ["TMPDIR"] = str(folder)
    try:
        yield
    finally:
        os.environ.pop("TMPDIR")
        if before is not None:
            os.environ["TMPDIR"] = before


@contextmanager
def _on_loopback(ray: Any) -> Iterator[None]:
    """Give a Ray that starts meanwhile the loopback address, which is all that it then listens on.

    On Linux Ray replaces a ``_node_ip_address`` of 127.0.0.1 by an outer one, unless it may have no cluster, which it
    decides when it is imported (here) and in every process that it starts (by the environment).
    """
    constants = ray._private.ray_constants
    name, was_enabled = constants.ENABLE_RAY_CLUSTERS_ENV_VAR, constants.ENABLE_RAY_CLUSTER
    environment_value = os.environ.get(name)
    os.environ[name], constants.ENABLE_RAY_CLUSTER = "0", False
    try:
        yield
    finally:
        constants.ENABLE_RAY_CLUSTER = was_enabled
        os.environ.pop(name)
        if environment_value is not None:
            os.environ[name] = environment_value


def _require_listener(address: str) -> None:
    """Find out in seconds that nobody listens, which takes Ray minutes. ``auto`` and the like are left to it."""
    host, _, port = address.rpartition(":")
    if host and port.isdecimal() and "/" not in host:
        try:
            socket.create_connection((host, int(port)), timeout=_CONNECT_TIMEOUT).close()
        except (OSError, OverflowError) as error:
            raise RunError(f"No Ray cluster answers at {address}: {error}") from error


def _connect(ray: Any, failure: str, **settings: Any) -> None:
    try:
        ray.init(log_to_driver=False, logging_level=logging.CRITICAL, **settings)
    except Exception as error:  # ConnectionError, ValueError, RuntimeError, TimeoutError by what is wrong
        raise RunError(f"{failure}: {error_summary(error)}") from error


def worker_pool(ray: Any, workers: int = 0) -> Pool:
    """Divide what Ray has: ``workers`` workers; for 0 one a GPU, or without any GPU one for every two cores.

    Raises:
        UsageError: more than there are cores.
    """
    resources = ray.cluster_resources()
    cores, gpus = int(resources.get("CPU", 1)), int(resources.get("GPU", 0))
    if workers > cores:
        raise UsageError(f"--workers {workers} are more than the {cores} cores that there are.")
    count = workers or gpus or max(1, cores // 2)
    return Pool(count, max(1, cores // count), min(1.0, gpus / count))


class _BatchWorker:
    """A part worker as Ray Data calls it, with rows that hold pickled parts; a failure comes back as a row too."""

    def __init__(self, job: Job, parts: Path, ending: str, folder: Path, pool: Pool) -> None:
        self.worker: PartWorker | None = None
        self.error: Exception | None = None
        try:
            self.worker = PartWorker(job, parts, ending, folder, pool.cores, pool.loaders)
        except Exception as error:
            self.error = to_vitrine_error(error, "A worker could not start")

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[bytes]]:
        return {"result": [pickle.dumps(self._process(pickle.loads(part))) for part in batch["part"]]}  # noqa: S301  our own

    def _process(self, part: Part) -> FinishedPart | Exception:
        if self.worker is None:
            assert self.error is not None
            return self.error
        try:
            return self.worker(part)
        except Exception as error:
            return to_vitrine_error(error, f"Part {part.number} failed")


def process_parts(
    ray: Any, pool: Pool, job: Job, parts: Sequence[Part], folder: Path, ending: str
) -> Iterator[FinishedPart]:
    """Work on parts, each in one of the workers; they come in the order in which they are finished.

    A worker that is killed is started again, and its part with it.

    Args:
        ray: the running library.
        pool: the workers.
        job: what is done to each part.
        parts: what is left to do.
        folder: of the parts, absolute.
        ending: of a part's rows.

    Raises:
        VitrineError: a part cannot be done; those that were finished stay.
    """
    rows = ray.data.from_items([{"part": pickle.dumps(part)} for part in parts], override_num_blocks=len(parts))
    results = rows.map_batches(
        _BatchWorker,
        fn_constructor_args=(job, folder, ending, Path.cwd(), pool),
        batch_size=1,
        batch_format="numpy",
        compute=ray.data.ActorPoolStrategy(size=min(pool.workers, len(parts))),
        num_cpus=pool.cores,
        num_gpus=pool.gpus or None,
    )
    for row in results.iter_rows():
        result = pickle.loads(row["result"])  # noqa: S301  our own
        if isinstance(result, Exception):
            raise result
        yield result
