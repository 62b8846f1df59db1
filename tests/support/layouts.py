"""Trees of files made from text: as pages show them, folders with two spaces of indentation a level."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image, ImageDraw

from vitrine.data.decode import promised_format

_CODE = re.compile(
    r"(?:^`(?P<file>[^`\n]+)`(?: in (?P<encoding>\S+))?:\n\n)?^```(?P<kind>\w+)\n(?P<text>.*?)^```$", re.M | re.S
)
_COMMAND = re.compile(r"^(?P<words>vitrine .*?)\s+# (?P<outcome>.+)$")


@dataclass
class Layout:
    """A section of a page: files by path (their bytes; None is drawn), a program, and commands with outcomes."""

    title: str
    files: dict[str, bytes | None] = field(default_factory=dict)
    program: str = ""
    commands: list[tuple[str, str]] = field(default_factory=list)


def read_layouts(page: str) -> Iterator[Layout]:
    """The sections of a page that show commands."""
    for section in re.split(r"^### ", page, flags=re.M)[1:]:
        layout = Layout(section.split("\n", 1)[0])
        for match in _CODE.finditer(section):
            text = match["text"]
            if match["file"]:
                layout.files[match["file"]] = text.encode(match["encoding"] or "utf-8")
            elif match["kind"] == "python":
                layout.program = text
            elif match["kind"] == "sh":
                commands = [_COMMAND.match(line) for line in text.splitlines()]
                assert all(commands), f"a command of {layout.title} says no outcome: {text}"
                layout.commands += [(command["words"], command["outcome"]) for command in commands if command]
            else:
                layout.files |= {path: layout.files.get(path) for path in tree_paths(text)}
        yield layout


def tree_paths(text: str) -> Iterator[str]:
    """The paths of the files of a tree."""
    folders: list[str] = []
    for line in text.splitlines():
        name = line.strip()
        folders = folders[: (len(line) - len(line.lstrip())) // 2]
        if name.endswith("/"):
            folders.append(name)
        else:
            yield "".join(folders) + name


def write_tree(root: Path, files: Mapping[str, bytes | None]) -> None:
    """Write files: what has bytes gets them, pictures are drawn, each in another colour; in ``masks`` of one bit."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is not None:
            path.write_bytes(content)
        elif "masks" in Path(name).parts[:-1]:
            Image.new("1", (16, 12), 1).save(path)
        else:
            assert promised_format(name), f"the page shows no content of {name}"
            draw_picture(path)


def draw_picture(path: Path) -> None:
    """A small photograph-like picture that no other path has."""
    digest = hashlib.sha256(path.as_posix().encode()).digest()
    image = Image.new("RGB", (16, 12), (digest[0], digest[1], digest[2]))
    draw = ImageDraw.Draw(image)
    for n in range(6):
        x, y = digest[3 + n] % 14, digest[9 + n] % 10
        draw.rectangle((x, y, x + 3, y + 3), fill=(digest[15 + n], digest[21 + n], n * 40))
    image.save(path)
