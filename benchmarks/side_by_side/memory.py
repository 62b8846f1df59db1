"""Peak memory of one tool, in a process of its own: ``python -m side_by_side.memory TOOL infer|train TASK``.

Each tool's peak would hide another's in a common process. The peak is the resident set at its largest (VmHWM in Linux's
/proc/self/status), with everything that the tool imports and nothing that another one does, plus what the loader's
workers hold for themselves. Weights are random: they do not change it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from harness.peak_memory import field_kib, own_peak_mib

from side_by_side.task import Task, Tool

TOOLS = ("PyTorch-Pretrained-ViT", "transformers", "timm", "vitrine")


def make_tool(name: str, task: Task) -> Tool:
    """The tool of that name; only now its libraries are imported."""
    if name == "vitrine":
        from side_by_side.ours import Ours

        return Ours(task)
    from side_by_side.peers import HuggingFace, PretrainedViT, Timm

    return next(kind(task) for kind in (PretrainedViT, HuggingFace, Timm) if kind.name == name)


def peak_mib(name: str, what: str, task: Task) -> int:
    """Peak of one round in a new process, in MiB."""
    command = [sys.executable, "-m", "side_by_side.memory", name, what, json.dumps(asdict(task))]
    done = subprocess.run(
        command, cwd=Path(__file__).parents[1], check=True, stdout=subprocess.PIPE, text=True, env=dict(os.environ)
    )
    return int(done.stdout.split()[-1])


def _workers_mib() -> float:
    """Memory of this process's children that they share with nobody."""
    if sys.platform == "darwin":
        return 0.0
    total = 0
    for listing in Path("/proc/self/task").glob("*/children"):
        for child in listing.read_text().split():
            smaps = Path("/proc", child, "smaps_rollup")
            total += field_kib(smaps, "Private_Clean:") + field_kib(smaps, "Private_Dirty:")
    return total / 1024


def main() -> None:
    """The child process."""
    name, what, text = sys.argv[1:]
    tool = make_tool(name, Task(**json.loads(text)))
    tool.train() if what == "train" else tool.infer()
    print(round(own_peak_mib() + _workers_mib()))
    tool.close()


if __name__ == "__main__":
    main()
