"""What takes the time of a piece of work, operator by operator."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile

from vitrine.runs.environment import redirect_native_stderr


def slowest(work: Callable[[], object], device: torch.device, count: int = 4) -> str:
    """The operators that take most of the time of one call, with their shares, in words.

    Args:
        work: what is looked at; it should have run before.
        device: on CUDA its own time counts, elsewhere that of the CPU.
        count: operators at most.
    """
    cuda = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * cuda]
    with redirect_native_stderr(), profile(activities=activities) as seen:
        work()
    own = "self_device_time_total" if cuda else "self_cpu_time_total"
    times = {event.key: float(getattr(event, own)) for event in seen.key_averages()}
    total = sum(times.values()) or 1.0
    first = sorted(times, key=lambda name: -times[name])[:count]
    return ", ".join(f"{name.removeprefix('aten::')} {100 * times[name] / total:.0f} %" for name in first)
