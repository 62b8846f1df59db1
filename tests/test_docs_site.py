"""The documentation site: every page is in its menu, and a page's links lead where the site has something."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
from support.paths import CHECKOUT


@pytest.fixture(scope="module")
def make_site() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_site", CHECKOUT / "tools" / "make_site.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_menu_has_every_page_once(make_site: ModuleType) -> None:
    places = make_site._places(make_site.navigation())
    assert sorted(places) == sorted({*places}), "a page stands in the menu twice"
    assert {page.relative_to(CHECKOUT).with_suffix(".md").as_posix() for page in make_site.pages()} == {*places}


def test_a_page_that_no_menu_names_is_refused(make_site: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    pages = [*make_site.pages(), CHECKOUT / "docs" / "forgotten.md"]
    monkeypatch.setattr(make_site, "pages", lambda: pages)
    with pytest.raises(SystemExit, match=r"docs/forgotten\.md"):
        make_site.navigation()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[maps](docs/maps.md)", "[maps](docs/maps.md)"),
        ("[maps](docs/maps.md#scale)", "[maps](docs/maps.md#scale)"),
        ("[code](src/vitrine/cli/app.py) and more", "code and more"),
        ("[code](src/vitrine/cli/app.py#L3)", "code"),
        ("[a folder](docs/verbs/)", "[a folder](docs/verbs/README.md)"),
        ("[a folder](reproduce)", "[a folder](reproduce/README.md)"),
        ("[tests](tests)", "tests"),
        ("[licence](LICENSE)", "licence"),
        ("[timm](https://example.org/timm)", "[timm](https://example.org/timm)"),
        ("[above](#above)", "[above](#above)"),
        ("![a picture](docs/images/demo-map.png)", "![a picture](docs/images/demo-map.png)"),
        ("[a picture](docs/images/demo-map.png)", "[a picture](docs/images/demo-map.png)"),
    ],
)
def test_links_lead_to_pages_or_become_text(make_site: ModuleType, text: str, expected: str) -> None:
    page = CHECKOUT / "README.md"
    assert make_site.linked_text(page, text) == expected


def test_the_title_is_the_first_heading(make_site: ModuleType, tmp_path: Path) -> None:
    markdown, notebook = tmp_path / "a.md", tmp_path / "b.ipynb"
    markdown.write_text("<!-- generated -->\n\n# `vitrine` here\n\n## Below\n", "utf-8")
    notebook.write_text('{"cells": [{"source": [\n  "# Your own model\\n",\n  "more"\n]}]}', "utf-8")
    assert (make_site.title(markdown), make_site.title(notebook)) == ("vitrine here", "Your own model")
