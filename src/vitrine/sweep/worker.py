"""The process that trains one run of a sweep: how the sweep starts it and reads its events, and its own main()."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch

from vitrine.config import recipe_to_toml
from vitrine.config.sweep import SweepRun
from vitrine.errors import OutputInUseError, VitrineError
from vitrine.runs.folder import RunFolder

_START = (  # of a run's process; what this module imports takes a fifth less time after the first call
    "from vitrine.io.garbage_collection import collect_seldom; collect_seldom(); "
    "from vitrine.sweep.worker import main; main()"
)
_PATIENCE = 15.0  # seconds: processes that load pictures see within 5 that their trainer was killed


@dataclass(frozen=True)
class Failure:
    """Why a run failed: the message, the class of the error, and a traceback where vitrine itself is at fault."""

    error: str
    kind: str
    traceback: str = ""


class RunProcess:
    """A training in a process of its own, which ends when this process does.

    Args:
        run: its name and recipe.
        data: reference of the data.
        folder: its run folder; an unfinished run is continued.
        environment: variables that differ from this process's.
        output: where its standard error goes; None leaves it where this process's goes.
    """

    def __init__(
        self, run: SweepRun, data: str, folder: Path, environment: Mapping[str, str], output: Path | None = None
    ) -> None:
        job = {"name": run.name, "recipe": recipe_to_toml(run.recipe), "data": data, "run": str(folder)}
        command = [sys.executable, "-c", _START, json.dumps(job)]
        log: IO[bytes] | None = None if output is None else output.open("ab")
        try:
            self._process = subprocess.Popen(  # noqa: S603  this interpreter and a module of this package
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, **environment},
            )
        finally:
            if log is not None:
                log.close()
        self.failure: Failure | None = None

    def events(self) -> Iterator[Any]:
        """The training's events, until it ends; ``failure`` says afterwards whether it failed."""
        assert self._process.stdout is not None
        is_done = False
        while True:
            try:
                kind, content = pickle.load(self._process.stdout)  # noqa: S301  from the process started above
            except (EOFError, pickle.UnpicklingError):  # it ended, or was killed while it wrote
                break
            if kind == "event":
                yield content
            elif kind == "failed":
                self.failure = Failure(**content)
            else:
                is_done = True
        status = self._process.wait()
        self._close()
        if not is_done and self.failure is None:
            self.failure = _failure_of_status(status)

    def stop(self) -> None:
        """End it now; what it has written stays."""
        self._process.kill()
        self._process.wait()
        self._close()

    def _close(self) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()


def _failure_of_status(status: int) -> Failure:
    if status < 0:
        name = signal.Signals(-status).name
        often = "; often memory runs out" if name == "SIGKILL" else ""
        return Failure(f"The training was ended by {name}{often}.", "Killed")
    return Failure(f"The training ended with status {status} and said nothing.", "Killed")


def wait_until_free(folder: Path, patience: float = _PATIENCE) -> bool:
    """Wait until no process has locked a run folder; False where one still has after ``patience`` seconds."""
    until = time.monotonic() + patience
    while True:
        try:
            with RunFolder(folder).lock():
                return True
        except OutputInUseError:
            if time.monotonic() > until:
                return False
            time.sleep(0.25)


def environments(jobs: int) -> list[dict[str, str]]:
    """Variables for each of several processes: a GPU each where there are GPUs, else a share of the cores."""
    if jobs == 1:
        return [{}]
    cuda_devices = os.environ.get("CUDA_VISIBLE_DEVICES")
    visible = [str(i) for i in range(torch.cuda.device_count())]  # it looks without starting CUDA
    if cuda_devices is not None:
        visible = [name.strip() for name in cuda_devices.split(",")][: len(visible)]
    if visible:
        return [{"CUDA_VISIBLE_DEVICES": visible[slot % len(visible)]} for slot in range(jobs)]
    if "OMP_NUM_THREADS" in os.environ:
        return [{}] * jobs
    return [{"OMP_NUM_THREADS": str(max(1, torch.get_num_threads() // jobs))}] * jobs


def main() -> None:
    """Train the run that the first argument describes as JSON, and write its events to the standard output."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process; the sweep decides
    event_pipe = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # what libraries print must not come between the events
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    job = json.loads(sys.argv[1])

    def send(kind: str, content: Any) -> None:
        event_pipe.write(pickle.dumps((kind, content)))

    try:
        from vitrine.config import recipe_from_toml
        from vitrine.train.run import train

        recipe = recipe_from_toml(job["recipe"], job["name"])
        train(job["data"], recipe, Path(job["run"]), resume=True, report=lambda event: send("event", event))
    except VitrineError as error:
        send("failed", {"error": str(error), "kind": type(error).__name__})
    except Exception as error:  # the next run may work
        name, trace = type(error).__name__, traceback.format_exc()
        send("failed", {"error": f"{name}: {error}", "kind": name, "traceback": trace})
    else:
        send("done", None)


def _exit_with_parent() -> None:
    os.read(0, 1)  # returns when the sweep closes the pipe, or ends
    os._exit(1)
