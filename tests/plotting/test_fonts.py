"""Figures in every script: fonts of the system where one has the characters, else a box, and never a warning."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image
from support.figures import blob, photo, place_grid

from vitrine.explain.figures.map import MapPicture, map_figure, shared_scale
from vitrine.plotting.colormap import Scale
from vitrine.plotting.fonts import fallback_fonts, forget_fonts
from vitrine.plotting.style import add_text, figure_bytes, figure_style, fit_title, new_figure, text_size, wrap_text

TEXTS = {
    "Latin": "cat",
    "Chinese": "橘猫在睡觉",
    "Japanese": "ねこ カタカナ",
    "Korean": "고양이",
    "emoji": "😀🐈‍⬛🇯🇵👩🏽‍🚀",
    "Hebrew": "חתול ג'ינג'י",
    "Arabic": "قطة برتقالية",
    "Persian": "گربه‌ها",
    "Thai": "แมว",
    "Devanagari": "बिल्ली",
    "mixed directions": "חתול cat 3 قطة",
    "an override": "a\u202egnp.exe",
    "escape": "a\x1b[2Jb\x07",
    "C1": "a\x9b31m",
    "null": "a\x00b",
    "lone surrogate": "a\udcffb\ud800",
    "non-characters": "a\ufffe\uffff\U0001ffffb",
    "line break": "a\nb\r\x0b\x0c\u2028c",
    "private use": "\ue000\U000f0000",
    "XML": "</text>]]><!-- -- --><script>&amp;",
    "mathematics": "$\\frac$ _^{}",
    "nothing": "",
    "combining": "e\u0301\u0301\u0301",
}


def draw(words: str, kind: str) -> bytes:
    with figure_style():
        figure = new_figure(4, 1)
        add_text(figure, 0.1, 0.4, fit_title(words, 3.5), fontsize=12, weight="bold")
        for number, line in enumerate(wrap_text(words, 8, 3.0)):
            add_text(figure, 0.1, 0.1 * number, line, fontsize=8)
        axes = figure.add_axes((0.7, 0.3, 0.2, 0.5))
        axes.set_title(words)
        axes.set_xlabel(words)
        axes.text(0, 0, words)
    return figure_bytes(figure, kind, {"vitrine:picture": "x"})


@pytest.mark.parametrize("words", TEXTS.values(), ids=TEXTS)
@pytest.mark.parametrize("kind", ["png", "svg"])
def test_any_text_is_drawn_without_a_warning_into_a_well_formed_file(words: str, kind: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        content = draw(words, kind)
    assert content == draw(words, kind), "the same figure, the same bytes"
    if kind == "svg":
        ElementTree.fromstring(content)
    else:
        assert Image.open(io.BytesIO(content)).size == (800, 200)


@pytest.mark.parametrize("words", TEXTS.values(), ids=TEXTS)
def test_a_figure_of_a_map_with_any_name(words: str) -> None:
    picture = MapPicture(
        photo_HWC=photo(60, 40),
        map_RC=blob(4, 4),
        placement=place_grid(60, 40, 4, 4),
        method=words,
        name=words,
        predicted=words,
        probability=0.5,
        true=f"{words} too",
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        content = figure_bytes(map_figure(picture, Scale("uniform", shared_scale([picture.map_RC]))), "svg", {})
    ElementTree.fromstring(content)


@pytest.fixture
def made_font(tmp_path: Path) -> Iterator[str]:
    """A font of the system that has two characters, each a full square, and that no machine has."""
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder([".notdef", "square"])
    builder.setupCharacterMap({ord("猫"): "square", ord("犬"): "square"})
    pen = TTGlyphPen(None)
    pen.moveTo((0, 0))
    for corner in ((0, 1000), (1000, 1000), (1000, 0)):
        pen.lineTo(corner)
    pen.closePath()
    builder.setupGlyf({".notdef": TTGlyphPen(None).glyph(), "square": pen.glyph()})
    builder.setupHorizontalMetrics({".notdef": (1000, 0), "square": (1000, 0)})
    builder.setupHorizontalHeader(ascent=1000, descent=0)
    builder.setupNameTable({"familyName": "Vitrine Squares", "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    path = tmp_path / "squares.ttf"
    builder.save(path)
    before = list(font_manager.fontManager.ttflist)
    font_manager.fontManager.addfont(path)
    forget_fonts()
    yield "Vitrine Squares"
    font_manager.fontManager.ttflist[:] = before
    forget_fonts()


def test_a_font_that_has_the_characters_is_used(made_font: str) -> None:
    if any("CJK" in entry.name for entry in font_manager.fontManager.ttflist):
        pytest.skip("a font of this system has these characters already")
    assert fallback_fonts("猫 and 犬") == (made_font,)
    assert fallback_fonts("cat") == fallback_fonts("été") == ()
    assert text_size(["猫"], 10)[0] == pytest.approx(10 / 72, abs=0.03), "a square of ten points"

    def dark(words: str) -> float:
        with figure_style():
            figure = new_figure(1, 1)
            figure.text(0.1, 0.2, words, fontsize=40, color="black")
            return float((np.asarray(Image.open(io.BytesIO(figure_bytes(figure, "png", {}))))[..., 0] < 128).mean())

    assert dark("猫") == pytest.approx((40 / 72) ** 2, abs=0.02), "the square, and no box in its place"
    assert dark("猫") > 2 * dark("鼠")


def test_without_such_a_font_there_is_a_box() -> None:
    """Nothing is dropped without a trace: a character that no font has still takes its place."""
    assert fallback_fonts("\U000f0000") == ()
    assert text_size(["a\U000f0000b"], 10)[0] > text_size(["ab"], 10)[0]


def test_fonts_are_looked_for_when_a_text_needs_them_and_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from vitrine.plotting import fonts

    calls: list[str] = []
    original = fonts._candidates.__wrapped__  # type: ignore[attr-defined]
    forget_fonts()
    with monkeypatch.context() as patch:
        patch.setattr(fonts, "_candidates", lambda: calls.append("search") or original())
        assert fallback_fonts("cat, été, Кот, γάτα, חתול, قطة") == ()
        assert not calls
        for _ in range(3):
            fallback_fonts("鼠")
        assert len(calls) == 1
    forget_fonts()


def test_text_from_right_to_left_begins_at_the_right() -> None:
    """matplotlib shapes it from 3.11 on: the first letter stands at the right end."""
    if tuple(map(int, __import__("matplotlib").__version__.split(".")[:2])) < (3, 11):
        pytest.skip("an older matplotlib keeps the order in which text is stored")

    def columns(words: str) -> np.ndarray:
        with figure_style():
            figure: Figure = new_figure(3, 1)
            text: Text = figure.text(0.1, 0.3, words, fontsize=40, color="black")
            assert text is not None
            picture = np.asarray(Image.open(io.BytesIO(figure_bytes(figure, "png", {}))))[..., 0] < 128
        return picture[:, np.flatnonzero(picture.any(0))[0] : np.flatnonzero(picture.any(0))[-1] + 1]

    first, both = columns("א"), columns("אב")
    assert (both[:, -first.shape[1] :] == first).mean() > 0.99 > (both[:, : first.shape[1]] == first).mean()
