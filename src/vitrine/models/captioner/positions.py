"""Where a cell lies on the feature grid, as sine and cosine of its row and column.

Letters: B pictures, R, C rows and columns of the padded grid, D channels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_TEMPERATURE = 10000.0
_EPS = 1e-6  # in the published order: added to the count before dividing


def sine_positions(padded_BRC: Tensor, width: int) -> Tensor:
    """Sine position embedding of DETR (Carion et al. 2020, arXiv:2005.12872, appendix A.4), normalised to 2π.

    The first half of the channels is of the row, the second of the column; each pair of channels is the sine and the
    cosine of one frequency (Vaswani et al. 2017, arXiv:1706.03762).

    Args:
        padded_BRC: bool, True where a cell is padding; rows and columns are counted over the rest, from 1.
        width: D, a multiple of 4.

    Returns:
        float32 (B, R, C, D), from -1 to 1.
    """
    real_BRC = ~padded_BRC
    half = width // 2
    pair = torch.div(torch.arange(half, device=padded_BRC.device), 2, rounding_mode="floor")
    wavelength = _TEMPERATURE ** (2 * pair.float() / half)
    parts = []
    for axis in (1, 2):
        count_BRC = real_BRC.cumsum(axis, dtype=torch.float32)
        total = count_BRC.select(axis, -1).unsqueeze(axis)
        angle = (count_BRC / (total + _EPS) * (2 * math.pi))[..., None] / wavelength
        parts.append(torch.stack((angle[..., 0::2].sin(), angle[..., 1::2].cos()), dim=-1).flatten(-2))
    return torch.cat(parts, dim=-1)
