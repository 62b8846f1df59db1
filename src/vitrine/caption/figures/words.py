"""A caption's figure: the photograph, the caption, and a map over the photograph for each of its words.

Letters: H, W pixel rows and columns; R, C rows and columns of patches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import ceil

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from vitrine.attribution.placement import Placement
from vitrine.plotting.colormap import Scale, colour_bar
from vitrine.plotting.heads import describe_marks
from vitrine.plotting.overlay import Pixels, draw_overlay, draw_photo, drawn_photo
from vitrine.plotting.style import (
    DPI,
    GAP,
    GREY,
    INK,
    LABEL,
    LINE,
    MARGIN,
    SMALL,
    WIDTH,
    add_axes,
    add_text,
    figure_style,
    new_figure,
    shorten,
    snap_to_pixels,
    text_size,
    wrap_text,
)
from vitrine.results import percent, shown_number

IN_A_ROW = 6
"""Most words in a row."""
MANY, IN_A_ROW_OF_MANY = 60, 8
"""Words above which a caption is long, as answers can be, and the panels in a row of ``WIDTH``. Grey words of a long
caption have none; where the others are still so many, the figure is a sheet with more in a row."""

_SHEET = 2**0.5  # most height of a sheet over its width: that of printed paper
_SHEET_HEAD = 3.0  # inches of what stands above the panels, about, on a figure of WIDTH

_NARROWEST = 0.95  # inches of a cell: a narrow picture still has a word above it
_BROADEST, _TALLEST = 2.8, 2.3  # inches of a panel
_MAX_HEIGHT = 5.2  # inches of all rows; more only where six in a row need it
_APART = 0.07  # inches between a word and its probability
_FADED = 0.25  # how far a grey word's panel is brought towards white

_LUMA = np.array([0.2126, 0.7152, 0.0722])  # Rec. 709


@dataclass(frozen=True, eq=False)
class WordPanel:
    """One whole word of a caption.

    Attributes:
        text: the word, with the punctuation that follows it.
        probability: of the word, 0 to 1; None of one that was not predicted.
        map_RC: float (R, C), multiples of uniform; NaN has no colour.
        grey: whether the word did not look anywhere in particular, and is drawn so.
        note: a few words in grey below the panel, for example "as the mean map".
    """

    text: str
    probability: float | None
    map_RC: npt.NDArray[np.floating]
    grey: bool = False
    note: str = ""


@dataclass(frozen=True)
class WordGrid:
    """Where the panels go. Sizes are in inches.

    Attributes:
        words: one a panel.
        columns: panels in a row.
        panel: width and height of each.
        cell: width from one panel's left edge to the gap before the next.
        stacked: whether probabilities stand on a line of their own below the words.
        notes: lines below each panel.
    """

    words: tuple[WordPanel, ...]
    columns: int
    panel: tuple[float, float]
    cell: float
    is_stacked: bool
    notes: tuple[tuple[str, ...], ...]

    @classmethod
    def of(cls, words: Sequence[WordPanel], aspect: float) -> WordGrid:
        """Lay words out, for a photograph of that width over height; to be called within ``figure_style``.

        More words than :data:`MANY` take a figure of :func:`sheet_width`.
        """
        columns, panel = _arrange_panels(len(words), aspect)
        cell = max(panel[0], _NARROWEST)
        wide = max((_label_width(word) for word in words), default=0.0)
        notes = tuple(tuple(_note_lines(word.note, cell)) for word in words)
        return cls(tuple(words), columns, panel, cell, wide > cell, notes)

    @property
    def height(self) -> float:
        """Of all rows, the space above them included."""
        rows = ceil(len(self.words) / self.columns)
        return _ABOVE + rows * self._step - GAP if rows else 0.0

    @property
    def pixels(self) -> int:
        """The long side of a panel in the file's pixels, twice over: what a photograph drawn in it needs."""
        return max(64, round(2 * DPI * max(self.panel)))

    @property
    def _label(self) -> float:
        return 0.24 + (LINE if self.is_stacked else 0.0)

    @property
    def _step(self) -> float:
        """From one row to the next."""
        return self._label + self.panel[1] + LINE * max(map(len, self.notes), default=0) + GAP

    def draw(
        self, figure: Figure, top: float, photo_HWC: Pixels, placement: Placement, scale: Scale, smooth: bool
    ) -> None:
        """Draw all panels and their words, the first row's upper edge at ``top`` inches."""
        for index, word in enumerate(self.words):
            row, column = divmod(index, self.columns)
            left = snap_to_pixels(MARGIN + column * (self.cell + GAP))
            upper = snap_to_pixels(top - _ABOVE - row * self._step - self._label)
            axes = add_axes(figure, left, upper - self.panel[1], *self.panel)
            if not index:  # all panels have one size
                photo_HWC = drawn_photo(axes, photo_HWC, placement)
            draw_word(axes, photo_HWC, word, placement, scale, smooth=smooth)
            self._write(figure, word, left, upper)
            for number, line in enumerate(self.notes[index]):
                down = upper - self.panel[1] - 0.14 - LINE * number
                add_text(figure, left, down, line, fontsize=SMALL, color=GREY)

    def _write(self, figure: Figure, word: WordPanel, left: float, upper: float) -> None:
        chance = _chance(word.probability)
        room = self.cell if self.is_stacked else self.cell - _APART - text_size([chance], SMALL)[0]
        text, wide = _cut(word, room)
        at = (left, upper + 0.07) if self.is_stacked else (left + wide + _APART, upper + 0.07)
        add_text(figure, left, upper + 0.07 + (LINE if self.is_stacked else 0.0), text, fontsize=LABEL, **_look(word))
        add_text(figure, *at, chance, fontsize=SMALL, color=GREY)


