"""Foreign text made fit to be shown: what acts is escaped, what is spelled stays, whatever the text is."""

from __future__ import annotations

import json
import unicodedata
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitrine.printable import escape_controls, printable_json, printable_line, printable_lines, printable_words

ANY_TEXT = st.text(st.characters(categories=None, exclude_categories=()))
OVERRIDES = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
MARKS = "\u200e\u200f\u061c"


@given(ANY_TEXT)
def test_a_line_is_one_line_without_anything_that_acts(text: str) -> None:
    line = printable_line(text)
    assert len(line.splitlines()) <= 1 and printable_line(line) == line
    assert not {unicodedata.category(c) for c in line} & {"Cc", "Cs", "Zl", "Zp"}
    assert not set(line) & set(OVERRIDES + MARKS + "\u200b\ufeff\u00ad")
    line.encode("utf-8")
    if text.isprintable():
        assert line == text


@given(ANY_TEXT)
def test_every_form_can_stand_in_xml(text: str) -> None:
    for shown in (printable_line(text), printable_lines(text), printable_words(text)):
        escaped = shown.replace("&", "&amp;").replace("<", "&lt;").replace("]]>", "]]&gt;")
        parsed = ElementTree.fromstring(f"<a>{escaped}</a>").text or ""
        assert parsed == shown


@given(ANY_TEXT)
def test_json_means_the_same(text: str) -> None:
    written = json.dumps({"a": text}, ensure_ascii=False, indent=2)
    shown = printable_json(written)
    assert json.loads(shown) == {"a": text} and printable_lines(shown) == shown
    shown.encode("utf-8")


@given(ANY_TEXT)
def test_a_name_stays_one_name(text: str) -> None:
    name = escape_controls(text)
    assert len(name.splitlines()) <= 1 and escape_controls(name) == name
    name.encode("utf-8")
    if not {unicodedata.category(c) for c in text} & {"Cc", "Cs", "Zl", "Zp"}:
        assert name == text


@pytest.mark.parametrize("mark", MARKS)
def test_marks_of_direction_stay_in_names_and_figures_alone(mark: str) -> None:
    assert escape_controls(mark) == printable_words(mark) == mark != printable_lines(mark) == printable_line(mark)


@pytest.mark.parametrize("override", OVERRIDES)
def test_overrides_of_direction_stay_nowhere_that_they_act(override: str) -> None:
    assert printable_words(override) == printable_line(override) == f"\\u{ord(override):04x}"
