"""How results show themselves: in one line, in a notebook with figure and sentences, and as rows for pandas."""

from __future__ import annotations

import base64
import csv
import html
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vitrine.errors import EnvironmentMismatchError

_STYLE = "font-family:system-ui,sans-serif;font-size:13px;line-height:1.45;max-width:100%"
_MONOSPACE = "font-family:ui-monospace,monospace;font-size:12px;line-height:1.35;overflow-x:auto;margin:6px 0"


class ResultDisplay:
    """What results have in common; a frozen dataclass with it is made with ``repr=False``."""

    def headline(self) -> str:
        """The result in a few words, on one line."""
        raise NotImplementedError

    def details(self) -> str:
        """The result as the command line prints it, several lines; empty where the headline says all."""
        return ""

    def table_rows(self) -> Sequence[Mapping[str, Any]]:
        """The result as rows of a table; none where it is no table."""
        return ()

    def figure_png(self) -> bytes | None:
        """The figure of the result, where there is one."""
        return None

    def to_pandas(self) -> Any:
        """The result's table as a data frame: ``pandas.DataFrame``.

        Raises:
            EnvironmentMismatchError: pandas is not installed.
        """
        try:
            import pandas
        except ModuleNotFoundError as error:
            raise EnvironmentMismatchError(
                "to_pandas() needs pandas, which is not installed: pip install pandas.\nto_dict() has the same numbers."
            ) from error
        return pandas.DataFrame([dict(row) for row in self.table_rows()])

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.headline()}>"

    def _repr_html_(self) -> str:
        return notebook_html(self.headline(), self.details(), self.figure_png())


class ResultSequence(ResultDisplay):
    """A result of several pictures, which is also their sequence: ``len(result)``, ``result[0]``, ``for each in ...``.

    It is true in a condition, however many they are: there is a result.
    """

    def each_picture(self) -> Sequence[Any]:
        """What it has of each picture, in order.

        Raises:
            UsageError: these were written, and are not in memory.
        """
        raise NotImplementedError

    def __len__(self) -> int:
        return len(self.each_picture())

    def __iter__(self) -> Iterator[Any]:
        return iter(self.each_picture())

    def __getitem__(self, index: int | slice) -> Any:
        return self.each_picture()[index]

    def __bool__(self) -> bool:
        return True


def notebook_html(headline: str, details: str = "", png: bytes | None = None, sentence: str = "") -> str:
    """A result in a notebook's cell. Nothing in it acts, whatever names are in it.

    Args:
        headline: a line in bold.
        details: lines of fixed width, such as a table.
        png: a figure, drawn with twice as many pixels as it has room; it is never wider than the cell.
        sentence: prose under the figure, which is also what stands in its place where it cannot be seen.
    """
    parts = [f"<div style='{_STYLE}'><b>{html.escape(headline)}</b>"]
    if png is not None:
        source, words = base64.b64encode(png).decode("ascii"), html.escape(f"{headline} {sentence}".strip(), quote=True)
        width = int.from_bytes(png[16:20], "big") // 2  # of the PNG, by its header
        parts.append(
            f"<br><img alt='{words}' width='{width}' style='max-width:100%;height:auto' "
            f"src='data:image/png;base64,{source}'>"
        )
    if sentence:
        parts.append(f"<div style='max-width:70em'>{html.escape(sentence)}</div>")
    if details:
        parts.append(f"<pre style='{_MONOSPACE}'>{html.escape(details)}</pre>")
    return "".join([*parts, "</div>"])


def csv_rows(content: bytes) -> list[dict[str, Any]]:
    """The rows of a CSV file that vitrine wrote, with numbers as numbers and empty cells as None."""
    reader = csv.DictReader(io.StringIO(content.decode("utf-8", "backslashreplace")))
    return [{name: _cell(text) for name, text in row.items()} for row in reader]


def _cell(text: str) -> Any:
    if text == "":
        return None
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
