"""Class names: different for every class, whatever a model's own list says; and a class found by its name or number.

Classes are numbers, and names are what they are called: in lists of ImageNet's classes bird and machine are both a
crane. Where several classes have one name, each is called by it and its number: ``crane [134]``, ``crane [517]``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from vitrine.errors import ModelError
from vitrine.results import count_of, list_names

_SHOWN = 8  # names that a message lists


def unique_labels(names: Sequence[str]) -> tuple[str, ...]:
    """The names of classes, in order, each different: one that several classes have is followed by the class's number.

    Names that are different already stay as they are; numbers count from 0.
    """
    counts = Counter(names)
    different_labels = {name for name, count in counts.items() if count == 1}
    labels = []
    for number, name in enumerate(names):
        label = name
        while counts[name] > 1 and label in (name, *different_labels):
            label = f"{label} [{number}]"
        different_labels.add(label)
        labels.append(label)
    return tuple(labels)


def classes_called(labels: Sequence[str], name: str) -> tuple[str, ...]:
    """The labels of the classes that share a name, as :func:`unique_labels` tells them apart; none where none do."""
    same_name = tuple(label for number, label in enumerate(labels) if label == f"{name} [{number}]")
    return same_name if len(same_name) > 1 else ()


def shared_names_note(labels: Sequence[str]) -> tuple[str, ...]:
    """A sentence on names that several classes share; none where all names are a class's own."""
    suffixes = (f" [{number}]" for number in range(len(labels)))
    names = [
        label.removesuffix(suffix) for label, suffix in zip(labels, suffixes, strict=True) if label.endswith(suffix)
    ]
    shared_names = [name for name, count in Counter(names).items() if count > 1]
    if not shared_names:
        return ()
    examples = "; ".join(list_names(classes_called(labels, name)) for name in shared_names[:_SHOWN])
    return (f"Several classes have one name, and are told apart by their numbers: {examples}.",)


def find_class(labels: Sequence[str], label_or_number: str | int) -> int:
    """The number of a class, from its label or from the number itself, counted from 0. Labels come first.

    Args:
        labels: of all classes, each different.
        label_or_number: what a person wrote; a whole number is always the class's.

    Raises:
        ModelError: there is no such class, or several are called that.
    """
    if isinstance(label_or_number, int) and not 0 <= label_or_number < len(labels):
        raise ModelError(f"There is no class {label_or_number}: the model has {len(labels)}, 0 to {len(labels) - 1}.")
    if isinstance(label_or_number, int):
        return label_or_number
    text = label_or_number
    if text in labels:
        return labels.index(text)
    if same := classes_called(labels, text):
        raise ModelError(
            f"The model has {count_of(len(same), 'class', 'classes')} called {text!r}. Give one of: {list_names(same)}"
        )
    if text.isascii() and text.isdecimal() and int(text) < len(labels):
        return int(text)
    first = list_names(labels[:_SHOWN]) + (" ..." if len(labels) > _SHOWN else "")
    raise ModelError(f"The model has no class {text!r}. Its classes, which can be given by number too: {first}")
