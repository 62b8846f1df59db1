"""What is said and shown while work goes on: loggers, levels, quiet calls, and bars in notebooks."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

import vitrine
from vitrine import messages
from vitrine.api import progress as progress_module
from vitrine.api.progress import reading_progress
from vitrine.errors import UsageError


@pytest.fixture(autouse=True)
def usual_level() -> Iterator[None]:
    yield
    vitrine.set_verbosity("info")


def test_what_is_said_is_a_record_of_the_standard_logger(caplog: pytest.LogCaptureFixture) -> None:
    """Other handlers get it; with none it is on stderr, and text that is not ours is escaped."""
    messages.say("weights: a\x1b[2Jb 100 %s")
    (record,) = caplog.records
    assert (record.name, record.levelno, record.getMessage()) == ("vitrine", logging.INFO, r"weights: a\x1b[2Jb 100 %s")


def test_without_handlers_of_ones_own_it_is_on_stderr_and_once(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    messages.say("to the handlers of pytest")
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    messages.say("to stderr")
    with messages.quiet_messages():
        messages.say("to nobody")
    vitrine.set_verbosity("warning")
    messages.say("to nobody either")
    assert capsys.readouterr() == ("", "to stderr\n")
    with messages.only_on_stderr():
        messages.say("of the command line")
    assert capsys.readouterr().err == "of the command line\n"


@pytest.mark.parametrize("level", ["loud", None, True])
def test_a_level_that_does_not_exist_is_refused(level: Any) -> None:
    with pytest.raises(UsageError, match="expected debug, info, warning, error"):
        vitrine.set_verbosity(level)


def test_a_verb_says_its_notes_unless_it_is_quiet(caplog: pytest.LogCaptureFixture) -> None:
    vitrine.positions("vitrine/scenes-tiny")
    said = [record.getMessage() for record in caplog.records]
    assert any("model.safetensors" in sentence for sentence in said)
    caplog.clear()
    vitrine.positions("vitrine/scenes-tiny", quiet=True)
    assert not caplog.records


def test_bars_in_a_notebook_are_one_cell_that_is_empty_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []

    class Cell:
        def update(self, page: str) -> None:
            shown.append(page)

    stand_in = ModuleType("IPython.display")
    stand_in.HTML = str  # type: ignore[attr-defined]
    stand_in.display = lambda *_, **__: Cell()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", stand_in)
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    monkeypatch.setattr(progress_module, "_SECONDS_BETWEEN", 0.0)
    with reading_progress("Predicting") as report:
        report(3, 12)
        report(9, 12)
    assert len(shown) == 3 and shown[-1] == ""
    assert "3/12" in shown[0] and "9/12" in shown[1] and "Predicting" in shown[1]
    with messages.quiet_messages(), reading_progress("Predicting") as report:
        report(1, 2)
    assert len(shown) == 3
