"""What a vision-language model will take of memory, from the headers of its weights, before any of them are read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vitrine.errors import ModelError
from vitrine.models.checkpoints.weights_index import is_index, part_paths
from vitrine.results import shown_number

_GIB = 2**30


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes that a model takes.

    Attributes:
        file: of its weights' files.
        weights: of its weights in the precision that they are opened in.
        cache: of the keys and values of one picture with its prompt and answer, if they fill the model's context.
        positions: of the context.
    """

    file: int
    weights: int
    cache: int
    positions: int

    @classmethod
    def of(
        cls, path: Path, shapes: Mapping[str, tuple[int, ...]], text_config: Any, positions: int, dtype: torch.dtype
    ) -> MemoryPlan:
        """From what the headers say.

        Args:
            path: of the weights, or of the index of their files.
            shapes: of the tensors.
            text_config: of the language model.
            positions: of its context.
            dtype: that it is opened in.
        """
        files = part_paths(path) if is_index(path) else [path]
        heads = text_config.num_attention_heads
        channels = getattr(text_config, "head_dim", None) or text_config.hidden_size // heads
        groups = getattr(text_config, "num_key_value_heads", None) or heads
        cache = 2 * text_config.num_hidden_layers * groups * channels * positions * dtype.itemsize
        weights = sum(math.prod(shape) for shape in shapes.values()) * dtype.itemsize
        return cls(sum(file.stat().st_size for file in files), weights, cache, positions)

    @property
    def loading(self) -> int:
        """While they are loaded: weights of another precision than the file's are made beside those of the file."""
        is_same = 0.75 < self.file / max(self.weights, 1) < 1.5  # half or twice as much otherwise; files have headers
        return self.weights if is_same else self.weights + self.file

    def check(self, free: int | None, dtype: torch.dtype) -> str:
        """Whether it fits.

        Args:
            free: bytes; None where that is not known.
            dtype: that it is opened in.

        Returns:
            a warning in two lines; empty where all of it fits, or nothing is known.

        Raises:
            ModelError: the weights do not fit.
        """
        if free is None:
            return ""
        if self.loading > free:
            smaller = " Or give --precision bf16, which takes half." if dtype == torch.float32 else ""
            raise ModelError(
                f"Loading these weights takes {_gib(self.loading)} of memory ({_gib(self.weights)} once that is done), "
                f"and {_gib(free)} are free.\nGive a smaller model, or a machine with more memory.{smaller}"
            )
        if self.weights + self.cache > free:
            return (
                f"This model takes {_gib(self.weights)} of memory, and a picture with its answer up to "
                f"{_gib(self.cache)} more if they fill its {self.positions:,} positions; {_gib(free)} are free.\n"
                "Long answers, many pictures at a time (--batch-size) or beams may not fit."
            )
        return ""


def free_memory() -> int | None:
    """Bytes of memory that can be had without swapping, by the kernel's estimate and the limit of the control group;
    None where neither is known (other systems than Linux)."""
    try:
        lines = Path("/proc/meminfo").read_text("ascii").splitlines()
        available = next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, ValueError, StopIteration):
        return None
    group = Path("/sys/fs/cgroup")
    try:
        limit, current = ((group / f"memory.{name}").read_text("ascii").strip() for name in ("max", "current"))
        return min(available, max(0, int(limit) - int(current)))
    except (OSError, ValueError):  # "max", where there is no limit
        return available


def _gib(count: int) -> str:
    return f"{shown_number(count / _GIB, 2)} GiB"
