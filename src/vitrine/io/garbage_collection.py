"""How often Python looks for garbage: seldom, in the processes that are vitrine's own."""

from __future__ import annotations

import gc


def collect_seldom() -> None:
    """Look for objects that only refer to one another at every 200,000th new object, in place of every 700th.

    A million objects of the libraries live as long as the process: looking through them all the time takes a tenth of a
    short verb, and a fifth of what importing timm does. To be called before the libraries are imported, and only in a
    process that is not a person's own.
    """
    gc.set_threshold(200_000, 20, 100)
