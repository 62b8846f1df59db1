"""vitrine: fine-tune vision transformers on your own pictures and see what they look at."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vitrine.version import __version__

if TYPE_CHECKING:
    from vitrine.workflows.model import load

__all__ = ["__version__", "load"]


def __getattr__(name: str) -> Any:
    """``vitrine.load``, imported when it is first used: the command line starts without torch."""
    if name == "load":
        from vitrine.workflows.model import load

        return load
    raise AttributeError(f"module 'vitrine' has no attribute {name!r}")
