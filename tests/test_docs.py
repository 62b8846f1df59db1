"""The generated pages of docs/ say what the command line and the recipes say."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType
from typing import Annotated

import pytest
import typer
from support.paths import CHECKOUT


@pytest.fixture(scope="module")
def make_docs() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_docs", CHECKOUT / "tools" / "make_docs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_generated_pages_are_fresh(make_docs: ModuleType) -> None:
    made = make_docs.pages()
    stale = [path for path, text in made.items() if not _same(CHECKOUT / "docs" / path, text)]
    assert not stale, f"run make docs: {', '.join(stale)} differ from what the code says"
    kept = {f"verbs/{page.name}" for page in (CHECKOUT / "docs" / "verbs").glob("*.md")}
    assert kept <= set(made), f"run make docs: {kept - set(made)} speak of verbs that are no more"


def _same(path: Path, text: str) -> bool:
    return path.is_file() and path.read_text("utf-8") == text


def test_every_verb_and_option_is_explained(make_docs: ModuleType) -> None:
    for path, text in make_docs.pages().items():
        if path == "maps.md":
            continue  # of which one table is generated; in those of results, a cell may be empty
        empty = re.findall(r"^\|.*\|  \|$", text, flags=re.MULTILINE)
        assert not [row for row in empty if "`none`" not in row], f"{path}: no meaning is given"


def test_links_between_pages_lead_somewhere() -> None:
    pages = [*CHECKOUT.glob("*.md"), *(CHECKOUT / "docs").rglob("*.md")]
    broken = [
        f"{page.relative_to(CHECKOUT)}: {target}"
        for page in pages
        for target in re.findall(r"\]\((?!\w+:)([^)#\s]+)", page.read_text("utf-8"))
        if not (page.parent / target).exists()
    ]
    assert not broken


def test_a_verb_page_shows_its_arguments_options_and_defaults(make_docs: ModuleType) -> None:
    app = typer.Typer()

    @app.command()
    def grind(
        beans: Annotated[str, typer.Argument(metavar="BEANS", help="What is ground.")],
        output: Annotated[Path, typer.Option("-o", "--output", metavar="FILE", help="Where to.")],
        tolerance: Annotated[float, typer.Option(help="In points | per cent.")] = 0.005,
        resume: Annotated[bool, typer.Option("--resume", help="Go on.")] = False,
    ) -> None:
        """Grind the beans.

        Twice, if need be.
        """

    @app.command()
    def brew(cups: Annotated[list[str] | None, typer.Argument()] = None) -> None:
        """Brew them."""

    made = make_docs.verb_pages(app)
    assert set(made) == {"verbs/grind.md", "verbs/brew.md", "verbs/README.md"}
    page = made["verbs/grind.md"]
    assert "Grind the beans.\n\nTwice, if need be.\n" in page
    assert "vitrine grind [OPTIONS] BEANS\n" in page
    assert "| `BEANS` | What is ground. |" in page
    assert "| `-o`, `--output` `FILE` | required | Where to. |" in page
    assert "| `--tolerance` `TOLERANCE` | `0.005` | In points \\| per cent. |" in page
    assert "| `--resume` |  | Go on. |" in page
    assert "vitrine brew [CUPS...]\n" in made["verbs/brew.md"]
    assert "| [`vitrine grind`](grind.md) | Grind the beans. |" in made["verbs/README.md"]
