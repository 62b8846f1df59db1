"""A model of which every process holds a part (PyTorch's FSDP2), and the whole of it when it is measured or saved."""

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

_WHOLE = StateDictOptions(full_state_dict=True)


class FSDPModel:
    """Cuts a module in place: parameters, gradients and the optimizer's state are then divided among processes.

    Attributes:
        module: whose forward pass gathers each block's weights when it comes to it.
    """

    def __init__(self, module: nn.Module, blocks: Iterable[nn.Module], processes: int) -> None:
        self._twin = deepcopy(module).requires_grad_(False)
        mesh = init_device_mesh(next(module.parameters()).device.type, (processes,))
        for block in blocks:
            fully_shard(block, mesh=mesh)
        self.module = module
        self.sharded: FSDPModule = fully_shard(module, mesh=mesh)

    def unsharded(self) -> nn.Module:
        """A plain module with the weights of now, which every process gets; they all have to call this."""
        self._twin.load_state_dict(self.weights())
        return self._twin

    def weights(self) -> dict[str, Any]:
        """The state that a module which was not cut would have."""
        return get_model_state_dict(self.module, options=_WHOLE)

    def load_weights(self, state: dict[str, Any]) -> None:
        """Take the state of a module that was not cut."""
        set_model_state_dict(self.module, state, options=_WHOLE)

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """The state that an optimizer over a module which was not cut would have; all processes have to ask."""
        state = optimizer.state_dict()
        return {**state, "state": _mapped(state["state"], lambda _, value: _joined(value))}

    def load_optimizer_state(self, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
        """Take the state of an optimizer over a module that was not cut."""
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]

        def cut(number: int, value: Any) -> Any:
            parameter = parameters[number]
            if not isinstance(value, torch.Tensor) or value.shape != parameter.shape or not value.ndim:
                return value  # the count of steps
            return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)

        optimizer.load_state_dict({**state, "state": _mapped(state["state"], cut)})

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        """Gradients are added up here, and not exchanged."""
        self.sharded.set_requires_gradient_sync(False)
        try:
            yield
        finally:
            self.sharded.set_requires_gradient_sync(True)


def _mapped(state: dict[int, dict[str, Any]], change: Callable[[int, Any], Any]) -> dict[int, dict[str, Any]]:
    return {number: {name: change(number, each) for name, each in own.items()} for number, own in state.items()}


def _joined(value: Any) -> Any:
    return value.full_tensor() if isinstance(value, DTensor) else value
