"""What a report is made of: sections of blocks, each of which a renderer knows how to show."""

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
    """Sentences. A "lead" stands out; a "note" is small and grey."""

    words: str
    tone: Tone = "plain"


@dataclass(frozen=True)
class Number:
    """A number to be seen from afar: ``value`` as text, what it is, and its interval or n."""

    value: str
    name: str
    detail: str = ""
    is_main: bool = False


@dataclass(frozen=True)
class Numbers:
    """Numbers beside one another."""

    items: tuple[Number, ...]


@dataclass(frozen=True)
class Finding:
    """A sentence under its verdict, such as "supported", "undecided" or "doubtful"; "" has none."""

    flag: str
    sentence: str


@dataclass(frozen=True)
class Findings:
    """Sentences with verdicts, one below the other."""

    items: tuple[Finding, ...]


@dataclass(frozen=True)
class Sheet:
    """A table and what it says."""

    table: Table
    caption: str = ""


@dataclass(frozen=True, eq=False)
class Plot:
    """A figure.

    Attributes:
        name: of its file, without ending; no other figure of the document has it.
        figure: drawn in the look of :mod:`vitrine.plotting.style`.
        alt: what it shows, for whoever cannot see it.
        caption: below it.
        lines: made of lines and text alone, which follow the page into the dark; otherwise it keeps its white paper.
    """

    name: str
    figure: Figure
    alt: str
    caption: str = ""
    lines: bool = True


@dataclass(frozen=True, eq=False)
class MapView:
    """A picture with its map, which the page lets people look through.

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
    """A captioned picture, whose words show their maps.

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
    """Maps or captions beside one another."""

    views: tuple[MapView | CaptionView, ...]


@dataclass(frozen=True)
class Listing:
    """Sentences that are looked through."""

    items: tuple[str, ...]


@dataclass(frozen=True)
class Commands:
    """Command lines to copy."""

    lines: tuple[str, ...]


@dataclass(frozen=True)
class Details:
    """Blocks that are there for whoever asks."""

    summary: str
    blocks: tuple[Block, ...]


Block = Paragraph | Numbers | Findings | Sheet | Plot | MapView | CaptionView | Gallery | Listing | Commands | Details


@dataclass(frozen=True)
class Section:
    """Blocks under a heading; ``key`` is its address in the page."""

    key: str
    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Document:
    """A report.

    Attributes:
        title: its name.
        detail: a line below it.
        sections: in order.
        foot: a line at the end.
        facts: the numbers that its sentences are made of, JSON-ready, for programs that read the page.
    """

    title: str
    detail: str
    sections: tuple[Section, ...]
    foot: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
