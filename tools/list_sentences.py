"""List every sentence that the program can print, from its code: python tools/list_sentences.py [WORD ...]

Texts of Python and of the pages' scripts, as they stand in the code: strings of two words or more that are no docstring
and no code. What is filled in stands in braces. With words, only the texts that have one of them.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).resolve().parent.parent / "src" / "vitrine"

_SENTENCE = re.compile(r"[A-Za-z]{2,}[,.:;]? +(\S+ )*?[A-Za-z{]")  # two words
_CODE = re.compile(r"^\s*[<@.#]|^[\w-]+: [\w-]+;|://\S+$|^\^|^Attributes:")  # markup, CSS, addresses, patterns
_LONGEST_CODE = 40  # characters of what is filled in
_JAVASCRIPT_TEXT = re.compile(r'"((?:[^"\\\n]|\\.)*)"|`((?:[^`\\]|\\.)*)`')
_JAVASCRIPT_COMMENT = re.compile(r"/\*.*?\*/|(?<![:\"'`])//[^\n]*", re.DOTALL)


@dataclass(frozen=True)
class Text:
    """A text of the code.

    Attributes:
        file: from the package on.
        line: where it begins.
        text: with ``{...}`` for what is filled in.
    """

    file: str
    line: int
    text: str


def python_texts(path: Path) -> Iterator[Text]:
    """The texts of a Python file, docstrings left out; neighbours in one expression are one text."""
    tree = ast.parse(path.read_text("utf-8"))
    inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in ast.walk(node)} - {
        id(node) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)
    }
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if id(node) in docstrings:
            continue
        if isinstance(node, ast.JoinedStr) and id(node) not in inside:
            yield Text(path.relative_to(SOURCE).as_posix(), node.lineno, "".join(map(_part, node.values)))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside:
            yield Text(path.relative_to(SOURCE).as_posix(), node.lineno, node.value)


def _part(node: ast.expr) -> str:
    if isinstance(node, ast.Constant):
        return str(node.value)
    assert isinstance(node, ast.FormattedValue)
    code = ast.unparse(node.value)
    return f"{{{code if len(code) <= _LONGEST_CODE else f'{code[:_LONGEST_CODE]}...'}}}"


def javascript_texts(path: Path) -> Iterator[Text]:
    """The texts of a script: what stands between double quotes or backticks."""
    code = _JAVASCRIPT_COMMENT.sub(lambda match: "\n" * match[0].count("\n"), path.read_text("utf-8"))
    for match in _JAVASCRIPT_TEXT.finditer(code):
        line = code.count("\n", 0, match.start()) + 1
        yield Text(path.relative_to(SOURCE).as_posix(), line, (match[1] or match[2] or "").replace("${", "{"))


def sentences() -> Iterator[Text]:
    """Every text of two words or more that a person can see."""
    for path in sorted(SOURCE.rglob("*.py")):
        yield from (text for text in python_texts(path) if is_sentence(text.text))
    for path in sorted(SOURCE.rglob("*.js")):
        yield from (text for text in javascript_texts(path) if is_sentence(text.text))


def is_sentence(text: str) -> bool:
    """Whether a text is for people."""
    return bool(_SENTENCE.search(text)) and not _CODE.search(text)


def main(words: list[str]) -> None:
    """Print the texts, those of a file below its name."""
    file = ""
    for text in sentences():
        if words and not any(re.search(rf"\b{re.escape(word)}", text.text, re.IGNORECASE) for word in words):
            continue
        if text.file != file:
            file = text.file
            print(f"\n{file}")
        print(f"{text.line:5}  {' / '.join(text.text.splitlines())}")


if __name__ == "__main__":
    main(sys.argv[1:])
