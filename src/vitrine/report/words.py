"""A caption's figure: the photograph, the caption, and a map over the photograph for each of its words.

Letters: H, W pixel rows and columns; R, C rows and columns of patches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from vitrine.explain.placement import Placement
from vitrine.report.overlay import Pixels, draw_photo
from vitrine.report.panel_grid import LINE, wrapped
from vitrine.report.panels import signs_in_words
from vitrine.report.scale import Scale, colour_bar
from vitrine.report.style import (
    GREY,
    INK,
    LABEL,
    MARGIN,
    SMALL,
    WIDTH,
    extent,
    new_figure,
    place,
    save,
    shortened,
    styled,
    write,
)
from vitrine.report.word_panels import WordGrid, WordPanel, grey_swatch, snapped
from vitrine.results import shown_number

__all__ = ["CaptionPicture", "Scale", "WordPanel", "caption_figure", "save_caption_figure"]

_ENOUGH = 1800  # pixels of a photograph that a figure can show
_ACROSS, _HIGH = 3.5, 2.6  # inches that a photograph has beside words
_BROAD = 2.3  # width over height from which words stand below the photograph
_HIGHEST = 2.8  # inches of a photograph above words
_BESIDE = 0.3  # inches between photograph and words
_CAPTION, _CAPTION_LINE = 13.0, 0.245  # points, and inches from line to line
_LABEL_LINE = 0.185
_BAR, _BAR_HIGH = 2.2, 0.56  # length of the colour bar; inches that it takes with its name and its numbers
_GREYED = (
    "Grey: a word that did not look anywhere in particular. Its map is no different from the mean map of all words, "
    "or from uniform."
)


@dataclass(frozen=True, eq=False)
class CaptionPicture:
    """A photograph with the caption that a model gave it, and a map for each word.

    Attributes:
        photo_HWC: uint8 (H, W, 3), upright; or a smaller copy, as :meth:`lighter` makes it.
        placement: where the patches of all maps lie on the photograph.
        caption: the predicted caption; empty where the model ended at once.
        words: of the caption, in its order.
        name: of the picture, for example its file name.
        true: captions that people wrote; empty where none is known.
        log_probability: natural logarithm of the whole caption's probability; None leaves it out.
        method: how the maps were made, for example "cross-attention, last of 6 layers, mean of 8 heads".
        notes: sentences in grey.
        smooth: draw maps smoothly between the middles of patches; otherwise patches as they are.
    """

    photo_HWC: Pixels
    placement: Placement
    caption: str
    words: tuple[WordPanel, ...]
    name: str = ""
    true: tuple[str, ...] = ()
    log_probability: float | None = None
    method: str = ""
    notes: tuple[str, ...] = ()
    smooth: bool = True

    def lighter(self, side: int = 640) -> CaptionPicture:
        """The same with a copy of the photograph of at most ``side`` pixels a side, to hold many at a time."""
        rows, columns = self.photo_HWC.shape[:2]
        if max(rows, columns) <= side:
            return self
        zoom = side / max(rows, columns)
        size = max(1, round(columns * zoom)), max(1, round(rows * zoom))
        copy = Image.fromarray(self.photo_HWC).resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0)
        return replace(self, photo_HWC=np.asarray(copy))


def save_caption_figure(picture: CaptionPicture, scale: Scale, path: Path, metadata: Mapping[str, str]) -> None:
    """Write :func:`caption_figure` as PNG or SVG; see :func:`vitrine.report.style.save`."""
    save(caption_figure(picture, scale), path, metadata)


def caption_figure(picture: CaptionPicture, scale: Scale) -> Figure:
    """The photograph with its caption, and below them a panel a word, at most six in a row, all on one scale.

    Words that did not look anywhere in particular are drawn in grey, in the caption too, and the figure says what that
    means.

    Args:
        picture: what is shown; any number of words, none included.
        scale: what the colours mean; the same for all pictures of a call
            (:func:`vitrine.report.scale.shared_scale`), unless stretched maps are wanted, and then the figure says so.

    Raises:
        ValueError: photograph, maps and placement do not fit one another.
    """
    picture = picture.lighter(_ENOUGH)
    geometry = picture.placement.geometry
    with styled():
        head = _Head.of(picture, scale)
        grid = WordGrid.of(picture.words, geometry.width / geometry.height)
        height = snapped(2 * MARGIN + head.height + grid.height)
        figure = new_figure(WIDTH, height)
        head.write(figure, picture)
        if picture.words:
            colour_bar(figure, scale, [word.map_RC for word in picture.words], head.bar(height), _BAR, level=True)
            lighter = picture.lighter(grid.pixels)
            grid.draw(
                figure, height - MARGIN - head.height, lighter.photo_HWC, picture.placement, scale, picture.smooth
            )
        return figure


@dataclass(frozen=True)
class _Head:
    """What stands above the words' panels, measured. Sizes are in inches.

    Attributes:
        photo: width and height of the photograph.
        column: left edge and width of the words.
        below: inches from the photograph's upper edge to that of the words.
        caption: lines of (inches from the left edge, word, whether it is grey).
        lines: of smaller text: (inches down from the first line's baseline, words, size, colour).
        greyed: inches down to the first of the lines that say what grey means; None where nothing is grey.
        text: inches that all words take.
        height: of all, the colour bar included.
    """

    photo: tuple[float, float]
    column: tuple[float, float]
    below: float
    caption: tuple[tuple[tuple[float, str, bool], ...], ...]
    lines: tuple[tuple[float, str, float, str], ...]
    greyed: float | None
    text: float
    height: float

    @classmethod
    def of(cls, picture: CaptionPicture, scale: Scale) -> _Head:
        geometry = picture.placement.geometry
        aspect = geometry.width / geometry.height
        if aspect >= _BROAD:
            width = min(WIDTH - 2 * MARGIN, _HIGHEST * aspect)
            left, below = MARGIN, snapped(width / aspect) + 0.2
        else:
            width = min(_ACROSS, _HIGH * aspect)
            left, below = MARGIN + width + _BESIDE, 0.0
        photo = snapped(width), snapped(width / aspect)
        column = WIDTH - MARGIN - left
        caption = _caption_lines(picture, column)
        text = _SmallText(0.16 + _CAPTION_LINE * (len(caption) - 1), column)
        text.fill(picture, scale)
        bar = _BAR_HIGH + 0.12 if picture.words else 0.0
        height = max(photo[1], below + text.down + bar)
        return cls(photo, (left, column), below, caption, tuple(text.lines), text.greyed, text.down, height)

    def bar(self, height: float) -> tuple[float, float]:
        """Foot of the colour bar on a figure of that height: level with the photograph's, or below all words."""
        return self.column[0], height - MARGIN - self.height + 0.22

    def write(self, figure: Figure, picture: CaptionPicture) -> None:
        top = float(figure.get_size_inches()[1]) - MARGIN
        axes = place(figure, MARGIN, top - self.photo[1], *self.photo)
        draw_photo(axes, picture.photo_HWC, picture.placement)
        left, first = self.column[0], top - self.below - 0.16
        for index, line in enumerate(self.caption):
            for across, word, grey in line:
                look = {"fontsize": _CAPTION, "weight": "bold", "color": GREY if grey else INK}
                write(figure, left + across, first - _CAPTION_LINE * index, word, **look)
        for down, words, size, colour in self.lines:
            indent = _SWATCH if self.greyed is not None and down >= self.greyed else 0.0
            write(figure, left + indent, top - self.below - down, words, fontsize=size, color=colour)
        if self.greyed is not None:
            grey_swatch(figure, left, top - self.below - self.greyed - 0.01)


_SWATCH = 0.34  # inches that the sign of grey words takes


@dataclass
class _SmallText:
    """Lines below a caption, as they are laid out one after the other."""

    down: float
    width: float
    lines: list[tuple[float, str, float, str]] = field(default_factory=list)
    greyed: float | None = None

    def fill(self, picture: CaptionPicture, scale: Scale) -> None:
        """Everything that is said of a picture beside its caption; what grey means comes last."""
        natural = picture.log_probability
        likely = "" if natural is None else f"log-probability {shown_number(natural, 1)}"
        self.add(" · ".join(filter(None, (shortened(picture.name, 40), likely))), 0.07)
        self.add(picture.method, 0.0)
        if picture.true:
            self.add("written by people" if len(picture.true) > 1 else "written by a person", 0.09)
            for caption in picture.true:
                self.add(caption, 0.02, LABEL, INK)
        unseen = picture.placement.seen_share < 1 - 1e-6
        for index, note in enumerate((*scale.warnings, *picture.notes, *signs_in_words(unseen, False))):
            self.add(note, 0.0 if index else 0.09)
        if any(word.grey for word in picture.words):
            self.width -= _SWATCH
            self.greyed = self.down + 0.09 + LINE
            self.add(_GREYED, 0.09)

    def add(self, words: str, above: float, size: float = SMALL, colour: str = GREY) -> None:
        self.down += above if words else 0.0
        for line in wrapped(words, size, self.width):
            self.down += LINE if size == SMALL else _LABEL_LINE
            self.lines.append((self.down, line, size, colour))


def _caption_lines(picture: CaptionPicture, width: float) -> tuple[tuple[tuple[float, str, bool], ...], ...]:
    """The caption in lines of at most ``width`` inches: (inches from the left, word, whether it is grey)."""
    tokens = picture.caption.split()
    greys = [(token, word.grey) for word in picture.words for token in word.text.split()]
    if [token.casefold() for token, _ in greys] == [token.casefold() for token in tokens]:
        greys = [(token, grey) for token, (_, grey) in zip(tokens, greys, strict=True)]
    else:  # spaced in another way: no telling which word is which
        greys = [(token, False) for token in tokens]
    pieces = [(*piece, grey) for token, grey in greys or [("(no words)", True)] for piece in _pieces(token, width)]
    blank = extent(["a a"], _CAPTION, weight="bold")[0] - extent(["aa"], _CAPTION, weight="bold")[0]
    lines = _filled(pieces, width, blank)
    for narrower in np.linspace(0.95, 0.5, 10) * width:  # as many lines of more equal length
        if len(evener := _filled(pieces, float(narrower), blank)) == len(lines):
            lines = evener
    return tuple(tuple(line) for line in lines)


def _filled(
    pieces: Sequence[tuple[str, float, bool]], width: float, blank: float
) -> list[list[tuple[float, str, bool]]]:
    lines: list[list[tuple[float, str, bool]]] = [[]]
    across = 0.0
    for piece, wide, grey in pieces:
        if lines[-1] and across + wide > width:
            lines.append([])
            across = 0.0
        lines[-1].append((across, piece, grey))
        across += wide + blank
    return lines


def _pieces(token: str, width: float) -> list[tuple[str, float]]:
    """A word with its width in inches, cut into pieces where it is longer than a line."""
    wide = extent([token], _CAPTION, weight="bold")[0]
    if wide <= width:
        return [(token, wide)]
    letters = max(1, int(0.8 * len(token) * width / wide))
    cut = [token[start : start + letters] for start in range(0, len(token), letters)]
    return [(piece, min(width, extent([piece], _CAPTION, weight="bold")[0])) for piece in cut]
