"""Write a report as Markdown with PNG files, with the same sections, sentences and numbers as the HTML page."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from vitrine.caption.figures.figure_file import save_caption_figure
from vitrine.explain.figures.map import save_map_figure
from vitrine.io.file_names import beside
from vitrine.io.files import remove_unfinished, write_atomically
from vitrine.plotting.style import save
from vitrine.plotting.tables import inline, named_table
from vitrine.printable import printable_words
from vitrine.report.document import (
    Block,
    BulletList,
    CaptionView,
    Commands,
    Details,
    Document,
    Findings,
    Gallery,
    MapView,
    Numbers,
    Paragraph,
    Plot,
    TableBlock,
)


def write_markdown(document: Document, path: Path) -> list[Path]:
    """Write the report, and its figures into a folder beside it that is named after it.

    Returns:
        Paths of the written files, the report first.
    """
    folder = beside(path, "-figures", keep_ending=False)
    folder.mkdir(parents=True, exist_ok=True)
    remove_unfinished(folder)
    writer = _Writer(folder)
    parts = [f"# {inline(document.title)}", inline(document.detail)]
    for section in document.sections:
        parts.append(f"## {inline(section.title)}")
        for block in section.blocks:
            parts += writer.block(block)
    parts.append(inline(document.footer))
    text = "\n\n".join(part for part in parts if part) + "\n"
    write_atomically(path, printable_words(text))
    return [path, *writer.paths]


class _Writer:
    """Turns blocks into text, and writes their figures into a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.paths: list[Path] = []

    def block(self, block: Block) -> Iterator[str]:  # noqa: C901  one case a kind of block
        """The Markdown paragraphs of a block."""
        match block:
            case Paragraph():
                yield f"**{inline(block.words)}**" if block.tone == "lead" else inline(block.words)
            case Numbers():
                yield "\n".join(
                    f"- **{each.value}** {inline(each.name)}{f' ({inline(each.detail)})' if each.detail else ''}"
                    for each in block.items
                )
            case Findings():
                yield "\n".join(f"- {inline(each.sentence)}{_flag(each.flag)}" for each in block.items)
            case TableBlock():
                yield named_table(block.table)
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
            case BulletList():
                yield "\n".join(f"- {inline(each)}" for each in block.items)
            case Commands():
                yield "```\n" + "\n".join(block.lines) + "\n```"
            case Details():
                yield f"<details>\n<summary>{inline(block.summary)}</summary>"
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
        self.paths.append(path)
        return f"![{inline(words)}](<{path.parent.name}/{path.name}>)"


_MAP_FLAGS = ("believable", "doubtful", "depends", "not shown", "cannot tell")


def _flag(flag: str) -> str:
    """The flag in brackets for verdicts on maps; other sentences say their verdict themselves."""
    return f" ({flag})" if flag in _MAP_FLAGS else ""


def _note(words: str) -> str:
    return f"*{inline(words)}*" if words else ""