_ABOVE = 0.16  # inches between what stands above and the first row


def draw_word(
    axes: Axes, photo_HWC: Pixels, word: WordPanel, placement: Placement, scale: Scale, *, smooth: bool = True
) -> Axes:
    """A word's map over the photograph, as :func:`vitrine.plotting.overlay.draw_overlay`; a grey word's without colour.

    Raises:
        ValueError: map or photograph have another shape than the placement's.
    """
    draw_overlay(axes, photo_HWC, word.map_RC, placement, scale, smooth=smooth)
    if word.grey:
        image = axes.images[0]
        light_HW = np.asarray(image.get_array()) / 255 @ _LUMA
        grey_HW = np.rint(255 * (_FADED + (1 - _FADED) * light_HW)).astype(np.uint8)
        image.set_data(np.repeat(grey_HW[..., None], 3, axis=2))
    return axes


def grey_swatch(figure: Figure, left: float, bottom: float) -> None:
    """A sample of the greys that grey words are drawn in, for the figure's key."""
    axes = add_axes(figure, left, bottom, 0.24, 0.12)
    axes.imshow(_FADED + (1 - _FADED) * np.linspace(0.1, 0.9, 48)[None], cmap="gray", vmin=0, vmax=1, aspect="auto")
    axes.set_axis_off()


_SHEET_CELL = (WIDTH - 2 * MARGIN + GAP) / IN_A_ROW_OF_MANY  # inches from one panel of a sheet to the next


def sheet_width(count: int, aspect: float) -> float:
    """Inches that a figure of so many panels is wide, for a photograph of that width over height."""
    return WIDTH if count <= MANY else 2 * MARGIN - GAP + _sheet_columns(count, aspect) * _SHEET_CELL


def _sheet_columns(count: int, aspect: float) -> int:
    """The fewest columns, of :data:`IN_A_ROW_OF_MANY` and more, whose panels and what is above them fit a sheet."""
    step = _sheet_panel(aspect)[1] + 0.4
    columns = IN_A_ROW_OF_MANY
    while ceil(count / columns) * step > columns * _SHEET_CELL * (_SHEET - _SHEET_HEAD / WIDTH):
        columns += 1
    return columns


def _sheet_panel(aspect: float) -> tuple[float, float]:
    width = min(_SHEET_CELL - GAP, _TALLEST * aspect)
    return max(1 / DPI, int(width * DPI) / DPI), snap_to_pixels(width / aspect)


