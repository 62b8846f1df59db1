"""The style that all figures share, the layout of panels, and the writing of a figure's file.

Figures are made with matplotlib's objects (never ``pyplot``) inside :func:`figure_style`, so that neither a window nor
the caller's own matplotlib settings are touched. Sizes are in inches; a README shows an inch as about 100 pixels, and
files have twice that.
"""

from __future__ import annotations

import io
import json
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from math import ceil
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from vitrine.io.files import write_atomically
from vitrine.plotting.fonts import OWN_FONT, any_script
from vitrine.plotting.panel_axes import PanelAxes
from vitrine.plotting.provenance import PREFIX, file_metadata

WIDTH = 9.0  # of a figure that fills a README's column
DPI = 200
MARGIN = 0.18  # around everything

INK, GREY, HAIRLINE, EMPTY = "#1d2730", "#66717d", "#d9dee3", "#f1f3f5"
ACCENT = "#0072b2"
# Blue, vermilion, bluish green and black are of Okabe and Ito (2008), Color universal design, whose others are too pale
# on white. The three in their place are, of colours with a contrast of 3, those farthest from the rest and from one
# another with every common colour blindness. The dark page has its own (theme.css).
SERIES = ("#0072b2", "#d55e00", "#009e73", "#ae72fc", "#a80000", "#723c6c", "#000000")
# White to dark blue; lightness falls evenly (a test looks), so that it reads in grey too.
SHARES = LinearSegmentedColormap.from_list(
    "vitrine.shares", ["#ffffff", "#d6e6f2", "#a9cbe3", "#74add1", "#3f8cbc", "#1c6a9e", "#0d4a79", "#082c51"]
).with_extremes(bad=EMPTY)

TITLE, LABEL, SMALL, FOOT = 11.0, 9.0, 8.0, 6.5  # points

_SETTINGS: dict[str, Any] = {
    "font.family": OWN_FONT,
    "font.size": LABEL,
    "text.color": INK,
    "text.parse_math": False,  # a class may be called "$5_bill"
    "axes.edgecolor": HAIRLINE,
    "axes.labelcolor": GREY,
    "axes.labelsize": LABEL,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "grid.color": HAIRLINE,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
    "xtick.color": HAIRLINE,
    "ytick.color": HAIRLINE,
    "xtick.labelcolor": GREY,
    "ytick.labelcolor": GREY,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "xtick.major.width": 0.8,
    "ytick.major.width": 0.8,
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "savefig.facecolor": "white",
    "figure.dpi": DPI,
    "savefig.dpi": "figure",
    "svg.fonttype": "path",
    "svg.hashsalt": "vitrine",  # names inside an SVG are drawn from it: the same figure, the same bytes
}


