"""Which names of a source file are a participle alone, such as ``found``, ``kept`` or ``opened``."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

IRREGULAR = frozenset(
    """asked begun blown borne bought bound bred broken brought built caught chosen counted dealt drawn driven
    eaten fallen fed felt forgotten forgiven fought found given gone got grown heard held hidden hung hurt
    kept known laid lent lit lost made meant met overlaid paid rebuilt redone ridden risen said seen sent
    shaken shown shut sold sought spent spoken spun stolen stood struck stuck sung swept sworn swum taken
    taught thought thrown told torn undone understood unread unseen unsaid woken won worn wound wrapped
    written""".split()  # noqa: SIM905
)
# Nouns, verbs and adjectives that end like participles.
WORDS = frozenset(
    """bed bleed breed deed embed exceed feed freed greed hundred indeed kindred left medoid naked need
    proceed red reed sacred seed shed shred speed succeed used weed wicked""".split()  # noqa: SIM905
)
# Participles that are the field's own words, or keys of files and of the HTTP interface.
TERMS = frozenset(
    """compiled described disabled expected finished frozen gated looked masked merged normalised
    predicted pretrained sampled sharded undecided unexpected unsharded untrained""".split()  # noqa: SIM905
)
FINE = WORDS | TERMS
# Declarations and parameters of JavaScript.
_DECLARED = re.compile(
    r"\b(?:const|let|var|function|class)\s+([A-Za-z_$][\w$]*)"
    r"|\b(?:const|let|var)\s*[\[{]([^\]}=]*)[\]}]\s*="
    r"|\bfunction\s*[\w$]*\s*\(([^)]*)\)"
    r"|\(([^()]*)\)\s*=>"
    r"|\b([A-Za-z_$][\w$]*)\s*=>"
)


def is_bare_participle(name: str) -> bool:
    """Whether a name is one word that is a participle; names of several words say more."""
    word = name.strip("_")
    if word in FINE or not word.isalpha() or word != word.lower():
        return False
    return word in IRREGULAR or (word.endswith("ed") and len(word) > 4)


def python_names(path: Path) -> Iterator[tuple[int, str]]:
    """Line and name of everything that a Python file names."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield node.lineno, name
            case ast.arg(arg=name) | ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                yield node.lineno, name
            case ast.alias(asname=str(name)):
                yield node.lineno, name


def javascript_names(path: Path) -> Iterator[tuple[int, str]]:
    """Line and name of what a JavaScript file declares, as far as a pattern sees it."""
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        for match in _DECLARED.finditer(line):
            for group in filter(None, match.groups()):
                yield from ((number, name) for name in re.findall(r"[A-Za-z_$][\w$]*", group))
