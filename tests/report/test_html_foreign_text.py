"""Names of every kind on a report: none acts, none moves what stands beside it, and its SVG is well-formed."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from vitrine.plotting.tables import Table
from vitrine.printable import printable_words
from vitrine.report.document import (
    BulletList,
    Details,
    Document,
    Finding,
    Findings,
    Number,
    Numbers,
    Paragraph,
    Section,
    TableBlock,
)
from vitrine.report.html import isolate, render_html
from vitrine.report.markdown import write_markdown
from vitrine.report.run import ReportSettings, write_report
from vitrine.runs.folder import RunFolder

NAMES = (
    "a\x1b[31mred\x07",
    "b\u202egnp",
    "c\x9b\x00\x7f",
    "d\ud800\uffff",
    "e\u2066f\u2028",
    "חתול",
    "قطة",
    "</script><b>",
)


class Texts(HTMLParser):
    """Texts of a page, those of each ``bdi`` apart, and its script elements of JSON."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags = [""]
        self.isolated: list[str] = []
        self.json: list[str] = []
        self.plain: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append("json" if dict(attrs).get("type") == "application/json" else tag)

    def handle_endtag(self, tag: str) -> None:
        self.tags.append("")

    def handle_data(self, data: str) -> None:
        place = {"bdi": self.isolated, "json": self.json, "style": [], "script": []}.get(self.tags[-1], self.plain)
        place.append(data)


def document(name: str) -> Document:
    blocks = (
        Paragraph(f"{name} 3 of 5"),
        Numbers((Number("1", name, f"of {name}"),)),
        Findings((Finding("note", f"{name} is 12"),)),
        TableBlock(Table((name, "b"), ((name, "1"),)), name),
        BulletList((name,)),
        Details(name, (Paragraph(name),)),
    )
    return Document(name, name, (Section("a", name, blocks),), name, {"name": name})


@pytest.mark.parametrize("name", NAMES)
def test_no_name_acts_on_a_page(name: str, tmp_path: Path) -> None:
    page = render_html(document(name))
    assert printable_words(page) == page, "no control character, no override of the direction"
    texts = Texts(page)
    assert json.loads("".join(texts.json)) == {"name": name}
    if re.search("[\u0590-\u06ff]", name):
        assert len(texts.isolated) >= 12 and set(texts.isolated) == {name}
        (title,) = re.findall("<title>(.*)</title>", page)
        assert title == name, "and no tag in an attribute or a title"
    else:
        assert not texts.isolated
    write_markdown(document(name), tmp_path / "report.md")
    text = (tmp_path / "report.md").read_text("utf-8")
    assert printable_words(text) == text


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ("cat", "cat"),
        ("חתול 3 of 5", "<bdi>חתול</bdi> 3 of 5"),
        ("קובץ_1.png and حيوان أليف", "<bdi>קובץ</bdi>_1.png and <bdi>حيوان أليف</bdi>"),
        ("a<b>&חתול", "a&lt;b&gt;&amp;<bdi>חתול</bdi>"),
        ("גור חתולים", "<bdi>גור חתולים</bdi>"),
        (3, "3"),
    ],
)
def test_names_from_right_to_left_are_isolated(words: object, shown: str) -> None:
    assert str(isolate(words)) == shown


def test_a_report_of_a_run_with_such_classes(small_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "runs" / "r\u202e"
    shutil.copytree(small_run, run)
    first, second = RunFolder(run).read_labels()[:2]
    for name in ("labels.txt", "predictions.csv", "data.json", "config.json", "metrics.json"):
        text = (run / name).read_text("utf-8")
        for label, other in ((first, "a\x1b[2J\u202eb"), (second, "חתול\x9b")):
            text = text.replace(label, json.dumps(other)[1:-1] if name.endswith(".json") else other)
        (run / name).write_text(text, encoding="utf-8")
    result = write_report([str(tmp_path / "runs")], tmp_path / "report.html", ReportSettings(markdown=True))
    for path in result.paths:
        if path.suffix in (".html", ".md"):
            text = path.read_text("utf-8")
            assert printable_words(text) == text, path
    page = (tmp_path / "report.html").read_text("utf-8")
    drawings = re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)
    assert drawings
    for drawing in drawings:
        ElementTree.fromstring(drawing)
