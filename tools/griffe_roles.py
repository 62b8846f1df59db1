"""An extension of griffe for the documentation site: Sphinx's roles in docstrings become plain code."""

from __future__ import annotations

import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:py:)?(?:func|class|data|meth|mod|attr):`~?([^`]+)`")


class PlainRoles(griffe.Extension):
    """Writes ``:func:`name``` as ``name`` in code style, since the site has no page for most of these names."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Change one object's docstring."""
        if obj.docstring is not None:
            obj.docstring.value = ROLE.sub(r"`\1`", obj.docstring.value)
