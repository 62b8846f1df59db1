"""Limits: a default, and an environment variable that sets another."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

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
