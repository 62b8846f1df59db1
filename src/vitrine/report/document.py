"""The content of a report, independent of its format: sections of blocks, which html.py and markdown.py render."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from matplotlib.figure import Figure

from vitrine.caption.figures.words import CaptionPicture
from vitrine.explain.figures.map import MapPicture
from vitrine.plotting.colormap import Scale
from vitrine.plotting.tables import Table

Tone = Literal["plain", "lead", "note"]


@dataclass(frozen=True)
class Paragraph:
    """A paragraph of text. The tone "lead" stands out; "note" is small and grey."""

    words: str
    tone: Tone = "plain"


@dataclass(frozen=True)
class Number:
    """A large number with its name.

    Attributes:
        value: the number as text.
        name: what it is.
        detail: its interval or n.
        is_main: whether it is the report's main number, which stands out.
    """

    value: str
    name: str
    detail: str = ""
    is_main: bool = False


@dataclass(frozen=True)
class Numbers:
    """Large numbers beside one another."""

    items: tuple[Number, ...]


@dataclass(frozen=True)
class Finding:
    """A sentence with the flag of its verdict, such as "supported", "undecided" or "doubtful"; "" for none."""

    flag: str
    sentence: str


@dataclass(frozen=True)
class Findings:
    """A list of sentences with verdicts."""

    items: tuple[Finding, ...]


@dataclass(frozen=True)
class TableBlock:
    """A table with a caption."""

    table: Table
    caption: str = ""


@dataclass(frozen=True, eq=False)
class Plot:
    """A figure.

    Attributes:
        name: of its file, without ending; unique in the document.
        figure: in the style of :mod:`vitrine.plotting.style`.
        alt: text alternative, for people who cannot see it.
        caption: text below it.
        lines: whether it has lines and text only, which follow the page into the dark; others keep a white background.
    """

    name: str
    figure: Figure
    alt: str
    caption: str = ""
    lines: bool = True


@dataclass(frozen=True, eq=False)
class MapView:
    """A picture with its map, as an interactive view.

    Attributes:
        name: of its file, without ending.
        picture: with its map, the words on it and the verdict.
        scale: of the map's colours.
        why: why this picture is shown, in a few words.
    """

    name: str
    picture: MapPicture
    scale: Scale
    why: str = ""


@dataclass(frozen=True, eq=False)
class CaptionView:
    """A captioned picture whose words show their maps, as an interactive view.

    Attributes:
        name: of its file, without ending.
        picture: with its words and their maps.
        scale: of the maps' colours.
        why: why this picture is shown, in a few words.
    """

    name: str
    picture: CaptionPicture
    scale: Scale
    why: str = ""


@dataclass(frozen=True, eq=False)
class Gallery:
    """Views of maps or captions beside one another."""

    views: tuple[MapView | CaptionView, ...]


@dataclass(frozen=True)
class BulletList:
    """A bulleted list of sentences."""

    items: tuple[str, ...]


@dataclass(frozen=True)
class Commands:
    """Command lines to copy."""

    lines: tuple[str, ...]


@dataclass(frozen=True)
class Details:
    """Blocks under a summary that opens and closes."""

    summary: str
    blocks: tuple[Block, ...]


Block = (
    Paragraph
    | Numbers
    | Findings
    | TableBlock
    | Plot
    | MapView
    | CaptionView
    | Gallery
    | BulletList
    | Commands
    | Details
)


@dataclass(frozen=True)
class Section:
    """Blocks under a heading; ``key`` is the section's id in the page."""

    key: str
    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Document:
    """A report.

    Attributes:
        title: of the page.
        detail: a line below the title.
        sections: in order.
        footer: a line at the end.
        facts: the numbers behind the sentences as JSON types, for programs that read the page.
    """

    title: str
    detail: str
    sections: tuple[Section, ...]
    footer: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
