"""The table of what people wait for, as docs/speed.md has it."""

from __future__ import annotations

import pytest
import verbs
from support.paths import CHECKOUT

PAGE = f"Before.\n\n{verbs._START}{verbs._END}\nAfter.\n"


def waiting(seconds: float) -> verbs.Waiting:
    return verbs.Waiting(seconds, seconds / 2, {}, {"import torch": 0.5, "report.html.render_html": 0.25}, 512.4)


def test_rows_replace_those_of_the_same_verbs_and_leave_the_others() -> None:
    first = verbs.with_summary(PAGE, {"check": waiting(1.0), "report": waiting(2.0)}, 0.02, 0.1)
    again = verbs.with_summary(first, {"report": waiting(3.0), "serve": waiting(4.0)}, 0.05, 6.25)
    assert again.splitlines() == [
        "Before.",
        "",
        verbs._START.strip(),
        "| verb | seconds | of processors | peak MiB | most of the processors' time |",
        "| --- | --- | --- | --- | --- |",
        "| check | 1.0 | 0.5 | 512 | import torch 50 %, report.html.render_html 25 % |",
        "| report | 3.0 | 1.5 | 512 | import torch 50 %, report.html.render_html 25 % |",
        "| serve | 4.0 | 2.0 | 512 | import torch 50 %, report.html.render_html 25 % |",
        "",
        f"{verbs.os.cpu_count()} cores, at a load of 6.2 from other work when it began; `python -c pass` took 50 ms.",
        verbs._END,
        "After.",
    ]


def test_a_page_without_the_table_is_refused() -> None:
    with pytest.raises(ValueError, match="no table of verbs"):
        verbs.with_summary("Before.\nAfter.\n", {}, 0.02, 0.1)


def test_the_page_on_speed_has_the_table() -> None:
    page = verbs.PAGE.read_text("utf-8")
    assert verbs.PAGE == CHECKOUT / "docs" / "speed.md"
    assert "| predict |" in page[page.index(verbs._START) : page.index(verbs._END)]
