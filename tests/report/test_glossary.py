"""The glossary: terms that a report uses and no others, and the explorer's own list."""

from __future__ import annotations

from vitrine.plotting.tables import Table
from vitrine.report.document import BulletList, Details, Paragraph, Section, TableBlock
from vitrine.report.glossary import TERMS, glossary_section


def test_terms_are_those_that_stand_in_texts_tables_and_details() -> None:
    table = TableBlock(Table(("", "median"), (("a row", 1.0),)), "a caption")
    details = Details("more", (Paragraph("its log-probability"),))
    sections = [Section("one", "One", (Paragraph("Attention of the class token (p = 0.02)."), table, details))]
    glossary = glossary_section(sections)
    assert glossary is not None
    (block,) = glossary.blocks
    assert isinstance(block, BulletList)
    assert [item.partition(":")[0] for item in block.items] == ["class token", "log-probability", "median", "p"]
    assert glossary_section([Section("two", "Two", (Paragraph("nothing to explain"),))]) is None


def test_every_meaning_is_a_sentence() -> None:
    for term, meaning in TERMS.items():
        assert term == term.strip() and meaning.endswith(".") and meaning[0].isupper()
