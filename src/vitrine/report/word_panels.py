"""The panels of a caption's words: how large they are, where they go, and how a word is drawn.

Letters: H, W pixel rows and columns; R, C rows and columns of patches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vitrine.explain.placement import Placement
from vitrine.report.overlay import Pixels, draw_overlay
from vitrine.report.panel_grid import GAP, LINE, wrapped
from vitrine.report.scale import Scale
from vitrine.report.style import (
    DPI,
    GREY,
    INK,
    LABEL,
    MARGIN,
    SMALL,
    WIDTH,
    extent,
    percent,
    place,
    shortened,
    write,
)

IN_A_ROW = 6
"""Words at most."""

_NARROWEST = 0.95  # inches of a cell: a narrow picture still has a word above it
_BROADEST, _TALLEST = 2.8, 2.3  # inches of a panel
_ENOUGH = 5.2  # inches of all rows; more only where six in a row need it
_APART = 0.07  # inches between a word and its probability
_FADED = 0.25  # how far a grey word's panel is brought towards white

_LUMA = np.array([0.2126, 0.7152, 0.0722])  # Rec. 709


@dataclass(frozen=True, eq=False)
class WordPanel:
    """One whole word of a caption.

    Attributes:
        text: the word, with the punctuation that follows it.
        probability: of the word, 0 to 1.
        map_RC: float (R, C), multiples of uniform; NaN has no colour.
        grey: whether the word did not look anywhere in particular, and is drawn so.
        note: a few words in grey below the panel, for example "as the mean map".
    """

    text: str
    probability: float
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
    stacked: bool
    notes: tuple[tuple[str, ...], ...]

    @classmethod
    def of(cls, words: Sequence[WordPanel], aspect: float) -> WordGrid:
        """Lay words out over pictures of that width over height. To be called in the look of the figure."""
        columns, panel = _arranged(len(words), aspect)
        cell = max(panel[0], _NARROWEST)
        wide = max((_label_width(word) for word in words), default=0.0)
        notes = tuple(tuple(_noted(word.note, cell)) for word in words)
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
        return 0.24 + (LINE if self.stacked else 0.0)

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
            left = snapped(MARGIN + column * (self.cell + GAP))
            upper = snapped(top - _ABOVE - row * self._step - self._label)
            axes = place(figure, left, upper - self.panel[1], *self.panel)
            draw_word(axes, photo_HWC, word, placement, scale, smooth=smooth)
            self._write(figure, word, left, upper)
            for number, line in enumerate(self.notes[index]):
                down = upper - self.panel[1] - 0.14 - LINE * number
                write(figure, left, down, line, fontsize=SMALL, color=GREY)

    def _write(self, figure: Figure, word: WordPanel, left: float, upper: float) -> None:
        chance = _chance(word.probability)
        room = self.cell if self.stacked else self.cell - _APART - extent([chance], SMALL)[0]
        text, wide = _cut(word, room)
        at = (left, upper + 0.07) if self.stacked else (left + wide + _APART, upper + 0.07)
        write(figure, left, upper + 0.07 + (LINE if self.stacked else 0.0), text, fontsize=LABEL, **_look(word))
        write(figure, *at, chance, fontsize=SMALL, color=GREY)


_ABOVE = 0.16  # inches between what stands above and the first row


def draw_word(
    axes: Axes, photo_HWC: Pixels, word: WordPanel, placement: Placement, scale: Scale, *, smooth: bool = True
) -> Axes:
    """A word's map over the photograph, as :func:`vitrine.report.overlay.draw_overlay`; a grey word's without colour.

    Raises:
        ValueError: map or photograph have another shape than the placement's.
    """
    draw_overlay(axes, photo_HWC, word.map_RC, placement, scale, smooth=smooth)
    if word.grey:
        image = axes.images[0]
        light_HW = np.asarray(image.get_array()) @ _LUMA
        image.set_data(np.repeat((_FADED + (1 - _FADED) * light_HW)[..., None], 3, axis=2))
    return axes


def grey_swatch(figure: Figure, left: float, bottom: float) -> None:
    """A sign for grey words: a small stretch of the greys that they are drawn in."""
    axes = place(figure, left, bottom, 0.24, 0.12)
    axes.imshow(_FADED + (1 - _FADED) * np.linspace(0.1, 0.9, 48)[None], cmap="gray", vmin=0, vmax=1, aspect="auto")
    axes.set_axis_off()


def snapped(inches: float) -> float:
    """To whole pixels of the file, one at least, so that drawings are not resampled."""
    return max(1, round(inches * DPI)) / DPI


def _arranged(count: int, aspect: float) -> tuple[int, tuple[float, float]]:
    """(columns, (width, height) of a panel): in few rows, unless more rows make the panels clearly larger."""
    best = 1, (0.0, 0.0)
    for rows in range(max(1, ceil(count / IN_A_ROW)), count + 1):
        columns = ceil(count / rows)
        across = (WIDTH - 2 * MARGIN + GAP) / columns - GAP
        width = min(across, _BROADEST if aspect < 2 else across, _TALLEST * aspect)
        size = max(1 / DPI, int(width * DPI) / DPI), snapped(width / aspect)
        fits = rows * (size[1] + 0.4) <= _ENOUGH or not best[1][0]
        if fits and width > 1.15 * best[1][0]:
            best = columns, size
    return best


def _look(word: WordPanel) -> dict[str, str]:
    return {"color": GREY} if word.grey else {"color": INK, "weight": "bold"}


def _label_width(word: WordPanel) -> float:
    return extent([word.text], LABEL, **_look(word))[0] + _APART + extent([_chance(word.probability)], SMALL)[0]


def _cut(word: WordPanel, room: float) -> tuple[str, float]:
    """A word shortened until it fits, and its width in inches."""
    most = max(3, len(word.text))
    while True:
        text = shortened(word.text, most)
        wide = extent([text], LABEL, **_look(word))[0]
        if wide <= room or most <= 3:
            return text, wide
        most = max(3, min(most - 1, int(most * room / wide)))


def _noted(note: str, width: float) -> list[str]:
    """A note in two lines at most."""
    lines = wrapped(note, SMALL, width)
    return lines if len(lines) <= 2 else [lines[0], f"{lines[1][:-2].rstrip()}…"]


def _chance(probability: float) -> str:
    """A probability in few letters that never says certain or impossible."""
    if not 0.0005 <= probability < 0.9995:
        return "<0.1 %" if probability < 0.5 else ">99.9 %"
    return percent(probability, 1 if not 0.0095 <= probability < 0.995 else 0)
