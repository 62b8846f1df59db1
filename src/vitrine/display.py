"""How results show themselves: in one line, in a notebook with figure and sentences, and as rows for pandas."""

from __future__ import annotations

import base64
import csv
import html
import io
from collections.abc import Mapping, Sequence
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


def notebook_html(headline: str, details: str = "", png: bytes | None = None) -> str:
    """A result in a notebook's cell: a line in bold, a figure, and text of fixed width. Nothing in it acts."""
    parts = [f"<div style='{_STYLE}'><b>{html.escape(headline)}</b>"]
    if png is not None:
        source = base64.b64encode(png).decode("ascii")
        parts.append(f"<br><img alt='{html.escape(headline, quote=True)}' src='data:image/png;base64,{source}'>")
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
