"""Words for a page that is published: Markdown that shows names as they are, and no places of a machine."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from vitrine.report.tables import Cell, Table

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~$&])")
_PATH = re.compile(r"(?<![\w/.})\]*>\\])(?!//)(?:~|\.{1,2})?(?:/[^\s/:*?\"<>|'`,;()]+)+/?")
_WRITTEN_AS_PATH = re.compile(r"(?:[a-z-]+:)?(?:/|~|\.\.?/|[A-Za-z]:\\)")


def tidy(text: str) -> str:
    """On one line, without characters that are not printed."""
    return " ".join("".join(c for c in text if c.isprintable() or c.isspace()).split())


def inline(text: str) -> str:
    """Text as it is, inside a line of Markdown or a cell of a table."""
    return _SPECIAL.sub(r"\\\1", tidy(text))


def code(text: str) -> str:
    """Text as code inside a line: between as many backticks as it takes."""
    line = tidy(text)
    longest = max((len(run) for run in re.findall(r"`+", line)), default=0)
    fence, space = "`" * (longest + 1), " " if "`" in line else ""
    return f"{fence}{space}{line}{space}{fence}"


def published(reference: str, places: Sequence[str] = ()) -> str:
    """A reference to data, a model or a file: the last name of a path, any other as it is."""
    if _WRITTEN_AS_PATH.match(reference) or any(place and place in reference for place in places):
        place, mark, options = reference.partition("?")
        return re.split(r"[/\\]", place.rstrip("/\\"))[-1] + mark + options
    return reference


def without_paths(text: str, places: Sequence[str] = ()) -> str:
    """Sentences in which every path of a machine has become its last name.

    Args:
        text: a sentence, possibly with paths.
        places: folders and files that are known to be on this machine; their names may have spaces.
    """
    for place in sorted({place for place in places if len(place) > 1}, key=len, reverse=True):
        text = text.replace(place, f"/{published(place)}")
    return _PATH.sub(lambda match: published(match[0].rstrip("/")) or match[0], text)


def table(columns: Sequence[str], rows: Sequence[tuple[Cell, ...]]) -> str:
    """A pipe table whose cells show names as they are."""
    shown = tuple(tuple(_cell(cell) for cell in row) for row in rows)
    right = [bool(rows) and all(isinstance(row[i], int) for row in rows) for i in range(len(columns))]
    rule = ["---:" if each else "---" for each in right]
    return "\n".join(f"| {' | '.join(row)} |" for row in (tuple(columns), tuple(rule), *shown))


def named_table(shown: Table) -> str:
    """A table of which columns and cells show names as they are."""

    def plain(cell: Cell) -> Cell:
        return inline(cell).replace("\\|", "|") if isinstance(cell, str) else cell  # the table escapes its own bars

    columns = tuple(str(plain(name)) for name in shown.columns)
    return replace(shown, columns=columns, rows=tuple(tuple(map(plain, row)) for row in shown.rows)).markdown()


def _cell(cell: Cell) -> str:
    return "–" if cell is None else f"{cell:,}" if isinstance(cell, int) else inline(str(cell))


def share(value: float | None) -> str | None:
    """With three decimals."""
    return None if value is None else f"{value:.3f}"


def folded(title: str, text: str) -> str:
    """Shown when its title is clicked."""
    return f"<details>\n<summary>{title}</summary>\n\n{text}\n\n</details>"
