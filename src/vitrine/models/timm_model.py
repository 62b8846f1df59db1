"""A model of timm from arguments that a recipe, a configuration or a command line has."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from typing import Any

import timm
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from vitrine.io.limits import limit

MAX_DEPTH = limit("MAX_DEPTH", 1_000)
"""Blocks of a model."""

MAX_MODEL_SIZE = limit("MAX_MODEL_SIZE", 1_000_000)
"""Every other number among a model's arguments: widths, classes, heads, pixels."""

MAX_PARAMETERS = limit("MAX_PARAMETERS", 50_000_000_000)
"""12 × depth × width², about the parameters of a transformer."""


def create_timm_model(name: str, **arguments: Any) -> nn.Module:
    """``timm.create_model``, with arguments that may come from anywhere.

    Raises:
        ValueError: a number among them is so large that making the model would not end, or take all memory.
        Exception: whatever timm raises, which looks at neither names nor arguments before it uses them.
    """
    _require_plausible(arguments)
    module: nn.Module = timm.create_model(name, **arguments)
    return module


class NoRandomValues(TorchFunctionMode):
    """Within the ``with`` block no tensor is filled with random numbers: for a model whose weights are all loaded next.

    Drawing the 86 million of a ViT-B/16 takes half of what opening it does. What is not loaded keeps whatever was in
    memory, so that the caller has to see that nothing is missing. The state of the random generators does not move.
    """

    def __init__(self) -> None:
        super().__init__()
        self._random_tensors: dict[int, weakref.ref[torch.Tensor]] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name in _RANDOM:
            tensor: torch.Tensor = args[0] if args else kwargs["tensor"]  # torch.nn.init passes its arguments by name
            self._random_tensors[id(tensor)] = weakref.ref(tensor)
            return tensor
        if name in _SCALING and id(args[0]) in self._random_tensors and self._random_tensors[id(args[0])]() is args[0]:
            return args[0]  # untouched memory takes no room until the weights come
        return func(*args, **(kwargs or {}))


# Of tensors and of torch.nn.init. erfinv_ makes a normal distribution of an even one.
_RANDOM = ("uniform_", "normal_", "kaiming_uniform_", "kaiming_normal_", "erfinv_")
_SCALING = ("mul_", "add_", "clamp_")  # what makes a truncated normal distribution of it then

_SIZES = ("depth", "embed_dim", "img_size", "in_chans", "mlp_ratio", "num_classes", "num_heads", "patch_size")


def _require_plausible(arguments: Mapping[str, Any]) -> None:
    for name, value in _numbers(arguments):
        if isinstance(value, bool):
            if name in _SIZES:
                raise ValueError(f"{name} = {value}; expected a number")
            continue
        most = MAX_DEPTH if name in ("depth", "depths") else MAX_MODEL_SIZE
        if abs(value) > most:
            raise ValueError(f"{name} = {value:,}; {most:,} is the limit")
    depth, width = arguments.get("depth"), arguments.get("embed_dim")
    if isinstance(depth, int) and isinstance(width, int) and 12 * depth * width**2 > MAX_PARAMETERS:
        raise ValueError(
            f"depth = {depth:,} and embed_dim = {width:,} are about {12 * depth * width**2:,} parameters; "
            f"{MAX_PARAMETERS:,} is the limit"
        )


def _numbers(arguments: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Every number among the arguments, those in lists too, with the argument's name."""
    for name, value in arguments.items():
        if name in ("pretrained_cfg", "pretrained_cfg_overlay"):  # weights and how they are read, which build nothing
            continue
        for each in value if isinstance(value, list | tuple) else [value]:
            if isinstance(each, int | float):
                yield name, each
