"""The largest resident set of this process, read where other measurements of memory read it."""

from __future__ import annotations

import resource
import sys
from pathlib import Path


def own_peak_mib() -> float:
    """The largest resident set of this process so far."""
    if sys.platform == "darwin":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)  # bytes there
    # Not ru_maxrss: a process begins with its parent's.
    return field_kib(Path("/proc/self/status"), "VmHWM:") / 1024


def field_kib(path: Path, field: str) -> int:
    """A number of kibibytes in one of Linux's files on a process."""
    return next(int(line.split()[1]) for line in path.read_text().splitlines() if line.startswith(field))