def _arrange_panels(count: int, aspect: float) -> tuple[int, tuple[float, float]]:
    """(columns, (width, height) of a panel): in few rows, unless more rows make the panels clearly larger; of many in
    the rows of a sheet."""
    if count > MANY:
        return _sheet_columns(count, aspect), _sheet_panel(aspect)
    best = 1, (0.0, 0.0)
    for rows in range(max(1, ceil(count / IN_A_ROW)), count + 1):
        columns = ceil(count / rows)
        across = (WIDTH - 2 * MARGIN + GAP) / columns - GAP
        width = min(across, _BROADEST if aspect < 2 else across, _TALLEST * aspect)
        size = max(1 / DPI, int(width * DPI) / DPI), snap_to_pixels(width / aspect)
        fits = rows * (size[1] + 0.4) <= _MAX_HEIGHT or not best[1][0]
        if fits and width > 1.15 * best[1][0]:
            best = columns, size
    return best


def _look(word: WordPanel) -> dict[str, str]:
    return {"color": GREY} if word.grey else {"color": INK, "weight": "bold"}


def _label_width(word: WordPanel) -> float:
    return text_size([word.text], LABEL, **_look(word))[0] + _APART + text_size([_chance(word.probability)], SMALL)[0]


def _cut(word: WordPanel, room: float) -> tuple[str, float]:
    """A word shortened until it fits, and its width in inches."""
    most = max(3, len(word.text))
    while True:
        text = shorten(word.text, most)
        wide = text_size([text], LABEL, **_look(word))[0]
        if wide <= room or most <= 3:
            return text, wide
        most = max(3, min(most - 1, int(most * room / wide)))


def _note_lines(note: str, width: float) -> list[str]:
    """A note in two lines at most."""
    lines = wrap_text(note, SMALL, width)
    return lines if len(lines) <= 2 else [lines[0], f"{lines[1][:-2].rstrip()}…"]


def _chance(probability: float | None) -> str:
    """A probability in few letters that never says certain or impossible; nothing of None."""
    if probability is None:
        return ""
    if not 0.0005 <= probability < 0.9995:
        return "<0.1 %" if probability < 0.5 else ">99.9 %"
    return percent(probability, 1 if not 0.0095 <= probability < 0.995 else 0)


__all__ = ["CaptionPicture", "Scale", "WordPanel", "caption_figure"]

_MAX_PHOTO_PIXELS = 1800  # pixels of a photograph that a figure can show
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

_WITHOUT_PANELS = " Of a long caption, only the other words have panels below, in their order."


