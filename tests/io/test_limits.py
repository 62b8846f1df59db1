"""Limits: a default, and an environment variable that sets another."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys

import pytest
from support.paths import CHECKOUT

from vitrine.errors import UsageError
from vitrine.io.limits import limit


def test_a_variable_sets_another_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    assert limit("MAX_THINGS", 7) == 7
    monkeypatch.setenv("VITRINE_MAX_THINGS", "12")
    assert limit("MAX_THINGS", 7) == 12


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "many", "1_000", "\u0663", " 5"])
def test_another_value_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VITRINE_MAX_THINGS", text)
    with pytest.raises(UsageError, match=r"VITRINE_MAX_THINGS=.* expected a whole number above 0, such as 7"):
        limit("MAX_THINGS", 7)


def test_a_limit_of_the_code_is_set_from_outside() -> None:
    program = "import vitrine.io.untrusted_files as files; print(files.MAX_TOML_BYTES)"
    environment = {**os.environ, "VITRINE_MAX_TOML_BYTES": "12"}
    shown = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert shown.stdout.strip() == "12", shown.stderr


NOT_FROM_OUTSIDE = {
    "_MAX_NOTE_BYTES": "a note that vitrine writes",
    "_MAX_FILE_BYTES": "a file that vitrine features wrote: three vectors and some regions",
    "_MAX_PIXELS": "what a preview shows",
    "MAX_BYTES": "what file systems hold, which nobody can raise",
    "_MAX_PHOTO_PIXELS": "what a figure shows",
    "ACCEPT_PAUSE_SECONDS": "a pause",
}
"""Constants that are called like limits and are none."""


def test_every_limit_is_listed_and_can_be_set() -> None:
    """Sizes and times with a name that begins with MAX, and all that the explorer's settings and downloads have."""
    page = (CHECKOUT / "docs" / "limits.md").read_text("utf-8")
    constants = {}
    for path in sorted((CHECKOUT / "src").rglob("*.py")):
        is_all = path.parts[-2:] in (("serve", "settings.py"), ("io", "network.py"))
        for statement in ast.parse(path.read_text("utf-8")).body:
            name = ast.unparse(statement.targets[0]) if isinstance(statement, ast.Assign) else ""
            if re.fullmatch(r"_?MAX_([A-Z_]*_)?(BYTES|PIXELS|SECONDS)", name) or (is_all and re.match("[A-Z]", name)):
                constants[name] = ast.unparse(statement.value)
    unset = {name for name, value in constants.items() if not value.startswith(f"limit('{name}', ")}
    assert unset == set(NOT_FROM_OUTSIDE)
    assert len(constants) > 30
    assert [name for name in constants if f"| `{name}` |" not in page and name not in unset] == []
