"""The transformers library, loaded when it is needed: it takes seconds to import and is an extra of the package."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from packaging.version import Version

from vitrine.errors import ModelError
from vitrine.torchpair import require_torchvision

OLDEST = "5.23"
"""Version that is known to work; earlier ones keep caches and image processors in other ways."""

_INSTALL = "Install it: pip install 'vitrine[hf]'"


def transformers_library() -> Any:
    """The module ``transformers``.

    Raises:
        ModelError: it is not installed, or is older than :data:`OLDEST`.
        EnvironmentMismatchError: torch and torchvision do not belong together.
    """
    require_torchvision()  # which transformers imports for its image processors
    try:
        library = import_module("transformers")
    except ImportError as error:
        raise ModelError(
            f"Captioners of transformers need that library, which is not here ({error}).\n{_INSTALL}"
        ) from None
    if Version(library.__version__) < Version(OLDEST):
        raise ModelError(
            f"Captioners of transformers need its version {OLDEST} or newer; this is {library.__version__}.\n{_INSTALL}"
        )
    return library


@contextmanager
def quiet(library: Any) -> Iterator[None]:
    """Within the block, the library prints no progress bars and no warnings: what matters of them is raised."""
    logs = library.utils.logging
    before, bars = logs.get_verbosity(), logs.is_progress_bar_enabled()
    logs.set_verbosity_error()
    logs.disable_progress_bar()
    try:
        yield
    finally:
        logs.set_verbosity(before)
        if bars:
            logs.enable_progress_bar()
