"""Build the documentation site from the repository's own pages, into build/site.

Run by ``make docs-site``. Pages keep the places that they have in the repository, so that one link serves both; a link
to a file of code, which the site does not have, becomes its words. Zensical's strict mode ends with an error where a
link leads nowhere.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import tomlkit

CHECKOUT = Path(__file__).resolve().parent.parent
BUILD = CHECKOUT / "build"
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\((?!\w+:|#)([^)#\s]+)(#[^)\s]*)?\)")
Navigation = list[dict[str, Any]]


def main() -> int:
    """Stage the pages, write the settings with their navigation, and build."""
    shutil.rmtree(BUILD / "pages", ignore_errors=True)
    for page in pages():
        stage(page)
    for picture in sorted((CHECKOUT / "docs").rglob("*.png")):
        copy(picture)
    settings = tomlkit.parse((CHECKOUT / "docs" / "site.toml").read_text("utf-8"))
    settings["project"]["nav"] = navigation()  # type: ignore[index]
    (BUILD / "zensical.toml").write_text(tomlkit.dumps(settings), "utf-8")
    command = [sys.executable, "-m", "zensical", "build", "--clean", "--strict"]
    return subprocess.run(command, cwd=BUILD, check=False).returncode


def pages() -> list[Path]:
    """Every page of the site, by its place in the repository."""
    outside = ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "benchmarks/*.md", "reproduce/README.md"]
    named = [page for pattern in outside for page in sorted(CHECKOUT.glob(pattern))]
    return [*named, *sorted((CHECKOUT / "docs").rglob("*.md")), *sorted((CHECKOUT / "examples").glob("*.ipynb"))]


def stage(page: Path) -> None:
    """Copy one page; a notebook becomes Markdown with its pictures beside it."""
    target = BUILD / "pages" / page.relative_to(CHECKOUT)
    target.parent.mkdir(parents=True, exist_ok=True)
    if page.suffix == ".ipynb":
        convert_notebook(page, target)
        return
    target.write_text(linked_text(page, page.read_text("utf-8")), "utf-8")


def linked_text(page: Path, text: str) -> str:
    """A page's text with the links that the site can follow, and the words alone of all others."""
    staged = {other.resolve() for other in pages()}

    def follow(link: re.Match[str]) -> str:
        words, path, anchor = link.groups()
        target = (page.parent / path).resolve()
        if target.is_dir():
            target, path = target / "README.md", f"{path.rstrip('/')}/README.md"
        if target not in staged and target.suffix != ".png":
            return words
        return f"[{words}]({path.removesuffix('.ipynb') + '.md' if path.endswith('.ipynb') else path}{anchor or ''})"

    return LINK.sub(follow, text)


def convert_notebook(page: Path, target: Path) -> None:
    """Write a notebook's cells and outputs as Markdown."""
    from nbconvert import MarkdownExporter

    folder = f"{page.stem}_files"
    resources = {"output_files_dir": folder, "unique_key": page.stem}
    text, resources = MarkdownExporter().from_filename(str(page), resources)
    target.with_suffix(".md").write_text(text, "utf-8")
    for name, content in resources["outputs"].items():
        picture = target.parent / name
        picture.parent.mkdir(parents=True, exist_ok=True)
        picture.write_bytes(content)


def copy(picture: Path) -> None:
    """Copy a picture to the same place."""
    target = BUILD / "pages" / picture.relative_to(CHECKOUT)
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(picture, target)


def navigation() -> Navigation:
    """The site's menu: every page once, guides in the order in which docs/README.md names them."""
    index = (CHECKOUT / "docs" / "README.md").read_text("utf-8")
    guides = re.findall(r"\[([^\]]+)\]\(([a-z-]+\.md)\)", index)
    project = [CHECKOUT / name for name in ("CHANGELOG.md", "CONTRIBUTING.md", "reproduce/README.md")]
    notebooks = sorted((CHECKOUT / "examples").glob("*.ipynb"))
    menu: Navigation = [
        {"vitrine": "README.md"},
        {"Examples": [{title(page): place(page.with_suffix(".md"))} for page in notebooks]},
        {"Guides": [{"All pages": "docs/README.md"}, *({text.capitalize(): f"docs/{name}"} for text, name in guides)]},
        {"Python": folder_pages("api")},
        {"Command line": folder_pages("verbs")},
        {"Measurements": folder_pages("../benchmarks")},
        {"Decisions": folder_pages("decisions")},
        {"Project": [{title(page): place(page)} for page in project]},
    ]
    missing = {place(page.with_suffix(".md")) for page in pages()} - set(_places(menu))
    if missing:
        raise SystemExit(f"No menu names these pages (docs/README.md lists the guides): {', '.join(sorted(missing))}")
    return menu


def _places(menu: Navigation) -> list[str]:
    """The pages that a menu names, at any depth."""
    return [
        name
        for entry in menu
        for value in entry.values()
        for name in ([value] if isinstance(value, str) else _places(value))
    ]


def folder_pages(name: str) -> Navigation:
    """The pages of one folder of docs/, its README first."""
    folder = (CHECKOUT / "docs" / name).resolve()
    in_order = sorted(folder.glob("*.md"), key=lambda page: (page.name != "README.md", page.name))
    return [{title(page): place(page)} for page in in_order]


def place(page: Path) -> str:
    """Where a page stands in the repository, with forward slashes."""
    return page.relative_to(CHECKOUT).as_posix()


def title(page: Path) -> str:
    """A page's first heading."""
    heading = re.search(r"^(?:# |\s*\"# )(.+?)(?:\\n)?(?:\",?)?$", page.read_text("utf-8"), re.MULTILINE)
    return heading.group(1).replace("`", "") if heading else page.stem


if __name__ == "__main__":
    sys.exit(main())