@contextmanager
def figure_style() -> Iterator[None]:
    """Within the ``with`` block matplotlib has its defaults with vitrine's settings on top; afterwards the caller's."""
    with mpl.rc_context():
        # The backend is left alone: setting it would import pyplot's machinery, and figures here have their own canvas.
        settings: dict[Any, Any] = {k: v for k, v in mpl.rcParamsDefault.items() if not k.startswith("backend")}
        mpl.rcParams.update(settings | _SETTINGS)
        yield


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of this many inches, drawn by Agg."""
    figure = Figure(figsize=(width, height), dpi=DPI)
    FigureCanvasAgg(figure)
    return figure


def add_axes(figure: Figure, left: float, bottom: float, width: float, height: float) -> PanelAxes:
    """Axes at a place in inches from the lower left corner."""
    across, up = figure.get_size_inches()
    axes = PanelAxes(figure, (left / across, bottom / up, width / across, height / up))
    figure.add_axes(axes)
    return axes


def add_text(figure: Figure, left: float, bottom: float, words: str, **look: Any) -> Text:
    """Text at a place in inches from the lower left corner, on its baseline."""
    across, up = figure.get_size_inches()
    return figure.text(left / across, bottom / up, words, **({"va": "baseline"} | look))


def text_size(words: Sequence[str], size: float, **look: Any) -> tuple[float, float]:
    """(widest, highest) of some texts in inches, at a font size in points."""
    fonts = (*mpl.rcParams["font.family"], *mpl.rcParams["font.sans-serif"])
    sizes = [_measure_text(word, size, tuple(sorted(look.items())), fonts) for word in words]
    return max((width for width, _ in sizes), default=0.0), max((height for _, height in sizes), default=0.0)


@lru_cache(maxsize=4096)  # a word of a caption is measured several times before it has its place
def _measure_text(
    word: str,
    size: float,
    look: tuple[tuple[str, Any], ...],
    fonts: tuple[str, ...],  # noqa: ARG001  a person's own settings may have others
) -> tuple[float, float]:
    figure = new_figure(1, 1)
    canvas: Any = figure.canvas
    text = figure.text(0, 0, word, fontsize=size, **dict(look))
    with any_script(text):
        box = text.get_window_extent(canvas.get_renderer())
    return box.width / DPI, box.height / DPI


def percent_tick(share: float, _position: int | None = None) -> str:
    """A share as per cent for an axis, with a decimal only where it is not zero: ``92.5 %``, ``93 %``."""
    return f"{round(100 * share, 2):g} %"


def shorten(label: str, max_length: int = 28) -> str:
    """A label for a figure: cut in the middle where it is longer than ``max_length`` characters, on one line."""
    line = " ".join(label.split())
    half = (max_length - 1) // 2
    return line if len(line) <= max_length else f"{line[: max_length - 1 - half]}…{line[-half:]}"


def figure_bytes(figure: Figure, kind: str, metadata: Mapping[str, str]) -> bytes:
    """A figure as the bytes of a PNG or SVG file; the same figure gives the same bytes.

    Args:
        figure: what is drawn.
        kind: "png" or "svg".
        metadata: where the figure came from; see :func:`vitrine.plotting.provenance.file_metadata`.
    """
    buffer = io.BytesIO()
    with figure_style(), _origin_below(figure, metadata) as texts, any_script(*texts):
        if kind == "png":
            return _png_bytes(figure, file_metadata(kind, metadata))
        figure.savefig(buffer, format=kind, metadata=file_metadata(kind, metadata))
    return buffer.getvalue()


def _png_bytes(figure: Figure, texts: Mapping[str, str]) -> bytes:
    """A figure as PNG without the transparency that ``savefig`` writes, which no figure has, and with its texts."""
    drawing, file, info = io.BytesIO(), io.BytesIO(), PngInfo()
    figure.savefig(drawing, format="rgba")
    for name, text in texts.items():
        info.add_text(name, text)
    image = Image.frombuffer("RGBA", figure.canvas.get_width_height(physical=True), drawing.getvalue())
    # zlib's default level takes twice the time of level 2 for a twentieth fewer bytes.
    image.convert("RGB").save(file, format="png", pnginfo=info, dpi=(figure.dpi, figure.dpi), compress_level=2)
    return file.getvalue()


@contextmanager
def _origin_below(figure: Figure, metadata: Mapping[str, str]) -> Iterator[list[Text]]:
    """Within the ``with`` block: the figure's foot names its model, data and split, where nothing else does.

    Yields:
        All texts of the figure, with the foot.
    """
    try:
        options = json.loads(metadata.get(f"{PREFIX}options", "{}"))
    except (ValueError, RecursionError):  # whoever draws may write any text there
        options = {}
    options = options if isinstance(options, dict) else {}
    origin = {
        "model": metadata.get(f"{PREFIX}model", metadata.get("model", metadata.get("run", ""))),
        **{kind: str(options.get(kind) or metadata.get(kind, "")) for kind in ("data", "split")},
    }
    texts = [artist for artist in figure.findobj(Text) if isinstance(artist, Text)]
    words = [text.get_text() for text in texts]
    missing = {kind: name for kind, name in origin.items() if name and not any(name in word for word in words)}
    new = [f"{kind} {name}" for kind, name in missing.items()]
    if not new:
        yield texts
        return
    room = float(figure.get_size_inches()[0]) - 2 * MARGIN
    text = add_text(figure, MARGIN, 0.05, wrap_text(" · ".join(new), FOOT, room)[0], fontsize=FOOT, color=GREY)
    try:
        yield [*texts, text]
    finally:
        text.remove()


def save(figure: Figure, path: Path, metadata: Mapping[str, str]) -> None:
    """Write a figure as PNG or SVG, whole or not at all; the same figure gives the same bytes.

    Args:
        figure: what to write.
        path: ends in .png or .svg; its folder is made.
        metadata: as for :func:`figure_bytes`.

    Raises:
        ValueError: the path ends in something else.
    """
    if path.suffix.lower() not in (".png", ".svg"):
        raise ValueError(f"A figure is written as .png or .svg; got {path.name}.")
    content = figure_bytes(figure, path.suffix.lower()[1:], metadata)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, content, durable=False)


GAP = 0.12  # inches between panels
BAR = 1.32  # inches that an upright colour bar takes, its numbers and its name included
LINE = 0.165  # inches from one small line of text to the next
LETTER = 0.115  # inches of a broad letter of a title


def wrap_text(words: str, size: float, width: float) -> list[str]:
    """Lines of at most ``width`` inches at a font size in points; a word that is longer is cut."""
    words = " ".join(words.split())
    letters = max(8, int(len(words) * width / max(text_size([words], size)[0], 1e-6)))
    while True:
        lines = textwrap.wrap(words, letters)
        if letters <= 8 or text_size(lines, size)[0] <= width:
            return lines
        letters -= 1


def fit_title(words: str, width: float) -> str:
    """A title shortened so that even broad letters fit a width in inches."""
    return shorten(words, max(10, int(width / LETTER)))


@dataclass(frozen=True)
class Grid:
    """Where the parts of a figure of panels are, in inches.

    Attributes:
        figure: with its title, detail and the panels' names written.
        boxes: left, bottom, width and height of each panel.
        bar: foot of the upright colour bar.
        bar_length: its length.
    """

    figure: Figure
    boxes: tuple[tuple[float, float, float, float], ...]
    bar: tuple[float, float]
    bar_length: float


def arrange_panels(
    count: int, aspect: float, max_columns: int, max_height: float, max_panel_width: float = WIDTH, gap: float = GAP
) -> tuple[int, tuple[float, float]]:
    """(columns, (width, height) of a panel): in few rows, unless more rows make the panels clearly larger.

    Args:
        count: panels.
        aspect: their width over their height.
        max_columns: in a row.
        max_height: inches of all rows with the panels' names.
        max_panel_width: inches of one panel.
        gap: inches between panels.
    """
    layout = 0, (0.0, 0.0)
    for rows in range(ceil(count / max_columns), count + 1):
        columns = ceil(count / rows)
        if count < 5 and count % columns:  # few panels leave no gap
            continue
        across = min(max_panel_width, (WIDTH - 2 * MARGIN - BAR) / columns - gap)
        width = min(across, max(0.1, (max_height + 0.34) / rows - 0.34 - 0.01) * aspect)
        if width > 1.15 * layout[1][0]:
            layout = columns, (width, width / aspect)
    return layout


def grid_width(
    names: Sequence[str], columns: int, panel: tuple[float, float], least: float = 0.0, gap: float = GAP
) -> float:
    """Width of :func:`panel_grid`'s figure."""
    return max(2 * MARGIN + columns * (_cell(names, panel) + gap) - gap + BAR, least)


