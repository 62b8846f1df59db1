"""``vitrine inspect``: where a figure came from, and the command that redoes it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from vitrine.plotting.provenance import PREFIX, WORDS, read_provenance
from vitrine.printable import printable_line

_LONGEST = 1000  # characters of a value on a terminal
_DEEPEST = 50  # brackets in brackets


@dataclass(frozen=True)
class Inspection:
    """The origin that a figure's file states. It is not verified: whoever writes the file can state anything.

    Attributes:
        path: the file.
        software: what wrote it, for example "vitrine 0.1.0".
        provenance: texts by their names without the prefix: figure, model, weights-sha256 and so on.
        other: texts of figures that are not maps, such as a confusion matrix's model and split.
    """

    path: Path
    software: str
    provenance: Mapping[str, str]
    other: Mapping[str, str]

    def text(self) -> str:
        """Aligned lines, and at the end the command that redoes the figure, if the file has one.

        Control characters are escaped, and the command is quoted anew, so that a hostile file can neither steer the
        terminal nor hide a second command in the first one.
        """
        texts = {**self.provenance, **self.other}
        if f"vitrine {texts.get('version')}" == self.software:
            del texts["version"]
        apart = ("options", "command", WORDS.removeprefix(PREFIX))
        rows = [(key, value) for key, value in texts.items() if key not in apart]
        rows += [*_options(texts.get("options")), ("made with", self.software)]
        lines_of_rows = [(_readable(key).replace("-", " ").replace("_", " "), _readable(value)) for key, value in rows]
        width = max(len(key) for key, _ in lines_of_rows)
        lines = [printable_line(str(self.path)), *(f"  {key:<{width}}  {value}" for key, value in lines_of_rows)]
        return "\n".join([*lines, *_redo(texts.get("command", ""))])

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, with everything as it is in the file; options are an object where they can be read."""
        provenance: dict[str, Any] = dict(self.provenance)
        options = _parse_options(self.provenance.get("options"))
        if options is not None:
            provenance["options"] = options
        return {
            "file": str(self.path),
            "software": self.software,
            "provenance": provenance,
            "other": dict(self.other),
        }


def inspect_figure(path: Path) -> Inspection:
    """Read the origin that a figure's file states.

    Raises:
        DataError: the file cannot be read, or is no figure of vitrine's.
    """
    texts = read_provenance(path)
    software = texts.pop("Software")
    provenance = {key.removeprefix(PREFIX): value for key, value in texts.items() if key.startswith(PREFIX)}
    other = {key: value for key, value in texts.items() if not key.startswith(PREFIX)}
    return Inspection(path, software, provenance, other)


def _readable(text: str) -> str:
    return printable_line(text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…")


def _parse_options(options: str | None) -> dict[str, Any] | None:
    """The options as an object; None where they are none, or nested so deeply that they cannot be written again."""
    depths = accumulate((c in "[{") - (c in "]}") for c in options or "")
    try:
        value = json.loads(options or "null") if max(depths, default=0) <= _DEEPEST else None
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _options(options: str | None) -> list[tuple[str, str]]:
    """One row an option; what cannot be read is one row as it is."""
    values = _parse_options(options)
    if values is None:
        return [("options", options)] if options else []
    return [
        (key, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
        for key, value in values.items()
    ]


def _redo(command: str) -> list[str]:
    if not command:
        return []
    try:
        words = shlex.split(command)
    except ValueError:
        words = []
    if words[:1] != ["vitrine"]:
        return ["", "It names a command that is not one of vitrine's:", f"  {printable_line(command)}"]
    return ["", "To draw it again:", f"  {printable_line(shlex.join(words))}"]
