"""The processes that train one model together, as torchrun or accelerate launch starts them.

Everything but gradients goes through :class:`ProcessGroup`. Each of its collectives starts with an all-gather of a row
of numbers, whose first entry says whether the sender has failed. A process that fails therefore joins the others' next
collective, and all of them end with its message. While gradients are being reduced this is impossible: then, as after a
kill, the connections break and the launcher stops the remaining processes.
"""

from __future__ import annotations

import atexit
import gc
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NoReturn, TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object

from vitrine.data.batch_plan import BatchShard
from vitrine.errors import LostProcessError, TrainingError, UsageError, VitrineError
from vitrine.results import agree, count_of

_Value = TypeVar("_Value")

_ROW_WIDTH = 8  # numbers in a row, the first of which says whether the sender failed
_TIMEOUT = timedelta(hours=2)  # for what the main process does alone, such as captioning the validation pictures
_CONNECTION_ERROR = re.compile(r"gloo|nccl|connection (closed|reset|refused)|broken pipe|socket", re.IGNORECASE)
_LOST_PROCESS = (
    "Another process of this training ended: it was killed, ran out of memory, or has reported its own error.\n"
    "--resume continues from the last checkpoint, on any number of processes."
)


class ProcessGroup:
    """This process among those that train together; made without a launcher, it is the only one.

    Every method that exchanges something is a collective: all processes have to call it.

    Attributes:
        rank: number of this process, from 0, which is the main one.
        count: how many processes there are.
        uses_fsdp: whether each process holds a part of the model only, as accelerate's settings for FSDP ask.
    """

    def __init__(self) -> None:
        self.rank, self.count, self.uses_fsdp = 0, 1, False
        self._local_rank = 0
        self._cpu_group: Any = None  # for rows of numbers; None is the group of everything else
        self._reduces_gradients = self._has_reported_failure = self._has_lost_connection = False

    @classmethod
    def from_launcher(cls) -> ProcessGroup:
        """Connect the processes that a launcher started; without a launcher, this process alone.

        Raises:
            UsageError: the launcher asked for something that is not supported.
        """
        processes = cls()
        world_size = int(os.environ.get("WORLD_SIZE", "1"))
        processes.uses_fsdp = _check_engines(world_size)
        if world_size == 1:
            return processes
        missing = [name for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
        if missing:
            raise UsageError(
                f"WORLD_SIZE is {world_size}, and {', '.join(missing)} not set. Start several processes with torchrun "
                "or accelerate launch, or unset WORLD_SIZE."
            )
        state = PartialState(**partial_state_arguments(), timeout=_TIMEOUT)
        if state.num_processes != world_size:
            raise UsageError(
                f"{count_of(world_size, 'process', 'processes')} {agree(world_size, 'was', 'were')} "
                f"launched, and accelerate sees {state.num_processes} of them."
            )
        processes.rank, processes.count = state.process_index, state.num_processes
        processes._local_rank = state.local_process_index
        if state.device.type != "cpu":  # rows of numbers then do not wait for what is queued on the accelerators
            processes._cpu_group = torch.distributed.new_group(backend="gloo", timeout=_TIMEOUT)
        atexit.register(processes._disconnect)
        return processes

    @property
    def is_main(self) -> bool:
        """Whether this process writes the run and reports."""
        return self.rank == 0

    def batch_shard(self, *, pair_for_mixup: bool = False) -> BatchShard:
        """Which part of batches and splits belongs to this process."""
        return BatchShard(self.rank, self.count, pair_for_mixup)

    def all_reduce_sum(self, numbers: Sequence[float]) -> list[float]:
        """Sums over all processes, in float64; every process gives as many numbers."""
        if self.count == 1:
            return [float(number) for number in numbers]
        room, sums = _ROW_WIDTH - 1, []
        for start in range(0, max(1, len(numbers)), room):
            rows = self._all_gather_rows(numbers[start : start + room])
            sums += rows.sum(0)[: len(numbers[start : start + room])].tolist()
        return sums

    def all_gather(self, value: _Value) -> list[_Value]:
        """Every process's value, by rank; anything that can be pickled."""
        if self.count == 1:
            return [value]
        self._all_gather_rows(())
        with self._detecting_lost_process():
            values: list[_Value] = gather_object([value])
        return values

    def broadcast_from_main(self, make: Callable[[], _Value]) -> _Value:
        """What ``make`` returns in the main process, in all of them; the others do not call it."""
        if self.count == 1:
            return make()
        box: list[Any] = [make() if self.is_main else None]
        self._all_gather_rows(())
        with self._detecting_lost_process():
            broadcast_object_list(box)
        value: _Value = box[0]
        return value

    def local_main_first(self, make: Callable[[], _Value]) -> _Value:
        """Call ``make`` in one process of each machine before the others, which then find what it downloaded."""
        if self.count == 1:
            return make()
        if self._local_rank == 0:
            value = make()
            self._all_gather_rows(())
            return value
        self._all_gather_rows(())
        return make()

    @contextmanager
    def fail_together(self) -> Iterator[None]:
        """Make an error in one process end all: the main one raises it, the others exit with its status.

        Raises:
            LostProcessError: another process is gone.
        """
        try:
            yield
        except Exception as error:
            cannot_report = self._has_reported_failure or self._reduces_gradients
            if self.count > 1 and not (cannot_report or isinstance(error, LostProcessError)):
                self._all_gather_rows((), failure=error)
            raise

    @contextmanager
    def gradient_exchange(self) -> Iterator[None]:
        """Around a backward pass, or other work in which torch itself exchanges gradients or parameters.

        Raises:
            LostProcessError: another process is gone.
        """
        self._reduces_gradients = True
        with self._detecting_lost_process():
            yield
        self._reduces_gradients = False

    def _disconnect(self) -> None:
        gc.collect()  # a wrapped model that outlives its connections aborts the process
        if torch.distributed.is_initialized() and not self._has_lost_connection:
            torch.distributed.destroy_process_group()

    def _all_gather_rows(self, numbers: Sequence[float], failure: Exception | None = None) -> torch.Tensor:
        """Every process's numbers, (processes, width) in float64; raises where any of them failed."""
        row = torch.zeros(1, _ROW_WIDTH, dtype=torch.float64)
        row[0, 0] = failure is not None
        row[0, 1 : 1 + len(numbers)] = torch.tensor(numbers, dtype=torch.float64)
        with self._detecting_lost_process():
            gathered_rows = [torch.zeros_like(row) for _ in range(self.count)]
            torch.distributed.all_gather(gathered_rows, row, group=self._cpu_group)
        rows = torch.cat(gathered_rows)
        if rows[:, 0].any():
            self._raise_failure(failure)
        return rows[:, 1:]

    def _raise_failure(self, failure: Exception | None) -> NoReturn:
        """Exchange what went wrong, and end this process with it; ``failure`` is this process's own."""
        self._has_reported_failure = True
        _ignore_sigterm()
        report = None if failure is None else (isinstance(failure, VitrineError), type(failure), str(failure))
        with self._detecting_lost_process():
            # a class of another package may be missing elsewhere: its name is sent
            failures = gather_object(
                [report if report is None or report[0] else (False, report[1].__name__, report[2])]
            )
        if failure is not None and (self.is_main or not isinstance(failure, VitrineError)):
            raise failure
        rank, (is_ours, kind, message) = next((rank, each) for rank, each in enumerate(failures) if each is not None)
        error: VitrineError = kind(message) if is_ours else TrainingError(f"Process {rank} failed: {kind}: {message}")
        if self.is_main:
            raise error
        raise SystemExit(error.exit_code)

    @contextmanager
    def _detecting_lost_process(self) -> Iterator[None]:
        if self.count == 1:
            yield
            return
        try:
            yield
        except RuntimeError as error:
            if not (isinstance(error, torch.distributed.DistError) or _CONNECTION_ERROR.search(str(error))):
                raise
            self._has_lost_connection = True
            _ignore_sigterm()
            raise LostProcessError(_LOST_PROCESS) from error


def partial_state_arguments() -> dict[str, Any]:
    """Arguments of accelerate's PartialState: on a machine without GPUs it counts processes only if told ``cpu``."""
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    return {"cpu": True} if several and not torch.cuda.is_available() and not torch.xpu.is_available() else {}


def _check_engines(world_size: int) -> bool:
    """Whether the launcher asks for FSDP.

    Raises:
        UsageError: it asks for another engine, for FSDP 1, or for FSDP in a single process.
    """
    for name in ("DEEPSPEED", "MEGATRON_LM", "PARALLELISM_CONFIG"):
        if _uses_engine(name):
            raise UsageError(f"{name} was asked for, and is not supported: expected FSDP version 2, or none.")
    uses_fsdp = _uses_engine("FSDP")
    if uses_fsdp and os.environ.get("FSDP_VERSION", "1") != "2":
        raise UsageError("FSDP version 1 was asked for: expected version 2 (--fsdp_version 2).")
    if uses_fsdp and world_size == 1:
        raise UsageError("FSDP was asked for with one process, and there is nothing to divide. Launch without it.")
    return uses_fsdp


def _uses_engine(name: str) -> bool:
    return os.environ.get(f"ACCELERATE_USE_{name}", "").lower() in ("1", "true")


def _ignore_sigterm() -> None:
    """Let this process report its error: the launcher sends SIGTERM to the others as soon as one has ended."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
