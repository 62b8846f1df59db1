"""Terms that readers may not know, each in a sentence: the one list of the report's glossary and of the explorer."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from vitrine.report.document import BulletList, Section

TERMS = {
    "class token": "A token beside those of the patches. It stands for no place in the picture; the answer is often "
    "read from it.",
    "distillation token": "A second class token, which learned from another model.",
    "register token": "A token beside those of the patches, which the model uses as scratch paper.",
    "outlier tokens": "Patches whose inner numbers are far larger than those of the others. Models use them as scratch "
    "paper: attention to them says little about what lies there.",
    "log-probability": "The natural logarithm of a probability: 0 is certain, −0.7 one in two, −4.6 one in a hundred.",
    "uniform": "What every patch would have if the map were the same everywhere: 2 × uniform is twice as much.",
    "position embeddings": "What the model adds to a patch to know where it lies.",
    "untrained embeddings": "Random ones of the same size: what chance alone would give.",
    "fixed 2-D sine embedding": "Positions by a formula, not by training: waves of many lengths over rows and columns.",
    "p =": "How often random patches do at least as well as the marked ones. A small value says it is no accident.",
    "median": "The middle one of all values in order: half lie below it, half above.",
    "principal components": "The directions in which the tokens of patches differ most, the strongest first.",
    "cosine similarity": "How nearly two tokens point the same way: 1 is the same way, 0 is unrelated.",
    "k-means": "A way to group what is alike: each patch belongs to the group whose mean token is nearest.",
    "centre blob": "A map that knows nothing of the model: the middle of the picture. A method has to beat it.",
    "insertion": "How soon the answer comes back when the patches that a map marks most are shown first: high is good.",
    "deletion": "How soon the answer goes when the patches that a map marks most are hidden first: less is better.",
    "macro F1": "The mean over classes of F1, which falls with wrong answers and with missed pictures alike: rare "
    "classes count as much as frequent ones.",
    "calibration": "Whether probabilities can be believed: of answers at 80 %, eight of ten should be right.",
}
"""The meaning of each term."""


def occurs(term: str, text: str) -> bool:
    """Whether a term stands in a text, as a word or at the beginning of one."""
    return re.search(rf"\b{re.escape(term)}", text) is not None


def glossary_section(sections: Sequence[Section]) -> Section | None:
    """The terms that the sections use, in the order of their letters; None where they use none."""
    text = "\n".join(_texts(list(sections)))
    items = sorted(
        f"{term.removesuffix(' =')}: {meaning[0].lower()}{meaning[1:]}"
        for term, meaning in TERMS.items()
        if occurs(term, text)
    )
    return Section("terms", "Terms", (BulletList(tuple(items)),)) if items else None


def _texts(content: Any) -> Iterator[str]:
    """Every text in nested blocks."""
    if isinstance(content, str):
        yield content
    elif isinstance(content, list | tuple):
        for each in content:
            yield from _texts(each)
    elif is_dataclass(content):
        for field in fields(content):
            yield from _texts(getattr(content, field.name))
