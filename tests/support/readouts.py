"""Noise in the tokens of a model's last block: what a readout says is read must change the logits, and nothing else."""

from __future__ import annotations

import torch
from torch import nn

from vitrine.attribution.maps import token_layout
from vitrine.attribution.readout import Readout, describe_readout


def logits_with_noise(module: nn.Module, pixels_BCHW: torch.Tensor, tokens: list[int]) -> torch.Tensor:
    """Logits of the whole model, with noise in place of some tokens of what its last block gives."""
    noise = torch.Generator().manual_seed(7)

    def replace(_module: nn.Module, _inputs: object, output: torch.Tensor) -> torch.Tensor:
        output = output.clone()
        output[:, tokens] = 3 * torch.randn(len(output), len(tokens), output.shape[2], generator=noise)
        return output

    handle = module.blocks[-1].register_forward_hook(replace)  # type: ignore[index, operator, union-attr]
    try:
        with torch.no_grad():
            logits_BC: torch.Tensor = module(pixels_BCHW)
    finally:
        handle.remove()
    return logits_BC


def require_true_readout(module: nn.Module, pixels_BCHW: torch.Tensor) -> Readout:
    """Hold a model's readout against noise, token by token; patches of a maximum or a pool together."""
    layout = token_layout(module, *pixels_BCHW.shape[-2:])
    readout = describe_readout(module, layout)
    plain_BC = logits_with_noise(module, pixels_BCHW, [])
    groups = [[token] for token in range(layout.tokens)]
    if any(part.pooling != "mean" for part in readout.parts):
        groups = [[token] for token in range(layout.prefix)] + [list(range(layout.prefix, layout.tokens))]
    for group in groups:
        changed = float((logits_with_noise(module, pixels_BCHW, group) - plain_BC).abs().max())
        if readout.reads(group[0]):
            assert changed > 1e-5, f"tokens {group} are said to be read"
        else:
            assert changed == 0, f"tokens {group} are said to be unread, and change logits by {changed}"
    assert abs(sum(part.share for part in readout.parts) - 1) < 1e-9
    return readout
