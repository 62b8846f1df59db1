"""What a vision-language model will take of memory, from the headers of its weights, before any of them are read."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from vitrine.errors import ModelError
from vitrine.models.checkpoints.weights_index import is_index, part_paths
from vitrine.results import shown_number

Precision = Literal["fp32", "bf16", "4bit"]
"""Of weights: float32; bfloat16; or linear layers in 4 bits, and the rest in bfloat16."""

_GIB = 2**30
_ITEM_BYTES = {"fp32": 4, "bf16": 2, "4bit": 2}
_BLOCK = 64  # weights in 4 bits that share a scale of four bytes
_NOT_IN_4_BITS = re.compile(r"embed|lm_head|output_projection|(?<!\.weight)$")  # embeddings, the vocabulary, biases
_SMALLER = {"fp32": "--precision bf16 or 4bit, which take less", "bf16": "--precision 4bit, which takes less"}


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes that a model takes.

    Attributes:
        read: of its weights' files, if they are read whole before the model has them; 0 of safetensors, of which the
            system brings in and drops pages as they are used.
        weights: of its weights in the precision that they are opened in.
        cache: of the keys and values of one picture with its prompt and answer, if they fill the model's context.
        positions: of the context.
        precision: that it is opened in.
    """

    read: int
    weights: int
    cache: int
    positions: int
    precision: Precision

    @classmethod
    def of(
        cls,
        path: Path,
        shapes: Mapping[str, tuple[int, ...]],
        text_config: Any,
        positions: int,
        precision: Precision,
        *,
        is_in_4_bits: bool = False,
    ) -> MemoryPlan:
        """From what the headers say.

        Args:
            path: of the weights, or of the index of their files.
            shapes: of the tensors.
            text_config: of the language model.
            positions: of its context.
            precision: that it is opened in.
            is_in_4_bits: whether the file has it in 4 bits already.
        """
        files = part_paths(path) if is_index(path) else [path]
        read = sum(file.stat().st_size for file in files if file.suffix != ".safetensors")
        heads = text_config.num_attention_heads
        channels = getattr(text_config, "head_dim", None) or text_config.hidden_size // heads
        groups = getattr(text_config, "num_key_value_heads", None) or heads
        cache = 2 * text_config.num_hidden_layers * groups * channels * positions * _ITEM_BYTES[precision]
        weights = (
            sum(file.stat().st_size for file in files)
            if is_in_4_bits
            else sum(_bytes(name, shape, precision) for name, shape in shapes.items())
        )
        return cls(read, weights, cache, positions, precision)

    @property
    def loading(self) -> int:
        """While they are loaded: what is read from a file is not yet what the model has, in another precision."""
        is_same = 0.75 < self.read / max(self.weights, 1) < 1.5  # half or twice as much otherwise; files have headers
        return self.weights if is_same else self.weights + self.read

    def check(self, free: int | None) -> str:
        """Whether it fits into memory.

        Args:
            free: bytes; None where that is not known.

        Returns:
            a warning in two lines; empty where all of it fits, or nothing is known.

        Raises:
            ModelError: the weights do not fit.
        """
        if free is not None and self.loading > free:
            smaller = f" Or give {_SMALLER[self.precision]}." if self.precision in _SMALLER else ""
            raise ModelError(
                f"Loading these weights takes {_gib(self.loading)} of memory ({_gib(self.weights)} once that is done), "
                f"and {_gib(free)} are free.\nGive a smaller model, or a machine with more memory.{smaller}"
            )
        return self.check_cache(free)

    def check_gpu(self, name: str, free: int, memory: int | None) -> str:
        """Whether it fits on one GPU.

        Args:
            name: of the GPU.
            free: bytes on it.
            memory: bytes of the machine's memory; None where that is not known.

        Returns, Raises: as :meth:`check`.
        """
        if memory is not None and self.read > memory:
            raise ModelError(
                f"The file of these weights takes {_gib(self.read)} of memory while it is read, and {_gib(memory)} are "
                "free.\nGive the weights as safetensors, which are read piece by piece."
            )
        if self.weights > free:
            smaller = f", or {_SMALLER[self.precision]}" if self.precision in _SMALLER else ""
            raise ModelError(
                f"These weights take {_gib(self.weights)}, and {name} has {_gib(free)} free.\n"
                f"Give --device auto, which puts what {name} has no room for elsewhere, and is slower{smaller}."
            )
        return self.check_cache(free)

    def check_cache(self, free: int | None) -> str:
        """A warning in two lines where keys and values of a whole context have no room beside the weights; else
        empty."""
        if free is None or self.weights + self.cache <= free:
            return ""
        return (
            f"This model takes {_gib(self.weights)} of memory, and a picture with its answer up to "
            f"{_gib(self.cache)} more if they fill its {self.positions:,} positions; {_gib(free)} are free.\n"
            "Long answers, many pictures at a time (--batch-size) or beams may not fit."
        )


def _bytes(name: str, shape: tuple[int, ...], precision: Precision) -> int:
    count = math.prod(shape)
    if precision == "4bit" and len(shape) == 2 and shape[1] % _BLOCK == 0 and not _NOT_IN_4_BITS.search(name):
        return count // 2 + 4 * count // _BLOCK
    return count * _ITEM_BYTES[precision]


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


def free_gpu_memory() -> dict[int, int]:
    """Bytes that each CUDA device has free, by its number: by its driver, and what torch holds of it without use."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    idle_bytes = (torch.cuda.memory_reserved(each) - torch.cuda.memory_allocated(each) for each in range(count))
    return {number: torch.cuda.mem_get_info(number)[0] + more for number, more in enumerate(idle_bytes)}


def _gib(count: int) -> str:
    return f"{shown_number(count / _GIB, 2)} GiB"
