"""The files of a run are read line by line at line feeds alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vitrine.runs.folder import RunFolder

# As str.splitlines breaks lines, and neither labels.txt nor JSON does.
SPLITTERS = ["\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029"]


@pytest.mark.parametrize("splitter", SPLITTERS)
def test_labels_and_history_hold_any_letter(splitter: str, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    labels = ("a", f"b{splitter}c", "d e")
    folder.write("labels.txt", "".join(f"{label}\n" for label in labels))
    assert folder.read_labels() == labels
    folder.write("labels.txt", "".join(f"{label}\r\n" for label in labels))  # an editor of Windows
    assert folder.read_labels() == labels
    rows = [{"epoch": 1, "best": True, "note": splitter}, {"epoch": 2, "best": False, "note": "x"}]
    folder.write("history.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    assert folder.read_history() == rows
