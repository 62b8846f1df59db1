"""Grad-CAM on the tokens of a vision transformer (Selvaraju et al. 2017, arXiv:1610.02391).

Axes: B pictures, N tokens (prefix tokens first), P patches, D channels, K keys.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from vitrine.attribution.maps import BatchMaps, split_prefix, token_layout
from vitrine.errors import ModelError


def gradcam(module: nn.Module, pixels_BCHW: torch.Tensor, targets_B: torch.Tensor) -> BatchMaps:
    """Grad-CAM on the last tokens that carry gradient to the patches.

    The channels' weights are the means, over patches, of the gradient of the class's logit; the map is the positive
    part of the weighted sum of the channels. After the last block of a model that reads its class token, the patches'
    tokens have no gradient at all: there the tokens that go *into* the last block are used. Which they are is found
    from the gradients themselves.

    Args:
        module: a timm vision transformer in eval mode; its parameters' gradients are not touched.
        pixels_BCHW: normalised.
        targets_B: int64, a class for each picture.

    Raises:
        ModelError: no tokens carry gradient to the patches.
    """
    layout = token_layout(module, *pixels_BCHW.shape[-2:])
    with torch.enable_grad(), _tokens_between_blocks(module) as tokens:
        logits_BC = module(pixels_BCHW.detach().requires_grad_())
        target_logits = logits_BC.gather(1, targets_B[:, None].to(logits_BC.device)).sum()
        gradients = torch.autograd.grad(target_logits, tokens, allow_unused=True)
    for features_BND, gradient_BND in zip(reversed(tokens), reversed(gradients), strict=True):
        if gradient_BND is None or not gradient_BND[:, layout.prefix :].any():
            continue
        with torch.no_grad():
            features_BND, gradient_BND = features_BND.detach().float(), gradient_BND.float()
            weights_BD = gradient_BND[:, layout.prefix :].mean(dim=1)
            rows_BN = torch.einsum("bnd,bd->bn", features_BND, weights_BD).clamp_(min=0)
        return split_prefix(rows_BN, layout, has_prefix_mass=False)
    raise ModelError("No layer of this model carries gradient to its patches, so Grad-CAM has nothing to show.")


@contextmanager
def _tokens_between_blocks(module: nn.Module) -> Iterator[list[torch.Tensor]]:
    """Within the ``with`` block: the tokens into the first block and out of every block, in order, in the graph."""
    blocks: Any = module.blocks
    tokens: list[torch.Tensor] = []
    handles = [blocks[0].register_forward_pre_hook(lambda _, inputs: tokens.append(inputs[0]))]
    handles += [block.register_forward_hook(lambda _, __, output: tokens.append(output)) for block in blocks]
    try:
        yield tokens
    finally:
        for handle in handles:
            handle.remove()
