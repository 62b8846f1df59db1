"""A report as Markdown with PNG files, for a repository: the same sections, sentences and numbers as the page."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from vitrine.report.maps import save_map_figure
from vitrine.report.page.document import (
    Block,
    CaptionView,
    Commands,
    Document,
    Findings,
    Folded,
    Gallery,
    Listing,
    MapView,
    Numbers,
    Paragraph,
    Plot,
    Sheet,
)
from vitrine.report.style import save
from vitrine.report.tables import Cell, Table
from vitrine.report.words import save_caption_figure


def write_markdown(document: Document, path: Path) -> list[Path]:
    """Write the report, and its figures into a folder beside it that is named after it.

    Returns:
        What was written, the report first.
    """
    folder = path.with_name(f"{path.stem}-figures")
    folder.mkdir(parents=True, exist_ok=True)
    writer = _Writer(folder)
    parts = [f"# {_plain(document.title)}", _plain(document.detail)]
    for section in document.sections:
        parts.append(f"## {_plain(section.title)}")
        for block in section.blocks:
            parts += writer.block(block)
    parts.append(_plain(document.foot))
    text = "\n\n".join(part for part in parts if part) + "\n"
    path.write_text(text, encoding="utf-8")
    return [path, *writer.written]


class _Writer:
    """Blocks as text; figures are written as they come."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.written: list[Path] = []

    def block(self, block: Block) -> Iterator[str]:
        """The paragraphs of a block."""
        match block:
            case Paragraph():
                yield f"**{_plain(block.words)}**" if block.tone == "lead" else _plain(block.words)
            case Numbers():
                yield "\n".join(
                    f"- **{each.value}** {_plain(each.name)}{f' ({_plain(each.detail)})' if each.detail else ''}"
                    for each in block.items
                )
            case Findings():
                yield "\n".join(f"- {_plain(each.sentence)}{_flag(each.flag)}" for each in block.items)
            case Sheet():
                yield _table(block.table)
                yield _note(block.caption)
            case Plot():
                path = self.folder / f"{block.name}.png"
                save(block.figure, path, {"shows": block.alt})
                yield self._image(path, block.alt)
                yield _note(block.caption)
            case MapView() | CaptionView():
                yield from self._view(block)
            case Gallery():
                for view in block.views:
                    yield from self._view(view)
            case Listing():
                yield "\n".join(f"- {_plain(each)}" for each in block.items)
            case Commands():
                yield "```\n" + "\n".join(block.lines) + "\n```"
            case Folded():
                yield f"<details>\n<summary>{_plain(block.summary)}</summary>"
                for inner in block.blocks:
                    yield from self.block(inner)
                yield "</details>"

    def _view(self, view: MapView | CaptionView) -> Iterator[str]:
        path = self.folder / f"{view.name}.png"
        metadata = {"picture": view.picture.name}
        if isinstance(view, MapView):
            save_map_figure(view.picture, view.scale, path, metadata)
            words = f"{view.picture.method} over {view.picture.name}: {view.picture.predicted}"
        else:
            save_caption_figure(view.picture, view.scale, path, metadata)
            words = f"{view.picture.name}: {view.picture.caption}"
        yield self._image(path, words)
        yield _note(f"Shown as {view.why}." if view.why else "")

    def _image(self, path: Path, words: str) -> str:
        self.written.append(path)
        return f"![{_plain(words)}](<{path.parent.name}/{path.name}>)"


def _flag(flag: str) -> str:
    """Sentences say their verdict themselves, but for those on maps."""
    return f" ({flag})" if flag in ("believable", "doubtful", "not checked") else ""


def _note(words: str) -> str:
    return f"*{_plain(words)}*" if words else ""


def _table(table: Table) -> str:
    """A table whose names are text; the table itself escapes what parts its columns."""

    def plain(cell: Cell) -> Cell:
        return _plain(cell).replace("\\|", "|") if isinstance(cell, str) else cell

    columns = tuple(str(plain(name)) for name in table.columns)
    rows = tuple(tuple(plain(cell) for cell in row) for row in table.rows)
    return replace(table, columns=columns, rows=rows).markdown()


def _plain(text: str) -> str:
    """Text whose signs Markdown and HTML leave alone."""
    text = " ".join(text.split())
    for sign in "\\`*_[]<>#|":
        text = text.replace(sign, f"\\{sign}")
    return text
