"""vitrine: fine-tune vision transformers on your own pictures and see what they look at."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vitrine.version import __version__

if TYPE_CHECKING:
    from vitrine.api import load


__all__ = ["__version__", "load"]


def __getattr__(name: str) -> Any:
    """``vitrine.load``, imported when it is first used: the command line starts without torch."""
    if name == "load":
        from vitrine.errors import environment_mismatch

        try:
            from vitrine.api import load
        except (ImportError, RuntimeError) as error:
            raise environment_mismatch(error) or error from error
        return load
    raise AttributeError(f"module 'vitrine' has no attribute {name!r}")
