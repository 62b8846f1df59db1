"""What parts of a model hand on, or are handed, in the forward passes of a ``with`` block; no hook stays behind."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn


@contextmanager
def watch_outputs(*parts: nn.Module) -> Iterator[list[torch.Tensor]]:
    """The outputs of some parts of a model, in the order in which they run, pass after pass; in the graph, if any."""
    outputs: list[torch.Tensor] = []
    with ExitStack() as stack:
        for part in parts:
            handle = part.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
            stack.callback(handle.remove)
        yield outputs


@contextmanager
def watch_input(part: nn.Module) -> Iterator[list[torch.Tensor]]:
    """Likewise, the first input of one part."""
    inputs: list[torch.Tensor] = []
    handle = part.register_forward_pre_hook(lambda _module, arguments: inputs.append(arguments[0]))
    try:
        yield inputs
    finally:
        handle.remove()
