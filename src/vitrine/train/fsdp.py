"""A model that is sharded over processes (PyTorch's FSDP2), and the whole of it where it is evaluated or saved."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, set_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

_FULL = StateDictOptions(full_state_dict=True)


class FSDPModel:
    """Shards a module in place: parameters, gradients and the optimizer's state are divided among processes.

    All methods are collectives: every process has to call them.

    Args:
        module: the whole model, the same in all processes.
        blocks: of the module; each is gathered by itself when the forward pass comes to it.
        processes: how many there are.

    Attributes:
        module: the given module, sharded.
        sharded: the same module, with FSDP's own methods.
    """

    def __init__(self, module: nn.Module, blocks: Iterable[nn.Module], processes: int) -> None:
        self._unsharded = deepcopy(module).requires_grad_(False)
        mesh = init_device_mesh(next(module.parameters()).device.type, (processes,))
        for block in blocks:
            fully_shard(block, mesh=mesh)
        self.module = module
        self.sharded: FSDPModule = fully_shard(module, mesh=mesh)

    def unsharded(self) -> nn.Module:
        """A plain module with the current weights; the next call overwrites it."""
        self._unsharded.load_state_dict(self.full_state_dict())
        return self._unsharded

    def full_state_dict(self) -> dict[str, Any]:
        """The state that the whole module would have."""
        return get_model_state_dict(self.module, options=_FULL)

    def load_full_state_dict(self, state: dict[str, Any]) -> None:
        """Take the state of the whole module."""
        set_model_state_dict(self.module, state, options=_FULL)

    def full_optimizer_state(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """The state that an optimizer over the whole module would have."""
        state = optimizer.state_dict()
        return {**state, "state": _map_values(state["state"], lambda _, value: _gather(value))}

    def load_full_optimizer_state(self, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
        """Take the state of an optimizer over the whole module."""
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]

        def shard(number: int, value: Any) -> Any:
            parameter = parameters[number]
            if not isinstance(value, torch.Tensor) or value.shape != parameter.shape or not value.ndim:
                return value  # the count of steps
            return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)

        optimizer.load_state_dict({**state, "state": _map_values(state["state"], shard)})

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        """Add gradients up in this process, and do not reduce them over processes."""
        self.sharded.set_requires_gradient_sync(False)
        try:
            yield
        finally:
            self.sharded.set_requires_gradient_sync(True)


def _map_values(state: dict[int, dict[str, Any]], change: Callable[[int, Any], Any]) -> dict[int, dict[str, Any]]:
    return {number: {name: change(number, each) for name, each in values.items()} for number, values in state.items()}


def _gather(value: Any) -> Any:
    return value.full_tensor() if isinstance(value, DTensor) else value
