"""oneDNN's products with weights that are kept in the order in which it reads them.

torch has them for its own compiler, and its public interface does not name them: what is used here is tried first.

Letters: N rows of any number of axes, I inputs, O outputs.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor


@cache
def packs(dtype: torch.dtype) -> bool:
    """Whether torch has these products for this type."""
    weight = torch.eye(16, dtype=dtype)
    try:
        made = linear(weight, pack_linear(weight), weight[0])
    except (AttributeError, RuntimeError, TypeError):  # not built in, not for this type, or with other arguments
        return False
    return torch.equal(made, weight + weight[0])


def pack_linear(weight_OI: Tensor) -> Tensor:
    """A copy of a linear layer's weights for :func:`linear`; an opaque tensor of the same size and type."""
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight_OI.detach(), None)
    return packed


def linear(x_NI: Tensor, packed: Tensor, bias_O: Tensor | None) -> Tensor:
    """(..., O): what ``torch.nn.functional.linear`` gives, in the type of the three."""
    made: Tensor = torch.ops.mkldnn._linear_pointwise(x_NI, packed, bias_O, "none", [], "")
    return made
