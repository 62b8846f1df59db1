"""The end of a model, run on tokens that are given: its last blocks, if any, and what follows the blocks.

Axes: B pictures, C channels or classes, H, W pixels, N tokens (prefix tokens first), D channels of a token.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from vitrine.attribution.class_logit import class_logit


def tail_logits(
    module: nn.Module, pixels_BCHW: torch.Tensor, tokens_BND: torch.Tensor, *, last_blocks: int = 0
) -> torch.Tensor:
    """The logits (B, C) of tokens that go into the last blocks, or past all of them: in the graph of the tokens.

    Args:
        module: a timm vision transformer in eval mode. A copy that shares every weight runs; the module is unchanged.
        pixels_BCHW: the pictures, of which blocks may need the size (rotary positions).
        tokens_BND: with the prefix tokens first.
        last_blocks: how many blocks they go through.
    """
    blocks: Any = module.blocks
    first = len(blocks) - last_blocks
    # As many blocks as before: some models hand each block what belongs to its number.
    parts = [Constant(tokens_BND) for _ in range(first)] + list(blocks[first:])
    logits_BC: torch.Tensor = copy_with(module, {"blocks": nn.Sequential(*parts)}).forward(pixels_BCHW)
    return logits_BC


def tail_class_logit(
    module: nn.Module,
    pixels_BCHW: torch.Tensor,
    tokens_BND: torch.Tensor,
    targets_B: torch.Tensor,
    against_B: torch.Tensor | None,
    *,
    last_blocks: int = 0,
) -> torch.Tensor:
    """The class's logit of tokens that go through the end of the model: what gradients are taken of.

    A scalar, as :func:`vitrine.attribution.class_logit.class_logit` gives it; arguments are its own and those of
    :func:`tail_logits`.
    """
    return class_logit(tail_logits(module, pixels_BCHW, tokens_BND, last_blocks=last_blocks), targets_B, against_B)


def copy_with(module: nn.Module, parts: Mapping[str, nn.Module]) -> nn.Module:
    """A copy that shares everything with a module but a few parts of it; run by ``forward``, it runs no hooks of it."""
    copied_module: nn.Module = type(module).__new__(type(module))
    copied_module.__dict__ = dict(module.__dict__)
    copied_module._modules = {**module._modules, **parts}
    return copied_module


class Constant(nn.Module):
    """A block whose output is given."""

    def __init__(self, tokens_BND: torch.Tensor) -> None:
        super().__init__()
        self.tokens_BND = tokens_BND

    def forward(self, *_: Any, **__: Any) -> torch.Tensor:
        """The tokens, whatever comes in."""
        return self.tokens_BND