def panel_grid(
    names: Sequence[str],
    columns: int,
    panel: tuple[float, float],
    *,
    title: str,
    detail: str = "",
    below: float = 0.0,
    least: float = 0.0,
    gap: float = GAP,
) -> Grid:
    """An empty figure for panels in rows, a colour bar to their right, and ``below`` inches for words under them."""
    width = grid_width(names, columns, panel, least, gap)
    lines = [line for part in detail.split("\n") for line in wrap_text(part, SMALL, width - 2 * MARGIN)]
    rows, step = ceil(len(names) / columns), snap_to_pixels(panel[1]) + 0.34
    top = 0.33 + 0.04 + LINE * len(lines) + 0.32
    length = min(2.4, max(1.2, rows * step - 0.34)) - 0.04
    height = snap_to_pixels(top + max(rows * step - 0.34, length + 0.04) + below + MARGIN)
    figure = new_figure(width, height)
    add_text(figure, MARGIN, height - 0.33, fit_title(title, width - 2 * MARGIN), fontsize=TITLE, weight="bold")
    for index, line in enumerate(lines):
        add_text(figure, MARGIN, height - 0.53 - LINE * index, line, fontsize=SMALL, color=GREY)
    boxes = []
    for index, name in enumerate(names):
        left = snap_to_pixels(MARGIN + index % columns * (_cell(names, panel) + gap))
        upper = snap_to_pixels(height - top - index // columns * step)
        add_text(figure, left, upper + 0.07, name, fontsize=SMALL, color=GREY)
        boxes.append((left, upper - snap_to_pixels(panel[1]), snap_to_pixels(panel[0]), snap_to_pixels(panel[1])))
    bar = (MARGIN + columns * (_cell(names, panel) + gap) - gap + GAP + 0.06, height - top - length - 0.04)
    return Grid(figure, tuple(boxes), bar, length)


def _cell(names: Sequence[str], panel: tuple[float, float]) -> float:
    return max(snap_to_pixels(panel[0]), text_size(names, SMALL)[0])


def snap_to_pixels(inches: float) -> float:
    """A length rounded to whole pixels of the file, one at least, so that drawings are not resampled."""
    return max(1, round(inches * DPI)) / DPI


def contrast_colour(colour: tuple[float, float, float, float]) -> str:
    """White or black, whichever has more contrast on a colour (WCAG 2.2: relative luminance, contrast ratio)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour[:3]]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "white" if 1.05 / (luminance + 0.05) > (luminance + 0.05) / 0.05 else "black"
