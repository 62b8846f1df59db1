"""Which process wrote something: its machine, number and start, and whether it is still running."""

from __future__ import annotations

import hashlib
import os
import re
import socket
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_TAG = re.compile(r"([0-9a-f]{6})-(\d{1,10})-([0-9a-f]{1,16})", re.ASCII)


@dataclass(frozen=True)
class ProcessIdentity:
    """One process among all that ever ran: a number alone is given to another process before long.

    Attributes:
        machine: six hexadecimal digits for the host since it was started, and for the container: numbers of processes
            can be compared only where it is the same.
        pid: the process's number.
        start: when it was started, in the machine's own unit; 0 where that cannot be known.
    """

    machine: str
    pid: int
    start: int

    @classmethod
    def current(cls) -> ProcessIdentity:
        """This process."""
        return cls(_machine(), os.getpid(), _start_of(os.getpid()) or 0)

    @classmethod
    def from_tag(cls, tag: str) -> ProcessIdentity | None:
        """Read back what :attr:`tag` gave; None of any other text."""
        match = _TAG.fullmatch(tag)
        return None if match is None else cls(match[1], int(match[2]), int(match[3], 16))

    @property
    def tag(self) -> str:
        """The identity in letters, digits and hyphens, for file names."""
        return f"{self.machine}-{self.pid}-{self.start:x}"

    def is_running(self) -> bool | None:
        """Whether it is still running; None of a process on another machine, which cannot be known here."""
        if self.machine != _machine():
            return None
        return _start_of(self.pid) == self.start


@cache
def _machine() -> str:
    facts = [socket.gethostname()]
    with suppress(OSError):  # only Linux says these
        facts.append(Path("/proc/sys/kernel/random/boot_id").read_text())
        facts.append(str(Path("/proc/self/ns/pid").readlink()))  # containers have numbers of their own
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:6]


def _start_of(pid: int) -> int | None:
    """When a process was started; None where there is none, or it has ended and only its parent does not know yet."""
    if Path("/proc/self/stat").exists():
        try:
            state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except (OSError, ValueError):
            return None
        return None if state in "ZX" else int(fields[18])  # starttime, proc(5)
    import psutil  # type: ignore[import-untyped]  # slow to import, and needed where there is no /proc

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else int(process.create_time())
    except psutil.Error:
        return None