@dataclass(frozen=True, eq=False)
class CaptionPicture:
    """A photograph with the caption that a model gave it, and a map for each word.

    Attributes:
        photo_HWC: uint8 (H, W, 3), upright; or a smaller copy, as :meth:`with_smaller_photo` makes it.
        placement: where the patches of all maps lie on the photograph.
        caption: the predicted caption; empty where the model ended at once.
        words: of the caption, in its order.
        name: of the picture, for example its file name.
        true: captions that people wrote; empty where none is known.
        log_probability: natural logarithm of the whole caption's probability; None leaves it out.
        method: how the maps were made, for example "cross-attention, last of 6 layers, mean of 8 heads".
        notes: sentences in grey.
        smooth: draw maps smoothly between the middles of patches; otherwise patches as they are.
        model: its reference.
        prompt: words of the prompt, drawn below the caption's and apart from them; empty without maps.
        prompt_line: what is said of their maps, above them.
        question: what was asked; "" of a captioner that is asked nothing.
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
    model: str = ""
    prompt: tuple[WordPanel, ...] = ()
    prompt_line: str = ""
    question: str = ""

    def with_smaller_photo(self, side: int = 640) -> CaptionPicture:
        """The same with a copy of the photograph of at most ``side`` pixels a side, to hold many at a time."""
        rows, columns = self.photo_HWC.shape[:2]
        if max(rows, columns) <= side:
            return self
        zoom = side / max(rows, columns)
        size = max(1, round(columns * zoom)), max(1, round(rows * zoom))
        copy = Image.fromarray(self.photo_HWC).resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0)
        return replace(self, photo_HWC=np.asarray(copy))


def caption_figure(picture: CaptionPicture, scale: Scale) -> Figure:
    """The photograph with its caption, and below them a panel a word, at most six in a row, all on one scale.

    Words that did not look anywhere in particular are drawn in grey, in the caption too, and the figure says what that
    means. Of a caption of more than :data:`MANY` words they have no panel: the panels are those of its black words, in
    their order (docs/decisions/0042); of more than that the figure is a wider sheet, no higher than 1.5 times its width
    (docs/decisions/0045).

    Args:
        picture: what is shown; any number of words, none included.
        scale: what the colours mean; the same for all pictures of a call
            (:func:`vitrine.plotting.colormap.shared_scale`), unless stretched maps are wanted, and then the figure
            says so.

    Raises:
        ValueError: photograph, maps and placement do not fit one another.
    """
    picture = picture.with_smaller_photo(_MAX_PHOTO_PIXELS)
    geometry = picture.placement.geometry
    with figure_style():
        aspect = geometry.width / geometry.height
        panels = [_words_with_panels(words) for words in (picture.words, picture.prompt)]
        width = max(sheet_width(len(words), aspect) for words in panels)
        head = _Head.of(picture, scale, width)
        grid, prompt = (WordGrid.of(words, aspect) for words in panels)
        prompt_lines = wrap_text(picture.prompt_line, SMALL, WIDTH - 2 * MARGIN) if picture.prompt else []
        apart = GAP + LINE * len(prompt_lines) if picture.prompt else 0.0
        height = snap_to_pixels(2 * MARGIN + head.height + grid.height + apart + prompt.height)
        figure = new_figure(width, height)
        head.write(figure, picture)
        if picture.words:
            colour_bar(figure, scale, [word.map_RC for word in picture.words], head.bar(height), _BAR, level=True)
            with_smaller_photo = picture.with_smaller_photo(grid.pixels)
            grid.draw(
                figure,
                height - MARGIN - head.height,
                with_smaller_photo.photo_HWC,
                picture.placement,
                scale,
                picture.smooth,
            )
        if picture.prompt:
            top = height - MARGIN - head.height - grid.height - GAP
            for number, line in enumerate(prompt_lines):
                add_text(figure, MARGIN, top - LINE * (number + 1), line, fontsize=SMALL, color=GREY)
            photo_HWC = picture.with_smaller_photo(prompt.pixels).photo_HWC
            prompt.draw(figure, top - LINE * len(prompt_lines), photo_HWC, picture.placement, scale, picture.smooth)
        return figure


def _words_with_panels(words: Sequence[WordPanel]) -> Sequence[WordPanel]:
    """All words of a caption; of a long one, those that looked somewhere."""
    return words if len(words) <= MANY else [word for word in words if not word.grey]


@dataclass(frozen=True)
class _Head:
    """What stands above the words' panels, measured. Sizes are in inches.

    Attributes:
        photo: width and height of the photograph.
        column: left edge and width of the words.
        below: inches from the photograph's upper edge to that of the words.
        caption: lines of (inches from the left edge, word, whether it is grey).
        lines: of smaller text: (inches down from the first line's baseline, words, size, colour).
        grey_note_down: inches down to the first of the lines that say what grey means; None where nothing is grey.
        text: inches that all words take.
        height: of all, the colour bar included.
    """

    photo: tuple[float, float]
    column: tuple[float, float]
    below: float
    caption: tuple[tuple[tuple[float, str, bool], ...], ...]
    lines: tuple[tuple[float, str, float, str], ...]
    grey_note_down: float | None
    text: float
    height: float

    @classmethod
    def of(cls, picture: CaptionPicture, scale: Scale, figure_width: float) -> _Head:
        geometry = picture.placement.geometry
        aspect, zoom = geometry.width / geometry.height, figure_width / WIDTH
        if aspect >= _BROAD:
            width = min(figure_width - 2 * MARGIN, zoom * _HIGHEST * aspect)
            left, below = MARGIN, snap_to_pixels(width / aspect) + 0.2
        else:
            width = zoom * min(_ACROSS, _HIGH * aspect)
            left, below = MARGIN + width + _BESIDE, 0.0
        photo = snap_to_pixels(width), snap_to_pixels(width / aspect)
        column = figure_width - MARGIN - left
        caption = _caption_lines(picture, column)
        text = _SmallText(0.16 + _CAPTION_LINE * (len(caption) - 1), column)
        text.fill(picture, scale)
        bar = _BAR_HIGH + 0.12 if picture.words else 0.0
        height = max(photo[1], below + text.down + bar)
        return cls(photo, (left, column), below, caption, tuple(text.lines), text.grey_note_down, text.down, height)

    def bar(self, height: float) -> tuple[float, float]:
        """Foot of the colour bar on a figure of that height: level with the photograph's, or below all words."""
        return self.column[0], height - MARGIN - self.height + 0.22

    def write(self, figure: Figure, picture: CaptionPicture) -> None:
        top = float(figure.get_size_inches()[1]) - MARGIN
        axes = add_axes(figure, MARGIN, top - self.photo[1], *self.photo)
        draw_photo(axes, picture.photo_HWC, picture.placement)
        left, first = self.column[0], top - self.below - 0.16
        for index, line in enumerate(self.caption):
            for across, word, grey in line:
                look = {"fontsize": _CAPTION, "weight": "bold", "color": GREY if grey else INK}
                add_text(figure, left + across, first - _CAPTION_LINE * index, word, **look)
        for down, words, size, colour in self.lines:
            indent = _SWATCH if self.grey_note_down is not None and down >= self.grey_note_down else 0.0
            add_text(figure, left + indent, top - self.below - down, words, fontsize=size, color=colour)
        if self.grey_note_down is not None:
            grey_swatch(figure, left, top - self.below - self.grey_note_down - 0.01)


_SWATCH = 0.34  # inches that the sign of grey words takes


@dataclass
class _SmallText:
    """Lines below a caption, as they are laid out one after the other."""

    down: float
    width: float
    lines: list[tuple[float, str, float, str]] = field(default_factory=list)
    grey_note_down: float | None = None

    def fill(self, picture: CaptionPicture, scale: Scale) -> None:
        """Add name, method, human captions and notes; what grey means comes last."""
        natural = picture.log_probability
        likely = "" if natural is None else f"log-probability {shown_number(natural, 1)}"
        model = f"model {shorten(picture.model, 44)}" if picture.model else ""
        self.add(" · ".join(filter(None, (shorten(picture.name, 40), likely, model))), 0.07)
        self.add(picture.method, 0.0)
        if picture.true:
            self.add("written by people" if len(picture.true) > 1 else "written by a person", 0.09)
            for caption in picture.true:
                self.add(caption, 0.02, LABEL, INK)
        has_unseen = picture.placement.visible_share < 1 - 1e-6
        end = scale.describe_end([word.map_RC for word in picture.words]) if picture.words else ()
        for index, note in enumerate((*scale.warnings, *end, *picture.notes, *describe_marks(has_unseen, False))):
            self.add(note, 0.0 if index else 0.09)
        if any(word.grey for word in picture.words):
            self.width -= _SWATCH
            self.grey_note_down = self.down + 0.09 + LINE
            self.add(_GREYED + (_WITHOUT_PANELS if max(len(picture.words), len(picture.prompt)) > MANY else ""), 0.09)

    def add(self, words: str, above: float, size: float = SMALL, colour: str = GREY) -> None:
        self.down += above if words else 0.0
        for line in wrap_text(words, size, self.width):
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
    blank = text_size(["a a"], _CAPTION, weight="bold")[0] - text_size(["aa"], _CAPTION, weight="bold")[0]
    lines = _fill_lines(pieces, width, blank)
    for narrower in np.linspace(0.95, 0.5, 10) * width:  # as many lines of more equal length
        if len(evener := _fill_lines(pieces, float(narrower), blank)) == len(lines):
            lines = evener
    return tuple(tuple(line) for line in lines)


def _fill_lines(
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
    wide = text_size([token], _CAPTION, weight="bold")[0]
    if wide <= width:
        return [(token, wide)]
    letters = max(1, int(0.8 * len(token) * width / wide))
    cut = [token[start : start + letters] for start in range(0, len(token), letters)]
    return [(piece, min(width, text_size([piece], _CAPTION, weight="bold")[0])) for piece in cut]
