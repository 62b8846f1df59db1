"""Limits on what comes from outside: each has a default, and an environment variable that sets another."""

from __future__ import annotations

import os

from vitrine.errors import UsageError

PREFIX = "VITRINE_"


def limit(name: str, default: int) -> int:
    """A limit's value: that of the environment variable ``VITRINE_`` and its name, else the default.

    docs/limits.md lists every call of this function with the text below its constant.

    Raises:
        UsageError: the variable is no whole number above 0.
    """
    text = os.environ.get(PREFIX + name, "")
    if not text:
        return default
    if not text.isascii() or not text.isdecimal() or int(text) < 1:
        raise UsageError(f"{PREFIX}{name}={text} cannot be used: expected a whole number above 0, such as {default}.")
    return int(text)
