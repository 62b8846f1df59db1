"""The words that the program prints: plurals by one function, and no term that a student would have to ask for."""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
from functools import cache
from types import ModuleType

import pytest
from support.paths import CHECKOUT

from vitrine.results import agree, count_of

_NOUNS = (
    "pictures|figures|files|maps|labels|classes|captions|words|pieces|tokens|epochs|seeds|runs|methods|shards|parts|rows|"
    "folders|processes|tests|blocks|heads|layers|models|tensors|bins|days|names|settings|outputs|masks|patches|nouns|"
    "predictions"
)
COUNTED = re.compile(rf"^ (?:(?:training|validation|test|recorded|generated|word|unreadable) )*(?:{_NOUNS})\b")


@cache
def list_sentences() -> ModuleType:
    spec = importlib.util.spec_from_file_location("list_sentences", CHECKOUT / "tools" / "list_sentences.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


@cache
def sentences() -> list:
    return list(list_sentences().sentences())


def is_number(code: ast.FormattedValue) -> bool:
    """Whether an inserted value is surely a count: a length, or a number with separators."""
    spec = code.format_spec
    has_separator = isinstance(spec, ast.JoinedStr) and any(
        isinstance(part, ast.Constant) and part.value == "," for part in spec.values
    )
    value = code.value
    is_length = isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id == "len"
    return has_separator or is_length


def test_plurals_are_written_by_one_function() -> None:
    """Of a number that may be 1: no "1 pictures" where a number stands in a sentence before what it counts."""
    source = list_sentences().SOURCE
    places = []
    for path in sorted(source.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not isinstance(node, ast.JoinedStr):
                continue
            for number, text in zip(node.values, node.values[1:], strict=False):
                is_limit = isinstance(number, ast.FormattedValue) and ast.unparse(number.value).isupper()
                if (
                    isinstance(number, ast.FormattedValue)
                    and isinstance(text, ast.Constant)
                    and is_number(number)
                    and not is_limit
                    and COUNTED.match(str(text.value))
                ):
                    places.append(f"{path.relative_to(source)}:{number.lineno}: {ast.unparse(number)}{text.value!r}")
    assert not places, "write count_of(number, noun):\n" + "\n".join(places)


def test_a_number_and_its_noun_agree() -> None:
    assert [count_of(n, "picture") for n in (0, 1, 2, 1500)] == [
        "0 pictures",
        "1 picture",
        "2 pictures",
        "1,500 pictures",
    ]
    assert count_of(2, "class", "classes") == "2 classes"
    assert [agree(n, "is", "are") for n in (0, 1, 2)] == ["are", "is", "are"]


TERMS = {
    r"\bnats\b": "a unit that few know: say what is better, or that it is a natural logarithm",
    r"% of the mass": "say of what: the map, the attention",
    r"[Pp]refix tokens hold": "name them: the class token, the register tokens",
    r"row term": "say rows and columns",
    r"other cell\b|all cells\b|most cells\b": "patches",
    r"\(s\)": "plurals by count_of",
}


@pytest.mark.parametrize("term", TERMS)
def test_sentences_have_plain_words(term: str) -> None:
    found = [f"{text.file}:{text.line}: {text.text}" for text in sentences() if re.search(term, text.text)]
    assert not found, f"{TERMS[term]}:\n" + "\n".join(found)


def test_the_list_has_what_is_printed() -> None:
    texts = [each.text for each in sentences()]
    assert len(texts) > 1500
    for part in (
        "What was finished is kept.",
        "would ignore it",
        "Where figures and tables are written.",
        "Take it with you",
    ):
        assert any(part in text for text in texts), part
