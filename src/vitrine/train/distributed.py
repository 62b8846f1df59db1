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

from vitrine.data.loader import BatchShard
from vitrine.errors import LostProcessError, TrainingError, UsageError, VitrineError

_Value = TypeVar("_Value")

_WIDTH = 8  # numbers in a row, the first of which says whether the sender failed
_PATIENCE = timedelta(hours=2)  # for what the first process does alone, such as captioning the validation pictures
_CONNECTION = re.compile(r"gloo|nccl|connection (closed|reset|refused)|broken pipe|socket", re.IGNORECASE)
_LOST = (
    "Another process of this training ended: it was killed, ran out of memory, or says itself what went wrong.\n"
    "--resume continues from the last checkpoint, on any number of processes."
)


class ProcessGroup:
    """This process among those that train together; by itself it is the only one.

    Attributes:
        rank: its number, from 0; the first one writes and speaks.
        count: how many there are.
        cut: whether each holds a part of the model only, as accelerate's settings for FSDP ask.
    """

    def __init__(self) -> None:
        self.rank, self.count, self.uses_fsdp = 0, 1, False
        self._local_rank = 0
        self._numbers: Any = None  # the group in which numbers are told; None is that of everything else
        self._in_exchange = self._told = self._lost = False

    @classmethod
    def from_launcher(cls) -> ProcessGroup:
        """The processes that a launcher started, connected; without a launcher, this one alone.

        Raises:
            UsageError: the launcher asked for something that is not supported.
        """
        processes = cls()
        wanted = int(os.environ.get("WORLD_SIZE", "1"))
        for name in ("DEEPSPEED", "MEGATRON_LM", "PARALLELISM_CONFIG"):
            if _is_set(name):
                raise UsageError(f"{name} was asked for, and is not supported: expected FSDP version 2, or none.")
        processes.uses_fsdp = _is_set("FSDP")
        if processes.uses_fsdp and os.environ.get("FSDP_VERSION", "1") != "2":
            raise UsageError("FSDP version 1 was asked for: expected version 2 (--fsdp_version 2).")
        if wanted == 1 and processes.uses_fsdp:
            raise UsageError("FSDP was asked for with one process, and there is nothing to divide. Launch without it.")
        if wanted == 1:
            return processes
        missing = [name for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
        if missing:
            raise UsageError(
                f"WORLD_SIZE is {wanted}, and {', '.join(missing)} not set. Start several processes with torchrun or "
                "accelerate launch, or unset WORLD_SIZE."
            )
        state = PartialState(**partial_state_arguments(), timeout=_PATIENCE)
        if state.num_processes != wanted:
            raise UsageError(f"{wanted} processes were launched, and accelerate sees {state.num_processes} of them.")
        processes.rank, processes.count = state.process_index, state.num_processes
        processes._local_rank = state.local_process_index
        if state.device.type != "cpu":  # numbers from memory to memory, past the accelerators' queues
            processes._numbers = torch.distributed.new_group(backend="gloo", timeout=_PATIENCE)
        atexit.register(processes._leave)
        return processes

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.rank == 0

    def batch_shard(self, *, pair_for_mixup: bool = False) -> BatchShard:
        """What of batches and splits is this process's."""
        return BatchShard(self.rank, self.count, pair_for_mixup)

    def all_reduce_sum(self, numbers: Sequence[float]) -> list[float]:
        """Sums over all processes, in float64; every process gives as many numbers."""
        if self.count == 1:
            return [float(number) for number in numbers]
        room, sums = _WIDTH - 1, []
        for start in range(0, max(1, len(numbers)), room):
            rows = self._rows(numbers[start : start + room])
            sums += rows.sum(0)[: len(numbers[start : start + room])].tolist()
        return sums

    def all_gather(self, value: _Value) -> list[_Value]:
        """Every process's value, by rank."""
        if self.count == 1:
            return [value]
        self._rows(())
        with self._watching():
            values: list[_Value] = gather_object([value])
        return values

    def broadcast_from_main(self, make: Callable[[], _Value]) -> _Value:
        """What the first process makes, for all; the others do not call ``make``."""
        if self.count == 1:
            return make()
        box: list[Any] = [make() if self.is_main else None]
        self._rows(())
        with self._watching():
            broadcast_object_list(box)
        value: _Value = box[0]
        return value

    def local_main_first(self, make: Callable[[], _Value]) -> _Value:
        """What each process makes: one on every machine first, so that a download is there when the others look."""
        if self.count == 1:
            return make()
        if self._local_rank == 0:
            value = make()
            self._rows(())
            return value
        self._rows(())
        return make()

    @contextmanager
    def fail_together(self) -> Iterator[None]:
        """Where this process fails, all do: the first one raises the error, the others leave with its exit status.

        Raises:
            LostProcessError: another process is gone.
        """
        try:
            yield
        except Exception as error:
            if self.count > 1 and not (self._told or self._in_exchange or isinstance(error, LostProcessError)):
                self._rows((), failure=error)
            raise

    @contextmanager
    def gradient_exchange(self) -> Iterator[None]:
        """Around a backward pass, in which gradients are exchanged.

        Raises:
            LostProcessError: another process is gone.
        """
        self._in_exchange = True
        with self._watching():
            yield
        self._in_exchange = False

    def _leave(self) -> None:
        gc.collect()  # a wrapped model that outlives its connections aborts the process
        if torch.distributed.is_initialized() and not self._lost:
            torch.distributed.destroy_process_group()

    def _rows(self, numbers: Sequence[float], failure: Exception | None = None) -> torch.Tensor:
        """Every process's numbers, (processes, width) in float64; raises where any of them failed."""
        row = torch.zeros(1, _WIDTH, dtype=torch.float64)
        row[0, 0] = failure is not None
        row[0, 1 : 1 + len(numbers)] = torch.tensor(numbers, dtype=torch.float64)
        with self._watching():
            told = [torch.zeros_like(row) for _ in range(self.count)]
            torch.distributed.all_gather(told, row, group=self._numbers)
        rows = torch.cat(told)
        if rows[:, 0].any():
            self._end(failure)
        return rows[:, 1:]

    def _end(self, failure: Exception | None) -> NoReturn:
        self._told = True
        _let_me_finish()
        own = None if failure is None else (isinstance(failure, VitrineError), type(failure), str(failure))
        with self._watching():
            told = gather_object([own if own is None or own[0] else (False, own[1].__name__, own[2])])
        if failure is not None and (self.is_main or not isinstance(failure, VitrineError)):
            raise failure
        rank, (known, kind, message) = next((rank, each) for rank, each in enumerate(told) if each is not None)
        error: VitrineError = kind(message) if known else TrainingError(f"Process {rank} failed: {kind}: {message}")
        if self.is_main:
            raise error
        raise SystemExit(error.exit_code)

    @contextmanager
    def _watching(self) -> Iterator[None]:
        if self.count == 1:
            yield
            return
        try:
            yield
        except RuntimeError as error:
            if not (isinstance(error, torch.distributed.DistError) or _CONNECTION.search(str(error))):
                raise
            self._lost = True
            _let_me_finish()
            raise LostProcessError(_LOST) from error


def partial_state_arguments() -> dict[str, Any]:
    """What accelerate has to be told: without it, it takes each process on a machine without GPUs for the only one."""
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    return {"cpu": True} if several and not torch.cuda.is_available() and not torch.xpu.is_available() else {}


def _is_set(engine: str) -> bool:
    return os.environ.get(f"ACCELERATE_USE_{engine}", "").lower() in ("1", "true")


def _let_me_finish() -> None:
    """The launcher asks the others to end as soon as one has: say first why."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
