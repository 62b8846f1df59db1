"""Maps by code that is not vitrine's: a person's own function, and what keeps the model as it was while such code runs.

Axes: B pictures, C channels, H, W pixels.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vitrine.attribution.maps import BatchMaps, token_layout
from vitrine.errors import ModelError, UsageError

MapFunction = Callable[[nn.Module, torch.Tensor, torch.Tensor], Any]
"""Called with the module, normalised pixels (B, C, H, W) and class indices (B,); gives scores (B, rows, columns)."""


def import_function(reference: str) -> MapFunction:
    """The function that ``module:function`` names, imported from the current folder or from what is installed.

    That runs the module. It is for names that a person writes on their own command line, never for one from a recipe, a
    file or a request.

    Raises:
        UsageError: there is no such module or function, or it cannot be imported.
    """
    module_name, _, name = reference.partition(":")
    with _current_folder_first():
        try:
            is_missing = find_spec(module_name) is None
        except (ImportError, ValueError):
            is_missing = True
        if is_missing:
            raise UsageError(
                f"There is no Python module {module_name!r} in {Path.cwd()}, and none is installed.\n"
                "Expected --method MODULE:FUNCTION, such as my_maps:my_method for my_method in ./my_maps.py."
            )
        try:
            function = getattr(import_module(module_name), name, None)
        except Exception as error:
            raise UsageError(f"{module_name} cannot be imported: {type(error).__name__}: {error}") from error
    if not callable(function):
        what = "has no" if function is None else "has, but cannot be called:"
        raise UsageError(
            f"The module {module_name} {what} {name!r}.\n"
            "Expected a function of the module, normalised pixels and targets, which gives (B, rows, columns)."
        )
    return function  # type: ignore[no-any-return]


@contextmanager
def _current_folder_first() -> Iterator[None]:
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        if folder in sys.path:
            sys.path.remove(folder)


def own_maps(
    module: nn.Module, pixels_BCHW: torch.Tensor, targets_B: torch.Tensor, *, function: MapFunction, name: str
) -> BatchMaps:
    """Maps by a person's own function, checked; the model is as before, whatever the function did to it.

    Raises:
        ModelError: the function fails, or gives something else than one finite score a patch.
    """
    layout = token_layout(module, *pixels_BCHW.shape[-2:])
    expected = (len(pixels_BCHW), layout.rows, layout.columns)
    with keep_module_state(module, keeps_weights=True):
        try:
            # Copies: what it does to them is seen by no other method.
            result = function(module, pixels_BCHW.clone(), targets_B.to(pixels_BCHW.device, copy=True))
            scores = torch.as_tensor(result).detach()
            if scores.is_complex():
                raise TypeError("its scores are complex numbers, which have no order")
            scores_BRC = scores.float().cpu().clone()
        except Exception as error:
            raise ModelError(f"{name} failed: {type(error).__name__}: {error}\n--debug shows where.") from error
    if tuple(scores_BRC.shape) != expected:
        raise ModelError(
            f"{name} gave scores of shape {tuple(scores_BRC.shape)}; expected {expected}: pictures, rows and columns "
            "of patches."
        )
    if not torch.isfinite(scores_BRC).all():
        raise ModelError(f"{name} gave scores that are not finite numbers: there is no order among them.")
    return BatchMaps(scores_BRC, unit="score")


@contextmanager
def keep_module_state(module: nn.Module, *, keeps_weights: bool = False) -> Iterator[None]:
    """Afterwards the model is as it was: its parts, their attributes, hooks and mode, and its weights' gradients.

    What a method exchanges (parts, their ``forward``, a weight's tensor) or switches off is put back. Gradients are
    recorded, or not, as before.

    Args:
        module: the model.
        keeps_weights: put back what was changed inside of weights, too, to the bit, which takes a copy of them.
    """
    parts = list(module.modules())
    # Hooks, parameters, buffers and parts are dictionaries of a part, which methods change in place.
    states = [(part, {name: _copy_of(value) for name, value in vars(part).items()}, dict(vars(part))) for part in parts]
    tensors = [*module.parameters(), *module.buffers()]
    values = [
        (tensor, tensor.data, tensor.detach().clone() if keeps_weights else None, tensor.requires_grad, tensor.grad)
        for tensor in tensors
    ]
    are_gradients_on = torch.is_grad_enabled()
    try:
        yield
    finally:
        torch.set_grad_enabled(are_gradients_on)
        for part, contents, attributes in states:
            vars(part).clear()
            vars(part).update(attributes)
            for name, content in contents.items():
                if isinstance(content, dict):
                    attributes[name].clear()
                    attributes[name].update(content)
        for tensor, data, value, needs_gradient, gradient in values:
            tensor.data = data
            if value is not None and not torch.equal(data, value):
                data.copy_(value)
            tensor.grad = gradient
            if tensor.is_floating_point():
                tensor.requires_grad_(needs_gradient)


def _copy_of(value: Any) -> Any:
    """A shallow copy of a dictionary, in its order; anything else as it is."""
    return dict(value) if isinstance(value, dict) else value
