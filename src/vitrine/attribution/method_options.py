"""Options of attribution methods: which method has which, by its table, and the refusal of those that it lacks."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping

from vitrine.attribution.registry import (
    ENTRIES,
    LIBRARIES,
    LIBRARY_ENTRIES,
    METHODS,
    MethodEntry,
    is_own_function,
    method_entry,
    own_entry,
)
from vitrine.errors import ModelError, UsageError
from vitrine.results import join_words

METHOD_OPTIONS: Mapping[str, tuple[str, ...]] = {entry.name: entry.options for entry in ENTRIES}
"""The options of each method. A method with ``target`` explains one class; maps of the others are of no class.

``layer``, ``heads``, ``query`` and ``window`` are fields of :class:`vitrine.attribution.methods.Method`; ``matrix`` is
a further figure, and ``direction`` (who looks, or who is looked at) a view of the explorer.
"""

OPTIONS = tuple(dict.fromkeys(option for options in METHOD_OPTIONS.values() for option in options))
"""Every option that some method has."""


def list_methods(word: str = "or") -> str:
    """The methods' names as a sentence lists them: "attention, rollout or occlusion"."""
    return join_words(METHODS, word)


def methods_with(option: str) -> str:
    """The methods that have an option, as a sentence lists them."""
    return join_words([name for name, options in METHOD_OPTIONS.items() if option in options])


def require_method(name: str) -> MethodEntry:
    """The row of a method that is known by its name alone.

    Raises:
        ModelError: it is none of :data:`METHODS`, nor a library's.
    """
    try:
        return method_entry(name)
    except KeyError:
        pass
    library = name.partition(":")[0]
    if library in LIBRARIES:
        names = ", ".join(entry.variant for entry in LIBRARY_ENTRIES if entry.name.startswith(f"{library}:"))
        raise ModelError(f"There is no method {name!r}: expected {library}: and one of {names}.{_hint(name)}")
    if is_own_function(name):
        raise ModelError(
            f"{name!r} names a function of your own, which runs only where it is given on the command line "
            "(--method), or itself in Python (method=function)."
        )
    raise ModelError(
        f"There is no method {name!r}: expected {list_methods()}, captum:NAME, cam:NAME, or a function of your own."
        f"{_hint(name)}"
    )


def nearest_method(name: str) -> str | None:
    """The method that a name of another library, or a slip of the pen, most likely means; None where none is near.

    Case, hyphens and underscores do not count, ``++`` is PlusPlus, and a library's method is known without its prefix:
    ``gradcam++`` is ``cam:GradCAMPlusPlus``. vitrine's own methods come before a library's of the same name.
    """
    entries = (*ENTRIES, *LIBRARY_ENTRIES)
    by_letters = {_letters(entry.name): entry.name for entry in entries}
    for entry in LIBRARY_ENTRIES:
        by_letters.setdefault(_letters(entry.variant), entry.name)
    letters = _letters(name)
    near = difflib.get_close_matches(letters, by_letters, n=1, cutoff=0.75)
    if near:
        return by_letters[near[0]]
    parts = [method for method in METHODS if _letters(method) in letters]
    return max(parts, key=lambda method: letters.rfind(_letters(method)), default=None)


def _letters(name: str) -> str:
    return "".join(filter(str.isalnum, name.lower().replace("+", "plus")))


def _hint(name: str) -> str:
    near = nearest_method(name)
    return f"\nDid you mean {near}?" if near else ""


def refuse_options(method: str, options: Iterable[str], spell: Callable[[str], str] = str) -> None:
    """Refuse options that a method would ignore.

    Args:
        method: its name.
        options: names of the options that a person gave.
        spell: an option as the person wrote it, for the message.

    Raises:
        ModelError: no such method.
        UsageError: the method does not have one of the options, or no method has it.
    """
    own_options = own_entry(method).options if is_own_function(method) else require_method(method).options
    for option in options:
        if option not in OPTIONS:
            near = difflib.get_close_matches(option, OPTIONS, n=1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise UsageError(f"No method has an option {option!r}: expected {join_words(OPTIONS, 'or')}.{hint}")
        if option not in own_options:
            raise UsageError(
                f"{spell(option)} is an option of {methods_with(option)}; {method} would ignore it.\n"
                "Leave it out, or choose another method."
            )
