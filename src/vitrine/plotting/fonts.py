"""Texts of figures in every script: fonts of the system for characters that the figures' own font lacks.

The figures' own font comes with matplotlib and has Latin, Greek, Cyrillic, Hebrew, Arabic and many signs. For others,
Chinese, Japanese, Korean or emoji for example, the system's fonts are looked through, once and when such a text comes.
What none of them has is drawn as a box. Text from right to left is set by matplotlib, from version 3.11 on with the
shapes and the order of its script, before that in the order in which it is stored.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.text import Text

from vitrine.printable import printable_words

OWN_FONT = "DejaVu Sans"  # comes with matplotlib: the same letters on every machine

_UNFIT = ("last resort", "color emoji")  # boxes for all characters; bitmaps, which cannot be drawn at any size
_FIRST = ("sans cjk", "sans")  # of several fonts that have a character


@contextmanager
def any_script(*texts: Text | Figure) -> Iterator[None]:
    """Within the ``with`` block these texts, or all texts of a figure, can be measured and drawn without a warning."""
    for each in texts:
        for text in each.findobj(Text):
            _prepare(text)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph \d+ .*missing from", UserWarning)
        warnings.filterwarnings("ignore", "Matplotlib currently does not support .* natively", UserWarning)  # 3.10
        yield


def fallback_fonts(words: str) -> tuple[str, ...]:
    """Families of the system that have characters of a text which the figures' own font lacks, in the order of need."""
    if words.isascii():
        return ()
    families = (_family_with(character) for character in dict.fromkeys(words) if not character.isspace())
    return tuple(dict.fromkeys(family for family in families if family))


def forget_fonts() -> None:
    """Look through the system's fonts anew when one is needed next: some were added or removed."""
    _family_with.cache_clear()
    _candidates.cache_clear()


def _prepare(text: Text) -> None:
    words = text.get_text()
    if words != (words_to_draw := printable_words(words)):
        text.set_text(words_to_draw)
    if families := fallback_fonts(words_to_draw):
        text.set_fontfamily([*text.get_fontfamily(), *families])


@lru_cache(maxsize=8192)
def _family_with(character: str) -> str | None:
    """The family that draws a character in place of the own font; None where that has it, or no font does."""
    code = ord(character)
    if code in _characters(font_manager.findfont(OWN_FONT), 0):
        return None
    for name, file, index in _candidates():
        if code in _characters(file, index):
            return name
    return None


@lru_cache(maxsize=1)
def _candidates() -> tuple[tuple[str, str, int], ...]:
    """(family, file, number in the file) of the system's upright fonts, the likeliest first."""
    entries = [
        (entry.name, entry.fname, int(getattr(entry, "index", 0)))  # collections have several; from matplotlib 3.11 on
        for entry in font_manager.fontManager.ttflist
        if entry.style == "normal" and not any(word in entry.name.lower() for word in _UNFIT)
    ]

    def rank(entry: tuple[str, str, int]) -> tuple[int, str, str]:
        name = entry[0].lower()
        return next((place for place, word in enumerate(_FIRST) if word in name), len(_FIRST)), name, entry[1]

    regular = {name: (name, file, index) for name, file, index in sorted(entries, key=rank, reverse=True)}
    return tuple(sorted(regular.values(), key=rank))


@lru_cache(maxsize=1024)
def _characters(file: str, index: int) -> frozenset[int]:
    """Code points that a font has; none where it cannot be read."""
    try:
        path = font_manager.FontPath(file, index) if index else file
        return frozenset(font_manager.get_font(path).get_charmap())
    except (OSError, RuntimeError, ValueError, AttributeError):
        return frozenset()
