"""Whether a module was compiled."""

from __future__ import annotations

from torch import nn


def is_compiled(module: nn.Module) -> bool:
    """Whether ``torch.compile`` was applied to a module or to a part of it: it computes what it was compiled as."""
    return any(getattr(each, "_compiled_call_impl", None) is not None for each in module.modules())
